/**
 * The clock that a run has: in its body the run's own time, and sleeps that last through restarts; in a step, and outside, the
 * ordinary clock.
 *
 * It asks the fiber where it is, so that entering a step need not change the clock.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { ActiveRun } from "./activeRun.js"
import { insteadOfForking } from "./operation.js"
import { placeOf } from "./place.js"
import { sleepUntil } from "./sleep.js"

const nanosInMilli = 1_000_000n

export const bodyClock = (real: Clock.Clock): Clock.Clock => {
  /** What is read without an effect is never refused: loggers, spans and pools do that. */
  const runAt = (fiber: Fiber.RuntimeFiber<unknown, unknown>): ActiveRun | null => {
    const place = placeOf(fiber)
    return place._tag === "Branch" || place._tag === "Unreserved" ? place.run : null
  }

  const currentRun = () => Option.match(Fiber.getCurrentFiber(), { onNone: () => null, onSome: runAt })

  const read = <A>(called: string, ofRun: (run: ActiveRun) => A, elsewhere: Effect.Effect<A>): Effect.Effect<A> =>
    Effect.withFiberRuntime((fiber) => {
      const place = placeOf(fiber)
      switch (place._tag) {
        case "Branch":
          return Effect.succeed(ofRun(place.run))
        case "Unreserved":
          return place.run.refuse(place.run.misplaced(
            called,
            `it was called in a fiber that was forked from ${place.from.name} without a reserved sequence, so what it reads would depend on timing. ${insteadOfForking}`
          ))
        default:
          return elsewhere
      }
    })

  return {
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => currentRun()?.time ?? real.unsafeCurrentTimeMillis(),
    unsafeCurrentTimeNanos: () => {
      const run = currentRun()
      return run === null ? real.unsafeCurrentTimeNanos() : BigInt(run.time) * nanosInMilli
    },
    currentTimeMillis: read("Clock.currentTimeMillis", (run) => run.time, real.currentTimeMillis),
    currentTimeNanos: read("Clock.currentTimeNanos", (run) => BigInt(run.time) * nanosInMilli, real.currentTimeNanos),
    sleep: (duration) =>
      Effect.withFiberRuntime((fiber) => {
        const run = runAt(fiber)
        return run === null
          ? real.sleep(duration)
          : sleepUntil("A sleep", run.time + Duration.toMillis(duration))
      })
  }
}
