/**
 * Children: runs of other workflows that belong to the run whose body starts them.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { ChildCancelled } from "./Errors.js"
import { awaitChild, executeChild, startChild } from "./internal/children.js"
import { type HasInternals, Internals } from "./internal/definition.js"
import { Run } from "./internal/run.js"
import type { Workflow } from "./Workflow.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("perdure/Child")

/**
 * @since 0.1.0
 * @category type ids
 */
export type TypeId = typeof TypeId

type AnyWorkflow<Success extends Schema.Schema.Any, Error extends Schema.Schema.All> = Workflow<
  string,
  Schema.Schema.Any,
  Success,
  Error,
  never
>

/**
 * A child that has been started.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handle<Success extends Schema.Schema.Any, Error extends Schema.Schema.All> {
  readonly [TypeId]: TypeId
  /** The id of the child: `~`, and the key of the operation that started it. */
  readonly workflowId: string
  /** The id of the run that started it. */
  readonly parent: string
  readonly definition: AnyWorkflow<Success, Error>
}

/**
 * What follows the definition: the payload, or nothing where there is none.
 *
 * @since 0.1.0
 * @category models
 */
export type PayloadArgs<Input> = void extends Input ? readonly [payload?: Input] : readonly [payload: Input]

// ---------------------------------------------------------------------------------------------------------------------
// in a body
// ---------------------------------------------------------------------------------------------------------------------

const internalsOf = (definition: object) => (definition as HasInternals)[Internals]

/**
 * Starts a run of another workflow, and waits for its outcome: its success, or its typed failure, which the body may catch. The
 * child is driven by whichever process has its workflow registered. While nothing else goes on, the parent leaves memory, and
 * comes back with the outcome.
 *
 * Fails with `ChildCancelled` if the child was cancelled, or its deadline has passed. A child that is stopped keeps the parent
 * waiting until it has been mended and resumed. If the wait is cut (it has lost a race, a sibling has failed, a timeout), the child
 * is cancelled before the body goes on.
 *
 * A payload that does not fit the schema is a defect.
 *
 * @param definition - the workflow of the child
 * @param payload - as for its `execute`
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Child, Workflow } from "perdure"
 *
 * class NoStock extends Schema.TaggedError<NoStock>()("NoStock", {}) {}
 *
 * const Shipping = Workflow.make({
 *   name: "shipping",
 *   payload: { item: Schema.String },
 *   success: Schema.String,
 *   error: NoStock
 * })
 *
 * const Order = Workflow.make({ name: "order", payload: { item: Schema.String }, success: Schema.String })
 *
 * export const OrderLive = Order.toLayer(({ item }) =>
 *   Child.execute(Shipping, { item }).pipe(
 *     Effect.catchTag("NoStock", () => Effect.succeed("sold out")),
 *     Effect.catchTag("ChildCancelled", () => Effect.succeed("called off"))
 *   )
 * )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const execute = <
  Name extends string,
  Payload extends Schema.Schema.Any,
  Success extends Schema.Schema.Any,
  Error extends Schema.Schema.All,
  Input
>(
  definition: Workflow<Name, Payload, Success, Error, Input>,
  ...[payload]: PayloadArgs<NoInfer<Input>>
): Effect.Effect<
  Schema.Schema.Type<Success>,
  Schema.Schema.Type<Error> | ChildCancelled,
  Run | Schema.Schema.Context<Payload> | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
> =>
  executeChild(`Child.execute(${JSON.stringify(definition.name)})`, internalsOf(definition), payload) as Effect.Effect<
    Schema.Schema.Type<Success>,
    Schema.Schema.Type<Error> | ChildCancelled,
    Run | Schema.Schema.Context<Payload> | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
  >

/**
 * Starts a run of another workflow, and does not wait for it. It outlives the end of its parent, and is cancelled if the parent
 * is cancelled. {@link await} waits for its outcome.
 *
 * A payload that does not fit the schema is a defect.
 *
 * @param definition - the workflow of the child
 * @param payload - as for its `start`
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Child, Step, Workflow } from "perdure"
 *
 * const Report = Workflow.make({ name: "report", payload: { year: Schema.Number }, success: Schema.String })
 *
 * export const program = Effect.gen(function*() {
 *   const report = yield* Child.start(Report, { year: 2026 })
 *   yield* Effect.void.pipe(Step.durable("tell-everybody"))
 *   return yield* Child.await(report)
 * })
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const start = <
  Name extends string,
  Payload extends Schema.Schema.Any,
  Success extends Schema.Schema.Any,
  Error extends Schema.Schema.All,
  Input
>(
  definition: Workflow<Name, Payload, Success, Error, Input>,
  ...[payload]: PayloadArgs<NoInfer<Input>>
): Effect.Effect<Handle<Success, Error>, never, Run | Schema.Schema.Context<Payload>> =>
  Effect.zipWith(
    startChild(`Child.start(${JSON.stringify(definition.name)})`, internalsOf(definition), payload),
    Run,
    (workflowId, run) => ({ [TypeId]: TypeId, workflowId, parent: run.workflowId, definition })
  ) as Effect.Effect<Handle<Success, Error>, never, Run | Schema.Schema.Context<Payload>>

const await_ = <Success extends Schema.Schema.Any, Error extends Schema.Schema.All>(
  handle: Handle<Success, Error>
): Effect.Effect<
  Schema.Schema.Type<Success>,
  Schema.Schema.Type<Error> | ChildCancelled,
  Run | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
> =>
  awaitChild(
    `Child.await(${JSON.stringify(handle.definition.name)})`,
    internalsOf(handle.definition),
    handle
  ) as Effect.Effect<
    Schema.Schema.Type<Success>,
    Schema.Schema.Type<Error> | ChildCancelled,
    Run | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
  >

export {
  /**
   * Waits for the outcome of a child that {@link start} has started in this run: its success, or its typed failure, or
   * `ChildCancelled`. If the wait is cut, the child goes on. It may be awaited any number of times.
   *
   * @param handle - as {@link start} gave it
   * @example
   * ```ts
   * import { Effect, Schema } from "effect"
   * import { Branch, Child, Workflow } from "perdure"
   *
   * const Report = Workflow.make({ name: "report", payload: { year: Schema.Number }, success: Schema.String })
   *
   * // The report goes on after the hour, although nobody waits for it any more.
   * export const program = Child.start(Report, { year: 2026 }).pipe(
   *   Effect.flatMap((report) => Branch.timeout(Child.await(report), "1 hour"))
   * )
   * ```
   *
   * @since 0.1.0
   * @category body
   */
  await_ as await
}
