import { describe, expect, it } from "@effect/vitest"
import { Effect, Exit, Layer, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { StepSpy, TestEngine } from "perdure/testing"
import { stoppedBy } from "./support/harness.js"

const Order = Workflow.make({
  name: "order",
  payload: { id: Schema.String },
  success: Schema.Number,
  error: Schema.String,
  idempotencyKey: ({ id }) => id
})

const orders = Order.toLayer(() =>
  Effect.zipRight(
    Effect.void.pipe(Step.durable("reserve")),
    Step.attempt.pipe(Step.durable("charge", { error: Schema.String, retry: { times: 1 } }))
  )
)

const ordered = (spy: StepSpy.StepSpy) =>
  Order.execute({ id: "7" }).pipe(Effect.provide(Layer.provideMerge(orders, TestEngine.layerWith({ spy }))))

describe("StepSpy", () => {
  it.effect("sees each attempt, and what it ended with", () =>
    Effect.gen(function*() {
      const spy = StepSpy.make()
      expect(yield* ordered(spy)).toBe(1)
      expect(spy.calls).toEqual([
        { workflowId: "order/7", stepId: "reserve", stepKey: "order/7:0", attempt: 1, exit: Exit.void },
        { workflowId: "order/7", stepId: "charge", stepKey: "order/7:1", attempt: 1, exit: Exit.succeed(1) }
      ])
    }))

  it.effect("puts a failure in the place of an attempt that is chosen, or of all of them", () =>
    Effect.gen(function*() {
      const once = StepSpy.make([{ stepId: "charge", attempt: 1, effect: Effect.fail("declined") }])
      expect(yield* ordered(once)).toBe(2)
      expect(once.callsOf("charge").map(({ exit }) => exit)).toEqual([Exit.fail("declined"), Exit.succeed(2)])
      const always = StepSpy.make()
      always.replace({ stepId: "charge", effect: Effect.fail("declined") })
      expect(yield* Effect.flip(ordered(always))).toBe("declined")
      expect(always.callsOf("charge")).toHaveLength(2)
    }))

  it.effect("lets a step die, and be interrupted", () =>
    Effect.gen(function*() {
      for (const effect of [Effect.die("broken"), Effect.interrupt]) {
        const { stepId } = yield* stoppedBy("StepDied")(ordered(StepSpy.make([{ stepId: "reserve", effect }])))
        expect(stepId).toBe("reserve")
      }
    }))
})
