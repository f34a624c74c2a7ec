/**
 * The seam for compression and encryption: what happens to a payload between its JSON text and the database.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { constant } from "effect/Function"
import * as Schema from "effect/Schema"

/**
 * A codec could not turn a payload into its stored form, or back.
 *
 * @since 0.1.0
 * @category errors
 */
export class PayloadCodecError extends Schema.TaggedError<PayloadCodecError>()("PayloadCodecError", {
  codec: Schema.String,
  detail: Schema.String
}) {
  override get message() {
    return `The payload codec "${this.codec}" failed: ${this.detail}`
  }
}

/**
 * Turns the JSON text of a payload into the text that is stored, and back.
 *
 * @since 0.1.0
 * @category models
 */
export interface PayloadCodecShape {
  /** Stored beside each payload, so that a later codec can still read what this one wrote. At most 256 bytes. */
  readonly name: string
  /** What it answers must be well-formed Unicode: bytes go in base64. */
  readonly encode: (json: string) => Effect.Effect<string, PayloadCodecError>
  /** `name` is the codec that the record was written with: a new codec decodes the records of the one it replaces. */
  readonly decode: (stored: string, name: string) => Effect.Effect<string, PayloadCodecError>
}

/**
 * Stores payloads as they are.
 *
 * @since 0.1.0
 * @category constructors
 */
export const identity: PayloadCodecShape = {
  name: "identity",
  encode: Effect.succeed,
  decode: (stored, name) =>
    name === "identity"
      ? Effect.succeed(stored)
      : Effect.fail(
        new PayloadCodecError({
          codec: "identity",
          detail: `the record was written with the codec "${name}"; provide that codec to the store's layer`
        })
      )
}

/**
 * The codec that a store uses; the identity unless another is provided to the store's layer.
 *
 * @example
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { PayloadCodec, SqliteStepStore } from "perdure"
 *
 * // Stores payloads in base64 (an encrypting codec has the same shape).
 * const Base64 = Layer.succeed(PayloadCodec.PayloadCodec, {
 *   name: "base64",
 *   encode: (json) => Effect.succeed(Buffer.from(json).toString("base64")),
 *   decode: (stored, name) =>
 *     name === "base64"
 *       ? Effect.succeed(Buffer.from(stored, "base64").toString())
 *       : PayloadCodec.identity.decode(stored, name)
 * })
 *
 * export const StoreLive = SqliteStepStore.layer({ filename: "durable.db" }).pipe(Layer.provide(Base64))
 * ```
 *
 * @since 0.1.0
 * @category references
 */
export class PayloadCodec extends Context.Reference<PayloadCodec>()("perdure/PayloadCodec", {
  defaultValue: constant<PayloadCodecShape>(identity)
}) {}
