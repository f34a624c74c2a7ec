/** What a workload of the benchmark is, and what its engine rounds have in common. */
import { performance } from "node:perf_hooks"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Effect, Layer, type Scope } from "effect"
import { Engine, type Errors, SqliteStepStore, type StepStore } from "perdure"
import { temporaryFile } from "../support/stores.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

export type Sync = "FULL" | "NORMAL"

/** How many runs of how many steps. */
export interface Size {
  readonly runs: number
  readonly steps: number
}

/** What one round has measured: a number for each measure of the workload, and for whatever it derives from them. */
export type Sample = Readonly<Record<string, number>>

/** What is wanted of a measure, and whether its medians are that. */
export interface Target {
  readonly text: string
  readonly isMet: (value: number, floor: number) => boolean
}

/** A number that a workload is about. Its floor is what the floor's sample has under the same key, if anything. */
export interface Measure {
  readonly key: string
  /** Follows the name of the workload, unless it is empty. */
  readonly label: string
  readonly unit: string
  readonly target: ((size: Size) => Target) | null
}

/** Prepares rounds, which may then be run any number of times. */
export type Prepare = (size: Size, synchronous: Sync) => Effect.Effect<Effect.Effect<Sample>, never, Scope.Scope>

export interface Workload {
  readonly name: string
  readonly size: Size
  /** The parts of the size that the command line may change. */
  readonly takes: ReadonlyArray<keyof Size>
  /** How many rounds are measured unless the command line says so, or the time is over before. */
  readonly rounds: number
  /** How many pairs of rounds come before them, beside the engine's round whose rows the floor copies. */
  readonly warmUps: number
  readonly measures: ReadonlyArray<Measure>
  /** What has to be known to read its numbers. */
  readonly note: string
  readonly engine: Prepare
  readonly floor: Prepare
  /** How it is looked at for growth: which part of the size grows, from what on, and milliseconds of a round. */
  readonly growth: {
    readonly grows: keyof Size
    readonly from: Size
    readonly millis: (sample: Sample) => number
  } | null
}

/** How a store is opened on a file. */
export type Open = (options: {
  readonly filename: string
  readonly synchronous: Sync
}) => Layer.Layer<StepStore.StepStore, Errors.StoreError>

/** A store with a connection of its own, as most have it. */
export const reserved: Open = SqliteStepStore.layer

/** A store on the client of the application. */
export const shared: Open = ({ filename, synchronous }) =>
  Layer.provide(SqliteStepStore.layerClient({ synchronous }), Layer.orDie(SqliteClient.layer({ filename })))

// ---------------------------------------------------------------------------------------------------------------------
// rounds
// ---------------------------------------------------------------------------------------------------------------------

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void

/** Frees what nobody needs. Not between rounds: a forced collection throws away compiled code as well, and doubles what comes next. */
export const collect = Effect.sync(gc)

/** Milliseconds until the effect has ended. */
export const timed = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(self, () => performance.now() - start)
  })

/** Milliseconds that something takes which does not wait. */
export const timedSync = (work: () => void): number => {
  const start = performance.now()
  work()
  return performance.now() - start
}

/**
 * A round of an engine with default options on a fresh file. Store, engine and workflow are there before `measure` begins; `after`
 * looks at the file when they are closed.
 */
export const engineRound = <A, E, B>(options: {
  readonly open: Open
  readonly synchronous: Sync
  readonly live: Layer.Layer<never, never, Engine.Engine>
  readonly measure: (filename: string) => Effect.Effect<A, E, Engine.Engine>
  readonly after: (filename: string, sample: A) => B
}): Effect.Effect<B> =>
  Effect.scoped(Effect.gen(function*() {
    const filename = yield* temporaryFile
    const live = options.live.pipe(
      Layer.provideMerge(Engine.layer),
      Layer.provide(options.open({ filename, synchronous: options.synchronous }))
    )
    const sample = yield* Effect.provide(options.measure(filename), live)
    return options.after(filename, sample)
  })).pipe(Effect.orDie)

/** From the least to the most of what the numbers are. */
export const sorted = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)

/** The value below which such a part of all values is. */
export const percentile = (values: ReadonlyArray<number>, part: number): number =>
  sorted(values)[Math.max(0, Math.ceil(part * values.length) - 1)]!

export const median = (values: ReadonlyArray<number>): number => {
  const all = sorted(values)
  const middle = all.length >> 1
  return all.length % 2 === 1 ? all[middle]! : (all[middle - 1]! + all[middle]!) / 2
}
