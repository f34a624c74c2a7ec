import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Ended, folder, program, removeBundles } from "../fixtures/examples/commands.js"
import { done, killedUntilItEnds } from "../fixtures/examples/ledger.js"

const patience = 240_000
const orderSaga = program("examples/order-saga.ts")

afterAll(removeBundles)

const all = [
  "reserve lamp",
  "charge 4900",
  "ship lamp to Turku",
  "reserve trident",
  "charge 12900",
  "refund 12900",
  "release trident"
]

const expectOutcomes = (ended: Ended) => {
  expect(ended.code, ended.stderr).toBe(0)
  expect(ended.stdout).toContain("order 1001 COMPLETED: lamp is on its way to Turku")
  expect(ended.stdout).toContain("order 1002 FAILED, and all is undone: No courier goes to Atlantis")
}

describe.concurrent("the order saga", () => {
  it.scopedLive(
    "ships one order, undoes the other, latest first, and does nothing twice",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        expectOutcomes(yield* orderSaga([], { cwd }))
        expect(done(join(cwd, "order-saga.log"), 0)).toEqual(all)
        expectOutcomes(yield* orderSaga([], { cwd }))
        expect(done(join(cwd, "order-saga.log"), 0)).toEqual(all)
      }),
    patience
  )

  it.scopedLive("killed at each of its steps, compensations too, it goes on there", () =>
    Effect.gen(function*() {
      const cwd = yield* folder
      // The step that the last process began is the first of this one, which dies when it begins the second.
      const { ended, kills } = yield* killedUntilItEnds(orderSaga, cwd, { CRASH_AFTER: "2" })
      expectOutcomes(ended)
      expect(kills).toBe(all.length)
      expect(done(join(cwd, "order-saga.log"), 0)).toEqual(all)
    }), patience)

  it.scopedLive("killed before and after its commits, it does nothing twice", () =>
    Effect.gen(function*() {
      const cwd = yield* folder
      const crashes = [["before-commit", 2], ["after-commit", 3], ["before-commit", 4], ["after-commit", 5]] as const
      for (const [at, after] of crashes) {
        const { code, stderr } = yield* orderSaga([], { cwd, env: { CRASH_AT: at, CRASH_AFTER: String(after) } })
        expect(code, stderr).toBe(137)
      }
      expectOutcomes(yield* orderSaga([], { cwd }))
      expect(done(join(cwd, "order-saga.log"), crashes.length)).toEqual(all)
    }), patience)
})
