/** An effect of a body that is undone if the run fails or is cancelled. */
import type * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { placed } from "./operation.js"

const called = "Workflow.withCompensation"

/** For people: what is undone has no name of its own. */
const id = "compensation"

type Compensate<A> = (value: A, cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, unknown>

/** Between the success of the effect and the note of how to undo it nothing can interrupt. */
export const compensated = <A>(
  self: Effect.Effect<A, unknown, unknown>,
  compensate: Compensate<A>
): Effect.Effect<A, any, any> =>
  Effect.uninterruptibleMask((restore) => Effect.tap(restore(self), (value) => noted(value, compensate)))

const noted = <A>(value: A, compensate: Compensate<A>): Effect.Effect<void> =>
  placed(called, {
    inBranch: ({ run }, fiber) =>
      Effect.sync(() => {
        run.compensations.push({
          id,
          context: fiber.currentContext as Context.Context<unknown>,
          effect: (cause) => compensate(value, cause)
        })
      }),
    inStep: (place) =>
      place.run.refuse(place.run.misplaced(
        called,
        `step ${
          JSON.stringify(place.stepId)
        } is recorded as a whole, so a replay would not know what to undo. Call it in the ` +
          "body, or give the step a `compensate` option"
      ))
  })
