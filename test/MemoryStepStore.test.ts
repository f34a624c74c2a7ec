import { describe, expect, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { MemoryStepStore, StepStore } from "perdure"
import { completed, everything, newRun, update } from "./suites/rows.js"

describe("MemoryStepStore", () => {
  it.effect("has the namespace that it is given, and \"default\" otherwise", () =>
    Effect.gen(function*() {
      const namespace = Effect.map(StepStore.StepStore, (store) => store.namespace)
      expect(yield* Effect.provide(namespace, MemoryStepStore.layer)).toBe("default")
      expect(yield* Effect.provide(namespace, MemoryStepStore.layerWith({ namespace: "tests" }))).toBe("tests")
    }))

  it.scoped("each time the layer is built, the store is empty", () =>
    Effect.gen(function*() {
      const build = Effect.map(Layer.build(Layer.fresh(MemoryStepStore.layer)), (context) =>
        context.unsafeMap.get(StepStore.StepStore.key) as StepStore.StepStore["Type"])
      const [one, other] = [yield* build, yield* build]
      yield* one.commit([newRun("run")])
      expect(yield* other.runs(everything)).toEqual([])
      expect(one.target).toBe("the store in memory")
    }))

  it.effect("a run that stands twice in a batch is a defect of the caller", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      yield* store.commit([newRun("run")])
      const batch = [update("run", { steps: [completed("run", 0)] }), update("run")]
      const cause = yield* Effect.flip(Effect.sandbox(store.commit(batch)))
      expect(String(cause)).toContain("a run stands in a batch once")
      expect((yield* store.history("run", 0, everything)).rows).toEqual([])
    }).pipe(Effect.provide(MemoryStepStore.layer)))
})
