import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck as fc, Layer } from "effect"
import { Engine, type Errors, MemoryStepStore, StepStore, Workflow } from "perdure"
import { newRun } from "./suites/rows.js"
import { bodyOf, type Ledger, type Program, separate, sharing } from "./support/programs.js"

const id = "random"

/** What a run left behind. */
interface Life {
  readonly result: string
  readonly started: number
  readonly history: ReadonlyArray<StepStore.StepRow>
}

/** Puts a run with a history into an empty store, as a worker that died left it. */
const plant = (history: ReadonlyArray<StepStore.StepRow>) =>
  Effect.flatMap(StepStore.StepStore, (store) =>
    store.commit([{
      ...newRun(id, { name: "~run", status: "PENDING", fingerprint: "", payload: null, createdAt: 0 }),
      epoch: 0,
      steps: history
    }]))

/** Runs a program over a history, to its end. */
const live = (
  program: Program,
  history: ReadonlyArray<StepStore.StepRow>
): Effect.Effect<Life, Errors.StoreError | Error> =>
  Effect.gen(function*() {
    const ledger: Ledger = { started: 0 }
    if (history.length > 0) {
      yield* plant(history)
    }
    const result = yield* Workflow.run(id, bodyOf(program, ledger))
    const store = yield* StepStore.StepStore
    return {
      result,
      started: ledger.started,
      history: (yield* store.history(id, 0, { after: -1, limit: 10_000 })).rows
    }
  }).pipe(
    Effect.provide(
      Engine.layerWith({ deadlockAfter: "2 seconds", unrequestedAfter: "2 seconds" }).pipe(
        Layer.provideMerge(MemoryStepStore.layer)
      )
    )
  )

const outcomes = (history: ReadonlyArray<StepStore.StepRow>) =>
  history.map(({ error, output, position, status, stepId, stepKey }) => ({
    error,
    output,
    position,
    status,
    stepId,
    stepKey
  }))

/** Real time, because steps of random length are the subject. */
const property = <T>(arbitrary: fc.Arbitrary<T>, check: (value: T) => Effect.Effect<void, unknown>, numRuns: number) =>
  Effect.promise(() =>
    fc.assert(fc.asyncProperty(arbitrary, (value) => Effect.runPromise(check(value))), {
      numRuns: Number(process.env.FC_RUNS ?? numRuns)
    })
  )

describe("the sequencer", () => {
  it.live("a full replay gives the same result and starts no effect", () =>
    property(sharing, (program) =>
      Effect.gen(function*() {
        const first = yield* live(program, [])
        const again = yield* live(program, first.history)
        assert.strictEqual(again.result, first.result)
        assert.strictEqual(again.started, 0)
        assert.deepStrictEqual(outcomes(again.history), outcomes(first.history))
      }), 150))

  it.live("a replay from any prefix ends in a history of which that prefix is a prefix", () =>
    property(
      fc.tuple(sharing, fc.double({ min: 0, max: 1, noNaN: true })),
      ([program, share]) =>
        Effect.gen(function*() {
          const first = yield* live(program, [])
          const prefix = first.history.slice(0, Math.floor(first.history.length * share))
          const onwards = yield* live(program, prefix)
          assert.deepStrictEqual(outcomes(onwards.history.slice(0, prefix.length)), outcomes(prefix))
          const replay = yield* live(program, onwards.history)
          assert.strictEqual(replay.result, onwards.result)
          assert.strictEqual(replay.started, 0)
        }),
      150
    ))

  it.live("bodies whose branches share nothing have the same keys in every run", () =>
    property(separate, (program) =>
      Effect.gen(function*() {
        const keys = (life: Life) => life.history.map((row) => `${row.stepKey} ${row.stepId}`).sort()
        const first = yield* live(program, [])
        const second = yield* live(program, [])
        assert.deepStrictEqual(keys(second), keys(first))
      }), 100))
})
