/** One run of many steps in parallel branches; the floor writes the same rows in transactions of 1,000. */
import { Array as Arr, Effect, Schema } from "effect"
import { Branch, Step, Workflow } from "perdure"
import { assertDone, fresh, inTransactions, runInserts, runUpdates, stepWrites, written } from "../floor.js"
import {
  engineRound,
  reserved,
  type Sample,
  type Size,
  type Sync,
  timed,
  timedSync,
  type Workload
} from "../workload.js"

const FanOut = Workflow.make({ name: "fan-out", payload: { steps: Schema.Int } })

const FanOutLive = FanOut.toLayer(({ steps }) =>
  Branch.forEach(
    Arr.range(1, steps),
    (n) => Effect.succeed({ n, done: true, label: "record" }).pipe(Step.durable("record")),
    { concurrency: "unbounded", discard: true }
  )
)

/** The row of the run is inserted and, at its end, updated. */
const sampleOf = ({ steps }: Size, millis: number): Sample => ({ rows: (steps + 2) / millis * 1_000 })

const round = <A>({ steps }: Size, synchronous: Sync, after: (filename: string, millis: number) => A) =>
  engineRound({
    open: reserved,
    synchronous,
    live: FanOutLive,
    measure: () => timed(FanOut.execute({ steps })),
    after: (filename, millis) => {
      assertDone(filename, { runs: 1, steps })
      return after(filename, millis)
    }
  })

export const fanOut: Workload = {
  name: "fan-out",
  size: { runs: 1, steps: 1_000 },
  takes: ["steps"],
  rounds: 5,
  warmUps: 20,
  measures: [{
    key: "rows",
    label: "",
    unit: "rows/s",
    target: () => ({ text: "at least 1/10 of the floor", isMet: (value, floor) => value >= floor / 10 })
  }],
  note: "rows: those of the steps, and two writes of the run's own row; floor: the same in transactions of 1,000",
  engine: (size, synchronous) => Effect.succeed(round(size, synchronous, (_, millis) => sampleOf(size, millis))),
  floor: (size, synchronous) =>
    Effect.map(round(size, synchronous, written), (rows) =>
      Effect.scoped(Effect.map(fresh(synchronous), (database) => {
        const writes = [...runInserts(database, rows), ...stepWrites(database, rows), ...runUpdates(database, rows)]
        return sampleOf(size, timedSync(() => inTransactions(database, writes)))
      }))),
  growth: null
}
