/** The engine: starts runs, drives them, takes over what dead workers left, and tells those who wait. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { hostname } from "node:os"
import type { StoreError } from "../Errors.js"
import { NothingToResume, WorkflowIdConflict, WorkflowNotFound } from "../Errors.js"
import type { Claimed, RunRow, RunUpdate } from "../StepStore.js"
import { StepStore } from "../StepStore.js"
import type { Household, RunIdentity } from "./activeRun.js"
import { endingOf } from "./activeRun.js"
import type { Program } from "./body.js"
import { ofDefinition, ofScript } from "./body.js"
import { asReason, pageSize, pendingPatch, readAll, readHistory, Residency, stoppedPatch } from "./residency.js"
import { FaultPoints } from "./faultPoints.js"
import { emptyUpdate, Journal } from "./journal.js"
import type { Limits } from "./limits.js"
import { freshId } from "./names.js"
import { reopenable } from "./resume.js"
import type { Engine, Registration, RunEnd, ScriptRequest, StartRequest } from "./run.js"
import { Watchers } from "./watchers.js"

export interface Settings {
  /** How long a replay waits for the body to ask for the next recorded outcome, in milliseconds. */
  readonly unrequestedAfter: number
  /** How long a body may wait for what nothing recorded can bring, in milliseconds. */
  readonly deadlockAfter: number
  /** How often the engine looks for what it was not told of, in milliseconds. */
  readonly slowPoll: number
  readonly limits: Limits
}

/** The name of runs without a definition. */
const scriptName = "~run"

/** Runs taken over in one transaction. */
const claimSize = 100

interface Registered {
  readonly registration: Registration
  readonly runtime: Runtime.Runtime<unknown>
}

/** How a run has ended or stopped; none if it goes on. */
const endOf = (row: RunRow): Option.Option<RunEnd> => {
  switch (row.status) {
    case "COMPLETED":
    case "FAILED":
      return Option.some({ status: row.status, outcome: row.outcome })
    case "STOPPED":
      return Option.map(Option.fromNullable(row.stopReason), (reason) => ({ status: "STOPPED", reason }))
    default:
      return Option.none()
  }
}

export const make = (settings: Settings): Effect.Effect<Engine["Type"], StoreError, StepStore | Scope.Scope> =>
  Effect.gen(function*() {
    const store = yield* StepStore
    const faults = yield* FaultPoints
    const clock = yield* Effect.clock
    const runtime = yield* Effect.runtime<never>()
    const fork = Runtime.runFork(runtime)
    const worker = yield* freshId
    yield* store.register({ id: worker, host: hostname(), pid: process.pid, startedAt: clock.unsafeCurrentTimeMillis() })
    const journal = yield* Journal.make(store, faults)

    const registered = new Map<string, Registered>()
    const residents = new Map<string, Residency>()
    const watchers = new Watchers()
    const warned = new Set<string>()

    const household: Household = {
      journal,
      clock,
      faults,
      limits: settings.limits,
      unrequestedAfter: settings.unrequestedAfter,
      deadlockAfter: settings.deadlockAfter,
      after: (millis, callback) => {
        const fiber = fork(Effect.zipRight(Effect.sleep(millis), Effect.sync(callback)))
        return () => fiber.unsafeInterruptAsFork(FiberId.none)
      },
      loadAfter: (run, position) => {
        fork(Effect.matchCause(readHistory(store, run.identity, position), {
          onFailure: (cause) => run.finish(endingOf(cause)),
          onSuccess: (rows) => run.loaded(rows, rows.length === pageSize)
        }))
      }
    }

    // -- living

    /** Lets a run live here until it ends, stops or leaves. */
    const inhabit = (identity: RunIdentity, fresh: boolean, program: Program): Residency => {
      const residency = new Residency(identity, store, household)
      residents.set(identity.workflowId, residency)
      fork(residency.live(fresh, program).pipe(
        Effect.ensuring(Effect.sync(() => {
          residents.delete(identity.workflowId)
          watchers.notify([identity.workflowId])
        }))
      ))
      return residency
    }

    const identityOf = (row: RunRow): RunIdentity => ({
      workflowId: row.workflowId,
      name: row.name,
      generation: row.generation,
      epoch: row.epoch
    })

    /** The row of a claimed run is damaged: that run stops, and the others go on. */
    const stopDamaged = (claimed: Claimed, error: StoreError) =>
      store.commit([{
        ...emptyUpdate(claimed),
        patch: stoppedPatch(clock.unsafeCurrentTimeMillis(), asReason(error))
      }])

    const admit = (claimed: Claimed): Effect.Effect<unknown, StoreError> =>
      Either.match(claimed.run, {
        onLeft: (error) => stopDamaged(claimed, error),
        onRight: (row) =>
          Effect.sync(() => {
            const mine = registered.get(row.name)
            if (mine !== undefined) {
              inhabit(identityOf(row), false, ofDefinition(mine.registration, row.payload, mine.runtime))
            }
          })
      })

    // -- claiming

    /** Takes over what nobody or a dead worker owns, of the workflows registered here. */
    const claimAll = (names: ReadonlyArray<string>, dead: ReadonlyArray<string>): Effect.Effect<void, StoreError> =>
      store.claim({
        worker,
        names,
        workflowId: null,
        dead,
        limit: claimSize,
        at: clock.unsafeCurrentTimeMillis()
      }).pipe(
        Effect.tap(Effect.forEach(admit, { discard: true })),
        Effect.flatMap((claimed) => claimed.length === claimSize ? claimAll(names, dead) : Effect.void)
      )

    const recover = Effect.suspend(() =>
      registered.size === 0
        ? Effect.void
        : Effect.flatMap(store.dead, (dead) => claimAll([...registered.keys()], dead))
    )

    const pickUp = Effect.suspend(() => registered.size === 0 ? Effect.void : claimAll([...registered.keys()], []))

    const claimOne = (workflowId: string, dead: ReadonlyArray<string>) =>
      store.claim({ worker, names: null, workflowId, dead, limit: 1, at: clock.unsafeCurrentTimeMillis() })

    /** What fails now for a reason that passes is tried again at the next occasion. */
    const quietly = (self: Effect.Effect<void, StoreError>) =>
      Effect.withTracerEnabled(
        Effect.catchAllCause(self, (cause) => Effect.logDebug("the store could not be asked for runs", cause)),
        false
      )

    yield* store.changes.pipe(
      Stream.runForEach((change) => {
        watchers.notify(change)
        return change !== null && change.every((workflowId) => residents.has(workflowId)) ? Effect.void : quietly(pickUp)
      }),
      Effect.withTracerEnabled(false),
      Effect.retry(Schedule.spaced(settings.slowPoll)),
      Effect.forkScoped
    )
    yield* quietly(recover).pipe(
      Effect.zipRight(Effect.sync(() => watchers.notify(null))),
      Effect.delay(settings.slowPoll),
      Effect.forever,
      Effect.forkScoped
    )

    yield* Effect.addFinalizer(() => leave(() => true))

    /** Gives up the runs chosen, for others to take. */
    const leave = (chosen: (residency: Residency) => boolean) =>
      Effect.forEach([...residents.values()].filter(chosen), (residency) => residency.leave, {
        concurrency: "unbounded",
        discard: true
      })

    // -- starting

    const insertOf = (request: StartRequest, owned: boolean, createdAt: number): RunUpdate => ({
      ...emptyUpdate({ workflowId: request.workflowId, generation: 0, epoch: owned ? 1 : 0 }),
      insert: {
        name: request.name,
        version: request.version,
        status: owned ? "RUNNING" : "PENDING",
        owner: owned ? worker : null,
        fingerprint: request.fingerprint,
        payload: request.payload,
        createdAt
      }
    })

    /** Inserts a run; answers the row that was there already. */
    const insert = (request: StartRequest, owned: boolean): Effect.Effect<RunRow | null, StoreError> =>
      Effect.map(
        journal.write(insertOf(request, owned, clock.unsafeCurrentTimeMillis())),
        (answer) => answer._tag === "Exists" ? answer.run : null
      )

    const conflict = (row: RunRow, request: StartRequest): Option.Option<WorkflowIdConflict> =>
      row.name === request.name && row.fingerprint === request.fingerprint
        ? Option.none()
        : Option.some(
          new WorkflowIdConflict({ workflowId: row.workflowId, existing: row.name, requested: request.name })
        )

    const start = Effect.fnUntraced(function*(request: StartRequest) {
      const mine = registered.get(request.name)
      const row = yield* insert(request, mine !== undefined)
      if (row !== null) {
        yield* Effect.flatMap(Effect.sync(() => conflict(row, request)), Option.match({
          onNone: () => Effect.void,
          onSome: Effect.fail
        }))
        return request.workflowId
      }
      if (mine !== undefined) {
        const identity = { workflowId: request.workflowId, name: request.name, generation: 0, epoch: 1 }
        inhabit(identity, true, ofDefinition(mine.registration, request.payload, mine.runtime))
      }
      return request.workflowId
    }, Effect.uninterruptible)

    // -- asking

    const rowOf = (workflowId: string, name: string): Effect.Effect<RunRow, WorkflowNotFound | StoreError> =>
      Effect.flatMap(store.run(workflowId), (row) =>
        Option.isSome(row) && row.value.name === name
          ? Effect.succeed(row.value)
          : Effect.fail(new WorkflowNotFound({ workflowId })))

    const warnUnregistered = (name: string) =>
      Effect.suspend(() => {
        if (registered.has(name) || warned.has(name) || name === scriptName) {
          return Effect.void
        }
        warned.add(name)
        return Effect.logWarning(
          `Waiting for a run of workflow ${JSON.stringify(name)}, which no layer registers in this process: another process has to drive it`
        )
      })

    /** Waits for what is happening to a run elsewhere. */
    const awaitElsewhere = (
      workflowId: string,
      name: string
    ): Effect.Effect<RunEnd, WorkflowNotFound | StoreError> =>
      Effect.suspend(() => {
        const watch = watchers.watch(workflowId)
        return Effect.flatMap(rowOf(workflowId, name), (row) =>
          Option.match(endOf(row), {
            onSome: Effect.succeed,
            onNone: () =>
              warnUnregistered(name).pipe(
                Effect.zipRight(watch.happened),
                Effect.zipRight(awaitEnd(workflowId, name))
              )
          })).pipe(Effect.ensuring(watch.close))
      })

    const awaitEnd = (workflowId: string, name: string): Effect.Effect<RunEnd, WorkflowNotFound | StoreError> =>
      Effect.suspend(() => {
        const residency = residents.get(workflowId)
        return residency === undefined || residency.identity.name !== name
          ? awaitElsewhere(workflowId, name)
          : Effect.flatMap(Deferred.await(residency.ended), Option.match({
            onNone: () => awaitElsewhere(workflowId, name),
            onSome: Effect.succeed
          }))
      })

    // -- resuming

    const reopen = (row: RunRow, keys: ReadonlyArray<string>) =>
      journal.write({
        ...emptyUpdate(row),
        patch: pendingPatch(clock.unsafeCurrentTimeMillis()),
        reopen: keys
      })

    /** Makes a run that has ended badly claimable again; answers whether it could be. */
    const revive = (row: RunRow): Effect.Effect<boolean, StoreError> => {
      switch (row.status) {
        case "STOPPED":
          return Effect.as(reopen(row, []), true)
        case "FAILED":
          return Effect.flatMap(Effect.map(readAll(store, identityOf(row)), reopenable), (keys) =>
            keys.length === 0 ? Effect.succeed(false) : Effect.as(reopen(row, keys), true))
        default:
          return Effect.succeed(false)
      }
    }

    /** Owners that cannot drive the run: dead workers, and this one, if it has lost the run without the store knowing. */
    const goneOwners = (row: RunRow) =>
      Effect.map(store.dead, (dead) => row.owner === worker ? [...dead, worker] : dead)

    const resume = Effect.fnUntraced(function*(workflowId: string, name: string) {
      if (residents.has(workflowId)) {
        return
      }
      const row = yield* rowOf(workflowId, name)
      const ended = row.status === "FAILED" || row.status === "CANCELLED"
      if (!(yield* revive(row)) && ended) {
        return yield* new NothingToResume({
          workflowId,
          why: row.status === "FAILED"
            ? "each failed step was followed by other operations, so the body had dealt with it, and none may run again. Start a new run"
            : "it was cancelled. Start a new run"
        })
      }
      if (registered.has(name)) {
        yield* Effect.flatMap(Effect.flatMap(goneOwners(row), (dead) => claimOne(workflowId, dead)), Effect.forEach(admit))
      }
    })

    // -- scripts

    /** Takes a script's run if nobody alive has it. */
    const takeScript = (row: RunRow): Effect.Effect<Option.Option<RunRow>, StoreError> =>
      Effect.flatMap(
        Effect.flatMap(goneOwners(row), (dead) => claimOne(row.workflowId, dead)),
        ([claimed]) =>
          claimed === undefined ? Effect.succeedNone : Effect.asSome(Either.match(claimed.run, {
            onLeft: (error) => Effect.zipRight(stopDamaged(claimed, error), Effect.fail(error)),
            onRight: Effect.succeed
          }))
      )

    type ScriptError = WorkflowIdConflict | StoreError

    const script = (request: ScriptRequest): Effect.Effect<RunEnd, ScriptError> =>
      Effect.flatMap(Effect.runtime<never>(), (caller) => {
        const program = ofScript(request.body, request.outcome, caller as Runtime.Runtime<unknown>)
        const start: StartRequest = {
          workflowId: request.workflowId,
          name: scriptName,
          version: null,
          payload: null,
          fingerprint: ""
        }
        /** Lives in the caller's call: when that is interrupted, the run leaves. */
        const inhabitHere = (identity: RunIdentity, fresh: boolean): Effect.Effect<RunEnd, ScriptError> =>
          Effect.suspend(() => {
            const residency = inhabit(identity, fresh, program)
            return Effect.flatMap(
              Effect.onInterrupt(Effect.interruptible(Deferred.await(residency.ended)), () => residency.leave),
              Option.match({ onNone: () => elsewhere, onSome: Effect.succeed })
            )
          })
        const attach = (row: RunRow): Effect.Effect<RunEnd, ScriptError> => {
          if (row.name !== scriptName) {
            return Effect.fail(
              new WorkflowIdConflict({ workflowId: row.workflowId, existing: row.name, requested: scriptName })
            )
          }
          return residents.has(row.workflowId) ? elsewhere : Effect.zipRight(revive(row), elsewhere)
        }
        /** Takes the run over if nobody alive has it, and awaits its outcome if somebody has. */
        const elsewhere: Effect.Effect<RunEnd, ScriptError> = Effect.suspend(() => {
          const watch = watchers.watch(request.workflowId)
          const wait = Effect.zipRight(Effect.interruptible(watch.happened), Effect.suspend(() => elsewhere))
          return residents.has(request.workflowId) ? wait : Effect.flatMap(store.run(request.workflowId), (found) => {
            const row = Option.getOrThrow(found)
            return Option.match(endOf(row), {
              onSome: Effect.succeed,
              onNone: () =>
                Effect.flatMap(takeScript(row), Option.match({
                  onSome: (mine) => inhabitHere(identityOf(mine), false),
                  onNone: () => wait
                }))
            })
          }).pipe(Effect.ensuring(watch.close))
        })
        return Effect.uninterruptible(Effect.flatMap(insert(start, true), (row) =>
          row === null
            ? inhabitHere({ workflowId: request.workflowId, name: scriptName, generation: 0, epoch: 1 }, true)
            : attach(row)))
      })

    // -- registering

    const register = (registration: Registration) =>
      Effect.flatMap(Effect.runtime<never>(), (captured) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (registered.has(registration.name)) {
              return Effect.dieMessage(
                `The workflow ${JSON.stringify(registration.name)} is registered twice in one engine; provide its layer once`
              )
            }
            registered.set(registration.name, { registration, runtime: captured as Runtime.Runtime<unknown> })
            fork(quietly(recover))
            return Effect.void
          }),
          () =>
            Effect.suspend(() => {
              registered.delete(registration.name)
              return leave((residency) => residency.identity.name === registration.name)
            })
        ))

    return {
      register,
      start,
      await: awaitEnd,
      poll: (workflowId, name) => Effect.map(store.run(workflowId), Option.filter((row) => row.name === name)),
      resume,
      script,
      maxValueBytes: settings.limits.value
    }
  })
