/** What ids and names may look like, and how fresh ones are made. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { wholeMillis } from "./wholeMillis.js"

/** Names of steps and workflows, and the ids that callers give, have at most this many bytes. */
export const maxNameBytes = 256

const broken = /[\0\uD800-\uDFFF]/u

/** Says why a text cannot be a name; `null` if it can. */
export const nameProblem = (name: string, maxBytes = maxNameBytes): string | null => {
  if (name.length === 0) {
    return "it is empty"
  }
  // A character has at most three bytes of UTF-8.
  if (name.length * 3 > maxBytes && Buffer.byteLength(name) > maxBytes) {
    return `it has ${Buffer.byteLength(name)} bytes, and ${maxBytes} are allowed`
  }
  return brokenText(name)
}

const brokenText = (text: string) => broken.test(text) ? "it contains a NUL or half a surrogate pair" : null

/** Whether a text has no half of a surrogate pair, which databases and file systems turn into something else. */
export const isWellFormed = (text: string): boolean => !/[\uD800-\uDFFF]/u.test(text)

/** Says why a text cannot be a fingerprint; `null` if it can. */
export const fingerprintProblem = (fingerprint: string): string | null => brokenText(fingerprint)

/** Says why a caller cannot give this id to a run; `null` if it can. */
export const workflowIdProblem = (workflowId: string): string | null =>
  workflowId.startsWith("~") ? "ids that begin with \"~\" are kept for children" : nameProblem(workflowId)

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0")

/**
 * A fresh id that sorts by the time it was made: 48 bits of milliseconds and 80 random ones, as in UUID version 7 (RFC 9562).
 * The time is in it because the default `Random` of two processes may begin with the same seed.
 */
export const freshId: Effect.Effect<string> = Effect.gen(function*() {
  const millis = hex(wholeMillis(yield* Effect.clock), 12)
  const [a, b, c, d] = yield* Effect.all([
    Random.nextIntBetween(0, 0x1000),
    Random.nextIntBetween(0x8000, 0xc000),
    Random.nextIntBetween(0, 0x1000000),
    Random.nextIntBetween(0, 0x1000000)
  ])
  return `${millis.slice(0, 8)}-${millis.slice(8)}-7${hex(a, 3)}-${hex(b, 4)}-${hex(c, 6)}${hex(d, 6)}`
})
