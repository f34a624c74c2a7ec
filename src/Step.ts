/**
 * Steps: effects whose outcome is recorded, and returned from the record when the run is replayed.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Schedule from "effect/Schedule"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { StepDied, StepInterrupted, StepTimeout } from "./Errors.js"
import type { ErrorOut, OptionsCheck, OutcomeOptions, SchemaR, SelfCheck, SuccessOut } from "./internal/jsonSafe.js"
import { makeRetry } from "./internal/retry.js"
import type { Run } from "./internal/run.js"
import { CurrentStep } from "./internal/run.js"
import type { Compensate } from "./internal/step.js"
import { step } from "./internal/step.js"
import { transactionStep } from "./internal/transactionStep.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * When a step is tried again; the options of `Effect.retry`, and `defects`.
 *
 * - `schedule`: when, and how often. At once and for ever unless given, as in Effect. It gets whatever the attempt ended with: the
 *   failure, a `StepTimeout`, or, with `defects`, a `StepDied`.
 * - `times`: at most so many further attempts.
 * - `while`, `until`: asked of each failure of the step's own, before the schedule is; not of timeouts and deaths.
 * - `defects`: deaths (a defect, an interruption from inside, a result that cannot be recorded) are tried again too.
 *
 * @since 0.1.0
 * @category models
 */
export interface RetryOptions<E = unknown, R = never> {
  readonly schedule?: Schedule.Schedule<unknown, E | StepTimeout | StepDied, R> | undefined
  readonly times?: number | undefined
  readonly while?: ((error: E) => boolean | Effect.Effect<boolean, never, R>) | undefined
  readonly until?: ((error: E) => boolean | Effect.Effect<boolean, never, R>) | undefined
  readonly defects?: boolean | undefined
}

/**
 * What may be said of a step that fails with an `E`.
 *
 * - `success`: how its result is recorded. Needed for anything but plain JSON.
 * - `error`: how its typed failure is recorded. Needed if it can fail.
 * - `fingerprint`: compared on replay; another one than the recorded stops the run with a `NonDeterminismError`. Use it for what makes
 *   this step another step, such as a hash of its input.
 * - `retry`: a `Schedule`, or {@link RetryOptions}, by which a failed attempt is followed by another. Each is recorded, together
 *   with the time at which the next one is due, so that a restart waits for the rest only and the schedule goes on where it was.
 *   An attempt that was cut off by a restart does not count. The failure of the last attempt is the step's outcome.
 * - `timeout`: the time that each attempt has, a `Duration`. One that takes longer is interrupted, and fails with a `StepTimeout`,
 *   which need not be in `error`.
 * - `onInterrupted`: what becomes of an attempt that was cut off, by the death of its process or because the run had to leave it.
 *   `"rerun"`, the default, runs the step again: at least once. With `"fail"` the step fails with a `StepInterrupted`, which need
 *   not be in `error`, and is never run again: at most once. It costs a write before each attempt.
 * - `compensate`: what undoes the step if the run fails with its typed error or is cancelled, given the recorded value and why. It
 *   runs as a step of its own, after those of all later steps. It must not fail: let it retry what may fail, and `Effect.orDie` what
 *   then remains, which stops the run. A step that failed or was cut has no value, and is not compensated; where that matters, wrap
 *   the step in `Effect.uninterruptible`, so that it cannot be cut.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<E = unknown, R = never, A = never> extends OutcomeOptions {
  readonly fingerprint?: string
  readonly retry?: Schedule.Schedule<unknown, E | StepTimeout | StepDied, R> | RetryOptions<E, R>
  readonly timeout?: Duration.DurationInput
  readonly onInterrupted?: "rerun" | "fail"
  readonly compensate?: (value: A, cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, R>
}

/**
 * What may be said of a {@link transaction}: what may be said of a step, and
 *
 * - `timeout`: how long its effect may take, 5 seconds unless given. Meanwhile nobody else writes to a SQLite database. Exceeding it
 *   is a death of the step: nothing is written, and the run stops.
 *
 * @since 0.1.0
 * @category models
 */
export interface TransactionOptions extends OutcomeOptions {
  readonly fingerprint?: string
  readonly timeout?: Duration.DurationInput
}

/**
 * All that a step is, in one value; see {@link make}.
 *
 * @since 0.1.0
 * @category models
 */
export interface Spec<E = unknown, R = never, A = never> extends Options<E, R, A> {
  readonly id: string
  readonly execute: Effect.Effect<unknown, unknown, unknown>
}

/**
 * The step that is running: proof, in the type of an effect, that it runs inside one.
 *
 * @since 0.1.0
 * @category tags
 */
export const Current = CurrentStep

/**
 * @since 0.1.0
 * @category tags
 */
export type Current = CurrentStep

/**
 * The effect that a step is: it runs once, and answers from the record afterwards.
 *
 * @since 0.1.0
 * @category models
 */
export type Durable<A, E, R, O> = Effect.Effect<
  SuccessOut<A, O>,
  ErrorOut<E, O> | Added<O>,
  Exclude<R | RetryR<O> | NeededBy<OptionOf<O, "compensate">>, CurrentStep | Scope.Scope> | SchemaR<O> | Run
>

/** What the options hold under a name, whichever of them it is. */
type OptionOf<O, Name extends keyof Options> = O extends unknown ? Name extends keyof O ? O[Name] : undefined : never

/**
 * The errors that options add to those of the step.
 *
 * @since 0.1.0
 * @category models
 */
export type Added<O> =
  | ([OptionOf<O, "timeout">] extends [undefined] ? never : StepTimeout)
  | (Extract<OptionOf<O, "onInterrupted">, "fail"> extends never ? never : StepInterrupted)

type NeededBy<T> = T extends Schedule.Schedule<infer _, infer __, infer R> ? R
  : T extends (...args: never) => infer Answer ? Answer extends Effect.Effect<infer _, infer __, infer R> ? R : never
  : never

type RetryParts<T> = T extends Schedule.Schedule<infer _, infer __, infer ___> ? T : T[keyof T]

/** While the compiler looks for the type of a predicate among the options, it takes them for all that they may be. */
type CheckOnce<A, E, O, All> = [keyof All] extends [keyof O] ? [All] extends [O] ? unknown : SelfCheck<A, E, O>
  : SelfCheck<A, E, O>

/** What a retry schedule and its predicates need. */
type RetryR<O> = NeededBy<RetryParts<OptionOf<O, "retry">>>

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

/** What a schedule and a predicate take was checked where the step is written. */
const retryOptions = (retry: NonNullable<Options<never, unknown>["retry"]>) =>
  (Schedule.isSchedule(retry) ? { schedule: retry } : retry) as RetryOptions<unknown, unknown>

type AnySchema = Schema.Schema<unknown, unknown, unknown>

const make_ = (
  self: Effect.Effect<unknown, unknown, unknown>,
  id: string,
  options: Options<never, unknown, never> | undefined
) =>
  step(self, {
    id,
    fingerprint: options?.fingerprint ?? null,
    success: (options?.success as AnySchema | undefined) ?? null,
    error: (options?.error as AnySchema | undefined) ?? null,
    retry: options?.retry === undefined ? null : makeRetry(retryOptions(options.retry)),
    timeout: options?.timeout === undefined ? null : Duration.toMillis(options.timeout),
    onInterrupted: options?.onInterrupted ?? "rerun",
    kind: "step",
    compensate: (options?.compensate as Compensate | undefined) ?? null,
    turns: null
  })

/**
 * Makes an effect a step: its outcome is recorded under the step key, and a replay is answered from the record without
 * running it again.
 *
 * A value and a typed failure are recorded and come back as they were; the first run, too, gets the decoded record. A defect,
 * or an interruption from inside, is recorded as well, but not told to the body: it stops the run, and `resume` runs the step
 * again. Each attempt has a `Scope` of its own. A step inside a step is part of the outer one.
 *
 * If the process dies between the effect and its record, the effect runs again: let it be idempotent where that matters.
 *
 * @param id - the name of the step, for people: at most 256 bytes. It need not be unique: the key is made unique by its place.
 * @param options - `success` and `error` schemas, and a `fingerprint`; see {@link Options}
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Step } from "perdure"
 *
 * class CardDeclined extends Schema.TaggedError<CardDeclined>()("CardDeclined", { reason: Schema.String }) {}
 *
 * const charge = (cents: number) =>
 *   cents > 0
 *     ? Effect.succeed({ receipt: `receipt for ${cents}` })
 *     : Effect.fail(new CardDeclined({ reason: "nothing to charge" }))
 *
 * export const payment = charge(4_200).pipe(
 *   Step.durable("charge", { error: CardDeclined }),
 *   Effect.map(({ receipt }) => receipt)
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const durable: {
  // Without options apart: a default for them would keep the compiler from knowing what a predicate among them is asked.
  (id: string): <A, E, R>(self: Effect.Effect<A, E, R> & SelfCheck<A, E, {}>) => Durable<A, E, R, {}>
  <A, E, R>(self: Effect.Effect<A, E, R> & SelfCheck<A, E, {}>, id: string): Durable<A, E, R, {}>
  // Without retries and compensations apart: the effect may then be a union of effects, which a ternary makes.
  <const O extends Options & { readonly retry?: undefined; readonly compensate?: undefined }>(
    id: string,
    options: O & OptionsCheck<O, keyof Options>
  ): <A, E, R>(self: Effect.Effect<A, E, R> & SelfCheck<A, E, O>) => Durable<A, E, R, O>
  <A, E, const O extends Options<NoInfer<E>, unknown, NoInfer<A>>>(
    id: string,
    options: O & OptionsCheck<O, keyof Options>
  ): <R>(self: Effect.Effect<A, E, R> & SelfCheck<A, E, O>) => Durable<A, E, R, O>
  <A, E, R, const O extends Options<NoInfer<E>, unknown, NoInfer<A>>>(
    self: Effect.Effect<A, E, R> & CheckOnce<A, E, O, Options<E, unknown, A>>,
    id: string,
    options: O & OptionsCheck<O, keyof Options>
  ): Durable<A, E, R, O>
} = dual((args) => Effect.isEffect(args[0]), make_)

const transaction_ = (
  self: Effect.Effect<unknown, unknown, unknown>,
  id: string,
  options: TransactionOptions | undefined
) =>
  transactionStep(self, {
    id,
    fingerprint: options?.fingerprint ?? null,
    success: (options?.success as AnySchema | undefined) ?? null,
    error: (options?.error as AnySchema | undefined) ?? null,
    timeout: Duration.toMillis(options?.timeout ?? "5 seconds")
  })

/**
 * Makes an effect that writes to the application's database a step whose writes happen exactly once: they and the record of the
 * step are one transaction. Whenever the process dies, both are there or neither is.
 *
 * It needs a store that shares the `SqlClient` of the effect (`SqliteStepStore.layerClient`); anywhere else the run stops with a
 * `Misplaced` that says so. The effect uses that client as ever; a `sql.withTransaction` inside it is a savepoint. What it does beside
 * (a request, a file) may happen again, as in any step, and is not rolled back: do it in a step of its own.
 *
 * A value commits. A typed failure rolls back what was written, and is then recorded by itself, as the failure of any step. A death
 * rolls back too. Steps inside it are part of it, and a `start` of a workflow commits with it; `execute`, `await` and `Branch` do not
 * belong in it.
 *
 * The transaction begins by taking the lock for writing, so nobody else can write to a SQLite database before it ends: keep it
 * short.
 *
 * @param id - the name of the step, for people: at most 256 bytes
 * @param options - `success` and `error` schemas, a `fingerprint`, and a `timeout` (5 seconds unless given); see
 *   {@link TransactionOptions}
 * @example
 * ```ts
 * import { SqlClient } from "@effect/sql"
 * import { Effect, Schema } from "effect"
 * import { Step } from "perdure"
 *
 * class NoFunds extends Schema.TaggedError<NoFunds>()("NoFunds", {}) {}
 *
 * const withdraw = (account: string, cents: number) =>
 *   Effect.gen(function*() {
 *     const sql = yield* SqlClient.SqlClient
 *     const changed = yield* sql`
 *       UPDATE accounts SET cents = cents - ${cents} WHERE id = ${account} AND cents >= ${cents} RETURNING id
 *     `
 *     return changed.length === 1 ? undefined : yield* new NoFunds()
 *   })
 *
 * export const payment = withdraw("ada", 4_200).pipe(
 *   Effect.catchTag("SqlError", Effect.die),
 *   Step.transaction("withdraw", { error: NoFunds, timeout: "1 second" })
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const transaction: {
  <const O extends TransactionOptions = {}>(
    id: string,
    options?: O & OptionsCheck<O, keyof TransactionOptions>
  ): <A, E, R>(
    self: Effect.Effect<A, E, R> & SelfCheck<A, E, O>
  ) => Durable<A, E, R, Omit<O, "timeout">>
  <A, E, R, const O extends TransactionOptions = {}>(
    self: Effect.Effect<A, E, R> & SelfCheck<A, E, O>,
    id: string,
    options?: O & OptionsCheck<O, keyof TransactionOptions>
  ): Durable<A, E, R, Omit<O, "timeout">>
} = dual((args) => Effect.isEffect(args[0]), transaction_)

/**
 * The value form of {@link durable}: a step with everything about it in one place.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Step } from "perdure"
 *
 * export const today = Step.make({
 *   id: "today",
 *   success: Schema.Date,
 *   execute: Effect.sync(() => new Date())
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, E, R, const O extends Spec<NoInfer<E>, unknown, NoInfer<A>>>(
  spec: O & OptionsCheck<O, keyof Spec> & {
    readonly execute: Effect.Effect<A, E, R> & CheckOnce<A, E, O, Spec<E, unknown, A>>
  }
): Durable<A, E, R, O> => make_(spec.execute, spec.id, spec) as Durable<A, E, R, O>

// ---------------------------------------------------------------------------------------------------------------------
// accessors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The number of the present attempt at the step, from 1. It grows when the process died during an attempt, and when a step
 * that died is run again.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step } from "perdure"
 *
 * export const greet = Step.attempt.pipe(
 *   Effect.map((attempt) => `attempt ${attempt}`),
 *   Step.durable("greet")
 * )
 * ```
 *
 * @since 0.1.0
 * @category accessors
 */
export const attempt: Effect.Effect<number, never, Current> = Effect.map(CurrentStep, (current) => current.attempt)

/**
 * A key for another system that must not do the same thing twice, such as a payment API: 64 hexadecimal digits, the same in
 * every attempt at the step and after every restart, and another one for each other step, run, generation of a run and namespace
 * of a store.
 *
 * A step within a step is part of the outer one, and has its key: add something of your own to tell two calls apart.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step } from "perdure"
 *
 * declare const pay: (request: { cents: number; idempotencyKey: string }) => Effect.Effect<string>
 *
 * export const charge = Step.idempotencyKey.pipe(
 *   Effect.flatMap((idempotencyKey) => pay({ cents: 4_200, idempotencyKey })),
 *   Step.durable("charge")
 * )
 * ```
 *
 * @since 0.1.0
 * @category accessors
 */
export const idempotencyKey: Effect.Effect<string, never, Current> = Effect.map(
  CurrentStep,
  (current) => current.idempotencyKey
)

/**
 * The epoch of the run: a number that is higher each time another worker takes the run over. Hand it to a system that refuses a
 * writer with a lower number than one it has seen, so that a worker that lost the run without knowing it can do no harm there.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step } from "perdure"
 *
 * declare const publish: (page: string, fence: number) => Effect.Effect<void>
 *
 * export const published = Step.fence.pipe(
 *   Effect.flatMap((fence) => publish("index.html", fence)),
 *   Step.durable("publish")
 * )
 * ```
 *
 * @since 0.1.0
 * @category accessors
 */
export const fence: Effect.Effect<number, never, Current> = Effect.map(CurrentStep, (current) => current.epoch)
