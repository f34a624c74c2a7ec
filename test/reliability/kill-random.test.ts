import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert } from "@effect/vitest"
import { Array, Effect, FastCheck as fc, Layer, Option } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundleForMany, launch } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"
import { row, seed } from "./row.js"

interface LedgerEntry {
  readonly effect?: string
  readonly life?: number
  readonly nonce?: number
  readonly acknowledged?: string
  readonly result?: ReadonlyArray<number>
}

/** A moment counted from what the program says, so that the kill meets the work however slow the machine is. */
interface Moment {
  /** That it has entered into its ledger in this life. */
  readonly lines: number
  /** And then so many milliseconds. */
  readonly millis: number
}

/** Over one database; then its work is finished, and looked at. */
const killsOfADatabase = 25

/** What each run records, besides what its race leaves of both sides. */
const steps = [
  "0 first",
  "1.0 wide 1 a",
  "1.1 wide 1 b",
  "2.0 wide 2 a",
  "2.1 wide 2 b",
  "3.0 wide 3 a",
  "3.1 wide 3 b",
  "4.0 wide 4 a",
  "4.1 wide 4 b",
  "5 sleep",
  "6 go",
  "9 loop",
  "10 loop",
  "11 loop"
]

const raced = ["7.0 tortoise", "8.0 hare", "8.1 hare again"]

const finish = (program: string, database: string) =>
  Effect.scoped(Effect.gen(function*() {
    const worker = yield* launch(program, [database, `${database}.ledger`, "finish"])
    yield* worker.line
    assert.strictEqual(yield* worker.ended, 0)
  })).pipe(
    Effect.timeoutFail({ duration: "2 minutes", onTimeout: () => "the work did not end: something was lost" })
  )

const killAt = (program: string, database: string, { lines, millis }: Moment) =>
  Effect.scoped(Effect.gen(function*() {
    const worker = yield* launch(program, [database, `${database}.ledger`, "new"])
    // The first one says that it is ready.
    yield* Effect.repeatN(worker.line, lines)
    yield* Effect.sleep(millis)
    yield* worker.kill
  })).pipe(
    Effect.timeoutFail({ duration: "2 minutes", onTimeout: () => "the work did not go on: something was lost" })
  )

/** Looks from outside at what the lives over a database have left. */
const check = (database: string) =>
  Effect.gen(function*() {
    const ledger = entriesOf<LedgerEntry>(`${database}.ledger`)
    const effects = Array.groupBy(ledger.filter(({ effect }) => effect !== undefined), ({ effect }) => effect!)
    const acknowledged = Array.groupBy(
      ledger.filter(({ acknowledged }) => acknowledged !== undefined),
      ({ acknowledged }) => acknowledged!
    )
    const store = yield* StepStore.StepStore
    const runs = yield* store.runs({ after: null, limit: 100_000 })
    let repeated = 0
    for (const { status, workflowId } of runs) {
      assert.strictEqual(status, "COMPLETED", workflowId)
      const row = Option.getOrThrow(yield* store.run(workflowId))
      // What was acknowledged, perhaps many lives ago, is what is recorded.
      for (const { result } of acknowledged[workflowId]!) {
        assert.deepStrictEqual(JSON.parse(row.outcome ?? "null"), result, workflowId)
      }
      const history = (yield* store.history(workflowId, 0, { after: null, limit: 1_000 })).rows
      assert.deepStrictEqual(
        history.map((step) => step.position).sort((a, b) => Number(a) - Number(b)),
        history.map((step) => step.position)
      )
      const keys = history.map(({ stepId, stepKey }) => `${stepKey.slice(workflowId.length + 1)} ${stepId}`)
      assert.includeMembers(keys, steps, workflowId)
      assert.includeMembers([...steps, ...raced], keys, workflowId)
      for (const step of history.filter(({ kind }) => kind === "step")) {
        const ran = effects[step.stepKey] ?? []
        // The recorded result is that of the last time it ran: nothing ran after it was recorded.
        assert.strictEqual(String(ran.at(-1)?.nonce), step.output, step.stepKey)
        // It ran again only because the process had died in between.
        const lives = ran.map((entry) => entry.life)
        assert.deepStrictEqual(lives, [...new Set(lives)], step.stepKey)
        repeated += ran.length - 1
      }
    }
    assert.sameMembers(Object.keys(acknowledged), runs.map(({ workflowId }) => workflowId))
    return { runs: runs.length, repeated }
  }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))

const integrity = (database: string) =>
  Effect.gen(function*() {
    const sql = yield* SqliteClient.SqliteClient
    const found = yield* sql<{ readonly integrity_check: string }>`PRAGMA integrity_check`
    assert.deepStrictEqual(found.map((row) => row.integrity_check), ["ok"])
  }).pipe(Effect.provide(Layer.orDie(SqliteClient.layer({ filename: database }))))

row(
  {
    name: "kill-random",
    title:
      "SIGKILL at a random moment: nothing acknowledged is lost, no completed step is repeated, and the file is sound",
    ci: 200,
    night: 10_000
  },
  6,
  (count) =>
    Effect.gen(function*() {
      const program = yield* bundleForMany("faults/work")
      // With nothing to do it ends by itself, which leaves the compiled program to the others.
      yield* Effect.scoped(Effect.flatMap(temporaryFile, (database) => finish(program, database)))
      const moments = fc.sample(
        fc.record<Moment>({ lines: fc.integer({ min: 0, max: 40 }), millis: fc.integer({ min: 0, max: 6 }) }),
        { seed, numRuns: count }
      )
      const done = yield* Effect.forEach(
        Array.chunksOf(moments, killsOfADatabase),
        (chunk, i) =>
          Effect.scoped(Effect.gen(function*() {
            const database = yield* temporaryFile
            yield* Effect.forEach(chunk, (moment) => killAt(program, database, moment), { discard: true })
            yield* finish(program, database)
            const found = yield* check(database)
            yield* integrity(database)
            return found
          })).pipe(Effect.catchAllCause((cause) =>
            Effect.die(
              new Error(
                `database ${i}, of ${chunk.length} kills (seed ${seed}, ${count} kills in all): ${cause.toString()}`
              )
            )
          )),
        { concurrency: 2 }
      )
      const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((a, b) => a + b, 0)
      // The moments were moments of work.
      assert.isAbove(sum(done.map(({ runs }) => runs)), count / 4)
      assert.isAbove(sum(done.map(({ repeated }) => repeated)), 0)
      return count
    })
)
