import { describe, expect, it } from "@effect/vitest"
import { Deferred, Effect, Exit, FastCheck as fc, Fiber, Ref, Schema, TestClock } from "effect"
import { Branch, Errors, MemoryStepStore, Step, type StepStore, Workflow } from "perdure"
import { withFaults } from "./support/faults.js"
import {
  attemptsOf,
  closing,
  eventually,
  failure,
  gate,
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

type Body<A = unknown, E = never> = Effect.Effect<A, E, Workflow.Run>

const where = { target: "the test's store", detail: "as the test wants it" }

/** Lets the body of a run go on to a defect at its end, so that it can be replayed. */
const dying = (body: Body) => stoppedBy("BodyDied")(Workflow.run("wf", Effect.zipRight(body, Effect.die("end"))))

/** Runs steps, one after the other. */
const steps = (...ids: ReadonlyArray<string>) => Effect.forEach(ids, (id) => stepOf(id))

/** The new code behind a patch, and the old code beside it. */
const either = <A, E>(id: string, isNew: Body<A, E>, old: Body<A, E>) =>
  Effect.flatMap(Workflow.patched(id), (is) => is ? isNew : old)

const many = (count: number, prefix = "s", from = 0) =>
  steps(...Array.from({ length: count }, (_, i) => `${prefix}${from + i}`))

const isPatch = (update: StepStore.RunUpdate) => update.steps.some((row) => row.kind === "patch")

const Job = Workflow.make({
  name: "job",
  payload: {},
  success: Schema.Array(Schema.String),
  error: Schema.String,
  idempotencyKey: () => "1"
})

const jobId = "job/1"

type JobBody = Body<ReadonlyArray<string>, string>

const live = (body: JobBody) => ({ workflows: [Job.toLayer(() => body)] })

describe.each(stores)("Workflow.patched (%s)", (_, store) => {
  const test = testOn(store)

  describe("in a run that begins with it", () => {
    test("is true, and its marker is a record like others", () =>
      Effect.gen(function*() {
        const [first, again] = yield* livedTwice("wf", either("by-email", steps("email", "log"), steps("letter")))
        expect(first).toEqual(Exit.succeed(["email", "log"]))
        expect(again).toEqual(first)
        const rows = yield* historyOf("wf")
        expect(rows.map((row) => `${row.stepKey} ${row.kind} ${row.stepId}`)).toEqual([
          "wf:0 patch by-email",
          "wf:1 step email",
          "wf:2 step log"
        ])
        expect(rows[0]).toMatchObject({ sequence: 0, status: "COMPLETED", position: 0, final: true, output: null })
      }).pipe(inEngine()))

    test("answers as the first call of its id did, wherever the others stand", () =>
      Effect.gen(function*() {
        const loop = Effect.forEach([0, 1, 2], (n) => either("p", stepOf(`new ${n}`), stepOf(`old ${n}`)))
        expect(yield* Workflow.run("wf", loop)).toEqual(["new 0", "new 1", "new 2"])
        expect(yield* recorded("wf")).toEqual(["0 p", "1 new 0", "2 new 1", "3 new 2"])
      }).pipe(inEngine()))

    test("is told after a crash right behind the marker that it is there", () =>
      Effect.gen(function*() {
        const body = either("p", steps("new"), steps("old"))
        const crashed = yield* Effect.exit(Workflow.run("wf", body)).pipe(inEngine({ crashAfter: 1 }))
        expect(Exit.isFailure(crashed)).toBe(true)
        expect(yield* stepsOf("wf")).toEqual(["0 p COMPLETED 1!", "1 new IN_PROGRESS 1"])
        expect(yield* Workflow.run("wf", body).pipe(inEngine())).toEqual(["new"])
        expect(yield* stepsOf("wf")).toEqual(["0 p COMPLETED 1!", "1 new COMPLETED 2!"])
      }))

    for (const isWritten of [false, true]) {
      test(`asks anew when its marker was ${isWritten ? "written, and reported as not" : "not"} written`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            let failed = 0
            faults.commit = (batch, call) => {
              if (!batch.some(isPatch) || failed > 0) {
                return call
              }
              failed++
              const failing = Effect.fail(new Errors.StoreUnavailable(where))
              return isWritten ? Effect.zipRight(call, failing) : failing
            }
            const run = yield* Effect.fork(Workflow.run("wf", either("p", steps("new"), steps("old"))))
            yield* closing(Fiber.await(run))
            expect(yield* Fiber.join(run)).toEqual(["new"])
            expect(failed).toBe(1)
            expect(yield* stepsOf("wf")).toEqual(["0 p COMPLETED 1!", "1 new COMPLETED 1!"])
          }).pipe(inEngine())
        ))
    }
  })

  describe("in a run that began without it", () => {
    test("is false where another operation is recorded, and takes no sequence", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        yield* dying(steps("a", "b", "c"))
        const [a, b, c] = ["a", "b", "c"].map((id) => stepOf(id, add)) as [Body, Body, Body]
        const changed = Effect.all([a, either("p", stepOf("new", add), Effect.succeed("old")), b, c, stepOf("d")])
        yield* dying(changed)
        expect(yield* Workflow.run("wf", Effect.map(changed, (all) => all.map(String)))).toEqual([
          "a",
          "old",
          "b",
          "c",
          "d"
        ])
        expect(entries).toEqual([])
        expect(yield* recorded("wf")).toEqual(["0 a", "1 b", "2 c", "3 d"])
      }).pipe(inEngine()))

    test("is false at a step that was under way or has died, and true behind it", () =>
      Effect.gen(function*() {
        const dead = Effect.die("boom").pipe(Step.durable("b"))
        yield* Workflow.run("wf", Effect.zipRight(stepOf("a"), dead)).pipe(stoppedBy("StepDied"), inEngine())
        const changed = Effect.all([
          stepOf("a"),
          either("p", stepOf("new p"), stepOf("b")),
          either("q", stepOf("new q"), stepOf("old q"))
        ])
        expect(yield* Workflow.run("wf", changed).pipe(inEngine())).toEqual(["a", "b", "new q"])
        expect(yield* recorded("wf")).toEqual(["0 a", "1 b", "2 q", "3 new q"])
        yield* Effect.exit(Workflow.run("crashed", steps("a", "b"))).pipe(inEngine({ crashAfter: 2 }))
        expect(yield* stepsOf("crashed")).toEqual(["0 a COMPLETED 1!", "1 b IN_PROGRESS 1"])
        expect(yield* Workflow.run("crashed", changed).pipe(inEngine())).toEqual(["a", "b", "new q"])
      }))

    test("is false where branches were reserved, also if the first of them has recorded nothing", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const old = (last: Body<string>) =>
          Branch.all([Effect.succeed("pure"), last, stepOf("third")], { concurrency: "unbounded" })
        const run = yield* Effect.fork(Workflow.run("wf", old(stepOf("second", () => pass))))
        yield* begun
        yield* eventually(recorded("wf"), (rows) => rows.length === 1)
        yield* Fiber.interrupt(run)
        expect(yield* recorded("wf")).toEqual(["2.0 third"])
        const body = either("p", Effect.die("new"), old(stepOf("second")))
        yield* dying(body)
        expect(yield* Workflow.run("wf", body)).toEqual(["pure", "second", "third"])
        expect(yield* recorded("wf")).toEqual(["2.0 third", "1.0 second"])
      }).pipe(inEngine()))

    test("is false where a step of a later branch was under way", () =>
      Effect.gen(function*() {
        const old = Branch.all([Effect.succeed("pure"), stepOf("second")], { concurrency: "unbounded" })
        yield* Effect.exit(Workflow.run("wf", old)).pipe(inEngine({ crashAfter: 1 }))
        expect(yield* stepsOf("wf")).toEqual(["1.0 second IN_PROGRESS 1"])
        const body = either("p", Effect.die("new"), old)
        expect(yield* Workflow.run("wf", body).pipe(inEngine())).toEqual(["pure", "second"])
      }))

    test("is false in a branch that had ended without a record, and true in one that may not have ended", () =>
      Effect.gen(function*() {
        const asking = either<unknown, never>("p", steps("new"), Effect.succeed("old"))
        /** What old code made of `before`, and the new code of `after`. */
        const changed = (workflowId: string, before: Body, after: Body) =>
          Effect.zipRight(
            stoppedBy("BodyDied")(Workflow.run(workflowId, Effect.zipRight(before, Effect.die("end")))),
            Effect.zipRight(Workflow.run(workflowId, Effect.asVoid(after)), recorded(workflowId))
          )
        const pure = Effect.succeed("old")
        // Behind its end, in the branch around it or further out.
        const followed = (inner: Body) => Effect.zipRight(Branch.all([Branch.all([inner])]), stepOf("a"))
        expect(yield* changed("followed", followed(pure), followed(asking))).toEqual(["1 a"])
        const nested = (inner: Body) => Branch.all([Effect.zipRight(Branch.all([inner]), stepOf("a"))])
        expect(yield* changed("nested", nested(pure), nested(asking))).toEqual(["0.1 a"])
        // In a branch that begins after it has ended.
        const inTurn = (inner: Body) => Branch.all([inner, stepOf("a"), stepOf("b")])
        expect(yield* changed("in turn", inTurn(pure), inTurn(asking))).toEqual(["1.0 a", "2.0 b"])
        // In a branch that goes on beside it.
        const parallel = (inner: Body) => Branch.all([Branch.all([inner, pure]), steps("a", "b")], { concurrency: 2 })
        expect(yield* changed("parallel", parallel(pure), parallel(asking))).toEqual([
          "1.0 a",
          "1.1 b",
          "0.0.0 p",
          "0.0.1 new"
        ])
      }).pipe(inEngine()))

    test("is false where the marker of another change is recorded, which is asked for after it", () =>
      Effect.gen(function*() {
        yield* dying(Workflow.patched("first"))
        const both = Effect.zip(Workflow.patched("second"), Workflow.patched("first"))
        expect(yield* Workflow.run("wf", both)).toEqual([false, true])
        expect(yield* recorded("wf")).toEqual(["0 first"])
      }).pipe(inEngine()))

    test("answers false to every call of its id, also where nothing is recorded any more", () =>
      Effect.gen(function*() {
        yield* dying(steps("old 0"))
        const loop = Effect.forEach([0, 1, 2], (n) => either("p", stepOf(`new ${n}`), stepOf(`old ${n}`)))
        expect(yield* Workflow.run("wf", loop)).toEqual(["old 0", "old 1", "old 2"])
        expect(yield* recorded("wf")).toEqual(["0 old 0", "1 old 1", "2 old 2"])
      }).pipe(inEngine()))

    test("lets a run that slept through a deploy end as it began, while another one goes the new way", () =>
      Effect.gen(function*() {
        const options = { slowPoll: "1000 days" } as const
        const old = Effect.all([stepOf("a"), Effect.as(Effect.sleep("1 day"), "slept"), stepOf("b")])
        const before = yield* openEngine({ ...options, ...live(old) })
        yield* before.run(Job.start())
        yield* eventually(recorded(jobId), (rows) => rows.length === 1)
        yield* TestClock.adjust("1 second")
        yield* before.close
        expect(yield* statusOf(jobId)).toBe("SUSPENDED")
        const changed = Effect.all([
          stepOf("a"),
          either("no-sleep", Effect.succeed("awake"), Effect.as(Effect.sleep("1 day"), "slept")),
          stepOf("b")
        ])
        const after = yield* openEngine({ ...options, ...live(changed) })
        expect(yield* after.run(Job.execute(undefined, { workflowId: "job/2" }))).toEqual(["a", "awake", "b"])
        yield* TestClock.adjust("2 days")
        expect(yield* after.run(Job.await(jobId))).toEqual(["a", "slept", "b"])
        expect(yield* recorded(jobId)).toEqual(["0 a", "1 sleep", "2 b"])
        expect(yield* recorded("job/2")).toEqual(["0 a", "1 no-sleep", "2 b"])
        yield* after.close
      }))
  })

  describe("when a failed run is resumed", () => {
    const failing = (id: string) =>
      Effect.flatMap(Step.attempt, (n) => n === 1 ? Effect.fail("no") : Effect.succeed(id)).pipe(
        Step.durable(id, { error: Schema.String })
      )
    const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))

    test("counts as an operation that followed the failed step", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.execute())).toBe("no")
        expect(yield* recorded(jobId)).toEqual(["0 a", "1 p"])
        expect((yield* failure(Job.resume(jobId)))._tag).toBe("NothingToResume")
      }).pipe(inEngine(live(Effect.tapError(Effect.map(failing("a"), (a) => [a]), () => Workflow.patched("p"))))))

    test("is false at the step that runs again", () =>
      Effect.gen(function*() {
        const all = (body: Body<string, string>) => inEngine(live(Effect.map(body, (one) => [one])))
        expect(yield* failure(Job.execute()).pipe(all(failing("a")))).toBe("no")
        expect(yield* again.pipe(all(either("p", Effect.die("new"), failing("a"))))).toEqual(["a"])
        expect(yield* recorded(jobId)).toEqual(["0 a"])
      }))

    test("finds its marker in front of the step that runs again", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.execute())).toBe("no")
        expect(yield* again).toEqual(["a"])
        expect(yield* recorded(jobId)).toEqual(["0 p", "1 a"])
      }).pipe(inEngine(live(either("p", Effect.map(failing("a"), (one) => [one]), Effect.die("old"))))))
  })

  describe("in branches", () => {
    test("of one id that ask at the same time records one marker, and all are told", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const order = yield* Ref.make<ReadonlyArray<string>>([])
          const note = (entry: string) => Ref.update(order, (all) => [...all, entry])
          yield* Branch.forEach(["a", "b", "c"], (name) =>
            Effect.gen(function*() {
              const first = yield* name === "b" ? Effect.as(Workflow.patchDone("p"), "done") : Workflow.patched("p")
              yield* note(`${name} ${first}`)
              yield* stepOf(name)
              yield* note(`${name} ${yield* Workflow.patched("p")}`)
            }), { concurrency: "unbounded" })
          return yield* Ref.get(order)
        })
        const [first, again] = yield* livedTwice("wf", body)
        expect(again).toEqual(first)
        expect(Exit.isSuccess(first) && [...first.value].sort()).toEqual([
          "a true",
          "a true",
          "b done",
          "b true",
          "c true",
          "c true"
        ])
        expect([...(yield* recorded("wf"))].sort()).toEqual(["0.0 p", "0.1 a", "1.0 b", "2.0 c"])
      }).pipe(inEngine()))

    test("that share state replays in the order in which they went on", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const order = yield* Ref.make<ReadonlyArray<string>>([])
          const note = (entry: string) => Ref.update(order, (all) => [...all, entry])
          yield* Branch.all([
            Effect.zipRight(Workflow.patched("p"), Effect.zipRight(note("p"), stepOf("a"))),
            Effect.zipRight(stepOf("b"), note("b")),
            Effect.zipRight(Workflow.patched("q"), Effect.zipRight(note("q"), stepOf("c"))),
            Effect.zipRight(Workflow.patchDone("r"), note("r"))
          ], { concurrency: "unbounded" })
          return yield* Ref.get(order)
        })
        const [first, again] = yield* livedTwice("wf", body)
        expect(Exit.isSuccess(first) && first.value.length).toBe(4)
        expect(again).toEqual(first)
      }).pipe(inEngine()))

    test("in one that is interrupted while it asks records nothing, and the next call asks anew", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const won = yield* Branch.race(
            Effect.as(Workflow.patched("p"), "patched"),
            Effect.as(Effect.yieldNow(), "first")
          )
          return [won, yield* Workflow.patched("p"), yield* stepOf("a")]
        })
        const [first, again] = yield* livedTwice("wf", body)
        expect(first).toEqual(Exit.succeed(["first", true, "a"]))
        expect(again).toEqual(first)
        expect(yield* recorded("wf")).toEqual(["2 p", "3 a"])
      }).pipe(inEngine()))

    test("in one that is interrupted while the marker is recorded is followed by what its finalizers record", () =>
      Effect.gen(function*() {
        const body = Branch.race(
          Workflow.patched("p").pipe(Effect.onInterrupt(() => stepOf("undo")), Effect.as("patched")),
          Effect.as(Workflow.patchDone("q"), "first")
        )
        const [first, again] = yield* livedTwice("wf", Effect.zip(body, stepOf("a")))
        expect(first).toEqual(Exit.succeed(["first", "a"]))
        expect(again).toEqual(first)
        expect(yield* recorded("wf")).toEqual(["0.0 p", "0.1 undo", "2 a"])
      }).pipe(inEngine()))
  })

  describe("in a history longer than a page", () => {
    /** So many steps, and beside them another branch. */
    const beside = (count: number, other: Body<unknown>) =>
      Effect.map(Branch.all([many(count), other], { concurrency: "unbounded" }), ([, of]) => of)

    /** Beside it a step that ends after them. */
    const besideLate = Effect.suspend(() => {
      const { open, pass } = gate()
      return Branch.all([Effect.zipRight(many(2_001), open), stepOf("late", () => pass)], { concurrency: "unbounded" })
    })

    const asking = either("p", Effect.succeed("new"), stepOf("late"))

    test("is false where another operation is recorded on a later page", () =>
      Effect.gen(function*() {
        yield* dying(besideLate)
        expect(yield* Workflow.run("wf", beside(2_001, asking) as Body<string>)).toBe("late")
        expect((yield* recorded("wf")).slice(2_001)).toEqual(["1.0 late"])
      }).pipe(inEngine()))

    for (const count of [1_000, 1_001]) {
      test(`is true where nothing is recorded on any page of ${count} records`, () =>
        Effect.gen(function*() {
          yield* dying(beside(count, Effect.void))
          yield* dying(beside(count, asking))
          expect(yield* Workflow.run("wf", beside(count, asking) as Body<string>)).toBe("new")
          expect((yield* recorded("wf")).slice(count)).toEqual(["1.0 p"])
        }).pipe(inEngine()))
    }

    test("finds its marker on a later page", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const body = Effect.flatMap(Deferred.make<void>(), (half) =>
            Branch.all([
              many(1_000).pipe(Effect.zipRight(Deferred.succeed(half, undefined)), Effect.zipRight(many(5, "t"))),
              Effect.zipRight(Deferred.await(half), Workflow.patched("p"))
            ], { concurrency: "unbounded" }))
          yield* dying(body)
          const read: Array<number | null> = []
          faults.history = (after, call) => {
            read.push(after)
            return call
          }
          expect(yield* Workflow.run("wf", Effect.map(body, ([, is]) => is))).toBe(true)
          // Once to look for the marker, and once to go on.
          expect(read).toEqual([-1, 999, 999])
          expect((yield* recorded("wf")).filter((row) => row.endsWith(" p"))).toEqual(["1.0 p"])
        }).pipe(inEngine())
      ))

    test("waits until a store that cannot be read can be read again", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* dying(besideLate)
          let failed = 0
          faults.history = (after, call) =>
            after === 1_999 && failed++ === 0 ? Effect.fail(new Errors.StoreUnavailable(where)) : call
          const run = yield* Effect.fork(Workflow.run("wf", beside(2_001, asking) as Body<string>))
          yield* closing(Fiber.await(run))
          expect(yield* Fiber.join(run)).toBe("late")
          expect(failed).toBeGreaterThan(1)
        }).pipe(inEngine())
      ))

    test("stops the run where a later page is damaged", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* dying(besideLate)
          const corrupt = new Errors.StoreCorrupt({ ...where, workflowId: "wf" })
          faults.history = (after, call) => after === 1_999 ? Effect.fail(corrupt) : call
          const stopped = Workflow.run("wf", beside(2_001, asking) as Body<string>).pipe(stoppedBy("StoreCorrupt"))
          expect(yield* stopped).toEqual(corrupt)
        }).pipe(inEngine())
      ))

    for (const isProtected of [false, true]) {
      test(`lets the run leave memory while it is read${isProtected ? ", in an uninterruptible region too" : ""}`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const { add, entries } = ledger()
            const lateOf = (late: Body) => {
              const other = Effect.zipRight(stepOf("s0"), Effect.zipRight(add("went on"), many(2_000, "s", 1)))
              return Job.toLayer(() => Effect.as(Branch.all([other, late], { concurrency: "unbounded" }), ["done"]))
            }
            const old = Effect.as(besideLate, ["old"]).pipe(Effect.zipRight(Effect.die("end")))
            yield* Job.execute().pipe(stoppedBy("BodyDied"), inEngine(live(old)))
            yield* Job.resume(jobId).pipe(inEngine())

            const { begun, open, pass } = gate()
            const read: Array<number | null> = []
            faults.history = (after, call) => {
              read.push(after)
              return after === -1 ? call : Effect.zipRight(pass, call)
            }
            const late = Effect.ensuring(isProtected ? Effect.uninterruptible(asking) : asking, add("left"))
            const engine = yield* openEngine({ workflows: [lateOf(late)] })
            yield* begun
            yield* turns(20)
            // Nothing else goes on meanwhile.
            expect(entries).toEqual([])
            expect(yield* engine.close).toBe(0)
            expect(entries).toEqual(["left"])
            expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null })
            yield* open
            yield* turns(20)
            expect(read).toEqual([-1, 999])

            expect(yield* Job.await(jobId).pipe(inEngine({ workflows: [lateOf(asking)] }))).toEqual(["done"])
            expect((yield* recorded(jobId)).slice(2_001)).toEqual(["1.0 late"])
          })
        ))
    }

    test("takes a wake-up from outside meanwhile for what cannot be repeated", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* dying(besideLate)
          const reading = gate()
          const outside = gate()
          faults.history = (after, call) => after === -1 ? call : Effect.zipRight(reading.pass, call)
          const body = Effect.gen(function*() {
            const bound = yield* Branch.reserve([many(2_001), asking])
            const fibers = yield* Effect.forEach(bound, (branch) => Effect.fork(branch as Body))
            yield* outside.pass
            yield* Fiber.joinAll(fibers)
          })
          const run = yield* Effect.fork(Workflow.run("wf", body).pipe(stoppedBy("Misplaced")))
          yield* reading.begun
          yield* outside.open
          yield* reading.open
          expect((yield* Fiber.join(run)).operation).toBe("A wait that no step contains")
        }).pipe(inEngine())
      ))
  })

  describe("is refused", () => {
    const refused: Record<string, readonly [body: Body, operation: string, says: string]> = {
      "in a step": [
        Workflow.patched("p").pipe(Step.durable("s")),
        "Workflow.patched(\"p\")",
        "step \"s\" is recorded as a whole. Call it in the body, before the step, and let the step use its answer"
      ],
      "in a step after it was answered in the body": [
        Effect.zipRight(Workflow.patched("p"), Workflow.patched("p").pipe(Step.durable("s"))),
        "Workflow.patched(\"p\")",
        "step \"s\" is recorded as a whole"
      ],
      "in a step, patchDone": [
        Workflow.patchDone("p").pipe(Step.durable("s")),
        "Workflow.patchDone(\"p\")",
        "step \"s\" is recorded as a whole"
      ],
      "in a fiber without a reservation": [
        Effect.flatMap(Effect.fork(Workflow.patched("p")), Fiber.join),
        "Workflow.patched(\"p\")",
        "forked from the root branch without a reserved sequence"
      ],
      "with an empty id": [Workflow.patched(""), "Workflow.patched(\"\")", "its id cannot be used: it is empty"],
      "with an id that is too long": [
        Workflow.patchDone("x".repeat(257)),
        `Workflow.patchDone("${"x".repeat(257)}")`,
        "its id cannot be used: it has 257 bytes, and 256 are allowed"
      ]
    }
    for (const [name, [body, operation, says]] of Object.entries(refused)) {
      test(name, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const reason = yield* Workflow.run("wf", Effect.asVoid(Effect.ensuring(body, add("finalizer"))))
            .pipe(stoppedBy("Misplaced"))
          expect(reason.operation).toBe(operation)
          expect(reason.detail).toContain(says)
          expect(entries).toEqual(["finalizer"])
        }).pipe(inEngine()))
    }

    test("outside a run", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Effect.provideService(Workflow.patched("p"), Workflow.Run, {} as never))
        expect(Exit.isFailure(exit) && String(exit.cause)).toContain(
          "Workflow.patched(\"p\") was called outside a run"
        )
      }))
  })

  describe("replaced by patchDone", () => {
    const isNew = Effect.zipRight(Workflow.patched("p"), steps("new"))
    const done = Effect.zipRight(Workflow.patchDone("p"), steps("new"))

    test("is accepted in a run with its marker, and takes none in a run without", () =>
      Effect.gen(function*() {
        yield* dying(isNew)
        yield* dying(done)
        expect(yield* Workflow.run("wf", done)).toEqual(["new"])
        expect(yield* recorded("wf")).toEqual(["0 p", "1 new"])
        const [first, again] = yield* livedTwice("fresh", done)
        expect([first, again]).toEqual([Exit.succeed(["new"]), Exit.succeed(["new"])])
        expect(yield* recorded("fresh")).toEqual(["0 new"])
      }).pipe(inEngine()))

    test("looks with its first call alone, and not after patched", () =>
      Effect.gen(function*() {
        const body = Effect.all([
          Workflow.patchDone("p"),
          stepOf("a"),
          Workflow.patchDone("p"),
          Workflow.patched("p"),
          Workflow.patched("q"),
          Workflow.patchDone("q"),
          stepOf("b")
        ])
        const answers = [undefined, "a", undefined, true, true, undefined, "b"]
        const [first, again] = yield* livedTwice("wf", body)
        expect([first, again]).toEqual([Exit.succeed(answers), Exit.succeed(answers)])
        expect(yield* recorded("wf")).toEqual(["0 a", "1 q", "2 b"])
      }).pipe(inEngine()))

    test("and then by nothing stops a run with its marker, which goes on when it is back", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        yield* dying(isNew)
        const lost = yield* Workflow.run("wf", stepOf("new", add)).pipe(stoppedBy("NonDeterminismError"))
        expect(lost).toMatchObject({
          recorded: { address: "0", kind: "patch", id: "p" },
          requested: { address: "0", kind: "step", id: "new" }
        })
        expect(lost.message).toContain("> 0 patch \"p\"  0 step \"new\"\n                 ^^^^\n")
        expect(lost.message).toContain("Workflow.patchDone(\"p\")")
        const unread = yield* Workflow.run("wf", Effect.void).pipe(stoppedBy("NonDeterminismError"))
        expect(unread).toMatchObject({ recorded: { kind: "patch", id: "p" }, requested: null })
        const other = yield* Workflow.run("wf", Effect.zipRight(Workflow.patchDone("q"), stepOf("new", add))).pipe(
          stoppedBy("NonDeterminismError")
        )
        expect(other.recorded).toEqual(lost.recorded)
        expect(yield* recorded("wf")).toEqual(["0 p", "1 new"])
        expect(yield* Workflow.run("wf", done)).toEqual(["new"])
        expect(entries).toEqual([])
      }).pipe(inEngine()))

    test("is no way out for a run that has neither, whose code lost an operation", () =>
      Effect.gen(function*() {
        yield* dying(steps("old", "new"))
        const reason = yield* Workflow.run("wf", done).pipe(stoppedBy("NonDeterminismError"))
        expect(reason).toMatchObject({ recorded: { id: "old" }, requested: { id: "new" } })
        expect(reason.message).toContain("New code goes behind Workflow.patched(\"…\")")
        expect(yield* attemptsOf("wf")).toEqual([])
        expect(yield* Workflow.run("wf", either("p", steps("new"), steps("old", "new")))).toEqual(["old", "new"])
      }).pipe(inEngine()))
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// any old code, any new code
// ---------------------------------------------------------------------------------------------------------------------

type Code =
  | { readonly op: "step"; readonly id: string }
  | { readonly op: "branches"; readonly parts: ReadonlyArray<ReadonlyArray<Code>>; readonly isParallel: boolean }
  | {
    readonly op: "patch"
    readonly id: string
    readonly isNew: ReadonlyArray<Code>
    readonly old: ReadonlyArray<Code>
  }

const codes = (depth: number): fc.Arbitrary<ReadonlyArray<Code>> => {
  const step = fc.record({ op: fc.constant("step" as const), id: fc.constantFrom("a", "b", "c") })
  if (depth === 0) {
    return fc.array(step, { maxLength: 3 })
  }
  const inner = codes(depth - 1)
  return fc.array(
    fc.oneof(
      step,
      step,
      fc.record({
        op: fc.constant("branches" as const),
        parts: fc.array(inner, { maxLength: 3 }),
        isParallel: fc.boolean()
      }),
      fc.record({ op: fc.constant("patch" as const), id: fc.constant(""), isNew: inner, old: inner })
    ),
    { maxLength: 4 }
  )
}

/** Where branches run in parallel it depends on timing which of them asks first, so that each change has a name of its own. */
const named = (code: ReadonlyArray<Code>, next = { id: 0 }): ReadonlyArray<Code> =>
  code.map((part): Code => {
    switch (part.op) {
      case "step":
        return part
      case "branches":
        return { ...part, parts: part.parts.map((inner) => named(inner, next)) }
      case "patch":
        return { ...part, id: `p${next.id++}`, isNew: named(part.isNew, next), old: named(part.old, next) }
    }
  })

/** What one life of a run does with its steps: at one of them, its body or the step dies. */
interface Life {
  readonly dies: { readonly at: number; readonly how: "body" | "step" } | null
  started: number
  asked: number
  readonly answers: Map<string, boolean>
}

const bodyOf = (code: ReadonlyArray<Code>, isOld: boolean, life: Life): Body =>
  Effect.forEach(code, (part): Body => {
    switch (part.op) {
      case "step":
        return Effect.suspend(() => {
          const dies = life.asked++ === life.dies?.at ? life.dies.how : null
          const step = Effect.suspend(() => {
            life.started++
            return dies === "step" ? Effect.die("step") : Effect.succeed(part.id)
          }).pipe(Step.durable(part.id))
          return dies === "body" ? Effect.die("body") : step
        })
      case "branches":
        return Branch.all(
          part.parts.map((inner) => bodyOf(inner, isOld, life)),
          part.isParallel ? { concurrency: "unbounded" } : {}
        )
      case "patch":
        return isOld ? bodyOf(part.old, isOld, life) : Effect.flatMap(Workflow.patched(part.id), (is) => {
          life.answers.set(part.id, is)
          return bodyOf(is ? part.isNew : part.old, isOld, life)
        })
    }
  }, { discard: true })

/** What the whole run must have recorded in the end, and answered, given the rows that the old code has left. */
const predicted = (code: ReadonlyArray<Code>, rows: ReadonlyArray<string>) => {
  const answers = new Map<string, boolean>()
  const keys: Array<string> = []
  const addresses = (left: ReadonlyArray<string>) => left.map((row) => row.slice(0, row.indexOf(" ")))
  /** Whether something is left in a branch from one sequence on, and before another. */
  const isLeft = (left: ReadonlyArray<string>, prefix: string, from: number, before = Infinity) =>
    addresses(left).some((address) => {
      const sequence = Number(address.slice(prefix.length).split(".")[0])
      return address.startsWith(prefix) && sequence >= from && sequence < before
    })
  const finals = rows.filter((row) => row.endsWith("!"))
  /** `hasEnded`: something that is recorded could be reached only when this branch had ended. */
  const walk = (code: ReadonlyArray<Code>, prefix: string, hasEnded: boolean): void => {
    let next = 0
    const visit = (code: ReadonlyArray<Code>): void => {
      for (const part of code) {
        switch (part.op) {
          case "step":
            keys.push(`${prefix}${next++} ${part.id}`)
            break
          case "branches": {
            const first = next
            next += part.parts.length
            part.parts.forEach((inner, i) =>
              walk(
                inner,
                `${prefix}${first + i}.`,
                hasEnded || isLeft(finals, prefix, next) ||
                  (!part.isParallel && isLeft(finals, prefix, first + i + 1, next))
              )
            )
            break
          }
          case "patch": {
            const isOld = hasEnded || isLeft(rows, prefix, next)
            answers.set(part.id, !isOld)
            if (!isOld) {
              keys.push(`${prefix}${next++} ${part.id}`)
            }
            visit(isOld ? part.old : part.isNew)
          }
        }
      }
    }
    visit(code)
  }
  walk(code, "", false)
  return { answers, keys: keys.sort() }
}

const death = fc.record({ at: fc.integer({ min: 0, max: 8 }), how: fc.constantFrom("body" as const, "step" as const) })

it.live("Workflow.patched lets any run that began with old code end with the new code, as a model predicts", () =>
  Effect.promise(() =>
    fc.assert(
      fc.asyncProperty(codes(2), death, death, (program, first, second) =>
        Effect.gen(function*() {
          const code = named(program)
          const live = (isOld: boolean, dies: Life["dies"], end: Effect.Effect<void>) =>
            Effect.gen(function*() {
              const life: Life = { dies, started: 0, asked: 0, answers: new Map() }
              const exit = yield* Effect.exit(Workflow.run("wf", Effect.zipRight(bodyOf(code, isOld, life), end)))
              return { ...life, exit }
            })
          const end = Effect.die("end")
          yield* live(true, first, end)
          const rows = yield* stepsOf("wf")
          const expected = predicted(code, rows)
          yield* live(false, second, end)
          const third = yield* live(false, null, end)
          expect(third.answers).toEqual(expected.answers)
          const history = yield* historyOf("wf")
          const replayed = yield* live(false, null, Effect.void)
          expect(replayed).toMatchObject({ exit: Exit.void, started: 0 })
          expect(replayed.answers).toEqual(expected.answers)
          expect(yield* historyOf("wf")).toEqual(history)
          expect([...(yield* recorded("wf"))].sort()).toEqual(expected.keys)
        }).pipe(
          inEngine({ unrequestedAfter: "2 seconds" }),
          Effect.scoped,
          Effect.provide(MemoryStepStore.layer),
          Effect.runPromise
        )),
      { numRuns: Number(process.env.FC_RUNS ?? 150) }
    )
  ))
