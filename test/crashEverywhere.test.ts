import { describe, expect, it } from "@effect/vitest"
import { Effect, Layer, Random, Schedule, Schema } from "effect"
import { Branch, Child, type Engine, Signal, Step, Workflow } from "perdure"
import { crashEverywhere, type CrashOptions } from "perdure/testing"
import { failure } from "./support/harness.js"

const Greeting = Workflow.make({
  name: "greeting",
  payload: { name: Schema.String },
  success: Schema.String,
  error: Schema.String
})

/** The body of {@link Greeting}, crashed everywhere. */
const greeting = (
  body: Effect.Effect<string, string, Workflow.Run>,
  options: Omit<CrashOptions, "layer"> = {},
  others: Layer.Layer<never, never, Engine.Engine> = Layer.empty
) =>
  crashEverywhere(Greeting, { name: "Ada" }, { ...options, layer: Layer.merge(Greeting.toLayer(() => body), others) })

const step = (id: string) => Effect.succeed(id).pipe(Step.durable(id))

/** What is wrong with the body of {@link Greeting}. */
const flaw = (
  body: Effect.Effect<string, string, Workflow.Run>,
  options: Omit<CrashOptions, "layer"> = {}
) => failure(greeting(body, options))

describe("crashEverywhere", () => {
  it.effect("proves a workflow of steps and sleeps, at every commit and every step", () =>
    Effect.gen(function*() {
      const report = yield* greeting(Effect.gen(function*() {
        yield* step("one")
        // A date that is given is the same in each life.
        yield* Effect.sleep(new Date(2_592_000_000).getTime())
        return yield* step("two")
      }))
      expect(report).toEqual({
        crashes: expect.any(Number),
        status: "COMPLETED",
        outcome: "\"two\"",
        effects: { one: 1, two: 1 }
      })
      expect(report.crashes).toBeGreaterThan(12)
    }))

  it.effect("proves retries, branches, children, generations, compensations and finalizers", () => {
    const Part = Workflow.make({ name: "part", payload: { n: Schema.Number }, success: Schema.Number })
    const parts = Part.toLayer(({ n }) => Effect.succeed(n * 2).pipe(Step.durable("double")))
    const body = Effect.gen(function*() {
      // How long it takes depends on how many attempts were cut off.
      yield* Step.attempt.pipe(
        Effect.filterOrFail((attempt) => attempt > 2, () => "not yet"),
        Step.durable("retried", { error: Schema.String, retry: Schedule.spaced("1 hour") })
      )
      const parts = yield* Branch.forEach([1, 2, 3], (n) => Effect.orDie(Child.execute(Part, { n })), {
        concurrency: "unbounded"
      })
      const chance = yield* Random.nextIntBetween(0, 1_000_000)
      yield* step("reserve").pipe(
        Workflow.withCompensation((value) => Effect.succeed(`undo ${value}`))
      )
      yield* step("close").pipe(Effect.ensuring(step("finally")))
      return yield* Effect.fail(`${parts.join()} ${chance}`)
    })
    return Effect.gen(function*() {
      const { effects, outcome, status } = yield* greeting(body, {}, parts)
      expect(status).toBe("FAILED")
      expect(outcome).toMatch(/^"2,4,6 \d+"$/)
      expect(effects).toEqual({ retried: 3, double: 3, reserve: 1, close: 1, finally: 1, compensation: 1 })
    })
  })

  it.effect("lets somebody answer what the run waits for", () => {
    const Approval = Signal.make("approval", Schema.String)
    return Effect.gen(function*() {
      const { outcome } = yield* greeting(
        Branch.timeout(Signal.next(Approval), "3 days").pipe(Effect.orElseSucceed(() => "nobody")),
        {
          during: (workflowId) =>
            Effect.zipRight(Effect.sleep("2 days"), Effect.orDie(Signal.send(Approval, { workflowId, value: "Ada" })))
        }
      )
      expect(outcome).toBe("\"Ada\"")
    })
  })

  it.effect("follows a run through its generations", () => {
    const Count = Workflow.make({ name: "count", payload: { n: Schema.Number }, success: Schema.Number })
    const counting = Count.toLayer(({ n }) =>
      Effect.zipRight(step(`step ${n}`), n < 3 ? Count.continueAsNew({ n: n + 1 }) : Effect.succeed(n))
    )
    return Effect.gen(function*() {
      const { effects, outcome } = yield* crashEverywhere(Count, { n: 1 }, { layer: counting, workflowId: "count" })
      expect(outcome).toBe("3")
      expect(effects).toEqual({ "step 1": 1, "step 2": 1, "step 3": 1 })
    })
  })
})

describe("crashEverywhere finds", () => {
  it.effect("a side effect outside a step", () => {
    const sent: Array<string> = []
    return Effect.gen(function*() {
      const error = yield* flaw(
        Effect.tap(step("one"), () => Effect.sync(() => void sent.push("a letter"))),
        { observe: () => sent }
      )
      expect(error.problem).toBe("outside")
      expect(error.message).toBe(
        "Workflow \"greeting\" is not crash-proof: even without a crash, a replay of run \"greeting/crash-everywhere\" has an " +
          "effect, although no step of it ran: what is observed changes\nfrom [ 'a letter' ]\nto [ 'a letter', 'a letter' ]\n" +
          "The body does something outside its steps, and each replay does it again: wrap that in Step.durable"
      )
    })
  })

  it.effect("a side effect outside a step that takes a while, without being shown its traces", () =>
    Effect.gen(function*() {
      const error = yield* flaw(Effect.tap(step("one"), () => Effect.promise(() => Promise.resolve())))
      expect(error.message).toBe(
        "Workflow \"greeting\" is not crash-proof: even without a crash, the body waits for something that no step contains, " +
          "after step \"one\" (0): a promise, a timer, a server\n" +
          "A replay does it again. Wrap it in Step.durable; if it only reads what never changes, say waitsOutside: true"
      )
    }))

  it.effect("a Date captured outside a step", () =>
    Effect.gen(function*() {
      const error = yield* flaw(Effect.suspend(() => {
        const now = new Date()
        return Effect.map(step("one"), () => now.toISOString().slice(0, 10))
      }))
      expect(error.problem).toBe("replay")
      expect(error.message).toMatch(
        new RegExp(
          "^Workflow \"greeting\" is not crash-proof: even without a crash, a replay of the history of run " +
            "\"greeting/crash-everywhere\" differs: it ends as COMPLETED with \"\\d{4}-\\d\\d-\\d\\d\", and recorded is COMPLETED with " +
            "\"\\d{4}-\\d\\d-\\d\\d\"\n" +
            "The body calls new Date\\(\\) at test/crashEverywhere.test.ts:\\d+:\\d+, which answers differently in each life. " +
            "For the time use DateTime.now or Clock of Effect; for chance, Random of Effect or Workflow.uuid; or read it inside a step$"
        )
      )
    }))

  it.effect("a random branch", () =>
    Effect.gen(function*() {
      const error = yield* flaw(Effect.suspend(() => Math.random() < 0.5 ? step("heads") : step("tails")))
      expect(error.problem).toBe("replay")
      expect(error.message).toMatch(
        /a replay of the history of run .* differs: it stops: Run .* was recorded by other code/
      )
      expect(error.message).toMatch(/0 step "heads" +0 step "tails"/)
      expect(error.message).toMatch(
        /\nThe body calls Math.random\(\) at test\/crashEverywhere.test.ts:\d+:\d+, which answers/
      )
    }))

  it.effect("a run that waits for ever, and one that nobody drives", () =>
    Effect.gen(function*() {
      const waits = yield* flaw(Signal.next(Signal.make("approval", Schema.String)))
      expect(waits.message).toContain(
        "even without a crash, the run waits for ever: under way is the wait for signal \"approval\" (0)"
      )
      const nobody = yield* failure(crashEverywhere(Greeting, { name: "Ada" }, { layer: Layer.empty }))
      expect(nobody.message).toContain("Give `layer` what toLayer of workflow \"greeting\" has made")
    }))

  it.effect("a body that does something else each time that it is run", () =>
    Effect.gen(function*() {
      const later = (body: Effect.Effect<string, string, Workflow.Run>) => {
        let lives = 0
        return Effect.suspend(() => lives++ === 0 ? Effect.succeed("first") : body)
      }
      const begins = yield* flaw(later(step("another")))
      expect(begins.message).toMatch(/replay .* differs: it begins step "another" \(0\), of which nothing is recorded/)
      const waits = yield* flaw(later(Effect.never))
      expect(waits.message).toMatch(
        /replay .* differs: it stops: .* it waits for something that nothing recorded can bring/
      )
      const continues = yield* flaw(later(Greeting.continueAsNew({ name: "Grace" })))
      expect(continues.message).toMatch(/replay .* differs: it goes on in another generation, with .*Grace/)
    }))

  it.effect("a body that dies", () =>
    Effect.gen(function*() {
      const error = yield* flaw(Effect.die("broken"))
      expect(error.message).toMatch(/even without a crash, the run stops: The body of run .* died: .*broken/)
    }))

  it.effect("an effect that begins too often, and an outcome that depends on the crash, each as the options allow", () =>
    Effect.gen(function*() {
      const often = yield* flaw(step("charge"), { effects: { charge: 1 } })
      expect(often.message).toMatch(
        /after a crash when .*, the effect of step "charge" \(.*:0\) has begun 2 times, and 1 are allowed/
      )
      const attempt = Effect.map(Step.attempt.pipe(Step.durable("attempt")), String)
      const otherwise = yield* flaw(attempt)
      expect(otherwise.message).toMatch(/the run ends as COMPLETED with "2", and without it as COMPLETED with "1"/)
      expect((yield* greeting(attempt, { sameOutcome: false })).outcome).toBe("\"1\"")
    }))

  it.effect("nothing where a body may wait outside, and says so where what is done meanwhile fails", () =>
    Effect.gen(function*() {
      const outside = Effect.zipRight(Effect.promise(() => Promise.resolve()), step("one"))
      expect((yield* greeting(outside, { waitsOutside: true })).status).toBe("COMPLETED")
      const failed = yield* Effect.flip(crashEverywhere(Greeting, { name: "Ada" }, {
        layer: Greeting.toLayer(() => Effect.zipRight(Effect.sleep("1 day"), step("one"))),
        during: () => Effect.fail("nobody answers" as const)
      }))
      expect(failed).toBe("nobody answers")
    }))
})
