/** Signals: sent from outside, taken by bodies in their order, each once. */
import { describe, expect, it } from "@effect/vitest"
import { Deferred, Effect, FastCheck as fc, Fiber, Layer, Option, Schema, TestClock } from "effect"
import { Branch, type Engine, Errors, Signal, Step, StepStore, Workflow } from "perdure"
import { update } from "./suites/rows.js"
import { failCommits, withFaults } from "./support/faults.js"
import {
  eventually,
  failure,
  inEngine,
  ledger,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  stopped,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Go = Signal.make("go", Schema.String)
const Stop = Signal.make("stop", Schema.String)
const Amount = Signal.make("amount", Schema.Struct({ on: Schema.Date, amount: Schema.Int }))

type Json = string | ReadonlyArray<Json> | { readonly [key: string]: Json }

const Json: Schema.Schema<Json> = Schema.Union(
  Schema.String,
  Schema.Array(Schema.suspend(() => Json)),
  Schema.Record({ key: Schema.String, value: Schema.suspend(() => Json) })
)

const Job = Workflow.make({ name: "job", payload: {}, success: Json })

/** A body, and what it answers. */
const live = (body: Effect.Effect<Json, never, Workflow.Run>) => Job.toLayer(() => body)

const quiet = { slowPoll: "1000 days" as const }

const running = (body: Effect.Effect<Json, never, Workflow.Run>) => inEngine({ ...quiet, workflows: [live(body)] })

const begin = Job.start(undefined, { workflowId: "wf" })
const end = Job.await("wf")
const send = (value: string, signal = Go) => Signal.send(signal, { workflowId: "wf", value })

/** Sends a signal as another process would. */
const sendElsewhere = (value: string, signalId = value) =>
  Effect.flatMap(StepStore.StepStore, (store) =>
    store.commit([
      update("wf", { epoch: null, signals: [{ signalId, name: "go", sentAt: 1, value: JSON.stringify(value) }] })
    ]))

const take = Signal.next(Go)

/** What the store still keeps for a name. */
const waiting = (name = "go") =>
  Effect.flatMap(StepStore.StepStore, (store) =>
    Effect.map(
      Effect.flatten(store.mail("wf", [{ name, token: null, limit: 100 }])),
      (mail) => mail.signals.map((signal) => JSON.parse(signal.value!))
    ))

/** The jotted rows of waits are written after some milliseconds. */
const settled = Effect.zipRight(turns(20), Effect.zipRight(TestClock.adjust("10 millis"), turns(20)))

/** Waits until so many operations are under way. */
const begun = (count: number) =>
  eventually(
    Effect.zipRight(settled, stepsOf("wf")),
    (rows) => rows.filter((row) => row.includes("IN_PROGRESS")).length === count
  )

const dead: Errors.StoreError = new Errors.StoreBusy({ target: "test", detail: "busy" })

describe("Signal.make", () => {
  for (const name of ["", "~go", "a\0b", "\ud800", "x".repeat(257)]) {
    it(`refuses the name ${JSON.stringify(name.slice(0, 9))}`, () => {
      expect(() => Signal.make(name, Schema.String)).toThrow(/^The signal name .* cannot be used: /)
    })
  }

  it("takes any other", () => {
    expect(Signal.make("x".repeat(256), Schema.String)).toMatchObject({ name: "x".repeat(256), schema: Schema.String })
    expect(Signal.make("a/b ~'\u{1f600}", Schema.Void)[Signal.TypeId]).toBe(Signal.TypeId)
  })
})

for (const [store, layer] of stores) {
  const test = testOn(layer)

  describe(`Signal.next (${store})`, () => {
    test("takes what was sent before it waits, in the order of sending, and what is sent while it waits", () =>
      Effect.gen(function*() {
        yield* begin
        for (const value of ["a", "b", "c"]) {
          yield* send(value)
        }
        yield* eventually(recorded("wf"), (rows) => rows.length === 3)
        yield* begun(1)
        yield* send("d")
        expect(yield* end).toEqual(["a", "b", "c", "d"])
        expect(yield* recorded("wf")).toEqual(["0 go", "1 go", "2 go", "3 go"])
        expect(yield* waiting()).toEqual([])
      }).pipe(running(Effect.all([take, take, take, take]))))

    test("gives to those who wait in several branches in the order in which they came to wait", () =>
      Effect.gen(function*() {
        yield* begin
        yield* begun(3)
        for (const value of ["a", "b", "c"]) {
          yield* send(value)
        }
        expect(yield* end).toEqual(["a", "b", "c"])
      }).pipe(running(Branch.all([take, take, take], { concurrency: "unbounded" }))))

    test("gives each of many that were sent at once to another one who waits", () =>
      Effect.gen(function*() {
        yield* begin
        yield* begun(2)
        yield* Effect.forEach(["a", "b", "c", "d"], (value) => send(value), { concurrency: "unbounded" })
        expect(yield* end).toEqual([["a", "c"], ["b", "d"]])
      }).pipe(running(
        Branch.all([Effect.zip(take, take), Effect.zip(take, take)], { concurrency: "unbounded" })
      )))

    test("keeps the names apart", () =>
      Effect.gen(function*() {
        yield* begin
        yield* send("1", Stop)
        yield* send("2")
        yield* send("3", Stop)
        expect(yield* end).toEqual({ stop: "1", go: "2" })
        expect([yield* waiting(), yield* waiting("stop")]).toEqual([[], ["3"]])
      }).pipe(running(Branch.all({ stop: Signal.next(Stop), go: take }, { concurrency: "unbounded" }))))

    test("answers the decoded value, live and in a replay", () => {
      const seen: Array<unknown> = []
      const body = Effect.tap(Signal.next(Amount), (value) => Effect.sync(() => seen.push(value))).pipe(
        Effect.zipRight(stepOf("after"))
      )
      const value = { on: new Date(5), amount: 7 }
      return Effect.gen(function*() {
        yield* Effect.gen(function*() {
          yield* begin
          yield* Signal.send(Amount, { workflowId: "wf", value })
          yield* Effect.ignore(Effect.sandbox(end))
        }).pipe(inEngine({ ...quiet, workflows: [live(body)], crashAfter: 1 }))
        expect(yield* Job.execute(undefined, { workflowId: "wf" }).pipe(running(body))).toBe("after")
        expect(seen).toEqual([value, value])
      })
    })

    test("a signal without a value", () =>
      Effect.gen(function*() {
        const Ping = Signal.make("ping", Schema.UndefinedOr(Schema.String))
        yield* Effect.gen(function*() {
          yield* begin
          yield* Signal.send(Ping, { workflowId: "wf", value: undefined })
          expect(yield* end).toBe("none")
        }).pipe(running(Effect.map(Signal.next(Ping), (value) => value ?? "none")))
      }))

    test("in Workflow.run, which another fiber sends to", () =>
      Effect.gen(function*() {
        const run = yield* Effect.fork(Workflow.run("wf", take))
        yield* begun(1)
        yield* send("hello")
        expect(yield* Fiber.join(run)).toBe("hello")
      }).pipe(inEngine(quiet)))

    test("under a timeout, in time and too late", () =>
      Effect.gen(function*() {
        const patient = Branch.timeout(take, "1 minute").pipe(Effect.orElseSucceed(() => "nothing"))
        yield* Effect.gen(function*() {
          yield* begin
          yield* begun(2)
          yield* send("in time")
          yield* eventually(recorded("wf"), (rows) => rows.length === 1)
          yield* settled
          yield* TestClock.adjust("1 minute")
          yield* eventually(recorded("wf"), (rows) => rows.length === 2)
          yield* send("too late")
          expect(yield* end).toEqual(["in time", "nothing", "too late"])
          expect(yield* recorded("wf")).toEqual(["0.0 go", "3.0 sleep", "4 go"])
        }).pipe(running(Effect.all([patient, patient, take])))
      }))

    test("a run that was stopped keeps what is sent to it, and takes it when it is resumed", () =>
      Effect.gen(function*() {
        const broken = Effect.zipRight(stepOf("before"), Effect.die("broken"))
        yield* Effect.gen(function*() {
          yield* begin
          yield* stoppedBy("BodyDied")(end)
          yield* send("a")
          yield* settled
          expect(yield* rowOf("wf")).toMatchObject({ status: "STOPPED", inbox: 1 })
        }).pipe(running(broken))
        yield* Effect.gen(function*() {
          yield* Job.resume("wf")
          expect(yield* end).toBe("a")
        }).pipe(running(Effect.zipRight(stepOf("before"), take)))
      }))

    test("a run that nobody drives yet keeps what is sent to it", () =>
      Effect.gen(function*() {
        yield* Effect.zipRight(begin, send("a")).pipe(inEngine(quiet))
        expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", inbox: 1 })
        expect(yield* end.pipe(running(take))).toBe("a")
      }))

    test("what cannot be decoded stops the run, until the code is mended", () =>
      Effect.gen(function*() {
        const Strict = Signal.make("go", Schema.NumberFromString)
        const strict = Signal.next(Strict)
        yield* Effect.gen(function*() {
          yield* begin
          yield* send("many")
          const reason = yield* stoppedBy("RecordUndecodable")(end)
          expect(reason).toMatchObject({ record: "wf:0" })
        }).pipe(running(Effect.map(strict, String)))
        yield* Effect.gen(function*() {
          yield* Job.resume("wf")
          expect(yield* end).toBe("many")
        }).pipe(running(take))
      }))

    test("another operation at its place is noticed, whether it was recorded or had begun", () =>
      Effect.gen(function*() {
        yield* Effect.zipRight(begin, begun(1)).pipe(running(take))
        const begunOtherwise = yield* stoppedBy("NonDeterminismError")(end).pipe(running(Signal.next(Stop)))
        expect(begunOtherwise).toMatchObject({ recorded: { kind: "signal", id: "go" }, requested: { id: "stop" } })
        yield* Effect.gen(function*() {
          yield* Job.resume("wf")
          yield* send("a")
          yield* stopped(end)
        }).pipe(running(Effect.zipRight(take, Effect.die("broken"))))
        const recordedOtherwise = yield* Effect.zipRight(Job.resume("wf"), stoppedBy("NonDeterminismError")(end)).pipe(
          running(stepOf("go"))
        )
        expect(recordedOtherwise).toMatchObject({ recorded: { kind: "signal" }, requested: { kind: "step" } })
      }))

    const misplaced: Record<
      string,
      readonly [Effect.Effect<Json, never, Workflow.Run>, operation: string, words: string]
    > = {
      "Signal.next in a step": [
        Step.durable(take, "step") as never,
        "Signal.next(\"go\")",
        "it is durable, and step \"step\" is recorded as a whole. Call it in the body"
      ],
      "Signal.token in a step": [
        Step.durable(Effect.asVoid(Signal.token(Go)), "step") as never,
        "Signal.token(\"go\")",
        "Call it in the body"
      ],
      "Signal.send in a body": [
        send("a") as never,
        "Signal.send(\"go\")",
        "it was called in the body, where a replay would call it again. Wrap it in Step.durable"
      ],
      "Signal.answer in a body": [
        Signal.answer(Go, { token: "x", value: "a" }) as never,
        "Signal.answer(\"go\")",
        "Wrap it in Step.durable"
      ],
      "Signal.next in a fiber that was forked without a reservation": [
        Effect.flatMap(Effect.fork(take), Fiber.join) as never,
        "Signal.next(\"go\")",
        "Branch"
      ],
      "Signal.send in a fiber that was forked without a reservation": [
        Effect.flatMap(Effect.fork(send("a")), Fiber.join) as never,
        "Signal.send(\"go\")",
        "Wrap it in Step.durable"
      ]
    }
    for (const [name, [body, operation, words]] of Object.entries(misplaced)) {
      test(`${name} is refused, with what to write instead`, () =>
        Effect.gen(function*() {
          yield* begin
          const reason = yield* stoppedBy("Misplaced")(end)
          expect(reason.operation).toBe(operation)
          expect(reason.message).toContain(words)
        }).pipe(running(body)))
    }

    test("a step may send, to its own run too", () =>
      Effect.gen(function*() {
        expect(yield* Job.execute(undefined, { workflowId: "wf" })).toBe("to myself")
      }).pipe(running(Effect.zipRight(
        Step.durable(Effect.orDie(send("to myself")) as Effect.Effect<void>, "send"),
        take
      ))))
  })

  describe(`Signal.send (${store})`, () => {
    test("of several sends with one key the first counts, after the end of the run too", () =>
      Effect.gen(function*() {
        const keyed = (value: string, signal = Go) =>
          Signal.send(signal, { workflowId: "wf", value, idempotencyKey: "k/1" })
        yield* begin
        yield* keyed("first")
        yield* keyed("second")
        yield* keyed("of another name", Stop)
        expect(yield* end).toEqual(["first", "of another name"])
        yield* keyed("third")
        expect((yield* rowOf("wf")).inbox).toBe(2)
        const late = yield* failure(Signal.send(Go, { workflowId: "wf", value: "x", idempotencyKey: "another" }))
        expect(late).toMatchObject({ _tag: "SignalNotWanted", workflowId: "wf", signal: "go", reason: "ended" })
        expect(late.message).toBe("The signal \"go\" for run \"wf\" was not sent: the run has ended")
      }).pipe(running(Effect.all([take, Signal.next(Stop)]))))

    test("a slash in a name or in a key does not mix two signals up", () =>
      Effect.gen(function*() {
        const [A, AB] = [Signal.make("a", Schema.String), Signal.make("a/b", Schema.String)]
        yield* Effect.gen(function*() {
          yield* begin
          yield* Signal.send(A, { workflowId: "wf", value: "1", idempotencyKey: "b/c" })
          yield* Signal.send(AB, { workflowId: "wf", value: "2", idempotencyKey: "c" })
          expect(yield* end).toEqual(["1", "2"])
        }).pipe(running(Effect.all([Signal.next(A), Signal.next(AB)])))
      }))

    test("says what is wrong with what is sent, and sends nothing", () =>
      Effect.gen(function*() {
        yield* begin
        const value = { on: new Date(), amount: 1.5 }
        const unfit = yield* failure(Signal.send(Amount, { workflowId: "wf", value }))
        expect(unfit).toMatchObject({ _tag: "SignalInvalid", signal: "amount" })
        expect(unfit.message).toMatch(
          /^The signal "amount" cannot be sent: its value is not what the schema describes: /
        )
        const large = yield* failure(send("x".repeat(100)))
        expect(large.message).toBe(
          "The signal \"go\" cannot be sent: its value is too large: it has 102 bytes once encoded, and 50 are allowed"
        )
        for (const idempotencyKey of ["", "a\0", "x".repeat(257)]) {
          const bad = yield* failure(Signal.send(Go, { workflowId: "wf", value: "a", idempotencyKey }))
          expect(bad.message).toContain("its idempotency key cannot be used: ")
        }
        expect((yield* rowOf("wf")).inbox).toBe(0)
        const nobody = yield* failure(Signal.send(Go, { workflowId: "nobody", value: "a" }))
        expect(nobody).toMatchObject({ _tag: "WorkflowNotFound", workflowId: "nobody" })
      }).pipe(inEngine({ ...quiet, limits: { value: 50 }, workflows: [live(take)] })))

    test("fails as the store does", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          yield* begin
          failCommits(faults, { error: dead, times: 1, when: (update) => update.signals.length > 0 })
          expect(yield* failure(send("a"))).toMatchObject({ _tag: "StoreBusy" })
          yield* send("b")
          expect(yield* end).toBe("b")
        }).pipe(running(take))
      ))
  })

  describe(`Signal.token (${store})`, () => {
    test("is answered before or after somebody waits, by its answer alone, and stays the same", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.gen(function*() {
          const first = yield* Signal.token(Go)
          const second = yield* Signal.token(Go)
          yield* add(`${first.token} ${second.token}`)
          const one = yield* first.next
          yield* stepOf("between")
          return [one, yield* second.next, yield* take]
        })
        const answer = (index: number, value: string) =>
          Signal.answer(Go, { token: entries[0]!.split(" ")[index]!, value })
        yield* Effect.gen(function*() {
          yield* begin
          yield* eventually(Effect.sync(() => entries.length), (length) => length > 0)
          expect(entries[0]).toMatch(/^[\w-]{22} [\w-]{22}$/)
          yield* send("not an answer")
          yield* answer(1, "second")
          yield* begun(1)
          yield* answer(0, "first")
          yield* Effect.ignore(Effect.sandbox(end))
        }).pipe(inEngine({ ...quiet, workflows: [live(body)], crashAfter: 1 }))
        yield* Effect.gen(function*() {
          expect(yield* Job.execute(undefined, { workflowId: "wf" })).toEqual(["first", "second", "not an answer"])
          expect(entries[1]).toBe(entries[0])
          expect(yield* failure(answer(0, "again"))).toMatchObject({ _tag: "SignalNotWanted", reason: "answered" })
        }).pipe(running(body))
        expect(yield* recorded("wf")).toEqual(["0 go", "1 go", "2 go", "3 between", "4 go", "5 go"])
      }))

    test("is refused under another name, when nobody has given it away, when it is used, and when the run has ended", () =>
      Effect.gen(function*() {
        const given = yield* Deferred.make<string>()
        const body = Effect.flatMap(
          Signal.token(Go),
          ({ token }) => Effect.zipRight(Deferred.succeed(given, token), take)
        )
        yield* Effect.gen(function*() {
          yield* begin
          const token = yield* Deferred.await(given)
          const unknown = yield* failure(Signal.answer(Go, { token: "unknown", value: "a" }))
          expect(unknown.message).toBe(
            "The signal \"go\" cannot be sent: no run has given this token away for it"
          )
          expect(yield* failure(Signal.answer(Stop, { token, value: "a" }))).toMatchObject({ _tag: "SignalInvalid" })
          yield* Signal.answer(Go, { token, value: "a" })
          const used = yield* failure(Signal.answer(Go, { token, value: "b" }))
          expect(used).toMatchObject({ _tag: "SignalNotWanted", workflowId: "wf", reason: "answered" })
          expect(used.message).toContain("its token has been answered already")
          yield* send("not a token's")
          expect(yield* end).toBe("not a token's")
        }).pipe(running(body))
      }))

    test("an answer to a run that has ended is not wanted", () =>
      Effect.gen(function*() {
        const given = yield* Deferred.make<string>()
        const body = Effect.flatMap(Signal.token(Go), ({ token }) => Effect.as(Deferred.succeed(given, token), "ended"))
        yield* Effect.gen(function*() {
          yield* begin
          yield* end
          const error = yield* failure(Signal.answer(Go, { token: yield* Deferred.await(given), value: "a" }))
          expect(error).toMatchObject({ _tag: "SignalNotWanted", reason: "ended" })
        }).pipe(running(body))
      }))

    test("a token that nobody waits for any more takes no answer", () =>
      Effect.gen(function*() {
        yield* begin
        expect(yield* end).toBe("first")
        expect(yield* recorded("wf")).toEqual(["0.0 sleep", "1.0 go"])
      }).pipe(running(Branch.race(
        Effect.as(Effect.sleep(0), "first"),
        Effect.map(Signal.token(Go), ({ token }) => token)
      ))))
  })

  describe(`Signals that are cut off (${store})`, () => {
    const Other = Workflow.make({ name: "other", payload: {} })
    const OtherLive = Other.toLayer(() => Effect.asVoid(stepOf("held")))

    /**
     * Drives a body in which a sleep of 500 milliseconds and a signal race, and sees to it that both are recorded in one batch, the
     * sleep first: the commits of the engine are held up meanwhile by a step of another run.
     */
    const contest = <B>(
      waits: number,
      body: Effect.Effect<Json, never, Workflow.Run>,
      then: Effect.Effect<B, unknown, Engine.Engine | StepStore.StepStore>
    ) =>
      Effect.flatMap(StepStore.StepStore, (raw) =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const hold = yield* Deferred.make<void>()
            const held = yield* Deferred.make<void>()
            faults.commit = (batch, call) =>
              batch.some((update) => update.steps.some((row) => row.stepId === "held" && row.final))
                ? Effect.zipRight(Deferred.succeed(held, undefined), Effect.zipRight(Deferred.await(hold), call))
                : call
            yield* begin
            yield* begun(waits)
            yield* Other.start(undefined, { workflowId: "other" })
            yield* Deferred.await(held)
            yield* TestClock.adjust("500 millis")
            yield* turns(20)
            yield* Effect.provideService(sendElsewhere("a"), StepStore.StepStore, raw)
            yield* turns(20)
            yield* Deferred.succeed(hold, undefined)
            return yield* then
          }).pipe(inEngine({ ...quiet, workflows: [live(body), OtherLive] }))
        ))

    const race = Branch.race(Effect.as(Effect.sleep("500 millis"), "timer"), take)

    test("a signal that was recorded just when its race was lost goes back to its place", () =>
      contest(
        2,
        Effect.all([race, take, take]),
        Effect.gen(function*() {
          yield* eventually(recorded("wf"), (rows) => rows.length === 3)
          expect(yield* recorded("wf")).toEqual(["0.0 sleep", "1.0 go", "2 go"])
          yield* send("b")
          expect(yield* end).toEqual(["timer", "a", "b"])
          expect(yield* stepsOf("wf")).toContain("1.0 go COMPLETED 1!")
          expect(yield* waiting()).toEqual([])
        })
      ))

    test("what is recorded together is a race with one winner", () =>
      contest(
        4,
        Effect.zip(Branch.raceAll([race, Effect.as(Effect.sleep("500 millis"), "timer"), take]), stepOf("after")),
        Effect.gen(function*() {
          expect(yield* end).toEqual(["timer", "after"])
          const rows = yield* recorded("wf")
          expect(rows.filter((row) => row.endsWith(" sleep"))).toHaveLength(2)
          expect(rows.slice(-2)).toEqual([expect.stringMatching(/ go$/), "3 after"])
        })
      ))

    test("a replay gives it back again if the process died before that was durable", () =>
      Effect.gen(function*() {
        yield* contest(
          2,
          Effect.zipRight(race, Effect.die("the first life ends here")),
          Effect.gen(function*() {
            yield* stoppedBy("BodyDied")(end)
            expect(yield* recorded("wf")).toEqual(["0.0 sleep", "1.0 go"])
          })
        )
        // The store as it is when the process dies in between.
        const { epoch } = yield* rowOf("wf")
        if ((yield* waiting()).length > 0) {
          const store = yield* StepStore.StepStore
          yield* store.commit([update("wf", { epoch, takes: [{ signalId: "a", stepKey: "wf:1.0" }] })])
        }
        expect(yield* waiting()).toEqual([])
        yield* Effect.gen(function*() {
          yield* Job.resume("wf")
          expect(yield* end).toEqual(["timer", "a"])
        }).pipe(running(Effect.zip(race, take)))
      }))

    test("the store's refusal to take it back stops the run", () =>
      Effect.flatMap(StepStore.StepStore, (store) => {
        const refusing: StepStore.StepStore["Type"] = {
          ...store,
          commit: (batch) =>
            batch.some((update) => update.gives.length > 0)
              ? Effect.fail(new Errors.StoreRejected({ target: "test", detail: "no gifts" }))
              : store.commit(batch)
        }
        return Effect.provideService(
          contest(
            2,
            Effect.zip(race, take),
            Effect.gen(function*() {
              expect(yield* stoppedBy("StoreRejected")(end)).toMatchObject({ detail: "no gifts" })
            })
          ),
          StepStore.StepStore,
          refusing
        )
      }))

    test("a run does not park while a signal is on its way back", () =>
      Effect.flatMap(StepStore.StepStore, (store) =>
        Effect.gen(function*() {
          const go = yield* Deferred.make<void>()
          const slow: StepStore.StepStore["Type"] = {
            ...store,
            commit: (batch) =>
              Effect.zipRight(
                batch.some((update) => update.gives.length > 0) ? Deferred.await(go) : Effect.void,
                store.commit(batch)
              )
          }
          yield* Effect.provideService(
            contest(
              2,
              Effect.zip(race, take),
              Effect.gen(function*() {
                yield* turns(20)
                yield* TestClock.adjust("5 seconds")
                yield* turns(20)
                yield* Deferred.succeed(go, undefined)
                expect(yield* end).toEqual(["timer", "a"])
                expect((yield* rowOf("wf")).epoch).toBe(1)
              })
            ),
            StepStore.StepStore,
            slow
          )
        })))

    test("whoever waits longest gets what is given back, and nobody gets it twice", () =>
      contest(
        4,
        Branch.all([race, Effect.zipRight(stepOf("x"), take), Effect.zipRight(stepOf("y"), take)], {
          concurrency: "unbounded"
        }),
        Effect.gen(function*() {
          yield* eventually(recorded("wf"), (rows) => rows.length === 5)
          expect(yield* waiting()).toEqual([])
          yield* settled
          expect(yield* statusOf("wf")).toBe("RUNNING")
          yield* send("b")
          expect(yield* end).toEqual(["timer", "a", "b"])
        })
      ))
  })

  describe(`Signals through crashes (${store})`, () => {
    test("each signal is taken once, wherever the run is cut off", () =>
      Effect.gen(function*() {
        const body = Effect.forEach(["a", "b", "c"], (id) => Effect.zipLeft(take, stepOf(id)))
        for (const crashAfter of [1, 2, 1, 1]) {
          yield* Effect.gen(function*() {
            yield* begin
            yield* Effect.ignore(Job.resume("wf"))
            yield* Signal.send(Go, { workflowId: "wf", value: "x", idempotencyKey: "1" })
            yield* Signal.send(Go, { workflowId: "wf", value: "y", idempotencyKey: "2" })
            yield* Signal.send(Go, { workflowId: "wf", value: "z", idempotencyKey: "3" })
            yield* Effect.ignore(Effect.sandbox(end))
          }).pipe(inEngine({ ...quiet, crashAfter, workflows: [live(body)] }))
        }
        expect(yield* Job.execute(undefined, { workflowId: "wf" }).pipe(running(body))).toEqual(["x", "y", "z"])
        expect(yield* waiting()).toEqual([])
      }))

    test("a take that the store could not write, or wrote and reported as failed, is done once", () =>
      Effect.gen(function*() {
        for (const written of [false, true]) {
          yield* withFaults((faults) =>
            Effect.gen(function*() {
              const workflowId = `wf-${written}`
              let left = 3
              faults.commit = (batch, call) =>
                batch.some((update) => update.takes.length > 0) && left-- > 0
                  ? Effect.zipRight(written && left === 2 ? call : Effect.void, Effect.fail(dead))
                  : call
              yield* Job.start(undefined, { workflowId })
              yield* Signal.send(Go, { workflowId, value: "a" })
              yield* Signal.send(Go, { workflowId, value: "b" })
              const fiber = yield* Effect.fork(Job.await(workflowId))
              for (let turn = 0; turn < 20; turn++) {
                yield* turns(20)
                yield* TestClock.adjust("1 second")
              }
              expect(yield* Fiber.join(fiber)).toEqual(["a", "b"])
            }).pipe(running(Effect.zip(take, take)))
          )
        }
      }))

    test("an inbox that cannot be read now is read later, and one that is damaged stops the run", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        let error: Errors.StoreError | null = dead
        let reads = 0
        const failing: StepStore.StepStore["Type"] = {
          ...store,
          mail: (workflowId, wanted) =>
            Effect.suspend(() => {
              reads++
              return error === null ? store.mail(workflowId, wanted) : Effect.fail(error)
            })
        }
        yield* Effect.gen(function*() {
          yield* begin
          yield* eventually(Effect.sync(() => reads), (reads) => reads > 0)
          error = new Errors.StoreCorrupt({ target: "test", workflowId: "wf", detail: "bits" })
          yield* turns(20)
          yield* TestClock.adjust("10 seconds")
          expect(yield* stoppedBy("StoreCorrupt")(end)).toMatchObject({ detail: "bits" })
          error = null
          yield* send("a")
          yield* Job.resume("wf")
          expect(yield* end).toBe("a")
        }).pipe(running(take), Effect.provideService(StepStore.StepStore, failing))
      }))

    test("a run whose row is gone leaves when it reads its inbox", () =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const gone = { ...store, mail: () => Effect.succeedNone }
        yield* Effect.gen(function*() {
          yield* begin
          yield* settled
          expect(yield* stepsOf("wf")).toHaveLength(1)
        }).pipe(running(take), Effect.provideService(StepStore.StepStore, gone))
        expect((yield* rowOf("wf")).owner).not.toBe(null)
      }))

    const scenario = fc.array(
      fc.oneof(
        { weight: 4, arbitrary: fc.constantFrom<Event>({ op: "send", name: "go" }, { op: "send", name: "stop" }) },
        { weight: 3, arbitrary: fc.nat({ max: 2_500 }).map((millis): Event => ({ op: "wait", millis })) },
        { weight: 1, arbitrary: fc.constant<Event>({ op: "restart" }) }
      ),
      { minLength: 1, maxLength: 25 }
    )
    type Event =
      | { readonly op: "send"; readonly name: "go" | "stop" }
      | { readonly op: "wait"; readonly millis: number }
      | { readonly op: "restart" }

    it.scoped.prop(
      "whatever is sent, cut and restarted: each signal is taken once or still waits, in the order of sending",
      { events: scenario, cuts: fc.array(fc.integer({ min: 1, max: 1_500 }), { minLength: 1, maxLength: 3 }) },
      ({ cuts, events }) =>
        Effect.gen(function*() {
          const got = (signal: typeof Go) =>
            Effect.gen(function*() {
              const taken: Array<string> = []
              for (const cut of cuts) {
                const one = yield* Branch.timeout(Signal.next(signal), cut).pipe(Effect.option)
                if (Option.isSome(one)) {
                  taken.push(one.value)
                  yield* stepOf(one.value)
                }
              }
              return taken
            })
          const body = Branch.all([got(Go), got(Go), got(Stop)], { concurrency: "unbounded" })
          let engine = yield* openEngine({ ...quiet, workflows: [live(body)] })
          yield* engine.run(begin)
          const sent = { go: Array<string>(), stop: Array<string>() }
          for (const event of events) {
            if (event.op === "send") {
              const value = `${event.name} ${sent[event.name].length}`
              const outcome = yield* Effect.either(engine.run(send(value, event.name === "go" ? Go : Stop)))
              if (outcome._tag === "Right") {
                sent[event.name].push(value)
              } else {
                expect(outcome.left._tag).toBe("SignalNotWanted")
              }
            } else if (event.op === "wait") {
              yield* turns(10)
              yield* TestClock.adjust(event.millis)
            } else {
              yield* engine.close
              engine = yield* openEngine({ ...quiet, workflows: [live(body)] })
            }
          }
          for (let turn = 0; (yield* statusOf("wf")) !== "COMPLETED"; turn++) {
            expect(turn).toBeLessThan(60)
            yield* turns(30)
            yield* TestClock.adjust("500 millis")
          }
          const [one, two, stop] = (yield* engine.run(end)) as ReadonlyArray<ReadonlyArray<string>>
          yield* engine.close
          const number = (value: string) => Number(value.split(" ")[1])
          expect([...one!, ...two!].sort((self, that) => number(self) - number(that)).concat(yield* waiting())).toEqual(
            sent.go
          )
          expect([...stop!, ...(yield* waiting("stop"))]).toEqual(sent.stop)
          expect([...one!]).toEqual([...one!].sort((self, that) => number(self) - number(that)))
        }).pipe(Effect.provide(Layer.fresh(layer))),
      { fastCheck: { numRuns: 25 } }
    )
  })
}
