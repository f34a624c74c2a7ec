/**
 * Replays histories with the code as it is now, to find out before a deploy whether the runs that are under way survive it.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Engine from "../Engine.js"
import { Operation, StopReason } from "../Errors.js"
import { canonical } from "../internal/json.js"
import type { Workflow } from "../Workflow.js"
import type { Generation, History } from "./History.js"
import { endWords, operationWords } from "./internal/boundary.js"
import { type Replayed, replayRecorded } from "./internal/replaying.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category models
 */
export interface ReplayOptions<E = never, R = Engine.Engine> {
  /** The implementation: what `toLayer` has made. No effect of a step is run, so its services may be any. */
  readonly layer: Layer.Layer<never, E, R>
  /** For how long, in the machine's time, a body is waited for that does nothing. 1 second unless given. */
  readonly patience?: Duration.DurationInput
}

/**
 * What a replay has shown.
 *
 * @since 0.1.0
 * @category models
 */
export interface ReplayReport {
  /** How many recorded outcomes the body was given. */
  readonly operations: number
  /**
   * What the body does next, where the history ends before the run does; `null` where both end.
   */
  readonly next: Operation | null
}

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The code does not do what is recorded: deployed, it would stop such a run, or end it otherwise. The message says what differs.
 *
 * @since 0.1.0
 * @category errors
 */
export class ReplayDiffers extends Schema.TaggedError<ReplayDiffers>()("ReplayDiffers", {
  workflowId: Schema.String,
  workflow: Schema.String,
  detail: Schema.String,
  /** Why the run would stop, if it would. A `NonDeterminismError` shows what is recorded beside what the code asks for. */
  reason: Schema.NullOr(StopReason),
  /** What the code begins although the run has ended without it. */
  requested: Schema.NullOr(Operation)
}) {
  override get message() {
    return `The code of workflow ${JSON.stringify(this.workflow)} does not repeat run ${
      JSON.stringify(this.workflowId)
    }: ` +
      this.detail
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// testing
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Replays a history with the code as it is now. The body runs and is given what is recorded; no effect of a step begins, nothing is
 * written, and no time passes.
 *
 * A run that had ended has to end in the same way, with an equal outcome. Of one that was under way, all that is recorded has to be asked
 * for; what the body would begin then is in the answer. Earlier generations of a run that was continued as new are not replayed: a store
 * does not keep what they began with.
 *
 * @param workflow - the definition
 * @param history - what `History.import` has read
 * @param options - see {@link ReplayOptions}
 * @example
 * ```ts
 * import { Effect, Layer, Schema, TestContext } from "effect"
 * import { Step, Workflow } from "perdure"
 * import { History, replay, TestEngine } from "perdure/testing"
 *
 * const Order = Workflow.make({ name: "order", payload: { id: Schema.String }, success: Schema.String })
 * const before = Order.toLayer(({ id }) => Effect.succeed(`paid ${id}`).pipe(Step.durable("pay")))
 * const after = Order.toLayer(({ id }) => Effect.succeed(`paid ${id}`).pipe(Step.durable("charge")))
 *
 * const json = await Order.execute({ id: "7" }, { workflowId: "order-7" }).pipe(
 *   Effect.zipRight(History.export("order-7")),
 *   Effect.provide(Layer.provideMerge(before, TestEngine.layer)),
 *   Effect.provide(TestContext.TestContext),
 *   Effect.runPromise
 * )
 *
 * // In the test of the changed code: the error shows step "pay" beside step "charge".
 * await Effect.runPromise(Effect.flip(
 *   Effect.flatMap(History.import(json), (history) => replay(Order, history, { layer: after }))
 * ))
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const replay = <
  Name extends string,
  Payload extends Schema.Schema.Any,
  Success extends Schema.Schema.Any,
  Error extends Schema.Schema.All,
  Input,
  E,
  R
>(
  workflow: Workflow<Name, Payload, Success, Error, Input>,
  history: History,
  options: ReplayOptions<E, R>
): Effect.Effect<ReplayReport, ReplayDiffers | E, Exclude<R, Engine.Engine>> =>
  Effect.gen(function*() {
    const { fingerprint, generations, namespace, version, workflow: name, workflowId } = history
    const differs = (detail: string, more: Partial<Pick<ReplayDiffers, "reason" | "requested">> = {}) =>
      new ReplayDiffers({ workflowId, workflow: workflow.name, detail, reason: null, requested: null, ...more })
    if (name !== workflow.name) {
      return yield* differs(`it is a run of workflow ${JSON.stringify(name)}`)
    }
    const present = generations.find(hasInput)
    if (present === undefined) {
      return yield* differs("the history does not say what it was started with")
    }
    const { attempts, generation, history: rows, input: { begunAt, payload }, unfinished } = present
    const replayed = yield* replayRecorded({
      namespace,
      workflowId,
      workflow: name,
      version,
      generation,
      begunAt,
      payload,
      fingerprint,
      history: rows,
      unfinished,
      attempts
    }, {
      layer: options.layer,
      patience: Duration.toMillis(options.patience ?? "1 second"),
      unrepeatable: null
    })
    const report = { operations: rows.length, next: null }
    const ended = history.status === "COMPLETED" || history.status === "FAILED" || history.status === "CANCELLED"
    switch (replayed._tag) {
      case "Stopped":
        return yield* differs(`it would stop. ${replayed.reason.message}`, { reason: replayed.reason })
      case "Stuck":
        return yield* differs("its body waits for what nothing recorded brings")
      case "Began":
        return ended
          ? yield* differs(
            `it would begin ${
              operationWords(replayed.operation)
            } at ${replayed.operation.address}, and the run has ended without that`,
            { requested: replayed.operation }
          )
          : { ...report, next: replayed.operation }
      case "Continued":
        return ended ? yield* differs("it would go on in another generation, and the run has ended") : report
      case "Ended":
        return !ended || sameEnd(replayed, history)
          ? report
          : yield* differs(`it would end as ${endWords(replayed)}, and recorded is ${endWords(history)}`)
    }
  })

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

type AnyGeneration = typeof Generation.Type

const hasInput = (
  generation: AnyGeneration
): generation is AnyGeneration & { readonly input: NonNullable<AnyGeneration["input"]> } =>
  generation.input !== undefined

const sameEnd = (replayed: Extract<Replayed, { readonly _tag: "Ended" }>, { outcome, status }: History) =>
  replayed.status === status && canonical(replayed.outcome) === canonical(outcome)
