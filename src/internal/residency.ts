/** The time a run spends in this process: loaded, driven, and left again, whatever the reason. */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type { StopReason, StoreError } from "../Errors.js"
import { StoreRejected } from "../Errors.js"
import type {
  AttemptRow,
  CommitAnswer,
  Paged,
  Records,
  RunPatch,
  RunRow,
  RunUpdate,
  StepRow,
  StepStore
} from "../StepStore.js"
import type { BodyEnd, Ending, Household, RunIdentity } from "./activeRun.js"
import { ActiveRun, endingOf, isWait } from "./activeRun.js"
import type { CutOff } from "./attempts.js"
import { cutOff } from "./attempts.js"
import type { Program } from "./body.js"
import { begin } from "./body.js"
import { cancelDoomed } from "./children.js"
import { readHistory } from "./history.js"
import { isTransient } from "./journal.js"
import type { RunEnd } from "./run.js"
import { cancelReason, stopReason } from "./run.js"

type Store = StepStore["Type"]

/** A run was ended by a simulated crash; whoever awaits it dies of this. */
export class SimulatedCrash extends Data.TaggedError("SimulatedCrash")<{ readonly workflowId: string }> {
  override get message() {
    return `CrashSimulator ended run ${JSON.stringify(this.workflowId)}`
  }
}

/** A body that has not ended after this time is dropped. */
const evictionMillis = 5_000

/** How a run that the store could not serve is tried again: the delay doubles up to five seconds. */
const patience = Schedule.exponential("50 millis").pipe(
  Schedule.union(Schedule.spaced("5 seconds")),
  Schedule.jittered
)

/** How a run has ended or stopped; none if it goes on. */
export const endOf = (row: RunRow): Option.Option<RunEnd> => {
  switch (row.status) {
    case "COMPLETED":
    case "FAILED":
      return Option.some({ status: row.status, outcome: row.outcome })
    case "CANCELLED":
      return Option.some({ status: "CANCELLED", reason: cancelReason(row) })
    case "STOPPED":
      return Option.some({ status: "STOPPED", reason: stopReason(row) })
    default:
      return Option.none()
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// patches
// ---------------------------------------------------------------------------------------------------------------------

/** The run can be claimed by any worker. */
export const pendingPatch = (at: number): RunPatch => ({
  status: "PENDING",
  owner: null,
  stopReason: null,
  wakeAt: null,
  outcome: null,
  updatedAt: at,
  endedAt: null
})

/** The run cannot go on until somebody mends something. */
export const stoppedPatch = (at: number, reason: StopReason): RunPatch => ({
  ...pendingPatch(at),
  status: "STOPPED",
  stopReason: reason
})

/** The run sleeps. */
const parkedPatch = (at: number, wakeAt: number | null): RunPatch => ({
  ...pendingPatch(at),
  status: "SUSPENDED",
  wakeAt
})

const endedPatch = (at: number, status: "COMPLETED" | "FAILED" | "CANCELLED", outcome: string | null): RunPatch => ({
  ...pendingPatch(at),
  status,
  outcome,
  endedAt: at
})

// ---------------------------------------------------------------------------------------------------------------------
// zombies
// ---------------------------------------------------------------------------------------------------------------------

/** A step that was under way when its worker died: it answers no replay, and is run again with the next number. */
const zombie = (row: StepRow, how: CutOff, epoch: number, at: number): StepRow => ({
  ...row,
  ...cutOff(how),
  status: "FAILED",
  epoch,
  updatedAt: at
})

const attemptOf = (row: StepRow, how: CutOff): AttemptRow => ({
  ...cutOff(how),
  stepKey: row.stepKey,
  attempt: row.attempt,
  startedAt: row.startedAt,
  endedAt: row.updatedAt,
  dueAt: null
})

/** A step waits for its next attempt, or was released, if it is known how its latest attempt ended. */
const isUnderWay = (attempts: ReadonlyArray<AttemptRow>) => {
  const known = new Set(attempts.map((row) => `${row.attempt}:${row.stepKey}`))
  return (row: StepRow) => row.status === "IN_PROGRESS" && !known.has(`${row.attempt}:${row.stepKey}`)
}

/** What is recorded of a run, as far as it has to be known before it begins. */
interface Recorded extends Omit<Records, "history"> {
  readonly history: Paged<StepRow>
}

const nothingKnown: Recorded = { unfinished: [], attempts: [], history: { rows: [], more: false } }

// ---------------------------------------------------------------------------------------------------------------------
// residency
// ---------------------------------------------------------------------------------------------------------------------

export class Residency {
  /** The generation in it is the present one. */
  identity: RunIdentity
  /** How the run ended; none if it left without an end. */
  readonly ended: Deferred.Deferred<Option.Option<RunEnd>>
  private readonly store: Store
  private readonly household: Household
  private run: ActiveRun
  /** That of the present generation. */
  private program: Program | null = null
  private givenUp = false
  /** Something has been sent to the run that its present life has to look into. */
  private told = false
  private begun: ActiveRun | null = null
  /** What is recorded of the run, if that was read when it was claimed, together with that of others. */
  foreseen: Records | null = null
  /** It has been written, or is being written, that the run has ended in a way that nobody takes back. */
  endsForGood = false
  private resting = false
  private lives = 0
  /** Interrupts what waits for the store, once the run is to leave. */
  private readonly abandoned = Deferred.unsafeMake<never>(FiberId.none)

  constructor(identity: RunIdentity, store: Store, household: Household) {
    this.identity = identity
    this.store = store
    this.household = household
    this.run = new ActiveRun(identity, household)
    this.ended = Deferred.unsafeMake(FiberId.none)
  }

  /**
   * Drives the run until it ends, stops or leaves. Whoever starts this lets it end.
   *
   * @param fresh - the run was created just now: nothing is recorded of it
   * @param onLeft - called at the end, whatever it is
   */
  live(fresh: boolean, program: Program, onLeft: (end: RunEnd | null) => void = noReturn): Effect.Effect<void> {
    let first = fresh
    this.program = program
    const lived = this.patiently(Effect.suspend(() => {
      const isFresh = first
      first = false
      return this.once(isFresh, this.program!)
    }))
    const leaves = (end: Exit.Exit<Option.Option<RunEnd>>) => {
      Deferred.unsafeDone(this.ended, end)
      onLeft(Exit.isSuccess(end) ? Option.getOrNull(end.value) : null)
    }
    return Effect.matchCause(lived, {
      onFailure: (cause) =>
        leaves(Cause.isInterruptedOnly(cause) ? noEnd : Exit.failCause(Cause.flatMap(cause, Cause.die))),
      onSuccess: (end) => leaves(Exit.succeed(end))
    })
  }

  /** The run is to leave, or, if its life here has not begun, not to begin it. */
  giveUp(): void {
    this.run.finish({ _tag: "Evicted" })
    this.drain()
  }

  /** The run is to leave as soon as its steps in flight have ended, and begins nothing more. */
  drain(): void {
    this.givenUp = true
    this.run.drain()
    if (this.resting) {
      this.abandon()
    }
  }

  private abandon() {
    Deferred.unsafeDone(this.abandoned, Effect.interrupt)
  }

  /** Waits until the run has left, whatever the reason. */
  readonly left: Effect.Effect<void> = Effect.suspend(() => Effect.ignore(Effect.sandbox(Deferred.await(this.ended))))

  /** Gives the run up, and waits until it has left. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() => {
    this.giveUp()
    return this.left
  })

  /**
   * Tries again what the store could not do, until it can. If the run is to leave, that is interrupted, and all that waits for it.
   * Nothing but one handler is in the way of what the store can do at once.
   */
  private patiently<A, E extends Failure>(self: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.catchAll(self, (error) => passes(error) ? this.again(self, error) : Effect.fail(error))
  }

  /** Tries again what has failed, after a while, and again. */
  private again<A, E extends Failure>(self: Effect.Effect<A, E>, error: E): Effect.Effect<A, E> {
    let next: Effect.Effect<A, E> = Effect.fail(error)
    const attempts = Effect.suspend(() => {
      const attempt = next
      next = self
      this.resting = false
      return attempt
    }).pipe(
      Effect.tapError(() =>
        Effect.sync(() => {
          this.resting = true
          if (this.givenUp) {
            this.abandon()
          }
        })
      ),
      Effect.retry({ schedule: patience, while: passes })
    )
    return Effect.raceFirst(attempts, Deferred.await(this.abandoned))
  }

  /** One life of the run in memory. Fails if the store could not serve it. */
  private once(fresh: boolean, program: Program): Effect.Effect<Option.Option<RunEnd>, Failure> {
    return Effect.suspend(() => {
      const run = this.lives++ === 0 ? this.run : new ActiveRun(this.identity, this.household)
      this.run = run
      if (this.givenUp) {
        run.finish({ _tag: "Evicted" })
      }
      const begun = () => {
        if (!run.closed) {
          this.begin(run, program)
        }
        return Effect.flatMap(run.ending, (ending) => this.settle(run, ending, program))
      }
      if (fresh) {
        run.restore(nothingKnown)
        return begun()
      }
      return Effect.flatMap(this.restore(run), begun)
    })
  }

  /** What was sent to the run before this life of it is looked into when its history is known. */
  private begin(run: ActiveRun, program: Program) {
    begin(run, program)
    this.begun = run
    // Whoever waits looks; what is left is what came since the row of the run was read.
    if (this.told || this.lives > 1) {
      this.told = false
      run.mailbox.look()
    }
  }

  /** Loads what is recorded of the run, and marks what a dead worker left under way. */
  private restore(run: ActiveRun): Effect.Effect<void> {
    const { epoch } = this.identity
    return Effect.gen(this, function*() {
      const at = run.now()
      const { attempts, history, unfinished } = yield* this.recorded
      // What this process itself let go of, because the store could not be used, did not die.
      const how = this.lives === 1 ? "OwnerDied" : "Released"
      const zombies = unfinished.filter((row) => !isWait(row) && isUnderWay(attempts)(row)).map((row) =>
        zombie(row, how, epoch, at)
      )
      const cut = zombies.map((row) => attemptOf(row, how))
      if (zombies.length > 0) {
        const answer = yield* this.household.journal.write(run.update({ steps: zombies, attempts: cut }))
        if (answer._tag !== "Accepted") {
          run.finish({ _tag: "Fenced" })
        }
      }
      run.cautious = true
      run.restore({ unfinished, attempts: [...attempts, ...cut], history })
    }).pipe(Effect.catchAllCause((cause) => Effect.sync(() => run.finish(endingOf(cause)))))
  }

  private get recorded(): Effect.Effect<Recorded, StoreError> {
    const { foreseen, identity: { generation, workflowId }, store } = this
    this.foreseen = null
    return foreseen === null
      ? Effect.all({
        unfinished: store.unfinished(workflowId, generation),
        // Also where no row is under way: one that nobody waited for may not have been written.
        attempts: store.attempts(workflowId, generation),
        history: readHistory(store, this.identity, -1)
      })
      : Effect.succeed({ ...foreseen, history: { rows: foreseen.history, more: false } })
  }

  private settle(run: ActiveRun, ending: Ending, program: Program): Effect.Effect<Option.Option<RunEnd>, Failure> {
    const left = evict(run)
    switch (ending._tag) {
      case "BodyEnded":
        // What the body still waits for when it ends is not unread: it is looked for before the waits are ended.
        return Effect.flatMap(
          this.unread(run, ending.end),
          (end) => Effect.flatMap(left, () => this.conclude(run, end, program))
        )
      case "Stopped":
        return Effect.zipRight(left, this.stop(run, ending.reason, ending.steps, ending.attempts))
      case "Released":
        return Effect.logWarning(
          `Run ${JSON.stringify(run.workflowId)} waits until the store can be used again`,
          ending.error.message
        ).pipe(Effect.zipRight(left), Effect.zipRight(Effect.fail(ending.error)))
      case "Fenced":
        return Effect.as(left, Option.none())
      case "Parked":
        return Effect.zipRight(left, this.park(run, ending, program))
      case "Evicted":
        return Effect.zipRight(left, this.give(run))
      case "Crashed":
        return Effect.zipRight(left, Effect.fail(new SimulatedCrash({ workflowId: run.workflowId })))
    }
  }

  /** The body has ended, and so has the run, or its present generation. */
  private conclude(run: ActiveRun, end: BodyEnd, program: Program): Effect.Effect<Option.Option<RunEnd>, Failure> {
    switch (end._tag) {
      case "Broken":
        return this.stop(run, end.reason, [], [])
      case "Continued":
        return this.continue(run, end.payload, program)
      case "Cancelled":
        return this.end(run, { status: "CANCELLED", reason: end.reason }, JSON.stringify(end.reason))
      case "Succeeded":
        return this.end(run, { status: "COMPLETED", outcome: end.outcome }, end.outcome)
      case "Failed":
        return this.end(run, { status: "FAILED", outcome: end.outcome }, end.outcome)
    }
  }

  private end(run: ActiveRun, end: Exclude<RunEnd, { readonly status: "STOPPED" }>, outcome: string | null) {
    const update = run.update({
      patch: endedPatch(run.now(), end.status, outcome),
      steps: [...run.children.doomed.values()],
      tells: this.tells
    })
    this.endsForGood = end.status !== "FAILED"
    const persisted = this.persist(update, end)
    return Effect.catchAll(
      update.steps.length === 0 ? persisted : Effect.zipRight(this.patiently(cancelDoomed(run)), persisted),
      (error) => this.stop(run, asReason(error), [], [])
    )
  }

  /** Goes on as the next generation, whose history is empty. */
  private continue(
    run: ActiveRun,
    payload: string | null,
    program: Program
  ): Effect.Effect<Option.Option<RunEnd>, Failure> {
    const { deadlineAt, fingerprint, generation, name, parent } = this.identity
    // The clock may have been set back, or be another one: the run's own time never goes back.
    const begunAt = Math.max(run.now(), run.time)
    const update = run.update({
      next: { name, fingerprint, deadlineAt, parent, payload, begunAt },
      steps: [...run.children.doomed.values()]
    })
    const goOn = Effect.suspend(() => {
      this.identity = { ...this.identity, generation: generation + 1, begunAt, inbox: run.mailbox.seen }
      this.told = true
      this.program = program.next(payload)
      return this.once(true, this.program)
    })
    const write = Effect.zipRight(cancelDoomed(run), this.household.journal.write(update))
    return Effect.matchEffect(this.patiently(write), {
      onFailure: (error) =>
        Effect.flatMap(this.hasEnded(generation), (ended) => ended ? goOn : this.stop(run, asReason(error), [], [])),
      onSuccess: (answer) => answer._tag === "Accepted" ? goOn : Effect.succeedNone
    })
  }

  /** The store refuses to end a generation twice, and a write that seemed to fail may have ended it. */
  private hasEnded(generation: number): Effect.Effect<boolean> {
    return this.patiently(this.store.run(this.identity.workflowId)).pipe(
      Effect.map(Option.exists((row) => row.generation > generation)),
      Effect.orElseSucceed(() => false)
    )
  }

  /** Writes an update, however long that takes; what cannot be written stops the run. */
  private written(
    run: ActiveRun,
    update: RunUpdate,
    then: (answer: CommitAnswer) => Effect.Effect<Option.Option<RunEnd>, Failure>
  ): Effect.Effect<Option.Option<RunEnd>, Failure> {
    return Effect.matchEffect(this.patiently(this.household.journal.write(update)), {
      onFailure: (error) => this.stop(run, asReason(error), [], []),
      onSuccess: then
    })
  }

  /** Who learns that the run has ended, in the commit of its end. */
  private get tells(): ReadonlyArray<string> {
    const { parent } = this.identity
    return parent === null ? [] : [parent]
  }

  /** How the body has ended, unless there is something recorded that it never asked for. */
  private unread(run: ActiveRun, end: BodyEnd): Effect.Effect<BodyEnd> {
    return Effect.suspend(() => {
      const { lastPosition, more, unread } = run.sequencer
      if (end._tag === "Broken") {
        return Effect.succeed(end)
      }
      if (unread !== null) {
        return Effect.succeed<BodyEnd>({ _tag: "Broken", reason: run.mismatch(unread, null) })
      }
      return more
        ? this.patiently(readHistory(this.store, this.identity, lastPosition)).pipe(
          Effect.map(({ more, rows }) => run.sequencer.load(rows, more)),
          Effect.zipRight(this.unread(run, end)),
          Effect.catchAll((error) => Effect.succeed<BodyEnd>({ _tag: "Broken", reason: asReason(error) }))
        )
        : Effect.succeed(end)
    })
  }

  private stop(
    run: ActiveRun,
    reason: StopReason,
    steps: ReadonlyArray<StepRow>,
    attempts: ReadonlyArray<AttemptRow>
  ): Effect.Effect<Option.Option<RunEnd>> {
    const end: RunEnd = { status: "STOPPED", reason }
    const patch = stoppedPatch(run.now(), reason)
    return Effect.catchAll(
      this.persist(run.update({ patch, steps, attempts: [...attempts, ...run.released] }), end),
      (error) =>
        Effect.flatMap(this.isStopped, (stopped) =>
          Effect.as(
            stopped ? Effect.void : Effect.logError(
              `Run ${JSON.stringify(run.workflowId)} is stopped, which could not be recorded`,
              error.message
            ),
            Option.some(end)
          ))
    )
  }

  /** Whether the run has been stopped in this life: what was written and denied is refused when it is written once more. */
  private readonly isStopped = Effect.suspend(() =>
    Effect.match(this.store.run(this.identity.workflowId), {
      onFailure: () => false,
      onSuccess: Option.exists(({ epoch, status }) => epoch === this.identity.epoch && status === "STOPPED")
    })
  )

  /** Lets the run sleep, unless something has been sent to it that it has not seen: then it lives on. */
  private park(
    run: ActiveRun,
    { inbox, wakeAt }: Extract<Ending, { readonly _tag: "Parked" }>,
    program: Program
  ): Effect.Effect<Option.Option<RunEnd>, Failure> {
    const update = run.update({ patch: parkedPatch(run.now(), wakeAt), inbox })
    return this.written(run, update, (answer) => {
      if (answer._tag === "Missed") {
        return this.once(false, program)
      }
      this.household.parked(wakeAt)
      return Effect.succeedNone
    })
  }

  /** The run leaves memory, or has left. */
  get leaving(): boolean {
    return this.run.leaving
  }

  /** Somebody waits for the place of the run: if it rests, it leaves now. */
  hurry(): void {
    this.run.hurry()
  }

  /** Something may have been sent to the run: to be looked into, if a version says so, or whatever it is. */
  look(version: number | null): void {
    if (this.begun !== this.run) {
      this.told = true
      return
    }
    const { children, mailbox } = this.run
    if (version === null || version > mailbox.seen) {
      mailbox.look()
    }
    // A version is all that is known: no change has named the children.
    if (version !== null && children.isBehind(version)) {
      children.look(version)
    }
  }

  /** Lets another worker have the run. If that cannot be recorded, the others see that this worker is gone. */
  private give(run: ActiveRun): Effect.Effect<Option.Option<RunEnd>> {
    return Effect.as(
      Effect.catchAll(
        this.household.journal.write(run.update({ patch: pendingPatch(run.now()), attempts: run.released })),
        (error) => Effect.logWarning(`Run ${JSON.stringify(run.workflowId)} could not be given back`, error.message)
      ),
      Option.none()
    )
  }

  private persist(update: RunUpdate, end: RunEnd): Effect.Effect<Option.Option<RunEnd>, StoreError> {
    return Effect.map(
      this.patiently(this.household.journal.write(update)),
      (answer) => answer._tag === "Accepted" ? Option.some(end) : Option.none()
    )
  }
}

type Failure = StoreError | SimulatedCrash

/** What the store could not do, and may be able to in a while. */
const passes = (error: Failure): boolean => error._tag !== "SimulatedCrash" && isTransient(error)

const noReturn = () => {}

const noEnd = Exit.succeed(Option.none<RunEnd>())

/** Ends what is left of a body, and says so if it would not end. */
const evict = (run: ActiveRun): Effect.Effect<void> =>
  Effect.flatMap(run.evict(evictionMillis), (ended) =>
    ended
      ? Effect.void
      : Effect.logWarning(
        `The body of run ${
          JSON.stringify(run.workflowId)
        } would not end and was dropped: something in it cannot be interrupted`
      ))

/** What a store error that does not pass means for a run. */
export const asReason = (error: StoreError): StopReason =>
  error._tag === "StoreCorrupt" || error._tag === "StoreRejected"
    ? error
    : new StoreRejected({ target: "The store", detail: error.message })
