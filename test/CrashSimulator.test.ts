import { existsSync } from "node:fs"
import { describe, expect, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import { Branch, CrashSimulator, Engine, MemoryStepStore, SqliteStepStore, StepStore, Workflow } from "perdure"
import { vi } from "vitest"
import { FaultPoints } from "../src/internal/faultPoints.js"
import { bundle, launch } from "./support/bundle.js"
import {
  attemptsOf,
  eventually,
  gate,
  inEngine,
  ledger,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  testOn,
  turns
} from "./support/harness.js"
import { entriesOf } from "./support/ledger.js"
import { stores, temporaryFile } from "./support/stores.js"

const Job = Workflow.make({ name: "job", payload: {}, idempotencyKey: () => "1" })

/** What a defect says. */
const deathOf = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(self), (exit) => {
    const defect = Exit.isFailure(exit) ? Option.getOrNull(Cause.dieOption(exit.cause)) : null
    return defect instanceof Error ? defect : expect.unreachable(`expected a defect, got ${exit}`)
  })

describe.each(stores)("CrashSimulator.layerInterrupt (%s)", (_, store) => {
  const test = testOn(store)

  for (const after of [1, 2, 3]) {
    test(`ends the run right after step ${after} has been marked IN_PROGRESS, before its effect`, () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const ids = ["a", "b", "c", "d"]
        const death = yield* Workflow.run("wf", Effect.forEach(ids, (id) => stepOf(id, add))).pipe(
          inEngine({ crashAfter: after }),
          deathOf
        )
        expect(death).toMatchObject({ _tag: "SimulatedCrash", message: "CrashSimulator ended run \"wf\"" })
        expect(entries).toEqual(ids.slice(0, after - 1))
        expect(yield* stepsOf("wf")).toEqual(
          ids.slice(0, after).map((id, i) => `${i} ${id} ${i === after - 1 ? "IN_PROGRESS 1" : "COMPLETED 1!"}`)
        )
        // As a dead process leaves it: nobody has given it back.
        expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", epoch: 1, endedAt: null })
        expect((yield* rowOf("wf")).owner).not.toBeNull()
      }))
  }

  test("counts steps that really start, and not those that are replayed", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const life = Workflow.run("wf", Effect.forEach(["a", "b", "c", "d"], (id) => stepOf(id, add))).pipe(
        inEngine({ crashAfter: 2 })
      )
      yield* deathOf(life)
      expect(entries).toEqual(["a"])
      yield* deathOf(life)
      expect(entries).toEqual(["a", "b"])
      expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!", "2 c IN_PROGRESS 1"])
      yield* deathOf(life)
      expect(yield* life).toEqual(["a", "b", "c", "d"])
      expect(entries).toEqual(["a", "b", "c", "d"])
    }))

  test("counts once: whatever starts later goes on", () =>
    Effect.gen(function*() {
      yield* deathOf(Workflow.run("first", stepOf("a")))
      expect(yield* Workflow.run("second", Effect.zipRight(stepOf("a"), stepOf("b")))).toBe("b")
    }).pipe(inEngine({ crashAfter: 1 })))

  test("ends one run, and leaves the others alone", () =>
    Effect.gen(function*() {
      const { begun, open, pass } = gate()
      yield* Effect.gen(function*() {
        const other = yield* Effect.fork(Workflow.run("other", Effect.zipRight(stepOf("a"), pass)))
        yield* begun
        yield* deathOf(Workflow.run("wf", stepOf("b")))
        yield* open
        yield* Fiber.join(other)
      }).pipe(inEngine({ crashAfter: 2 }))
      expect([yield* statusOf("other"), yield* statusOf("wf")]).toEqual(["COMPLETED", "RUNNING"])
    }))

  test("leaves what runs beside the step as it is: its outcome is not recorded", () =>
    Effect.gen(function*() {
      const { begun, pass } = gate()
      const { add, entries } = ledger()
      const body = (first: Effect.Effect<void>) =>
        Branch.all([
          stepOf("first", () => first),
          Effect.zipRight(stepOf("second", add), stepOf("third", add))
        ], { concurrency: "unbounded", discard: true })
      const life = yield* Effect.fork(
        deathOf(Workflow.run("wf", body(Effect.onInterrupt(pass, () => add("cut"))))).pipe(inEngine({ crashAfter: 3 }))
      )
      yield* begun
      yield* Fiber.join(life)
      expect(entries).toEqual(["second", "cut"])
      expect(yield* stepsOf("wf")).toEqual([
        "0.0 first IN_PROGRESS 1",
        "1.0 second COMPLETED 1!",
        "1.1 third IN_PROGRESS 1"
      ])
      yield* Workflow.run("wf", body(add("first"))).pipe(inEngine())
      expect([...entries.slice(2)].sort()).toEqual(["first", "third"])
      expect(yield* stepsOf("wf")).toEqual([
        "0.0 first COMPLETED 2!",
        "1.0 second COMPLETED 1!",
        "1.1 third COMPLETED 2!"
      ])
    }))

  test("lets the next engine run the step again, as attempt 2, and tells what became of attempt 1", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const live = Job.toLayer(() => Effect.asVoid(Effect.zipRight(stepOf("a", add), stepOf("b", add))))
      yield* deathOf(Job.execute()).pipe(inEngine({ crashAfter: 2, workflows: [live] }))
      yield* Job.await("job/1").pipe(inEngine({ workflows: [live] }))
      expect(entries).toEqual(["a", "b"])
      expect(yield* stepsOf("job/1")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!"])
      expect((yield* attemptsOf("job/1")).map(({ attempt, error, stepKey }) => [stepKey, attempt, error])).toEqual([
        ["job/1:1", 1, expect.stringContaining("the process that ran this attempt died, or lost the run")]
      ])
      expect((yield* rowOf("job/1")).epoch).toBe(2)
    }))

  test("lets `resume` take the run up in the same engine", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      yield* Effect.gen(function*() {
        yield* deathOf(Job.execute())
        yield* Job.resume("job/1")
        yield* Job.await("job/1")
        expect(yield* stepsOf("job/1")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!"])
      }).pipe(inEngine({
        crashAfter: 2,
        workflows: [Job.toLayer(() => Effect.asVoid(Effect.zipRight(stepOf("a", add), stepOf("b", add))))]
      }))
      expect(entries).toEqual(["a", "b"])
    }))

  test("closes the engine in no time", () =>
    Effect.gen(function*() {
      const engine = yield* openEngine({ crashAfter: 1 })
      yield* deathOf(engine.run(Workflow.run("wf", stepOf("a"))))
      expect(yield* engine.close).toBe(0)
      expect(yield* statusOf("wf")).toBe("RUNNING")
    }))
})

describe("the points", () => {
  it.effect("are empty unless a layer is provided", () =>
    Effect.gen(function*() {
      const faults = yield* FaultPoints
      let crashed = false
      yield* faults.at("step-started", () => {
        crashed = true
      })
      expect([faults.active, crashed]).toEqual([false, false])
    }))

  /** Runs two steps with a crash that does not kill; answers what has happened when the crash is due. */
  const withoutDying = (options: CrashSimulator.Options) =>
    Effect.acquireUseRelease(
      Effect.sync(() => vi.spyOn(process, "kill").mockReturnValue(true)),
      (kill) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          // Nobody is to live on after the crash, so nothing of this engine is ever closed.
          const engine = yield* Layer.buildWithScope(
            Layer.provide(Engine.layer, CrashSimulator.layer(options)),
            yield* Scope.make()
          )
          const fiber = yield* Workflow.run("wf", Effect.zipRight(stepOf("a", add), stepOf("b", add))).pipe(
            Effect.provide(engine),
            Effect.forkDaemon
          )
          yield* eventually(Effect.sync(() => kill.mock.calls.length), (calls) => calls > 0)
          yield* turns(20)
          expect(fiber.unsafePoll()).toBeNull()
          expect(kill.mock.calls).toEqual([[process.pid, "SIGKILL"]])
          const store = yield* StepStore.StepStore
          const runs = yield* store.runs({ after: null, limit: 10 })
          return { entries, runs: runs.length, steps: yield* stepsOf("wf") }
        }),
      (kill) => Effect.sync(() => kill.mockRestore())
    ).pipe(Effect.provide(MemoryStepStore.layer))

  it.scoped("of steps: the step is marked, and has not begun", () =>
    Effect.gen(function*() {
      expect(yield* withoutDying({ after: 2 })).toEqual({
        entries: ["a"],
        runs: 1,
        steps: ["0 a COMPLETED 1!", "1 b IN_PROGRESS 1"]
      })
    }))

  it.scoped("of commits: nothing is written before, and all of it after", () =>
    Effect.gen(function*() {
      expect(yield* withoutDying({ after: 1, at: "before-commit" })).toEqual({ entries: [], runs: 0, steps: [] })
      expect(yield* withoutDying({ after: 1, at: "after-commit" })).toEqual({ entries: [], runs: 1, steps: [] })
    }))
})

describe("CrashSimulator.layer", () => {
  /** What a process that dies at a point leaves behind. */
  const death = (point: CrashSimulator.Point, after: number) =>
    Effect.gen(function*() {
      const program = yield* bundle("faults/boundary")
      const database = yield* temporaryFile
      const worker = yield* launch(program, [database, `${database}.ledger`, point, String(after)])
      expect(yield* worker.ended).toBe("SIGKILL")
      // Nothing was flushed or closed.
      expect(existsSync(`${database}-wal`)).toBe(true)
      return yield* Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const runs = yield* store.runs({ after: null, limit: 10 })
        return {
          effects: entriesOf<string>(`${database}.ledger`),
          runs: runs.map((run) => `${run.workflowId} ${run.status} ${run.epoch}`),
          dead: (yield* store.dead).length,
          steps: yield* stepsOf("order-1"),
          history: yield* recorded("order-1")
        }
      }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))
    })

  it.live("kills the process right after the Nth step has been marked, before its effect", () =>
    Effect.scoped(Effect.gen(function*() {
      expect(yield* death("step-started", 2)).toEqual({
        effects: ["effect reserve"],
        runs: ["order-1 RUNNING 1"],
        dead: 1,
        steps: ["0 reserve COMPLETED 1!", "1 ask IN_PROGRESS 1"],
        history: ["0 reserve"]
      })
    })))

  it.live("kills the process before a commit, of which nothing is there", () =>
    Effect.scoped(Effect.gen(function*() {
      expect(yield* death("before-commit", 1)).toEqual({ effects: [], runs: [], dead: 0, steps: [], history: [] })
    })))

  it.live("kills the process after a commit, all of which is there", () =>
    Effect.scoped(Effect.gen(function*() {
      expect(yield* death("after-commit", 1)).toEqual({
        effects: [],
        runs: ["order-1 RUNNING 1"],
        dead: 1,
        steps: [],
        history: []
      })
    })))
})
