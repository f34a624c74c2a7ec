/** Waiting for a point in time. */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/** A timer of the machine holds no more milliseconds than these. */
const longest = 2 ** 31 - 1

/** Waits until a clock shows a time, however far away it is. */
export const sleepUntil = (clock: Clock.Clock, at: number): Effect.Effect<void> =>
  Effect.suspend(() => {
    const rest = at - clock.unsafeCurrentTimeMillis()
    return rest <= 0
      ? Effect.void
      : Effect.zipRight(clock.sleep(Duration.millis(Math.min(rest, longest))), sleepUntil(clock, at))
  })
