/**
 * How much memory a run takes while it sleeps, and how long it takes to put many to sleep: `npx tsx test/bench/sleepers.ts [runs]`.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Console, Effect, Layer } from "effect"
import { Engine, SqliteStepStore, StepStore, Workflow } from "perdure"

const count = Number(process.argv[2] ?? 10_000)

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

/** Bytes in use after what nobody needs is gone. */
const inUse = Effect.gen(function*() {
  for (let round = 0; round < 5; round++) {
    collect()
    yield* Effect.sleep("50 millis")
  }
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
})

const Sleeper = Workflow.make({ name: "sleeper", payload: {} })

const SleeperLive = Sleeper.toLayer(() => Effect.sleep("1 hour"))

/** All runs that sleep, in pages, so that the listing itself is not what is measured. */
const asleep = Effect.gen(function*() {
  const store = yield* StepStore.StepStore
  let total = 0
  for (let after: string | null = null;;) {
    const page: ReadonlyArray<StepStore.RunSummary> = yield* store.runs({ after, limit: 1_000 })
    total += page.filter((run) => run.status === "SUSPENDED").length
    const last = page.at(-1)
    if (last === undefined) {
      return total
    }
    after = last.workflowId
  }
})

/** Seconds until the effect has ended. */
const timed = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(self, () => (performance.now() - start) / 1_000)
  })

const start = (ids: ReadonlyArray<number>) =>
  Effect.forEach(ids, (id) => Sleeper.start(undefined, { workflowId: `sleeper-${id}` }), {
    concurrency: "unbounded",
    discard: true
  })

const program = Effect.gen(function*() {
  // What is loaded and compiled with the first runs is not what a run costs.
  yield* start(Array.from({ length: 100 }, (_, id) => -1 - id))
  yield* Effect.repeat(Effect.delay(asleep, "100 millis"), { until: (all) => all === 100 })
  const before = yield* inUse

  let resident = 0
  const started = yield* timed(start(Array.from({ length: count }, (_, id) => id)))
  const parked = yield* timed(
    Effect.repeat(
      Effect.delay(
        Effect.tap(asleep, () =>
          Effect.sync(() => {
            resident = Math.max(resident, process.memoryUsage().heapUsed)
          })),
        "100 millis"
      ),
      { until: (all) => all === count + 100 }
    )
  )
  const after = yield* inUse
  yield* Console.log([
    `${count} runs started in ${started.toFixed(2)} s`,
    `all of them asleep ${parked.toFixed(2)} s later (the grace is 1 s of it)`,
    `heapUsed + external of each: ${((after - before) / count).toFixed(0)} bytes (${before} before, ${after} after)`,
    `highest heapUsed seen while they parked: ${(resident / 1e6).toFixed(0)} MB`
  ].join("\n"))
})

const folder = mkdtempSync(join(tmpdir(), "perdure-bench-"))

const live = SleeperLive.pipe(
  Layer.provideMerge(Engine.layer),
  Layer.provideMerge(SqliteStepStore.layer({ filename: join(folder, "durable.db") }))
)

await Effect.runPromise(Effect.ensuring(
  Effect.provide(program, live),
  Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
))
