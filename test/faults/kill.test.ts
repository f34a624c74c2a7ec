import { readFileSync } from "node:fs"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck as fc, Layer, Option } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundle, launch } from "../support/bundle.js"
import { temporaryFile } from "../support/stores.js"

interface LedgerEntry {
  readonly effect?: string
  readonly life?: number
  readonly nonce?: number
  readonly acknowledged?: string
  readonly result?: ReadonlyArray<number>
}

const readLedger = (file: string): ReadonlyArray<LedgerEntry> =>
  readFileSync(file, "utf8").split("\n").filter((line) => line !== "").map((line) => JSON.parse(line))

const kills = Number(process.env.PERDURE_KILLS ?? 100)

describe("SIGKILL at a random moment", () => {
  it.live(
    `${kills} times over one database loses nothing and repeats no completed step`,
    () =>
      Effect.scoped(Effect.gen(function*() {
        const database = yield* temporaryFile
        const ledgerFile = `${database}.ledger`
        const program = yield* bundle("faults/work")
        const [moments] = fc.sample(
          fc.array(fc.integer({ min: 0, max: 250 }), { minLength: kills, maxLength: kills }),
          1
        )
        for (const moment of moments ?? []) {
          yield* Effect.scoped(Effect.gen(function*() {
            const worker = yield* launch(program, [database, ledgerFile, "new"])
            yield* worker.line
            yield* Effect.sleep(moment)
            yield* worker.kill
          }))
        }
        const last = yield* launch(program, [database, ledgerFile, "finish"])
        assert.strictEqual(yield* last.ended, 0)

        const ledger = readLedger(ledgerFile)
        const effects = new Map<string, Array<LedgerEntry>>()
        for (const entry of ledger) {
          if (entry.effect !== undefined) {
            effects.set(entry.effect, [...effects.get(entry.effect) ?? [], entry])
          }
        }
        const acknowledged = new Map(ledger.flatMap((entry) =>
          entry.acknowledged === undefined ? [] : [[entry.acknowledged, entry.result ?? []] as const]
        ))

        const checked = yield* Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const runs = yield* store.runs({ after: null, limit: 100_000 })
          let steps = 0
          let repeated = 0
          for (const run of runs) {
            assert.strictEqual(run.status, "COMPLETED", run.workflowId)
            const row = Option.getOrThrow(yield* store.run(run.workflowId))
            // What was acknowledged, perhaps many lives ago, is what is recorded.
            assert.deepStrictEqual(JSON.parse(row.outcome ?? "null"), acknowledged.get(run.workflowId), run.workflowId)
            const history = yield* store.history(run.workflowId, 0, { after: null, limit: 1_000 })
            assert.deepStrictEqual(
              history.map((step) =>
                step.position
              ).sort((a, b) => Number(a) - Number(b)),
              history.map((step) => step.position)
            )
            for (const step of history) {
              const ran = effects.get(step.stepKey) ?? []
              // The recorded result is that of the last time it ran: nothing ran after it was recorded.
              assert.strictEqual(String(ran.at(-1)?.nonce), step.output, step.stepKey)
              // It ran again only because the process had died in between.
              const lives = ran.map((entry) => entry.life)
              assert.deepStrictEqual(lives, [...new Set(lives)], step.stepKey)
              steps++
              repeated += ran.length - 1
            }
          }
          return { runs: runs.length, steps, repeated }
        }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))

        const [integrity] = yield* Effect.gen(function*() {
          const sql = yield* SqliteClient.SqliteClient
          return yield* sql<{ readonly integrity_check: string }>`PRAGMA integrity_check`
        }).pipe(Effect.provide(Layer.orDie(SqliteClient.layer({ filename: database }))))
        assert.strictEqual(integrity?.integrity_check, "ok")

        // The moments were moments of work.
        assert.isAbove(checked.runs, kills / 4)
        assert.isAbove(checked.repeated, 0)
        yield* Effect.log(
          `${kills} kills: ${checked.runs} runs, ${checked.steps} completed steps, ${checked.repeated} effects repeated by a death between effect and record`
        )
      })),
    240_000
  )
})
