/** The time as it is recorded. */
import type * as Clock from "effect/Clock"

/** The time in whole milliseconds. The clock of a test may stand between two, where a jittered delay has left it. */
export const wholeMillis = (clock: Clock.Clock): number => Math.floor(clock.unsafeCurrentTimeMillis())
