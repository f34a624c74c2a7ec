/** What a cause says to people. */
import * as Cause from "effect/Cause"

/** Longer than a person reads. */
const maxDetail = 8_000

/** What a cause says, for people. */
export const describe = (cause: Cause.Cause<unknown>): string =>
  Cause.pretty(Cause.isInterruptedOnly(cause) ? Cause.die("it was interrupted from inside") : cause, {
    renderErrorCause: true
  }).slice(0, maxDetail)
