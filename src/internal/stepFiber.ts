/** The fiber that a step runs in: how it begins, how its death stops the run, and how it is cut. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { defaultScheduler } from "effect/Scheduler"
import { StepDied } from "../Errors.js"
import type { StepRow } from "../StepStore.js"
import type { LastRows } from "./activeRun.js"
import { forPeople } from "./attempts.js"
import { describe } from "./describe.js"
import type { Begun } from "./operation.js"
import type { InStep } from "./place.js"
import { putAt } from "./place.js"
import type { Encoded } from "./row.js"
import type { StepInfo } from "./run.js"
import { CurrentStep } from "./run.js"
import { unwatched } from "./unwinding.js"
import { TooLarge } from "./values.js"

/** What a step can know of itself. */
export const infoOf = ({ address, branch: { run } }: Begun, stepId: string, attempt: number): StepInfo => ({
  workflowId: run.workflowId,
  stepId,
  stepKey: run.keyOf(address),
  attempt,
  epoch: run.identity.epoch,
  get idempotencyKey() {
    return run.idempotencyKeyOf(address)
  }
})

export const diedOf = (
  { address, branch: { run } }: Begun,
  stepId: string,
  attempt: number,
  cause: Cause.Cause<unknown>
): StepDied => new StepDied({ workflowId: run.workflowId, address, stepId, attempt, detail: describe(cause) })

/** Steps of which one runs at a time, and whose death does not end the run at once. */
export interface Turns {
  readonly enter: (begin: () => void) => void
  readonly died: (address: string, id: string, detail: string, rows: LastRows) => void
  readonly over: () => void
}

export interface StepWork {
  readonly begun: Begun
  /** The number of the first attempt that the fiber makes. */
  readonly attempt: number
  readonly stepKey: string
  readonly place: InStep
  readonly program: Effect.Effect<void, never, unknown>
  /** A row of the attempt under way. */
  readonly row: (outcome: Encoded) => StepRow
  /** Once the record is there, how the fiber ends does not matter. */
  readonly isRecorded: () => boolean
  /** Given: the step is one of those. */
  readonly turns: Turns | null
}

/**
 * Starts a step.
 *
 * @returns what stops it again, and calls back when it has let go
 */
export const runStep = ({ attempt, begun, isRecorded, place, program, row, stepKey, turns }: StepWork) => {
  const { fiber, status } = begun
  const { run, stepId } = place
  const failed = (detail: string) => row({ status: "FAILED", output: null, errorTag: null, error: forPeople(detail) })

  const stepFiber = Runtime.runFork(
    Runtime.make({
      context: Context.add(
        fiber.currentContext as Context.Context<unknown>,
        CurrentStep,
        infoOf(begun, stepId, attempt)
      ),
      fiberRefs: fiber.getFiberRefs(),
      runtimeFlags: unwatched(status.runtimeFlags)
    }),
    run.household.attendant.step(program),
    { scheduler: defaultScheduler, immediate: false, updateRefs: putAt(place) }
  )
  run.began(stepFiber)

  const die = (cause: Cause.Cause<unknown>) => {
    const { attempt, error, startedAt, updatedAt, ...rest } = failed(describe(cause))
    const defect = Option.getOrNull(Cause.dieOption(cause))
    const rows: LastRows = {
      steps: [{ ...rest, attempt, error, startedAt, updatedAt }],
      attempts: [{ stepKey, attempt, startedAt, endedAt: updatedAt, dueAt: null, errorTag: "StepDied", error }]
    }
    if (turns !== null) {
      turns.died(begun.address, stepId, describe(cause), rows)
      return
    }
    run.stop(
      defect instanceof TooLarge
        ? run.exceeded(
          `the number of bytes in the outcome of step ${JSON.stringify(stepId)}`,
          defect.limit,
          defect.bytes
        )
        : diedOf(begun, stepId, attempt, cause),
      rows
    )
  }

  let cut: (() => void) | null = null
  stepFiber.addObserver((exit) => {
    run.attemptEnded(stepKey)
    place.ended = true
    if (Exit.isFailure(exit) && !isRecorded()) {
      if (cut !== null) {
        run.jot(failed("cut: the body stopped waiting for this step"))
      } else if (!run.closed) {
        die(exit.cause)
      }
    }
    cut?.()
    turns?.over()
  })

  return (ended: () => void) => {
    cut = ended
    if (stepFiber.unsafePoll() !== null) {
      ended()
    } else {
      stepFiber.unsafeInterruptAsFork(fiber.id())
    }
  }
}
