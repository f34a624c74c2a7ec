// The lines that the compiler must refuse are refused by Effect's own diagnostics too.
// @effect-diagnostics missingEffectContext:off
/** What may be a step without a schema, with one, and what comes out. Compiled by `npm run check`; nothing here runs. */
import { type Cause, type Chunk, Effect, type Either, type Option, Schedule, Schema, type Scope } from "effect"
import { type Errors, Step, type Workflow } from "perdure"
import { type Codec, is, type Mailer } from "./is.js"

declare const value: <A>() => Effect.Effect<A>

// ---------------------------------------------------------------------------------------------------------------------
// plain JSON
// ---------------------------------------------------------------------------------------------------------------------

interface Tree {
  readonly value: string
  readonly children: ReadonlyArray<Tree>
}
type Json = string | number | boolean | null | ReadonlyArray<Json> | { readonly [key: string]: Json }
interface Mixed {
  readonly result: Json
  readonly tree?: Tree | undefined
}
interface User {
  readonly id: string
  readonly name?: string
  tags: Array<string>
}
interface Linked {
  next: Linked | null
}
type Branded = string & { readonly Brand: unique symbol }

export const accepted = [
  value<string>().pipe(Step.durable("s")),
  value<number>().pipe(Step.durable("s")),
  value<true>().pipe(Step.durable("s")),
  value<null>().pipe(Step.durable("s")),
  value<undefined>().pipe(Step.durable("s")),
  value<void>().pipe(Step.durable("s")),
  value<never>().pipe(Step.durable("s")),
  value<"a" | 1 | false>().pipe(Step.durable("s")),
  value<Branded>().pipe(Step.durable("s")),
  value<readonly [a: string, b?: number, ...rest: Array<boolean>]>().pipe(Step.durable("s")),
  value<ReadonlyArray<ReadonlyArray<number>>>().pipe(Step.durable("s")),
  value<{ readonly a: { readonly b: number | undefined } }>().pipe(Step.durable("s")),
  value<{}>().pipe(Step.durable("s")),
  value<User>().pipe(Step.durable("s")),
  value<User | null | undefined>().pipe(Step.durable("s")),
  value<Record<string, number>>().pipe(Step.durable("s")),
  value<{ _tag: "A"; a: number } | { _tag: "B"; b: string }>().pipe(Step.durable("s")),
  value<Tree>().pipe(Step.durable("s")),
  value<Linked>().pipe(Step.durable("s")),
  value<Json>().pipe(Step.durable("s")),
  value<Mixed>().pipe(Step.durable("s")),
  value<Record<string, Mixed | User>>().pipe(Step.durable("s")),
  // Whoever writes `any` is believed; the value is checked when the step runs.
  value<any>().pipe(Step.durable("s")),
  value<{ a: any }>().pipe(Step.durable("s"))
]

class Hidden {
  a = 1
  protected b = 2
}

interface BadTree {
  readonly at: Date
  readonly children: ReadonlyArray<BadTree>
}

export const refused = [
  // @ts-expect-error a Date
  value<Date>().pipe(Step.durable("s")),
  // @ts-expect-error a Date, data-first
  Step.durable(value<Date>(), "s"),
  // @ts-expect-error a Date, in the value form
  Step.make({ id: "s", execute: value<Date>() }),
  // @ts-expect-error a nested Date
  value<{ a: Array<{ at: Date }> }>().pipe(Step.durable("s")),
  // @ts-expect-error an optional Date
  value<{ at?: Date }>().pipe(Step.durable("s")),
  // @ts-expect-error one of a union
  value<string | Date>().pipe(Step.durable("s")),
  // @ts-expect-error one of a union of objects
  value<{ a: string } | { b: () => void }>().pipe(Step.durable("s")),
  // @ts-expect-error the rest of a tuple
  value<readonly [string, ...Array<Date>]>().pipe(Step.durable("s")),
  // @ts-expect-error a record
  value<Record<string, Date>>().pipe(Step.durable("s")),
  // @ts-expect-error a recursive interface
  value<BadTree>().pipe(Step.durable("s")),
  // @ts-expect-error a Map
  value<Map<string, number>>().pipe(Step.durable("s")),
  // @ts-expect-error a Set
  value<ReadonlySet<string>>().pipe(Step.durable("s")),
  // @ts-expect-error a function
  value<() => void>().pipe(Step.durable("s")),
  // @ts-expect-error a method
  value<{ run(): void }>().pipe(Step.durable("s")),
  // @ts-expect-error a bigint
  value<bigint>().pipe(Step.durable("s")),
  // @ts-expect-error a symbol
  value<symbol>().pipe(Step.durable("s")),
  // @ts-expect-error bytes
  value<Uint8Array>().pipe(Step.durable("s")),
  // @ts-expect-error a Buffer
  value<Buffer>().pipe(Step.durable("s")),
  // @ts-expect-error a Promise
  value<Promise<number>>().pipe(Step.durable("s")),
  // @ts-expect-error an Error
  value<Error>().pipe(Step.durable("s")),
  // @ts-expect-error a URL
  value<URL>().pipe(Step.durable("s")),
  // @ts-expect-error an object, which may be anything
  value<object>().pipe(Step.durable("s")),
  // @ts-expect-error an object within
  value<{ a?: object | null }>().pipe(Step.durable("s")),
  // @ts-expect-error a class
  value<typeof Hidden>().pipe(Step.durable("s")),
  // @ts-expect-error an instance of a class with fields that are not public
  value<Hidden>().pipe(Step.durable("s")),
  // @ts-expect-error such an instance within
  value<ReadonlyArray<{ a: Hidden }>>().pipe(Step.durable("s")),
  // @ts-expect-error unknown
  value<unknown>().pipe(Step.durable("s")),
  // @ts-expect-error unknown within
  value<{ a: unknown }>().pipe(Step.durable("s")),
  // @ts-expect-error an Option
  value<Option.Option<number>>().pipe(Step.durable("s")),
  // @ts-expect-error an Either
  value<Either.Either<number>>().pipe(Step.durable("s")),
  // @ts-expect-error a Chunk
  value<Chunk.Chunk<number>>().pipe(Step.durable("s"))
]

// ---------------------------------------------------------------------------------------------------------------------
// schemas
// ---------------------------------------------------------------------------------------------------------------------

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { model: Schema.String }) {}
class Declined extends Schema.TaggedError<Declined>()("Declined", {}) {}
declare const order: Effect.Effect<Date, OutOfStock | Declined>
const error = Schema.Union(OutOfStock, Declined)

const piped = order.pipe(Step.durable("order", { success: Schema.Date, error }))
is<Effect.Effect<Date, OutOfStock | Declined, Workflow.Run>>()(piped)

const dataFirst = Step.durable(order, "order", { success: Schema.Date, error })
is<Effect.Effect<Date, OutOfStock | Declined, Workflow.Run>>()(dataFirst)

const made = Step.make({ id: "order", success: Schema.Date, error, execute: order })
is<Effect.Effect<Date, OutOfStock | Declined, Workflow.Run>>()(made)

/** What comes out is what the schema says. */
const wider = value<"a">().pipe(Step.durable("s", { success: Schema.String }))
is<Effect.Effect<string, never, Workflow.Run>>()(wider)

const plain = value<"a">().pipe(Step.durable("s"))
is<Effect.Effect<"a", never, Workflow.Run>>()(plain)

const plainDataFirst = Step.durable(value<"a">(), "s")
is<Effect.Effect<"a", never, Workflow.Run>>()(plainDataFirst)

const plainMade = Step.make({ id: "s", execute: value<"a">() })
is<Effect.Effect<"a", never, Workflow.Run>>()(plainMade)

/** What one of several cases may bring. */
declare const condition: boolean
declare const maybe: Effect.Effect<"a", OutOfStock>
const chosen = (condition ? value<"a">() : maybe).pipe(Step.durable("s", { error: OutOfStock }))
is<Effect.Effect<"a", OutOfStock, Workflow.Run>>()(chosen)

const chosenSchema = value<"a">().pipe(
  Step.durable("s", condition ? { success: Schema.String } : { fingerprint: "f" }),
  Effect.map((a) => a)
)
is<Effect.Effect<string, never, Workflow.Run>>()(chosenSchema)

/** A schema and a result of a type that the caller chooses. */
export const chosenByCaller = <A>(a: A, success: Schema.Schema<A, string>): Effect.Effect<A, never, Workflow.Run> =>
  Effect.succeed(a).pipe(Step.durable("s", { success }))

/** An effect in the middle of a pipe keeps its types. */
const middle = value<number>().pipe(
  Effect.map((n) => ({ n })),
  Step.durable("s", { fingerprint: "v1" }),
  Effect.map(({ n }) => n)
)
is<Effect.Effect<number, never, Workflow.Run>>()(middle)

/** Effect.orDie is the way out for errors that have no schema. */
const orDie = value<number>().pipe(Effect.zipLeft(order), Effect.orDie, Step.durable("s"))
is<Effect.Effect<number, never, Workflow.Run>>()(orDie)

const WithOption = Schema.Struct({ a: Schema.OptionFromSelf(Schema.Number) })

export const schemasRefused = [
  // @ts-expect-error the result is no string
  value<number>().pipe(Step.durable("s", { success: Schema.String })),
  // @ts-expect-error the schema stores a Date
  value<Date>().pipe(Step.durable("s", { success: Schema.DateFromSelf })),
  // @ts-expect-error the schema stores an Option
  value<{ a: Option.Option<number> }>().pipe(Step.durable("s", { success: WithOption })),
  // @ts-expect-error the schema stores unknown
  value<number>().pipe(Step.durable("s", { success: Schema.Unknown })),
  // @ts-expect-error a schema in one case only
  value<Date>().pipe(Step.durable("s", condition ? { success: Schema.Date } : {})),
  // @ts-expect-error a schema that does not fit in one case only
  value<Date>().pipe(Step.durable("s", { success: condition ? Schema.Date : Schema.String })),
  // @ts-expect-error a schema that stores a Date in one case only
  value<Date>().pipe(Step.durable("s", { success: condition ? Schema.Date : Schema.DateFromSelf })),
  // @ts-expect-error an error schema in one case only
  maybe.pipe(Step.durable("s", condition ? { error: OutOfStock } : {})),
  // @ts-expect-error no error schema
  order.pipe(Step.durable("order", { success: Schema.Date })),
  // @ts-expect-error no error schema, data-first
  Step.durable(order, "order", { success: Schema.Date }),
  // @ts-expect-error no error schema, in the value form
  Step.make({ id: "order", success: Schema.Date, execute: order }),
  // @ts-expect-error one of two errors
  order.pipe(Step.durable("order", { success: Schema.Date, error: OutOfStock })),
  // @ts-expect-error the error schema stores a Date
  Effect.fail(new Date()).pipe(Step.durable("s", { error: Schema.DateFromSelf })),
  // @ts-expect-error an error that is any needs a schema too
  Effect.fail(1 as any).pipe(Step.durable("s"))
]

// ---------------------------------------------------------------------------------------------------------------------
// options
// ---------------------------------------------------------------------------------------------------------------------

declare const together: { readonly fingerprint: string; readonly tags?: number }

export const optionsRefused = [
  // @ts-expect-error an option that does not exist
  value<1>().pipe(Step.durable("s", { tags: 1 })),
  // @ts-expect-error an option that does not exist, beside one that does
  value<1>().pipe(Step.durable("s", { fingerprint: "f", tags: 1 })),
  // @ts-expect-error the same, data-first
  Step.durable(value<1>(), "s", { fingerprint: "f", tags: 1 }),
  // @ts-expect-error the same, in the value form
  Step.make({ id: "s", execute: value<1>(), tags: 1 }),
  // @ts-expect-error an option of type any
  value<1>().pipe(Step.durable("s", { fingerprint: "f", tags: "fail" as any })),
  // @ts-expect-error in one case only
  value<1>().pipe(Step.durable("s", condition ? { fingerprint: "f" } : { tags: 1 })),
  // @ts-expect-error an object that was put together before
  value<1>().pipe(Step.durable("s", together)),
  // @ts-expect-error the value form's own
  value<1>().pipe(Step.durable("s", { fingerprint: "f", id: "t" })),
  // @ts-expect-error nothing that undoes
  value<1>().pipe(Step.durable("s", { compensate: 1 })),
  // @ts-expect-error what undoes must not fail
  value<1>().pipe(Step.durable("s", { compensate: () => Effect.fail("no") })),
  // @ts-expect-error what undoes takes another value
  value<1>().pipe(Step.durable("s", { compensate: (_: string) => Effect.void })),
  // @ts-expect-error the same, data-first
  Step.durable(value<1>(), "s", { compensate: (_: string) => Effect.void }),
  // @ts-expect-error the same, in the value form
  Step.make({ id: "s", execute: value<1>(), compensate: (_: string) => Effect.void }),
  // @ts-expect-error no schedule
  value<1>().pipe(Step.durable("s", { retry: 1 })),
  // @ts-expect-error no duration
  value<1>().pipe(Step.durable("s", { timeout: "a while" })),
  // @ts-expect-error neither of the two
  value<1>().pipe(Step.durable("s", { onInterrupted: "again" })),
  // @ts-expect-error a predicate of another error
  maybe.pipe(Step.durable("s", { error: OutOfStock, retry: { while: (_: Date) => true } })),
  // @ts-expect-error a schedule that takes another error
  maybe.pipe(Step.durable("s", { error: OutOfStock, retry: Schedule.recurWhile((_: Date) => true) }))
]

// ---------------------------------------------------------------------------------------------------------------------
// retries, timeouts and interruptions
// ---------------------------------------------------------------------------------------------------------------------

type Failed = OutOfStock | Errors.StepTimeout

const retry = {
  schedule: Schedule.exponential("1 second"),
  times: 3,
  while: (error: OutOfStock) => error._tag === "OutOfStock",
  defects: true
}

is<Effect.Effect<"a", OutOfStock, Workflow.Run>>()(maybe.pipe(Step.durable("s", { error: OutOfStock, retry })))
const retriedDataFirst = Step.durable(maybe, "s", { error: OutOfStock, retry })
is<Effect.Effect<"a", OutOfStock, Workflow.Run>>()(retriedDataFirst)
is<Effect.Effect<"a", OutOfStock, Workflow.Run>>()(
  Step.make({ id: "s", execute: maybe, error: OutOfStock, retry: Schedule.recurs(3) })
)
is<Effect.Effect<"a", Failed, Workflow.Run>>()(
  maybe.pipe(Step.durable("s", { error: OutOfStock, timeout: "1 second" }))
)
is<Effect.Effect<1, Errors.StepTimeout | Errors.StepInterrupted, Workflow.Run>>()(
  value<1>().pipe(Step.durable("s", { timeout: 1_000, onInterrupted: "fail" }))
)
is<Effect.Effect<1, never, Workflow.Run>>()(value<1>().pipe(Step.durable("s", { onInterrupted: "rerun" })))
is<Effect.Effect<1, Errors.StepTimeout, Workflow.Run>>()(
  value<1>().pipe(Step.durable("s", condition ? { timeout: "1 second" } : { fingerprint: "f" }))
)
is<Effect.Effect<1, Errors.StepTimeout | Errors.StepInterrupted, Workflow.Run>>()(
  value<1>().pipe(Step.durable("s", { fingerprint: "f" } as Omit<Step.Options, "success" | "error" | "compensate">))
)

// In each form what undoes knows the value, and what it needs is needed.
export const compensations = [
  value<1>().pipe(Step.durable("s", { compensate: (value) => (is<1>()(value), Effect.void) })),
  maybe.pipe(Step.durable("s", { error: OutOfStock, compensate: (value) => (is<"a">()(value), Effect.void) })),
  maybe.pipe(
    Step.durable("s", {
      error: OutOfStock,
      retry: { while: (error) => error.model === "old" },
      compensate: (value, cause) => (is<"a">()(value), is<Cause.Cause<unknown>>()(cause), Effect.void)
    })
  ),
  Step.durable(value<1>(), "s", { compensate: (value) => (is<1>()(value), Effect.void) }),
  Step.make({ id: "s", execute: value<1>(), compensate: (value) => (is<1>()(value), Effect.void) })
]
const undone = value<1>().pipe(
  Step.durable("s", { compensate: () => Effect.void as Effect.Effect<void, never, Mailer> })
)
is<Effect.Effect<1, never, Mailer | Workflow.Run>>()(undone)

// In each form a predicate knows the step's error.
export const predicates = [
  maybe.pipe(Step.durable("s", { error: OutOfStock, retry: { while: (error) => (is<OutOfStock>()(error), true) } })),
  maybe.pipe(Step.durable("s", { error: OutOfStock, retry: { until: (error) => error.model === "old" } })),
  Step.durable(maybe, "s", { error: OutOfStock, retry: { while: (error) => (is<OutOfStock>()(error), true) } }),
  Step.make({
    id: "s",
    execute: maybe,
    error: OutOfStock,
    retry: { while: (error) => (is<OutOfStock>()(error), true) }
  }),
  maybe.pipe(
    Effect.map((name) => name.length),
    Step.durable("s", { error: OutOfStock, retry: { while: (error) => (is<OutOfStock>()(error), true) } }),
    Effect.map((length) => is<number>()(length))
  )
]

// What a schedule or a predicate needs, the step needs.
declare const needySchedule: Schedule.Schedule<number, unknown, Mailer>
declare const ask: Effect.Effect<boolean, never, Mailer>
is<Effect.Effect<1, never, Workflow.Run | Mailer>>()(value<1>().pipe(Step.durable("s", { retry: needySchedule })))
is<Effect.Effect<1, never, Workflow.Run | Mailer>>()(
  value<1>().pipe(Step.durable("s", { retry: { schedule: needySchedule } }))
)
is<Effect.Effect<1, never, Workflow.Run | Mailer>>()(
  value<1>().pipe(Step.durable("s", { retry: { while: () => ask } }))
)

// ---------------------------------------------------------------------------------------------------------------------
// requirements
// ---------------------------------------------------------------------------------------------------------------------

declare const needy: Effect.Effect<string, never, Mailer | Scope.Scope | Step.Current | Workflow.Run>
declare const Sealed: Schema.Schema<string, string, Codec>

const needed = needy.pipe(Step.durable("s", { success: Sealed }))
is<Effect.Effect<string, never, Mailer | Codec | Workflow.Run>>()(needed)

const failing = Effect.fail("no").pipe(Step.durable("s", { error: Sealed }))
is<Effect.Effect<never, string, Codec | Workflow.Run>>()(failing)

// @ts-expect-error Step.attempt is known in a step only
export const outside: Effect.Effect<number, never, Workflow.Run> = Step.attempt
// @ts-expect-error Step.idempotencyKey too
export const keyOutside: Effect.Effect<string, never, Workflow.Run> = Step.idempotencyKey
// @ts-expect-error Step.fence too
export const fenceOutside: Effect.Effect<number, never, Workflow.Run> = Step.fence
// @ts-expect-error a step needs a run around it
export const alone: Effect.Effect<string> = plain

// ---------------------------------------------------------------------------------------------------------------------
// transactions
// ---------------------------------------------------------------------------------------------------------------------

const written = value<number>().pipe(Step.transaction("s"))
is<Effect.Effect<number, never, Workflow.Run>>()(written)

const writtenAt = Step.transaction(value<Date>(), "s", { success: Schema.Date, timeout: "1 second", fingerprint: "f" })
is<Effect.Effect<Date, never, Workflow.Run>>()(writtenAt)

export const refusedTransactions = [
  // @ts-expect-error a Date
  value<Date>().pipe(Step.transaction("s")),
  // @ts-expect-error a failure without a schema
  (value<number>() as Effect.Effect<number, "no">).pipe(Step.transaction("s")),
  // @ts-expect-error an option that does not exist
  value<number>().pipe(Step.transaction("s", { retry: 3 }))
]
