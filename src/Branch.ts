/**
 * Branches: lines of control of a run that go on side by side, each with keys of its own.
 *
 * The functions take the shapes and options of the Effect functions of the same names. They reserve a sequence for each
 * branch, in order, before anything is forked; that is what makes the keys the same in every run.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Predicate from "effect/Predicate"
import type { Concurrency, NoExcessProperties } from "effect/Types"
import { placed } from "./internal/operation.js"
import { Branch, inBranch } from "./internal/place.js"
import type { Run } from "./internal/run.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

type AnyEffect = Effect.Effect<any, any, any>

/**
 * The options of `Effect.all`.
 *
 * @since 0.1.0
 * @category models
 */
export interface AllOptions {
  readonly concurrency?: Concurrency | undefined
  readonly batching?: boolean | "inherit" | undefined
  readonly discard?: boolean | undefined
  readonly mode?: "default" | "validate" | "either" | undefined
  readonly concurrentFinalizers?: boolean | undefined
}

/**
 * The options of `Effect.forEach`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ForEachOptions {
  readonly concurrency?: Concurrency | undefined
  readonly batching?: boolean | "inherit" | undefined
  readonly discard?: boolean | undefined
  readonly concurrentFinalizers?: boolean | undefined
}

type InRun<Eff> = Eff extends Effect.Effect<infer A, infer E, infer R> ? Effect.Effect<A, E, R | Run> : never

/**
 * A collection of effects, each bound to its branch, in the shape it had.
 *
 * @since 0.1.0
 * @category models
 */
export type Reserved<Arg> = Arg extends ReadonlyArray<AnyEffect> ? { -readonly [K in keyof Arg]: Arg[K] }
  : Arg extends Iterable<infer Eff> ? Array<Eff>
  : { -readonly [K in keyof Arg]: Arg[K] }

// ---------------------------------------------------------------------------------------------------------------------
// combinators
// ---------------------------------------------------------------------------------------------------------------------

const reserveAll = (called: string, effects: ReadonlyArray<AnyEffect>): Effect.Effect<Array<AnyEffect>> =>
  placed(called, {
    inStep: (place) =>
      place.run.refuse(place.run.misplaced(
        called,
        `branches belong to the body, and step ${
          JSON.stringify(place.stepId)
        } is recorded as a whole. Inside a step use the Effect function of this name`
      )),
    inBranch: (branch) => {
      const { run } = branch
      const { reservation } = run.household.limits
      if (effects.length > reservation) {
        return run.refuse(run.exceeded(`the number of branches reserved by ${called}`, reservation, effects.length))
      }
      const first = branch.take(effects.length)
      const unbegun = new Set<string>()
      return Effect.succeed(effects.map((effect, i) => {
        const child = new Branch(run, `${branch.prefix}${first + i}.`, branch, unbegun)
        return inBranch(effect, child, () =>
          run.refuse(run.misplaced(
            called,
            `the effect of ${child.name} was started a second time while it was running. Reserve a sequence for each start`
          )))
      }))
    }
  })

const reserve_ = (called: string, collection: Iterable<AnyEffect> | Record<string, AnyEffect>): Effect.Effect<any> => {
  if (Predicate.isIterable(collection)) {
    return reserveAll(called, Array.from(collection))
  }
  const keys = Object.keys(collection)
  return Effect.map(
    reserveAll(called, Object.values(collection)),
    (bound) => Object.fromEntries(keys.map((key, i) => [key, bound[i]]))
  )
}

/**
 * Reserves a sequence for each effect, in order, and answers with the effects bound to their branches, in the shape they came
 * in. Plain `Effect.all(…, { concurrency: 3 })` or `Effect.race` may then run them.
 *
 * A bound effect may be run again after it has ended, and its branch goes on counting; while it runs, another start of it
 * stops the run.
 *
 * @param collection - a tuple, a struct or an iterable of effects; at most 100,000 (see `Engine.layerWith`)
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * const page = (n: number) => Effect.succeed(`page ${n}`).pipe(Step.durable("fetch-page"))
 *
 * export const pages = Branch.reserve([page(1), page(2), page(3)]).pipe(
 *   Effect.flatMap((bound) => Effect.all(bound, { concurrency: 2 }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const reserve = <const Arg extends Iterable<AnyEffect> | Record<string, AnyEffect>>(
  collection: Arg
): Effect.Effect<Reserved<Arg>, never, Run> => reserve_("Branch.reserve", collection)

/**
 * `Effect.all`, each effect in a branch of its own: the same shapes (tuple, struct, iterable) and options (`concurrency`,
 * `discard`, `mode`, `batching`, `concurrentFinalizers`).
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const both = Branch.all({
 *   laptop: Effect.succeed("MB-1").pipe(Step.durable("provision-laptop")),
 *   access: Effect.succeed("badge").pipe(Step.durable("provision-access"))
 * }, { concurrency: "unbounded" })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const all = <
  const Arg extends Iterable<AnyEffect> | Record<string, AnyEffect>,
  O extends NoExcessProperties<AllOptions, O>
>(
  arg: Arg,
  options?: O
): InRun<Effect.All.Return<Arg, O>> =>
  Effect.flatMap(reserve_("Branch.all", arg), (bound) => Effect.all(bound, options)) as InRun<
    Effect.All.Return<Arg, O>
  >

/**
 * `Effect.forEach`, each element in a branch of its own: the same options.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const greetings = Branch.forEach(
 *   ["ada", "grace"],
 *   (name) => Effect.succeed(`Hello, ${name}`).pipe(Step.durable("greet")),
 *   { concurrency: 2 }
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const forEach: {
  <A, B, E, R>(
    f: (a: A, i: number) => Effect.Effect<B, E, R>,
    options: ForEachOptions & { readonly discard: true }
  ): (self: Iterable<A>) => Effect.Effect<void, E, R | Run>
  <A, B, E, R>(
    f: (a: A, i: number) => Effect.Effect<B, E, R>,
    options?: ForEachOptions & { readonly discard?: false | undefined }
  ): (self: Iterable<A>) => Effect.Effect<Array<B>, E, R | Run>
  <A, B, E, R>(
    self: Iterable<A>,
    f: (a: A, i: number) => Effect.Effect<B, E, R>,
    options: ForEachOptions & { readonly discard: true }
  ): Effect.Effect<void, E, R | Run>
  <A, B, E, R>(
    self: Iterable<A>,
    f: (a: A, i: number) => Effect.Effect<B, E, R>,
    options?: ForEachOptions & { readonly discard?: false | undefined }
  ): Effect.Effect<Array<B>, E, R | Run>
} = dual(
  (args) => Predicate.isIterable(args[0]),
  <A, B, E, R>(self: Iterable<A>, f: (a: A, i: number) => Effect.Effect<B, E, R>, options?: ForEachOptions) =>
    Effect.flatMap(
      reserveAll("Branch.forEach", Array.from(self, (a, i) => Effect.suspend(() => f(a, i)))),
      (bound) => Effect.all(bound, options)
    )
)

/**
 * `Effect.race`, both effects in branches of their own: the first success wins, and the other one is interrupted. The winner is
 * a function of the recorded order, so a replay has the same one.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const fastest = Branch.race(
 *   Effect.succeed("mirror 1").pipe(Step.durable("ask-mirror-1")),
 *   Effect.succeed("mirror 2").pipe(Step.durable("ask-mirror-2"))
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const race: {
  <A2, E2, R2>(
    that: Effect.Effect<A2, E2, R2>
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A | A2, E | E2, R | R2 | Run>
  <A, E, R, A2, E2, R2>(
    self: Effect.Effect<A, E, R>,
    that: Effect.Effect<A2, E2, R2>
  ): Effect.Effect<A | A2, E | E2, R | R2 | Run>
} = dual(2, <A, E, R, A2, E2, R2>(self: Effect.Effect<A, E, R>, that: Effect.Effect<A2, E2, R2>) =>
  Effect.flatMap(
    reserveAll("Branch.race", [self, that]),
    ([first, second]) => Effect.race(first as Effect.Effect<A, E, R>, second as Effect.Effect<A2, E2, R2>)
  ))

/**
 * `Effect.raceAll`, each effect in a branch of its own.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const fastest = Branch.raceAll(
 *   [1, 2, 3].map((n) => Effect.succeed(`mirror ${n}`).pipe(Step.durable("ask-mirror")))
 * )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const raceAll = <Eff extends AnyEffect>(
  effects: Iterable<Eff>
): Effect.Effect<Effect.Effect.Success<Eff>, Effect.Effect.Error<Eff>, Effect.Effect.Context<Eff> | Run> =>
  Effect.flatMap(reserveAll("Branch.raceAll", Array.from(effects)), Effect.raceAll)

/**
 * `Effect.timeout`, the effect and the timer in branches of their own: if the effect has not ended in time it is interrupted, and
 * the failure is a `TimeoutException`. The timer is durable: the time counts from the call, through any number of restarts.
 *
 * For a limit on each attempt of one step, `Effect.timeout` inside the step is simpler.
 *
 * @param duration - how long the effect may take, by the run's own time
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const approved = (approval: Effect.Effect<string>) =>
 *   approval.pipe(
 *     Step.durable("wait-for-approval"),
 *     Branch.timeout("3 days"),
 *     Effect.catchTag("TimeoutException", () => Effect.succeed("nobody answered"))
 *   )
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const timeout: {
  (
    duration: Duration.DurationInput
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Cause.TimeoutException, R | Run>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.DurationInput
  ): Effect.Effect<A, E | Cause.TimeoutException, R | Run>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, duration: Duration.DurationInput) =>
  Effect.flatMap(
    reserveAll("Branch.timeout", [self, Effect.sleep(duration)]),
    ([work, timer]) =>
      Effect.raceFirst(
        work as Effect.Effect<A, E, R>,
        Effect.flatMap(
          timer as Effect.Effect<void>,
          () => new Cause.TimeoutException(`It took longer than ${Duration.format(duration)}`)
        )
      )
  ))

/**
 * `Effect.fork`, the effect in a branch of its own. The fiber ends with the one that forked it; {@link join} waits for it.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const both = Effect.gen(function*() {
 *   const report = yield* Effect.succeed("report").pipe(Step.durable("write-report"), Branch.fork)
 *   yield* Effect.void.pipe(Step.durable("tell-everybody"))
 *   return yield* Branch.join(report)
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const fork = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<Fiber.RuntimeFiber<A, E>, never, R | Run> =>
  Effect.flatMap(reserveAll("Branch.fork", [self]), ([bound]) => Effect.fork(bound as Effect.Effect<A, E, R>))

/**
 * `Fiber.join` of what {@link fork} has started: waits for its end, and ends as it did. Takes no sequence.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Branch, Step } from "perdure"
 *
 * export const joined = Effect.succeed(1).pipe(Step.durable("one"), Branch.fork, Effect.flatMap(Branch.join))
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const join = <A, E>(fiber: Fiber.Fiber<A, E>): Effect.Effect<A, E, Run> => Fiber.join(fiber)
