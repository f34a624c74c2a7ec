/** Steps that are tried again, that run out of time, that are cut off, and that kill their process. */
import { describe, expect } from "@effect/vitest"
import { Clock, Effect, Exit, FastCheck, Fiber, Layer, Option, Random, Schedule, Schema, TestClock } from "effect"
import { Branch, Errors, Step, StepStore, Workflow } from "perdure"
import { update } from "./suites/rows.js"
import {
  attemptsOf,
  eventually,
  gate,
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  openEngine,
  rowOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

class Refused extends Schema.TaggedError<Refused>()("Refused", { turn: Schema.Int }) {}

type Ended = Refused | Errors.StepTimeout | Errors.StepDied

/** Fails with its number until the given turn, and says when each attempt began. */
const trying = (succeedsAt: number) => {
  const began: Array<readonly [attempt: number, at: number]> = []
  const effect = Effect.gen(function*() {
    const attempt = yield* Step.attempt
    began.push([attempt, yield* Clock.currentTimeMillis])
    return attempt < succeedsAt ? yield* new Refused({ turn: attempt }) : attempt
  })
  return { began, effect }
}

/** Lets an effect end, moving the test's clock by a millisecond whenever nothing else goes on. */
const inTime = <A, E, R>(self: Effect.Effect<A, E, R>, stride = 1) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(self)
    for (let i = 0; i < 4_000; i++) {
      for (let turn = 0; turn < 12; turn++) {
        yield* turns(1)
        if (Option.isSome(yield* Fiber.poll(fiber))) {
          return yield* Fiber.join(fiber)
        }
      }
      yield* TestClock.adjust(stride)
    }
    return expect.unreachable("it did not end in bounded time")
  })

const failureOf = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.orDie(Effect.flip(self))

const outline = (workflowId: string) =>
  Effect.map(
    attemptsOf(workflowId),
    (rows) => rows.map(({ attempt, dueAt, endedAt, error, errorTag }) => ({ attempt, endedAt, dueAt, errorTag, error }))
  )

/** Lives a run of a script again and again, each time crashing at its first attempt, and at last to its end. */
const crashing = (times: number, body: Effect.Effect<unknown, unknown, Workflow.Run>) =>
  Effect.forEach(
    Array.from({ length: times }),
    () => Effect.exit(Workflow.run("wf", Effect.ignore(body))).pipe(inEngine({ crashAfter: 1 })),
    { discard: true }
  )

describe.each(stores)("Retries (%s)", (_, store) => {
  const test = testOn(store)

  test("a failure is followed by another attempt until one succeeds, and each is recorded", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(3)
      const step = effect.pipe(Step.durable("s", { error: Refused, retry: Schedule.spaced("10 millis") }))
      expect(yield* inTime(Workflow.run("wf", Effect.orDie(step)))).toBe(3)
      expect(began).toEqual([[1, 0], [2, 10], [3, 20]])
      expect(yield* stepsOf("wf")).toEqual(["0 s COMPLETED 3!"])
      expect(yield* outline("wf")).toEqual([
        { attempt: 1, endedAt: 0, dueAt: 10, errorTag: null, error: "{\"turn\":1,\"_tag\":\"Refused\"}" },
        { attempt: 2, endedAt: 10, dueAt: 20, errorTag: null, error: "{\"turn\":2,\"_tag\":\"Refused\"}" }
      ])
      expect(yield* Workflow.run("wf", Effect.orDie(step))).toBe(3)
      expect(began).toHaveLength(3)
    }).pipe(inEngine()))

  test("the failure of the last attempt is the outcome, in life and in replay", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(9)
      const ends = yield* livedTwice("wf", effect.pipe(Step.durable("s", { error: Refused, retry: { times: 2 } })))
      expect(ends).toEqual([Exit.fail(new Refused({ turn: 3 })), Exit.fail(new Refused({ turn: 3 }))])
      expect(began).toHaveLength(3)
      expect((yield* outline("wf")).map(({ attempt }) => attempt)).toEqual([1, 2])
      expect((yield* historyOf("wf"))[0]).toMatchObject({ status: "FAILED", attempt: 3, errorTag: null })
    }).pipe(inEngine()))

  test("while and until see the decoded failure, and may be effects", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const say = (error: Refused) => {
        seen.push(error)
        return error.turn < 2
      }
      const attempts = [
        { while: say },
        { while: (error: Refused) => Effect.sync(() => say(error)) },
        { until: (error: Refused) => !say(error) },
        { until: (error: Refused) => Effect.sync(() => !say(error)), schedule: Schedule.forever }
      ]
      for (const [i, retry] of attempts.entries()) {
        const step = trying(9).effect.pipe(Step.durable("s", { error: Refused, retry }))
        expect(yield* Workflow.run(`wf-${i}`, failureOf(step), { success: Refused })).toEqual(
          new Refused({ turn: 2 })
        )
        expect(seen.splice(0)).toEqual([new Refused({ turn: 1 }), new Refused({ turn: 2 })])
      }
    }).pipe(inEngine()))

  test("a predicate that throws, and a schedule that does, is a death of the step", () =>
    Effect.gen(function*() {
      const thrown = Effect.die("the predicate broke")
      const steps = [
        trying(9).effect.pipe(Step.durable("s", { error: Refused, retry: { while: () => thrown } })),
        trying(9).effect.pipe(Step.durable("s", {
          error: Refused,
          retry: Schedule.mapEffect(Schedule.forever, () => thrown)
        }))
      ]
      for (const [i, step] of steps.entries()) {
        const reason = yield* Workflow.run(`wf-${i}`, Effect.orDie(step)).pipe(stoppedBy("StepDied"))
        expect(reason).toMatchObject({ attempt: 1, detail: expect.stringContaining("the predicate broke") })
      }
    }).pipe(inEngine()))

  test("a failure of undefined is retried like any other", () =>
    Effect.gen(function*() {
      const effect = Effect.flatMap(Step.attempt, (n) => n < 3 ? Effect.fail(undefined) : Effect.succeed(n))
      const step = effect.pipe(Step.durable("s", { error: Schema.Undefined, retry: { times: 5 } }))
      yield* Effect.exit(Workflow.run("wf", Effect.orDie(step))).pipe(inEngine({ crashAfter: 2 }))
      expect(yield* Workflow.run("wf", Effect.orDie(step)).pipe(inEngine())).toBe(3)
    }))

  test("a death is retried only if the step says so, and the schedule gets it as a StepDied", () =>
    Effect.gen(function*() {
      const dies = Effect.flatMap(Step.attempt, (n) => n < 3 ? Effect.die(`no ${n}`) : Effect.succeed(n))
      const without = dies.pipe(Step.durable("s", { retry: { times: 5 } }))
      expect(yield* Workflow.run("wf-0", without).pipe(stoppedBy("StepDied"))).toMatchObject({ attempt: 1 })

      const seen: Array<unknown> = []
      const schedule = Schedule.tapInput(Schedule.forever, (input: unknown) => Effect.sync(() => void seen.push(input)))
      const step = dies.pipe(Step.durable("s", { retry: { schedule, while: () => false, defects: true } }))
      expect(yield* Workflow.run("wf", step)).toBe(3)
      expect(seen).toEqual([
        new Errors.StepDied({ workflowId: "wf", address: "0", stepId: "s", attempt: 1, detail: "Error: no 1" }),
        new Errors.StepDied({ workflowId: "wf", address: "0", stepId: "s", attempt: 2, detail: "Error: no 2" })
      ])
      expect((yield* outline("wf")).map(({ errorTag }) => errorTag)).toEqual(["StepDied", "StepDied"])
    }).pipe(inEngine()))

  test("a death after the last retry stops the run, and resuming it begins the schedule anew", () =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      const step = Step.attempt.pipe(
        Effect.tap((n) => Effect.sync(() => void seen.push(n))),
        Effect.flatMap((n) => n < 6 ? Effect.die("no") : Effect.succeed(n)),
        Step.durable("s", { retry: { times: 2, defects: true } })
      )
      expect(yield* Workflow.run("wf", step).pipe(stoppedBy("StepDied"))).toMatchObject({ attempt: 3 })
      expect(yield* Workflow.run("wf", step)).toBe(6)
      expect(seen).toEqual([1, 2, 3, 4, 5, 6])
    }).pipe(inEngine()))

  test("resuming a failed run begins the schedule anew", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(6)
      const step = effect.pipe(Step.durable("s", { error: Refused, retry: { times: 2 } }))
      const call = Workflow.run("wf", step, { error: Refused })
      expect(yield* Effect.flip(call)).toEqual(new Refused({ turn: 3 }))
      expect(yield* call).toBe(6)
      expect(began.map(([n]) => n)).toEqual([1, 2, 3, 4, 5, 6])
    }).pipe(inEngine()))

  test("between two attempts the row is IN_PROGRESS, and a restart waits for the rest only", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(2)
      const step = Effect.orDie(effect.pipe(Step.durable("s", { error: Refused, retry: Schedule.spaced("1 hour") })))
      const engine = yield* openEngine()
      yield* Effect.fork(engine.run(Workflow.run("wf", step)))
      yield* eventually(attemptsOf("wf"), (rows) => rows.length === 1)
      expect(yield* stepsOf("wf")).toEqual(["0 s IN_PROGRESS 1"])
      yield* TestClock.adjust("20 minutes")
      yield* engine.close
      const next = yield* openEngine()
      const fiber = yield* Effect.fork(next.run(Workflow.run("wf", step)))
      yield* turns(20)
      yield* TestClock.adjust("39 minutes")
      yield* turns(20)
      expect(began).toHaveLength(1)
      yield* TestClock.adjust("1 minute")
      expect(yield* Fiber.join(fiber)).toBe(2)
      expect(began[1]![1]).toBeGreaterThanOrEqual(3_600_000)
      expect((yield* outline("wf")).map(({ attempt, errorTag }) => [attempt, errorTag])).toEqual([[1, null]])
    }))

  test("a delay longer than a timer of the machine is waited for in pieces", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(2)
      const step = Effect.orDie(effect.pipe(Step.durable("s", { error: Refused, retry: Schedule.spaced("60 days") })))
      const fiber = yield* Effect.fork(Workflow.run("wf", step))
      yield* eventually(attemptsOf("wf"), (rows) => rows.length === 1)
      for (let day = 0; day < 59; day++) {
        yield* TestClock.adjust("1 day")
      }
      yield* turns(10)
      expect(began).toHaveLength(1)
      yield* TestClock.adjust("1 day")
      expect(yield* Fiber.join(fiber)).toBe(2)
    }).pipe(inEngine({ slowPoll: "365 days" })))

  test("an attempt that was cut off gets a number, and does not step the schedule", () =>
    Effect.gen(function*() {
      const { began, effect } = trying(99)
      const step = effect.pipe(Step.durable("s", { error: Refused, retry: { times: 2 } }))
      yield* crashing(3, step)
      const failed = yield* Workflow.run("wf", failureOf(step), { success: Refused }).pipe(inEngine())
      expect(failed).toEqual(new Refused({ turn: 6 }))
      expect(began.map(([n]) => n)).toEqual([4, 5, 6])
      expect((yield* outline("wf")).map(({ dueAt, errorTag }) => [errorTag, dueAt === null])).toEqual([
        ["OwnerDied", true],
        ["OwnerDied", true],
        ["OwnerDied", true],
        [null, false],
        [null, false]
      ])
    }))

  test("an attempt that fails while its run stops for another reason was cut off, and is not followed by another", () =>
    Effect.gen(function*() {
      const at = <E>(first: Effect.Effect<never, E>) =>
        Effect.zipRight(
          Effect.yieldNow(),
          Effect.flatMap(Step.attempt, (n): Effect.Effect<number, E> => n === 1 ? first : Effect.succeed(n))
        )
      const body = Branch.all([
        at(Effect.die("no")).pipe(Step.durable("dies")),
        at(Effect.fail(new Refused({ turn: 1 }))).pipe(Step.durable("fails", { error: Refused, retry: { times: 5 } }))
      ], { concurrency: "unbounded" }).pipe(Effect.orDie)
      yield* Workflow.run("wf", body).pipe(stoppedBy("StepDied"))
      expect((yield* outline("wf")).map(({ attempt, dueAt, errorTag }) => [attempt, errorTag, dueAt])).toEqual([
        [1, "StepDied", null],
        [1, "Released", null]
      ])
      expect(yield* Workflow.run("wf", body)).toEqual([2, 2])
    }).pipe(inEngine()))

  test("a recorded attempt that its schema no longer decodes stops the run", () =>
    Effect.gen(function*() {
      const step = (error: Schema.Schema.Any | undefined) =>
        (trying(9).effect as Effect.Effect<number, never, Step.Current>).pipe(
          Step.durable("s", { ...(error === undefined ? {} : { error }), retry: { times: 5 } } as {})
        )
      yield* Effect.exit(Workflow.run("wf", step(Refused))).pipe(inEngine({ crashAfter: 3 }))
      for (const changed of [Schema.Struct({ _tag: Schema.Literal("Other") }), undefined]) {
        const reason = yield* Workflow.run("wf", step(changed)).pipe(stoppedBy("RecordUndecodable"), inEngine())
        expect(reason.record).toBe("wf:0")
      }
    }))

  test("a failure that its own schema does not give back stops the run", () =>
    Effect.gen(function*() {
      const OneWay = Schema.transformOrFail(Schema.String, Schema.String, {
        strict: true,
        decode: () => Effect.die("there is no way back"),
        encode: (value) => Effect.succeed(value)
      })
      const step = Effect.fail("no").pipe(Step.durable("s", { error: OneWay, retry: { times: 5 } }))
      const reason = yield* Workflow.run("wf", Effect.ignore(step)).pipe(stoppedBy("RecordUndecodable"))
      expect(reason.detail).toContain("there is no way back")
    }).pipe(inEngine()))

  test(
    "the schedule, rebuilt after restarts at any attempts, gives the delays of the undisturbed run",
    () =>
      Effect.gen(function*() {
        const schedules = FastCheck.constantFrom<Array<() => Schedule.Schedule<unknown, Ended>>>(
          () => Schedule.jittered(Schedule.exponential(8)),
          () => Schedule.intersect(Schedule.fibonacci(3), Schedule.recurs(5)),
          () => Schedule.fixed(17),
          () => Schedule.jittered(Schedule.spaced(20)),
          () =>
            Schedule.delayedEffect(Schedule.recurs(9), () => Effect.map(Clock.currentTimeMillis, (now) => now % 7 + 1)),
          () =>
            Schedule.delayedEffect(
              Schedule.recurs(9),
              () => Effect.map(Random.nextIntBetween(1, 30), (millis) => millis)
            ),
          () => Schedule.addDelay(Schedule.identity<Ended>(), (error) => error._tag === "Refused" ? error.turn * 3 : 0),
          () => Schedule.upTo(Schedule.spaced(15), 50)
        )
        /** The delays of a run whose engine is closed after so many failed attempts, each time; each run begins at time 0. */
        const delays = (schedule: () => Schedule.Schedule<unknown, Ended>, closings: ReadonlyArray<number>) =>
          Effect.gen(function*() {
            yield* TestClock.setTime(0)
            const life = () =>
              Workflow.run(
                "wf",
                Effect.ignore(trying(7).effect.pipe(Step.durable("s", { error: Refused, retry: schedule() })))
              )
            for (const attempts of closings) {
              const engine = yield* openEngine({ slowPoll: "1 day" })
              const fiber = yield* Effect.fork(engine.run(life()))
              yield* inTime(Effect.raceFirst(
                Effect.asVoid(Fiber.await(fiber)),
                Effect.repeat(Effect.zipRight(turns(1), attemptsOf("wf")), { until: (rows) => rows.length >= attempts })
              ))
              yield* engine.close
            }
            const last = yield* openEngine({ slowPoll: "1 day" })
            yield* inTime(last.run(life()))
            yield* last.close
            const rows = yield* attemptsOf("wf")
            return rows.flatMap(({ dueAt, endedAt }) => dueAt === null ? [] : [dueAt - endedAt])
          }).pipe(Effect.scoped, Effect.provide(Layer.fresh(store)))
        const samples = FastCheck.sample(
          FastCheck.tuple(schedules, FastCheck.uniqueArray(FastCheck.integer({ min: 1, max: 5 }), { minLength: 1 })),
          { numRuns: 5, seed: FastCheck.readConfigureGlobal().seed! }
        )
        for (const [schedule, closings] of samples) {
          const undisturbed = yield* delays(schedule, [])
          expect(undisturbed.length).toBeGreaterThan(0)
          expect(yield* delays(schedule, closings.sort((a, b) => a - b)), String(closings)).toEqual(undisturbed)
        }
      }),
    60_000
  )
})

describe.each(stores)("Timeouts (%s)", (_, store) => {
  const test = testOn(store)

  test("an attempt that takes too long is interrupted, and its StepTimeout is recorded and replayed as itself", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const slow = Effect.never.pipe(Effect.onInterrupt(() => add("interrupted")), Effect.as("a"))
      const ends = yield* inTime(
        livedTwice("wf", slow.pipe(Step.durable("s", { timeout: "20 millis" })))
      )
      const error = new Errors.StepTimeout({ workflowId: "wf", stepId: "s", attempt: 1, millis: 20 })
      expect(ends).toEqual([Exit.fail(error), Exit.fail(error)])
      expect(entries).toEqual(["interrupted"])
      expect((yield* historyOf("wf"))[0]).toMatchObject({ status: "FAILED", errorTag: "StepTimeout" })
    }).pipe(inEngine()))

  test("an attempt in time is as it would be without", () =>
    Effect.gen(function*() {
      const ends = yield* livedTwice(
        "wf",
        Effect.all([
          Effect.succeed("a").pipe(Step.durable("s", { timeout: "20 millis" })),
          Effect.flip(
            new Refused({ turn: 1 }).pipe(Step.durable("t", { timeout: "20 millis", error: Refused }))
          )
        ])
      )
      expect(ends[1]).toEqual(Exit.succeed(["a", new Refused({ turn: 1 })]))
      const died = Effect.die("no").pipe(Step.durable("s", { timeout: "20 millis" }))
      expect(yield* Workflow.run("dies", Effect.orDie(died)).pipe(stoppedBy("StepDied"))).toMatchObject({
        detail: "Error: no"
      })
    }).pipe(inEngine()))

  test("each attempt has the whole time, and a timeout is retried like a failure", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const schedule = Schedule.tapInput(
        Schedule.spaced("5 millis"),
        (error: Ended) => Effect.sync(() => void seen.push([error._tag, "attempt" in error ? error.attempt : null]))
      )
      const slow = Effect.flatMap(Step.attempt, (n) => n < 3 ? Effect.never : Effect.succeed(n))
      const step = slow.pipe(Step.durable("s", {
        timeout: "20 millis",
        retry: { schedule, while: () => false }
      }))
      expect(yield* inTime(Workflow.run("wf", Effect.orDie(step)))).toBe(3)
      expect(seen).toEqual([["StepTimeout", 1], ["StepTimeout", 2]])
      expect((yield* outline("wf")).map(({ dueAt, endedAt, errorTag }) => [errorTag, endedAt, dueAt])).toEqual([
        ["StepTimeout", 20, 25],
        ["StepTimeout", 45, 50]
      ])
    }).pipe(inEngine()))

  test("a StepTimeout of the step's own making, recorded by its error schema, is not taken for one of Perdure's", () =>
    Effect.gen(function*() {
      const Own = Schema.Struct({ _tag: Schema.Literal("StepTimeout"), mine: Schema.Boolean })
      const ends = yield* livedTwice(
        "wf",
        Effect.fail({ _tag: "StepTimeout" as const, mine: true }).pipe(
          Step.durable("s", { error: Own, timeout: "1 second" })
        )
      )
      expect(ends).toEqual([1, 2].map(() => Exit.fail({ _tag: "StepTimeout", mine: true })))
    }).pipe(inEngine()))

  test("a step that is cut while it may be retried lets go at once", () =>
    Effect.gen(function*() {
      const slow = new Refused({ turn: 1 }).pipe(
        Step.durable("slow", { error: Refused, retry: { schedule: Schedule.spaced("1 hour"), defects: true } })
      )
      const fast = Effect.sleep("5 millis").pipe(Effect.as("fast"), Step.durable("fast"))
      expect(yield* inTime(Workflow.run("wf", Effect.orDie(Branch.race(slow, fast))))).toBe("fast")
      yield* eventually(stepsOf("wf"), (rows) => rows.includes("0.0 slow FAILED 1"))
    }).pipe(inEngine()))
})

describe.each(stores)("Interruptions (%s)", (_, store) => {
  const test = testOn(store)

  const once = (add: (entry: string) => Effect.Effect<void>) =>
    Effect.flatMap(Step.attempt, (n) => add(`attempt ${n}`)).pipe(Step.durable("s", { onInterrupted: "fail" }))

  test("with \"fail\", a step whose process died fails with StepInterrupted, which is recorded and never run again", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      yield* crashing(1, once(add))
      const body = failureOf(once(add))
      const error = yield* Workflow.run("wf", body, { success: Errors.StepInterrupted }).pipe(inEngine())
      expect(error).toEqual(new Errors.StepInterrupted({ workflowId: "wf", stepId: "s", attempt: 1 }))
      expect(entries).toEqual([])
      expect(yield* stepsOf("wf")).toEqual(["0 s FAILED 1!"])
      expect((yield* historyOf("wf"))[0]).toMatchObject({ errorTag: "StepInterrupted" })
    }))

  test("it is not run again either when the crash comes before its StepInterrupted is recorded, nor by resume", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      yield* crashing(1, once(add))
      const store = yield* StepStore.StepStore
      // The attempt is marked as cut off, and the process dies before the outcome is written.
      const [row] = yield* store.unfinished("wf", 0)
      const { epoch } = yield* rowOf("wf")
      yield* store.commit([{
        ...nothing("wf", epoch),
        steps: [{ ...row!, status: "FAILED", errorTag: "OwnerDied", error: "\"dead\"" }],
        attempts: [{ ...attemptRow(row!), errorTag: "OwnerDied", error: "\"dead\"" }]
      }])
      const call = Workflow.run("wf", once(add), { error: Errors.StepInterrupted })
      expect(yield* Effect.flip(call).pipe(inEngine())).toMatchObject({ _tag: "StepInterrupted", attempt: 1 })
      expect(yield* Effect.flip(call).pipe(inEngine())).toMatchObject({ _tag: "StepInterrupted", attempt: 1 })
      expect(entries).toEqual([])
    }))

  test("it is on disk before its effect starts", () =>
    Effect.gen(function*() {
      const look = unfinished
      const rows = yield* Workflow.run(
        "wf",
        Effect.map(look, (rows) => rows.map((row) => `${row.status} ${row.attempt}`)).pipe(
          Step.durable("s", { onInterrupted: "fail" })
        ),
        { error: Errors.StepInterrupted }
      )
      expect(rows).toEqual(["IN_PROGRESS 1"])
    }).pipe(inEngine()))

  test("a worker that gives the run back cuts it off too, and says that it did not die", () =>
    Effect.gen(function*() {
      const { begun, pass } = gate()
      const engine = yield* openEngine()
      const step = pass.pipe(Step.durable("s", { onInterrupted: "fail" }))
      yield* Effect.fork(engine.run(Workflow.run("wf", Effect.orDie(step))))
      yield* begun
      yield* engine.close
      expect((yield* outline("wf")).map(({ errorTag }) => errorTag)).toEqual(["Released"])
      const next = yield* openEngine()
      const error = yield* next.run(Workflow.run("wf", failureOf(step), { success: Errors.StepInterrupted }))
      expect(error).toBeInstanceOf(Errors.StepInterrupted)
    }))

  test("a death and a failure are no interruption: resume runs such a step again", () =>
    Effect.gen(function*() {
      const step = Effect.flatMap(Step.attempt, (n) => n === 1 ? Effect.die("no") : Effect.succeed(n)).pipe(
        Step.durable("s", { onInterrupted: "fail" })
      )
      yield* Workflow.run("wf", Effect.orDie(step)).pipe(stoppedBy("StepDied"))
      expect(yield* Workflow.run("wf", Effect.orDie(step))).toBe(2)
    }).pipe(inEngine()))
})

describe.each(stores)("A step that kills its process (%s)", (_, store) => {
  const test = testOn(store)

  test("stops its run after as many attempts as the option says, and resume tries once more", () =>
    Effect.gen(function*() {
      yield* crashing(3, stepOf("s"))
      const engine = { limits: { kills: 3 } }
      const reason = yield* Workflow.run("wf", stepOf("s")).pipe(stoppedBy("ProcessKilled"), inEngine(engine))
      expect(reason).toEqual(new Errors.ProcessKilled({ workflowId: "wf", address: "0", stepId: "s", attempts: 3 }))
      expect(yield* stepsOf("wf")).toEqual(["0 s FAILED 3"])
      yield* Effect.exit(Workflow.run("wf", stepOf("s"))).pipe(inEngine({ ...engine, crashAfter: 1 }))
      const again = yield* Workflow.run("wf", stepOf("s")).pipe(stoppedBy("ProcessKilled"), inEngine(engine))
      expect(again.attempts).toBe(4)
      expect(yield* Workflow.run("wf", stepOf("s")).pipe(inEngine(engine))).toBe("s")
      expect(yield* stepsOf("wf")).toEqual(["0 s COMPLETED 5!"])
    }))

  test("stops it before another step begins", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const body = Branch.all([stepOf("s"), stepOf("t", add)], { concurrency: "unbounded" })
      yield* crashing(2, Branch.all([stepOf("s"), Effect.void], { concurrency: "unbounded" }))
      yield* Workflow.run("wf", body).pipe(stoppedBy("ProcessKilled"), inEngine({ limits: { kills: 2 } }))
      expect(entries).toEqual([])
      expect(yield* Workflow.run("wf", body).pipe(inEngine({ limits: { kills: 2 } }))).toEqual(["s", "t"])
    }))

  test("ten of them are enough unless said otherwise, and nine are not", () =>
    Effect.gen(function*() {
      yield* crashing(9, stepOf("s"))
      yield* crashing(1, stepOf("s"))
      expect((yield* Workflow.run("wf", stepOf("s")).pipe(stoppedBy("ProcessKilled"), inEngine())).attempts).toBe(10)
    }))

  test("attempts that a worker gave back do not count, and end the count", () =>
    Effect.gen(function*() {
      yield* crashing(2, stepOf("s"))
      const { begun, pass } = gate()
      const engine = yield* openEngine({ limits: { kills: 3 } })
      yield* Effect.fork(engine.run(Workflow.run("wf", pass.pipe(Step.durable("s")))))
      yield* begun
      yield* engine.close
      yield* crashing(1, stepOf("s"))
      expect(yield* Workflow.run("wf", stepOf("s")).pipe(inEngine({ limits: { kills: 2 } }))).toBe("s")
    }))

  test("a run that was taken up again marks its steps on disk before they begin, until something is recorded", () =>
    Effect.gen(function*() {
      const look = (id: string) =>
        unfinished.pipe(
          Effect.map((rows) => rows.length),
          Step.durable(id)
        )
      yield* crashing(1, stepOf("a"))
      const body = Effect.all([look("a"), look("b")])
      const seen = yield* Workflow.run("wf", body).pipe(inEngine())
      expect(seen).toEqual([1, 0])
    }))
})

const unfinished = Effect.orDie(Effect.flatMap(StepStore.StepStore, (store) => store.unfinished("wf", 0)))

const nothing = (workflowId: string, epoch: number) => update(workflowId, { epoch })

const attemptRow = (row: StepStore.StepRow) => ({
  stepKey: row.stepKey,
  attempt: row.attempt,
  startedAt: row.startedAt,
  endedAt: row.updatedAt,
  dueAt: null
})
