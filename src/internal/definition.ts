/** What a workflow's definition knows of itself and does not show. */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { PayloadInvalid } from "../Errors.js"
import { digest } from "./digest.js"
import { canonical } from "./json.js"
import type { OutcomeSchemas } from "./run.js"
import { encodeGiven, TooLarge } from "./values.js"

type AnySchema = Schema.Schema<unknown, unknown, unknown>

/** Where a definition carries its {@link Definition}. */
export const Internals: unique symbol = Symbol.for("perdure/Workflow/internals")

/** A payload, ready to be recorded. */
export interface PreparedPayload {
  readonly value: unknown
  /** JSON text. */
  readonly text: string | null
  readonly fingerprint: string
}

export interface Definition {
  readonly name: string
  readonly version: string | null
  readonly outcome: OutcomeSchemas
  /** The payload that a caller's input stands for; may throw. */
  readonly construct: (input: unknown) => unknown
  readonly prepare: (
    input: unknown,
    maxBytes: number
  ) => Effect.Effect<PreparedPayload, PayloadInvalid | TooLarge, unknown>
}

export interface HasInternals {
  readonly [Internals]: Definition
}

export const makeDefinition = (options: {
  readonly name: string
  readonly version: string | null
  readonly outcome: OutcomeSchemas
  readonly payloadSchema: AnySchema
  /** Whether the payload was given as fields: then nothing given stands for no fields. */
  readonly hasFields: boolean
}): Definition => {
  const { hasFields, name, outcome, payloadSchema, version } = options
  const invalid = (problem: string) => new PayloadInvalid({ workflow: name, problem })
  const construct = (input: unknown): unknown =>
    "make" in payloadSchema && typeof payloadSchema.make === "function"
      ? payloadSchema.make(hasFields && input === undefined ? {} : input)
      : input
  return {
    name,
    version,
    outcome,
    construct,
    prepare: Effect.fnUntraced(function*(input, maxBytes) {
      const value = yield* Effect.try({ try: () => construct(input), catch: (error) => invalid(String(error)) })
      const text = yield* Effect.mapError(
        encodeGiven(value, payloadSchema, maxBytes),
        (error) => error instanceof TooLarge ? error : invalid(`it is ${error.message}`)
      )
      return { value, text, fingerprint: digest([canonical(text)]) }
    })
  }
}
