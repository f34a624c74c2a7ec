/** The clock that a body has: it tells the time, and refuses to sleep, because a sleep that is not recorded starts anew after each restart. */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import { outsideBody } from "./operation.js"

/** Refuses to sleep in a body; in a step, and outside, it is the clock given. */
export const bodyClock = (real: Clock.Clock): Clock.Clock => ({
  [Clock.ClockTypeId]: Clock.ClockTypeId,
  unsafeCurrentTimeMillis: () => real.unsafeCurrentTimeMillis(),
  unsafeCurrentTimeNanos: () => real.unsafeCurrentTimeNanos(),
  currentTimeMillis: real.currentTimeMillis,
  currentTimeNanos: real.currentTimeNanos,
  sleep: (duration: Duration.Duration) =>
    outsideBody(
      "A sleep",
      real.sleep(duration),
      "it was called in the body, and would begin anew with each restart (Effect.sleep, Effect.delay, Effect.timeout, and the delays of schedules sleep). Sleep inside a step"
    )
})
