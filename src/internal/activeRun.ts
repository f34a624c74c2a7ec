/**
 * A run that lives in this process: its body, its steps under way, and the one way in which it leaves memory.
 *
 * What is the engine's business travels beside the body, never through its error channel: an operation that is refused, or
 * that is asked for when the run is to leave, does not return, whatever the body catches.
 */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import type { Operation, StopReason, StoreError } from "../Errors.js"
import { BodyDied, Deadlocked, LimitExceeded, Misplaced, NonDeterminismError, StoreRejected } from "../Errors.js"
import type { AttemptRow, CommitAnswer, Paged, RunUpdate, SharedClient, StepRow, Wanted } from "../StepStore.js"
import { type After, callAt } from "./alarm.js"
import type { Attempt } from "./attempts.js"
import { cutOff } from "./attempts.js"
import type { Attendant } from "./attendant.js"
import { type Awaited, AwaitedChildren } from "./awaited.js"
import { Cancellation } from "./cancellation.js"
import { describe } from "./describe.js"
import { fullDigest } from "./digest.js"
import type { FaultPointsShape } from "./faultPoints.js"
import { Few } from "./few.js"
import type { Journal } from "./journal.js"
import { emptyUpdate, isTransient } from "./journal.js"
import type { Limits } from "./limits.js"
import { Mailbox } from "./mailbox.js"
import { Resting } from "./resting.js"
import type { CancelReason } from "./run.js"
import { nextTurn, turn } from "./scheduler.js"
import { addressOf, never, operationOf, Sequencer } from "./sequencer.js"
import { Unwinding } from "./unwinding.js"
import { wholeMillis } from "./wholeMillis.js"

/** How the body ended: its value or its typed failure as JSON text, or what is wrong with it. */
export type BodyEnd =
  | { readonly _tag: "Succeeded"; readonly outcome: string | null }
  | { readonly _tag: "Failed"; readonly outcome: string | null }
  | { readonly _tag: "Cancelled"; readonly reason: CancelReason }
  /** It goes on in its next generation. */
  | { readonly _tag: "Continued"; readonly payload: string | null }
  | { readonly _tag: "Broken"; readonly reason: StopReason }

/** What undoes an effect of the body. */
export interface Compensation {
  /** For people: what it undoes. */
  readonly id: string
  readonly effect: (cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, unknown>
  readonly context: Context.Context<unknown>
}

/** Why a run leaves memory. The first reason counts. */
export type Ending =
  | { readonly _tag: "BodyEnded"; readonly end: BodyEnd }
  /** It cannot go on until somebody mends something. */
  | {
    readonly _tag: "Stopped"
    readonly reason: StopReason
    readonly steps: ReadonlyArray<StepRow>
    readonly attempts: ReadonlyArray<AttemptRow>
  }
  /** The store could not be written to: it is tried again later. */
  | { readonly _tag: "Released"; readonly error: StoreError }
  /** Another worker has taken it over. */
  | { readonly _tag: "Fenced" }
  /**
   * It waits, and nothing but what is recorded can wake it. `wakeAt` is when it goes on by itself, if it does; `inbox` the version of
   * its inbox that has been looked into.
   */
  | { readonly _tag: "Parked"; readonly wakeAt: number | null; readonly inbox: number }
  /** This worker gives it up: it shuts down, or nobody wants the run here any more. */
  | { readonly _tag: "Evicted" }
  /** As if the process had died. */
  | { readonly _tag: "Crashed" }

/** What the engine gives to each run that it drives. */
export interface Household {
  readonly journal: Journal
  readonly namespace: string
  /** Given if the store uses a client of the application's. */
  readonly sharedClient: SharedClient | null
  readonly clock: Clock.Clock
  readonly attendant: Attendant
  readonly faults: FaultPointsShape
  readonly limits: Limits
  readonly unrequestedAfter: number
  readonly deadlockAfter: number
  readonly after: After
  readonly fork: (effect: Effect.Effect<void>) => void
  /** How long a run rests before it leaves memory, in milliseconds. */
  readonly parkGrace: number
  /** Whether others wait for a place in memory: then a run that rests leaves at once. */
  readonly crowded: () => boolean
  readonly readMail: (run: ActiveRun, wanted: ReadonlyArray<Wanted>) => void
  /** A page of what is recorded of a run. */
  readonly readHistory: (run: RunIdentity, after: number) => Effect.Effect<Paged<StepRow>, StoreError>
  /** The children that are waited for. */
  readonly awaited: Awaited
  /** A run sleeps, until then if it goes on by itself. */
  readonly parked: (wakeAt: number | null) => void
  /** Reads the next page of the history; the run ends if the store cannot. */
  readonly readAfter: (run: ActiveRun, position: number, then: (page: Paged<StepRow>) => void) => void
}

export interface RunIdentity {
  readonly workflowId: string
  readonly name: string
  readonly generation: number
  readonly epoch: number
  /** When its present generation began: its own time begins there. */
  readonly begunAt: number
  /** When it is cancelled, wherever it is then. */
  readonly deadlineAt: number | null
  /** Whether its cancellation has been asked for. */
  readonly cancelled: boolean
  /** The version of its inbox that is known. */
  readonly inbox: number
  /** The run that this one is a child of. */
  readonly parent: string | null
  readonly fingerprint: string
  /** Where in a trace it began, as JSON text. */
  readonly trace: string | null
  /** Whether it may leave memory while it waits. */
  readonly parks: boolean
}

/** An operation that waits, and does nothing meanwhile, so that a later life takes it up as it is. */
export const isWait = (row: StepRow): boolean => row.status === "IN_PROGRESS" && row.kind !== "step"

/** What is written of a step together with the end of its run. */
export interface LastRows {
  readonly steps?: ReadonlyArray<StepRow>
  readonly attempts?: ReadonlyArray<AttemptRow>
}

const nothingElse: Partial<RunUpdate> = {}

export class ActiveRun {
  readonly sequencer: Sequencer
  readonly unwinding: Unwinding
  readonly mailbox: Mailbox
  readonly cancellation: Cancellation
  private readonly resting: Resting
  readonly children: AwaitedChildren
  /** The rows that answer no replay, by address: what is under way, and attempts before. */
  readonly unfinished = new Few<string, StepRow>()
  /** The attempts before this life of the run that ended without an outcome, by address and in their order. */
  private readonly attempts = new Few<string, Array<AttemptRow>>()
  /** The attempts under way, by step key. */
  private readonly underWay = new Few<string, Attempt>()
  private readonly emptyUpdate: RunUpdate
  private readonly steps = new Few<Fiber.RuntimeFiber<unknown, unknown>, Fiber.RuntimeFiber<unknown, unknown>>()
  /** The fibers of the body that are known: those of its branches, and those whose operation was refused. */
  private readonly bound = new Few<Fiber.RuntimeFiber<unknown, unknown>, Fiber.RuntimeFiber<unknown, unknown>>()
  private evicted = false
  private dropping: Deferred.Deferred<boolean> | null = null
  private nextPosition = 0
  private body: Fiber.RuntimeFiber<unknown, unknown> | null = null
  private left = false

  readonly identity: RunIdentity
  readonly household: Household

  constructor(identity: RunIdentity, household: Household) {
    this.identity = identity
    this.household = household
    this.emptyUpdate = emptyUpdate(identity)
    this.sequencer = new Sequencer({
      loadAfter: (position) => household.readAfter(this, position, (page) => this.loaded(page)),
      after: household.after,
      onMismatch: (recorded, requested) => this.stop(this.mismatch(recorded, requested)),
      onForeign: () =>
        this.stop(this.misplaced(
          "A wait that no step contains",
          "the body has several branches, and one of them was woken by something that is not recorded (a promise, a socket, a timer), so no replay could repeat the order. Wrap that effect in Step.durable"
        )),
      onRest: () => this.resting.look(),
      onFrontier: () => this.cancellation.isNext(),
      onCancel: (record) => this.cancellation.hand(record),
      isRecording: () => this.offered !== this.durable || this.committed.length > 0,
      onDeadlock: () =>
        this.stop(new Deadlocked({ workflowId: identity.workflowId, afterMillis: household.deadlockAfter })),
      unrequestedAfter: household.unrequestedAfter,
      deadlockAfter: household.deadlockAfter
    })
    this.unwinding = new Unwinding(this.sequencer)
    this.cancellation = new Cancellation(this)
    this.resting = new Resting(this)
    this.mailbox = new Mailbox(identity.inbox, (wanted) => household.readMail(this, wanted), () => this.resting.look())
    this.children = new AwaitedChildren(
      identity.inbox,
      household.awaited,
      (cause) => this.finish(endingOf(cause))
    )
  }

  get workflowId(): string {
    return this.identity.workflowId
  }

  /** The run is leaving memory, or has left. */
  get closed(): boolean {
    return this.left
  }

  /**
   * The run's own time, in epoch milliseconds: that at which the outcome handed to it last was recorded, so that a replay
   * has the same. It never goes back.
   */
  get time(): number {
    return Math.max(this.identity.begunAt, this.sequencer.handedAt)
  }

  now(): number {
    return wholeMillis(this.household.clock)
  }

  keyOf(address: string): string {
    const { generation, workflowId } = this.identity
    return generation === 0 ? `${workflowId}:${address}` : `${workflowId}:${generation}#${address}`
  }

  /** What another system may know an operation by: the same in each attempt, and in no other place or namespace. */
  idempotencyKeyOf(address: string): string {
    const { generation, workflowId } = this.identity
    return fullDigest([this.household.namespace, workflowId, generation, address])
  }

  // -- history

  /** Waits that had begun in an earlier life, and that the body has not come to again. */
  private readonly ahead = new Few<string, StepRow>()

  /** The body goes where it has been before: outcomes are recorded ahead, or a wait that had begun. */
  get replaying(): boolean {
    return this.sequencer.ahead || this.ahead.size > 0
  }

  /** The body asks for an operation. */
  reached(address: string): void {
    this.ahead.delete(address)
  }

  /** Takes what the store knows of the run, before the body begins. */
  restore(known: {
    readonly unfinished: ReadonlyArray<StepRow>
    readonly attempts: ReadonlyArray<AttemptRow>
    readonly history: Paged<StepRow>
  }): void {
    for (const row of known.unfinished) {
      const address = addressOf(row.stepKey)
      this.unfinished.set(address, row)
      if (isWait(row)) {
        this.ahead.set(address, row)
      }
    }
    for (const row of known.attempts) {
      const address = addressOf(row.stepKey)
      const before = this.attempts.get(address) ?? []
      before.push(row)
      this.attempts.set(address, before)
    }
    this.loaded(known.history)
  }

  /** The attempts at a step that ended without an outcome before this life of the run. */
  attemptsAt(address: string): ReadonlyArray<AttemptRow> {
    return this.attempts.get(address) ?? []
  }

  /** Takes the next page of the history. */
  loaded({ more, rows }: Paged<StepRow>): void {
    const last = rows.at(-1)?.position
    this.nextPosition = typeof last === "number" ? last + 1 : this.nextPosition
    this.sequencer.load(rows, more)
  }

  /** What `patched` has answered in this life, by id; `null` while the marker is being recorded. */
  readonly patches = new Few<string, boolean | null>()

  // -- writing

  /** An update of this run that changes nothing yet. */
  update(changes: Partial<RunUpdate>): RunUpdate {
    return Object.assign({ ...this.emptyUpdate }, changes)
  }

  /**
   * Records an outcome, which is handed to the body when it is durable, together with other changes. Waits only for room in the
   * journal.
   */
  record(row: Omit<StepRow, "position" | "final">, also: Partial<RunUpdate> = {}): Effect.Effect<void> {
    return Effect.suspend(() => this.put(row, also))
  }

  /** As {@link record}, which takes place when this is called; what it answers waits for room. */
  put(row: Omit<StepRow, "position" | "final">, also: Partial<RunUpdate> = nothingElse): Effect.Effect<void> {
    const position = this.takePosition()
    if (position === null) {
      return Effect.void
    }
    this.cautious = false
    const recorded: StepRow = { ...row, position, final: true }
    this.offered = position
    return this.household.journal.offer({
      update: Object.assign({ ...this.emptyUpdate, steps: [recorded] }, also),
      cancelled: this.isLost,
      done: (result) =>
        this.acknowledged(result, () => {
          this.handCommitted()
          this.durable = position
          for (const { signalId } of also.takes ?? []) {
            this.mailbox.taken(signalId)
          }
          this.sequencer.recorded(recorded)
          this.handCommitted()
        })
    })
  }

  /**
   * Takes the next position; none if the run has to leave. One that is not used after all leaves a gap, which nobody minds: a
   * replay reads what comes next, and the order of what is there is the same.
   */
  takePosition(): number | null {
    if (this.left) {
      return null
    }
    if (this.nextPosition >= this.household.limits.history) {
      this.stop(
        this.exceeded("the number of recorded operations", this.household.limits.history, this.nextPosition + 1)
      )
      return null
    }
    return this.nextPosition++
  }

  /** The position given last to a record that goes through the journal, and the last of those that is durable. */
  private offered = -1
  private durable = -1
  /** Records that a transaction of their own has committed, each with the last record before it that the journal still had. */
  private readonly committed: Array<{ readonly row: StepRow; readonly after: number }> = []

  /**
   * A transaction has committed an outcome, whose position was taken in the same turn. Records of earlier positions may still wait in
   * the journal. The body is told after them, as in a replay; if they are lost, it has not been told.
   */
  recorded(row: StepRow): void {
    this.committed.push({ row, after: this.offered })
    // The body does not run on the turn of a commit.
    nextTurn(() => this.handCommitted())
  }

  private handCommitted() {
    for (let next = this.committed[0]; next !== undefined && next.after <= this.durable; next = this.committed[0]) {
      this.committed.shift()
      this.sequencer.recorded(next.row)
    }
  }

  /** Writes rows that answer no replay without waiting for them. */
  jot(row: StepRow): void {
    if (!this.left) {
      this.household.journal.jot(this.emptyUpdate, row)
    }
  }

  /** Writes rows that answer no replay, and waits until they are durable. Does not return if the run has to leave. */
  writeThrough(changes: Partial<RunUpdate>): Effect.Effect<void> {
    return Effect.suspend(() => this.left ? this.parked : this.written(changes))
  }

  private written(changes: Partial<RunUpdate>): Effect.Effect<void> {
    return Effect.async((resume) =>
      this.household.journal.enqueue({
        update: this.update(changes),
        cancelled: this.isLost,
        done: (result) => this.acknowledged(result, () => resume(Effect.void))
      })
    )
  }

  /** What is still waiting in the journal must not be written: a record before it could not be. */
  private lost = false
  private readonly isLost = () => this.lost

  private acknowledged(result: Exit.Exit<CommitAnswer, StoreError>, then: () => void) {
    if (Exit.isSuccess(result)) {
      if (result.value._tag === "Accepted") {
        then()
      } else {
        this.finish({ _tag: "Fenced" })
      }
      return
    }
    this.finish(endingOf(result.cause))
  }

  /**
   * Whether the run was taken up again and has recorded nothing since: perhaps a step killed its process, so fast that not even
   * its row was written. Until something is recorded, each attempt is on disk before it begins.
   */
  cautious = false

  // -- steps under way

  began(step: Fiber.RuntimeFiber<unknown, unknown>): void {
    this.steps.set(step, step)
    step.addObserver(() => {
      this.steps.delete(step)
      this.leaveIfDrained()
    })
  }

  // -- leaving when the steps in flight have ended

  private draining = false
  /** Steps that are not in flight: no attempt of theirs is under way. */
  private idle = 0

  /** The run is to leave: no attempt begins any more. */
  get leaving(): boolean {
    return this.left || this.draining
  }

  /**
   * The run begins nothing more, and leaves as soon as no step is in flight. What they ended with is in the journal by then,
   * before that the run is given back.
   */
  drain(): void {
    this.draining = true
    this.sequencer.close()
    this.leaveIfDrained()
  }

  /** What a step does while no attempt of it is under way. */
  idling<A>(wait: Effect.Effect<A>): Effect.Effect<A> {
    return Effect.suspend(() => {
      this.idle++
      this.leaveIfDrained()
      return Effect.ensuring(
        wait,
        Effect.sync(() => {
          this.idle--
        })
      )
    })
  }

  /** A step waits for its next attempt. */
  betweenAttempts<A>(address: string, dueAt: number, wait: Effect.Effect<A>): Effect.Effect<A> {
    return Effect.suspend(() => {
      this.rest(address, dueAt)
      return Effect.ensuring(this.idling(wait), Effect.sync(() => this.stir(address)))
    })
  }

  private leaveIfDrained() {
    if (this.draining && this.steps.size === this.idle) {
      this.finish({ _tag: "Evicted" })
    }
  }

  // -- timers

  private readonly timers = new Few<() => void, () => void>()

  /**
   * Calls back when the engine's clock shows a time, or is past it.
   *
   * @returns what stops that
   */
  at(due: number, callback: () => void): () => void {
    let stop = () => {}
    const cancel = () => {
      this.timers.delete(cancel)
      stop()
    }
    this.timers.set(cancel, cancel)
    stop = callAt(this.household.after, () => this.now(), due, () => {
      this.timers.delete(cancel)
      callback()
    })
    return cancel
  }

  // -- resting

  /** An operation waits for a time, or for something to be sent to the run, and does nothing meanwhile. */
  rest(address: string, due: number | null): void {
    this.resting.add(address, due)
  }

  /** It waits no longer. */
  stir(address: string): void {
    this.resting.remove(address)
  }

  /** Others wait for a place in memory. */
  hurry(): void {
    this.resting.hurry()
  }

  // -- attempts under way

  /** An attempt at a step is under way from now on. */
  attemptBegan(attempt: Attempt): void {
    this.underWay.set(attempt.stepKey, attempt)
  }

  /** What it ended with is known. What is under way when the run leaves memory is cut off, whatever comes later. */
  attemptEnded(stepKey: string): void {
    if (!this.left) {
      this.underWay.delete(stepKey)
    }
  }

  /** The attempts that end because the run has left memory while its process lives. */
  get released(): ReadonlyArray<AttemptRow> {
    const endedAt = this.now()
    return this.underWay.values().map((attempt) => ({ ...attempt, ...cutOff("Released"), endedAt, dueAt: null }))
  }

  // -- branches under way

  /** A branch begins in a fiber. */
  entered(fiber: Fiber.RuntimeFiber<unknown, unknown>, nested: boolean): void {
    this.bind(fiber)
    this.sequencer.enter(nested)
  }

  /** A branch has ended. */
  exited(nested: boolean): void {
    this.sequencer.leave(nested)
  }

  /** Makes sure that an eviction interrupts a fiber, even one that nobody else would interrupt. */
  private bind(fiber: Fiber.RuntimeFiber<unknown, unknown>) {
    if (this.evicted) {
      fiber.unsafeInterruptAsFork(FiberId.none)
    } else if (this.bound.get(fiber) === undefined) {
      this.bound.set(fiber, fiber)
      fiber.addObserver(() => this.bound.delete(fiber))
    }
  }

  // -- leaving

  /** The run has to leave memory; the engine does what follows. */
  finish(ending: Ending): void {
    if (this.left) {
      return
    }
    this.left = true
    this.lost = ending._tag === "Released" || ending._tag === "Fenced" || ending._tag === "Crashed"
    this.sequencer.close()
    for (const cancel of this.timers.takeAll()) {
      cancel()
    }
    this.resting.close()
    this.children.close()
    this.ended = ending
    this.onEnded(ending)
  }

  private ended: Ending | null = null
  private onEnded: (ending: Ending) => void = () => {}

  /** Waits until this life of the run has to end. One may wait. */
  readonly ending: Effect.Effect<Ending> = Effect.async((resume) => {
    this.onEnded = (ending) => resume(Effect.succeed(ending))
    if (this.ended !== null) {
      this.onEnded(this.ended)
    }
  })

  stop(reason: StopReason, last: LastRows = {}): void {
    this.finish({ _tag: "Stopped", reason, steps: last.steps ?? [], attempts: last.attempts ?? [] })
  }

  /** Refuses an operation: it does not return, and the run stops. */
  refuse(reason: StopReason): Effect.Effect<never> {
    this.stop(reason)
    return this.parked
  }

  /** Ends this life of the run from inside its body, which goes no further. */
  leaves(ending: Ending): Effect.Effect<never> {
    this.finish(ending)
    return this.parked
  }

  /**
   * What every operation of a run that has left is: it does not return, and its fiber is interrupted with the body, even where
   * nobody else would interrupt it (a fiber that was forked in an uninterruptible region).
   */
  readonly parked: Effect.Effect<never> = Effect.withFiberRuntime((fiber) => {
    this.bind(fiber)
    return Effect.interruptible(never)
  })

  /** Made for those bodies that do not end at once. */
  private get givenUp(): Deferred.Deferred<boolean> {
    return this.dropping ??= Deferred.unsafeMake<boolean>(FiberId.none)
  }

  /** Gives the body up: it goes on asking for operations although the run has left. */
  readonly dropped: Effect.Effect<never> = Effect.suspend(() => {
    this.sequencer.scheduler.drop()
    Deferred.unsafeDone(this.givenUp, Effect.succeed(false))
    return Effect.uninterruptible(never)
  })

  /**
   * Starts the body in a fiber of its own.
   *
   * @param conclude - given what the body ended with, makes the end of the run of it, or starts what does so in another fiber
   */
  begin(
    fork: () => Fiber.RuntimeFiber<unknown, unknown>,
    conclude: (exit: Exit.Exit<unknown, unknown>) => BodyEnd | Fiber.RuntimeFiber<BodyEnd>
  ): void {
    const { deadlineAt } = this.identity
    if (deadlineAt !== null) {
      this.at(deadlineAt, () => this.cancellation.ask("deadline"))
    }
    this.sequencer.start(() => {
      const body = fork()
      this.body = body
      body.addObserver((exit) => {
        if (this.left) {
          return
        }
        this.concluding = true
        const end = conclude(exit)
        if ("_tag" in end) {
          this.finish({ _tag: "BodyEnded", end })
          return
        }
        this.body = end
        end.addObserver((exit) =>
          this.finish({
            _tag: "BodyEnded",
            end: Exit.isSuccess(exit) ? exit.value : { _tag: "Broken", reason: this.bodyDied(exit.cause) }
          })
        )
      })
    })
  }

  // -- ending early

  /** The body has ended. */
  concluding = false
  /** The payload of the next generation, once the body has asked for it. */
  private nextPayload: { readonly payload: string | null } | null = null

  /**
   * What waits for the store on behalf of a body that has ended, in a fiber of the engine: branches of the body may live on, and its
   * end must not be taken for a wake-up from outside.
   */
  apart<E>(effect: Effect.Effect<void, E>): Effect.Effect<void, E> {
    return Effect.async((resume) => {
      const wake = (exit: Exit.Exit<void, E>) => this.sequencer.cause(() => resume(exit))
      this.household.fork(Effect.zipRight(turn, Effect.map(Effect.exit(effect), wake)))
    })
  }

  /** Interrupts the body, which has begun, where it lets itself be interrupted. */
  interruptBody(): void {
    this.body!.unsafeInterruptAsFork(FiberId.none)
  }

  /** The body ends here, and the next generation begins with this payload. */
  continueAsNew(payload: string | null): Effect.Effect<never> {
    return Effect.suspend(() => {
      if (this.cancellation.told === null) {
        this.nextPayload = { payload }
        this.interruptBody()
      }
      return Effect.interruptible(never)
    })
  }

  /** The payload of the next generation; `null` if the body has not asked for one. */
  get next(): { readonly payload: string | null } | null {
    return this.nextPayload
  }

  /** What undoes what the body has done, in the order in which that was done. */
  readonly compensations: Array<Compensation> = []

  /**
   * Ends what is left of the body and of its steps: waits end even inside `uninterruptible`, because each is continued with an
   * effect that is interruptible and does not return. Of a body that has ended, or that waits and has no finalizer that takes time,
   * nothing is left at once.
   *
   * @returns whether all has ended within the time, without having to be given up
   */
  evict(millis: number): Effect.Effect<boolean> {
    return Effect.suspend(() => {
      this.evicted = true
      const fibers = this.steps.values()
      if (this.body !== null) {
        fibers.push(this.body)
      }
      this.sequencer.cause(() => {
        // A branch in an uninterruptible region is not reached through the fiber around it.
        for (const fiber of [...fibers, ...this.bound.values()]) {
          fiber.unsafeInterruptAsFork(FiberId.none)
        }
        this.sequencer.releaseAll()
      })
      if (fibers.every((fiber) => fiber.unsafePoll() !== null)) {
        return Effect.succeed(true)
      }
      return Fiber.awaitAll(fibers).pipe(
        Effect.as(true),
        Effect.raceFirst(Deferred.await(this.givenUp)),
        Effect.interruptible,
        Effect.timeoutTo({ duration: millis, onTimeout: () => false, onSuccess: (ended) => ended }),
        Effect.tap((ended) => Effect.sync(() => ended || this.sequencer.scheduler.drop()))
      )
    })
  }

  // -- reasons

  bodyDied(cause: Cause.Cause<unknown>): BodyDied {
    return new BodyDied({
      workflowId: this.workflowId,
      detail: describe(cause),
      unwinding: this.unwinding.since(cause)
    })
  }

  mismatch(recorded: Operation | null, requested: Operation | null): NonDeterminismError {
    return new NonDeterminismError({
      workflowId: this.workflowId,
      recorded,
      requested,
      agreed: this.sequencer.agreed
    })
  }

  /** What was begun under another name at this address; `null` if nothing was. */
  begunOtherwise(operation: Operation): Operation | null {
    const row = this.unfinished.get(operation.address)
    if (row === undefined) {
      return null
    }
    const begun = operationOf(row)
    return begun.kind === operation.kind && begun.id === operation.id && begun.fingerprint === operation.fingerprint
      ? null
      : begun
  }

  misplaced(operation: string, detail: string): Misplaced {
    return new Misplaced({ workflowId: this.workflowId, operation, detail })
  }

  exceeded(what: string, limit: number, actual: number): LimitExceeded {
    return new LimitExceeded({ workflowId: this.workflowId, what, limit, actual })
  }
}

/** What a failed write means for the run that asked for it. */
export const endingOf = (cause: Cause.Cause<StoreError>): Ending => {
  const error = Option.getOrNull(Cause.failureOption(cause))
  if (error !== null && isTransient(error)) {
    return { _tag: "Released", error }
  }
  const reason = error?._tag === "StoreCorrupt" || error?._tag === "StoreRejected"
    ? error
    : new StoreRejected({ target: "The store", detail: Cause.pretty(cause) })
  return { _tag: "Stopped", reason, steps: [], attempts: [] }
}
