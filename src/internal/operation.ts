/** The durable operation: what takes a sequence in a branch, and is answered from the record where there is one. */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as FiberStatus from "effect/FiberStatus"
import type { StepRow } from "../StepStore.js"
import type { ActiveRun } from "./activeRun.js"
import type { AnyFiber, Branch, InStep } from "./place.js"
import { placeOf, runsOn } from "./place.js"
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
    switch (place._tag) {
      case "Branch":
        return place.run.closed ? place.afterwards : on.inBranch(place, fiber, status)
      case "Step":
        return place.ended
          ? place.run.refuse(place.run.misplaced(
            called,
            `it was called in a fiber that went on after step ${
              JSON.stringify(place.stepId)
            } had ended. Wait for that fiber inside the step, or call this in the body`
          ))
          : on.inStep(place)
      case "Unreserved":
        return place.run.refuse(place.run.misplaced(
          called,
          `it was called in a fiber that was forked from ${place.from.name} without a reserved sequence, so its key would depend on timing. ${insteadOfForking}`
        ))
      case "Outside":
        return Effect.dieMessage(
          `${called} was called outside a run. Call it in the body of a workflow, or wrap the program in Workflow.run`
        )
    }
  })

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

/** Goes on where an operation can be recorded, and refuses it elsewhere. */
export const admitted = <A, E, R>(
  spec: Pick<OperationSpec<A, E, R>, "called" | "problem" | "inStep">,
  go: (branch: Branch, fiber: AnyFiber, status: FiberStatus.Running) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  placed(spec.called, {
    inStep: spec.inStep,
    inBranch: (branch, fiber, status) => {
      const client = branch.run.household.sharedClient
      const admit = () => accepted(spec, branch.run, fiber, () => go(branch, fiber, status))
      return client === null
        ? admit()
        : Effect.if(client.isHeld, { onTrue: () => heldUp(spec.called, branch.run), onFalse: admit })
    }
  })

const accepted = <A, E, R>(
  { called, problem }: { readonly called: string; readonly problem: string | null },
  run: ActiveRun,
  fiber: AnyFiber,
  go: () => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  if (problem !== null) {
    return run.refuse(run.misplaced(called, problem))
  }
  if (!runsOn(fiber, run.sequencer.scheduler)) {
    return run.refuse(run.misplaced(
      called,
      "it was called on another scheduler than that of its run, which cannot see when the body is at rest. Use Effect.withScheduler inside a step"
    ))
  }
  return go()
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
  run.reached(`${branch.prefix}${sequence}`)
  const askedAfter = run.sequencer.handedPosition
  const operation = {
    address: `${branch.prefix}${sequence}`,
    kind: spec.kind,
    id: spec.id,
    fingerprint: spec.fingerprint
  }
  const begunOtherwise = run.begunOtherwise(operation)
  if (begunOtherwise !== null) {
    return run.refuse(run.mismatch(begunOtherwise, operation))
  }
  const begun = { branch, address: operation.address, sequence, askedAfter, fiber, status }
  let letGo = (ended: () => void) => {
    if (spec.abandoned === undefined) {
      ended()
    } else {
      spec.abandoned(begun, ended)
    }
  }
  const letGoOf = (wait: Wait) =>
    Effect.async<void>((resume) => {
      const { ended } = run.sequencer.cut(wait, () => resume(Effect.void), () => resume(run.parked))
      letGo(ended)
    })
  // Both ways, live and in replay, suspend exactly once here and once when cut: a fiber yields to others after so many
  // operations, and the count begins anew with each suspension, so that it yields at the same places.
  return Effect.async<A, E, R>((resume) => {
    const context = fiber.currentContext as Context.Context<unknown>
    const wait: Wait = {
      operation,
      answer: (record) => {
        spec.recorded?.(record, branch, context)
        resume(spec.answer(record, branch))
      },
      release: () => resume(run.parked),
      voided: (record) => {
        spec.recorded?.(record, branch, context)
        spec.voided?.(record, branch)
      },
      begin: () => {
        letGo = spec.begin(begun)
      }
    }
    run.sequencer.ask(wait)
    return Effect.suspend(() => run.closed ? run.parked : letGoOf(wait))
  })
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
