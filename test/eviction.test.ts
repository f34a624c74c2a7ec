import { describe, expect } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Logger, Schema, TestClock } from "effect"
import { Branch, Errors, Step, StepStore, Workflow } from "perdure"
import { update } from "./suites/rows.js"
import { withFaults } from "./support/faults.js"
import {
  attemptsOf,
  eventually,
  failure,
  gate,
  historyOf,
  inEngine,
  ledger,
  openEngine,
  openScope,
  recorded,
  rowOf,
  statusOf,
  steal,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Job = Workflow.make({ name: "job", payload: {}, success: Schema.String })

type Add = (entry: string) => Effect.Effect<void>
type Body = Effect.Effect<unknown, unknown, Workflow.Run>

/**
 * Bodies that would rather stay. Each waits for a step, and notes what it comes to do afterwards: `file closed` where a finalizer in
 * memory must run, anything else must not happen.
 */
const stubborn: Record<string, (wait: Body, add: Add) => Body> = {
  "ensuring": (wait, add) => wait.pipe(Effect.ensuring(stepOf("finalizer", add)), Effect.ensuring(add("file closed"))),
  "onExit": (wait, add) => Effect.onExit(wait, () => Effect.zipRight(add("file closed"), stepOf("finalizer", add))),
  "onInterrupt": (wait, add) =>
    Effect.onInterrupt(wait, () => Effect.zipRight(add("file closed"), stepOf("finalizer", add))),
  "acquireRelease around it": (wait, add) =>
    Effect.scoped(Effect.zipRight(Effect.acquireRelease(Effect.void, () => add("file closed")), wait)),
  "the run's own scope": (wait, add) => Effect.zipRight(Effect.addFinalizer(() => add("file closed")), wait) as Body,
  "a wait in acquire": (wait, add) =>
    Effect.scoped(Effect.acquireRelease(wait, () => stepOf("release", add))).pipe(Effect.ensuring(add("file closed"))),
  "a wait in release": (wait, add) =>
    Effect.acquireUseRelease(Effect.void, () => Effect.void, () => Effect.ignore(wait)).pipe(
      Effect.ensuring(add("file closed"))
    ),
  "uninterruptible": (wait, add) =>
    Effect.uninterruptible(Effect.zipRight(wait, stepOf("next", add))).pipe(Effect.ensuring(add("file closed"))),
  "catchAllCause": (wait, add) =>
    wait.pipe(
      Effect.catchAllCause(() => stepOf("next", add)),
      Effect.zipRight(stepOf("next", add)),
      Effect.ensuring(add("file closed"))
    ),
  "catchAllCause, uninterruptible": (wait, add) =>
    wait.pipe(
      Effect.catchAllCause(() => Effect.void),
      Effect.zipRight(stepOf("next", add)),
      Effect.uninterruptible,
      Effect.ensuring(add("file closed"))
    ),
  "exit, sandbox and ignore": (wait, add) =>
    Effect.exit(Effect.sandbox(Effect.ignore(wait))).pipe(
      Effect.zipRight(stepOf("next", add)),
      Effect.ensuring(add("file closed"))
    ),
  "forever": (wait, add) =>
    Effect.forever(Effect.catchAllCause(wait, () => stepOf("next", add))).pipe(Effect.ensuring(add("file closed"))),
  "retry for ever": (wait, add) =>
    Effect.retry(Effect.sandbox(wait), { while: () => true }).pipe(Effect.ensuring(add("file closed"))),
  "branches": (wait, add) =>
    Branch.all([wait, stepOf("other"), Effect.never], { concurrency: "unbounded" }).pipe(
      Effect.ensuring(add("file closed"))
    ),
  "branches, uninterruptible": (wait, add) =>
    Branch.all([wait, Effect.zipRight(stepOf("other"), Effect.interruptible(Effect.never))], {
      concurrency: "unbounded"
    }).pipe(
      Effect.uninterruptible,
      Effect.ensuring(add("file closed"))
    ),
  "a race": (wait, add) => Branch.race(wait, Effect.never).pipe(Effect.ensuring(add("file closed"))),
  "a fork that waits": (wait, add) =>
    Effect.zipRight(Effect.forkDaemon(Effect.never), wait).pipe(Effect.ensuring(add("file closed")))
}

/** Bodies that never end, and are given up: what stands there is why. */
const immortal: Record<string, (wait: Body, add: Add) => Body> = {
  "asks for ever": (wait, add) =>
    Effect.uninterruptible(
      Effect.forever(Effect.catchAllCause(Effect.zipRight(wait, stepOf("next", add)), () => Effect.void))
    ),
  "asks for ever, yielding": (wait, add) =>
    Effect.uninterruptible(Effect.forever(
      Effect.catchAllCause(Effect.zipRight(wait, stepOf("next", add)), () => Effect.yieldNow())
    ))
}

const unending: Record<string, (wait: Body) => Body> = {
  "yields for ever": (wait) =>
    Effect.uninterruptible(Effect.zipRight(Effect.exit(wait), Effect.forever(Effect.yieldNow()))),
  "never ends": (wait) => Effect.uninterruptible(Effect.zipRight(Effect.exit(wait), Effect.never)),
  "waits for a promise that never comes": (wait) =>
    Effect.uninterruptible(Effect.zipRight(Effect.exit(wait), Effect.promise(() => new Promise(() => {}))))
}

/** What the next engine runs instead: a body of the same shape that ends when its wait does. */
const tamed = (name: string, wait: Body): Body =>
  name.startsWith("branches")
    ? Branch.all([wait, stepOf("other")], { concurrency: "unbounded" })
    : name === "a race"
    ? Branch.race(wait, Effect.never)
    : wait

const asJob = (body: Body) => Job.toLayer(() => Effect.as(body, "done") as Effect.Effect<string, never, Workflow.Run>)

/** What is recorded, but for the step of another branch, which may be before or behind. */
const ownRecords = Effect.map(recorded("wf"), (rows) => rows.filter((row) => !row.endsWith("other")))

describe.each(stores)("Eviction (%s)", (_, store) => {
  const test = testOn(store)

  test("counts an attempt that was released, even if the row that it was under way could not be written", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        let lost = 0
        faults.commit = (batch, call) =>
          batch.some(({ steps }) => steps.some(({ status }) => status === "IN_PROGRESS")) && lost++ === 0
            ? Effect.fail(new Errors.StoreBusy({ target: "the store", detail: "for a while" }))
            : call
        const { begun, pass } = gate()
        const long = Job.toLayer(() => Effect.as(pass, "x").pipe(Step.durable("s")))
        const first = yield* openEngine({ slowPoll: "1000 days", workflows: [long] })
        yield* first.run(Job.start(undefined, { workflowId: "wf" }))
        yield* begun
        yield* TestClock.adjust("1 second")
        expect(lost).toBe(1)
        yield* first.close
        let failures = 0
        const again = Job.toLayer(() =>
          Effect.suspend(() => failures++ === 0 ? Effect.fail("no") : Effect.succeed("done")).pipe(
            Step.durable("s", { error: Schema.String, retry: { times: 1 } }),
            Effect.orDie
          )
        )
        yield* Effect.gen(function*() {
          expect(yield* Job.execute(undefined, { workflowId: "wf" })).toBe("done")
          expect((yield* attemptsOf("wf")).map(({ attempt, errorTag }) => [attempt, errorTag])).toEqual([
            [1, "Released"],
            [2, null]
          ])
        }).pipe(inEngine({ slowPoll: "1000 days", workflows: [again] }))
      })
    ))

  describe("by closing the engine's layer", () => {
    for (const [name, make] of Object.entries(stubborn)) {
      test(`${name}: the run leaves at once, nothing is recorded, and the next engine goes on with it`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const { begun, open, pass } = gate()
          const wait = Effect.interruptible(pass).pipe(Step.durable("wait"))
          const engine = yield* openEngine({ workflows: [asJob(make(wait, add))] })
          yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
          yield* begun
          const before = yield* ownRecords
          expect(yield* engine.close).toBe(0)
          expect(entries).toEqual(["file closed"])
          yield* open
          yield* turns(20)
          expect(entries).toEqual(["file closed"])
          expect(yield* ownRecords).toEqual(before)
          expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null, outcome: null, stopReason: null })

          const next = yield* openEngine({ workflows: [asJob(tamed(name, wait))] })
          expect(yield* next.run(Job.await("wf"))).toBe("done")
        }))
    }

    for (const [name, make] of Object.entries(immortal)) {
      test(`a body that ${name} is dropped after a hundred calls, and the log says so`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const { begun, pass } = gate()
          const logs: Array<string> = []
          const logger = Logger.replace(
            Logger.defaultLogger,
            Logger.make(({ message }) => void logs.push(String(message)))
          )
          const engine = yield* openEngine({ workflows: [asJob(make(pass.pipe(Step.durable("wait")), add))] }).pipe(
            Effect.provide(logger)
          )
          yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
          yield* begun
          expect(yield* engine.close).toBe(0)
          expect(entries).toEqual([])
          expect(logs).toEqual([expect.stringContaining("The body of run \"wf\" would not end and was dropped")])
          expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null })
          expect((yield* stepsOf("wf")).filter((row) => row.includes("next"))).toEqual([])
        }))
    }

    for (const [name, make] of Object.entries(unending)) {
      test(`a body that ${name} is dropped after five seconds`, () =>
        Effect.gen(function*() {
          const { begun, pass } = gate()
          const wait = pass.pipe(Step.durable("wait"))
          const engine = yield* openEngine({ workflows: [asJob(make(wait))] })
          yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
          yield* begun
          expect(yield* engine.close).toBe(5)
          expect(yield* statusOf("wf")).toBe("PENDING")
        }))
    }

    test("what a dropped body would do later is not done", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        let late = () => {}
        const promise = new Promise<void>((resolve) => {
          late = resolve
        })
        const body = Effect.exit(pass.pipe(Step.durable("wait"))).pipe(
          Effect.zipRight(Effect.promise(() => promise)),
          Effect.zipRight(add("went on")),
          Effect.uninterruptible
        )
        const engine = yield* openEngine({ workflows: [asJob(body)] })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* begun
        expect(yield* engine.close).toBe(5)
        late()
        yield* turns(10)
        expect(entries).toEqual([])
        expect(yield* statusOf("wf")).toBe("PENDING")
      }))

    test("a step that cannot be interrupted holds the engine up for five seconds, and what it ends with is void", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const wait = Effect.uninterruptible(Effect.zipRight(pass, add("went on"))).pipe(Step.durable("wait"))
        const engine = yield* openEngine({ workflows: [asJob(wait)] })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* begun
        expect(yield* engine.close).toBe(5)
        yield* open
        yield* eventually(Effect.sync(() => entries.length), (n) => n === 1)
        yield* turns(10)
        expect(yield* historyOf("wf")).toEqual([])
        expect(yield* statusOf("wf")).toBe("PENDING")
      }))

    test("a run whose body has just ended is recorded as ended", () =>
      Effect.gen(function*() {
        const engine = yield* openEngine({ workflows: [asJob(stepOf("a"))] })
        yield* engine.run(Job.execute(undefined, { workflowId: "wf" }))
        expect(yield* engine.close).toBe(0)
        expect(yield* statusOf("wf")).toBe("COMPLETED")
      }))

    test("whoever waits for a run of the engine is told that it has closed", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const engine = yield* openEngine({ workflows: [asJob(pass.pipe(Step.durable("wait")))] })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        const waiting = yield* Effect.fork(engine.run(failure(Job.await("wf"))))
        yield* begun
        yield* engine.close
        const error = yield* Fiber.join(waiting)
        expect(error._tag).toBe("StoreUnavailable")
        expect(error.message).toContain("the layer of the engine that speaks to it has been closed")
        const late = yield* engine.run(failure(Job.start(undefined, { workflowId: "late" })))
        expect(late._tag).toBe("StoreUnavailable")
      }))

    test("the attempt that was cut off has a number, and no outcome", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const engine = yield* openEngine({
          workflows: [asJob(Effect.zipRight(stepOf("a"), pass.pipe(Step.durable("wait"))))]
        })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* begun
        yield* Effect.zipRight(TestClock.adjust("1 second"), eventually(stepsOf("wf"), (rows) => rows.length === 2))
        yield* engine.close
        const attempt = Step.attempt.pipe(Step.durable("wait"), Effect.map(String))
        const next = yield* openEngine({ workflows: [Job.toLayer(() => Effect.zipRight(stepOf("a"), attempt))] })
        expect(yield* next.run(Job.await("wf"))).toBe("2")
        expect((yield* attemptsOf("wf")).map((row) => [row.stepKey, row.attempt])).toEqual([["wf:1", 1]])
        expect((yield* attemptsOf("wf"))[0]!.error).toContain("this attempt was cut off: its run left the process")
      }))
  })

  describe("by closing the layer of its workflow", () => {
    test("gives its runs back, and leaves those of others alone", () =>
      Effect.gen(function*() {
        const Other = Workflow.make({ name: "other", payload: {} })
        const { begun, pass } = gate()
        const others = gate()
        const engine = yield* openEngine({
          workflows: [Other.toLayer(() => others.pass.pipe(Step.durable("wait")))]
        })
        const jobs = yield* engine.run(openScope(asJob(pass.pipe(Step.durable("wait")))))
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* engine.run(Other.start(undefined, { workflowId: "other" }))
        yield* Effect.zipRight(begun, others.begun)
        yield* jobs.close
        expect(yield* statusOf("wf")).toBe("PENDING")
        expect(yield* statusOf("other")).toBe("RUNNING")
        yield* others.open
        yield* engine.run(Other.await("other"))
      }))
  })

  describe("by a fence", () => {
    for (const [name, make] of Object.entries({ ...stubborn, "a plain body": (wait: Body, _add: Add) => wait })) {
      test(`${name}: nothing that it does is recorded, and it leaves memory`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const { begun, open, pass } = gate()
          const wait = Effect.interruptible(pass).pipe(Step.durable("wait"))
          const body = make(Effect.zipRight(wait, stepOf("afterwards", add)), add)
          const engine = yield* openEngine({ workflows: [asJob(Effect.ensuring(body, add("left memory")))] })
          yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
          yield* begun
          const before = yield* ownRecords
          const thief = yield* steal("wf")
          yield* open
          yield* eventually(Effect.sync(() => entries), (entries) => entries.includes("left memory"))
          yield* turns(20)
          expect(entries.filter((entry) => entry !== "file closed" && entry !== "left memory")).toEqual([])
          expect(yield* ownRecords).toEqual(before)
          expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: thief, epoch: 2 })
          expect(yield* engine.close).toBe(0)
          expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: thief, epoch: 2 })
        }))
    }

    test("a fence is noticed at the end of the body, too", () =>
      Effect.gen(function*() {
        const { open, pass } = gate()
        const before = gate()
        const body = Effect.zipRight(before.pass, pass)
        const engine = yield* openEngine({ workflows: [asJob(body)] })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* before.begun
        yield* steal("wf")
        yield* before.open
        yield* open
        yield* turns(20)
        expect(yield* engine.close).toBe(0)
        expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", epoch: 2, outcome: null })
      }))

    test("whoever awaits the run gets the outcome of the other worker", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const engine = yield* openEngine({ workflows: [asJob(pass.pipe(Step.durable("wait")))] })
        const waiting = yield* Effect.fork(engine.run(Job.execute(undefined, { workflowId: "wf" })))
        yield* begun
        yield* steal("wf")
        yield* open
        yield* turns(20)
        yield* Effect.flatMap(StepStore.StepStore, (store) =>
          store.commit([update("wf", {
            epoch: 2,
            patch: {
              status: "COMPLETED",
              owner: null,
              stopReason: null,
              wakeAt: null,
              outcome: "\"theirs\"",
              updatedAt: 0,
              endedAt: 0
            }
          })]))
        expect(yield* Fiber.join(waiting)).toBe("theirs")
      }))
  })

  describe("by the interruption of Workflow.run", () => {
    test("gives the run up, and the next call goes on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        let first = true
        const body = Effect.zipRight(
          stepOf("a", add),
          Effect.suspend(() => first ? pass : Effect.void).pipe(Effect.zipRight(add("b")), Step.durable("b"))
        ).pipe(Effect.catchAllCause(() => add("caught")), Effect.ensuring(stepOf("end", add)), Effect.asVoid)
        const call = yield* Effect.fork(Workflow.run("wf", body))
        yield* begun
        const exit = yield* Fiber.interrupt(call)
        expect(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)).toBe(true)
        expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null })
        expect(entries).toEqual(["a"])
        first = false
        yield* Workflow.run("wf", body)
        expect(entries).toEqual(["a", "b", "end"])
      }).pipe(inEngine()))

    test("waits for finalizers in memory", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        const call = yield* Effect.fork(
          Workflow.run(
            "wf",
            pass.pipe(Step.durable("wait"), Effect.ensuring(Effect.zipRight(turns(5), add("file closed"))))
          )
        )
        yield* begun
        yield* Fiber.interrupt(call)
        expect(entries).toEqual(["file closed"])
      }).pipe(inEngine()))
  })

  describe("for the body's own throw", () => {
    test("steps in finalizers do run, are recorded, and the reason lists them", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const reason = yield* Workflow.run(
          "wf",
          Effect.zipRight(stepOf("lock", add), Effect.die("boom")).pipe(Effect.ensuring(stepOf("unlock", add)))
        ).pipe(stoppedBy("BodyDied"))
        expect(entries).toEqual(["lock", "unlock"])
        expect(yield* recorded("wf")).toEqual(["0 lock", "1 unlock"])
        expect(reason.unwinding.map(({ id }) => id)).toEqual(["unlock"])
        expect(reason.message).toContain("boom")
        expect(reason.message).toContain("by its finalizers while it unwound")
        expect(reason.message).toContain("1 step \"unlock\"")
      }).pipe(inEngine()))

    test("a replay that dies again lists them again", () =>
      Effect.gen(function*() {
        const body = Effect.zipRight(stepOf("lock"), Effect.die("boom")).pipe(Effect.ensuring(stepOf("unlock")))
        yield* Workflow.run("wf", body).pipe(stoppedBy("BodyDied"))
        const { unwinding } = yield* Workflow.run("wf", body).pipe(stoppedBy("BodyDied"))
        expect(unwinding.map(({ address, id }) => `${address} ${id}`)).toEqual(["1 unlock"])
      }).pipe(inEngine()))

    test("finalizers of branches are among them", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const waits = pass.pipe(Step.durable("wait"), Effect.ensuring(stepOf("unlock")))
        const throws = Effect.zipRight(Effect.zipRight(begun, Effect.void).pipe(Step.durable("a")), Effect.die("boom"))
        const { unwinding } = yield* Workflow.run(
          "wf",
          Branch.all([waits, throws], { concurrency: "unbounded", discard: true }).pipe(Effect.ensuring(stepOf("end")))
        ).pipe(stoppedBy("BodyDied"))
        expect(unwinding.map(({ address, id }) => `${address} ${id}`)).toEqual(["0.1 unlock", "2 end"])
      }).pipe(inEngine()))

    test("defects that the body dealt with before are not taken for it, however many", () =>
      Effect.gen(function*() {
        const caught = Effect.forEach(
          Array.from({ length: 20 }, (_, i) => i),
          (i) => Effect.zipRight(Effect.exit(Effect.die(i)), stepOf(`after ${i}`)),
          { discard: true }
        )
        const { unwinding } = yield* Workflow.run(
          "wf",
          Effect.zipRight(
            caught,
            Effect.map(Effect.void, (): void => {
              throw new Error("boom")
            })
          ).pipe(Effect.ensuring(stepOf("unlock")))
        ).pipe(stoppedBy("BodyDied"))
        expect(unwinding.map(({ id }) => id)).toEqual(["unlock"])
      }).pipe(inEngine()))

    test("more defects at once than are kept in mind list nothing by mistake", () =>
      Effect.gen(function*() {
        const defects = Array.from({ length: 20 }, (_, i) => Cause.die(i)).reduce(Cause.parallel)
        const { unwinding } = yield* Workflow.run(
          "wf",
          Effect.zipRight(stepOf("a"), Effect.failCause(defects)).pipe(Effect.ensuring(stepOf("unlock")))
        ).pipe(stoppedBy("BodyDied"))
        expect(unwinding.map(({ id }) => id)).toEqual(["unlock"])
      }).pipe(inEngine()))

    test("without finalizers there is nothing to list", () =>
      Effect.gen(function*() {
        const { message, unwinding } = yield* Workflow.run("wf", Effect.zipRight(stepOf("a"), Effect.die("boom"))).pipe(
          stoppedBy("BodyDied")
        )
        expect(unwinding).toEqual([])
        expect(message).not.toContain("finalizers")
      }).pipe(inEngine()))

    test("only the latest of many are listed", () =>
      Effect.gen(function*() {
        const finalizers = Effect.forEach(Array.from({ length: 20 }, (_, i) => `unlock ${i}`), (id) => stepOf(id))
        const { unwinding } = yield* Workflow.run("wf", Effect.ensuring(Effect.die("boom"), finalizers)).pipe(
          stoppedBy("BodyDied")
        )
        expect(unwinding.map(({ id }) => id)).toEqual(Array.from({ length: 8 }, (_, i) => `unlock ${i + 12}`))
      }).pipe(inEngine()))
  })
})
