/** One run of many trivial steps, one after the other; the floor inserts the same step rows, each in a transaction of its own. */
import { Effect, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { assertDone, fresh, oneByOne, stepWrites, written } from "../floor.js"
import {
  engineRound,
  type Open,
  reserved,
  shared,
  type Size,
  type Sync,
  timed,
  timedSync,
  type Workload
} from "../workload.js"

const Sequential = Workflow.make({ name: "sequential", payload: { steps: Schema.Int } })

const SequentialLive = Sequential.toLayer(({ steps }) =>
  Effect.gen(function*() {
    for (let n = 0; n < steps; n++) {
      yield* Effect.succeed({ n, done: true, label: "record" }).pipe(Step.durable("record"))
    }
  })
)

const round = <A>(open: Open, { steps }: Size, synchronous: Sync, after: (filename: string, millis: number) => A) =>
  engineRound({
    open,
    synchronous,
    live: SequentialLive,
    measure: () => timed(Sequential.execute({ steps })),
    after: (filename, millis) => {
      assertDone(filename, { runs: 1, steps })
      return after(filename, millis)
    }
  })

const workload = (name: string, open: Open, isInformation: boolean): Workload => ({
  name,
  size: { runs: 1, steps: 1_000 },
  takes: ["steps"],
  rounds: 5,
  warmUps: 12,
  measures: [{
    key: "perStep",
    label: "",
    unit: "µs/step",
    target: isInformation
      ? null
      : () => ({ text: "at most 60 above the floor", isMet: (value, floor) => value - floor <= 60 })
  }],
  note: isInformation
    ? "the same as sequential, with the store on the application's SqlClient; for information"
    : "from execute to its answer, so that the two writes of the run itself are in it; floor: one autocommit insert per step row",
  engine: (size, synchronous) =>
    Effect.succeed(round(open, size, synchronous, (_, millis) => ({ perStep: millis * 1_000 / size.steps, millis }))),
  floor: (size, synchronous) =>
    Effect.map(
      round(open, size, synchronous, written),
      (rows) =>
        Effect.scoped(Effect.map(fresh(synchronous), (database) => {
          const writes = stepWrites(database, rows)
          return { perStep: timedSync(() => oneByOne(writes)) * 1_000 / size.steps }
        }))
    ),
  growth: isInformation
    ? null
    : { grows: "steps", from: { runs: 1, steps: 1_000 }, millis: (sample) => sample.millis! }
})

export const sequential = workload("sequential", reserved, false)

export const sequentialOnClient = workload("sequential-client", shared, true)
