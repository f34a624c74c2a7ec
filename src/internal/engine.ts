/** The engine: starts runs, lets them live here, takes over what dead workers left, and tells those who wait. */
import { hostname } from "node:os"
import type { NoSuchElementException } from "effect/Cause"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { StoreError } from "../Errors.js"
import { NothingToResume, WorkflowIdConflict, WorkflowNotFound } from "../Errors.js"
import type { RunInsert, RunRow, RunUpdate, SharedClient, Signal, WorkerInfo } from "../StepStore.js"
import { StepStore } from "../StepStore.js"
import type { Ending, Household } from "./activeRun.js"
import { endingOf } from "./activeRun.js"
import { Attending } from "./attendant.js"
import { Awaited } from "./awaited.js"
import { FaultPoints } from "./faultPoints.js"
import { readAll, readHistory } from "./history.js"
import { Housekeeping } from "./housekeeping.js"
import { RecordsToo } from "./interest.js"
import { emptyUpdate, Journal } from "./journal.js"
import type { Limits } from "./limits.js"
import { freshId } from "./names.js"
import { Pulse } from "./pulse.js"
import { endOf, pendingPatch } from "./residency.js"
import { outlineOf, reopenable } from "./resume.js"
import { freshIdentity, quietly, Roster } from "./roster.js"
import type { Engine, Registration, RunEnd, StartRequest } from "./run.js"
import { turn } from "./scheduler.js"
import { makeScript } from "./script.js"
import { wholeMillis } from "./wholeMillis.js"

export interface Settings {
  /** How long a replay waits for the body to ask for the next recorded outcome, in milliseconds. */
  readonly unrequestedAfter: number
  /** How long a body may wait for what nothing recorded can bring, in milliseconds. */
  readonly deadlockAfter: number
  /** How often the engine looks for what it was not told of, in milliseconds. */
  readonly slowPoll: number
  /** How long a run rests before it leaves memory, in milliseconds. */
  readonly parkGrace: number
  /** How often the engine shows that it lives, in milliseconds. */
  readonly heartbeat: number
  /** After how many of its own beats without one of theirs the engine takes another worker for dead. */
  readonly missedBeats: number
  /** Whether there are polls and beats. */
  readonly housekeeping: boolean
  readonly maxResidentRuns: number
  /** How long the steps in flight have when the engine closes, in milliseconds. */
  readonly shutdownGrace: number
  readonly limits: Limits
}

/** A run whose row is gone has been taken away. */
const missing = (cause: Cause.Cause<StoreError | NoSuchElementException>): Ending =>
  Cause.isFailType(cause) && cause.error._tag === "NoSuchElementException"
    ? { _tag: "Fenced" }
    : endingOf(cause as Cause.Cause<StoreError>)

export const make = (settings: Settings): Effect.Effect<Engine["Type"], StoreError, StepStore | Scope.Scope> =>
  Effect.gen(function*() {
    const store = yield* StepStore
    const faults = yield* FaultPoints
    const attendant = yield* Attending
    const clock = attendant.clock(yield* Effect.clock)
    const fork = Runtime.runFork(yield* Effect.runtime<never>())
    const worker = yield* freshId
    const now = () => wholeMillis(clock)
    const info: WorkerInfo = { id: worker, host: hostname(), pid: process.pid, startedAt: now() }
    yield* store.register(info)
    const journal = yield* Journal.make(store, faults)
    const awaited = new Awaited(store.ended, fork)
    const household: Household = {
      journal,
      namespace: store.namespace,
      sharedClient: store.sharedClient,
      clock,
      attendant,
      faults,
      limits: settings.limits,
      unrequestedAfter: settings.unrequestedAfter,
      deadlockAfter: settings.deadlockAfter,
      fork,
      after: (millis, callback) => {
        const fiber = fork(Effect.zipRight(Effect.sleep(millis), Effect.sync(callback)))
        return () => fiber.unsafeInterruptAsFork(FiberId.none)
      },
      readAfter: (run, position, then) => {
        fork(Effect.matchCause(readHistory(store, run.identity, position), {
          onFailure: (cause) => run.finish(endingOf(cause)),
          onSuccess: then
        }))
      },
      parkGrace: settings.parkGrace,
      crowded: () => roster.crowded,
      readMail: (run, wanted) => {
        fork(Effect.matchCause(Effect.flatten(store.mail(run.workflowId, wanted)), {
          onFailure: (cause) => run.finish(missing(cause)),
          onSuccess: (mail) => {
            run.mailbox.received(mail)
            if (mail.cancelAt !== null) {
              run.cancellation.ask("cancelled")
            }
          }
        }))
      },
      readHistory: (run, after) => readHistory(store, run, after),
      awaited,
      parked: (wakeAt) => roster.wakeAt(wakeAt)
    }
    const pulse = new Pulse(store, info, settings.missedBeats)
    const { maxResidentRuns, shutdownGrace } = settings
    const roster = new Roster({ worker, store, pulse, household, clock, fork, maxResidentRuns, shutdownGrace })
    yield* Effect.addFinalizer(() => roster.close)

    // -- keeping house

    /** Lets the runs that live here look into what may have been sent to them. */
    const lookAround = Effect.suspend(() =>
      roster.residents.size === 0
        ? Effect.void
        : Effect.map(store.inboxes([...roster.residents.keys()]), (inboxes) => {
          for (const { version, workflowId } of inboxes) {
            roster.residents.get(workflowId)?.look(version)
          }
        })
    )

    const recover = quietly(roster.recover).pipe(
      Effect.zipRight(quietly(Effect.flatMap(roster.doubts, Effect.forEach(quietly, { discard: true })))),
      Effect.zipRight(quietly(lookAround))
    )

    /** Shows that this worker lives, and takes over from those that do not show it. */
    const beat = quietly(Effect.flatMap(pulse.beat, (hung) =>
      hung.length === 0
        ? Effect.void
        : Effect.zipRight(roster.claimAll(hung), Effect.sync(() => roster.watchers.notify(null)))))

    yield* store.changes.pipe(
      Stream.runForEach((change) => {
        if (change === null) {
          roster.watchers.notify(null)
          roster.tellArriving()
          return Effect.zipRight(quietly(roster.claimAll([])), quietly(lookAround))
        }
        roster.watchers.notify(change.runs)
        roster.tell(change.mail)
        awaited.changed(change.runs)
        const strangers = roster.strangers(change.runs)
        roster.heard()
        // A run that was created here moves in within this turn, and looks until then as if nobody drove it.
        return strangers.length === 0 ?
          Effect.void :
          Effect.flatMap(
            turn,
            () => roster.strangers(strangers).length === 0 ? Effect.void : quietly(roster.claimAll([]))
          )
      }),
      Effect.provideService(Housekeeping, settings.housekeeping),
      Effect.provideService(RecordsToo, false),
      Effect.withTracerEnabled(false),
      Effect.retry(Schedule.spaced(settings.slowPoll)),
      Effect.forkScoped
    )
    if (settings.housekeeping) {
      yield* recover.pipe(
        Effect.zipRight(Effect.sync(() => roster.watchers.notify(null))),
        Effect.delay(settings.slowPoll),
        Effect.forever,
        Effect.forkScoped
      )
      yield* beat.pipe(Effect.delay(settings.heartbeat), Effect.forever, Effect.forkScoped)
    }

    // -- starting

    const newRun = (request: StartRequest, owner: string | null, createdAt: number): RunInsert => ({
      name: request.name,
      version: request.version,
      status: owner === null ? "PENDING" : "RUNNING",
      owner,
      parent: null,
      deadlineAt: request.deadlineAt,
      trace: request.trace,
      fingerprint: request.fingerprint,
      payload: request.payload,
      createdAt
    })

    /** Answers the run that is there already, if it is the one that was asked for. */
    const attached = (request: StartRequest, row: RunRow): Effect.Effect<RunRow, WorkflowIdConflict> =>
      row.name === request.name && row.fingerprint === request.fingerprint
        ? Effect.succeed(row)
        : Effect.fail(
          new WorkflowIdConflict({ workflowId: row.workflowId, existing: row.name, requested: request.name })
        )

    /** Creates a run; answers the row that was there already. */
    const insert = (
      request: StartRequest,
      owned: boolean,
      createdAt: number
    ): Effect.Effect<RunRow | null, StoreError> =>
      Effect.matchCauseEffect(
        journal.write({
          ...emptyUpdate({ workflowId: request.workflowId, generation: 0, epoch: owned ? 1 : 0 }),
          insert: newRun(request, owned ? worker : null, createdAt)
        }),
        {
          onFailure: (cause) => {
            if (owned) {
              roster.doubt(request.workflowId)
            }
            return Effect.failCause(cause)
          },
          onSuccess: (answer) => answer._tag === "Exists" ? answer.run : Effect.succeed(null)
        }
      )

    const start = (request: StartRequest) =>
      Effect.suspend(() => {
        const { name, payload, workflowId } = request
        const createdAt = now()
        return roster.arrive(
          workflowId,
          roster.create(name, (owned) =>
            Effect.flatMap(insert(request, owned, createdAt), (row) =>
              row === null && owned
                ? Effect.as(roster.inhabitDefined(freshIdentity(request, createdAt, true), true, payload), row)
                : Effect.succeed(row)))
        ).pipe(
          Effect.flatMap((row): Effect.Effect<string, WorkflowIdConflict | StoreError> =>
            row === null
              ? Effect.succeed(workflowId)
              : Effect.as(Effect.flatMap(attached(request, row), (row) => roster.adopt(row)), workflowId)
          )
        )
      }).pipe(Effect.uninterruptible)

    // -- asking

    const rowOf = (workflowId: string, name: string): Effect.Effect<RunRow, WorkflowNotFound | StoreError> =>
      Effect.flatMap(store.run(workflowId), (row) =>
        Option.isSome(row) && row.value.name === name
          ? Effect.succeed(row.value)
          : Effect.fail(new WorkflowNotFound({ workflowId })))

    const warned = new Set<string>()

    const warnUnregistered = (name: string) =>
      Effect.suspend(() => {
        if (roster.registered.has(name) || warned.has(name)) {
          return Effect.void
        }
        warned.add(name)
        return Effect.logWarning(
          `Waiting for a run of workflow ${JSON.stringify(name)}, which no layer registers in this process: ` +
            "another process has to drive it"
        )
      })

    /** Waits for what is happening to a run that does not live here. */
    const awaitElsewhere = (
      workflowId: string,
      name: string
    ): Effect.Effect<RunEnd, WorkflowNotFound | StoreError> =>
      roster.watchers.watching(workflowId, (happened) =>
        roster.whileOpen.pipe(
          Effect.zipRight(rowOf(workflowId, name)),
          Effect.flatMap((row) =>
            Option.match(endOf(row), {
              onSome: (end) => Effect.succeed(Effect.succeed(end)),
              onNone: () =>
                Effect.as(
                  roster.isElsewhere(row) ? Effect.zipRight(warnUnregistered(name), happened) : roster.claimOne(row),
                  awaitEnd(workflowId, name)
                )
            })
          )
        ))

    const awaitEnd = (workflowId: string, name: string): Effect.Effect<RunEnd, WorkflowNotFound | StoreError> =>
      Effect.suspend(() => {
        const residency = roster.residents.get(workflowId)
        return residency === undefined || residency.identity.name !== name
          ? awaitElsewhere(workflowId, name)
          : Effect.flatMap(
            Deferred.await(residency.ended),
            Option.match({
              onNone: () => awaitElsewhere(workflowId, name),
              onSome: Effect.succeed
            })
          )
      })

    // -- resuming

    const reopen = (row: RunRow, keys: ReadonlyArray<string>): Effect.Effect<boolean, StoreError> =>
      Effect.as(journal.write({ ...emptyUpdate(row), patch: pendingPatch(now()), reopen: keys }), true).pipe(
        Effect.catchTag("StoreRejected", (error) =>
          Effect.filterOrFail(
            Effect.map(store.run(row.workflowId), Option.exists(({ status }) => status !== row.status)),
            // Somebody else has done it in the meantime.
            (done) => done,
            () => error
          ))
      )

    /** Makes a run that has ended badly claimable again, if it can be. */
    const revive = (row: RunRow): Effect.Effect<boolean, StoreError> => {
      switch (row.status) {
        case "STOPPED":
          return reopen(row, [])
        case "FAILED":
          return Effect.flatMap(
            Effect.map(readAll(store, row, outlineOf), reopenable),
            (keys) => keys.length === 0 ? Effect.succeed(false) : reopen(row, keys)
          )
        default:
          return Effect.succeed(false)
      }
    }

    const nothingToResume = (row: RunRow): string | null => {
      switch (row.status) {
        case "CANCELLED":
          return "it was cancelled, and what it had done has been undone. Start a new run, or fork this one from a step"
        case "FAILED":
          return "each failed step of it was followed by other operations, or has been undone, so the body had dealt with " +
            "it, and none may run again. Start a new run, or fork this one from a step"
        default:
          return null
      }
    }

    const resume = Effect.fnUntraced(function*(workflowId: string, name: string) {
      const row = yield* rowOf(workflowId, name)
      const residency = roster.residents.get(workflowId)
      if (residency !== undefined && residency.identity.epoch === row.epoch && Option.isSome(endOf(row))) {
        // Its end was written and denied, and it waits here to write that again, which would be refused together with what follows, or
        // undo it.
        yield* residency.leave
      }
      const why = nothingToResume(row)
      if (!(yield* revive(row)) && why !== null) {
        return yield* new NothingToResume({ workflowId, why })
      }
      if (roster.registered.has(name) && !roster.residents.has(workflowId)) {
        yield* roster.claimOne(row)
      }
    })

    // -- registering

    const register = (registration: Registration) =>
      Effect.flatMap(Effect.runtime<never>(), (captured) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            const { name } = registration
            if (roster.registered.has(name)) {
              return Effect.dieMessage(
                `The workflow ${JSON.stringify(name)} is registered twice in one engine; provide its layer once`
              )
            }
            roster.registered.set(name, { registration, runtime: captured as Runtime.Runtime<unknown> })
            fork(recover)
            return Effect.void
          }),
          () =>
            Effect.suspend(() => {
              roster.registered.delete(registration.name)
              return roster.leave((residency) => residency.identity.name === registration.name)
            })
        ))

    // -- inside a transaction of the application

    const shared = store.sharedClient

    /** A store that shares the application's client would wait for the caller's transaction, which waits for the store. */
    const apart = <A, E>(called: string, self: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      shared === null ? self : Effect.if(shared.isHeld, {
        onTrue: () =>
          Effect.dieMessage(
            `${called} was called inside a transaction of the SqlClient through which ${store.target} is reached ` +
              "(layerClient): each would wait for the other. Call start and Signal.send inside the transaction, and the others after it"
          ),
        onFalse: () => self
      })

    /** Creates a run with the caller's transaction. Nobody owns it: who notices it after the commit claims it. */
    const join = (request: StartRequest, client: SharedClient) =>
      Effect.flatMap(
        client.insert({ workflowId: request.workflowId, generation: 0, epoch: 0 }, newRun(request, null, now())),
        (answer) => answer._tag === "Exists" ? Effect.asSome(answer.run) : Effect.succeedNone
      ).pipe(
        Effect.flatMap(Option.match({
          onNone: () => Effect.void,
          // It may be an orphan, which cannot be claimed before the transaction has ended.
          onSome: (row) => Effect.map(attached(request, row), () => void fork(quietly(roster.adopt(row))))
        })),
        Effect.as(request.workflowId),
        Effect.uninterruptible
      )

    // -- sending

    /** An update from outside, to a run that may live here, elsewhere, or nowhere. */
    const send = (update: Partial<RunUpdate> & Pick<RunUpdate, "workflowId">) =>
      journal.write({ ...emptyUpdate({ workflowId: update.workflowId, generation: 0, epoch: null }), ...update })

    const cancel = (workflowId: string, name: string) =>
      Effect.zipRight(rowOf(workflowId, name), Effect.asVoid(send({ workflowId, cancelAt: now() })))

    const sendSignal = (workflowId: string, signal: Signal) =>
      Effect.map(
        shared === null
          ? send({ workflowId, signals: [signal] })
          : Effect.if(shared.isHeld, {
            onTrue: () => shared.send(workflowId, signal),
            onFalse: () => send({ workflowId, signals: [signal] })
          }),
        (answer) => answer._tag
      )

    const script = makeScript({
      roster,
      store,
      insert: (request, createdAt) => insert(request, true, createdAt),
      now,
      revive
    })

    return {
      register,
      start: (request) =>
        shared === null
          ? start(request)
          : Effect.if(shared.isHeld, { onTrue: () => join(request, shared), onFalse: () => start(request) }),
      await: (workflowId, name) => apart("await", awaitEnd(workflowId, name)),
      poll: (workflowId, name) =>
        apart("poll", Effect.map(store.run(workflowId), Option.filter((row) => row.name === name))),
      resume: (workflowId, name) => apart("resume", resume(workflowId, name)),
      cancel: (workflowId, name) => apart("cancel", cancel(workflowId, name)),
      send: sendSignal,
      token: (token) => apart("Signal.answer", store.token(token)),
      script: (request) => apart("Workflow.run", script(request)),
      maxValueBytes: settings.limits.value,
      attendant
    }
  })
