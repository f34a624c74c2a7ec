import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it } from "@effect/vitest"
import {
  Cause,
  Deferred,
  Effect,
  Either,
  Exit,
  Fiber,
  FiberId,
  Layer,
  Option,
  type Runtime,
  Schema,
  Scope,
  Stream,
  TestClock
} from "effect"
import {
  Branch,
  type Engine,
  Errors,
  MemoryStepStore,
  PayloadCodec,
  SqliteStepStore,
  Step,
  StepStore,
  Workflow
} from "perdure"
import { nobody } from "../src/internal/attendant.js"
import { Awaited } from "../src/internal/awaited.js"
import type { Program } from "../src/internal/body.js"
import { FaultPoints } from "../src/internal/faultPoints.js"
import { Journal } from "../src/internal/journal.js"
import { defaultLimits } from "../src/internal/limits.js"
import { pendingPatch, Residency } from "../src/internal/residency.js"
import { newRun, update } from "./suites/rows.js"
import { brings, failCommits, logs, records, withFaults } from "./support/faults.js"
import {
  attemptsOf,
  closing,
  eventually,
  failure,
  gate,
  historyOf,
  inEngine,
  ledger,
  openEngine,
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

const Job = Workflow.make({
  name: "job",
  payload: {},
  success: Schema.Unknown as Schema.Schema<string | number>,
  error: Schema.String,
  idempotencyKey: () => "1"
})

const jobId = "job/1"

type JobBody = Effect.Effect<string | number, string, Workflow.Run>

const live = (body: JobBody) => Job.toLayer(() => body)

const withJob = (body: JobBody, options: Engine.Options = {}) => inEngine({ ...options, workflows: [live(body)] })

const where = { target: "the test's store", detail: "as the test wants it" }

const passing: ReadonlyArray<Errors.StoreError> = [
  new Errors.StoreBusy(where),
  new Errors.StoreFull(where),
  new Errors.StoreReadOnly(where),
  new Errors.StoreUnavailable(where)
]

/** Lets time pass until an effect has ended. */
const afterAWhile = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(self)
    yield* closing(Fiber.await(fiber))
    return yield* Fiber.join(fiber)
  })

/** A run that a worker has left, with a step under way. */
const leftBy = (owner: string | null, workflowId: string) => {
  const run = newRun(workflowId, { name: "job", payload: "{}", owner, status: owner === null ? "PENDING" : "RUNNING" })
  return {
    ...run,
    steps: owner === null ? [] : [{
      stepKey: `${workflowId}:0`,
      stepId: "a",
      kind: "step",
      sequence: 0,
      status: "IN_PROGRESS" as const,
      position: null,
      attempt: 1,
      epoch: 1,
      final: false,
      startedAt: 7,
      updatedAt: 7,
      askedAfter: -1,
      fingerprint: null,
      output: null,
      errorTag: null,
      error: null
    }]
  }
}

const plant = (...runs: ReadonlyArray<StepStore.RunUpdate>) =>
  Effect.flatMap(StepStore.StepStore, (store) => store.commit(runs))

const allRuns = Effect.flatMap(StepStore.StepStore, (store) => store.runs({ after: null, limit: 1_000 }))

describe.each(stores)("Engine (%s)", (_, store) => {
  const test = testOn(store)

  describe("its workflows", () => {
    test("are registered once: twice is a defect that says so", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(
          Effect.void.pipe(inEngine({ workflows: [live(Effect.succeed(1)), live(Effect.succeed(2))] }))
        )
        expect(Exit.isFailure(exit) && String(exit.cause)).toContain(
          "The workflow \"job\" is registered twice in one engine; provide its layer once"
        )
      }))

    test("may be registered again when their layer has been closed, and give their runs back meanwhile", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        yield* Effect.gen(function*() {
          const first = yield* Scope.make()
          yield* Layer.buildWithScope(live(stepOf("s", () => pass)), first)
          yield* Job.start()
          yield* begun
          yield* closing(Scope.close(first, Exit.void))
          expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null })
          expect(yield* Effect.provide(Job.await(jobId), live(stepOf("s")))).toBe("s")
        }).pipe(inEngine())
      }))

    test("are driven by any engine that has them, and by no other", () =>
      Effect.gen(function*() {
        const { captured, entries } = logs()
        const client = yield* openEngine()
        const waiting = yield* Effect.fork(client.run(captured(Job.execute())))
        const again = yield* Effect.fork(client.run(captured(Job.execute())))
        yield* eventually(Effect.sync(() => entries.length), (count) => count > 0)
        yield* turns(20)
        expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null, epoch: 0 })
        expect(waiting.unsafePoll()).toBeNull()
        yield* Effect.gen(function*() {
          expect(yield* Fiber.join(waiting)).toBe("s")
          expect(yield* Fiber.join(again)).toBe("s")
        }).pipe(withJob(stepOf("s")))
        expect(yield* rowOf(jobId)).toMatchObject({ status: "COMPLETED", epoch: 1 })
        // Once, although two have waited.
        expect(entries.filter((entry) => entry.startsWith("WARN"))).toEqual([
          "WARN Waiting for a run of workflow \"job\", which no layer registers in this process: another process has to drive it"
        ])
        yield* client.close
      }))

    test("are not warned of where they are registered", () =>
      Effect.gen(function*() {
        const { captured, entries } = logs()
        const { begun, open, pass } = gate()
        const other = yield* openEngine({ workflows: [live(stepOf("s", () => pass))] })
        const theirs = yield* Effect.fork(other.run(Job.execute()))
        yield* begun
        const mine = yield* Effect.fork(Job.execute().pipe(withJob(stepOf("s")), captured))
        yield* turns(20)
        yield* open
        expect([yield* Fiber.join(theirs), yield* Fiber.join(mine)]).toEqual(["s", "s"])
        expect(entries.filter((entry) => entry.startsWith("WARN"))).toEqual([])
        yield* other.close
      }))
  })

  describe("its end", () => {
    test("gives its runs back, and an engine that is there already takes them at once", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        const first = yield* openEngine({
          workflows: [
            live(Effect.zipRight(stepOf("a", add), stepOf("b", () => Effect.onInterrupt(pass, () => add("cut")))))
          ]
        })
        const waiting = yield* Effect.fork(failure(first.run(Job.execute())))
        yield* begun
        yield* Effect.gen(function*() {
          yield* first.close
          expect(yield* Job.await(jobId)).toBe("b")
        }).pipe(withJob(Effect.zipRight(stepOf("a", add), stepOf("b", add))))
        expect(entries).toEqual(["a", "cut", "b"])
        expect(yield* recorded(jobId)).toEqual(["0 a", "1 b"])
        expect((yield* rowOf(jobId)).epoch).toBe(2)
        expect(yield* Fiber.join(waiting)).toMatchObject({ _tag: "StoreUnavailable" })
      }))

    test("gives its runs back, and the next engine takes them", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const first = yield* openEngine({ workflows: [live(stepOf("s", () => pass))] })
        yield* first.run(Job.start())
        yield* begun
        yield* first.close
        expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null, epoch: 1 })
        expect(yield* Job.await(jobId).pipe(withJob(stepOf("s")))).toBe("s")
      }))

    test("is told to whoever still asks", () =>
      Effect.gen(function*() {
        const engine = yield* openEngine({ workflows: [live(Effect.succeed(1))] })
        yield* plant(leftBy("elsewhere", "wf"))
        yield* engine.close
        for (const ask of [Job.start(), Job.execute(), Job.await("wf")]) {
          const error: unknown = yield* failure(engine.run(ask as Effect.Effect<unknown, unknown, Engine.Engine>))
          expect(error).toMatchObject({
            _tag: "StoreUnavailable",
            detail: "the layer of the engine that speaks to it has been closed"
          })
        }
      }))

    test("comes although a body would not end; that body is dropped, and said to be", () =>
      Effect.gen(function*() {
        const { captured, entries } = logs()
        const reached = yield* Deferred.make<void>()
        yield* captured(Effect.gen(function*() {
          const engine = yield* openEngine({
            workflows: [live(Effect.zipRight(
              stepOf("a"),
              Effect.uninterruptible(
                Effect.zipRight(
                  Deferred.succeed(reached, undefined),
                  Effect.promise(() => new Promise<number>(() => {}))
                )
              )
            ))]
          })
          yield* engine.run(Job.start())
          yield* Deferred.await(reached)
          expect(yield* engine.close).toBe(5)
        }))
        expect(entries).toContain(
          "WARN The body of run \"job/1\" would not end and was dropped: something in it cannot be interrupted"
        )
        expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null })
      }))

    test("waits for a step that cannot be interrupted, whose outcome comes too late to be recorded", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const engine = yield* openEngine({ workflows: [live(stepOf("s", () => Effect.uninterruptible(pass)))] })
        yield* engine.run(Job.start())
        yield* begun
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        expect(close.unsafePoll()).toBeNull()
        yield* open
        expect(yield* Fiber.join(close)).toBe(0)
        expect(yield* historyOf(jobId)).toEqual([])
        expect(yield* Job.await(jobId).pipe(withJob(stepOf("s")))).toBe("s")
      }))

    test("lets a step that was cut off let go, and writes nothing of it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const slow = gate()
        const cleaning = gate()
        const body = Branch.race(
          stepOf("slow", () => Effect.onInterrupt(slow.pass, () => Effect.zipRight(cleaning.pass, add("clean")))),
          stepOf("quick", () => slow.begun)
        )
        const engine = yield* openEngine({ workflows: [live(body)] })
        yield* engine.run(Job.start())
        yield* cleaning.begun
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        expect(close.unsafePoll()).toBeNull()
        yield* cleaning.open
        yield* Fiber.join(close)
        expect(entries).toEqual(["clean"])
        expect(yield* recorded(jobId)).toEqual(["1.0 quick"])
        expect((yield* stepsOf(jobId)).filter((row) => row.includes("FAILED"))).toEqual([])
        expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null })
      }))

    test("that cannot be recorded leaves the run to those who see that the worker is gone", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { captured, entries } = logs()
          const { begun, pass } = gate()
          yield* captured(Effect.gen(function*() {
            const engine = yield* openEngine({ workflows: [live(stepOf("s", () => pass))] })
            yield* engine.run(Job.start())
            yield* begun
            failCommits(faults, { error: new Errors.StoreFull(where), times: 1, when: brings("PENDING") })
            yield* engine.close
          }))
          expect(entries.filter((entry) => entry.startsWith("WARN"))).toEqual([
            `WARN Run "job/1" could not be given back ${new Errors.StoreFull(where).message}`
          ])
          expect(yield* statusOf(jobId)).toBe("RUNNING")
          expect(yield* Job.await(jobId).pipe(withJob(stepOf("s")))).toBe("s")
        })
      ))
  })

  describe("recovery", () => {
    test("takes what a dead worker left as soon as the workflow is registered, and runs what was under way again", () =>
      Effect.gen(function*() {
        yield* TestClock.setTime(100)
        yield* plant(leftBy("dead", "wf"))
        yield* eventually(statusOf("wf"), (status) => status === "COMPLETED").pipe(
          withJob(Effect.map(Step.attempt, (n) => `attempt ${n}`).pipe(Step.durable("a")))
        )
        expect(yield* rowOf("wf")).toMatchObject({ outcome: "\"attempt 2\"", epoch: 2, owner: null })
        expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 2!"])
        expect(yield* attemptsOf("wf")).toEqual([{
          stepKey: "wf:0",
          attempt: 1,
          startedAt: 7,
          endedAt: 100,
          dueAt: null,
          errorTag: "OwnerDied",
          error: "{\"detail\":\"the process that ran this attempt died, or lost the run\"}"
        }])
      }))

    test("marks what was under way FAILED, and not final, before the body begins", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        yield* plant(leftBy("dead", "wf"))
        yield* Effect.gen(function*() {
          yield* begun
          expect(yield* stepsOf("wf")).toEqual(["0 a FAILED 1"])
          expect((yield* attemptsOf("wf")).map((row) => row.attempt)).toEqual([1])
          expect(yield* historyOf("wf")).toEqual([])
          expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", epoch: 2 })
          yield* open
          yield* Job.await("wf")
        }).pipe(withJob(Effect.zipRight(pass, stepOf("a"))))
      }))

    test("takes hundreds of runs, of dead workers and of none", () =>
      Effect.gen(function*() {
        const dead = Array.from({ length: 230 }, (_, i) => leftBy(`dead ${i % 3}`, `dead-${i}`))
        const pending = Array.from({ length: 130 }, (_, i) => leftBy(null, `pending-${i}`))
        yield* plant(...dead, ...pending)
        yield* eventually(allRuns, (runs) => runs.every((run) => run.status === "COMPLETED")).pipe(withJob(stepOf("a")))
        const runs = yield* allRuns
        expect(runs).toHaveLength(360)
        expect(new Set(runs.map((run) => run.epoch))).toEqual(new Set([2]))
        expect(yield* stepsOf("dead-229")).toEqual(["0 a COMPLETED 2!"])
        expect(yield* stepsOf("pending-129")).toEqual(["0 a COMPLETED 1!"])
      }))

    test("leaves runs of workflows that it does not have alone", () =>
      Effect.gen(function*() {
        yield* plant(leftBy("dead", "wf"))
        const Other = Workflow.make({ name: "other", payload: {} })
        yield* Effect.zipRight(turns(20), TestClock.adjust("5 seconds")).pipe(
          Effect.zipRight(turns(20)),
          inEngine({ workflows: [Other.toLayer(() => Effect.void)] })
        )
        expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: "dead", epoch: 1 })
      }))

    test("looks every five seconds for workers that have died since", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const life = yield* Scope.make()
        yield* Scope.extend(store.register({ id: "theirs", host: "elsewhere", pid: 1, startedAt: 0 }), life)
        yield* plant(leftBy("theirs", "wf"))
        yield* Effect.gen(function*() {
          yield* turns(20)
          yield* TestClock.adjust("5 seconds")
          yield* turns(20)
          expect((yield* rowOf("wf")).owner).toBe("theirs")
          yield* Scope.close(life, Exit.void)
          yield* turns(20)
          expect((yield* rowOf("wf")).owner).toBe("theirs")
          yield* TestClock.adjust("5 seconds")
          expect(yield* Job.await("wf")).toBe("a")
        }).pipe(withJob(stepOf("a")))
      }))

    test("stops a run whose row is damaged, and takes the others", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* plant(leftBy("dead", "damaged"), leftBy("dead", "whole"))
          const corrupt = new Errors.StoreCorrupt({ ...where, workflowId: "damaged" })
          faults.claim = (_, call) =>
            Effect.map(
              call,
              (claimed) =>
                claimed.map((one) => one.workflowId === "damaged" ? { ...one, run: Either.left(corrupt) } : one)
            )
          yield* Effect.gen(function*() {
            expect(yield* Job.await("whole")).toBe("a")
            expect(yield* stoppedBy("StoreCorrupt")(Job.await("damaged"))).toEqual(corrupt)
          }).pipe(withJob(stepOf("a")))
          expect(yield* rowOf("damaged")).toMatchObject({ status: "STOPPED", owner: null, epoch: 2 })
        })
      ))

    test("gives back what it has claimed for a workflow whose layer is closed meanwhile", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { captured, entries } = logs()
          /** Registers the job, and closes its layer while the answer to a claim is on its way. */
          const claimAndClose = (workflowId: string) =>
            Effect.gen(function*() {
              const scope = yield* Scope.make()
              faults.claim = (_, call) =>
                Effect.tap(
                  call,
                  (claimed) =>
                    claimed.length > 0 ? Effect.zipRight(turns(3), Scope.close(scope, Exit.void)) : Effect.void
                )
              yield* plant(leftBy("dead", workflowId))
              yield* Layer.buildWithScope(live(stepOf("a")), scope)
            })
          yield* captured(
            Effect.gen(function*() {
              yield* claimAndClose("first")
              yield* eventually(statusOf("first"), (status) => status === "PENDING")
              const count = failCommits(faults, {
                error: new Errors.StoreFull(where),
                times: 1,
                when: brings("PENDING")
              })
              yield* claimAndClose("second")
              yield* eventually(Effect.sync(() => count.failed), (failed) => failed === 1)
              yield* turns(20)
              // Both are claimed, the older one first.
              expect([yield* statusOf("first"), yield* statusOf("second")]).toEqual(["RUNNING", "PENDING"])
            }).pipe(inEngine())
          )
          expect(entries.filter((entry) => entry.startsWith("WARN"))).toEqual([
            `WARN Run "first" could not be given back ${new Errors.StoreFull(where).message}`
          ])
        })
      ))

    test("goes on when the store cannot say what changes, or cannot be asked for runs", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { captured, entries } = logs()
          let failures = 0
          faults.changes = (call) =>
            Stream.suspend(() => failures++ === 0 ? Stream.fail(new Errors.StoreUnavailable(where)) : call)
          faults.claim = () => Effect.fail(new Errors.StoreUnavailable(where))
          yield* plant(leftBy("dead", "wf"))
          yield* captured(
            Effect.gen(function*() {
              yield* turns(20)
              expect(failures).toBe(1)
              expect(entries).toContain("DEBUG the store could not be asked for runs")
              faults.claim = (_, call) => call
              yield* TestClock.adjust("5 seconds")
              yield* turns(20)
              expect(failures).toBe(2)
              expect(yield* Job.await("wf")).toBe("a")
            }).pipe(withJob(stepOf("a")))
          )
        })
      ))
  })

  describe("an orphan: a run that is this worker's in the store, and does not live here", () => {
    /** The answer to the first commit of this kind is lost. */
    const losing =
      (when: (update: StepStore.RunUpdate) => boolean) =>
      (body: Effect.Effect<void, unknown, Engine.Engine | StepStore.StepStore>) =>
        withFaults((faults) => {
          let lost = false
          faults.commit = (batch, call) => {
            if (lost || !batch.some(when)) {
              return call
            }
            lost = true
            return Effect.zipRight(call, Effect.fail(new Errors.StoreUnavailable(where)))
          }
          return body.pipe(withJob(stepOf("s")))
        })

    test("of a definition is adopted by whoever awaits it", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.start())).toMatchObject({ _tag: "StoreUnavailable" })
        expect(yield* rowOf(jobId)).toMatchObject({ status: "RUNNING", epoch: 1 })
        expect(yield* Job.await(jobId)).toBe("s")
        expect(yield* rowOf(jobId)).toMatchObject({ status: "COMPLETED", epoch: 2 })
      }).pipe(losing((update) => update.insert !== null)))

    test("of a definition is driven once the caller starts it again", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.start())).toMatchObject({ _tag: "StoreUnavailable" })
        expect(yield* Job.start()).toBe(jobId)
        yield* eventually(statusOf(jobId), (status) => status === "COMPLETED")
      }).pipe(losing((update) => update.insert !== null)))

    test("of a definition is driven after a while, whatever the caller does", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.start())).toMatchObject({ _tag: "StoreUnavailable" })
        yield* TestClock.adjust("5 seconds")
        yield* eventually(statusOf(jobId), (status) => status === "COMPLETED")
      }).pipe(losing((update) => update.insert !== null)))

    test("is not forgotten if a claim is under way that might bring it", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const held = gate()
          let lost = false
          faults.commit = (batch, call) => {
            if (lost || !batch.some((update) => update.insert !== null)) {
              return call
            }
            lost = true
            // Whoever hears of the run asks for runs, and is not answered for a while.
            faults.claim = (_, call) => {
              faults.claim = (_, call) => call
              return Effect.zipRight(held.pass, call)
            }
            return Effect.zipRight(call, Effect.fail(new Errors.StoreUnavailable(where)))
          }
          expect(yield* failure(Job.start())).toMatchObject({ _tag: "StoreUnavailable" })
          yield* held.begun
          yield* TestClock.adjust("5 seconds")
          yield* turns(20)
          expect(yield* rowOf(jobId)).toMatchObject({ status: "RUNNING", epoch: 1 })
          yield* held.open
          yield* turns(20)
          yield* TestClock.adjust("5 seconds")
          yield* eventually(statusOf(jobId), (status) => status === "COMPLETED")
        }).pipe(withJob(stepOf("s")))
      ))

    test("is not taken for one where nothing was created", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          faults.commit = (batch, call) =>
            batch.some((update) => update.insert !== null) ? Effect.fail(new Errors.StoreUnavailable(where)) : call
          expect(yield* failure(Job.start())).toMatchObject({ _tag: "StoreUnavailable" })
          yield* TestClock.adjust("10 seconds")
          expect(yield* allRuns).toEqual([])
          faults.commit = (_, call) => call
          expect(yield* Job.execute()).toBe("s")
        }).pipe(withJob(stepOf("s")))
      ))

    test("of a definition is adopted by the next call of `execute`, and by `resume`", () =>
      Effect.gen(function*() {
        expect(yield* failure(Job.execute())).toMatchObject({ _tag: "StoreUnavailable" })
        yield* Job.resume(jobId)
        expect(yield* Job.execute()).toBe("s")
        expect(yield* rowOf(jobId)).toMatchObject({ status: "COMPLETED", epoch: 2 })
      }).pipe(losing((update) => update.insert !== null)))

    test("without a definition is adopted by the next call", () =>
      Effect.gen(function*() {
        const call = Workflow.run("wf", stepOf("s"))
        expect(yield* failure(call)).toMatchObject({ _tag: "StoreUnavailable" })
        expect(yield* call).toBe("s")
        expect(yield* rowOf("wf")).toMatchObject({ status: "COMPLETED", epoch: 2 })
      }).pipe(losing((update) => update.insert !== null)))

    test("whose step was recorded and not acknowledged is answered from the record", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(Workflow.run("wf", Effect.zipRight(stepOf("a"), stepOf("b"))))
        yield* turns(20)
        yield* TestClock.adjust("1 second")
        expect(yield* Fiber.join(fiber)).toBe("b")
        expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 1!"])
      }).pipe(losing(records("a"))))
  })

  describe("a store that fails for a while", () => {
    for (const error of passing) {
      test(`${error._tag} at a step releases the run, which is tried again until it goes on`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const { captured, entries: logged } = logs()
            const { add, entries } = ledger()
            const count = failCommits(faults, { error, times: 3, when: records("b") })
            const result = captured(
              Job.execute().pipe(withJob(Effect.zipRight(stepOf("a", add), stepOf("b", add))))
            )
            const fiber = yield* Effect.fork(result)
            yield* eventually(Effect.sync(() => count.failed), (failed) => failed === 1)
            yield* turns(20)
            // Nothing is tried again before its time.
            expect(count.failed).toBe(1)
            expect(yield* rowOf(jobId)).toMatchObject({ status: "RUNNING", epoch: 1 })
            expect(yield* afterAWhile(Fiber.join(fiber))).toBe("b")
            expect(count).toEqual({ failed: 3, passed: 1 })
            expect(entries).toEqual(["a", "b", "b", "b", "b"])
            expect(yield* recorded(jobId)).toEqual(["0 a", "1 b"])
            expect(logged.filter((entry) => entry.startsWith("WARN"))).toEqual(
              Array.from(
                { length: 3 },
                () => `WARN Run "job/1" waits until the store can be used again ${error.message}`
              )
            )
          })
        ))
    }

    test("may have let this worker claim runs although it said otherwise: they are taken up, also if nobody awaits them", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* Effect.zipRight(Job.start(), Job.start(undefined, { workflowId: "job/2" })).pipe(inEngine())
          let lost = false
          faults.claim = (_, call) =>
            Effect.flatMap(call, (claimed) => {
              if (lost || claimed.length === 0) {
                return Effect.succeed(claimed)
              }
              lost = true
              return Effect.fail(passing[0]!)
            })
          yield* eventually(
            Effect.all([rowOf(jobId), rowOf("job/2")]),
            (both) => both.every(({ epoch, status }) => status === "COMPLETED" && epoch === 2)
          ).pipe(inEngine({ workflows: [live(stepOf("a"))] }))
          expect(lost).toBe(true)
        })
      ))

    test("is tried again at growing distances, at most five seconds apart", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const count = failCommits(faults, { error: passing[1]!, times: 1_000, when: records("a") })
          const engine = yield* openEngine({ workflows: [live(stepOf("a"))] })
          yield* engine.run(Job.start())
          const triesAfter = (millis: number, step: number) =>
            Effect.gen(function*() {
              for (let i = 0; i < millis; i += step) {
                yield* TestClock.adjust(step)
                yield* turns(8)
              }
              return count.failed
            })
          yield* turns(8)
          expect(count.failed).toBe(1)
          // 50, 100, 200 and 400 milliseconds, each up to a fifth longer or shorter.
          const inTheFirstSecond = yield* triesAfter(1_000, 20)
          expect(inTheFirstSecond).toBeGreaterThanOrEqual(4)
          expect(inTheFirstSecond).toBeLessThanOrEqual(6)
          yield* triesAfter(9_000, 200)
          const before = count.failed
          const inAMinute = (yield* triesAfter(60_000, 500)) - before
          expect(inAMinute).toBeGreaterThanOrEqual(9)
          expect(inAMinute).toBeLessThanOrEqual(15)
          // Whoever gives the run up need not wait for the store.
          expect(yield* engine.close).toBe(0)
        })
      ))

    test("at the start is told to the caller, and nothing is started", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          for (const error of passing) {
            failCommits(faults, { error, times: 1, when: (update) => update.insert !== null })
            expect(yield* failure(Job.execute())).toBe(error)
            failCommits(faults, { error, times: 1, when: (update) => update.insert !== null })
            expect(yield* failure(Workflow.run("wf", Effect.void))).toBe(error)
          }
          expect(yield* allRuns).toEqual([])
          expect(yield* Job.execute()).toBe("s")
        }).pipe(withJob(stepOf("s")))
      ))

    for (const status of ["COMPLETED", "FAILED", "STOPPED"] as const) {
      test(`at the end does not run the body again: it is recorded as ${status} when the store is back`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const { add, entries } = ledger()
            const end: JobBody =
              { COMPLETED: Effect.succeed(1), FAILED: Effect.fail("no"), STOPPED: Effect.die("boom") }[status]
            const count = failCommits(faults, { error: passing[0]!, times: 3, when: brings(status) })
            yield* afterAWhile(Effect.exit(Job.execute())).pipe(withJob(Effect.zipRight(add("ran"), end)))
            expect(entries).toEqual(["ran"])
            expect(count).toEqual({ failed: 3, passed: 1 })
            expect(yield* statusOf(jobId)).toBe(status)
          })
        ))
    }

    test("at the end does not keep the engine from closing, and the next one ends the run", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const body = Effect.zipRight(stepOf("a", add), add("end")).pipe(Effect.as(1))
          const count = failCommits(faults, { error: passing[0]!, times: 1_000, when: brings("COMPLETED") })
          const engine = yield* openEngine({ workflows: [live(body)] })
          yield* engine.run(Job.start())
          yield* eventually(Effect.sync(() => count.failed), (failed) => failed > 0)
          expect(yield* engine.close).toBe(0)
          faults.commit = (_, call) => call
          expect(yield* Job.await(jobId).pipe(withJob(body))).toBe(1)
          expect(entries).toEqual(["a", "end", "end"])
        })
      ))

    // The simulator found this one (seed 198126380): both went into one batch.
    test("at an end that was written keeps a resume waiting until the engine knows of that end", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const step = Effect.flatMap(Step.Current, ({ workflowId }) =>
            workflowId === "other"
              ? Effect.succeed("yes")
              : entries.length === 0
              ? Effect.zipRight(add("dies"), Effect.die("boom"))
              : entries.length === 1
              ? Effect.zipRight(add("fails"), Effect.fail("no"))
              : Effect.as(add("works"), "yes")).pipe(Step.durable("s", { error: Schema.String }))
          /** The run ends in such a way, which is written and denied, and is resumed in the moment in which that is written again. */
          const resumedAfter = (status: StepStore.RunStatus) =>
            Effect.gen(function*() {
              let denied = false
              const { begun, open, pass } = gate()
              faults.commit = (batch, call) => {
                if (batch.some((update) => update.workflowId === "other" && update.insert !== null)) {
                  return Effect.zipRight(pass, call)
                }
                if (denied || !batch.some(brings(status))) {
                  return call
                }
                denied = true
                return Effect.zipRight(call, Effect.fail(passing[0]!))
              }
              yield* Effect.fork(Job.start())
              yield* eventually(Effect.option(statusOf(jobId)), Option.contains(status))
              yield* Effect.fork(Job.start(undefined, { workflowId: "other" }))
              yield* begun
              const resume = yield* Effect.fork(Job.resume(jobId))
              yield* turns(20)
              yield* TestClock.adjust("1 second")
              yield* turns(20)
              yield* open
              yield* afterAWhile(Fiber.join(resume))
            })
          yield* Effect.gen(function*() {
            yield* resumedAfter("STOPPED")
            yield* resumedAfter("FAILED")
            expect(yield* Job.await(jobId)).toBe("yes")
          }).pipe(withJob(step))
        })
      ))

    test("while the run leaves does not keep it: the failure that comes late ends the wait", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { begun, open, pass } = gate()
          faults.commit = (batch, call) =>
            batch.some(brings("COMPLETED")) ? Effect.zipRight(pass, Effect.fail(passing[0]!)) : call
          const engine = yield* openEngine({ workflows: [live(Effect.succeed(1))] })
          yield* engine.run(Job.start())
          yield* begun
          const close = yield* Effect.fork(engine.close)
          yield* turns(20)
          expect(close.unsafePoll()).toBeNull()
          yield* open
          expect(yield* Fiber.join(close)).toBe(0)
          expect(yield* statusOf(jobId)).toBe("RUNNING")
        })
      ))

    test("when the history is read is tried again, at the first page and at the next", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const steps = Effect.as(
            Effect.forEach(Array.from({ length: 1_001 }, (_, i) => String(i)), (id) => stepOf(id, add), {
              discard: true
            }),
            1
          )
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps, Effect.die("end"))))
          const asked: Array<number | null> = []
          faults.history = (after, call) => {
            asked.push(after)
            return asked.filter((earlier) => earlier === after).length === 1 ? Effect.fail(passing[3]!) : call
          }
          yield* afterAWhile(Effect.zipRight(Job.resume(jobId), Job.await(jobId))).pipe(withJob(steps))
          expect(asked).toEqual([-1, -1, 999, -1, 999])
          expect(entries).toHaveLength(1_001)
        })
      ))
  })

  describe("a store that refuses", () => {
    const corrupt = new Errors.StoreCorrupt({ ...where, workflowId: jobId })
    const rejected = new Errors.StoreRejected(where)
    const mismatch = new Errors.StoreSchemaMismatch({ target: "db", found: 9, supported: 1, minCompatible: 9 })

    const refusals: ReadonlyArray<
      readonly [what: string, failure: Effect.Effect<never, Errors.StoreError>, reason: object]
    > = [
      ["StoreCorrupt", Effect.fail(corrupt), corrupt],
      ["StoreRejected", Effect.fail(rejected), rejected],
      ["StoreSchemaMismatch", Effect.fail(mismatch), { _tag: "StoreRejected", target: "The store" }],
      ["a defect", Effect.die(new Error("a bug in the store")), {
        _tag: "StoreRejected",
        detail: expect.stringContaining("a bug in the store")
      }]
    ]

    for (const [what, refusal, reason] of refusals) {
      test(`a step with ${what} stops the run, and resume goes on when that is mended`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const { add, entries } = ledger()
            yield* Effect.gen(function*() {
              faults.commit = (batch, call) => batch.some(records("a")) ? refusal : call
              const error = yield* failure(Job.execute())
              expect(error).toMatchObject({ _tag: "RunStopped", reason })
              expect(yield* rowOf(jobId)).toMatchObject({ status: "STOPPED", stopReason: reason })
              faults.commit = (_, call) => call
              yield* Job.resume(jobId)
              expect(yield* Job.await(jobId)).toBe("a")
            }).pipe(withJob(Effect.catchAllCause(stepOf("a", add), () => Effect.succeed("caught"))))
            expect(entries).toEqual(["a", "a"])
          })
        ))

      test(`the history of a run with ${what} stops it`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            yield* plant(leftBy("dead", jobId))
            faults.history = () => refusal
            yield* Effect.gen(function*() {
              expect(yield* failure(Job.await(jobId))).toMatchObject({ _tag: "RunStopped", reason })
            }).pipe(withJob(stepOf("a")))
          })
        ))
    }

    for (const [what, refusal, reason] of refusals.slice(0, 3)) {
      test(`the end of a run with ${what} stops it`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            faults.commit = (batch, call) => batch.some(brings("COMPLETED")) ? refusal : call
            const error = yield* failure(Job.execute())
            expect(error).toMatchObject({ _tag: "RunStopped", reason })
            expect(yield* statusOf(jobId)).toBe("STOPPED")
          }).pipe(withJob(Effect.succeed(1)))
        ))
    }

    test("the end of a run with a defect tells it, and the next who awaits the run ends it", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          faults.commit = (batch, call) =>
            batch.some(brings("COMPLETED")) ? Effect.die(new Error("a bug in the store")) : call
          const exit = yield* Effect.exit(Job.execute())
          expect(Exit.isFailure(exit) && Cause.pretty(exit.cause)).toContain("a bug in the store")
          faults.commit = (_, call) => call
          expect(yield* Job.await(jobId)).toBe(1)
        }).pipe(withJob(Effect.succeed(1)))
      ))

    test("one run leaves the others alone, even those in the same batch", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          faults.commit = (batch, call) =>
            batch.some((update) => update.workflowId === "bad" && records("s")(update)) ? Effect.fail(rejected) : call
          const ids = ["a", "b", "bad", "c", "d"]
          const ends = yield* Effect.forEach(
            ids,
            (workflowId) => Effect.either(Job.execute(undefined, { workflowId })),
            {
              concurrency: "unbounded"
            }
          )
          expect(ends.map(Either.isRight)).toEqual([true, true, false, true, true])
        }).pipe(withJob(stepOf("s")))
      ))

    test("a start that finds a damaged run leaves the others in its batch alone", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* Job.execute(undefined, { workflowId: "damaged" })
          const corrupt = new Errors.StoreCorrupt({ ...where, workflowId: "damaged" })
          faults.commit = (_, call) =>
            Effect.map(
              call,
              (answers) =>
                answers.map((answer) => answer._tag === "Exists" ? { ...answer, run: Either.left(corrupt) } : answer)
            )
          const [good, bad] = yield* Effect.all([
            Job.execute(undefined, { workflowId: "good" }),
            Effect.flip(Job.start(undefined, { workflowId: "damaged" }))
          ], { concurrency: "unbounded" })
          expect(good).toBe("s")
          expect(bad).toEqual(corrupt)
        }).pipe(withJob(stepOf("s")))
      ))

    test("to open a failed step again says so, and the run stays as it is", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("no")
          faults.commit = (batch, call) =>
            batch.some((update) => update.reopen.length > 0) ? Effect.fail(rejected) : call
          expect(yield* failure(Job.resume(jobId))).toBe(rejected)
          expect(yield* statusOf(jobId)).toBe("FAILED")
        }).pipe(withJob(Effect.fail("no").pipe(Step.durable("s", { error: Schema.String }))))
      ))

    test("even that a run is stopped is logged, and told to whoever waits", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { captured, entries } = logs()
          faults.commit = (batch, call) => batch.some(brings("STOPPED")) ? Effect.fail(rejected) : call
          const reason = yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.die("boom")), captured)
          expect(reason.detail).toContain("boom")
          expect(entries).toContain(`ERROR Run "job/1" is stopped, which could not be recorded ${rejected.message}`)
          expect(yield* statusOf(jobId)).toBe("RUNNING")
        })
      ))
  })

  describe("a run that stops", () => {
    test("records nothing more, not even an outcome that comes in the same moment", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const both = gate()
        const body = (first: Effect.Effect<void>) =>
          Branch.all([
            Effect.zipRight(both.pass, first).pipe(Step.durable("dies")),
            Effect.zipRight(both.pass, add("ran")).pipe(Step.durable("ends"))
          ], { concurrency: "unbounded" }).pipe(Effect.as(1))
        const fiber = yield* Effect.fork(
          Job.execute().pipe(stoppedBy("StepDied"), withJob(body(Effect.die("boom"))))
        )
        yield* both.begun
        yield* turns(5)
        yield* both.open
        yield* Fiber.join(fiber)
        expect(entries).toEqual(["ran"])
        expect(yield* historyOf(jobId)).toEqual([])
        yield* Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(withJob(body(Effect.void)))
        expect(entries).toEqual(["ran", "ran"])
      }))
  })

  describe("a run on its way here", () => {
    /** Creating a run takes until the gate opens. */
    const slowInserts = (
      use: (inserts: ReturnType<typeof gate>) => Effect.Effect<void, unknown, StepStore.StepStore | Scope.Scope>
    ) =>
      withFaults((faults) => {
        const inserts = gate()
        faults.commit = (batch, call) =>
          batch.some((update) => update.insert !== null) ? Effect.zipLeft(call, inserts.pass) : call
        return use(inserts)
      })

    test("as the layer of its workflow closes is given back, and goes on when the layer is there again", () =>
      slowInserts((inserts) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const scope = yield* Scope.make()
          yield* Layer.buildWithScope(live(stepOf("s", add)), scope)
          const started = yield* Effect.fork(Job.start())
          yield* inserts.begun
          yield* Scope.close(scope, Exit.void)
          yield* inserts.open
          expect(yield* Fiber.join(started)).toBe(jobId)
          expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", owner: null })
          expect(entries).toEqual([])
          yield* Layer.build(live(stepOf("s", add)))
          expect(yield* Job.await(jobId)).toBe("s")
          expect(entries).toEqual(["s"])
        }).pipe(inEngine())
      ))

    test("as the engine closes does not live there any more, and whoever called is told", () =>
      slowInserts((inserts) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const engine = yield* openEngine()
          const call = yield* Effect.fork(engine.run(Effect.flip(Workflow.run("wf", stepOf("s", add)))))
          yield* inserts.begun
          const closing = yield* Effect.fork(engine.close)
          yield* turns(5)
          yield* inserts.open
          yield* Fiber.join(closing)
          expect(yield* Fiber.join(call)).toMatchObject({ _tag: "StoreUnavailable" })
          expect(entries).toEqual([])
          const next = yield* openEngine()
          expect(yield* next.run(Workflow.run("wf", stepOf("s", add)))).toBe("s")
          expect(entries).toEqual(["s"])
        })
      ))

    test("comes after an earlier life of it here has ended", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const held = gate()
        const lost = gate()
        let life = 0
        const body = Effect.suspend(() => {
          const number = ++life
          return Branch.all([
            Effect.zipRight(number === 1 ? held.pass : Effect.void, add(`held ${number}`)).pipe(
              Effect.uninterruptible,
              Step.durable("held")
            ),
            Effect.zipRight(number === 1 ? lost.pass : Effect.void, add(`lost ${number}`)).pipe(Step.durable("lost"))
          ], { concurrency: "unbounded", discard: true })
        })
        const engine = yield* openEngine({ workflows: [live(Effect.as(body, 1))] })
        yield* engine.run(Job.start())
        yield* Effect.zipRight(held.begun, lost.begun)
        yield* TestClock.adjust("3 seconds")
        yield* steal(jobId)
        yield* lost.open
        yield* turns(20)
        // The thief gives it back, and this engine looks for runs, while the first life still waits for its step.
        yield* plant({ ...newRun(jobId), epoch: 2, insert: null, patch: pendingPatch(0) })
        yield* TestClock.adjust("2 seconds")
        yield* turns(20)
        expect(entries).toEqual(["lost 1"])
        expect(yield* rowOf(jobId)).toMatchObject({ status: "RUNNING", epoch: 3 })
        yield* held.open
        expect(yield* engine.run(Job.await(jobId))).toBe(1)
        expect(entries).toEqual(["lost 1", "held 1", "held 2", "lost 2"])
        expect(yield* engine.close).toBe(0)
        expect(yield* statusOf(jobId)).toBe("COMPLETED")
      }))

    test("is stopped once where the store did that and denied it, and nobody says that it could not", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { captured, entries } = logs()
          let denied = 0
          faults.commit = (batch, call) =>
            batch.some(brings("STOPPED")) && denied++ === 0
              ? Effect.zipRight(call, Effect.fail(new Errors.StoreBusy(where)))
              : call
          const dies = Effect.die("boom").pipe(Step.durable("s"))
          yield* captured(afterAWhile(Job.execute().pipe(stoppedBy("StepDied"))).pipe(withJob(dies)))
          // The step and its attempt are part of what was written: once more they are refused.
          expect(denied).toBe(2)
          expect(entries.filter((entry) => entry.startsWith("ERROR"))).toEqual([])
          expect(yield* rowOf(jobId)).toMatchObject({ status: "STOPPED", stopReason: { _tag: "StepDied" } })
        })
      ))

    test("does not wait for what an earlier life of it still tries to write, nor does the engine that closes", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          let deaths = 1
          const engine = yield* openEngine({
            workflows: [live(Effect.suspend(() => deaths-- > 0 ? Effect.die("boom") : Effect.succeed("lives")))],
            slowPoll: "1000 days"
          })
          // It is stopped, and told that it is not, and tries again in a while, which does not pass.
          let untold = 0
          faults.commit = (batch, call) =>
            batch.some(brings("STOPPED")) && untold++ === 0
              ? Effect.zipRight(call, Effect.fail(new Errors.StoreBusy(where)))
              : call
          yield* engine.run(Job.start())
          yield* eventually(statusOf(jobId), (status) => status === "STOPPED")
          yield* engine.run(Job.resume(jobId))
          yield* eventually(statusOf(jobId), (status) => status === "COMPLETED")
          yield* engine.close
          expect(untold).toBe(1)
        })
      ))

    test("is not lost where the call that claims it is interrupted", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const claims = gate()
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.die("boom")))
          yield* Effect.gen(function*() {
            faults.claim = (options, call) =>
              options.workflowId === null ? Effect.succeed([]) : Effect.zipLeft(call, claims.pass)
            const resuming = yield* Effect.fork(Job.resume(jobId))
            yield* claims.begun
            const interrupted = yield* Effect.fork(Fiber.interrupt(resuming))
            yield* turns(5)
            yield* claims.open
            yield* Fiber.join(interrupted)
            yield* eventually(statusOf(jobId), (status) => status === "COMPLETED")
          }).pipe(withJob(stepOf("s")))
        })
      ))

    test("whose payload the codec dies of is stopped, and those claimed with it are not", () => {
      let poisonous = false
      const codec = Layer.succeed(PayloadCodec.PayloadCodec, {
        name: "touchy",
        encode: Effect.succeed,
        decode: (stored) =>
          poisonous && stored.includes("poison")
            ? Effect.die(new Error("the codec cannot take it"))
            : Effect.succeed(stored)
      })
      const Named = Workflow.make({
        name: "named",
        payload: { what: Schema.String },
        idempotencyKey: ({ what }) => what
      })
      return Effect.gen(function*() {
        yield* Effect.forEach(["a", "poison", "b"], (what) => Named.start({ what })).pipe(inEngine())
        poisonous = true
        yield* Effect.gen(function*() {
          yield* Named.await("named/a")
          yield* Named.await("named/b")
          poisonous = false
          const reason = yield* Named.await("named/poison").pipe(stoppedBy("StoreCorrupt"))
          expect(reason.detail).toContain("the codec \"touchy\" died: Error: the codec cannot take it")
        }).pipe(inEngine({ workflows: [Named.toLayer(() => Effect.void)] }))
      }).pipe(Effect.provide(Layer.provide(MemoryStepStore.layer, codec)))
    })
  })

  describe("a run that another worker has taken over", () => {
    const ended = (outcome: string): StepStore.RunUpdate => ({
      ...newRun(jobId),
      epoch: 2,
      insert: null,
      patch: {
        status: "COMPLETED",
        owner: null,
        stopReason: null,
        wakeAt: null,
        outcome: JSON.stringify(outcome),
        updatedAt: 0,
        endedAt: 0
      }
    })

    test("leaves at its next record, writes nothing more, and is awaited from there", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Job.execute())
          yield* begun
          yield* steal(jobId)
          yield* open
          yield* turns(20)
          expect(fiber.unsafePoll()).toBeNull()
          expect(yield* rowOf(jobId)).toMatchObject({ status: "RUNNING", owner: "thief", epoch: 2 })
          expect(yield* historyOf(jobId)).toEqual([])
          yield* plant(ended("theirs"))
          expect(yield* Fiber.join(fiber)).toBe("theirs")
        }).pipe(withJob(Effect.zipRight(
          stepOf("a", () => pass),
          stepOf("b", add).pipe(Effect.ensuring(add("finalized")))
        )))
        expect(entries).toEqual([])
      }))

    test("leaves at its end", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Job.execute())
          yield* begun
          yield* steal(jobId)
          yield* open
          yield* turns(20)
          yield* plant(ended("theirs"))
          expect(yield* Fiber.join(fiber)).toBe("theirs")
        }).pipe(withJob(Effect.as(pass, "mine")))
      }))

    test("leaves before its body has begun, if that happens while it is loaded", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          yield* plant(leftBy("dead", jobId))
          const context = yield* Effect.context<StepStore.StepStore>()
          faults.history = (_, call) => {
            faults.history = (_, next) => next
            return Effect.zipLeft(call, steal(jobId).pipe(Effect.scoped, Effect.orDie, Effect.provide(context)))
          }
          yield* Effect.gen(function*() {
            yield* eventually(rowOf(jobId), (row) => row.owner === "thief")
            yield* turns(20)
          }).pipe(withJob(Effect.as(add("body"), 1)))
          expect(entries).toEqual([])
          expect(yield* rowOf(jobId)).toMatchObject({ owner: "thief", epoch: 3 })
          expect(yield* stepsOf(jobId)).toEqual(["0 a IN_PROGRESS 1"])
        })
      ))
  })

  describe("its limits", () => {
    test("of a value stops the run", () =>
      Effect.gen(function*() {
        const reason = yield* Job.execute().pipe(
          stoppedBy("LimitExceeded"),
          withJob(Effect.succeed("x".repeat(9)).pipe(Step.durable("s")), { limits: { value: 10 } })
        )
        expect(reason).toMatchObject({ limit: 10, actual: 11 })
      }))

    test("of a history stops the run, in its first life and in the next", () =>
      Effect.gen(function*() {
        const body = Effect.zipRight(Effect.zipRight(stepOf("a"), stepOf("b")), stepOf("c"))
        const run = Effect.gen(function*() {
          yield* Job.resume(jobId)
          return yield* stoppedBy("LimitExceeded")(Job.await(jobId))
        }).pipe(withJob(body, { limits: { history: 2 } }))
        yield* Job.start().pipe(inEngine())
        for (const reason of [yield* run, yield* run]) {
          expect(reason).toMatchObject({ what: "the number of recorded operations", limit: 2, actual: 3 })
        }
        expect(yield* recorded(jobId)).toEqual(["0 a", "1 b"])
      }))

    test("of a reservation stops the run before anything is forked", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const branches = (n: number) => Branch.all(Array.from({ length: n }, () => stepOf("s", add)), { discard: true })
        const reason = yield* Job.execute().pipe(
          stoppedBy("LimitExceeded"),
          withJob(Effect.as(Effect.zipRight(branches(3), branches(4)), 1), { limits: { reservation: 3 } })
        )
        expect(reason).toMatchObject({ what: "the number of branches reserved by Branch.all", limit: 3, actual: 4 })
        expect(entries).toHaveLength(3)
      }))
  })

  describe("a history longer than a page", () => {
    const ids = (count: number) => Array.from({ length: count }, (_, i) => `s${i}`)

    for (const count of [1_000, 1_001, 2_500]) {
      test(`of ${count} records is replayed without running anything`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const steps = Effect.as(Effect.forEach(ids(count), (id) => stepOf(id, add), { discard: true }), count)
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps, Effect.die("end"))))
          expect(entries).toHaveLength(count)
          const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
          expect(yield* again.pipe(withJob(Effect.zipLeft(steps, stepOf("last", add))))).toBe(count)
          expect(entries.slice(count)).toEqual(["last"])
          expect((yield* historyOf(jobId)).map((row) => row.position)).toEqual(
            Array.from({ length: count + 1 }, (_, i) => i)
          )
        }))
    }

    test("whose next page is on its way while the body is woken from outside is replayed all the same", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const pages = gate()
          const outside = Deferred.unsafeMake<void>(FiberId.none)
          const body = (end: Effect.Effect<void>, between: Effect.Effect<void>) =>
            Effect.forEach(ids(1_000), (id) => stepOf(id, add), { discard: true }).pipe(
              Effect.zipRight(between),
              Effect.zipRight(stepOf("last", add)),
              Effect.zipLeft(end)
            )
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(body(Effect.die("end"), Effect.void)))
          faults.history = (after, call) => after === -1 ? call : Effect.zipRight(pages.pass, call)
          yield* Effect.gen(function*() {
            yield* Job.resume(jobId)
            yield* pages.begun
            yield* Deferred.succeed(outside, undefined)
            yield* turns(5)
            yield* pages.open
            expect(yield* Job.await(jobId)).toBe("last")
            expect(entries).toHaveLength(1_001)
          }).pipe(withJob(body(Effect.void, Deferred.await(outside))))
        })
      ))

    test("in branches is replayed in order", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const steps = (end: Effect.Effect<void>) =>
          Branch.forEach(ids(1_200), (id) => stepOf(id, add), { concurrency: 7 }).pipe(
            Effect.tap(() => end),
            Effect.map((all) => all.length)
          )
        yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(steps(Effect.die("end"))))
        const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
        expect(yield* again.pipe(withJob(steps(Effect.void)))).toBe(1_200)
        expect(entries).toHaveLength(1_200)
      }))

    test("of which the body asks for the first page alone stops as changed", () =>
      Effect.gen(function*() {
        const steps = (count: number) =>
          Effect.as(Effect.forEach(ids(count), (id) => stepOf(id), { discard: true }), count)
        yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps(1_003), Effect.die("end"))))
        const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
        const reason = yield* again.pipe(stoppedBy("NonDeterminismError"), withJob(steps(1_000)))
        expect(reason).toMatchObject({ recorded: { address: "1000", id: "s1000" }, requested: null })
      }))

    test("of few large values is read in pages of a few of them", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const { add, entries } = ledger()
        const mebibyte = 1024 * 1024
        // With the quotes 1.5 MiB: three of them come to 4 MiB, and two do not.
        const text = "x".repeat(1.5 * mebibyte - 2)
        const steps = Effect.forEach(ids(7), (id) => Effect.as(add(id), text).pipe(Step.durable(id)))
        const characters = Effect.map(steps, (texts) => texts.join("").length)
        yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps, Effect.die("end"))))
        const pages: Array<number> = []
        const watched: typeof store = {
          ...store,
          history: (...page) =>
            Effect.tap(store.history(...page), ({ rows }) => Effect.sync(() => pages.push(rows.length)))
        }
        const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(
          withJob(characters),
          Effect.provideService(StepStore.StepStore, watched)
        )
        expect(yield* again).toBe(7 * text.length)
        expect(pages).toEqual([3, 3, 1])
        expect(entries).toHaveLength(7)
      }))

    test("that ends with a page is read no further", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const steps = Effect.as(Effect.forEach(ids(1_000), (id) => stepOf(id), { discard: true }), 1)
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps, Effect.die("end"))))
          let asked = 0
          faults.history = (_, call) => {
            asked++
            return call
          }
          const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
          expect(yield* again.pipe(withJob(steps))).toBe(1)
          expect(asked).toBe(1)
        })
      ))

    test("of which a page is left that holds nothing for the body completes, also when it can be read only later", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const steps = Effect.as(Effect.forEach(ids(1_000), (id) => stepOf(id), { discard: true }), 1)
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps, Effect.die("end"))))
          const { epoch } = yield* rowOf(jobId)
          const last = (yield* historyOf(jobId)).at(-1)!
          // A cancellation that came when the body had ended: no operation asks for it.
          const cancel = { ...last, stepKey: `${jobId}:cancel`, kind: "cancel", stepId: "cancelled", position: 1_000 }
          yield* plant({ ...update(jobId), epoch, steps: [cancel] })
          let asked = 0
          faults.history = (after, call) => after !== -1 && asked++ < 2 ? Effect.fail(passing[0]!) : call
          const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
          expect(yield* afterAWhile(again).pipe(withJob(steps))).toBe(1)
          expect(asked).toBe(3)
        })
      ))

    test("whose next page is damaged stops the run", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const corrupt = new Errors.StoreCorrupt({ ...where, workflowId: jobId })
          const steps = (count: number) =>
            Effect.as(Effect.forEach(ids(count), (id) => stepOf(id), { discard: true }), 1)
          yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(steps(1_001), Effect.die("end"))))
          faults.history = (after, call) => after === -1 ? call : Effect.fail(corrupt)
          const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId))
          expect(yield* again.pipe(stoppedBy("StoreCorrupt"), withJob(steps(1_000)))).toEqual(corrupt)
          expect(yield* again.pipe(stoppedBy("StoreCorrupt"), withJob(steps(1_001)))).toEqual(corrupt)
        })
      ))

    test("of a failed run is read whole to see what may run again", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const attempted = Effect.flatMap(Step.attempt, (n) =>
          Effect.zipRight(add(`attempt ${n}`), n === 1 ? Effect.fail("no") : Effect.succeed("yes"))).pipe(
            Step.durable("last", { error: Schema.String })
          )
        yield* Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("no")
          yield* Job.resume(jobId)
          expect(yield* Job.await(jobId)).toBe("yes")
        }).pipe(withJob(Effect.zipRight(
          Effect.forEach(ids(1_000), (id) =>
            stepOf(id), { discard: true }),
          attempted
        )))
        expect(entries).toEqual(["attempt 1", "attempt 2"])
      }))
  })
})

describe("a residency", () => {
  it.scoped("that is to leave before it lives never begins its body, and gives the run back", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const store = yield* StepStore.StepStore
      const faults = yield* FaultPoints
      yield* plant(leftBy("worker", "wf"))
      const clock = yield* Effect.clock
      const residency = new Residency(
        {
          workflowId: "wf",
          name: "job",
          generation: 0,
          epoch: 1,
          begunAt: 0,
          deadlineAt: null,
          cancelled: false,
          inbox: 0,
          parent: null,
          fingerprint: "",
          trace: null,
          parks: true
        },
        store,
        {
          journal: yield* Journal.make(store, faults),
          namespace: store.namespace,
          sharedClient: null,
          clock,
          attendant: nobody,
          faults,
          limits: defaultLimits,
          unrequestedAfter: 1,
          deadlockAfter: 1,
          fork: () => {},
          after: () => () => {},
          readAfter: () => {},
          parkGrace: 1,
          crowded: () => false,
          readMail: () => {},
          readHistory: () => Effect.succeed({ rows: [], more: false }),
          awaited: new Awaited(store.ended, () => {}),
          parked: () => {}
        }
      )
      const leaving = yield* Effect.fork(residency.leave)
      yield* turns(3)
      const runtime = yield* Effect.runtime<never>()
      const program: Program = {
        effect: () => add("began"),
        outcome: { success: null, error: null },
        runtime: runtime as Runtime.Runtime<unknown>,
        next: () => program
      }
      yield* residency.live(false, program)
      yield* Fiber.join(leaving)
      expect(entries).toEqual([])
      expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null })
    }).pipe(Effect.provide(MemoryStepStore.layer)))
})

describe("Engine over the application's own client", () => {
  it.scoped("refuses calls from inside a transaction, which would wait for themselves", () =>
    Effect.gen(function*() {
      const sql = yield* SqliteClient.SqliteClient
      const calls: ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown, Engine.Engine>]> = [
        ["await", Job.execute()],
        ["await", Job.await(jobId)],
        ["poll", Job.poll(jobId)],
        ["resume", Job.resume(jobId)],
        ["Workflow.run", Workflow.run("script", stepOf("s"))]
      ]
      yield* Effect.gen(function*() {
        for (const [name, call] of calls) {
          const exit = yield* Effect.exit(sql.withTransaction(call))
          expect(Exit.isFailure(exit) && Cause.pretty(exit.cause)).toContain(
            `${name} was called inside a transaction of the SqlClient`
          )
        }
        expect(yield* Job.execute()).toBe("s")
      }).pipe(withJob(stepOf("s")))
    }).pipe(Effect.provide(
      Layer.provideMerge(SqliteStepStore.layerClient(), SqliteClient.layer({ filename: ":memory:" }))
    )))

  it.scoped("leaves a store with a connection of its own alone", () =>
    Effect.gen(function*() {
      const sql = yield* SqliteClient.SqliteClient
      expect(yield* sql.withTransaction(Job.execute()).pipe(withJob(stepOf("s")))).toBe("s")
    }).pipe(Effect.provide(
      Layer.merge(SqliteStepStore.layer({ filename: ":memory:" }), SqliteClient.layer({ filename: ":memory:" }))
    )))
})
