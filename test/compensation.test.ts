/** Undoing what a run has done when it fails or is cancelled. */
import { describe, expect } from "@effect/vitest"
import { Cause, Context, Effect, Fiber, Schema } from "effect"
import { Branch, Step, Workflow } from "perdure"
import { withFaults } from "./support/faults.js"
import {
  failure,
  gate,
  inEngine,
  ledger,
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

const Job = Workflow.make({ name: "job", payload: {}, success: Schema.String, error: Schema.String })
const quiet = { slowPoll: "1000 days" as const }
const run = Job.execute(undefined, { workflowId: "wf" })

describe.each(stores)("Compensation (%s)", (_, store) => {
  const test = testOn(store)

  const booked = (id: string, add: (entry: string) => Effect.Effect<void>) =>
    Effect.as(add(id), id).pipe(Step.durable(id, { compensate: (value) => add(`undo ${value}`) }))

  test("runs the latest first, each as a step of its own, when the run fails", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Job.toLayer(() =>
        booked("a", add).pipe(
          Effect.zipRight(stepOf("plain", add)),
          Effect.zipRight(booked("b", add)),
          Effect.zipRight(Effect.fail("no"))
        )
      )
      yield* Effect.gen(function*() {
        expect(yield* failure(run)).toBe("no")
        expect(entries).toEqual(["a", "plain", "b", "undo b", "undo a"])
        expect(yield* recorded("wf")).toEqual(["0 a", "1 plain", "2 b", "3.0 b", "4.0 a"])
        expect(yield* failure(Job.resume("wf"))).toMatchObject({ _tag: "NothingToResume" })
        expect(yield* failure(run)).toBe("no")
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("runs nothing when the run completes, when it stops, or for what failed or was cut", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const compensate = () => add("undone")
      const failing = Effect.fail("own").pipe(Step.durable("fails", { error: Schema.String, compensate }))
      const cut = Effect.never.pipe(Effect.as(1), Step.durable("cut", { compensate }))
      const live = Job.toLayer((_, id) =>
        Effect.gen(function*() {
          yield* Effect.ignore(failing)
          yield* Branch.race(cut, Effect.succeed(1).pipe(Step.durable("wins")))
          if (id === "stops") {
            yield* Effect.succeed(1).pipe(Step.durable("done", { compensate }))
            return yield* Effect.dieMessage("no")
          }
          return id === "fails" ? yield* Effect.fail("no") : "done"
        })
      )
      yield* Effect.gen(function*() {
        expect(yield* Job.execute(undefined, { workflowId: "completes" })).toBe("done")
        expect(yield* failure(Job.execute(undefined, { workflowId: "fails" }))).toBe("no")
        yield* stoppedBy("BodyDied")(Job.execute(undefined, { workflowId: "stops" }))
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual([])
    }))

  test("undoes a step that could not be cut", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, open, pass } = gate()
      const slow = Effect.as(pass, "slow").pipe(
        Step.durable("slow", { compensate: (value) => add(`undo ${value}`) }),
        Effect.uninterruptible
      )
      const live = Job.toLayer(() =>
        Branch.race(slow, Effect.zipRight(begun, Effect.succeed("fast")).pipe(Step.durable("fast"))).pipe(
          Effect.zipRight(Effect.fail("no"))
        )
      )
      yield* Effect.gen(function*() {
        const waiting = yield* Effect.fork(failure(run))
        yield* begun
        yield* turns(30)
        yield* open
        expect(yield* Fiber.join(waiting)).toBe("no")
        expect(entries).toEqual(["undo slow"])
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("undoes a step whose effect had ended when it was cut, which the body was not told of", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, open, pass } = gate()
      let broken = true
      const success = Schema.transformOrFail(Schema.String, Schema.String, {
        decode: Effect.succeed,
        encode: (text) => Effect.as(pass, text)
      })
      const slow = Effect.succeed("slow").pipe(
        Step.durable("slow", { success, compensate: (value) => add(`undo ${value}`) })
      )
      const live = Job.toLayer(() =>
        Branch.race(slow, Effect.zipRight(begun, Effect.succeed("fast")).pipe(Step.durable("fast"))).pipe(
          Effect.zipRight(Effect.suspend(() => broken ? Effect.die("no") : Effect.fail("no")))
        )
      )
      yield* Effect.gen(function*() {
        const waiting = yield* Effect.fork(stoppedBy("BodyDied")(run))
        yield* begun
        yield* turns(30)
        yield* open
        yield* Fiber.join(waiting)
        expect(yield* recorded("wf")).toEqual(["1.0 fast", "0.0 slow"])
        broken = false
        yield* Job.resume("wf")
        expect(yield* failure(Job.await("wf"))).toBe("no")
        expect(entries).toEqual(["undo slow"])
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("undoes several steps together, in branches too, with what the body has in its context", () =>
    Effect.gen(function*() {
      class Desk extends Context.Tag("Desk")<Desk, { readonly name: string }>() {}
      const { add, entries } = ledger()
      const trip = (n: number) =>
        Effect.all([stepOf(`flight ${n}`), stepOf(`room ${n}`)]).pipe(
          Workflow.withCompensation(([flight, room], cause) =>
            Effect.flatMap(Desk, ({ name }) => add(`${name} gives back ${flight}, ${room}: ${Cause.pretty(cause)}`))
          )
        )
      const live = Job.toLayer(() =>
        Branch.all([trip(1), trip(2)]).pipe(
          Effect.zipRight(Effect.fail("no")),
          Effect.provideService(Desk, { name: "the desk" })
        )
      )
      yield* failure(run).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual([
        "the desk gives back flight 2, room 2: Error: no",
        "the desk gives back flight 1, room 1: Error: no"
      ])
      expect((yield* recorded("wf")).slice(4)).toEqual(["2.0 compensation", "3.0 compensation"])
    }))

  test("runs when the run is cancelled, after the finalizers of the body", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const { begun, pass } = gate()
      const live = Job.toLayer(() =>
        booked("a", add).pipe(
          Effect.zipRight(Effect.as(pass, "x").pipe(Step.durable("long"))),
          Effect.ensuring(booked("finalizer", add))
        )
      )
      yield* Effect.gen(function*() {
        const waiting = yield* Effect.fork(failure(run))
        yield* begun
        yield* Job.cancel("wf")
        expect(yield* Fiber.join(waiting)).toMatchObject({ _tag: "RunCancelled" })
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
      expect(entries).toEqual(["a", "finalizer", "undo finalizer", "undo a"])
    }))

  test("begins when what comes before it is recorded, which is then not undone once more after it", () =>
    withFaults((faults) =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        faults.commit = (batch, call) => {
          const undone = batch.flatMap(({ steps }) =>
            steps.filter(({ final, kind }) => final && kind === "compensation")
          )
          return Effect.zipLeft(call, Effect.forEach(undone, ({ stepId }) => add(`recorded ${stepId}`)))
        }
        const live = Job.toLayer(() =>
          booked("a", add).pipe(Effect.zipRight(booked("b", add)), Effect.zipRight(Effect.fail("no")))
        )
        expect(yield* failure(run).pipe(inEngine({ ...quiet, workflows: [live] }))).toBe("no")
        expect(entries).toEqual(["a", "b", "undo b", "recorded b", "undo a", "recorded a"])
      })
    ))

  test("goes on after a crash where it was", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Job.toLayer(() =>
        Effect.forEach(["a", "b", "c"], (id) => booked(id, add)).pipe(Effect.zipRight(Effect.fail("no")))
      )
      // Started: a, b, c, undo c; then a crash at the beginning of each of the rest.
      for (const crashAfter of [5, 1, 2]) {
        yield* Effect.exit(run).pipe(inEngine({ ...quiet, crashAfter, workflows: [live] }))
        expect(yield* statusOf("wf")).toBe("RUNNING")
      }
      expect(yield* failure(run).pipe(inEngine({ ...quiet, workflows: [live] }))).toBe("no")
      expect(entries).toEqual(["a", "b", "c", "undo c", "undo b", "undo a"])
    }))

  test("one that dies lets the rest run, and stops the run with what is left; resume runs it again", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      let broken = true
      const undo = (id: string) =>
        Effect.suspend(() =>
          broken && id !== "b"
            ? Effect.zipRight(add(`cannot undo ${id}`), Effect.die(`${id} is stuck`))
            : add(`undo ${id}`)
        )
      const live = Job.toLayer(() =>
        Effect.forEach(["a", "b", "c"], (id) => Effect.succeed(id).pipe(Step.durable(id, { compensate: undo }))).pipe(
          Effect.zipRight(Effect.fail("no"))
        )
      )
      yield* Effect.gen(function*() {
        const reason = yield* stoppedBy("CompensationDied")(run)
        expect(reason.left.map(({ address, id }) => `${address} ${id}`)).toEqual(["3.0 c", "5.0 a"])
        expect(reason.message).toContain("c is stuck")
        expect(entries).toEqual(["cannot undo c", "undo b", "cannot undo a"])
        expect((yield* stepsOf("wf")).slice(3)).toEqual(["3.0 c FAILED 1", "4.0 b COMPLETED 1!", "5.0 a FAILED 1"])
        broken = false
        yield* Job.resume("wf")
        expect(yield* failure(Job.await("wf"))).toBe("no")
        expect(entries.slice(3)).toEqual(["undo c", "undo a"])
        expect(yield* rowOf("wf")).toMatchObject({ status: "FAILED" })
      }).pipe(inEngine({ ...quiet, workflows: [live] }))
    }))

  test("a record that no longer decodes stops the run before it is undone wrongly", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = (success: Schema.Schema<string>, end: Effect.Effect<never, string>) =>
        Job.toLayer(() =>
          Effect.succeed("a").pipe(
            Step.durable("s", { success, compensate: (value) => add(`undo ${value}`) }),
            Effect.zipRight(end)
          )
        )
      const first = yield* openEngine({ ...quiet, workflows: [live(Schema.String, Effect.dieMessage("first"))] })
      yield* first.run(stoppedBy("BodyDied")(run))
      yield* first.close
      yield* Effect.gen(function*() {
        yield* Job.resume("wf")
        yield* stoppedBy("RecordUndecodable")(Job.await("wf"))
      }).pipe(inEngine({ ...quiet, workflows: [live(Schema.Literal("b") as never, Effect.fail("no"))] }))
      expect(entries).toEqual([])
    }))

  test("in a step is refused", () =>
    Effect.gen(function*() {
      const body = Effect.succeed(1).pipe(Workflow.withCompensation(() => Effect.void), Step.durable("outer"))
      const reason = yield* stoppedBy("Misplaced")(Workflow.run("wf", body))
      expect(reason.detail).toContain("`compensate` option")
    }).pipe(inEngine()))

  test("undoes what a run without a definition has done", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const body = Effect.zipRight(booked("a", add), Effect.fail("no"))
      expect(yield* failure(Workflow.run("wf", body, { error: Schema.String }))).toBe("no")
      expect(entries).toEqual(["a", "undo a"])
    }).pipe(inEngine()))
})
