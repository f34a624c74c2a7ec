import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { type CrashSimulator, type Errors, SqliteStepStore, StepStore } from "perdure"
import { bundle, launch } from "../support/bundle.js"
import { temporaryFile } from "../support/stores.js"

interface Program {
  readonly name: string
  readonly result: string
  readonly effects: ReadonlyArray<string>
  /** Of its history, in their order as text. */
  readonly keys: ReadonlyArray<string>
  /** What else must be so at the end. */
  readonly check: Effect.Effect<void, Errors.StoreError, StepStore.StepStore>
}

const order: Program = {
  name: "boundary",
  result: "reserve chair left right ship",
  effects: ["reserve", "ask", "left", "right", "ship"],
  keys: ["order-1:0", "order-1:1", "order-1:2.0", "order-1:3.0", "order-1:4"],
  check: Effect.void
}

const family: Program = {
  name: "family",
  result: "3 win 2 1",
  effects: ["half 2", "half 3", "win", "half 4"],
  keys: ["order-1:0", "order-1:1", "order-1:3.0", "order-1:4.0", "order-1:5.0"],
  check: Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const runs = yield* store.runs({ after: null, limit: 10 })
    assert.deepStrictEqual(runs.map((run) => `${run.workflowId} ${run.status} ${run.parent}`), [
      "order-1 COMPLETED null",
      "~order-1:0 COMPLETED order-1",
      "~order-1:1 FAILED order-1",
      "~order-1:2.0 PENDING order-1",
      "~order-1:4.0 COMPLETED order-1"
    ])
    const cut = yield* store.run("~order-1:2.0")
    assert.isNotNull(Option.getOrThrow(cut).cancelAt)
  })
}

/** Runs the process until it ends; answers how. */
const life = (program: string, args: ReadonlyArray<string>) =>
  Effect.scoped(Effect.flatMap(launch(program, args), (worker) => worker.ended))

/** Dies at a boundary, lives again, and is looked at from outside. Answers whether it died. */
const dieAndLive = (
  program: string,
  { check, effects, keys, result }: Program,
  point: CrashSimulator.Point,
  after: number
) =>
  Effect.scoped(Effect.gen(function*() {
    const database = yield* temporaryFile
    const ledger = `${database}.ledger`
    const end = yield* life(program, [database, ledger, point, String(after)])
    assert.include([0, "SIGKILL"], end)
    assert.strictEqual(yield* life(program, [database, ledger, "none", "0"]), 0)
    // Once more, over a run that is recorded as a whole.
    assert.strictEqual(yield* life(program, [database, ledger, "none", "0"]), 0)

    const lines = readFileSync(ledger, "utf8").split("\n").filter((line) => line !== "")
    const where = `${point} ${after}`
    assert.deepStrictEqual(
      lines.filter((line) => line.startsWith("acknowledged")),
      Array.from({ length: end === 0 ? 3 : 2 }, () => `acknowledged ${result}`),
      where
    )
    const history = yield* Effect.flatMap(
      StepStore.StepStore,
      (store) => store.history("order-1", 0, { after: null, limit: 100 })
    ).pipe(
      Effect.zipLeft(check),
      Effect.provide(SqliteStepStore.layer({ filename: database }))
    )
    assert.deepStrictEqual(history.map((row) => row.stepKey).sort(), keys)
    const counts = effects.map((id) => lines.filter((line) => line === `effect ${id}`).length)
    for (const count of counts) {
      assert.isAtLeast(count, 1, where)
      assert.isAtMost(count, end === 0 ? 1 : 2, where)
    }
    // One death can repeat what was under way, which is at most both branches.
    assert.isAtMost(counts.reduce((sum, count) => sum + count, 0), effects.length + 2, where)
    return end !== 0
  }))

describe("SIGKILL at every boundary", () => {
  it.live.each<readonly [CrashSimulator.Point, string, Program, number]>([
    ["step-started", "one run", order, 5],
    ["before-commit", "one run", order, 10],
    ["after-commit", "one run", order, 10],
    ["before-commit", "a run with children", family, 10],
    ["after-commit", "a run with children", family, 10]
  ])(
    "of kind %s, in %s: what was acknowledged survives, and no completed step is repeated",
    ([point, , tried, atLeast]) =>
      Effect.gen(function*() {
        const program = yield* bundle(`faults/${tried.name}`)
        const walk = (after: number): Effect.Effect<number, Errors.StoreError> =>
          Effect.flatMap(
            dieAndLive(program, tried, point, after),
            (died) => died ? walk(after + 1) : Effect.succeed(after - 1)
          )
        const deaths = yield* walk(1)
        assert.isAtLeast(deaths, atLeast)
      }),
    180_000
  )
})
