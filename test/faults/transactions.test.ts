import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, FastCheck as fc, Layer } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundle, launch } from "../support/bundle.js"
import { temporaryFile } from "../support/stores.js"

const kills = Number(process.env.PERDURE_KILLS ?? 40)

describe("SIGKILL at a random moment of a transaction", () => {
  it.live(
    `${kills} times over one database: what a step wrote and its record are both there, once, or neither is`,
    () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* temporaryFile
        const program = yield* bundle("faults/transfers")
        const [moments] = fc.sample(
          fc.array(fc.integer({ min: 0, max: 300 }), { minLength: kills, maxLength: kills }),
          1
        )
        for (const moment of moments ?? []) {
          yield* Effect.scoped(Effect.gen(function*() {
            const worker = yield* launch(program, [database, "new"])
            yield* worker.line
            yield* Effect.sleep(moment)
            yield* worker.kill
          }))
        }
        const last = yield* launch(program, [database, "finish"])
        assert.strictEqual(yield* last.ended, 0)

        const context = yield* Layer.build(
          Layer.provideMerge(SqliteStepStore.layerClient(), SqliteClient.layer({ filename: database }))
        )
        const sql = Context.get(context, SqliteClient.SqliteClient)
        const store = Context.get(context, StepStore.StepStore)
        const written = yield* sql<{ readonly key: string; readonly sides: string; readonly nonce: string }>`
          SELECT step_key AS key, group_concat(side) AS sides, group_concat(DISTINCT nonce) AS nonce
          FROM entries GROUP BY step_key ORDER BY step_key
        `
        const steps = yield* sql<{ readonly key: string; readonly output: string }>`
          SELECT step_key AS key, output FROM steps
          WHERE final = 1 AND status = 'COMPLETED' AND step_id <> 'between' ORDER BY step_key
        `
        assert.deepStrictEqual(
          written,
          steps.map(({ key, output }) => ({ key, sides: "debit,credit", nonce: output }))
        )
        const runs = yield* store.runs({ after: null, limit: 100_000 })
        assert.deepStrictEqual(new Set(runs.map((run) => run.status)), new Set(["COMPLETED"]))
        assert.strictEqual(steps.length, 4 * runs.length)
        const orders = yield* sql<{ readonly id: string }>`SELECT workflow_id AS id FROM orders`
        assert.deepStrictEqual(orders.map(({ id }) => id).sort(), runs.map((run) => run.workflowId).sort())

        // The moments were moments of work.
        const [{ died } = { died: 0 }] = yield* sql<{ readonly died: number }>`SELECT count(*) AS died FROM attempts`
        assert.isAbove(runs.length, kills / 8)
        assert.isAbove(died, 0)
        yield* Effect.log(`${kills} kills: ${runs.length} runs, ${steps.length} transactions, ${died} of them cut off`)
      })),
    240_000
  )
})
