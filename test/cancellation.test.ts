/** Ending early: cancellation, deadlines, and the next generation. */
import { describe, expect } from "@effect/vitest"
import { Clock, DateTime, Duration, Effect, Fiber, Option, Schema, type Scope, TestClock } from "effect"
import { Branch, Child, Errors, Signal, Step, StepStore, Workflow } from "perdure"
import { failCommits, records, withFaults } from "./support/faults.js"
import {
  eventually,
  failure,
  gate,
  inEngine,
  ledger,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  steal,
  stepOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Job = Workflow.make({ name: "job", payload: {}, success: Schema.String, error: Schema.String })
const Go = Signal.make("go", Schema.Number)
const quiet = { slowPoll: "1000 days" as const }
const start = Job.start(undefined, { workflowId: "wf" })
const cancelled = (reason: "cancelled" | "deadline") => new Errors.RunCancelled({ workflowId: "wf", reason })

describe.each(stores)("Cancellation (%s)", (_, store) => {
  const test = testOn(store)

  test("interrupts the step under way, runs the finalizers with their steps, and ends the run", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, pass } = gate()
      const live = Job.toLayer(() =>
        stepOf("before", add).pipe(
          Effect.zipRight(pass.pipe(Effect.onInterrupt(() => add("interrupted")), Effect.as(1), Step.durable("long"))),
          Effect.zipRight(stepOf("never", add)),
          Effect.ensuring(stepOf("finalizer", add))
        )
      )
      yield* Effect.gen(function*() {
        yield* start
        const waiting = yield* Effect.fork(Effect.flip(Job.await("wf")))
        yield* begun
        yield* Job.cancel("wf")
        expect(yield* Fiber.join(waiting)).toEqual(cancelled("cancelled"))
        expect(entries).toEqual(["before", "interrupted", "finalizer"])
        expect(yield* recorded("wf")).toEqual(["0 before", "cancel cancelled", "2 finalizer"])
        expect(yield* rowOf("wf")).toMatchObject({ status: "CANCELLED", owner: null, outcome: "\"cancelled\"" })
        expect(yield* Job.poll("wf")).toMatchObject({ value: { _tag: "CANCELLED", reason: "cancelled" } })
        yield* Job.cancel("wf")
        expect(yield* failure(Job.resume("wf"))).toMatchObject({ _tag: "NothingToResume" })
        expect(yield* failure(Job.execute(undefined, { workflowId: "wf" }))).toEqual(cancelled("cancelled"))
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("is delivered at the same place by a replay", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, pass } = gate()
      const live = (end: Effect.Effect<string, never, Workflow.Run>) =>
        Job.toLayer(() =>
          stepOf("before", add).pipe(
            Effect.zipRight(Effect.as(pass, "x").pipe(Step.durable("long"))),
            Effect.ensuring(end)
          )
        )
      const first = yield* openEngine({ ...quiet, workflows: [live(Effect.die("no"))] })
      yield* first.run(start)
      yield* begun
      yield* first.run(Job.cancel("wf"))
      yield* first.run(stoppedBy("BodyDied")(Job.await("wf")))
      yield* first.close
      yield* Effect.gen(function*() {
        yield* Job.resume("wf")
        expect(yield* failure(Job.await("wf"))).toEqual(cancelled("cancelled"))
      }).pipe(inEngine({ ...quiet, workflows: [live(stepOf("mended", add))] }))
      expect(entries).toEqual(["before", "mended"])
      expect(yield* recorded("wf")).toEqual(["0 before", "cancel cancelled", "2 mended"])
    }))

  test("wakes a run that sleeps, and undoes before the first step if it comes before it", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Job.toLayer(() => Effect.zipRight(Effect.sleep("1 day"), stepOf("after", add)))
      yield* Effect.gen(function*() {
        yield* start
        yield* turns(20)
        yield* TestClock.adjust("1 second")
        yield* eventually(statusOf("wf"), (status) => status === "SUSPENDED")
        yield* Job.cancel("wf")
        expect(yield* failure(Job.await("wf"))).toEqual(cancelled("cancelled"))
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      yield* Effect.gen(function*() {
        yield* Job.start(undefined, { workflowId: "unclaimed" })
        yield* Job.cancel("unclaimed")
      }).pipe(inEngine())
      const begins = Job.toLayer(() => Effect.zipRight(add("begins"), stepOf("first", add)))
      yield* failure(Job.await("unclaimed")).pipe(inEngine({ ...quiet, workflows: [begins] }))
      expect(entries).toEqual(["begins"])
      expect(yield* recorded("unclaimed")).toEqual(["cancel cancelled"])
    }))

  test("honours uninterruptible regions, as Effect does", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, open, pass } = gate()
      const live = Job.toLayer(() =>
        Effect.zipRight(Effect.as(pass, 1).pipe(Step.durable("long")), stepOf("second", add)).pipe(
          Effect.uninterruptible,
          Effect.zipRight(stepOf("third", add))
        )
      )
      yield* Effect.gen(function*() {
        yield* start
        yield* begun
        yield* Job.cancel("wf")
        yield* turns(30)
        expect(yield* statusOf("wf")).toBe("RUNNING")
        yield* open
        expect(yield* failure(Job.await("wf"))).toEqual(cancelled("cancelled"))
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual(["second"])
    }))

  test("of a run whose body has ended is void", () =>
    Effect.gen(function*() {
      const { begun, open, pass } = gate()
      const Slow = Schema.transformOrFail(Schema.String, Schema.String, {
        decode: Effect.succeed,
        encode: (text) => Effect.as(pass, text)
      })
      const Ends = Workflow.make({ name: "ends", payload: {}, success: Slow })
      const live = Ends.toLayer(() => Effect.succeed("done"))
      yield* Effect.gen(function*() {
        yield* Ends.start(undefined, { workflowId: "wf" })
        yield* begun
        yield* Ends.cancel("wf")
        yield* turns(20)
        yield* open
        expect(yield* Ends.await("wf")).toBe("done")
        expect(yield* recorded("wf")).toEqual([])
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("of a stopped run lets it go on and be undone", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      let broken = true
      const live = Job.toLayer(() =>
        stepOf("book", add).pipe(
          Workflow.withCompensation(() => add("unbook")),
          Effect.zipRight(Effect.suspend(() => broken ? Effect.die("no") : Effect.void).pipe(Step.durable("dies"))),
          Effect.as("done")
        )
      )
      yield* Effect.gen(function*() {
        yield* stoppedBy("StepDied")(Job.execute(undefined, { workflowId: "wf" }))
        yield* Job.cancel("wf")
        expect(yield* failure(Job.await("wf"))).toEqual(cancelled("cancelled"))
        broken = false
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual(["book", "unbook"])
    }))

  test("of what is not there is a typed error", () =>
    Effect.gen(function*() {
      expect(yield* failure(Job.cancel("nowhere"))).toEqual(new Errors.WorkflowNotFound({ workflowId: "nowhere" }))
    }).pipe(inEngine()))
})

describe.each(stores)("Deadlines (%s)", (_, store) => {
  const test = testOn(store)

  test("cancel a run wherever it is: while it sleeps, in a step, and before it begins", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, pass } = gate()
      const live = Job.toLayer((_, id) =>
        id === "asleep"
          ? Effect.zipRight(Effect.sleep("1 day"), stepOf("after", add))
          : Effect.as(Effect.zipRight(add(id), pass), "x").pipe(Step.durable("long"))
      )
      yield* Effect.gen(function*() {
        const deadline = "1 hour"
        yield* Job.start(undefined, { workflowId: "asleep", deadline })
        yield* Job.start(undefined, { workflowId: "busy", deadline: new Date(60 * 60 * 1_000) })
        yield* begun
        yield* turns(20)
        yield* TestClock.adjust("1 second")
        yield* eventually(rowOf("asleep"), ({ wakeAt }) => wakeAt === 60 * 60 * 1_000)
        const waiting = yield* Effect.fork(
          Effect.forEach(["asleep", "busy"], (id) => failure(Job.await(id)), { concurrency: 2 })
        )
        yield* TestClock.setTime(60 * 60 * 1_000 - 1)
        yield* turns(20)
        expect(yield* statusOf("asleep")).toBe("SUSPENDED")
        expect(yield* statusOf("busy")).toBe("RUNNING")
        yield* TestClock.adjust(1)
        const errors = yield* Fiber.join(waiting)
        expect(errors).toMatchObject([{ reason: "deadline" }, { reason: "deadline" }])
        const late = failure(Job.execute(undefined, { workflowId: "late", deadline: 0 }))
        expect(yield* late).toMatchObject({ _tag: "RunCancelled", reason: "deadline" })
        expect(yield* recorded("late")).toEqual(["cancel deadline"])
        expect(yield* Job.poll("late")).toMatchObject({ value: { _tag: "CANCELLED", reason: "deadline" } })
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual(["busy"])
    }))
})

describe.each(stores)("A run that has been cancelled (%s)", (_, store) => {
  const test = testOn(store)

  test("sleeps in its finalizers, and leaves memory while it does", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Job.toLayer(() =>
        Effect.zipRight(Effect.sleep("10 days"), stepOf("never", add)).pipe(
          Effect.ensuring(Effect.zipRight(Effect.sleep("1 day"), stepOf("finalizer", add)))
        )
      )
      yield* Effect.gen(function*() {
        const hour = 60 * 60 * 1_000
        yield* Job.start(undefined, { workflowId: "wf", deadline: "1 hour" })
        const waiting = yield* Effect.fork(failure(Job.await("wf")))
        yield* turns(20)
        yield* TestClock.setTime(hour)
        yield* eventually(recorded("wf"), (rows) => rows.length === 1)
        yield* turns(20)
        yield* TestClock.adjust("1 second")
        yield* eventually(rowOf("wf"), ({ status, wakeAt }) => status === "SUSPENDED" && wakeAt === 25 * hour)
        yield* TestClock.setTime(25 * hour)
        expect(yield* Fiber.join(waiting)).toEqual(cancelled("deadline"))
        expect(entries).toEqual(["finalizer"])
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("does not continue as new, whatever its finalizers say", () =>
    Effect.gen(function*() {
      const { begun, pass } = gate()
      const live = Counter.toLayer(() =>
        Effect.as(pass, 1).pipe(Step.durable("long"), Effect.ensuring(Counter.continueAsNew({ n: 2 })))
      )
      yield* Effect.gen(function*() {
        yield* Counter.start({ n: 1 }, { workflowId: "wf" })
        yield* begun
        yield* Counter.cancel("wf")
        expect(yield* failure(Counter.await("wf"))).toEqual(cancelled("cancelled"))
        expect(yield* rowOf("wf")).toMatchObject({ generation: 0 })
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("has ended otherwise if its body had ended when it was to be told", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const { add, entries } = ledger()
      const held = gate()
      const { begun, open, pass } = gate()
      const live = Job.toLayer(() =>
        Effect.as(pass, 1).pipe(
          Step.durable("long", { compensate: () => add("undone") }),
          Effect.zipRight(Effect.fail("no"))
        )
      )
      yield* Effect.gen(function*() {
        yield* Job.start(undefined, { workflowId: "wf", deadline: "50 millis" })
        yield* begun
        // The outcome of the step and the cancellation are recorded in one batch, while the journal is busy.
        const other = yield* Effect.fork(Workflow.run("other", stepOf("other")))
        yield* held.begun
        yield* open
        yield* turns(20)
        yield* TestClock.adjust("50 millis")
        yield* turns(20)
        yield* held.open
        expect(yield* failure(Job.await("wf"))).toBe("no")
        yield* Fiber.join(other)
        expect(yield* recorded("wf")).toEqual(["0 long", "cancel deadline", "1.0 long"])
        expect(entries).toEqual(["undone"])
      }).pipe(
        inEngine({ ...quiet, workflows: [live] }),
        Effect.provideService(StepStore.StepStore, {
          ...store,
          commit: (batch) =>
            batch.some((update) => update.workflowId === "other" && update.insert !== null)
              ? Effect.zipRight(held.pass, store.commit(batch))
              : store.commit(batch)
        })
      )
    }))
})

describe.each(stores)("A deadline (%s)", (_, store) => {
  const test = testOn(store)

  test("may be any date, and a duration without an end is none", () =>
    Effect.gen(function*() {
      const begin = (workflowId: string, deadline: Workflow.StartOptions["deadline"] & {}) =>
        Job.start(undefined, { workflowId, deadline })
      yield* begin("date", DateTime.unsafeMake(1_000))
      yield* begin("fraction", Duration.micros(1_500n))
      yield* begin("never", Duration.infinity)
      expect(yield* failure(begin("invalid", new Date("never")))).toMatchObject({
        _tag: "PayloadInvalid",
        problem: "its deadline is not a valid date"
      })
      expect((yield* rowOf("date")).deadlineAt).toBe(1_000)
      expect((yield* rowOf("fraction")).deadlineAt).toBe(2)
      expect((yield* rowOf("never")).deadlineAt).toBeNull()
    }).pipe(inEngine(quiet)))
})

const Counter = Workflow.make({
  name: "counter",
  payload: { n: Schema.Number },
  success: Schema.Number,
  error: Schema.String
})

describe.each(stores)("continueAsNew (%s)", (_, store) => {
  const test = testOn(store)

  test("goes on under the same id with an empty history, and await follows", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Counter.toLayer(({ n }) =>
        Effect.gen(function*() {
          yield* Effect.addFinalizer(() => add(`leaves ${n}`))
          yield* stepOf(`step ${n}`, add)
          return n === 3 ? n : yield* Counter.continueAsNew({ n: n + 1 })
        }).pipe(Effect.scoped)
      )
      yield* Effect.gen(function*() {
        const workflowId = "wf:1"
        expect(yield* Counter.execute({ n: 1 }, { workflowId })).toBe(3)
        expect(entries).toEqual(["step 1", "leaves 1", "step 2", "leaves 2", "step 3", "leaves 3"])
        expect(yield* rowOf(workflowId)).toMatchObject({ generation: 2, epoch: 1, payload: "{\"n\":3}" })
        const store = yield* StepStore.StepStore
        const last = (yield* store.history(workflowId, 2, { after: null, limit: 10 })).rows
        expect(last.map((row) => row.stepKey)).toEqual(["wf:1:2#0"])
        // The payload that it was started with still is that of the id.
        expect(yield* Counter.start({ n: 1 }, { workflowId })).toBe(workflowId)
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("keeps signals that were not taken, and the deadline", () =>
    Effect.gen(function*() {
      const live = Counter.toLayer(({ n }) =>
        Effect.flatMap(Signal.next(Go), (got) => got === 0 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + got }))
      )
      yield* Effect.gen(function*() {
        yield* Counter.start({ n: 0 }, { workflowId: "wf", deadline: "1 day" })
        for (const value of [1, 2, 3, 0]) {
          yield* Signal.send(Go, { workflowId: "wf", value })
        }
        expect(yield* Counter.await("wf")).toBe(6)
        expect(yield* rowOf("wf")).toMatchObject({ generation: 3, deadlineAt: 24 * 60 * 60 * 1_000 })
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("survives a restart between the generations and within one", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Counter.toLayer(({ n }) =>
        Effect.zipRight(stepOf(`a${n}`, add), stepOf(`b${n}`, add)).pipe(
          Effect.zipRight(n === 2 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 }))
        )
      )
      for (let crashAfter = 1; crashAfter <= 3; crashAfter++) {
        yield* Effect.exit(Counter.execute({ n: 1 }, { workflowId: "wf" })).pipe(
          inEngine({ ...quiet, crashAfter, workflows: [live] })
        )
      }
      expect(yield* Counter.execute({ n: 1 }, { workflowId: "wf" }).pipe(inEngine({ ...quiet, workflows: [live] })))
        .toBe(2)
      expect(new Set(entries)).toEqual(new Set(["a1", "b1", "a2", "b2"]))
    }))

  test("begins no earlier than the time of the last generation, where the clock was set back meanwhile", () =>
    Effect.gen(function*() {
      const times: Array<number> = []
      const look = Effect.map(Clock.currentTimeMillis, (now) => void times.push(now))
      const live = Counter.toLayer(({ n }) =>
        n === 2 ? Effect.as(look, n) : stepOf("step").pipe(
          Effect.zipRight(look),
          Effect.zipRight(Signal.next(Go)),
          Effect.zipRight(look),
          Effect.zipRight(Counter.continueAsNew({ n: 2 }))
        )
      )
      yield* Effect.gen(function*() {
        yield* TestClock.setTime(5_000)
        yield* Counter.start({ n: 1 }, { workflowId: "wf" })
        yield* eventually(Effect.sync(() => times.length), (looks) => looks === 1)
        yield* TestClock.setTime(1_000)
        yield* Signal.send(Go, { workflowId: "wf", value: 0 })
        expect(yield* Counter.await("wf")).toBe(2)
        expect(times).toEqual([5_000, 5_000, 5_000])
        expect((yield* rowOf("wf")).begunAt).toBe(5_000)
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("leaves what was cut in one generation out of the rows of the next", () =>
    Effect.gen(function*() {
      const live = Counter.toLayer(({ n }) =>
        Branch.race(stepOf(`step ${n}`), Effect.as(Effect.sleep("1 day"), "late")).pipe(
          Effect.zipRight(n === 3 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 }))
        )
      )
      yield* Effect.gen(function*() {
        expect(yield* Counter.execute({ n: 1 }, { workflowId: "wf" })).toBe(3)
        yield* TestClock.adjust("1 second")
        const store = yield* StepStore.StepStore
        for (const generation of [0, 1, 2]) {
          const mark = generation === 0 ? "wf:" : `wf:${generation}#`
          const rows = yield* store.steps("wf", generation, { after: null, limit: 10 })
          expect(rows.map((row) => row.stepKey).filter((key) => key !== `${mark}1.0`)).toEqual([`${mark}0.0`])
        }
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("lives on in its present generation after the store could not be used", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const live = Counter.toLayer(({ n }) =>
          stepOf(`step ${n}`, add).pipe(
            Effect.zipRight(stepOf(`last ${n}`, add)),
            Effect.zipRight(n === 2 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 }))
          )
        )
        const error = new Errors.StoreBusy({ target: "the store", detail: "busy" })
        const count = failCommits(faults, { error, times: 1, when: records("last 2") })
        yield* Effect.gen(function*() {
          const waiting = yield* Effect.fork(Counter.execute({ n: 1 }, { workflowId: "wf" }))
          yield* eventually(Effect.sync(() => count.failed), (times) => times === 1)
          yield* turns(10)
          yield* TestClock.adjust("1 second")
          expect(yield* Fiber.join(waiting)).toBe(2)
        }).pipe(inEngine({ ...quiet, workflows: [live] }))
        expect(entries).toEqual(["step 1", "last 1", "step 2", "last 2", "last 2"])
      })
    ))

  test("goes on in the next generation if only the answer to its beginning was lost", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const live = Counter.toLayer(({ n }) =>
          stepOf(`step ${n}`, add).pipe(
            Effect.zipRight(n === 2 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 }))
          )
        )
        let lost = 0
        faults.commit = (batch, call) =>
          batch.some((update) => update.next !== null) && lost++ === 0
            ? Effect.zipRight(call, Effect.fail(new Errors.StoreBusy({ target: "the store", detail: "no answer" })))
            : call
        yield* Effect.gen(function*() {
          const waiting = yield* Effect.fork(Counter.execute({ n: 1 }, { workflowId: "wf" }))
          yield* eventually(Effect.sync(() => lost), (times) => times === 1)
          yield* turns(10)
          yield* TestClock.adjust("1 second")
          expect(yield* Fiber.join(waiting)).toBe(2)
        }).pipe(inEngine({ ...quiet, workflows: [live] }))
        expect(lost).toBe(2)
        expect(entries).toEqual(["step 1", "step 2"])
      })
    ))

  test("does not compensate, and a body that dies while it ends is stopped", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      let broken = true
      const live = Counter.toLayer(({ n }) =>
        stepOf(`step ${n}`, add).pipe(
          Workflow.withCompensation(() => add("undone")),
          Effect.zipRight(n === 2 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 })),
          Effect.ensuring(Effect.suspend(() => broken ? Effect.die("no") : Effect.void))
        )
      )
      yield* Effect.gen(function*() {
        yield* stoppedBy("BodyDied")(Counter.execute({ n: 1 }, { workflowId: "wf" }))
        broken = false
        yield* Counter.resume("wf")
        expect(yield* Counter.await("wf")).toBe(2)
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual(["step 1", "step 2"])
    }))

  const counting = Counter.toLayer(({ n }) =>
    Effect.zipRight(stepOf(`step ${n}`), n === 2 ? Effect.succeed(n) : Counter.continueAsNew({ n: n + 1 }))
  )
  const goesOn = (update: StepStore.RunUpdate) => update.next !== null

  test("waits until the store can be written to, and is stopped by what the store refuses", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        const busy = new Errors.StoreBusy({ target: "store", detail: "busy" })
        const count = failCommits(faults, { error: busy, times: 2, when: goesOn })
        const fiber = yield* Effect.fork(Counter.execute({ n: 1 }, { workflowId: "wf" }))
        yield* eventually(Effect.zipRight(TestClock.adjust("1 second"), Fiber.poll(fiber)), Option.isSome)
        expect(yield* Fiber.join(fiber)).toBe(2)
        expect(count).toEqual({ failed: 2, passed: 1 })
        const error = new Errors.StoreRejected({ target: "store", detail: "no" })
        failCommits(faults, { error, times: 1, when: goesOn })
        yield* stoppedBy("StoreRejected")(Counter.execute({ n: 1 }, { workflowId: "refused" }))
        yield* Counter.resume("refused")
        expect(yield* Counter.await("refused")).toBe(2)
      }).pipe(inEngine({ ...quiet, workflows: [counting] }))
    ))

  test("is nothing that a worker may do that has lost the run", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        const theft = Effect.provide(
          Effect.orDie(steal("wf")),
          yield* Effect.context<Scope.Scope | StepStore.StepStore>()
        )
        faults.commit = (batch, call) => batch.some(goesOn) ? Effect.zipRight(theft, call) : call
        yield* Counter.start({ n: 1 }, { workflowId: "wf" })
        yield* eventually(rowOf("wf"), ({ owner }) => owner === "thief")
        yield* turns(20)
        expect(yield* rowOf("wf")).toMatchObject({ generation: 0, owner: "thief" })
      }).pipe(inEngine({ ...quiet, workflows: [counting] }))
    ))

  test("belongs in the root branch of a run of the definition, outside steps, with a payload that fits", () =>
    Effect.gen(function*() {
      const again = Counter.continueAsNew({ n: 1 })
      const bodies: ReadonlyArray<readonly [string, Effect.Effect<unknown, never, Workflow.Run>]> = [
        ["called in a branch", Branch.all([again])],
        ["a step is recorded as a whole", again.pipe(Step.durable("s"))],
        ["this is a run of \"~run\"", again]
      ]
      for (const [i, [words, body]] of bodies.entries()) {
        const run = i === 2
          ? Workflow.run("script", Effect.asVoid(body))
          : Counter.execute({ n: 1 }, { workflowId: `wf ${i}` })
        const live = Counter.toLayer(() => Effect.as(body, 1))
        const reason = yield* stoppedBy("Misplaced")(run).pipe(inEngine({ ...quiet, workflows: [live] }))
        expect(reason.detail).toContain(words)
      }
      const live = Counter.toLayer(() => Counter.continueAsNew({ n: "one" as unknown as number }))
      const reason = yield* stoppedBy("Misplaced")(Counter.execute({ n: 1 }, { workflowId: "unfit" })).pipe(
        inEngine({ ...quiet, workflows: [live] })
      )
      expect(reason.detail).toContain("The payload for workflow \"counter\" cannot be used")
    }))
})

const Inner = Workflow.make({ name: "inner", payload: { id: Schema.String }, success: Schema.String })
const Outer = Workflow.make({ name: "outer", payload: {}, success: Schema.String })

describe.each(stores)("Cancellation of children (%s)", (_, store) => {
  const test = testOn(store)

  const innerOf = (add: (entry: string) => Effect.Effect<void>) =>
    Inner.toLayer(({ id }) =>
      stepOf(`begin ${id}`, add).pipe(
        Workflow.withCompensation(() => add(`undo ${id}`)),
        Effect.zipRight(
          id === "grandchild" ? Effect.sleep("1 day") : Effect.orDie(Child.execute(Inner, { id: "grandchild" }))
        ),
        Effect.as(id)
      )
    )

  const starting = Outer.toLayer(() =>
    Effect.zipRight(Child.start(Inner, { id: "started" }), Effect.as(Effect.sleep("1 day"), "done"))
  )

  test("goes down to children that are waited for, to those that were started, and to theirs", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Outer.toLayer(() =>
        Effect.gen(function*() {
          const started = yield* Child.start(Inner, { id: "started" })
          yield* Child.execute(Inner, { id: "executed" })
          return yield* Child.await(started)
        }).pipe(Effect.catchTag("ChildCancelled", () => Effect.succeed("survived")))
      )
      yield* Effect.gen(function*() {
        yield* Outer.start(undefined, { workflowId: "wf" })
        const ids = ["~wf:0", "~wf:1", "~~wf:0:1", "~~wf:1:1"]
        const inner = ids.slice(2)
        yield* eventually(
          Effect.forEach(inner, recorded).pipe(Effect.orElseSucceed(() => [])),
          (all) => all.length === 2 && all.every((rows) => rows.length === 1)
        )
        yield* Outer.cancel("wf")
        expect(yield* failure(Outer.await("wf"))).toEqual(cancelled("cancelled"))
        for (const id of ids) {
          expect(yield* failure(Inner.await(id))).toMatchObject({ _tag: "RunCancelled", workflowId: id })
        }
        expect(entries.filter((entry) => entry.startsWith("undo")).sort()).toEqual([
          "undo executed",
          "undo grandchild",
          "undo grandchild",
          "undo started"
        ])
      }).pipe(inEngine({ ...quiet, workflows: [live, innerOf(add)] }))
    }))

  test("of a child by somebody else is a typed error of its parent", () =>
    Effect.gen(function*() {
      const { add } = ledger()
      const live = Outer.toLayer(() =>
        Child.execute(Inner, { id: "executed" }).pipe(
          Effect.catchTag(
            "ChildCancelled",
            ({ reason, workflow, workflowId }) => Effect.succeed(`${workflow} ${workflowId} ${reason}`)
          )
        )
      )
      yield* Effect.gen(function*() {
        yield* Outer.start(undefined, { workflowId: "wf" })
        yield* eventually(recorded("~wf:0").pipe(Effect.orElseSucceed(() => [])), (rows) => rows.length === 1)
        yield* Inner.cancel("~wf:0")
        expect(yield* Outer.await("wf")).toBe("inner ~wf:0 cancelled")
      }).pipe(inEngine({ ...quiet, workflows: [live, innerOf(add)] }))
    }))

  test("waits until the store can be read, where it has to be looked which children were started", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        yield* Outer.start(undefined, { workflowId: "wf" })
        yield* eventually(recorded("~~wf:0:1").pipe(Effect.orElseSucceed(() => [])), (rows) => rows.length === 1)
        let failures = 0
        faults.history = (_, call) =>
          failures++ === 0 ? Effect.fail(new Errors.StoreBusy({ target: "store", detail: "busy" })) : call
        yield* Outer.cancel("wf")
        const waiting = yield* Effect.fork(failure(Outer.await("wf")))
        yield* eventually(Effect.zipRight(TestClock.adjust("1 second"), Fiber.poll(waiting)), Option.isSome)
        expect(yield* Fiber.join(waiting)).toEqual(cancelled("cancelled"))
        expect(failures).toBeGreaterThan(1)
        expect(yield* failure(Inner.await("~wf:0"))).toMatchObject({ _tag: "RunCancelled" })
      }).pipe(inEngine({ ...quiet, workflows: [starting, innerOf(() => Effect.void)] }))
    ))
})
