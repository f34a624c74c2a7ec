/** How values cross into records and back: through their schema if they have one, else as plain JSON. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
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

/** The JSON text of a value, or why it has none. */
export const encode = (
  value: unknown,
  schema: AnySchema | null,
  maxBytes: number
): Effect.Effect<string | null, Unrecordable | TooLarge, unknown> =>
  schema === null
    ? encodePlain(value, "not plain JSON, and there is no schema for it", maxBytes)
    : Effect.matchEffect(Schema.encode(schema)(value), {
      onFailure: (error) => Effect.fail(new Unrecordable(`not what the schema describes: ${pretty(error)}`)),
      onSuccess: (encoded) => encodePlain(encoded, "not plain JSON once encoded by its schema", maxBytes)
    })

const encodePlain = (
  value: unknown,
  complaint: string,
  maxBytes: number
): Effect.Effect<string | null, Unrecordable | TooLarge> => {
  const problem = problemOf(value)
  if (problem !== null) {
    return Effect.fail(new Unrecordable(`${complaint}: ${problem}`))
  }
  const text = toText(value)
  // A character has at most three bytes of UTF-8.
  const bytes = text === null || text.length * 3 <= maxBytes ? 0 : Buffer.byteLength(text)
  return bytes > maxBytes ? Effect.fail(new TooLarge(bytes, maxBytes)) : Effect.succeed(text)
}

/** The value of a recorded text, or why the schema does not accept it. */
export const decode = (text: string | null, schema: AnySchema | null): Effect.Effect<unknown, string, unknown> =>
  Effect.suspend(() => {
    const value = fromText(text)
    return schema === null ? Effect.succeed(value) : Effect.mapError(Schema.decodeUnknown(schema)(value), pretty)
  }).pipe(
    // A codec that gave back something else than it was given, or a schema that throws: the body must not be able to swallow it.
    Effect.catchAllDefect((defect) => Effect.fail(`decoding it died: ${describe(Cause.die(defect))}`))
  )

const pretty = (error: ParseResult.ParseError) => ParseResult.TreeFormatter.formatErrorSync(error)
