/** What the compiler checks of values that are recorded without a schema, and what it says. */
import type * as Schema from "effect/Schema"

type Primitive = string | number | boolean | null | undefined | void

type Rich =
  | Date
  | ((...args: any) => any)
  | ReadonlyMap<any, any>
  | ReadonlySet<any>
  | bigint
  | symbol
  | Uint8Array

export type JsonValue = Primitive | ReadonlyArray<JsonValue> | { readonly [key: string]: JsonValue }

/** The type itself where it is JSON-safe, `never` where it is not. Homomorphic, so that recursive interfaces end. */
export type JsonSafe<A> = 0 extends 1 & A ? A
  : A extends Primitive ? A
  : [A] extends [JsonValue] ? A
  : A extends Rich ? never
  : A extends ReadonlyArray<any> ? { readonly [K in keyof A]: JsonSafe<A[K]> }
  : A extends object ? { readonly [K in keyof A]: JsonSafe<A[K]> }
  : never

export type IsJson<A> = [A] extends [JsonValue] ? true : [A] extends [JsonSafe<A>] ? true : false

export interface NeedsSuccessSchema<A> {
  readonly "the result is not plain JSON: pass a `success` schema for it": A
}

export interface SuccessSchemaDiffers<A, B> {
  readonly "the effect's result does not fit the `success` schema": { readonly result: A; readonly schema: B }
}

export interface NeedsErrorSchema<E> {
  readonly "the effect can fail: pass an `error` schema to record the failure, or Effect.orDie to let it stop the run":
    E
}

export interface ErrorSchemaDiffers<A, B> {
  readonly "the effect's failure does not fit the `error` schema": { readonly failure: A; readonly schema: B }
}

export interface EncodedNotJson<A> {
  readonly "the encoded side of the schema is not plain JSON: use a schema that encodes to JSON (Schema.Date, not Schema.DateFromSelf)":
    A
}

/** The encoded side of a schema must be plain JSON, whatever its type side is. */
export type EncodedCheck<S> = S extends Schema.Schema.All
  ? IsJson<Schema.Schema.Encoded<S>> extends true ? unknown : EncodedNotJson<Schema.Schema.Encoded<S>>
  : unknown

export type SuccessCheck<A, O> = O extends { readonly success: infer S extends Schema.Schema.Any }
  ? [A] extends [Schema.Schema.Type<S>] ? EncodedCheck<S> : SuccessSchemaDiffers<A, Schema.Schema.Type<S>>
  : IsJson<A> extends true ? unknown
  : NeedsSuccessSchema<A>

export type ErrorCheck<E, O> = O extends { readonly error: infer S extends Schema.Schema.All }
  ? [E] extends [Schema.Schema.Type<S>] ? EncodedCheck<S> : ErrorSchemaDiffers<E, Schema.Schema.Type<S>>
  : [E] extends [never] ? unknown
  : NeedsErrorSchema<E>

/** What an effect must also be so that what it ends with can be recorded. */
export type SelfCheck<A, E, O> = SuccessCheck<A, O> & ErrorCheck<E, O>

/** The schemas that values pass through where they are recorded. */
export interface OutcomeOptions {
  readonly success?: Schema.Schema.Any
  readonly error?: Schema.Schema.All
}

/** What comes out again: what the schema decodes to, or the value as it was. */
export type SuccessOut<A, O> = O extends { readonly success: infer S extends Schema.Schema.Any } ? Schema.Schema.Type<S>
  : A

export type ErrorOut<E, O> = O extends { readonly error: infer S extends Schema.Schema.All } ? Schema.Schema.Type<S> : E

export type SchemaR<O> =
  | (O extends { readonly success: infer S extends Schema.Schema.All } ? Schema.Schema.Context<S> : never)
  | (O extends { readonly error: infer S extends Schema.Schema.All } ? Schema.Schema.Context<S> : never)
