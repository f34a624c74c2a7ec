/** What a cause says to people. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Either from "effect/Either"

/** Longer than a person reads. */
const maxDetail = 8_000

/** What a cause says, for people. */
export const describe = (cause: Cause.Cause<unknown>): string =>
  printed(
    () =>
      Cause.pretty(Cause.isInterruptedOnly(cause) ? Cause.die("it was interrupted from inside") : cause, {
        renderErrorCause: true
      }),
    // Something in it cannot be printed, such as a bigint within an object.
    () => Chunk.join(Chunk.map(Cause.defects(cause), describeDefect), "\n")
  ).slice(0, maxDetail)

const describeDefect = (defect: unknown): string =>
  printed(() => String(defect), () => "a defect that cannot be printed")

/** A text, or another one if making the first throws: an error may bring a `message` or a `toJSON` of its own. */
const printed = (print: () => string, otherwise: () => string): string => Either.getOrElse(Either.try(print), otherwise)
