import { describe, expect, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Schedule, Schema, Stream, TestClock } from "effect"
import { Branch, Engine, Errors, MemoryStepStore, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { newRun } from "./suites/rows.js"
import { withFaults } from "./support/faults.js"
import {
  attemptsOf,
  closing,
  engineLayer,
  eventually,
  gate,
  historyOf,
  inEngine,
  ledger,
  openEngine,
  openScope,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  testOn,
  turns
} from "./support/harness.js"
import { stores, temporaryFile } from "./support/stores.js"

const Job = Workflow.make({
  name: "job",
  payload: { n: Schema.Number },
  success: Schema.String,
  idempotencyKey: ({ n }) => String(n)
})

const where = { target: "the test's store", detail: "as the test wants it" }

/** A workflow whose runs each wait until they are let go, and what of them has lived here. */
const waitingJobs = () => {
  const gates = new Map<number, ReturnType<typeof gate>>()
  const gateOf = (n: number) => {
    const known = gates.get(n) ?? gate()
    gates.set(n, known)
    return known
  }
  const lives = { now: 0, most: 0 }
  const layer = Job.toLayer(({ n }) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        lives.now++
        lives.most = Math.max(lives.most, lives.now)
      }),
      () => Effect.as(Effect.zipRight(stepOf("begin"), Step.durable(gateOf(n).pass, "wait")), `job ${n}`),
      () => Effect.sync(() => lives.now--)
    )
  )
  return { layer, lives, begun: (n: number) => gateOf(n).begun, open: (n: number) => gateOf(n).open }
}

/** The numbers of the runs that are where they are said to be. */
const jobsThat = (are: "PENDING" | "RUNNING" | "COMPLETED") =>
  Effect.flatMap(
    StepStore.StepStore,
    (store) =>
      Effect.map(store.runs({ after: null, limit: 1_000 }), (runs) =>
        runs.filter((run) =>
          run.status === are && (run.owner === null) === (are !== "RUNNING")
        )
          .map((run) => Number(run.workflowId.slice("job/".length)))
          .sort((a, b) => a - b))
  )

/** The claims that are made, with what they ask for. */
const claims = (store: StepStore.StepStore["Type"]) => {
  const asked: Array<StepStore.ClaimOptions> = []
  return {
    asked,
    store: {
      ...store,
      claim: (options: StepStore.ClaimOptions) => {
        asked.push(options)
        return store.claim(options)
      }
    }
  }
}

const plant = (...runs: ReadonlyArray<StepStore.RunUpdate>) =>
  Effect.flatMap(StepStore.StepStore, (store) => store.commit(runs))

const job = (n: number, owner: string | null) =>
  newRun(`job/${n}`, {
    name: "job",
    payload: JSON.stringify({ n }),
    owner,
    status: owner === null ? "PENDING" : "RUNNING",
    createdAt: n
  })

const startAll = (ns: ReadonlyArray<number>) => Effect.forEach(ns, (n) => Job.start({ n }))

describe.each(stores)("Workers (%s)", (_, store) => {
  const test = testOn(store)

  describe("a limit on resident runs", () => {
    test("leaves further runs to whoever has room, and takes them as others end", () =>
      Effect.gen(function*() {
        const { begun, layer, lives, open } = waitingJobs()
        yield* Effect.gen(function*() {
          yield* startAll([1, 2, 3, 4, 5])
          yield* Effect.zipRight(begun(1), begun(2))
          yield* turns(20)
          expect([yield* jobsThat("RUNNING"), yield* jobsThat("PENDING")]).toEqual([[1, 2], [3, 4, 5]])
          yield* open(2)
          yield* begun(3)
          expect([yield* jobsThat("RUNNING"), yield* jobsThat("PENDING")]).toEqual([[1, 3], [4, 5]])
          yield* Effect.forEach([1, 3, 4, 5], open)
          expect(yield* Effect.forEach([1, 2, 3, 4, 5], (n) => Job.await(`job/${n}`))).toEqual(
            ["job 1", "job 2", "job 3", "job 4", "job 5"]
          )
        }).pipe(inEngine({ maxResidentRuns: 2, workflows: [layer] }))
        expect(lives).toEqual({ now: 0, most: 2 })
      }))

    test("is what claims ask for; an engine that is full asks for nothing, and one with room for 100 at most", () =>
      Effect.gen(function*() {
        const { asked, store } = claims(yield* StepStore.StepStore)
        yield* plant(...Array.from({ length: 8 }, (_, n) => job(n, null)))
        const { begun, layer, lives, open } = waitingJobs()
        yield* Effect.gen(function*() {
          yield* Effect.forEach([0, 1, 2], begun)
          yield* turns(20)
          const full = asked.length
          expect(asked.every(({ limit }) => limit <= 3)).toBe(true)
          yield* startAll([8])
          yield* Effect.zipRight(TestClock.adjust("1 minute"), turns(20))
          expect(asked.length).toBe(full)
          yield* open(1)
          // By the test's clock, this one is as old as the first.
          yield* begun(8)
          yield* turns(20)
          expect([yield* jobsThat("RUNNING"), yield* jobsThat("PENDING")]).toEqual([[0, 2, 8], [3, 4, 5, 6, 7]])
          expect(new Set(asked.slice(full).map(({ limit }) => limit))).toEqual(new Set([1]))
          yield* Effect.forEach([0, 2, 3, 4, 5, 6, 7, 8], open)
          yield* eventually(jobsThat("COMPLETED"), (done) => done.length === 9)
        }).pipe(
          inEngine({ maxResidentRuns: 3, workflows: [layer] }),
          Effect.provideService(StepStore.StepStore, store)
        )
        expect(lives.most).toBe(3)
        asked.length = 0
        yield* plant(...Array.from({ length: 230 }, (_, n) => job(n + 100, null)))
        yield* eventually(jobsThat("COMPLETED"), (done) => done.length === 239).pipe(
          inEngine({ workflows: [Job.toLayer(({ n }) => Effect.succeed(`job ${n}`))] }),
          Effect.provideService(StepStore.StepStore, store)
        )
        expect(Math.max(...asked.map(({ limit }) => limit))).toBe(100)
      }))

    test("does not count runs of Workflow.run, which are never refused", () =>
      Effect.gen(function*() {
        const { begun, layer, open } = waitingJobs()
        const scripts = [gate(), gate()]
        yield* Effect.gen(function*() {
          const living = yield* Effect.forEach(scripts, ({ pass }, i) =>
            Effect.fork(Workflow.run(`script-${i}`, stepOf("s", () => pass))))
          yield* Effect.forEach(scripts, ({ begun }) =>
            begun)
          yield* startAll([1, 2])
          yield* begun(1)
          expect(yield* Workflow.run("another", stepOf("s"))).toBe("s")
          expect([yield* jobsThat("RUNNING"), yield* jobsThat("PENDING")]).toEqual([[1, NaN, NaN], [2]])
          yield* Effect.forEach(scripts, ({ open }) => open)
          yield* Effect.forEach(living, Fiber.join)
          yield* Effect.zipRight(open(1), open(2))
          expect(yield* Job.await("job/2")).toBe("job 2")
        }).pipe(inEngine({ maxResidentRuns: 1, workflows: [layer] }))
      }))

    test("leaves an orphan that is awaited, and a run that is resumed, until there is room", () =>
      Effect.gen(function*() {
        const { begun, layer, open } = waitingJobs()
        yield* Effect.gen(function*() {
          yield* startAll([1])
          yield* begun(1)
          const { owner } = yield* rowOf("job/1")
          yield* plant(job(2, owner), job(3, "dead"), {
            ...job(4, null),
            insert: { ...job(4, null).insert!, status: "STOPPED" }
          })
          const orphan = yield* Effect.fork(Job.await("job/2"))
          yield* Effect.fork(Job.await("job/3"))
          yield* eventually(rowOf("job/2"), (row) => row.owner === null)
          yield* Job.resume("job/4")
          yield* turns(20)
          expect(yield* rowOf("job/2")).toMatchObject({ status: "PENDING", epoch: 1 })
          expect(yield* rowOf("job/4")).toMatchObject({ status: "PENDING", owner: null })
          yield* Effect.forEach([1, 2, 3, 4], open)
          expect(yield* Fiber.join(orphan)).toBe("job 2")
          expect(yield* Job.await("job/4")).toBe("job 4")
          expect(yield* rowOf("job/2")).toMatchObject({ status: "COMPLETED", epoch: 2 })
        }).pipe(inEngine({ maxResidentRuns: 1, workflows: [layer] }))
      }))

    test("delays the recovery of what the dead have left, and not until the next poll", () =>
      Effect.gen(function*() {
        const { begun, layer, open } = waitingJobs()
        yield* plant(job(1, "dead"), job(2, "dead"), job(3, "dead"))
        yield* Effect.gen(function*() {
          for (const n of [1, 2, 3]) {
            yield* begun(n)
            expect(yield* jobsThat("RUNNING")).toEqual([1, 2, 3].slice(n - 1))
            expect((yield* rowOf(`job/${n}`)).epoch).toBe(2)
            yield* open(n)
          }
          expect(yield* Job.await("job/3")).toBe("job 3")
        }).pipe(inEngine({ maxResidentRuns: 1, workflows: [layer] }))
      }))

    test("is heard by those who leave while a claim is under way", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { begun, layer, lives, open } = waitingJobs()
          yield* Effect.gen(function*() {
            yield* startAll([1, 2, 3, 4, 5])
            yield* Effect.zipRight(begun(1), begun(2))
            const held = gate()
            faults.claim = (_, call) => Effect.zipRight(held.pass, call)
            yield* Effect.forEach([1, 2, 3, 4, 5], open)
            yield* held.begun
            yield* eventually(jobsThat("COMPLETED"), (done) => done.length === 2)
            yield* held.open
            yield* eventually(jobsThat("COMPLETED"), (done) => done.length === 5)
          }).pipe(inEngine({ maxResidentRuns: 2, workflows: [layer] }))
          expect(lives.most).toBe(2)
        })
      ))

    test("survives a claim that fails: the next poll makes it again", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { begun, layer, open } = waitingJobs()
          yield* Effect.gen(function*() {
            yield* startAll([1, 2])
            yield* begun(1)
            let failed = 0
            faults.claim = () => {
              failed++
              return Effect.fail(new Errors.StoreBusy(where))
            }
            yield* Effect.zipRight(open(1), Job.await("job/1"))
            yield* turns(50)
            expect(failed).toBeLessThan(5)
            expect(yield* jobsThat("PENDING")).toEqual([2])
            faults.claim = (_, call) => call
            yield* TestClock.adjust("5 seconds")
            yield* Effect.zipRight(begun(2), open(2))
            expect(yield* Job.await("job/2")).toBe("job 2")
          }).pipe(inEngine({ maxResidentRuns: 1, workflows: [layer] }))
        })
      ))
  })

  describe("beats", () => {
    const heartbeat = { heartbeat: "1 second", missedBeats: 3, slowPoll: "1000 days" } as const
    const hung: StepStore.WorkerInfo = { id: "hung", host: "elsewhere", pid: 1, startedAt: 0 }
    const second = Effect.zipRight(TestClock.adjust("1 second"), turns(20))

    test("that a worker has missed make its runs those of others, and no sooner", () =>
      Effect.gen(function*() {
        yield* Effect.flatMap(StepStore.StepStore, (store) => store.register(hung))
        yield* plant(job(1, "hung"))
        yield* Effect.gen(function*() {
          // One to see it, and three without a beat of its.
          for (let beat = 0; beat < 4; beat++) {
            expect((yield* rowOf("job/1")).owner).toBe("hung")
            yield* second
          }
          expect(yield* Job.await("job/1")).toBe("begin")
        }).pipe(inEngine({ ...heartbeat, workflows: [Job.toLayer(() => stepOf("begin"))] }))
      }))

    test("that a worker makes keep its runs, and give it runs again when it has come back", () =>
      Effect.gen(function*() {
        const { asked, store } = claims(yield* StepStore.StepStore)
        yield* store.register(hung)
        yield* plant(job(1, "hung"))
        const takes = () => asked.some(({ dead }) => dead.includes("hung"))
        yield* Effect.gen(function*() {
          for (let beat = 0; beat < 10; beat++) {
            yield* Effect.zipRight(store.beat(hung), second)
          }
          expect(takes()).toBe(false)
          yield* Effect.zipRight(TestClock.adjust("3 seconds"), turns(20))
          expect(takes()).toBe(true)
          expect(yield* Job.await("job/1")).toBe("begin")
          asked.length = 0
          yield* plant(job(2, "hung"))
          yield* Effect.zipRight(store.beat(hung), second)
          expect(takes()).toBe(false)
          expect((yield* rowOf("job/2")).owner).toBe("hung")
        }).pipe(
          inEngine({ ...heartbeat, workflows: [Job.toLayer(() => stepOf("begin"))] }),
          Effect.provideService(StepStore.StepStore, store)
        )
      }))

    test("that fail say nothing of others", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* Effect.flatMap(StepStore.StepStore, (store) => store.register(hung))
          yield* plant(job(1, "hung"))
          yield* Effect.gen(function*() {
            yield* Effect.zipRight(second, second)
            faults.beat = () => Effect.fail(new Errors.StoreBusy(where))
            yield* Effect.zipRight(TestClock.adjust("1 minute"), turns(20))
            faults.beat = (call) => call
            yield* second
            expect((yield* rowOf("job/1")).owner).toBe("hung")
            yield* second
            expect(yield* Job.await("job/1")).toBe("begin")
          }).pipe(inEngine({ ...heartbeat, workflows: [Job.toLayer(() => stepOf("begin"))] }))
        })
      ))

    test("that an engine has missed lose it its runs, to which it cannot write, and it goes on with others", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        // Its heart stands still, as far as the others can see.
        const body = (who: string, hold: Effect.Effect<void>) =>
          Job.toLayer(({ n }) =>
            Effect.as(Effect.zipRight(n === 1 ? hold : Effect.void, add(`${who} ${n}`)), who).pipe(Step.durable("s"))
          )
        const first = yield* openEngine({ workflows: [body("first", pass)] })
        yield* first.run(Job.start({ n: 1 }))
        yield* begun
        const second = yield* openEngine({ ...heartbeat, workflows: [body("second", Effect.void)] })
        yield* Effect.zipRight(TestClock.adjust("4 seconds"), turns(20))
        expect(yield* second.run(Job.await("job/1"))).toBe("second")
        yield* open
        yield* eventually(Effect.succeed(entries), (all) => all.includes("first 1"))
        expect(yield* first.run(Job.await("job/1"))).toBe("second")
        expect((yield* historyOf("job/1")).map(({ epoch, output }) => [output, epoch])).toEqual([["\"second\"", 2]])
        expect(yield* first.run(Job.execute({ n: 2 }))).toBe("first")
        yield* Effect.zipRight(first.close, second.close)
      }))

    test("that its owner has missed let the next call of Workflow.run take a run over", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        yield* store.register(hung)
        yield* plant(newRun("script", { name: "~run", fingerprint: "", payload: null, owner: "hung" }))
        yield* Effect.gen(function*() {
          const call = yield* Effect.fork(Workflow.run("script", stepOf("s")))
          yield* Effect.zipRight(TestClock.adjust("3 seconds"), turns(20))
          expect(call.unsafePoll()).toBeNull()
          yield* second
          expect(yield* Fiber.join(call)).toBe("s")
          // It beats again before anybody has looked: nobody takes from it what it has now.
          yield* plant(newRun("script-2", { name: "~run", fingerprint: "", payload: null, owner: "hung" }))
          yield* store.beat(hung)
          const another = yield* Effect.fork(Workflow.run("script-2", stepOf("s")))
          yield* turns(50)
          expect(yield* rowOf("script-2")).toMatchObject({ owner: "hung", epoch: 1 })
          yield* Fiber.interrupt(another)
        }).pipe(inEngine(heartbeat))
      }))

    test("come every two seconds, and ten missed ones are death, unless said otherwise", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          let beats = 0
          faults.beat = (call) => {
            beats++
            return call
          }
          yield* Effect.flatMap(StepStore.StepStore, (store) => store.register(hung))
          yield* plant(job(1, "hung"))
          const layer = Layer.provideMerge(
            Job.toLayer(() => stepOf("begin")),
            Engine.layerWith({ slowPoll: "1000 days", shutdownGrace: 0 })
          )
          yield* Effect.gen(function*() {
            yield* Effect.zipRight(TestClock.adjust("20 seconds"), turns(20))
            expect([beats, (yield* rowOf("job/1")).owner]).toEqual([10, "hung"])
            yield* Effect.zipRight(TestClock.adjust("2 seconds"), turns(20))
            expect(beats).toBe(11)
            expect(yield* Job.await("job/1")).toBe("begin")
          }).pipe(Effect.provide(layer))
        })
      ))
  })

  describe("without housekeeping", () => {
    test("nothing is asked of the store while time passes, and what happens here is told all the same", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          let asked = 0
          const counting = <A, E, R>(call: Effect.Effect<A, E, R>) => {
            asked++
            return call
          }
          faults.beat = counting
          faults.dead = counting
          faults.claim = (_, call) => counting(call)
          let failures = 0
          const store = yield* StepStore.StepStore
          const changes = Stream.suspend(() =>
            failures++ === 0 ? Stream.fail(new Errors.StoreUnavailable(where)) : store.changes
          )
          yield* Effect.gen(function*() {
            yield* turns(20)
            // A stream of changes that fails is asked for again.
            yield* Effect.zipRight(TestClock.adjust("5 seconds"), turns(20))
            expect(failures).toBe(2)
            const before = asked
            yield* Effect.zipRight(TestClock.adjust("1 day"), turns(20))
            expect(asked).toBe(before)
            yield* plant(job(1, null))
            yield* eventually(statusOf("job/1"), (status) => status === "COMPLETED")
            expect(yield* Job.execute({ n: 2 })).toBe("begin")
          }).pipe(
            inEngine({ housekeeping: false, heartbeat: "1 second", workflows: [Job.toLayer(() => stepOf("begin"))] }),
            Effect.provideService(StepStore.StepStore, { ...store, changes })
          )
        })
      ))
  })

  describe("a graceful end", () => {
    const grace = { shutdownGrace: "10 seconds" } as const

    test("lets a step in flight end, records what it ended with, and begins no other", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const body = (hold: Effect.Effect<void>) =>
          Job.toLayer(() => Effect.zipRight(stepOf("a", (id) => Effect.zipRight(hold, add(id))), stepOf("b", add)))
        const engine = yield* openEngine({ ...grace, workflows: [body(pass)] })
        yield* engine.run(Job.start({ n: 1 }))
        yield* begun
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        expect(close.unsafePoll()).toBeNull()
        yield* open
        expect(yield* Fiber.join(close)).toBe(0)
        expect(entries).toEqual(["a"])
        expect(yield* recorded("job/1")).toEqual(["0 a"])
        expect(yield* rowOf("job/1")).toMatchObject({ status: "PENDING", owner: null, epoch: 1 })
        expect(yield* Job.await("job/1").pipe(inEngine({ workflows: [body(Effect.void)] }))).toBe("b")
        expect(entries).toEqual(["a", "b"])
        expect(yield* attemptsOf("job/1")).toEqual([])
      }))

    test("cuts off what is in flight when the grace is over", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const engine = yield* openEngine({ ...grace, workflows: [Job.toLayer(() => stepOf("a", () => pass))] })
        yield* engine.run(Job.start({ n: 1 }))
        yield* begun
        expect(yield* engine.close).toBe(10)
        expect(yield* rowOf("job/1")).toMatchObject({ status: "PENDING", owner: null })
        expect((yield* attemptsOf("job/1")).map(({ attempt, errorTag }) => [attempt, errorTag])).toEqual([[
          1,
          "Released"
        ]])
      }))

    test("of 10 seconds is given unless said otherwise, and none at all if it is zero", () =>
      Effect.gen(function*() {
        for (const [shutdownGrace, seconds] of [[undefined, 10], ["3 seconds", 3], [Duration.zero, 0]] as const) {
          const { begun, pass } = gate()
          const engine = Engine.layerWith({
            heartbeat: "1000 days",
            ...(shutdownGrace === undefined ? {} : { shutdownGrace })
          })
          const life = yield* openScope(Layer.provideMerge(Job.toLayer(() => stepOf("a", () => pass)), engine))
          yield* Effect.provide(Job.start({ n: seconds }), life.context)
          yield* begun
          expect(yield* closing(life.close)).toBe(seconds)
        }
      }))

    test("gives runs without a step in flight back at once", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const asleep = gate()
        const engine = yield* openEngine({
          ...grace,
          workflows: [
            Job.toLayer(({ n }) =>
              n === 1
                ? stepOf("a", () => pass)
                : Effect.zipRight(
                  stepOf("before", () => Effect.asVoid(asleep.pass)),
                  Effect.as(Effect.sleep("1 hour"), "woken")
                )
            )
          ]
        })
        yield* engine.run(startAll([1, 2]))
        yield* Effect.zipRight(begun, asleep.open)
        yield* eventually(recorded("job/2"), (rows) => rows.length === 1)
        yield* turns(20)
        const close = yield* Effect.fork(engine.close)
        yield* eventually(statusOf("job/2"), (status) => status === "PENDING")
        expect(yield* statusOf("job/1")).toBe("RUNNING")
        expect(close.unsafePoll()).toBeNull()
        // What is started now is for others.
        yield* engine.run(Job.start({ n: 3 }))
        expect(yield* rowOf("job/3")).toMatchObject({ status: "PENDING", owner: null, epoch: 0 })
        yield* open
        yield* Fiber.join(close)
      }))

    /** Fails twice; a minute lies between two attempts. */
    const failing = (add: (entry: string) => Effect.Effect<void>) =>
      Effect.gen(function*() {
        const attempt = yield* Step.attempt
        yield* add(`attempt ${attempt}`)
        return attempt < 3 ? yield* Effect.fail("not yet") : "done"
      }).pipe(
        Step.durable("retried", { error: Schema.String, retry: Schedule.spaced("1 minute") }),
        Effect.orDie
      )

    test("does not wait for the next attempt at a step, which is made elsewhere", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const live = () => openEngine({ ...grace, slowPoll: "1000 days", workflows: [Job.toLayer(() => failing(add))] })
        const first = yield* live()
        yield* first.run(Job.start({ n: 1 }))
        yield* eventually(attemptsOf("job/1"), (attempts) => attempts.length === 1)
        expect(yield* first.close).toBe(0)
        // It waits for the rest of the minute, and is not waited for either.
        const second = yield* live()
        yield* eventually(statusOf("job/1"), (status) => status === "RUNNING")
        yield* turns(20)
        expect(yield* second.close).toBe(0)
        const last = yield* live()
        yield* turns(20)
        yield* TestClock.adjust("1 minute")
        yield* eventually(attemptsOf("job/1"), (attempts) => attempts.length === 2)
        yield* turns(20)
        yield* TestClock.adjust("1 minute")
        expect(yield* last.run(Job.await("job/1"))).toBe("done")
        expect(entries).toEqual(["attempt 1", "attempt 2", "attempt 3"])
        expect((yield* attemptsOf("job/1")).map(({ errorTag }) => errorTag)).toEqual([null, null])
        yield* last.close
      }))

    test("begins no attempt that becomes due while another step is in flight", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const both = Branch.all([failing(add), stepOf("long", () => pass)], { concurrency: "unbounded" })
        const engine = yield* openEngine({
          shutdownGrace: "1 hour",
          slowPoll: "1000 days",
          workflows: [Job.toLayer(() => Effect.as(both, ""))]
        })
        yield* engine.run(Job.start({ n: 1 }))
        yield* begun
        yield* eventually(attemptsOf("job/1"), (attempts) => attempts.length === 1)
        yield* turns(20)
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        yield* TestClock.adjust("1 minute")
        yield* turns(20)
        expect(close.unsafePoll()).toBeNull()
        yield* open
        yield* Fiber.join(close)
        expect(entries).toEqual(["attempt 1"])
        expect(yield* recorded("job/1")).toEqual(["1.0 long"])
        expect((yield* attemptsOf("job/1")).map(({ attempt, errorTag }) => [attempt, errorTag])).toEqual([[1, null]])
      }))

    test("lets the body no further than a step that ends while another is in flight", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const [short, long] = [gate(), gate()]
        const both = Branch.all(
          [
            stepOf("short", (id) => Effect.zipRight(short.pass, add(id))).pipe(
              Effect.zipRight(add("body")),
              Effect.zipRight(stepOf("next", add))
            ),
            stepOf("long", (id) => Effect.zipRight(long.pass, add(id)))
          ],
          { concurrency: "unbounded" }
        )
        const engine = yield* openEngine({ ...grace, workflows: [Job.toLayer(() => Effect.as(both, ""))] })
        yield* engine.run(Job.start({ n: 1 }))
        yield* Effect.zipRight(short.begun, long.begun)
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        yield* short.open
        yield* eventually(recorded("job/1"), (rows) => rows.length === 1)
        yield* turns(20)
        expect(close.unsafePoll()).toBeNull()
        yield* long.open
        yield* Fiber.join(close)
        expect(entries).toEqual(["short", "long"])
        expect(yield* recorded("job/1")).toEqual(["0.0 short", "1.0 long"])
      }))

    test("is given to the runs of a workflow whose layer alone is closed", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        yield* Effect.gen(function*() {
          const layer = yield* openScope(Job.toLayer(() => Effect.zipRight(stepOf("a", () => pass), stepOf("b"))))
          yield* Job.start({ n: 1 })
          yield* begun
          const close = yield* Effect.fork(closing(layer.close))
          yield* turns(20)
          expect(close.unsafePoll()).toBeNull()
          yield* open
          expect(yield* Fiber.join(close)).toBe(0)
          expect(yield* recorded("job/1")).toEqual(["0 a"])
          expect(yield* rowOf("job/1")).toMatchObject({ status: "PENDING", owner: null })
        }).pipe(inEngine(grace))
      }))

    test("is not given to a call of Workflow.run that is interrupted", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        yield* Effect.gen(function*() {
          const call = yield* Effect.fork(Workflow.run("script", stepOf("a", () => pass)))
          yield* begun
          expect(yield* closing(Fiber.interrupt(call))).toBe(0)
          expect((yield* attemptsOf("script")).map(({ errorTag }) => errorTag)).toEqual(["Released"])
        }).pipe(inEngine(grace))
      }))

    test("waits for the step that lost a race, and lets the body no further", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const slow = gate()
        const cleaning = gate()
        const race = Branch.race(
          stepOf("slow", () => Effect.onInterrupt(slow.pass, () => Effect.zipRight(cleaning.pass, add("clean")))),
          stepOf("quick", () => slow.begun)
        )
        const engine = yield* openEngine({
          ...grace,
          workflows: [Job.toLayer(() => Effect.zipLeft(race, stepOf("next", add)))]
        })
        yield* engine.run(Job.start({ n: 1 }))
        yield* cleaning.begun
        const close = yield* Effect.fork(engine.close)
        yield* turns(20)
        yield* cleaning.open
        expect(yield* Fiber.join(close)).toBe(0)
        expect(entries).toEqual(["clean"])
        expect(yield* recorded("job/1")).toEqual(["1.0 quick"])
      }))
  })
})

describe("housekeeping", () => {
  it.scoped("includes the store's poll for what other connections write", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const connection = Effect.map(
        Layer.build(Layer.fresh(SqliteStepStore.layer({ filename }))),
        (context) => Effect.provide(context)
      )
      const [here, there] = [yield* connection, yield* connection]
      const workflows = [Job.toLayer(() => stepOf("s"))]
      const second = Effect.zipRight(TestClock.adjust("1 second"), turns(20))
      yield* Effect.gen(function*() {
        yield* turns(20)
        yield* there(plant(job(1, null)))
        yield* second
        expect(yield* statusOf("job/1")).toBe("PENDING")
      }).pipe(inEngine({ workflows, housekeeping: false }), here)
      yield* Effect.gen(function*() {
        yield* eventually(statusOf("job/1"), (status) => status === "COMPLETED")
        yield* there(plant(job(2, null)))
        yield* turns(20)
        expect(yield* statusOf("job/2")).toBe("PENDING")
        yield* second
        yield* eventually(statusOf("job/2"), (status) => status === "COMPLETED")
      }).pipe(inEngine({ workflows, slowPoll: "1000 days" }), here)
    }))
})

describe("Engine.layerWith", () => {
  it.effect("refuses numbers that make no sense", () =>
    Effect.gen(function*() {
      for (
        const options of [{ maxResidentRuns: 0 }, { maxResidentRuns: 1.5 }, { missedBeats: -1 }, { missedBeats: NaN }]
      ) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(engineLayer(options))))
        const [[name, value]] = Object.entries(options) as [[string, number]]
        expect(Exit.isFailure(exit) && String(exit.cause)).toContain(
          `Engine.layerWith: ${name} is ${value}; it has to be a whole number of at least 1`
        )
      }
    }).pipe(Effect.provide(MemoryStepStore.layer)))
})
