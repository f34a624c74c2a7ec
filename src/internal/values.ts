/**
 * How values cross into records and back: through their schema if they have one, else as plain JSON.
 *
 * Most schemas are synchronous, and what comes of them is an `Exit`: whoever goes on from it with {@link follow} spends no operation
 * of a fiber on it. A step crosses here twice.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import { describe } from "./describe.js"
import { fromText, problemOf, toText } from "./json.js"

type AnySchema = Schema.Schema<unknown, unknown, unknown>

/** A value that cannot be recorded; a defect of whoever made it. */
export class Unrecordable extends Error {
  override readonly name = "Unrecordable"
}

/** A value whose text is longer than allowed. */
export class TooLarge extends Error {
  override readonly name = "TooLarge"
  readonly bytes: number
  readonly limit: number

  constructor(bytes: number, limit: number) {
    super(`too large: it has ${bytes} bytes once encoded, and ${limit} are allowed`)
    this.bytes = bytes
    this.limit = limit
  }
}

/** Goes on from an effect: at once, if it is the `Exit` of a success. */
export const follow = <A, E, R, B, E2, R2>(
  self: Effect.Effect<A, E, R>,
  then: {
    readonly onFailure: (error: E) => Effect.Effect<B, E2, R2>
    readonly onSuccess: (value: A) => Effect.Effect<B, E2, R2>
  }
): Effect.Effect<B, E2, R | R2> =>
  Exit.isExit(self) && Exit.isSuccess(self) ? then.onSuccess(self.value as A) : Effect.matchEffect(self, then)

/** The JSON text of a value, or why it has none. */
export const encode = (
  value: unknown,
  schema: AnySchema | null,
  maxBytes: number
): Effect.Effect<string | null, Unrecordable | TooLarge, unknown> =>
  schema === null
    ? encodePlain(value, "not plain JSON, and there is no schema for it", maxBytes)
    : follow(settled(Schema.encode(schema)(value)), {
      onFailure: (error) => Exit.fail(new Unrecordable(`not what the schema describes: ${pretty(error)}`)),
      onSuccess: (encoded) => encodePlain(encoded, "not plain JSON once encoded by its schema", maxBytes)
    })

/** The same for a value that a caller has given, who is told also that encoding it died. */
export const encodeGiven = (
  value: unknown,
  schema: AnySchema,
  maxBytes: number
): Effect.Effect<string | null, Unrecordable | TooLarge, unknown> =>
  Effect.catchAllDefect(
    Effect.suspend(() => encode(value, schema, maxBytes)),
    (defect) => Effect.fail(new Unrecordable(`not to be encoded: ${describe(Cause.die(defect))}`))
  )

/** A synchronous schema answers with an `Either`. */
const settled = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Either.isEither(self) && Either.isRight(self) ? Exit.succeed(self.right as A) : self

const encodePlain = (
  value: unknown,
  complaint: string,
  maxBytes: number
): Exit.Exit<string | null, Unrecordable | TooLarge> => {
  const problem = problemOf(value)
  if (problem !== null) {
    return Exit.fail(new Unrecordable(`${complaint}: ${problem}`))
  }
  const text = toText(value)
  // A character has at most three bytes of UTF-8.
  const bytes = text === null || text.length * 3 <= maxBytes ? 0 : Buffer.byteLength(text)
  return bytes > maxBytes ? Exit.fail(new TooLarge(bytes, maxBytes)) : Exit.succeed(text)
}

/** The value of a recorded text, or why the schema does not accept it. */
export const decode = (text: string | null, schema: AnySchema | null): Effect.Effect<unknown, string, unknown> => {
  // A codec that gave back something else than it was given, or a schema that throws: the body must not be able to swallow it.
  const decoded = Either.try({
    try: () => schema === null ? Exit.succeed(fromText(text)) : settled(Schema.decodeUnknown(schema)(fromText(text))),
    catch: died
  })
  if (Either.isLeft(decoded)) {
    return Exit.fail(decoded.left)
  }
  const value: Effect.Effect<unknown, ParseResult.ParseError, unknown> = decoded.right
  const readable = follow(value, { onFailure: (error) => Exit.fail(pretty(error)), onSuccess: Exit.succeed })
  return Exit.isExit(readable) ? readable : Effect.catchAllDefect(readable, (defect) => Exit.fail(died(defect)))
}

const died = (defect: unknown) => `decoding it died: ${describe(Cause.die(defect))}`

const pretty = (error: ParseResult.ParseError) => ParseResult.TreeFormatter.formatErrorSync(error)
