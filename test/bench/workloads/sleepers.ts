/**
 * Runs that sleep until one moment: how fast they are started and parked, what memory each takes while it sleeps, and how fast
 * they all end from that moment on. The floor inserts as many run rows in transactions of 1,000.
 *
 * A run rests in memory for a second, the grace, before it is parked. The rate "parked" is from the first start until all are SUSPENDED,
 * less that second, which is a choice and no work; "parked, with the grace" has it in.
 *
 * What becomes of the runs is seen by a second connection, which asks two indexes every 20 milliseconds.
 */
import { performance } from "node:perf_hooks"
import Database from "better-sqlite3"
import { Array as Arr, Effect, Option, Schema } from "effect"
import { Workflow } from "perdure"
import { fresh, inTransactions, runInserts, type Written, written } from "../floor.js"
import {
  collect,
  engineRound,
  reserved,
  type Sample,
  type Size,
  type Sync,
  timed,
  timedSync,
  type Workload
} from "../workload.js"

const Sleeper = Workflow.make({
  name: "sleeper",
  payload: { run: Schema.Int, due: Schema.Int },
  idempotencyKey: ({ run }) => String(run)
})

const SleeperLive = Sleeper.toLayer(({ due }) => Workflow.sleepUntil(new Date(due)))

/** The grace of an engine with default options. */
const grace = 1_000

/** Runs that sleep for longer than the round lasts, so that what the first runs load and compile is not counted. */
const others = 100

const start = (from: number, runs: number, due: number) =>
  Effect.forEach(Arr.range(from, from + runs - 1), (run) => Sleeper.start({ run, due }), {
    concurrency: "unbounded",
    discard: true
  })

/** Bytes in use after what nobody needs is gone. */
const inUse = Effect.gen(function*() {
  for (let round = 0; round < 5; round++) {
    yield* collect
    yield* Effect.sleep("50 millis")
  }
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
})

/** Sees from outside how runs stand. */
const observer = (filename: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => new Database(filename, { readonly: true })),
      (database) => Effect.sync(() => database.close())
    ),
    (database) => {
      const asleep = database.prepare(
        "SELECT count(*) FROM workflows WHERE namespace = 'default' AND status = 'SUSPENDED' AND wake_at IS NOT NULL AND wake_at <= ?"
      ).pluck()
      const open = database.prepare(
        "SELECT count(*) FROM workflows WHERE namespace = 'default' AND status IN ('PENDING', 'RUNNING')"
      ).pluck()
      const completed = database.prepare("SELECT count(*) FROM workflows WHERE status = 'COMPLETED'").pluck()
      const until = (is: () => boolean) =>
        Effect.repeat(Effect.delay(Effect.sync(is), "20 millis"), { until: (done) => done })
      return {
        /** Waits until so many runs that are due by then are SUSPENDED. */
        parked: (runs: number, due: number) => until(() => asleep.get(due) === runs),
        /** Waits until no run that is due by then is on its way, and so many are COMPLETED. */
        ended: (runs: number, due: number) =>
          until(() => asleep.get(due) === 0 && open.get() === 0 && completed.get() === runs)
      }
    }
  )

/** What starting, parking and looking at the memory takes however few the runs are, with some to spare. */
const fixed = 2_000

/** What each run adds to that: a guess at first, and then learnt from each round. */
let perRun = 1.5

/** A round whose runs sleep for so many milliseconds; nothing if they woke before all had been looked at. */
const attempt = <A>(
  { runs }: Size,
  synchronous: Sync,
  sleep: number,
  after: (filename: string, sample: Sample) => A
) =>
  engineRound({
    open: reserved,
    synchronous,
    live: SleeperLive,
    measure: (filename) =>
      Effect.scoped(Effect.gen(function*() {
        const { ended, parked } = yield* observer(filename)
        const never = Date.now() + 1_000_000_000
        yield* start(-others, others, never)
        yield* parked(others, never)
        const before = yield* inUse

        const due = Date.now() + sleep
        const begin = performance.now()
        const starting = yield* timed(start(1, runs, due))
        yield* Effect.timeoutOption(parked(runs, due), Math.max(0, due - Date.now()))
        const parking = performance.now() - begin
        const memory = ((yield* inUse) - before) / runs
        const prepared = performance.now() - begin
        if (Date.now() >= due) {
          return Option.none()
        }
        yield* Effect.sleep(due - Date.now())
        const waking = yield* timed(ended(runs, due))
        return Option.some({
          started: runs / starting * 1_000,
          parked: runs / (parking - grace) * 1_000,
          parkedWithGrace: runs / parking * 1_000,
          memory,
          woken: runs / waking * 1_000,
          prepared
        })
      })),
    after: (filename, sample) => Option.map(sample, (sample) => after(filename, sample))
  })

/** Sleeps for longer until it is long enough: what was too short is no round. */
const round = <A>(size: Size, synchronous: Sync, after: (filename: string, sample: Sample) => A): Effect.Effect<A> =>
  Effect.suspend(() => {
    const sleep = Math.ceil(fixed + perRun * size.runs)
    return Effect.flatMap(
      attempt(size, synchronous, sleep, (filename, sample) => {
        perRun = 1.5 * Math.max(0, sample.prepared! - grace) / size.runs
        return after(filename, sample)
      }),
      Option.match({
        onNone: () => {
          if (sleep > 300_000) {
            return Effect.dieMessage("The runs were not parked within five minutes")
          }
          perRun = 2 * sleep / size.runs
          return round(size, synchronous, after)
        },
        onSome: Effect.succeed
      })
    )
  })

/** The rows of so many sleeping runs: those of the first, again and again under other ids. */
const multiplied = ({ runs, steps }: Written, count: number): Written => {
  const id = runs.columns.indexOf("workflow_id")
  return {
    runs: {
      columns: runs.columns,
      rows: Arr.makeBy(count, (n) => {
        const row = runs.rows[n % runs.rows.length]!
        return row.map((value, i) => i === id ? `sleeper/${n}` : value)
      })
    },
    steps
  }
}

export const sleepers: Workload = {
  name: "sleepers",
  size: { runs: 10_000, steps: 1 },
  takes: ["runs"],
  rounds: 3,
  warmUps: 0,
  measures: [
    { key: "started", label: "started", unit: "runs/s", target: null },
    {
      key: "parked",
      label: "parked",
      unit: "runs/s",
      target: () => ({ text: "at least 10000", isMet: (value) => value >= 10_000 })
    },
    { key: "parkedWithGrace", label: "parked, with the grace", unit: "runs/s", target: null },
    {
      key: "memory",
      label: "memory",
      unit: "bytes/run",
      target: () => ({ text: "at most 200", isMet: (value) => value <= 200 })
    },
    {
      key: "woken",
      label: "woken",
      unit: "runs/s",
      target: () => ({ text: "at least 5000", isMet: (value) => value >= 5_000 })
    }
  ],
  note:
    "parked: from the first start until all are SUSPENDED, less the grace of 1 s for which a run rests in memory; memory: " +
    "heapUsed + external after collection; woken: from the moment when all are due until all are COMPLETED; floor: inserts of " +
    "run rows in transactions of 1,000",
  engine: (size, synchronous) => Effect.succeed(round(size, synchronous, (_, sample) => sample)),
  floor: (size, synchronous) => {
    // A tenth of the runs is enough to warm up, and to know their rows.
    const few = { ...size, runs: Math.ceil(size.runs / 10) }
    return Effect.map(
      round(few, synchronous, written),
      (rows) =>
        Effect.scoped(Effect.map(fresh(synchronous), (database) => {
          const writes = runInserts(database, multiplied(rows, size.runs))
          const rate = size.runs / timedSync(() => inTransactions(database, writes)) * 1_000
          return { started: rate, parked: rate, parkedWithGrace: rate, woken: rate }
        }))
    )
  },
  growth: null
}
