import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Schema } from "effect"
import { Engine, SqliteStepStore, Step, Workflow } from "perdure"
import { asleep } from "../support/awake.js"
import { temporaryFile } from "../support/stores.js"

const Job = Workflow.make({
  name: "job",
  payload: { n: Schema.Number },
  success: Schema.Number,
  idempotencyKey: ({ n }) => `${n}`
})

const JobLive = Job.toLayer(({ n }) =>
  Effect.reduce(
    Array.from({ length: 10 }, (_, i) => i),
    n,
    (sum, i) =>
      Effect.sync(() => sum + i).pipe(
        Effect.tap(() => i % 3 === 0 ? Effect.sleep(1) : Effect.void),
        Step.durable("add")
      )
  )
)

/** Milliseconds. */
const tick = 5

/** A fleet, and beside it an application that keeps a transaction open over turns of the event loop. */
const fleetBesideAnApplication = Effect.gen(function*() {
  const sql = yield* SqliteClient.SqliteClient
  yield* sql`CREATE TABLE notes (n INTEGER)`
  const from = yield* Clock.currentTimeMillis
  let slept = 0
  let longest = 0
  let latest = asleep()
  const ticking = yield* Effect.fork(Effect.forever(Effect.zipRight(
    Effect.sleep(tick),
    Effect.sync(() => {
      const now = asleep()
      const late = Math.max(0, now - latest - tick)
      slept += late
      longest = Math.max(longest, late)
      latest = now
    })
  )))
  let notes = 0
  const application = yield* Effect.fork(Effect.forever(Effect.suspend(() =>
    sql.withTransaction(
      Effect.zipRight(sql`INSERT INTO notes VALUES (${notes})`, Effect.sleep(3))
    ).pipe(
      Effect.tap(() =>
        Effect.sync(() => {
          notes++
        })
      ),
      Effect.zipRight(Effect.sleep(1))
    )
  )))
  const sums = yield* Effect.forEach(Array.from({ length: 300 }, (_, n) => n), (n) => Job.execute({ n }), {
    concurrency: "unbounded"
  })
  const elapsed = (yield* Clock.currentTimeMillis) - from
  // It would have failed by now if the store had come in its way.
  assert.isNull(application.unsafePoll())
  yield* Fiber.interrupt(application)
  yield* Fiber.interrupt(ticking)
  assert.deepStrictEqual(sums, sums.map((_, n) => n + 45))
  const [counted] = yield* sql<{ readonly count: number }>`SELECT count(*) AS count FROM notes`
  assert.isAtLeast(counted?.count ?? 0, notes)
  assert.isAbove(notes, 3)
  yield* Effect.log(`slept ${slept} of ${elapsed} ms past the time for a tick, ${longest} at a time`)
  // A blocking wait for the lock would have stopped the timers for seconds at a time: the driver waits for 5.
  assert.isBelow(slept, elapsed / 5)
  assert.isBelow(longest, 500)
})

describe("one file, several writers in a process", () => {
  it.live("another client of the application writes to the same file during a fleet, and nothing freezes or fails", () =>
    Effect.scoped(Effect.flatMap(temporaryFile, (filename) =>
      fleetBesideAnApplication.pipe(
        Effect.provide(JobLive.pipe(
          Layer.provideMerge(Engine.layer),
          Layer.provide(SqliteStepStore.layer({ filename })),
          Layer.provideMerge(SqliteClient.layer({ filename }))
        ))
      ))))

  it.live("an application and its store share one client, and neither is caught in the other's transaction", () =>
    Effect.scoped(Effect.flatMap(temporaryFile, (filename) =>
      fleetBesideAnApplication.pipe(
        Effect.provide(JobLive.pipe(
          Layer.provideMerge(Engine.layer),
          Layer.provide(SqliteStepStore.layerClient()),
          Layer.provideMerge(SqliteClient.layer({ filename }))
        ))
      ))))
})
