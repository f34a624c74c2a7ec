import { readdirSync } from "node:fs"
import { basename, dirname } from "node:path"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert } from "@effect/vitest"
import { Array, Cause, Deferred, Effect, Exit, FastCheck as fc, Fiber, Layer, Option } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundleForMany, launch } from "../support/bundle.js"
import { turns } from "../support/harness.js"
import { temporaryFile } from "../support/stores.js"
import { type Life, live, readLedger } from "./errands.js"
import { row, seed } from "./row.js"

interface Trial {
  /** How many lines its ledger has grown by when the engine is stopped. */
  readonly lines: number
  /** And then so many turns of the event loop; in a process of its own, a tenth of so many milliseconds. */
  readonly turns: number
  /** Steps in flight have time to end; otherwise they are cut off. */
  readonly graceful: boolean
}

const trial = fc.record<Trial>({
  lines: fc.integer({ min: 0, max: 12 }),
  turns: fc.integer({ min: 0, max: 30 }),
  graceful: fc.boolean()
})

/** Trials over one database. */
const trialsOfADatabase = 25

/** The engine of this one lives in a process of its own, which is told to end by SIGTERM. */
const inAProcess = 12

/** Every so many trials the engine is not stopped: it is to finish all there is, at once. */
const finishing = 5

const graceMillis = 60_000

type Worker = Omit<Life, "onLine">

/** An engine in this process, whose layers are closed by an interruption. */
const stopHere = (worker: Worker, { lines, turns: later }: Trial) =>
  Effect.gen(function*() {
    const reached = yield* Deferred.make<void>()
    let left = lines
    const fiber = yield* Effect.fork(live({
      ...worker,
      onLine: () => {
        if (--left === 0) {
          Deferred.unsafeDone(reached, Exit.void)
        }
      }
    }))
    if (!worker.finishes) {
      // It may not end before by itself.
      yield* Effect.raceFirst(
        lines === 0 ? Effect.void : Deferred.await(reached),
        Effect.zipRight(Fiber.join(fiber), Effect.die("it has ended, and was to go on"))
      )
      yield* turns(later)
      yield* Fiber.interruptFork(fiber)
    }
    const end = yield* Fiber.await(fiber)
    // What makes the exit code of a main program 0.
    assert.isTrue(Exit.isSuccess(end) || (!worker.finishes && Cause.isInterruptedOnly(end.cause)), String(end))
  })

const stopThere = (program: string, worker: Worker, { lines, turns }: Trial) =>
  Effect.scoped(Effect.gen(function*() {
    const { database, finishes, ledger, name, shutdownGrace } = worker
    const child = yield* launch(program, [database, ledger, name, finishes ? "finish" : "new", String(shutdownGrace)])
    yield* child.line
    if (!finishes) {
      yield* Effect.replicateEffect(child.line, lines)
      yield* Effect.sleep(turns / 10)
      child.child.kill("SIGTERM")
    }
    assert.strictEqual(yield* child.ended, 0)
  }))

/** What an engine that has stopped leaves: nothing that anybody would have to wait for. */
const left = (database: string) =>
  Effect.gen(function*() {
    const sql = yield* SqliteClient.SqliteClient
    // The first one may have been stopped before it had a table.
    const tables = yield* sql`SELECT name FROM sqlite_schema WHERE name = 'workflows'`
    if (tables.length > 0) {
      assert.deepStrictEqual(
        yield* sql`SELECT workflow_id, status FROM workflows WHERE owner IS NOT NULL OR status = 'RUNNING'`,
        []
      )
      assert.deepStrictEqual(yield* sql`SELECT id FROM workers`, [])
    }
    assert.deepStrictEqual(
      readdirSync(dirname(database)).filter((file) => file.startsWith(`${basename(database)}-worker-`)),
      []
    )
  }).pipe(Effect.provide(Layer.orDie(SqliteClient.layer({ filename: database }))))

/** Looks from outside at what was done in all the lives over a database. */
const check = (database: string, hasty: ReadonlySet<string>) =>
  Effect.gen(function*() {
    const ledger = readLedger(`${database}.ledger`)
    const entriesOf = (what: "begun" | "done" | "acknowledged") =>
      Array.groupBy(ledger.filter((entry) => entry[what] !== undefined), (entry) => entry[what]!)
    const begun = entriesOf("begun")
    const done = entriesOf("done")
    const acknowledged = entriesOf("acknowledged")
    const store = yield* StepStore.StepStore
    const runs = yield* store.runs({ after: null, limit: 100_000 })
    const errands = runs.filter(({ parent }) => parent === null).map(({ workflowId }) => workflowId)
    assert.sameMembers(Object.keys(acknowledged), errands)
    assert.includeMembers(errands, ledger.flatMap(({ started }) => started === undefined ? [] : [started]))
    for (const { parent, status, workflowId } of runs) {
      assert.strictEqual(status, "COMPLETED", workflowId)
      const row = Option.getOrThrow(yield* store.run(workflowId))
      for (const { result } of parent === null ? acknowledged[workflowId]! : []) {
        assert.deepStrictEqual(JSON.parse(row.outcome ?? "null"), result, workflowId)
      }
      const history = (yield* store.history(workflowId, 0, { after: null, limit: 100 })).rows
      assert.lengthOf(history, parent === null ? 7 : 1, workflowId)
      for (const { output, stepKey } of history.filter(({ kind }) => kind === "step")) {
        const ran = done[stepKey] ?? []
        // What is recorded is what the last one brought: nothing happened after it was recorded.
        assert.strictEqual(output, String(ran.at(-1)?.nonce), stepKey)
        const lives = begun[stepKey]!.map(({ life }) => life)
        assert.deepStrictEqual(lives, [...new Set(lives)], `${stepKey} was repeated within a life`)
        // Only steps that were given no time to end were begun again.
        for (const life of lives.slice(0, -1)) {
          assert.isTrue(hasty.has(life), `${stepKey} was cut off, or repeated, after a graceful stop of life ${life}`)
        }
      }
    }
    return errands.length
  }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))

row(
  {
    name: "start-stop",
    title: "An engine is started and stopped under work: it exits with 0, loses nothing, and leaves nothing to a lease",
    ci: 500,
    night: 5_000
  },
  5,
  (count) =>
    Effect.gen(function*() {
      const program = yield* bundleForMany("faults/errands")
      const all = fc.sample(trial, { seed, numRuns: count })
      const errands = yield* Effect.forEach(
        Array.chunksOf(all, trialsOfADatabase),
        (trials, chunk) =>
          Effect.scoped(Effect.gen(function*() {
            const database = yield* temporaryFile
            const hasty = new Set<string>()
            for (const [i, trial] of trials.entries()) {
              const name = String(i)
              const worker: Worker = {
                database,
                ledger: `${database}.ledger`,
                name,
                finishes: i % finishing === finishing - 1 || i === trials.length - 1,
                shutdownGrace: trial.graceful ? graceMillis : 0
              }
              if (!trial.graceful) {
                hasty.add(name)
              }
              yield* (i === inAProcess ? stopThere(program, worker, trial) : stopHere(worker, trial)).pipe(
                Effect.timeoutFail({ duration: "60 seconds", onTimeout: () => "it did not end at once" }),
                Effect.zipRight(left(database)),
                Effect.catchAllCause((cause) =>
                  Effect.die(
                    new Error(
                      `trial ${chunk * trialsOfADatabase + i} of ${count}, ${
                        JSON.stringify({ ...trial, finishes: worker.finishes })
                      } (seed ${seed}): ${cause.toString()}`
                    )
                  )
                )
              )
            }
            return yield* check(database, hasty).pipe(
              Effect.catchAllCause((cause) =>
                Effect.die(
                  new Error(`trials from ${chunk * trialsOfADatabase} of ${count} (seed ${seed}): ${cause.toString()}`)
                )
              )
            )
          })),
        // Half of a life is waiting.
        { concurrency: 4 }
      )
      // The moments were moments of work.
      assert.isAbove(errands.reduce((sum, n) => sum + n, 0), count / 4)
      return count
    })
)
