/** Children: runs that the body of another run starts, and waits for. */
import { describe, expect, it } from "@effect/vitest"
import { Effect, Either, Exit, Fiber, Option, Schema, Stream, TestClock } from "effect"
import { Branch, Child, Errors, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { cancelStarted } from "../src/internal/children.js"
import { placeOf } from "../src/internal/place.js"
import { brings, failCommits, withFaults } from "./support/faults.js"
import {
  closing,
  type EngineOptions,
  eventually,
  failure,
  gate,
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  openEngine,
  openScope,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores, temporaryFile } from "./support/stores.js"

const day = 24 * 60 * 60 * 1_000

class Odd extends Schema.TaggedError<Odd>()("Odd", { n: Schema.Number }) {}

const Half = Workflow.make({ name: "half", payload: { n: Schema.Number }, success: Schema.Number, error: Odd })

const halve = ({ n }: { readonly n: number }) =>
  (n % 2 === 0 ? Effect.succeed(n / 2) : new Odd({ n })).pipe(Step.durable("halve", { error: Odd }))

const HalfLive = Half.toLayer(halve)

/** Does nothing, and is registered only where a test says so. */
const Idle = Workflow.make({ name: "idle", payload: {}, success: Schema.String })

const Go = Signal.make("go", Schema.String)

/** Ends when it is told to. */
const IdleLive = Idle.toLayer(() => Signal.next(Go))

const Parent = Workflow.make({ name: "parent", payload: {}, success: Schema.String, error: Odd })

type Body = Effect.Effect<unknown, Odd, Workflow.Run>

const parentOf = (body: Body) => Parent.toLayer(() => Effect.map(body, (value) => JSON.stringify(value ?? null)))

const executed = Effect.suspend(() => Parent.execute(undefined, { workflowId: "wf" }))

const quiet = { slowPoll: "1000 days" as const }

/** Runs a parent with this body to its end. */
const run = (body: Body, options: EngineOptions = {}) =>
  executed.pipe(inEngine({ ...quiet, ...options, workflows: [parentOf(body), ...options.workflows ?? [HalfLive]] }))

const unCancelled = <A, E, R>(self: Effect.Effect<A, E | Errors.ChildCancelled, R>) =>
  Effect.catchIf(
    self,
    (error): error is Extract<E | Errors.ChildCancelled, Errors.ChildCancelled> =>
      error instanceof Errors.ChildCancelled,
    Effect.die
  )

const half = (n: number) => unCancelled(Child.execute(Half, { n }))

const idle = unCancelled(Child.execute(Idle))

const unavailable = new Errors.StoreUnavailable({ target: "the store", detail: "a test said so" })

const unit = { workflowId: "", generation: 0, epoch: 0 }

/** Ends a child that nobody has claimed, as another worker would. */
const end = (workflowId: string, status: StepStore.RunStatus, outcome: string | null, tells = ["wf"]) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const { epoch } = yield* rowOf(workflowId)
    const answers = yield* store.commit([{
      ...unit,
      workflowId,
      epoch,
      inbox: null,
      insert: null,
      patch: { status, owner: null, stopReason: null, wakeAt: null, outcome, updatedAt: 1, endedAt: 1 },
      next: null,
      cancelAt: null,
      reopen: [],
      steps: [],
      attempts: [],
      signals: [],
      takes: [],
      gives: [],
      children: [],
      tells
    }])
    expect(answers).toEqual([{ _tag: "Accepted" }])
  })

/** Waits until a run is there. */
const created = (workflowId: string) =>
  Effect.flatMap(StepStore.StepStore, (store) => eventually(store.run(workflowId), Option.isSome))

const cancelAtOf = (workflowId: string) => Effect.map(rowOf(workflowId), (row) => row.cancelAt)

/** Lets the test's clock go on by the grace, which begins anew if something stirs, so that whatever waits leaves memory. */
const grace = Effect.repeatN(Effect.zipRight(turns(30), TestClock.adjust("1 second")), 2)

const park = (workflowId: string) =>
  Effect.zipRight(grace, eventually(statusOf(workflowId), (status) => status === "SUSPENDED"))

for (const [store, layer] of stores) {
  const test = testOn(layer)

  describe(`Child (${store})`, () => {
    describe("execute", () => {
      test("gives the success of the child, whose id is the key of the operation", () =>
        Effect.gen(function*() {
          expect(yield* run(Effect.zip(half(4), half(10)))).toBe("[2,5]")
          expect(yield* stepsOf("wf")).toEqual(["0 half COMPLETED 1!", "1 half COMPLETED 1!"])
          expect(yield* rowOf("~wf:0")).toMatchObject({
            name: "half",
            status: "COMPLETED",
            parent: "wf",
            payload: "{\"n\":4}",
            outcome: "2"
          })
          const [first] = yield* historyOf("wf")
          expect(first).toMatchObject({ kind: "child", output: "2", fingerprint: (yield* rowOf("~wf:0")).fingerprint })
          expect(yield* rowOf("wf")).toMatchObject({ parent: null, inbox: 2 })
        }))

      test("gives the child's typed failure, which the body may catch, or fail with", () =>
        Effect.gen(function*() {
          const caught = Effect.catchTag(half(3), "Odd", (odd) => Effect.succeed(odd.n))
          expect(yield* run(caught)).toBe("3")
          expect(yield* rowOf("~wf:0")).toMatchObject({ status: "FAILED" })
          const failing = Workflow.make({ name: "failing", payload: {}, error: Odd })
          const live = failing.toLayer(() => Effect.asVoid(half(5)))
          const error = yield* failing.execute(undefined, { workflowId: "wf-2" }).pipe(
            failure,
            inEngine({ workflows: [live, HalfLive] })
          )
          expect(error).toEqual(new Odd({ n: 5 }))
        }))

      test("gives undefined where that is the result", () =>
        Effect.gen(function*() {
          const Nothing = Workflow.make({ name: "nothing", payload: {} })
          const body = Effect.map(unCancelled(Child.execute(Nothing)), (value) => value === undefined)
          expect(yield* run(body, { workflows: [Nothing.toLayer(() => Effect.void)] })).toBe("true")
        }))

      test("works in children of children", () =>
        Effect.gen(function*() {
          const Middle = Workflow.make({
            name: "middle",
            payload: { n: Schema.Number },
            success: Schema.Number,
            error: Odd
          })
          const live = Middle.toLayer(({ n }) => Effect.map(Effect.zip(half(n), half(n * 2)), ([a, b]) => a + b))
          const body = unCancelled(Child.execute(Middle, { n: 4 }))
          expect(yield* run(body, { workflows: [live, HalfLive] })).toBe("6")
          expect(yield* rowOf("~~wf:0:1")).toMatchObject({ parent: "~wf:0", outcome: "4" })
        }))

      test("works in a run without a definition", () =>
        Effect.gen(function*() {
          expect(yield* Workflow.run("wf", Effect.orDie(half(4)))).toBe(2)
        }).pipe(inEngine({ ...quiet, workflows: [HalfLive] })))

      for (const reason of ["cancelled", "deadline"] as const) {
        test(`fails with ChildCancelled if the child was cancelled (${reason})`, () =>
          Effect.gen(function*() {
            const body = Effect.catchAll(Child.execute(Idle), Effect.succeed)
            yield* Effect.gen(function*() {
              const fiber = yield* Effect.fork(executed)
              yield* created("~wf:0")
              yield* end("~wf:0", "CANCELLED", JSON.stringify(reason))
              const error = JSON.parse(yield* Fiber.join(fiber)) as object
              expect(error).toMatchObject({ _tag: "ChildCancelled", workflowId: "~wf:0", workflow: "idle", reason })
            }).pipe(inEngine({ ...quiet, workflows: [parentOf(body)] }))
            expect((yield* historyOf("wf"))[0]).toMatchObject({ status: "FAILED", errorTag: "ChildCancelled" })
          }))
      }

      test("comes out the same in a replay", () =>
        Effect.gen(function*() {
          const body = Effect.gen(function*() {
            const two = yield* half(4)
            const odd = yield* Effect.flip(half(3))
            return { two, odd: String(odd) }
          })
          const [first, second] = yield* livedTwice("wf", body)
          expect(first).toEqual(second)
          expect(Exit.isSuccess(first)).toBe(true)
          expect(yield* statusOf("~wf:1")).toBe("FAILED")
        }).pipe(inEngine({ ...quiet, workflows: [HalfLive] })))

      test("creates its child once, whatever becomes of the parent's process", () =>
        Effect.gen(function*() {
          const options = { ...quiet, workflows: [parentOf(idle)] }
          yield* Effect.gen(function*() {
            yield* Parent.start(undefined, { workflowId: "wf" })
            yield* created("~wf:0")
          }).pipe(inEngine(options))
          expect(yield* statusOf("wf")).toBe("PENDING")
          const { createdAt } = yield* rowOf("~wf:0")
          yield* TestClock.adjust("1 minute")
          yield* Effect.gen(function*() {
            yield* turns(30)
            yield* end("~wf:0", "COMPLETED", "\"by hand\"")
            expect(yield* executed).toBe("\"by hand\"")
          }).pipe(inEngine(options))
          expect(yield* rowOf("~wf:0")).toMatchObject({ createdAt, cancelAt: null })
        }))

      test("finds the end of a child that came while nobody drove the parent", () =>
        Effect.gen(function*() {
          const options = { ...quiet, workflows: [parentOf(idle)] }
          yield* Effect.zipRight(Parent.start(undefined, { workflowId: "wf" }), created("~wf:0")).pipe(
            inEngine(options)
          )
          yield* end("~wf:0", "COMPLETED", "\"by hand\"")
          expect(yield* executed.pipe(inEngine(options))).toBe("\"by hand\"")
        }))

      test("stops with RecordUndecodable if the schema does not accept what the child ended with", () =>
        Effect.gen(function*() {
          const Other = Workflow.make({
            name: "half",
            payload: { n: Schema.Number },
            success: Schema.String,
            error: Schema.String
          })
          const live = Other.toLayer(({ n }) => n === 0 ? Effect.succeed("nothing") : Effect.fail("something"))
          const reason = yield* stoppedBy("RecordUndecodable")(run(half(0), { workflows: [live] }))
          expect(reason.record).toBe("wf:0")
          const failed = Workflow.make({ name: "failed", payload: {}, success: Schema.Number, error: Odd })
          const again = yield* failed.execute(undefined, { workflowId: "wf-2" }).pipe(
            stoppedBy("RecordUndecodable"),
            inEngine({ workflows: [live, failed.toLayer(() => half(1))] })
          )
          expect(again.record).toBe("wf-2:0")
        }))

      test("stops the parent if the row of the child is damaged", () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const damage = new Errors.StoreCorrupt({ target: "the store", workflowId: "~wf:0", detail: "a test said so" })
          const reason = yield* run(half(4)).pipe(
            stoppedBy("StoreCorrupt"),
            Effect.provideService(StepStore.StepStore, {
              ...store,
              ended: (ids) =>
                Effect.map(store.ended(ids), (ended) => ended.map((one) => ({ ...one, run: Either.left(damage) })))
            })
          )
          expect(reason).toEqual(damage)
        }))

      test("is tried again if the store cannot be asked for a while", () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          let failures = 2
          const fiber = yield* run(half(4)).pipe(
            Effect.provideService(StepStore.StepStore, {
              ...store,
              ended: (ids) => Effect.suspend(() => failures-- > 0 ? Effect.fail(unavailable) : store.ended(ids))
            }),
            Effect.fork
          )
          yield* closing(Fiber.join(fiber))
          expect(yield* Fiber.join(fiber)).toBe("2")
          expect(failures).toBeLessThan(0)
        }))
    })

    describe("a wait that is cut cancels its child", () => {
      const cases: Record<string, Body> = {
        "after a lost race": Branch.race(idle, stepOf("step")),
        "after a timeout": Branch.timeout(idle, "1 hour").pipe(
          Effect.catchTag("TimeoutException", () => Effect.succeed("step"))
        ),
        "after the failure of a sibling": Branch.all([
          idle,
          Effect.fail("step").pipe(Step.durable("step", { error: Schema.String }))
        ], { concurrency: "unbounded" }).pipe(Effect.catchAll(Effect.succeed))
      }
      for (const [when, body] of Object.entries(cases)) {
        test(when, () =>
          Effect.gen(function*() {
            const { add, entries } = ledger()
            const store = yield* StepStore.StepStore
            const looked = Effect.flatMap(body, (value) =>
              Effect.flatMap(Effect.orDie(cancelAtOf("~wf:0.0")), (at) =>
                Effect.as(add(`cancelled at ${at}`), value)))
            const fiber = yield* run(Effect.provideService(looked, StepStore.StepStore, store), { parkGrace: "1 day" })
              .pipe(Effect.fork)
            yield* created("~wf:0.0")
            yield* turns(20)
            yield* TestClock.adjust("1 hour")
            expect(yield* Fiber.join(fiber)).toBe("\"step\"")
            const at = yield* cancelAtOf("~wf:0.0")
            expect(at).toBe(when === "after a timeout" ? 60 * 60 * 1_000 : 0)
            expect(entries).toEqual([`cancelled at ${at}`])
            yield* eventually(stepsOf("wf"), (steps) =>
              steps.includes("0.0 idle FAILED 1"))
          }))
      }

      test("and leaves alone one that has ended", () =>
        Effect.gen(function*() {
          const both = Branch.raceAll([half(2), half(4)])
          const value = yield* run(both)
          expect(["1", "2"]).toContain(value)
          const rows = yield* Effect.all([rowOf("~wf:0.0"), rowOf("~wf:1.0")])
          expect(rows.map((row) => row.cancelAt !== null && row.status === "COMPLETED")).not.toEqual([true, true])
          const [first, second] = yield* livedTwice("again", both)
          expect(first).toEqual(second)
        }).pipe(inEngine({ ...quiet, workflows: [HalfLive] })))

      test("in the next life, if the process died between the outcome and the cancellation", () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const count = failCommits(faults, {
              error: unavailable,
              times: 1,
              when: (update) => update.cancelAt !== null
            })
            const fiber = yield* Effect.fork(run(Branch.race(idle, stepOf("step"))))
            yield* closing(Fiber.join(fiber))
            expect(count).toEqual({ failed: 1, passed: 1 })
            expect(yield* cancelAtOf("~wf:0.0")).not.toBe(null)
            yield* eventually(stepsOf("wf"), (steps) => steps.includes("0.0 idle FAILED 1"))
          })
        ))

      test("once: a replay does not ask for what has been done", () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const count = failCommits(faults, {
              error: unavailable,
              times: 0,
              when: (update) => update.cancelAt !== null
            })
            const [first, second] = yield* livedTwice(
              "wf",
              Branch.race(idle, stepOf("step")).pipe(Effect.zipLeft(stepOf("after")))
            ).pipe(inEngine(quiet))
            expect(first).toEqual(second)
            expect(count).toEqual({ failed: 0, passed: 1 })
          })
        ))

      test("or stops the run, if that cannot be recorded", () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const error = new Errors.StoreRejected({ target: "the store", detail: "a test said so" })
            failCommits(faults, { error, times: 1, when: (update) => update.cancelAt !== null })
            expect(yield* stoppedBy("StoreRejected")(run(Branch.race(idle, stepOf("step"))))).toEqual(error)
          })
        ))

      test("after it has been created, if that was still on its way", () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const [one, two, recordsOne, recordsTwo] = [gate(), gate(), gate(), gate()]
            const order: Array<string> = []
            faults.commit = (batch, call) => {
              const rows = batch.flatMap((update) => update.steps.filter((row) => row.final))
              for (const update of batch) {
                order.push(...update.children.map(() => "created"), ...update.cancelAt === null ? [] : ["cancelled"])
              }
              const held = rows.some((row) => row.stepId === "one") ? recordsOne : recordsTwo
              return rows.length === 0 ? call : Effect.zipRight(held.pass, call)
            }
            const body = Branch.race(
              Effect.zipRight(one.pass.pipe(Step.durable("one")), idle),
              Effect.as(two.pass.pipe(Step.durable("two")), "two")
            )
            const fiber = yield* Effect.fork(run(body))
            yield* one.begun
            yield* two.begun
            // While the first record is written the second comes, and while that is written the child is asked for.
            yield* one.open
            yield* recordsOne.begun
            yield* two.open
            yield* turns(10)
            yield* recordsOne.open
            yield* recordsTwo.begun
            yield* turns(30)
            expect(order).toEqual([])
            yield* recordsTwo.open
            expect(yield* Fiber.join(fiber)).toBe("\"two\"")
            expect(order.join()).toBe("created,cancelled")
          })
        ))

      test("and not when the body dies: the mended one waits for the same child", () =>
        Effect.gen(function*() {
          const dying = Branch.all([idle, Effect.zipRight(stepOf("step"), Effect.die("a mistake"))], {
            concurrency: "unbounded"
          })
          const mended = Branch.all([idle, stepOf("step")], { concurrency: "unbounded" })
          yield* stoppedBy("BodyDied")(run(dying))
          // Nothing has been mended yet.
          yield* Effect.zipRight(Parent.resume("wf"), Parent.await("wf")).pipe(
            stoppedBy("BodyDied"),
            inEngine({ ...quiet, workflows: [parentOf(dying)] })
          )
          expect(yield* cancelAtOf("~wf:0.0")).toBe(null)
          expect(yield* stepsOf("wf")).toContain("0.0 idle IN_PROGRESS 1")
          yield* Effect.gen(function*() {
            yield* Parent.resume("wf")
            yield* eventually(statusOf("wf"), (status) => status === "RUNNING")
            yield* end("~wf:0.0", "COMPLETED", "\"ended\"")
            expect(yield* Parent.await("wf")).toBe("[\"ended\",\"step\"]")
          }).pipe(inEngine({ ...quiet, workflows: [parentOf(mended)] }))
        }))

      test("at the end of the body, if that has caught the defect which cut it", () =>
        Effect.gen(function*() {
          const body = Branch.all([idle, Effect.zipRight(stepOf("step"), Effect.die("a mistake"))], {
            concurrency: "unbounded"
          }).pipe(
            Effect.catchAllDefect(() => stepOf("went on"))
          )
          expect(yield* run(body)).toBe("\"went on\"")
          expect(yield* cancelAtOf("~wf:0.0")).not.toBe(null)
          expect(yield* stepsOf("wf")).toContain("0.0 idle FAILED 1")
        }))

      test("at the end of the generation, if the body has caught it and continues as new", () =>
        Effect.gen(function*() {
          let generation = 0
          const body = Effect.suspend((): Body =>
            ++generation === 2
              ? Effect.succeed("the next one")
              : Branch.all([idle, Effect.zipRight(stepOf("step"), Effect.die("a mistake"))], {
                concurrency: "unbounded"
              }).pipe(Effect.catchAllDefect(() => Parent.continueAsNew(undefined)))
          )
          expect(yield* run(body)).toBe("\"the next one\"")
          expect(yield* cancelAtOf("~wf:0.0")).not.toBe(null)
          expect(yield* stepsOf("wf")).toContain("0.0 idle FAILED 1")
        }))

      test("and not when the parent leaves memory", () =>
        Effect.gen(function*() {
          yield* Effect.gen(function*() {
            yield* Parent.start(undefined, { workflowId: "wf" })
            yield* created("~wf:0")
            yield* park("wf")
          }).pipe(inEngine({ ...quiet, workflows: [parentOf(idle)] }))
          expect(yield* rowOf("~wf:0")).toMatchObject({ status: "PENDING", cancelAt: null })
        }))
    })

    describe("start", () => {
      test("gives a handle, and await its outcome, any number of times", () =>
        Effect.gen(function*() {
          const body = Effect.gen(function*() {
            const good = yield* Child.start(Half, { n: 4 })
            const bad = yield* Child.start(Half, { n: 3 })
            const value = yield* unCancelled(Child.await(good))
            const again = yield* unCancelled(Child.await(good))
            const odd = yield* Effect.catchTag(unCancelled(Child.await(bad)), "Odd", ({ n }) => Effect.succeed(n))
            return [good.workflowId, value, again, odd]
          })
          expect(yield* run(body)).toBe("[\"~wf:0\",2,2,3]")
          expect((yield* historyOf("wf")).map((row) => `${row.kind} ${row.stepId} ${row.status}`)).toEqual([
            "start half COMPLETED",
            "start half COMPLETED",
            "await half COMPLETED",
            "await half COMPLETED",
            "await half FAILED"
          ])
          const [first, second] = yield* livedTwice("again", Effect.orDie(body)).pipe(
            inEngine({ ...quiet, workflows: [HalfLive] })
          )
          expect(first).toEqual(second)
        }))

      test("lets the child outlive its parent", () =>
        Effect.gen(function*() {
          yield* Effect.gen(function*() {
            expect(yield* executed).toBe("\"done\"")
            expect(yield* statusOf("~wf:0")).not.toBe("COMPLETED")
            yield* Signal.send(Go, { workflowId: "~wf:0", value: "go" })
            expect(yield* Idle.await("~wf:0")).toBe("go")
            expect(yield* cancelAtOf("~wf:0")).toBe(null)
          }).pipe(
            inEngine({ ...quiet, workflows: [parentOf(Effect.as(Child.start(Idle), "done")), IdleLive] })
          )
        }))

      test("is not cancelled with a wait for it", () =>
        Effect.gen(function*() {
          const body = Effect.flatMap(
            Child.start(Idle),
            (child) => Branch.race(unCancelled(Child.await(child)), stepOf("step"))
          )
          expect(yield* run(Effect.zipLeft(body, stepOf("after")))).toBe("\"step\"")
          expect(yield* cancelAtOf("~wf:0")).toBe(null)
          yield* eventually(stepsOf("wf"), (steps) => steps.includes("1.0 idle FAILED 1"))
        }))

      test("may be awaited by several branches at once", () =>
        Effect.gen(function*() {
          const twice = (join: (waits: readonly [Body, Body]) => Body) =>
            Effect.flatMap(Child.start(Half, { n: 4 }), (child) => {
              const wait = unCancelled(Child.await(child))
              return Effect.zipLeft(join([wait, wait]), stepOf("after"))
            })
          expect(yield* run(twice((waits) => Branch.all(waits, { concurrency: "unbounded" })))).toBe("[2,2]")
          // The second is recorded with the first, and cut before it is handed to the body.
          yield* Effect.gen(function*() {
            const race = Effect.map(Effect.orDie(twice(([one, two]) => Branch.race(one, two))), String)
            expect(yield* Workflow.run("race", race)).toBe("2")
          }).pipe(inEngine({ ...quiet, workflows: [HalfLive] }))
          expect((yield* historyOf("race")).filter((row) => row.kind === "await")).toHaveLength(2)
        }))

      test("is cancelled if it has not ended, when the run is cancelled", () =>
        Effect.gen(function*() {
          const cancelled = Effect.withFiberRuntime<void, Errors.StoreError>((fiber) => {
            const place = placeOf(fiber)
            return place._tag === "Branch" ? cancelStarted(place.run) : expect.unreachable()
          })
          const body = Effect.gen(function*() {
            const ended = yield* Child.start(Half, { n: 2 })
            yield* Child.await(ended)
            // More than is read of a history at a time: the start of the other child is in the next page.
            yield* Effect.succeed("x".repeat(5 * 1024 * 1024)).pipe(Step.durable("large"))
            yield* Child.start(Idle)
            yield* half(4)
            yield* cancelled
          })
          yield* run(Effect.catchAll(body, Effect.die))
          expect(yield* cancelAtOf("~wf:0")).toBe(null)
          expect(yield* cancelAtOf("~wf:3")).not.toBe(null)
          expect(yield* cancelAtOf("~wf:4")).toBe(null)
        }))

      test("may be awaited by its own run only", () =>
        Effect.gen(function*() {
          const handles: Array<Child.Handle<typeof Schema.Number, typeof Odd>> = []
          yield* run(Effect.map(Child.start(Half, { n: 4 }), (handle) => void handles.push(handle)))
          const reason = yield* Workflow.run("other", Effect.orDie(Child.await(handles[0]!))).pipe(
            stoppedBy("Misplaced"),
            inEngine(quiet)
          )
          expect(reason.operation).toBe("Child.await(\"half\")")
          expect(reason.detail).toContain("\"wf\"")
        }))
    })

    describe("changed code", () => {
      const Other = Workflow.make({ name: "other", payload: { n: Schema.Number }, success: Schema.Number, error: Odd })
      const before = Effect.zipRight(half(4), Effect.die("the first life ends here"))
      const two = Effect.all([Child.start(Half, { n: 2 }), Child.start(Half, { n: 4 })])
      const cases: Record<string, readonly [Body, Body, object, object]> = {
        "another payload": [before, half(6), { kind: "child", id: "half" }, { kind: "child", id: "half" }],
        "another workflow": [
          before,
          unCancelled(Child.execute(Other, { n: 4 })),
          { id: "half" },
          { id: "other" }
        ],
        "another kind": [before, Child.start(Half, { n: 4 }), { kind: "child" }, { kind: "start" }],
        "another child awaited": [
          Effect.zipRight(
            Effect.flatMap(two, ([one]) => unCancelled(Child.await(one))),
            Effect.die("the first life ends here")
          ),
          Effect.flatMap(two, ([, other]) => unCancelled(Child.await(other))),
          { fingerprint: "~wf:0" },
          { fingerprint: "~wf:1" }
        ]
      }
      for (const [what, [first, second, recorded, requested]] of Object.entries(cases)) {
        test(`that asks for ${what} is caught`, () =>
          Effect.gen(function*() {
            yield* stoppedBy("BodyDied")(run(first))
            const reason = yield* Effect.zipRight(Parent.resume("wf"), Parent.await("wf")).pipe(
              stoppedBy("NonDeterminismError"),
              inEngine({ ...quiet, workflows: [parentOf(second), HalfLive] })
            )
            expect(reason.recorded).toMatchObject(recorded)
            expect(reason.requested).toMatchObject(requested)
            expect(reason.recorded).not.toEqual(reason.requested)
          }))
      }

      test("is caught while the child has not ended, too", () =>
        Effect.gen(function*() {
          yield* Effect.zipRight(Parent.start(undefined, { workflowId: "wf" }), created("~wf:0")).pipe(
            inEngine({ ...quiet, workflows: [parentOf(half(4))] })
          )
          const reason = yield* stoppedBy("NonDeterminismError")(run(half(6)))
          expect(reason.recorded).toMatchObject({ kind: "child", id: "half" })
          expect(yield* rowOf("~wf:0")).toMatchObject({ payload: "{\"n\":4}" })
        }))
    })

    describe("a parent that waits", () => {
      const Sleeper = Workflow.make({ name: "sleeper", payload: {}, success: Schema.String })
      const SleeperLive = Sleeper.toLayer(() => Effect.as(Effect.sleep("1 day"), "rested"))

      test("leaves memory, and is woken by the end of its child", () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const body = Effect.zipRight(add("begins"), unCancelled(Child.execute(Sleeper)))
          yield* Effect.gen(function*() {
            const fiber = yield* Effect.fork(executed)
            yield* created("~wf:0")
            yield* park("wf")
            yield* eventually(statusOf("~wf:0"), (status) => status === "SUSPENDED")
            expect(yield* rowOf("wf")).toMatchObject({ wakeAt: null })
            yield* TestClock.setTime(day + 1_000)
            expect(yield* Fiber.join(fiber)).toBe("\"rested\"")
            expect(entries).toEqual(["begins", "begins"])
          }).pipe(inEngine({ ...quiet, workflows: [parentOf(body), SleeperLive] }))
        }))

      test("is told what no change has told of, before it leaves memory", () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const body = Branch.all([idle, Signal.next(Go)], { concurrency: "unbounded" })
          yield* Effect.gen(function*() {
            const fiber = yield* Effect.fork(executed)
            yield* created("~wf:0.0")
            yield* turns(30)
            yield* end("~wf:0.0", "COMPLETED", "\"ended\"")
            yield* Signal.send(Go, { workflowId: "wf", value: "went" })
            yield* grace
            expect(yield* Fiber.join(fiber)).toBe("[\"ended\",\"went\"]")
            expect((yield* rowOf("wf")).epoch).toBe(1)
          }).pipe(
            inEngine({ ...quiet, workflows: [parentOf(body)] }),
            Effect.provideService(StepStore.StepStore, {
              ...store,
              changes: Stream.map(
                store.changes,
                (change) => change === null ? null : { ...change, runs: change.runs.filter((id) => id !== "~wf:0.0") }
              )
            })
          )
        }))

      test("leaves memory a second time, when one of its children has ended", () =>
        Effect.gen(function*() {
          const body = Branch.all([idle, Effect.zipRight(half(4), idle)], { concurrency: "unbounded" })
          yield* Effect.gen(function*() {
            const fiber = yield* Effect.fork(executed)
            yield* created("~wf:1.1")
            yield* park("wf")
            expect((yield* rowOf("wf")).epoch).toBe(1)
            yield* end("~wf:0.0", "COMPLETED", "\"one\"")
            yield* eventually(historyOf("wf"), (rows) => rows.length === 2)
            yield* park("wf")
            yield* end("~wf:1.1", "COMPLETED", "\"two\"")
            expect(yield* Fiber.join(fiber)).toBe("[\"one\",\"two\"]")
          }).pipe(inEngine({ ...quiet, workflows: [parentOf(body), HalfLive] }))
        }))

      const unnamed: Record<string, (changes: StepStore.StepStore["Type"]["changes"]) => typeof changes> = {
        "from a change that names nobody": Stream.map(() => null),
        "from the slow poll": (changes) => Stream.concat(Stream.take(changes, 1), Stream.never)
      }
      for (const [how, changed] of Object.entries(unnamed)) {
        test(`learns of the end ${how}`, () =>
          Effect.gen(function*() {
            const store = yield* StepStore.StepStore
            yield* Effect.gen(function*() {
              const fiber = yield* Effect.fork(executed)
              yield* created("~wf:1.0")
              yield* turns(30)
              yield* end("~wf:0.0", "COMPLETED", "\"one\"")
              yield* end("~wf:1.0", "COMPLETED", "\"two\"")
              yield* turns(30)
              yield* TestClock.adjust("5 seconds")
              expect(yield* Fiber.join(fiber)).toBe("[\"one\",\"two\"]")
              expect((yield* rowOf("wf")).epoch).toBe(1)
            }).pipe(
              inEngine({
                slowPoll: "5 seconds",
                parkGrace: "1 day",
                workflows: [parentOf(Branch.all([idle, idle], { concurrency: "unbounded" }))]
              }),
              Effect.provideService(StepStore.StepStore, { ...store, changes: changed(store.changes) })
            )
          }))
      }

      test("learns of an end that comes while it looks for others", () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const held = gate()
          let isHeld = true
          yield* Effect.gen(function*() {
            const fiber = yield* Effect.fork(executed)
            yield* created("~wf:1.0")
            yield* turns(30)
            yield* end("~wf:0.0", "COMPLETED", "\"one\"")
            yield* held.begun
            yield* end("~wf:1.0", "COMPLETED", "\"two\"")
            yield* turns(30)
            yield* held.open
            expect(yield* Fiber.join(fiber)).toBe("[\"one\",\"two\"]")
          }).pipe(
            inEngine({
              ...quiet,
              parkGrace: "1 day",
              workflows: [parentOf(Branch.all([idle, idle], { concurrency: "unbounded" }))]
            }),
            Effect.provideService(StepStore.StepStore, {
              ...store,
              changes: Stream.map(store.changes, () => null),
              ended: (ids) =>
                Effect.flatMap(store.ended(ids), (ended) => {
                  if (ended.length > 0 && isHeld) {
                    isHeld = false
                    return Effect.as(held.pass, ended)
                  }
                  return Effect.succeed(ended)
                })
            })
          )
        }))

      test("learns of an end that comes while it leaves memory", () =>
        Effect.flatMap(StepStore.StepStore, (store) =>
          withFaults((faults) =>
            Effect.gen(function*() {
              let ends = 0
              faults.commit = (batch, call) =>
                batch.some(brings("SUSPENDED")) && ends++ === 0
                  ? Effect.zipRight(
                    Effect.orDie(Effect.provideService(
                      end("~wf:0", "COMPLETED", "\"just now\""),
                      StepStore.StepStore,
                      store
                    )),
                    call
                  )
                  : call
              yield* Effect.gen(function*() {
                const fiber = yield* Effect.fork(executed)
                yield* created("~wf:0")
                yield* grace
                expect(yield* Fiber.join(fiber)).toBe("\"just now\"")
                expect(ends).toBe(1)
                expect((yield* rowOf("wf")).epoch).toBe(1)
              }).pipe(inEngine({ ...quiet, workflows: [parentOf(idle)] }))
            })
          )))

      test("waits for a child whose workflow nobody has registered yet", () =>
        Effect.gen(function*() {
          yield* Effect.zipRight(Parent.start(undefined, { workflowId: "wf" }), park("wf")).pipe(
            inEngine({ ...quiet, workflows: [parentOf(half(4))] })
          )
          expect(yield* rowOf("~wf:0")).toMatchObject({ status: "PENDING", owner: null })
          expect(yield* run(half(4))).toBe("2")
        }))

      test("waits for a child that is stopped, until that has been mended and resumed", () =>
        Effect.gen(function*() {
          let broken = true
          const live = Half.toLayer((payload) => broken ? Effect.die("broken") : halve(payload))
          yield* Effect.gen(function*() {
            const fiber = yield* Effect.fork(executed)
            yield* created("~wf:0")
            yield* eventually(statusOf("~wf:0"), (status) => status === "STOPPED")
            yield* park("wf")
            expect((yield* rowOf("wf")).inbox).toBe(0)
            broken = false
            yield* Half.resume("~wf:0")
            expect(yield* Fiber.join(fiber)).toBe("2")
          }).pipe(inEngine({ ...quiet, workflows: [parentOf(half(4)), live] }))
        }))

      test("has a child that another engine drives", () =>
        Effect.gen(function*() {
          const other = yield* openEngine({ ...quiet, workflows: [HalfLive] })
          expect(yield* run(Effect.zip(half(4), half(8)), { workflows: [] })).toBe("[2,4]")
          yield* other.close
        }))
    })

    describe("a fan-out", () => {
      test("of 1,000 children works, and costs no more for each of them than for a few", () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const count = { commits: 0, creating: 0, reads: 0, rows: 0 }
          const counting: typeof store = {
            ...store,
            commit: (batch) => {
              count.commits++
              count.creating += batch.some((update) => update.children.length > 0) ? 1 : 0
              return store.commit(batch)
            },
            ended: (ids) => {
              count.reads++
              count.rows += ids.length
              return store.ended(ids)
            }
          }
          const size = 1_000
          const body = Effect.map(
            Branch.forEach(Array.from({ length: size }, (_, i) => i), (i) => half(i * 2), { concurrency: "unbounded" }),
            (halves) => halves.reduce((sum, n) => sum + n, 0)
          )
          const live = Half.toLayer(({ n }) => Effect.succeed(n / 2))
          const sum = yield* run(body, { workflows: [live] }).pipe(
            Effect.provideService(StepStore.StepStore, counting)
          )
          expect(sum).toBe(String(size * (size - 1) / 2))
          expect(count.creating).toBeLessThanOrEqual(4)
          expect(count.rows).toBeLessThanOrEqual(3 * size)
          expect(count.reads).toBeLessThanOrEqual(size / 10)
          expect(count.commits).toBeLessThanOrEqual(size / 10)
        }), 60_000)
    })

    describe("refuses", () => {
      test("a payload that does not fit, as a defect of the body", () =>
        Effect.gen(function*() {
          const Positive = Workflow.make({ name: "positive", payload: { n: Schema.Positive } })
          for (const [i, input] of [{ n: -1 }, { n: Number.NaN }, { n: "1" }, {}, null, 7].entries()) {
            const workflowId = `wf-${i}`
            const reason = yield* Workflow.run(workflowId, Effect.orDie(Child.execute(Positive, input as never))).pipe(
              stoppedBy("BodyDied")
            )
            expect(reason.detail).toContain("The payload for workflow \"positive\" cannot be used")
            expect(yield* stepsOf(workflowId)).toEqual([])
          }
          const caught = Effect.catchAllDefect(Child.start(Positive, { n: 0 }), (defect) =>
            Effect.succeed(String(defect)))
          expect(yield* Workflow.run("wf", caught as Effect.Effect<string>)).toContain("PayloadInvalid")
        }).pipe(inEngine(quiet)))

      test("a payload that is too large, by the limit", () =>
        Effect.gen(function*() {
          const Text = Workflow.make({ name: "text", payload: Schema.String, success: Schema.Number })
          const live = Text.toLayer((text) => Effect.succeed(text.length))
          const send = (id: string, length: number) =>
            Workflow.run(id, Effect.orDie(Child.execute(Text, "x".repeat(length))))
          yield* Effect.gen(function*() {
            expect(yield* send("fits", 98)).toBe(98)
            const reason = yield* stoppedBy("LimitExceeded")(send("not", 99))
            expect(reason).toMatchObject({
              limit: 100,
              actual: 101,
              what: "the number of bytes in the payload of Child.execute(\"text\")"
            })
          }).pipe(inEngine({ ...quiet, limits: { value: 100 }, workflows: [live] }))
        }))

      test("an id of more than 1,024 bytes", () =>
        Effect.gen(function*() {
          const nest = (depth: number, at: Effect.Effect<unknown, never, Workflow.Run>): typeof at =>
            depth === 0 ? at : Branch.forEach([0], () => nest(depth - 1, at), { discard: true })
          const child = Effect.orDie(half(4))
          yield* Workflow.run("w".repeat(255), Effect.asVoid(nest(383, child)))
          expect(yield* statusOf(`~${"w".repeat(255)}:${"0.".repeat(383)}0`)).toBe("COMPLETED")
          for (const [id, op] of [["w", child], ["v", Effect.asVoid(Child.start(Half, { n: 4 }))]] as const) {
            const reason = yield* Workflow.run(id.repeat(256), Effect.asVoid(nest(383, op))).pipe(
              stoppedBy("LimitExceeded")
            )
            expect(reason).toMatchObject({ limit: 1_024, actual: 1_025 })
          }
          // What the body asks for together with it waits for nothing any more.
          const both = Effect.flatMap(Child.start(Half, { n: 4 }), (started) =>
            Effect.asVoid(
              Branch.all([nest(383, child), nest(900, Effect.orDie(Child.await(started)))], {
                concurrency: "unbounded"
              })
            ))
          yield* stoppedBy("LimitExceeded")(Workflow.run("u".repeat(256), both))
        }).pipe(inEngine({ ...quiet, workflows: [HalfLive] })))

      const calls: Record<string, Effect.Effect<unknown, unknown, Workflow.Run>> = {
        "Child.execute(\"half\")": half(4),
        "Child.start(\"half\")": Child.start(Half, { n: 4 })
      }
      for (const [called, call] of Object.entries(calls)) {
        test(`${called} in a step, in a fork, and outside a run`, () =>
          Effect.gen(function*() {
            const inStep = call.pipe(Effect.orDie, Effect.asVoid, Step.durable("outer"))
            const reason = yield* stoppedBy("Misplaced")(Workflow.run("step", inStep))
            expect(reason.operation).toBe(called)
            expect(reason.detail).toContain(
              "step \"outer\" is recorded as a whole. Call it in the body, or use execute"
            )
            const forked = Effect.flatMap(Effect.fork(Effect.orDie(call)), Fiber.join).pipe(Effect.asVoid)
            const unreserved = yield* stoppedBy("Misplaced")(Workflow.run("fork", forked))
            expect(unreserved.detail).toContain("without a reserved sequence")
            const outside = yield* Effect.exit(call as Effect.Effect<unknown, unknown>)
            expect(String(outside)).toContain("was called outside a run")
          }).pipe(inEngine(quiet)))
      }

      test("Child.await in a step", () =>
        Effect.gen(function*() {
          const body = Effect.flatMap(
            Child.start(Half, { n: 4 }),
            (child) => Effect.orDie(Child.await(child)).pipe(Step.durable("outer"))
          )
          const reason = yield* stoppedBy("Misplaced")(Workflow.run("wf", body))
          expect(reason.operation).toBe("Child.await(\"half\")")
        }).pipe(inEngine(quiet)))
    })

    test("hostile payloads come through as they are", () =>
      Effect.gen(function*() {
        const Echo = Workflow.make({
          name: "écho \"'; DROP TABLE workflows --",
          payload: Schema.Struct({ text: Schema.String, deep: Schema.NullOr(Schema.Unknown as Schema.Schema<null>) }),
          success: Schema.String
        })
        const live = Echo.toLayer(({ text }) => Effect.succeed(text))
        const texts = [
          "",
          "\u0000",
          "\ud800",
          "'; DROP TABLE steps; --",
          "\u2028\u2029",
          "__proto__",
          "😀".repeat(1_000)
        ]
        const body = Branch.forEach(texts, (text) => unCancelled(Child.execute(Echo, { text, deep: null })))
        expect(JSON.parse(yield* run(body, { workflows: [live] }))).toEqual(texts)
      }))

    test(
      "whatever commit fails, before it is written or after: the parent ends as it should",
      () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const body = Effect.gen(function*() {
              const child = yield* Child.start(Half, { n: 4 })
              const odd = yield* Effect.catchTag(half(3), "Odd", ({ n }) => Effect.succeed(n))
              const raced = yield* Branch.race(idle, stepOf("step"))
              const [two, five] = yield* Branch.all([unCancelled(Child.await(child)), half(10)], {
                concurrency: "unbounded"
              })
              return [odd, raced, two, five]
            })
            const workflows = [parentOf(body), HalfLive]
            for (const written of [false, true]) {
              let more = true
              for (let nth = 1; more; nth++) {
                const workflowId = `wf-${written}-${nth}`
                let left = nth
                faults.commit = (_, call) =>
                  --left === 0 ? Effect.zipRight(written ? call : Effect.void, Effect.fail(unavailable)) : call
                const start = Effect.retry(Parent.execute(undefined, { workflowId }), {
                  while: (error) => error instanceof Errors.StoreUnavailable
                })
                const fiber = yield* Effect.fork(start.pipe(inEngine({ workflows })))
                yield* closing(Fiber.join(fiber))
                expect(yield* Fiber.join(fiber), workflowId).toBe("[3,\"step\",2,5]")
                expect((yield* historyOf(workflowId)).length, workflowId).toBe(5)
                expect(yield* cancelAtOf(`~${workflowId}:2.0`), workflowId).not.toBe(null)
                expect(yield* statusOf(`~${workflowId}:0`), workflowId).toBe("COMPLETED")
                more = left <= 0
                expect(nth).toBeLessThan(100)
              }
            }
          })
        ),
      120_000
    )
  })
}

describe("Children across processes", () => {
  it.scoped("two engines on one SQLite file: a parent here, its child there", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const opened = (options: EngineOptions) =>
        Effect.gen(function*() {
          const { context } = yield* openScope(SqliteStepStore.layer({ filename, synchronous: "NORMAL" }))
          return yield* Effect.provide(openEngine(options), context)
        })
      const here = yield* opened({ ...quiet, workflows: [parentOf(Effect.zip(half(4), half(8)))] })
      const there = yield* opened({ ...quiet, workflows: [HalfLive] })
      const fiber = yield* Effect.fork(here.run(executed))
      for (let hop = 0; hop < 200 && Option.isNone(yield* Fiber.poll(fiber)); hop++) {
        yield* turns(10)
        yield* TestClock.adjust("20 millis")
      }
      expect(yield* Fiber.join(fiber)).toBe("[2,4]")
      yield* there.close
      yield* here.close
    }))
})
