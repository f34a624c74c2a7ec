/** Runs that wait leave memory, and nothing that is meant to wake them is lost. */
import { describe, expect } from "@effect/vitest"
import { Effect, Fiber, Layer, Schedule, Schema, TestClock } from "effect"
import { Branch, Engine, MemoryStepStore, Signal, Step, StepStore, Workflow } from "perdure"
import {
  eventually,
  inEngine,
  ledger,
  openEngine,
  realClock,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Go = Signal.make("go", Schema.Number)

const day = 24 * 60 * 60 * 1_000

/** Lets the test's clock go on by the grace, so that whatever waits leaves memory. */
const park = (workflowId: string) =>
  Effect.gen(function*() {
    yield* turns(20)
    yield* TestClock.adjust("1 second")
    yield* eventually(statusOf(workflowId), (status) => status === "SUSPENDED")
  })

const Sleeper = Workflow.make({ name: "sleeper", payload: {}, success: Schema.String })

const quiet = { slowPoll: "1000 days" as const }

for (const [store, layer] of stores) {
  const test = testOn(layer)

  describe(`Parking (${store})`, () => {
    test("a run that sleeps leaves memory after the grace, is woken in time, and goes on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const live = Sleeper.toLayer(() =>
          Effect.gen(function*() {
            yield* add("begins")
            yield* Effect.addFinalizer(() => add("leaves"))
            yield* stepOf("before")
            yield* Effect.sleep("1 day")
            return yield* stepOf("after")
          }).pipe(Effect.scoped)
        )
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Sleeper.execute(undefined, { workflowId: "wf" }))
          yield* park("wf")
          expect(entries).toEqual(["begins", "leaves"])
          expect(yield* rowOf("wf")).toMatchObject({ owner: null, wakeAt: day })
          yield* TestClock.setTime(day - 1)
          yield* turns(20)
          expect(yield* statusOf("wf")).toBe("SUSPENDED")
          yield* TestClock.adjust(1)
          expect(yield* Fiber.join(fiber)).toBe("after")
          expect(entries).toEqual(["begins", "leaves", "begins", "leaves"])
          expect(yield* rowOf("wf")).toMatchObject({ wakeAt: null, epoch: 2 })
        }).pipe(inEngine({ ...quiet, workflows: [live] }))
      }))

    test("a signal wakes it", () =>
      Effect.gen(function*() {
        const live = Sleeper.toLayer(() => Effect.map(Signal.next(Go), String))
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Sleeper.execute(undefined, { workflowId: "wf" }))
          yield* park("wf")
          expect(yield* rowOf("wf")).toMatchObject({ wakeAt: null, inbox: 0 })
          yield* Signal.send(Go, { workflowId: "wf", value: 7 })
          expect(yield* Fiber.join(fiber)).toBe("7")
        }).pipe(inEngine({ ...quiet, workflows: [live] }))
      }))
  })
}
