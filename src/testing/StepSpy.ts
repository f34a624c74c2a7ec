/**
 * Sees each attempt at a step in an engine for tests, and puts a failure in the place of those that are chosen. The code that is tested
 * knows nothing of it.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type { Attendant } from "../internal/attendant.js"
import { CurrentStep } from "../internal/run.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * An attempt at a step.
 *
 * @since 0.1.0
 * @category models
 */
export interface Call {
  readonly workflowId: string
  readonly stepId: string
  readonly stepKey: string
  /** From 1. */
  readonly attempt: number
  /** What it has ended with; `null` while it is under way. */
  readonly exit: Exit.Exit<unknown, unknown> | null
}

/**
 * What takes the place of the effect of a step: `Effect.fail` of an error that the step has a schema for, `Effect.die`,
 * `Effect.interrupt`, `Effect.never`, or any other effect that needs nothing.
 *
 * @since 0.1.0
 * @category models
 */
export interface Replacement {
  readonly stepId: string
  /** In the attempt of this number only; in all of them unless given. */
  readonly attempt?: number
  readonly effect: Effect.Effect<unknown, unknown>
}

/**
 * What has been seen, to be given to `TestEngine.layerWith`.
 *
 * @since 0.1.0
 * @category models
 */
export interface StepSpy {
  /** All attempts, in the order in which they began. A step answered from the record makes none. */
  readonly calls: ReadonlyArray<Call>
  /** The attempts at steps of this id. */
  readonly callsOf: (stepId: string) => ReadonlyArray<Call>
  /** From now on an effect takes the place of that of a step. The latest that fits counts. */
  readonly replace: (replacement: Replacement) => void
  /** What the engine asks for. */
  readonly attempt: Attendant["attempt"]
}

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Makes a spy that has seen nothing yet.
 *
 * @param replacements - what takes the place of effects from the beginning
 * @example
 * ```ts
 * import { Effect, Layer, Schema, TestContext } from "effect"
 * import { Step, Workflow } from "perdure"
 * import { StepSpy, TestEngine } from "perdure/testing"
 *
 * const Order = Workflow.make({ name: "order", payload: { id: Schema.String }, success: Schema.String })
 * const OrderLive = Order.toLayer(({ id }) =>
 *   Effect.succeed(`paid ${id}`).pipe(
 *     Step.durable("charge", { error: Schema.String, retry: { times: 3 } }),
 *     Effect.orDie
 *   )
 * )
 *
 * // The first attempt fails, although the code would not.
 * const spy = StepSpy.make([{ stepId: "charge", attempt: 1, effect: Effect.fail("card declined") }])
 *
 * await Order.execute({ id: "7" }).pipe(
 *   Effect.provide(Layer.provideMerge(OrderLive, TestEngine.layerWith({ spy }))),
 *   Effect.provide(TestContext.TestContext),
 *   Effect.runPromise
 * )
 * const attempts = spy.callsOf("charge").map(({ attempt }) => attempt) // [1, 2]
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (replacements: ReadonlyArray<Replacement> = []): StepSpy => {
  /** The latest first. */
  const instead = [...replacements].reverse()
  const calls: Array<Call> = []
  return {
    calls,
    callsOf: (stepId) => calls.filter((call) => call.stepId === stepId),
    replace: (replacement) => void instead.unshift(replacement),
    attempt: (self) =>
      Effect.flatMap(CurrentStep, ({ attempt, stepId, stepKey, workflowId }) => {
        const call = calls.push({ workflowId, stepId, stepKey, attempt, exit: null }) - 1
        const other = instead.find((one) => one.stepId === stepId && (one.attempt ?? attempt) === attempt)
        return Effect.onExit(other === undefined ? self : other.effect, (exit) =>
          Effect.sync(() => {
            calls[call] = { ...calls[call]!, exit }
          }))
      })
  }
}
