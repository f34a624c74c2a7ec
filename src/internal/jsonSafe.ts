/** What the compiler checks of values that are recorded without a schema, and what it says. */
import type * as Schema from "effect/Schema"

type Primitive = string | number | boolean | null | undefined | void

type Rich =
  | Date
  | ((...args: any) => any)
  | (abstract new(...args: any) => any)
  | ReadonlyMap<any, any>
  | ReadonlySet<any>
  | bigint
  | symbol
  | Uint8Array

export type JsonValue = Primitive | ReadonlyArray<JsonValue> | { readonly [key: string]: JsonValue }

/**
 * The type itself where it is JSON-safe, `never` where it is not. Homomorphic, so that recursive interfaces end.
 *
 * `object` may be anything. It is told from `{}`, which is what an empty literal is, by what a string can be assigned to.
 */
export type JsonSafe<A> = 0 extends 1 & A ? A
  : A extends Primitive ? A
  : [A] extends [JsonValue] ? A
  : A extends Rich ? never
  : A extends ReadonlyArray<any> ? { readonly [K in keyof A]: JsonSafe<A[K]> }
  : A extends object ? [keyof A] extends [never] ? string extends A ? A : never
    : { readonly [K in keyof A]: JsonSafe<A[K]> }
  : never

/** The way back tells a class with private fields, which a mapped type does not have. */
export type IsJson<A> = [A] extends [JsonValue] ? true
  : [A] extends [JsonSafe<A>] ? [JsonSafe<A>] extends [A] ? true : false
  : false

export interface NeedsSuccessSchema<A> {
  readonly "the result is not plain JSON: pass a `success` schema for it": A
}

export interface NeedsSuccessSchemaAlways<A> {
  readonly "the result is not plain JSON, and these options may be without a schema: pass a `success` schema in every case":
    A
}

export interface SuccessSchemaDiffers<A, B> {
  readonly "the effect's result does not fit the `success` schema": { readonly result: A; readonly schema: B }
}

export interface NeedsErrorSchema<E> {
  readonly "the effect can fail: pass an `error` schema to record the failure, or Effect.orDie to let it stop the run":
    E
}

export interface NeedsErrorSchemaAlways<E> {
  readonly "the effect can fail, and these options may be without a schema: pass an `error` schema in every case, or Effect.orDie":
    E
}

export interface ErrorSchemaDiffers<A, B> {
  readonly "the effect's failure does not fit the `error` schema": { readonly failure: A; readonly schema: B }
}

export interface EncodedNotJson<A> {
  readonly "the encoded side of the schema is not plain JSON: use a schema that encodes to JSON (Schema.Date, not Schema.DateFromSelf)":
    A
}

export interface NoSuchOption<Name> {
  readonly "there is no such option": Name
}

/** The encoded side of a schema must be plain JSON, whatever its type side is. */
export type EncodedCheck<S> = [S] extends [Schema.Schema.All]
  ? IsJson<Schema.Schema.Encoded<S>> extends true ? unknown : EncodedNotJson<Schema.Schema.Encoded<S>>
  : unknown

/** The schemas that values pass through where they are recorded. */
export interface OutcomeOptions {
  readonly success?: Schema.Schema.Any
  readonly error?: Schema.Schema.All
}

/** What the options hold under a name: a union where they are one, with `undefined` in it where they may hold nothing. */
type SchemaIn<O, Name extends keyof OutcomeOptions> = O extends unknown ? Name extends keyof O ? O[Name] : undefined
  : never

/** What each of several schemas can take. */
type TypeOfEach<S> = (S extends Schema.Schema.All ? (_: Schema.Schema.Type<S>) => void : never) extends
  (_: infer A) => void ? A : never

type SchemaCheck<A, S, Differs> = [A] extends [TypeOfEach<S>] ? EncodedCheck<S> : Differs

type SuccessCheck<A, S> = [S] extends [undefined] ? IsJson<A> extends true ? unknown : NeedsSuccessSchema<A>
  : [S] extends [Schema.Schema.All] ? SchemaCheck<A, S, SuccessSchemaDiffers<A, TypeOfEach<S>>>
  : IsJson<A> extends true ? SuccessCheck<A, Exclude<S, undefined>>
  : NeedsSuccessSchemaAlways<A>

type ErrorCheck<E, S> = [S] extends [undefined] ? [E] extends [never] ? unknown : NeedsErrorSchema<E>
  : [S] extends [Schema.Schema.All] ? SchemaCheck<E, S, ErrorSchemaDiffers<E, TypeOfEach<S>>>
  : [E] extends [never] ? unknown
  : NeedsErrorSchemaAlways<E>

/** What an effect must also be so that what it ends with can be recorded, with each of the schemas it may be given. */
export type SelfCheck<A, E, O> = SuccessCheck<A, SchemaIn<O, "success">> & ErrorCheck<E, SchemaIn<O, "error">>

type KeyOf<O> = O extends unknown ? keyof O : never

/** What options must also be so that none is ignored. A type parameter takes whatever keys an object literal has. */
export type OptionsCheck<O, Name> = [Exclude<KeyOf<O>, Name>] extends [never] ? unknown
  : NoSuchOption<Exclude<KeyOf<O>, Name>>

type Out<A, S> = S extends Schema.Schema.All ? Schema.Schema.Type<S> : A

/** What comes out again: what the schema decodes to, or the value as it was. */
export type SuccessOut<A, O> = Out<A, SchemaIn<O, "success">>

export type ErrorOut<E, O> = Out<E, SchemaIn<O, "error">>

type ContextOf<S> = S extends Schema.Schema.All ? Schema.Schema.Context<S> : never

export type SchemaR<O> = ContextOf<SchemaIn<O, "success"> | SchemaIn<O, "error">>
