/** The durable operation: what takes a sequence in a branch, and is answered from the record where there is one. */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as FiberStatus from "effect/FiberStatus"
import type { Operation } from "../Errors.js"
import type { StepRow } from "../StepStore.js"
import type { ActiveRun } from "./activeRun.js"
import type { AnyFiber, Branch, InStep } from "./place.js"
import { type Place, placeOf, runsOn } from "./place.js"
import type { Wait } from "./sequencer.js"

/** What to write instead of a fork that reserves nothing; the table is in the README too, and is a test. */
export const insteadOfForking =
  "Instead: for parallel work, Branch.all, Branch.forEach, or Branch.reserve before Effect.all; " +
  "for a race, Branch.race or Branch.raceAll; for a timeout, Branch.timeout, or Effect.timeout inside the step; " +
  "for a fork, Branch.fork; " +
  "for a Stream, Branch.forEach, or collect it inside a step; for a Layer, provide it outside the body"

/**
 * Finds out where an operation is called, and refuses it where it cannot be recorded.
 *
 * @param called - how the caller wrote it, for messages
 * @param on - what to do in a branch of a body, and in a step
 */
export const placed = <A, E, R>(called: string, on: {
  readonly inBranch: (branch: Branch, fiber: AnyFiber, status: FiberStatus.Running) => Effect.Effect<A, E, R>
  readonly inStep: (place: InStep) => Effect.Effect<A, E, R>
}): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber, status) => {
    const place = placeOf(fiber)
    return isOpen(place) ? on.inBranch(place, fiber, status) : elsewhere({ called, inStep: on.inStep }, place)
  })

/** Whether operations can be asked for there. */
const isOpen = (place: Place): place is Branch => place._tag === "Branch" && !place.run.closed

/** What an operation is where it cannot be asked for. */
const elsewhere = <A, E, R>(
  spec: Pick<OperationSpec<A, E, R>, "called" | "inStep">,
  place: Place
): Effect.Effect<A, E, R> => {
  switch (place._tag) {
    case "Branch":
      return place.afterwards
    case "Step":
      return place.ended
        ? place.run.refuse(place.run.misplaced(
          spec.called,
          `it was called in a fiber that went on after step ${
            JSON.stringify(place.stepId)
          } had ended. Wait for that fiber inside the step, or call this in the body`
        ))
        : spec.inStep(place)
    case "Unreserved":
      return place.run.refuse(place.run.misplaced(
        spec.called,
        `it was called in a fiber that was forked from ${place.from.name} without a reserved sequence, so its key would depend on timing. ${insteadOfForking}`
      ))
    case "Outside":
      return Effect.dieMessage(
        `${spec.called} was called outside a run. Call it in the body of a workflow, or wrap the program in Workflow.run`
      )
  }
}

export interface OperationSpec<A, E, R> {
  /** How the caller wrote it, for messages. */
  readonly called: string
  readonly kind: string
  /** The name that a replay compares. */
  readonly id: string
  readonly fingerprint: string | null
  /** Why it can be recorded nowhere; `null` if it can. */
  readonly problem: string | null
  /**
   * Starts the operation, because nothing is recorded of it.
   *
   * @returns what stops it again, and calls back when it has let go
   */
  readonly begin: (begun: Begun) => (ended: () => void) => void
  /**
   * The body has stopped waiting before the operation began in this life, although it may have begun in an earlier one, which could not
   * let go of it any more. Calls back when it has let go.
   */
  readonly abandoned?: (begun: Begun, ended: () => void) => void
  /** The body has stopped waiting before it was given the record. */
  readonly voided?: (record: StepRow, branch: Branch) => void
  /** Something has been recorded, whether or not the body still waits for it; `context` is that of the caller. */
  readonly recorded?: (record: StepRow, branch: Branch, context: Context.Context<unknown>) => void
  /** What the body gets for a record; runs in the body's fiber, live and in replay alike. */
  readonly answer: (record: StepRow, branch: Branch) => Effect.Effect<A, E, R>
  readonly inStep: (place: InStep) => Effect.Effect<A, E, R>
}

/** An operation that begins. */
export interface Begun {
  readonly branch: Branch
  readonly address: string
  readonly sequence: number
  /** The position of the outcome that the run had been handed last when the operation was asked for. */
  readonly askedAfter: number
  readonly fiber: AnyFiber
  readonly status: FiberStatus.Running
}

/** Takes a sequence, and waits for the outcome. */
export const durable = <A, E, R>(spec: OperationSpec<A, E, R>): Effect.Effect<A, E, R> =>
  admitted(spec, (branch, fiber, status) => request(spec, branch, fiber, status))

type Admission<A, E, R> = Pick<OperationSpec<A, E, R>, "called" | "problem" | "inStep">

/** Goes on where an operation can be recorded, and refuses it elsewhere. */
export const admitted = <A, E, R>(
  spec: Admission<A, E, R>,
  go: (branch: Branch, fiber: AnyFiber, status: FiberStatus.Running) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber, status) => {
    const place = placeOf(fiber)
    if (!isOpen(place)) {
      return elsewhere(spec, place)
    }
    const { run } = place
    const client = run.household.sharedClient
    return client === null
      ? refusal(spec, run, fiber) ?? go(place, fiber, status)
      : Effect.if(client.isHeld, {
        onTrue: () => heldUp(spec.called, run),
        onFalse: () => refusal(spec, run, fiber) ?? go(place, fiber, status)
      })
  })

/** Why an operation of a branch cannot be recorded; `null` if it can. */
const refusal = (
  spec: Pick<Admission<unknown, unknown, unknown>, "called" | "problem">,
  run: ActiveRun,
  fiber: AnyFiber
): Effect.Effect<never> | null => {
  const { problem } = spec
  if (problem !== null) {
    return run.refuse(run.misplaced(spec.called, problem))
  }
  return runsOn(fiber, run.sequencer.scheduler)
    ? null
    : run.refuse(run.misplaced(
      spec.called,
      "it was called on another scheduler than that of its run, which cannot see when the body is at rest. Use Effect.withScheduler inside a step"
    ))
}

/** On a client that the application shares, a body in a transaction of its own would wait for a record that waits for it. */
const heldUp = (called: string, run: ActiveRun): Effect.Effect<never> =>
  run.refuse(run.misplaced(
    called,
    "it was called inside a transaction of the same SqlClient, whose end its record would wait for. Call it outside, or let " +
      "the whole transaction be a Step.transaction"
  ))

const request = <A, E, R>(
  spec: OperationSpec<A, E, R>,
  branch: Branch,
  fiber: AnyFiber,
  status: FiberStatus.Running
): Effect.Effect<A, E, R> => {
  const run = branch.run
  const sequence = branch.take(1)
  const address = `${branch.prefix}${sequence}`
  run.reached(address)
  const operation = { address, kind: spec.kind, id: spec.id, fingerprint: spec.fingerprint }
  const begunOtherwise = run.begunOtherwise(operation)
  if (begunOtherwise !== null) {
    return run.refuse(run.mismatch(begunOtherwise, operation))
  }
  const askedAfter = run.sequencer.handedPosition
  // Both ways, live and in replay, suspend exactly once here and once when cut: a fiber yields to others after so many
  // operations, and the count begins anew with each suspension, so that it yields at the same places.
  return Effect.uninterruptibleMask((restore) => {
    let wait: Waiting<A, E, R> | null = null
    const answered = Effect.async<A, E, R>((resume) => {
      wait = new Waiting(spec, { branch, address, sequence, askedAfter, fiber, status }, operation, resume)
      run.sequencer.ask(wait)
    })
    // What a canceler of `async` would come to, in half the operations.
    return Effect.matchCauseEffect(restore(answered), {
      onFailure: (cause) => {
        const failed = Effect.failCause(cause)
        if (wait === null || !Cause.isInterruptedOnly(cause)) {
          return failed
        }
        return Effect.zipRight(run.closed ? run.parked : wait.cut, failed)
      },
      onSuccess: Exit.succeed
    })
  })
}

/** A fiber of the body that waits for the outcome of an operation; a class for the sake of the memory of a thousand of them. */
class Waiting<A, E, R> implements Wait {
  readonly operation: Operation
  private readonly spec: OperationSpec<A, E, R>
  private readonly begun: Begun
  private readonly resume: (effect: Effect.Effect<A, E, R>) => void
  private readonly context: Context.Context<unknown>
  /** What stops the operation, once it has begun in this life. */
  private stop: ((ended: () => void) => void) | null = null

  constructor(
    spec: OperationSpec<A, E, R>,
    begun: Begun,
    operation: Operation,
    resume: (effect: Effect.Effect<A, E, R>) => void
  ) {
    this.operation = operation
    this.spec = spec
    this.begun = begun
    this.resume = resume
    this.context = begun.fiber.currentContext as Context.Context<unknown>
  }

  answer(record: StepRow): void {
    const { begun: { branch }, context, spec } = this
    spec.recorded?.(record, branch, context)
    this.resume(spec.answer(record, branch))
  }

  release(): void {
    this.resume(this.begun.branch.run.parked)
  }

  voided(record: StepRow): void {
    const { begun: { branch }, context, spec } = this
    spec.recorded?.(record, branch, context)
    spec.voided?.(record, branch)
  }

  begin(): void {
    if (this.begun.branch.run.household.attendant.mayBegin(this.operation)) {
      this.stop = this.spec.begin(this.begun)
    }
  }

  /** The body stops waiting, and goes on when the operation has let go. */
  get cut(): Effect.Effect<void> {
    const { run } = this.begun.branch
    return Effect.async<void>((resume) => {
      const { ended } = run.sequencer.cut(this, () => resume(Effect.void), () => resume(run.parked))
      this.letGo(ended)
    })
  }

  private letGo(ended: () => void) {
    if (this.stop !== null) {
      this.stop(ended)
    } else if (this.spec.abandoned === undefined) {
      ended()
    } else {
      this.spec.abandoned(this.begun, ended)
    }
  }
}

/** Runs an effect that a body may run in a step only. A run that has left gets no answer at all. */
export const outsideBody = <A, E, R>(
  called: string,
  self: Effect.Effect<A, E, R>,
  detail = "it was called in the body, where a replay would call it again. Wrap it in Step.durable"
): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const place = placeOf(fiber)
    return place._tag === "Branch" || place._tag === "Unreserved"
      ? place.run.refuse(place.run.misplaced(called, detail))
      : self
  })
