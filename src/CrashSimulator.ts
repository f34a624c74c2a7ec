/**
 * Crashes at a chosen point, to see with one's own eyes that nothing is lost.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { FaultPoint } from "./internal/faultPoints.js"
import { FaultPoints } from "./internal/faultPoints.js"
import { never } from "./internal/sequencer.js"

/**
 * Where a crash can be made to happen:
 *
 * - `step-started`: a step that really runs (a replayed one does not) is marked IN_PROGRESS on disk, and its effect has not begun;
 * - `before-commit`: a batch of records is about to be written;
 * - `after-commit`: a batch is durable, and nobody has been told.
 *
 * @since 0.1.0
 * @category models
 */
export type Point = FaultPoint

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The crash happens the Nth time the point is reached, from 1. */
  readonly after: number
  /** `step-started` unless given. */
  readonly at?: Point
}

/** Calls back at the Nth time. Each build of the layer counts anew. */
const atTheNth = ({ after, at = "step-started" }: Options, strike: (crash: () => void) => Effect.Effect<void>) =>
  Layer.sync(FaultPoints, () => {
    let left = after
    return {
      active: true,
      at: (point, crash) => Effect.suspend(() => point === at && --left === 0 ? strike(crash) : Effect.void)
    }
  })

/**
 * Kills this process with SIGKILL when the point is reached: no finalizer runs, nothing is flushed. Provide it to the engine's
 * layer.
 *
 * @param options - see {@link Options}
 * @example
 * ```ts
 * import { Layer } from "effect"
 * import { CrashSimulator, Engine, SqliteStepStore } from "perdure"
 *
 * // Dies right after the second step has been marked IN_PROGRESS on disk.
 * export const EngineThatDies = Engine.layer.pipe(
 *   Layer.provide(CrashSimulator.layer({ after: 2 })),
 *   Layer.provide(SqliteStepStore.layer({ filename: "durable.db" }))
 * )
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const layer = (options: Options): Layer.Layer<never> =>
  atTheNth(options, () => Effect.zipRight(Effect.sync(() => process.kill(process.pid, "SIGKILL")), never))

/**
 * Does to one run what {@link layer} does to the process: the run leaves memory at once and nothing of it is written any more,
 * so that the store is left as a dead process leaves it. Whoever awaits the run dies of a defect that says so; `resume`, or
 * `Workflow.run` again, takes the run up.
 *
 * Only `step-started` concerns one run alone; at the other points nothing happens.
 *
 * @param options - see {@link Options}
 * @example
 * ```ts
 * import { Layer } from "effect"
 * import { CrashSimulator, Engine, MemoryStepStore } from "perdure"
 *
 * export const EngineForTests = Engine.layer.pipe(
 *   Layer.provide(CrashSimulator.layerInterrupt({ after: 1 })),
 *   Layer.provide(MemoryStepStore.layer)
 * )
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const layerInterrupt = (options: Pick<Options, "after">): Layer.Layer<never> =>
  // Even in an uninterruptible region nothing is left to wait for.
  atTheNth(options, (crash) => Effect.zipRight(Effect.sync(crash), Effect.interruptible(never)))
