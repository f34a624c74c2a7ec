/**
 * Runs of one step on an idle engine, one at a time, from the call of `execute` to its answer. The floor makes two transactions for
 * each: the insert of its run row and that of its step row. Both rest before each, so that what came before is over.
 */
import { Array as Arr, Effect, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { assertDone, fresh, oneByOne, runInserts, stepWrites, type Write, written } from "../floor.js"
import {
  engineRound,
  percentile,
  reserved,
  type Sample,
  type Size,
  type Sync,
  timed,
  timedSync,
  type Workload
} from "../workload.js"

const Single = Workflow.make({
  name: "single",
  payload: { run: Schema.Int },
  idempotencyKey: ({ run }) => String(run)
})

const SingleLive = Single.toLayer(({ run }) =>
  Effect.asVoid(Effect.succeed({ run, done: true, label: "record" }).pipe(Step.durable("record")))
)

const rest = Effect.sleep("2 millis")

const sampleOf = (millis: ReadonlyArray<number>): Sample => ({
  p50: percentile(millis, 0.5),
  p99: percentile(millis, 0.99)
})

const round = <A>({ runs }: Size, synchronous: Sync, after: (filename: string, sample: Sample) => A) =>
  engineRound({
    open: reserved,
    synchronous,
    live: SingleLive,
    measure: () =>
      Effect.map(
        Effect.forEach(Arr.range(1, runs), (run) => Effect.zipRight(rest, timed(Single.execute({ run })))),
        sampleOf
      ),
    after: (filename, sample) => {
      assertDone(filename, { runs, steps: 1 })
      return after(filename, sample)
    }
  })

export const latency: Workload = {
  name: "latency",
  size: { runs: 200, steps: 1 },
  takes: ["runs"],
  rounds: 5,
  warmUps: 10,
  measures: [
    {
      key: "p50",
      label: "p50",
      unit: "ms",
      target: () => ({ text: "at most 2.5 x the floor", isMet: (value, floor) => value <= 2.5 * floor })
    },
    {
      key: "p99",
      label: "p99",
      unit: "ms",
      target: () => ({ text: "at most 5 x the floor", isMet: (value, floor) => value <= 5 * floor })
    }
  ],
  note:
    "from execute to its answer, after a rest of 2 ms; floor: insert of the run row, then of the step row, each autocommit",
  engine: (size, synchronous) => Effect.succeed(round(size, synchronous, (_, sample) => sample)),
  floor: (size, synchronous) =>
    Effect.map(
      round(size, synchronous, written),
      (rows) =>
        Effect.scoped(Effect.flatMap(fresh(synchronous), (database) => {
          const steps = stepWrites(database, rows)
          const pairs = runInserts(database, rows).map((run, i): ReadonlyArray<Write> => [run, steps[i]!])
          return Effect.map(
            Effect.forEach(pairs, (pair) => Effect.map(rest, () => timedSync(() => oneByOne(pair)))),
            sampleOf
          )
        }))
    ),
  growth: null
}
