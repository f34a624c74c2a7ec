/** The supervisor that a run has: it sees every failure that the fibers of bodies go through. One watches all runs. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Supervisor from "effect/Supervisor"
import { placeOf } from "./place.js"

class BodySupervisor extends Supervisor.AbstractSupervisor<void> {
  override readonly value = Effect.void

  override onEffect<A, E>(fiber: Fiber.RuntimeFiber<A, E>, effect: Effect.Effect<unknown, unknown, unknown>): void {
    // Called for each effect that a body runs, and most are no exit.
    if (!("_tag" in effect && Exit.isExit(effect) && Exit.isFailure(effect))) {
      return
    }
    const place = placeOf(fiber)
    if (place._tag !== "Outside") {
      Option.map(Cause.dieOption(effect.cause), (defect) => place.run.unwinding.throws(defect))
    }
  }
}

export const bodySupervisor = new BodySupervisor()

/** The flags of a body: it is watched. */
export const watched = RuntimeFlags.enable(RuntimeFlags.OpSupervision)

/** The flags of a step that begins in a body: nobody watches it. */
export const unwatched = RuntimeFlags.disable(RuntimeFlags.OpSupervision)
