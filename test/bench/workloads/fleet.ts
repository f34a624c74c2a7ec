/** Many runs of a few steps, started together; the floor writes the same rows in transactions of 1,000. */
import { Array as Arr, Context, Effect, Layer, Schema } from "effect"
import { Step, StepStore, Workflow } from "perdure"
import {
  assertDone,
  fresh,
  inTransactions,
  runInserts,
  runUpdates,
  stepWrites,
  transactionsOf,
  written
} from "../floor.js"
import {
  engineRound,
  type Open,
  reserved,
  type Sample,
  shared,
  type Size,
  type Sync,
  timed,
  timedSync,
  type Workload
} from "../workload.js"

const Fleet = Workflow.make({
  name: "fleet",
  payload: { run: Schema.Int, steps: Schema.Int },
  success: Schema.Int,
  idempotencyKey: ({ run }) => String(run)
})

const FleetLive = Fleet.toLayer(({ run, steps }) =>
  Effect.gen(function*() {
    for (let n = 0; n < steps; n++) {
      yield* Effect.succeed({ run, n, label: "record" }).pipe(Step.durable("record"))
    }
    return steps
  })
)

/** A store whose commits are counted. One addition in each is not to be seen in what they cost. */
const counting = (open: Open) => {
  const counted = { commits: 0 }
  const opened: Open = (options) =>
    Layer.map(
      open(options),
      (context) => {
        const store = Context.get(context, StepStore.StepStore)
        return Context.make(StepStore.StepStore, {
          ...store,
          commit: (batch) =>
            Effect.suspend(() => {
              counted.commits++
              return store.commit(batch)
            })
        })
      }
    )
  return { counted, opened }
}

/** The rows of each run: its own is inserted and, at its end, updated. */
const rowsOf = ({ runs, steps }: Size) => runs * (steps + 2)

const sampleOf = (size: Size, millis: number, commits: number): Sample => ({
  rows: rowsOf(size) / millis * 1_000,
  steps: size.runs * size.steps / millis * 1_000,
  commits,
  millis
})

const round = <A>(
  open: Open,
  size: Size,
  synchronous: Sync,
  after: (filename: string, sample: Sample) => A
) =>
  Effect.suspend(() => {
    const { counted, opened } = counting(open)
    return engineRound({
      open: opened,
      synchronous,
      live: FleetLive,
      measure: () =>
        timed(Effect.forEach(Arr.range(1, size.runs), (run) => Fleet.execute({ run, steps: size.steps }), {
          concurrency: "unbounded",
          discard: true
        })),
      after: (filename, millis) => {
        assertDone(filename, size)
        return after(filename, sampleOf(size, millis, counted.commits))
      }
    })
  })

const workload = (name: string, open: Open, isInformation: boolean): Workload => ({
  name,
  size: { runs: 1_000, steps: 10 },
  takes: ["runs", "steps"],
  rounds: 5,
  warmUps: 6,
  measures: [
    {
      key: "rows",
      label: "",
      unit: "rows/s",
      target: isInformation
        ? null
        : () => ({ text: "at least 1/6 of the floor", isMet: (value, floor) => value >= floor / 6 })
    },
    { key: "steps", label: "steps", unit: "steps/s", target: null },
    {
      key: "commits",
      label: "commits",
      unit: "commits",
      target: isInformation ? null : ({ runs, steps }) => ({
        text: `at most ${runs * steps / 50}, one for 50 steps`,
        isMet: (value) => value <= runs * steps / 50
      })
    }
  ],
  note: isInformation
    ? "the same as fleet, with the store on the application's SqlClient; for information"
    : "rows: those of the steps, and two writes of each run's own row; floor: the same in transactions of 1,000",
  engine: (size, synchronous) => Effect.succeed(round(open, size, synchronous, (_, sample) => sample)),
  floor: (size, synchronous) =>
    Effect.map(
      round(open, size, synchronous, written),
      (rows) =>
        Effect.scoped(Effect.map(fresh(synchronous), (database) => {
          const writes = [
            ...runInserts(database, rows),
            ...stepWrites(database, rows),
            ...runUpdates(database, rows)
          ]
          const millis = timedSync(() => inTransactions(database, writes))
          return sampleOf(size, millis, transactionsOf(writes.length))
        }))
    ),
  growth: isInformation
    ? null
    : { grows: "runs", from: { runs: 100, steps: 10 }, millis: (sample) => sample.millis! }
})

export const fleet = workload("fleet", reserved, false)

export const fleetOnClient = workload("fleet-client", shared, true)
