import { describe, expect, it } from "@effect/vitest"
import { Effect, Layer, Schema, TestContext } from "effect"
import { Errors, Signal, Step, Workflow } from "perdure"
import { History, replay, ReplayDiffers, TestEngine } from "perdure/testing"
import { failure } from "./support/harness.js"

const Order = Workflow.make({
  name: "order",
  payload: { id: Schema.String },
  success: Schema.String,
  error: Schema.String
})
const Other = Workflow.make({ name: "other", payload: { id: Schema.String }, success: Schema.String })

const Paid = Signal.make("paid", Schema.String)

type Body = Effect.Effect<string, string, Workflow.Run>

const step = (id: string) => Effect.succeed(id).pipe(Step.durable(id))

/** What is recorded of a run with this body, which is let go on for a day. */
const recordedOf = (body: Body) =>
  Effect.gen(function*() {
    yield* Order.start({ id: "7" }, { workflowId: "wf" })
    yield* TestEngine.advance("1 day")
    return yield* History.import(yield* History.export("wf"))
  }).pipe(
    Effect.provide(
      Order.toLayer(() => body).pipe(Layer.provideMerge(TestEngine.layer), Layer.provideMerge(TestContext.TestContext))
    )
  )

const replayed = (history: History.History, body: Body) =>
  replay(Order, history, { layer: Order.toLayer(() => body), patience: 20 })

/** Why the replay differs. */
const difference = (before: Body, after: Body) =>
  Effect.gen(function*() {
    const error = yield* failure(replayed(yield* recordedOf(before), after))
    expect(error).toBeInstanceOf(ReplayDiffers)
    return error
  })

describe("replay", () => {
  it.effect("goes on where the code does what is recorded, and starts no effect", () =>
    Effect.gen(function*() {
      let effects = 0
      const body = Effect.zipRight(Effect.sync(() => `${++effects}`).pipe(Step.durable("one")), step("two"))
      const history = yield* recordedOf(body)
      expect(yield* replayed(history, body)).toEqual({ operations: 2, next: null })
      expect(effects).toBe(1)
    }))

  it.effect("answers what a run that is under way would begin next", () =>
    Effect.gen(function*() {
      const history = yield* recordedOf(Effect.zipRight(step("one"), Signal.next(Paid)))
      const { next } = yield* replayed(history, Effect.zipRight(step("one"), Signal.next(Paid)))
      expect(next).toEqual({ address: "1", kind: "signal", id: "paid", fingerprint: null })
      expect(yield* replayed(history, step("one"))).toEqual({ operations: 1, next: null })
    }))

  it.effect("shows what is recorded beside what is asked for", () =>
    Effect.gen(function*() {
      const error = yield* difference(step("pay"), step("charge"))
      expect(error.reason).toBeInstanceOf(Errors.NonDeterminismError)
      expect(error.message).toMatch(
        /^The code of workflow "order" does not repeat run "wf": it would stop. [^]*> 0 step "pay" +0 step "charge"/
      )
    }))

  it.effect("says that an ended run would begin something, end otherwise, or wait", () =>
    Effect.gen(function*() {
      const more = yield* difference(step("pay"), Effect.zipRight(step("pay"), step("more")))
      expect(more.requested).toEqual({ address: "1", kind: "step", id: "more", fingerprint: null })
      expect(more.message).toContain("it would begin step \"more\" at 1, and the run has ended without that")
      const otherwise = yield* difference(step("pay"), Effect.flatMap(step("pay"), Effect.fail))
      expect(otherwise.message).toContain("it would end as FAILED with \"pay\", and recorded is COMPLETED with \"pay\"")
      const goesOn = yield* difference(step("pay"), Effect.zipRight(step("pay"), Order.continueAsNew({ id: "8" })))
      expect(goesOn.message).toContain("it would go on in another generation")
      const waits = yield* difference(step("pay"), Effect.zipRight(step("pay"), Effect.never))
      expect(waits.message).toContain("it would stop. The body of run \"wf\" has waited for")
      const underWay = yield* recordedOf(Effect.zipRight(step("pay"), Effect.as(Effect.sleep("2 days"), "")))
      const report = yield* replayed(underWay, Effect.zipRight(step("pay"), Order.continueAsNew({ id: "8" })))
      expect(report).toEqual({ operations: 1, next: null })
    }))

  it.effect("refuses the history of another workflow, and one that does not say how it began", () =>
    Effect.gen(function*() {
      const history = yield* recordedOf(step("pay"))
      const other = yield* failure(
        replay(Other, history, { layer: Other.toLayer(() => Effect.succeed("")) })
      )
      expect(other.message).toContain("it is a run of workflow \"order\"")
      const blind = new History.History({ ...history, generations: [] })
      expect((yield* failure(replayed(blind, step("pay")))).message).toContain("does not say what it was started with")
    }))
})

describe("History", () => {
  it.effect("reads back what it has written, and refuses what is damaged or newer", () =>
    Effect.gen(function*() {
      const history = yield* recordedOf(step("pay"))
      const json = History.encode(history)
      expect(yield* History.import(json)).toEqual(history)
      expect((yield* failure(History.import(json.replace("\"pay\"", "\"bay\"")))).message).toContain(
        "does not match its digest"
      )
      expect((yield* failure(History.import("{")))._tag).toBe("HistoryDamaged")
      const newer = yield* failure(History.import(json.replace("\"version\": 1", "\"version\": 2")))
      expect(newer.message).toBe(
        "This history has format 2, and this version of Perdure reads up to 1: update the library"
      )
    }))

  it.effect("has nothing of a run that is not there", () =>
    Effect.gen(function*() {
      expect((yield* failure(History.export("nobody")))._tag).toBe("WorkflowNotFound")
    }).pipe(Effect.provide(TestEngine.layer)))
})
