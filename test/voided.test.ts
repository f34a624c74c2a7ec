/** What comes to a body that has just stopped waiting for it: because its wait was cut, or because the run leaves memory. */
import { describe, expect } from "@effect/vitest"
import { Effect, Fiber, Schema, TestClock } from "effect"
import { Branch, Signal, StepStore, Workflow } from "perdure"
import { gate, historyOf, inEngine, stepOf, stepsOf, testOn, turns } from "./support/harness.js"
import { stores } from "./support/stores.js"

const A = Signal.make("a", Schema.String)
const B = Signal.make("b", Schema.String)

for (const [store, layer] of stores) {
  const test = testOn(layer)

  describe(`A record that comes to nobody (${store})`, () => {
    test("is not overwritten by the note that its wait was cut: signals", () =>
      Effect.gen(function*() {
        const door = gate()
        const body = Effect.gen(function*() {
          yield* door.pass
          const first = yield* Branch.race(Signal.next(A), Signal.next(B))
          yield* stepOf("after")
          // What was taken by nobody has been given back.
          return [first, yield* Signal.next(B)]
        })
        const fiber = yield* Effect.fork(Workflow.run("wf", body))
        yield* door.begun
        yield* Signal.send(A, { workflowId: "wf", value: "a" })
        yield* Signal.send(B, { workflowId: "wf", value: "b" })
        yield* door.open
        expect(yield* Fiber.join(fiber)).toEqual(["a", "b"])
        expect((yield* stepsOf("wf")).filter((step) => step.includes("FAILED"))).toEqual([])
      }).pipe(inEngine({ slowPoll: "1000 days" })))

    test("is not overwritten by the note that its wait was cut: sleeps", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const held = gate()
        const body = Effect.zipRight(Branch.race(Effect.sleep("1 second"), Effect.sleep("1 second")), stepOf("after"))
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Workflow.run("wf", body))
          yield* turns(20)
          // Both timers fire while the journal is busy, so both records are in one batch.
          const other = yield* Effect.fork(Workflow.run("other", stepOf("other")))
          yield* held.begun
          yield* TestClock.adjust("1 second")
          yield* turns(20)
          yield* held.open
          expect(yield* Fiber.join(fiber)).toBe("after")
          yield* Fiber.join(other)
        }).pipe(
          inEngine({ slowPoll: "1000 days" }),
          Effect.provideService(StepStore.StepStore, {
            ...store,
            commit: (batch) =>
              batch.some((update) => update.workflowId === "other" && update.insert !== null)
                ? Effect.zipRight(held.pass, store.commit(batch))
                : store.commit(batch)
          })
        )
        expect((yield* historyOf("wf")).map((row) => row.stepKey).sort()).toEqual(["wf:0.0", "wf:1.0", "wf:2"])
      }))
  })
}
