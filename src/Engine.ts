/**
 * The engine: drives the runs of the workflows registered in it, inside the process of the application.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { StoreError } from "./Errors.js"
import { make } from "./internal/engine.js"
import { defaultLimits } from "./internal/limits.js"
import { Engine as EngineTag } from "./internal/run.js"
import type { StepStore } from "./StepStore.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * How an engine behaves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /**
   * How long a replay waits for the body to ask for the next recorded outcome before the run stops with a
   * `NonDeterminismError`. 30 seconds unless given; only a body that awaits something outside a step needs any of it.
   */
  readonly unrequestedAfter?: Duration.DurationInput
  /**
   * How long a body may wait, with no step under way, before the run stops as deadlocked. 5 minutes unless given.
   */
  readonly deadlockAfter?: Duration.DurationInput
  /**
   * How long a run that waits for a time, a signal or a child rests in memory before it leaves it. 1 second unless given. A shorter
   * wait is waited in memory.
   */
  readonly parkGrace?: Duration.DurationInput
  /** How often the engine looks for what it was not told of, such as the death of another worker. 5 seconds unless given. */
  readonly slowPoll?: Duration.DurationInput
  /** How often the engine shows the others that it goes on; the same in all processes. 2 seconds unless given. */
  readonly heartbeat?: Duration.DurationInput
  /**
   * After how many of its own heartbeats without one of theirs the engine takes the runs of a worker that hangs. 10 unless given.
   */
  readonly missedBeats?: number
  /**
   * Whether the engine has the timers of `slowPoll` and `heartbeat`, and the store its poll for what other processes write. A test
   * that moves its own clock says `false`: then what happens outside the process, or is lost, is not noticed. `true` unless given.
   */
  readonly housekeeping?: boolean
  /**
   * The most runs of workflows that may live in this process at a time, at least 1; those above it wait for room, here or
   * elsewhere. Runs of `Workflow.run` do not count. 1,000 unless given.
   */
  readonly maxResidentRuns?: number
  /**
   * How long steps in flight have to end when the engine, or the layer of their workflow, closes; a run with none leaves at once.
   * 10 seconds unless given. What is cut off then runs again elsewhere.
   */
  readonly shutdownGrace?: Duration.DurationInput
  /** What is too large. */
  readonly limits?: {
    /** The most bytes that a value may have once it is encoded. 16 MiB unless given. */
    readonly value?: number
    /** The most operations that a run may record. 1,000,000 unless given. */
    readonly history?: number
    /** The most branches that one call may reserve. 100,000 unless given. */
    readonly reservation?: number
    /**
     * After how many attempts at a step that all ended with the death of their process the run stops, because the step probably
     * kills it. 10 unless given.
     */
    readonly kills?: number
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// tag
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The engine of this process.
 *
 * @since 0.1.0
 * @category tags
 */
export const Engine = EngineTag

/**
 * @since 0.1.0
 * @category tags
 */
export type Engine = EngineTag

// ---------------------------------------------------------------------------------------------------------------------
// layers
// ---------------------------------------------------------------------------------------------------------------------

/**
 * An engine with options; see {@link layer}.
 *
 * @param options - see {@link Options}
 * @example
 * ```ts
 * import { Layer } from "effect"
 * import { Engine, SqliteStepStore } from "perdure"
 *
 * export const EngineLive = Engine.layerWith({ slowPoll: "1 second", limits: { value: 1024 * 1024 } }).pipe(
 *   Layer.provide(SqliteStepStore.layer({ filename: "durable.db" }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (options: Options): Layer.Layer<EngineTag, StoreError, StepStore> =>
  Layer.scoped(
    EngineTag,
    Effect.flatMap(Effect.suspend(() => validated(options)), ({ maxResidentRuns, missedBeats }) =>
      make({
        unrequestedAfter: Duration.toMillis(options.unrequestedAfter ?? "30 seconds"),
        deadlockAfter: Duration.toMillis(options.deadlockAfter ?? "5 minutes"),
        slowPoll: Duration.toMillis(options.slowPoll ?? "5 seconds"),
        parkGrace: Duration.toMillis(options.parkGrace ?? "1 second"),
        heartbeat: Duration.toMillis(options.heartbeat ?? "2 seconds"),
        missedBeats,
        housekeeping: options.housekeeping ?? true,
        maxResidentRuns,
        shutdownGrace: Duration.toMillis(options.shutdownGrace ?? "10 seconds"),
        limits: { ...defaultLimits, ...options.limits }
      }))
  )

/**
 * An engine over the store in context. It starts what this process asks for at once, takes over the runs of dead workers, and
 * gives its runs back when the layer closes. Without a workflow registered in it, it is a client: it starts runs for others to
 * drive.
 *
 * @example
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Engine, MemoryStepStore, Step, Workflow } from "perdure"
 *
 * const Greeting = Workflow.make({ name: "greeting", payload: { name: Schema.String }, success: Schema.String })
 *
 * const GreetingLive = Greeting.toLayer(({ name }) => Effect.succeed(`Hello, ${name}`).pipe(Step.durable("greet")))
 *
 * export const main = Greeting.execute({ name: "Ada" }).pipe(
 *   Effect.provide(GreetingLive.pipe(Layer.provideMerge(Engine.layer), Layer.provide(MemoryStepStore.layer)))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<EngineTag, StoreError, StepStore> = layerWith({})

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

const atLeastOne = (name: string, value: number): Effect.Effect<number> =>
  Number.isSafeInteger(value) && value > 0
    ? Effect.succeed(value)
    : Effect.dieMessage(`Engine.layerWith: ${name} is ${value}; it has to be a whole number of at least 1`)

const validated = (options: Options) =>
  Effect.all({
    missedBeats: atLeastOne("missedBeats", options.missedBeats ?? 10),
    maxResidentRuns: atLeastOne("maxResidentRuns", options.maxResidentRuns ?? 1_000)
  })
