/** The places at which a test may stop the world. Nothing stands there unless a layer of `CrashSimulator` is provided. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { constant } from "effect/Function"

/**
 * - `step-started`: the step is marked IN_PROGRESS on disk, and its effect has not begun;
 * - `before-commit`: a batch is about to be written;
 * - `after-commit`: a batch is durable, and nobody has been told.
 */
export type FaultPoint = "step-started" | "before-commit" | "after-commit"

export interface FaultPointsShape {
  /** Whether a step has to be marked on disk before its effect begins. */
  readonly active: boolean
  /** `crash` ends the run at hand the way a dead process leaves it; a batch of many runs has none. */
  readonly at: (point: FaultPoint, crash: () => void) => Effect.Effect<void>
}

export class FaultPoints extends Context.Reference<FaultPoints>()("perdure/FaultPoints", {
  defaultValue: constant<FaultPointsShape>({ active: false, at: () => Effect.void })
}) {}
