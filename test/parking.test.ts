/** Runs that wait leave memory, and nothing that is meant to wake them is lost. */
import { describe, expect, it } from "@effect/vitest"
import {
  Context,
  Deferred,
  Effect,
  Either,
  FastCheck as fc,
  Fiber,
  Layer,
  Option,
  Schedule,
  Schema,
  Stream,
  TestClock
} from "effect"
import { Branch, Errors, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { brings, failCommits, withFaults } from "./support/faults.js"
import {
  attemptsOf,
  eventually,
  failure,
  gate,
  inEngine,
  ledger,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores, temporaryFile } from "./support/stores.js"

const Go = Signal.make("go", Schema.Number)

const hour = 60 * 60 * 1_000
const day = 24 * hour

const isAsleep = (status: StepStore.RunStatus) => status === "SUSPENDED"

/** Lets the test's clock go on by the grace, so that whatever waits leaves memory. */
const park = (workflowId: string) =>
  Effect.gen(function*() {
    yield* turns(20)
    yield* TestClock.adjust("1 second")
    yield* eventually(statusOf(workflowId), isAsleep)
  })

/** Lets so many seconds pass, one by one, with room for what each brings. */
const seconds = (count: number): Effect.Effect<void> =>
  count === 0
    ? turns(20)
    : turns(20).pipe(Effect.zipRight(TestClock.adjust("1 second")), Effect.zipRight(seconds(count - 1)))

const Sleeper = Workflow.make({ name: "sleeper", payload: {}, success: Schema.String })

const begin = Sleeper.start(undefined, { workflowId: "wf" })
const end = Sleeper.await("wf")
const send = (value: number) => Signal.send(Go, { workflowId: "wf", value })
const take = Signal.next(Go)

const quiet = { slowPoll: "1000 days" as const }

const live = (body: Effect.Effect<string, never, Workflow.Run>) => Sleeper.toLayer(() => body)

const running = (body: Effect.Effect<string, never, Workflow.Run>) => inEngine({ ...quiet, workflows: [live(body)] })

const busy = new Errors.StoreBusy({ target: "test", detail: "busy" })

/** Lets an effect use the store without the faults of this test, as another process does. */
const elsewhere = (store: StepStore.StepStore["Type"]) => Effect.provideService(StepStore.StepStore, store)

for (const [store, layer] of stores) {
  const test = testOn(layer)

  describe(`Parking (${store})`, () => {
    test("a run that sleeps leaves memory after the grace, is woken in time, and goes on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.gen(function*() {
          yield* add("begins")
          yield* Effect.addFinalizer(() => add("leaves"))
          yield* stepOf("before")
          yield* Effect.sleep("1 day")
          return yield* stepOf("after")
        }).pipe(Effect.scoped)
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Sleeper.execute(undefined, { workflowId: "wf" }))
          yield* park("wf")
          expect(entries).toEqual(["begins", "leaves"])
          expect(yield* rowOf("wf")).toMatchObject({ owner: null, wakeAt: day })
          yield* TestClock.setTime(day - 1)
          yield* turns(20)
          expect(yield* statusOf("wf")).toBe("SUSPENDED")
          yield* TestClock.adjust(1)
          expect(yield* Fiber.join(fiber)).toBe("after")
          expect(entries).toEqual(["begins", "leaves", "begins", "leaves"])
          expect(yield* rowOf("wf")).toMatchObject({ wakeAt: null, epoch: 2 })
        }).pipe(running(body))
      }))

    test("a signal wakes it", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(Sleeper.execute(undefined, { workflowId: "wf" }))
        yield* park("wf")
        expect(yield* rowOf("wf")).toMatchObject({ wakeAt: null, inbox: 0 })
        yield* send(7)
        expect(yield* Fiber.join(fiber)).toBe("7")
      }).pipe(running(Effect.map(take, String))))

    test("a cancellation that is on its way into the history keeps it from leaving", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { begun, open, pass } = gate()
          faults.commit = (batch, call) =>
            batch.some(({ steps }) => steps.some(({ kind }) => kind === "cancel")) ? Effect.zipRight(pass, call) : call
          yield* begin
          const waiting = yield* Effect.fork(failure(end))
          yield* turns(20)
          yield* Sleeper.cancel("wf")
          yield* begun
          // The grace is over before the body has been told.
          yield* TestClock.adjust("1 second")
          yield* open
          expect(yield* Fiber.join(waiting)).toMatchObject({ _tag: "RunCancelled" })
        }).pipe(running(Effect.map(take, String)))
      ))

    test("the answer to a token wakes it", () =>
      Effect.gen(function*() {
        const given = yield* Deferred.make<string>()
        const body = Effect.gen(function*() {
          const { next, token } = yield* Signal.token(Go)
          yield* Deferred.succeed(given, token)
          return String(yield* next)
        })
        yield* Effect.gen(function*() {
          yield* begin
          yield* park("wf")
          yield* Signal.answer(Go, { token: yield* Deferred.await(given), value: 3 })
          expect(yield* end).toBe("3")
        }).pipe(running(body))
      }))

    test("a step that waits for its next attempt parks, and its attempts are counted on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.flatMap(Step.attempt, (attempt) =>
          Effect.zipRight(add(`attempt ${attempt}`), attempt < 4 ? Effect.fail("no") : Effect.succeed("at last"))).pipe(
            Step.durable("flaky", { error: Schema.String, retry: Schedule.spaced("1 hour") }),
            Effect.orDie
          )
        yield* Effect.gen(function*() {
          yield* begin
          for (const attempt of [1, 2, 3]) {
            yield* park("wf")
            const { wakeAt } = yield* rowOf("wf")
            expect(entries).toHaveLength(attempt)
            yield* TestClock.setTime(wakeAt! - 1)
            yield* turns(20)
            expect(entries).toHaveLength(attempt)
            yield* TestClock.adjust(1)
            yield* eventually(
              Effect.sync(() =>
                entries.length
              ),
              (length) => length === attempt + 1
            )
          }
          expect(yield* end).toBe("at last")
          expect(entries).toEqual(["attempt 1", "attempt 2", "attempt 3", "attempt 4"])
          expect((yield* attemptsOf("wf")).map((row) => [row.attempt, row.errorTag])).toEqual([
            [1, null],
            [2, null],
            [3, null]
          ])
        }).pipe(running(body))
      }))

    test("of several waits the first that is due wakes it", () =>
      Effect.gen(function*() {
        yield* begin
        yield* park("wf")
        expect((yield* rowOf("wf")).wakeAt).toBe(day)
        yield* TestClock.setTime(day)
        expect(yield* end).toBe("1 day")
      }).pipe(running(Branch.raceAll([
        Effect.as(Effect.sleep("2 days"), "2 days"),
        Effect.map(take, String),
        Effect.as(Effect.sleep("1 day"), "1 day"),
        Effect.as(Effect.sleep("3 days"), "3 days")
      ]))))

    test("what wakes it for one branch leaves the others waiting, and it parks again", () =>
      Effect.gen(function*() {
        yield* begin
        yield* park("wf")
        yield* send(1)
        yield* eventually(recorded("wf"), (rows) => rows.length === 1)
        yield* park("wf")
        expect(yield* rowOf("wf")).toMatchObject({ wakeAt: hour, inbox: 1 })
        yield* TestClock.setTime(hour)
        yield* eventually(recorded("wf"), (rows) => rows.length === 2)
        yield* park("wf")
        yield* send(2)
        expect(yield* end).toBe("1 2")
      }).pipe(running(Effect.map(
        Branch.all([take, Effect.sleep("1 hour"), take], { concurrency: "unbounded" }),
        ([one, , two]) => `${one} ${two}`
      ))))

    const many = (count: number) => Array.from({ length: count }, (_, n) => `wf-${n}`)
    const startAll = (ids: ReadonlyArray<string>) =>
      Effect.forEach(ids, (workflowId) => Sleeper.start(undefined, { workflowId }), { discard: true })
    const asleep = (ids: ReadonlyArray<string>) =>
      eventually(Effect.forEach(ids, statusOf), (all) => all.every(isAsleep))

    test("runs that rest make room for those that wait for it, without the grace", () =>
      Effect.gen(function*() {
        const ids = many(20)
        yield* startAll(ids)
        yield* asleep(ids)
        for (const id of ids) {
          // None has lived twice.
          expect(yield* rowOf(id)).toMatchObject({ owner: null, wakeAt: day, epoch: 1 })
        }
        yield* TestClock.setTime(day)
        yield* eventually(Effect.forEach(ids, statusOf), (all) => all.every((status) => status === "COMPLETED"))
      }).pipe(inEngine({ ...quiet, maxResidentRuns: 3, workflows: [live(Effect.as(Effect.sleep("1 day"), "slept"))] })))

    test("runs that have been resting make room for one that comes later", () =>
      Effect.gen(function*() {
        yield* startAll(many(2))
        yield* turns(30)
        // Nobody waits for their places: they keep the grace.
        expect(yield* Effect.forEach(many(2), statusOf)).toEqual(["RUNNING", "RUNNING"])
        yield* startAll(["wf-2"])
        yield* asleep(many(2))
        yield* eventually(rowOf("wf-2"), ({ epoch }) => epoch === 1)
      }).pipe(inEngine({ ...quiet, maxResidentRuns: 2, workflows: [live(Effect.as(Effect.sleep("1 day"), "slept"))] })))

    test("a run that stirs before it has made room stays", () =>
      Effect.gen(function*() {
        yield* startAll(["wf"])
        yield* turns(30)
        yield* send(1)
        yield* startAll(["wf-1"])
        expect(yield* end).toBe("1")
        yield* asleep(["wf-1"])
        expect((yield* rowOf("wf")).epoch).toBeLessThanOrEqual(2)
      }).pipe(inEngine({
        ...quiet,
        maxResidentRuns: 1,
        workflows: [
          Sleeper.toLayer((_, workflowId) =>
            workflowId === "wf" ? Effect.map(take, String) : Effect.as(Effect.sleep("1 day"), "")
          )
        ]
      })))

    test("a run that is cancelled while it is being claimed is told when it lives", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const held = gate()
        yield* Effect.gen(function*() {
          yield* begin
          yield* park("wf")
          yield* TestClock.setTime(day)
          yield* held.begun
          yield* Sleeper.cancel("wf")
          yield* turns(30)
          yield* held.open
          expect(yield* failure(end)).toMatchObject({ _tag: "RunCancelled" })
          expect(yield* rowOf("wf")).toMatchObject({ epoch: 2 })
        }).pipe(
          inEngine({
            ...quiet,
            workflows: [live(Effect.as(Effect.zipRight(Effect.sleep("1 day"), Effect.sleep("1 day")), "slept"))]
          }),
          Effect.provideService(StepStore.StepStore, {
            ...store,
            claim: (options) =>
              Effect.tap(store.claim(options), (claimed) => claimed.length > 0 ? held.pass : Effect.void)
          })
        )
      }))

    const unreadable = new Errors.StoreCorrupt({ target: "test", workflowId: "wf-1", detail: "read together" })
    interface Read {
      readonly records?: StepStore.StepStore["Type"]["records"]
      /** Bytes that are recorded of each. */
      readonly bytes?: number
      readonly together: boolean
    }
    const reads: Record<string, Read> = {
      "together": { together: true },
      "together, where it comes to almost 64 KiB": { bytes: 65_000, together: true },
      "each alone, where it comes to more": { bytes: 64 * 1024 + 1, together: false },
      "each alone, where they cannot be read together": { records: () => Effect.fail(busy), together: false },
      "together, but for those of which that says nothing": {
        records: (runs) => Effect.succeed([{ workflowId: runs[0]!.workflowId, records: Either.left(unreadable) }]),
        together: false
      }
    }
    for (const [how, { bytes = 10, records, together }] of Object.entries(reads)) {
      test(`what is recorded of runs that wake at the same time is read ${how}`, () =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const alone: Array<string> = []
          const body = Effect.gen(function*() {
            const before = yield* Effect.succeed("x".repeat(bytes - 2)).pipe(Step.durable("before"))
            yield* Effect.sleep("1 day")
            return `${before.length} ${yield* stepOf("after")}`
          })
          yield* Effect.gen(function*() {
            yield* startAll(many(3))
            yield* Effect.forEach(many(3), park)
            yield* TestClock.setTime(day)
            for (const id of many(3)) {
              expect(yield* Sleeper.await(id)).toBe(`${bytes - 2} after`)
            }
          }).pipe(
            inEngine({ ...quiet, workflows: [live(body)] }),
            Effect.provideService(StepStore.StepStore, {
              ...store,
              records: records ?? store.records,
              history: (id, ...rest) => {
                alone.push(id)
                return store.history(id, ...rest)
              }
            })
          )
          expect(alone.sort()).toEqual(together ? [] : many(3))
        }))
    }

    for (const [millis, parks] of [[999, false], [1_000, false], [1_001, true]] as const) {
      test(`a wait of ${millis} milliseconds ${parks ? "parks" : "is waited in memory"}`, () =>
        Effect.gen(function*() {
          yield* begin
          yield* turns(20)
          yield* TestClock.adjust(millis)
          expect(yield* end).toBe("done")
          expect((yield* rowOf("wf")).epoch).toBe(parks ? 2 : 1)
        }).pipe(running(Effect.as(Effect.sleep(millis), "done"))))
    }

    test("a body that does something meanwhile does not park", () =>
      Effect.gen(function*() {
        const release = yield* Deferred.make<void>()
        const body = Branch.all([
          Effect.sleep("1 day"),
          Effect.as(Deferred.await(release), "x").pipe(Step.durable("s"))
        ], {
          concurrency: "unbounded"
        })
        yield* Effect.gen(function*() {
          yield* begin
          yield* seconds(5)
          expect(yield* statusOf("wf")).toBe("RUNNING")
          yield* Deferred.succeed(release, undefined)
          yield* eventually(recorded("wf"), (rows) => rows.length === 1)
          yield* park("wf")
        }).pipe(running(Effect.as(body, "done")))
      }))

    test("a body that waits for a promise does not park, whatever it has waited for before", () =>
      Effect.gen(function*() {
        let release = (_: string) => {}
        const promise = new Promise<string>((resolve) => {
          release = resolve
        })
        const body = Effect.zipRight(take, Effect.flatMap(Effect.promise(() => promise), (id) => stepOf(id)))
        yield* Effect.gen(function*() {
          yield* begin
          yield* turns(20)
          yield* TestClock.adjust("500 millis")
          yield* send(1)
          yield* eventually(recorded("wf"), (rows) => rows.length === 1)
          yield* seconds(10)
          expect(yield* statusOf("wf")).toBe("RUNNING")
          release("promised")
          expect(yield* end).toBe("promised")
        }).pipe(running(body))
      }))

    test("Workflow.run never parks", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(Workflow.run("wf", Effect.zipRight(Effect.sleep("1 day"), stepOf("after"))))
        yield* seconds(10)
        expect(yield* statusOf("wf")).toBe("RUNNING")
        yield* TestClock.setTime(day)
        expect(yield* Fiber.join(fiber)).toBe("after")
        expect((yield* rowOf("wf")).epoch).toBe(1)
      }).pipe(inEngine(quiet)))

    test("whoever waits for it waits on: execute, await, a client of another engine, and poll", () =>
      Effect.gen(function*() {
        const client = yield* openEngine(quiet)
        yield* Effect.gen(function*() {
          const fibers: ReadonlyArray<Fiber.Fiber<string, unknown>> = [
            yield* Effect.fork(Sleeper.execute(undefined, { workflowId: "wf" })),
            yield* Effect.fork(Effect.zipRight(turns(20), end)),
            yield* Effect.fork(Effect.zipRight(turns(20), client.run(end)))
          ]
          yield* park("wf")
          const late = yield* Effect.fork(end)
          expect(Option.getOrThrow(yield* Sleeper.poll("wf"))).toEqual({ _tag: "SUSPENDED" })
          expect(yield* Effect.forEach(fibers, Fiber.poll)).toEqual([Option.none(), Option.none(), Option.none()])
          yield* TestClock.setTime(day)
          expect(yield* Effect.forEach([...fibers, late], (fiber: Fiber.Fiber<string, unknown>) => Fiber.join(fiber)))
            .toEqual(
              ["done", "done", "done", "done"]
            )
          expect(Option.getOrThrow(yield* Sleeper.poll("wf"))).toMatchObject({ _tag: "COMPLETED" })
        }).pipe(running(Effect.as(Effect.sleep("1 day"), "done")))
      }))

    test("resuming it leaves it asleep", () =>
      Effect.gen(function*() {
        yield* begin
        yield* park("wf")
        yield* Sleeper.resume("wf")
        yield* turns(20)
        expect(yield* rowOf("wf")).toMatchObject({ status: "SUSPENDED", epoch: 1 })
      }).pipe(running(Effect.as(Effect.sleep("1 day"), "done"))))
  })

  describe(`No wake-up is lost (${store})`, () => {
    test("a signal between the decision to park and its commit", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const [deciding, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            faults.commit = (batch, call) =>
              batch.some(brings("SUSPENDED"))
                ? Effect.zipRight(Deferred.succeed(deciding, undefined), Effect.zipRight(Deferred.await(go), call))
                : call
            yield* begin
            yield* turns(20)
            yield* TestClock.adjust("1 second")
            yield* Deferred.await(deciding)
            yield* client.run(send(1))
            yield* turns(20)
            yield* Deferred.succeed(go, undefined)
            expect(yield* end).toBe("1")
            expect((yield* rowOf("wf")).epoch).toBe(1)
          }).pipe(running(Effect.map(take, String)))
        )))

    test("a signal between the commit that parks it and its leaving", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const [parked, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            faults.commit = (batch, call) =>
              batch.some(brings("SUSPENDED"))
                ? Effect.zipLeft(call, Effect.zipRight(Deferred.succeed(parked, undefined), Deferred.await(go)))
                : call
            yield* begin
            yield* turns(20)
            yield* TestClock.adjust("1 second")
            yield* Deferred.await(parked)
            expect(yield* statusOf("wf")).toBe("SUSPENDED")
            yield* client.run(send(1))
            yield* turns(20)
            yield* Deferred.succeed(go, undefined)
            expect(yield* end).toBe("1")
          }).pipe(running(Effect.map(take, String)))
        )))

    test("a signal while the run is claimed and does not live yet", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const [claimed, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            yield* begin
            yield* park("wf")
            faults.claim = (_, call) =>
              Effect.zipLeft(call, Effect.zipRight(Deferred.succeed(claimed, undefined), Deferred.await(go)))
            yield* client.run(send(1))
            yield* Deferred.await(claimed)
            yield* eventually(statusOf("wf"), (status) => status === "RUNNING")
            yield* client.run(send(2))
            yield* turns(20)
            yield* Deferred.succeed(go, undefined)
            expect(yield* end).toBe("1 2")
          }).pipe(running(Effect.map(Effect.all([take, take]), (all) => all.join(" "))))
        )))

    test("a signal while the run is created and does not live yet, and right after its start", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const [created, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            faults.commit = (batch, call) =>
              batch.some((update) => update.insert !== null)
                ? Effect.zipLeft(call, Effect.zipRight(Deferred.succeed(created, undefined), Deferred.await(go)))
                : call
            const starting = yield* Effect.fork(begin)
            yield* Deferred.await(created)
            yield* client.run(send(1))
            yield* turns(20)
            yield* Deferred.succeed(go, undefined)
            yield* Fiber.join(starting)
            yield* client.run(send(2))
            expect(yield* end).toBe("1 2")
            expect((yield* rowOf("wf")).epoch).toBe(1)
          }).pipe(running(Effect.map(Effect.all([take, take]), (all) => all.join(" "))))
        )))

    test("a signal that was kept, and that a slow store shows only after the grace", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        Effect.gen(function*() {
          const go = yield* Deferred.make<void>()
          const slow: StepStore.StepStore["Type"] = {
            ...raw,
            mail: (workflowId, wanted) =>
              Effect.zipRight(wanted.length === 0 ? Effect.void : Deferred.await(go), raw.mail(workflowId, wanted))
          }
          yield* Effect.gen(function*() {
            yield* begin
            yield* send(1)
            yield* seconds(5)
            expect(yield* statusOf("wf")).toBe("RUNNING")
            yield* Deferred.succeed(go, undefined)
            expect(yield* end).toBe("1")
          }).pipe(running(Effect.zipRight(stepOf("before"), Effect.map(take, String))), elsewhere(slow))
        })))

    test("the slow poll finds a signal of which nobody was told", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) => {
          faults.changes = (call) => Stream.concat(Stream.take(call, 1), Stream.never)
          return Effect.gen(function*() {
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            yield* begin
            yield* turns(20)
            yield* client.run(send(1))
            yield* seconds(6)
            yield* eventually(statusOf("wf"), (status) => status === "COMPLETED")
            expect(yield* end).toBe("1")
          }).pipe(inEngine({
            slowPoll: "5 seconds",
            parkGrace: "1 day",
            workflows: [live(Effect.map(take, String))]
          }))
        })))

    const sending = fc.record({ after: fc.nat({ max: 1_500 }), mine: fc.boolean() })

    it.scoped.prop(
      "signals at any time, with a store that takes its time: all arrive",
      {
        sends: fc.array(sending, { minLength: 1, maxLength: 6 }),
        delays: fc.array(fc.nat({ max: 12 }), { minLength: 1 })
      },
      ({ delays, sends }) =>
        Effect.gen(function*() {
          const raw = yield* StepStore.StepStore
          let calls = 0
          const delay = Effect.suspend(() => turns(delays[calls++ % delays.length]!))
          const around = <A, E>(self: Effect.Effect<A, E>) => Effect.zipRight(delay, Effect.zipLeft(self, delay))
          const slow: StepStore.StepStore["Type"] = {
            ...raw,
            commit: (batch) => around(raw.commit(batch)),
            claim: (options) => around(raw.claim(options)),
            mail: (workflowId, wanted) => around(raw.mail(workflowId, wanted)),
            nextWake: (names) => around(raw.nextWake(names))
          }
          const client = yield* openEngine(quiet).pipe(elsewhere(raw))
          const body = Effect.forEach(sends, (_, index) =>
            Effect.zipLeft(take, index % 2 === 0 ? Effect.sleep("1500 millis") : Effect.void))
          yield* Effect.gen(function*() {
            yield* begin
            for (const [index, { after, mine }] of sends.entries()) {
              yield* turns(after % 7)
              yield* TestClock.adjust(after)
              yield* mine ? send(index) : client.run(send(index))
            }
            for (let turn = 0; (yield* statusOf("wf")) !== "COMPLETED"; turn++) {
              expect(turn).toBeLessThan(40)
              yield* turns(60)
              yield* TestClock.adjust("1 second")
            }
            expect(yield* end).toBe(
              sends.map((_, index) =>
                index
              ).join()
            )
          }).pipe(
            inEngine({ ...quiet, parkGrace: "50 millis", workflows: [live(Effect.map(body, (all) => all.join()))] }),
            elsewhere(slow)
          )
          yield* client.close
        }).pipe(Effect.provide(Layer.fresh(layer))),
      { fastCheck: { numRuns: 25 } }
    )
  })

  describe(`Waking (${store})`, () => {
    const sleepy = Effect.zipRight(Effect.sleep("60 days"), stepOf("after"))

    test("another engine wakes what sleeps when its own has closed", () =>
      Effect.gen(function*() {
        yield* Effect.zipRight(begin, park("wf")).pipe(running(sleepy))
        yield* Effect.gen(function*() {
          yield* turns(20)
          yield* TestClock.setTime(60 * day)
          expect(yield* end).toBe("after")
        }).pipe(running(sleepy))
      }))

    test("an engine that opens when the time is past wakes it at once", () =>
      Effect.gen(function*() {
        yield* Effect.zipRight(begin, park("wf")).pipe(running(sleepy))
        yield* TestClock.setTime(3_650 * day)
        expect(yield* end.pipe(running(sleepy))).toBe("after")
      }))

    test("a time farther away than a timer can hold is waited for in pieces", () =>
      Effect.gen(function*() {
        yield* begin
        yield* park("wf")
        for (const days of [24, 25, 48, 59]) {
          yield* TestClock.setTime(days * day)
          yield* turns(20)
          expect(yield* statusOf("wf")).toBe("SUSPENDED")
        }
        yield* TestClock.setTime(60 * day - 1)
        yield* turns(20)
        expect(yield* statusOf("wf")).toBe("SUSPENDED")
        yield* TestClock.adjust(1)
        expect(yield* end).toBe("after")
      }).pipe(running(sleepy)))

    test("a clock that is set forward by a year is time passed", () =>
      Effect.gen(function*() {
        yield* begin
        yield* park("wf")
        yield* TestClock.adjust("365 days")
        expect(yield* end).toBe("after")
      }).pipe(running(sleepy)))

    test("many wake at the same time", () =>
      Effect.gen(function*() {
        const ids = Array.from({ length: 250 }, (_, index) => `many-${index}`)
        yield* Effect.forEach(ids, (workflowId) => Sleeper.start(undefined, { workflowId }), {
          concurrency: "unbounded"
        })
        yield* seconds(2)
        yield* eventually(Effect.forEach(ids, statusOf), (all) => all.every(isAsleep))
        yield* TestClock.setTime(60 * day)
        const ends = yield* Effect.forEach(ids, (id) => Sleeper.await(id), { concurrency: "unbounded" })
        expect(new Set(ends)).toEqual(new Set(["after"]))
      }).pipe(running(sleepy)))

    test("a run of a workflow that no engine registers is left alone when its time has come", () =>
      Effect.gen(function*() {
        yield* Effect.zipRight(begin, park("wf")).pipe(running(sleepy))
        const Other = Workflow.make({ name: "other", payload: {} })
        yield* Effect.gen(function*() {
          yield* TestClock.setTime(61 * day)
          yield* turns(20)
          expect(yield* rowOf("wf")).toMatchObject({ status: "SUSPENDED", epoch: 1 })
          yield* send(1)
          yield* turns(20)
          expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", epoch: 1, inbox: 1 })
        }).pipe(inEngine({ ...quiet, workflows: [Other.toLayer(() => Effect.void)] }))
        expect(yield* end.pipe(running(sleepy))).toBe("after")
      }))
  })

  describe(`Parking on a store that fails (${store})`, () => {
    test("parking is tried again, and what was sent meanwhile is seen", () =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const client = yield* openEngine(quiet).pipe(elsewhere(raw))
            const count = failCommits(faults, { error: busy, times: 3, when: brings("SUSPENDED") })
            yield* begin
            yield* turns(20)
            yield* TestClock.adjust("1 second")
            yield* eventually(Effect.sync(() => count.failed), (failed) => failed > 0)
            yield* client.run(send(1))
            yield* seconds(10)
            expect(yield* end).toBe("1")
            expect(count).toEqual({ failed: 3, passed: 1 })
          }).pipe(running(Effect.map(take, String)))
        )))

    test("parking is tried again until it succeeds", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          failCommits(faults, { error: busy, times: 3, when: brings("SUSPENDED") })
          yield* begin
          yield* seconds(10)
          expect(yield* rowOf("wf")).toMatchObject({ status: "SUSPENDED", wakeAt: hour })
          // The delay before the last try was jittered, so the clock stands between two milliseconds.
          yield* TestClock.setTime(hour + 1)
          expect(yield* end).toBe("done")
        }).pipe(running(Effect.as(Effect.sleep("1 hour"), "done")))
      ))

    test("a store that was written to and said that it was not loses nothing", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          let left = 1
          faults.commit = (batch, call) =>
            batch.some(brings("SUSPENDED")) && left-- > 0 ? Effect.zipRight(call, Effect.fail(busy)) : call
          yield* begin
          yield* seconds(10)
          yield* send(1)
          yield* seconds(5)
          expect(yield* end).toBe("1")
        }).pipe(running(Effect.map(take, String)))
      ))

    test("a refusal to park stops the run, which can be resumed", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const error = new Errors.StoreRejected({ target: "test", detail: "no beds" })
          failCommits(faults, { error, times: 2, when: brings("SUSPENDED") })
          yield* begin
          yield* turns(20)
          yield* TestClock.adjust("1 second")
          expect(yield* stoppedBy("StoreRejected")(end)).toMatchObject({ detail: "no beds" })
          yield* send(1)
          yield* Sleeper.resume("wf")
          expect(yield* end).toBe("1")
        }).pipe(running(Effect.map(take, String)))
      ))

    test("another worker that took it over is left alone", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const [deciding, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          faults.commit = (batch, call) =>
            batch.some(brings("SUSPENDED"))
              ? Effect.zipRight(Deferred.succeed(deciding, undefined), Effect.zipRight(Deferred.await(go), call))
              : call
          yield* begin
          yield* turns(20)
          yield* TestClock.adjust("1 second")
          yield* Deferred.await(deciding)
          const { owner } = yield* rowOf("wf")
          yield* store.register({ id: "thief", host: "elsewhere", pid: 1, startedAt: 0 })
          yield* store.claim({ worker: "thief", names: null, workflowId: "wf", dead: [owner!], limit: 1, at: 0 })
          yield* Deferred.succeed(go, undefined)
          yield* turns(20)
          expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: "thief", epoch: 2 })
        }).pipe(running(Effect.map(take, String)))
      ))

    test("what could not be claimed in time is claimed by the next look", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* begin
          yield* park("wf")
          faults.claim = () => Effect.fail(busy)
          yield* seconds(32)
          expect(yield* statusOf("wf")).toBe("SUSPENDED")
          faults.claim = (_, call) => call
          yield* seconds(6)
          expect(yield* end).toBe("done")
        }).pipe(inEngine({ slowPoll: "5 seconds", workflows: [live(Effect.as(Effect.sleep("30 seconds"), "done"))] }))
      ))
  })
}

describe("two engines on one file", () => {
  /** A connection of its own to a file, which looks for what others wrote. */
  const connect = (filename: string) =>
    Effect.map(
      Layer.build(Layer.fresh(SqliteStepStore.layer({ filename, synchronous: "NORMAL", pollInterval: "20 millis" }))),
      (context) => elsewhere(Context.get(context, StepStore.StepStore))
    )

  it.scoped("what one has put to sleep the other wakes: in time, and by a signal that a third has sent", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [first, second, third] = yield* Effect.all([connect(filename), connect(filename), connect(filename)])
      const body = Effect.gen(function*() {
        yield* Effect.sleep("20 seconds")
        return String(yield* take)
      })
      const a = yield* openEngine({ ...quiet, workflows: [live(body)] }).pipe(first)
      const b = yield* openEngine({ ...quiet, workflows: [live(body)] }).pipe(second)
      const client = yield* openEngine(quiet).pipe(third)
      const status = third(statusOf("wf"))
      yield* a.run(begin)
      yield* seconds(3)
      expect(yield* status).toBe("SUSPENDED")
      yield* a.close
      yield* seconds(20)
      expect(yield* third(rowOf("wf"))).toMatchObject({ epoch: 2, status: "SUSPENDED", wakeAt: null })
      const waiting = yield* Effect.fork(client.run(end))
      yield* client.run(send(7))
      yield* seconds(2)
      expect(yield* Fiber.join(waiting)).toBe("7")
      expect(yield* third(rowOf("wf"))).toMatchObject({ epoch: 3, status: "COMPLETED" })
      yield* b.close
    }))

  it.scoped("what lives in one is cancelled by another, at once", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [first, second] = yield* Effect.all([connect(filename), connect(filename)])
      const a = yield* openEngine({
        ...quiet,
        parkGrace: "1 day",
        workflows: [live(Effect.as(Effect.sleep("1 hour"), "slept"))]
      }).pipe(first)
      const client = yield* openEngine(quiet).pipe(second)
      yield* a.run(begin)
      yield* seconds(1)
      expect(yield* second(statusOf("wf"))).toBe("RUNNING")
      const waiting = yield* Effect.fork(failure(client.run(end)))
      yield* client.run(Sleeper.cancel("wf"))
      yield* seconds(1)
      expect(yield* Fiber.join(waiting)).toMatchObject({ _tag: "RunCancelled", reason: "cancelled" })
      expect(yield* second(rowOf("wf"))).toMatchObject({ epoch: 1, status: "CANCELLED" })
      yield* a.close
    }))
})
