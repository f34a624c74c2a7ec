/** The ten promises, each shown by itself; `test/faults/promises.test.ts` shows those of processes with processes. */
import { describe, expect } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Ref, Schema, TestClock } from "effect"
import { Branch, Child, Errors, Signal, Step, StepStore, Workflow } from "perdure"
import { newRun, update } from "./suites/rows.js"
import { brings, failCommits, records, withFaults } from "./support/faults.js"
import {
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
  steal,
  stepOf,
  stepsOf,
  stopped,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Job = Workflow.make({ name: "job", payload: {}, success: Schema.String, error: Schema.String })
const Go = Signal.make("go", Schema.Number)
const quiet = { slowPoll: "1000 days" as const }
const run = Job.execute(undefined, { workflowId: "wf" })
const day = 24 * 60 * 60 * 1_000

/** A step that takes so many turns. */
const slow = (id: string, count: number) => Effect.as(turns(count), id).pipe(Step.durable(id))

describe.each(stores)("Promises (%s)", (_, store) => {
  const test = testOn(store)

  describe("1. Recorded once", () => {
    test("a step recorded COMPLETED never runs again, and every replay returns an equal decoded value", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const values: Array<unknown> = []
        const Value = Schema.Struct({
          at: Schema.Date,
          tags: Schema.Set(Schema.String),
          left: Schema.UndefinedOr(Schema.String)
        })
        let lives = 0
        const live = Job.toLayer(() =>
          add("runs").pipe(
            Effect.as({ at: new Date(77), tags: new Set(["a", "b"]), left: undefined }),
            Step.durable("s", { success: Value }),
            Effect.tap((value) => Effect.sync(() => void values.push(value))),
            Effect.zipRight(Effect.suspend(() => ++lives < 5 ? Effect.dieMessage("not yet") : Effect.succeed("done")))
          )
        )
        yield* stoppedBy("BodyDied")(run).pipe(inEngine({ ...quiet, workflows: [live] }))
        for (let life = 2; life < 5; life++) {
          yield* Effect.zipRight(Job.resume("wf"), stoppedBy("BodyDied")(Job.await("wf"))).pipe(
            inEngine({ ...quiet, workflows: [live] })
          )
        }
        expect(yield* Effect.zipRight(Job.resume("wf"), run).pipe(inEngine({ ...quiet, workflows: [live] }))).toBe(
          "done"
        )
        expect(entries).toEqual(["runs"])
        expect(values).toHaveLength(5)
        expect(new Set(values.map((value) => JSON.stringify(Schema.encodeSync(Value)(value as typeof Value.Type)))))
          .toHaveLength(1)
      }))
  })

  describe("2. Nothing acknowledged is lost", () => {
    test("whichever write the engine does not live to see, those acknowledged before are there, and the run goes on from them", () =>
      Effect.gen(function*() {
        const real = yield* StepStore.StepStore
        const body = Branch.all([slow("a", 1), slow("b", 3)], { concurrency: 2 }).pipe(
          Effect.zipRight(Effect.forEach(["c", "d"], (id) => slow(id, 0))),
          Effect.map((ids) => ids.join())
        )
        const lost = new Errors.StoreUnavailable({ target: "the store", detail: "the process is gone" })
        let commits = Number.POSITIVE_INFINITY
        for (let nth = 1; nth <= commits; nth++) {
          const workflowId = `wf ${nth}`
          const acknowledged: Array<StepStore.StepRow> = []
          let count = 0
          yield* withFaults((faults) => {
            const gone = <A>(call: Effect.Effect<A, Errors.StoreError>) =>
              Effect.suspend(() => count >= nth ? Effect.fail(lost) : call)
            faults.commit = (batch, call) => {
              count++
              return Effect.tap(gone(call), () => {
                acknowledged.push(...batch.flatMap((one) => one.steps.filter((row) => row.final)))
              })
            }
            faults.claim = (_, call) => gone(call)
            faults.history = (_, call) => gone(call)
            return Effect.gen(function*() {
              const engine = yield* openEngine({ ...quiet, workflows: [Job.toLayer(() => body)] })
              const waiting = yield* Effect.fork(engine.run(Effect.exit(Job.execute(undefined, { workflowId }))))
              yield* eventually(
                Effect.all([Fiber.poll(waiting), Effect.sync(() => count)]),
                ([exit, count]) => exit._tag === "Some" || count >= nth
              )
              yield* engine.close
              yield* Fiber.interrupt(waiting)
            })
          })
          if (count < nth) {
            commits = nth - 1
          }
          const before = (yield* real.history(workflowId, 0, { after: null, limit: 100 })).rows
          expect(before.filter((row) => acknowledged.some(({ stepKey }) => stepKey === row.stepKey))).toEqual(
            acknowledged
          )
          expect(
            yield* Job.execute(undefined, { workflowId }).pipe(
              inEngine({ ...quiet, workflows: [Job.toLayer(() => body)] })
            )
          ).toBe("c,d")
          const after = (yield* real.history(workflowId, 0, { after: null, limit: 100 })).rows
          expect(after.slice(0, before.length)).toEqual(before)
        }
        // The creation, each step, and the end.
        expect(commits).toBeGreaterThanOrEqual(6)
      }))

    test("nothing goes on before what it rests on is written, however long that takes", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          faults.commit = (batch, call) =>
            turns(20).pipe(
              Effect.zipRight(call),
              Effect.tap(() =>
                Effect.forEach(batch, ({ insert, patch, steps }) =>
                  Effect.all([
                    insert === null ? Effect.void : add("created"),
                    Effect.forEach(steps.filter((row) => row.final), (row) => add(`${row.stepId} is recorded`)),
                    patch === null ? Effect.void : add(patch.status)
                  ]))
              )
            )
          const body = Effect.as(Effect.zipRight(stepOf("a", add), stepOf("b", add)), "done")
          yield* run.pipe(Effect.flatMap(add), inEngine({ ...quiet, workflows: [Job.toLayer(() => body)] }))
          expect(entries).toEqual(["created", "a", "a is recorded", "b", "b is recorded", "COMPLETED", "done"])
        })
      ))
  })

  describe("3. One writer a run", () => {
    test("a worker that has lost its run cannot write to it, whatever it was about to write", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const live = Job.toLayer(() =>
          Effect.as(pass, "mine").pipe(Step.durable("s"), Effect.zipLeft(stepOf("next", add)))
        )
        const engine = yield* openEngine({ ...quiet, workflows: [live] })
        yield* engine.run(Job.start(undefined, { workflowId: "wf" }))
        yield* begun
        const thief = yield* steal("wf")
        yield* open
        yield* turns(50)
        yield* engine.close
        expect(yield* historyOf("wf")).toEqual([])
        expect(entries).toEqual([])
        expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: thief, epoch: 2 })
        const { commit } = yield* StepStore.StepStore
        const answers = yield* Effect.forEach([1, 2, 3], (epoch) => commit([update("wf", { epoch })]))
        expect(answers.flat()).toEqual([{ _tag: "Fenced" }, { _tag: "Accepted" }, { _tag: "Fenced" }])
      }))
  })

  describe("4. Same keys", () => {
    test("whatever takes how long, operations have the addresses that the code gives them", () =>
      Effect.gen(function*() {
        const body = (delays: ReadonlyArray<number>) =>
          Branch.forEach(
            delays,
            (delay, i) =>
              Effect.zipRight(slow(`first ${i}`, delay), Branch.all([slow(`left ${i}`, delay), slow(`right ${i}`, 3)])),
            { concurrency: 2 }
          ).pipe(Effect.zipRight(slow("last", 0)))
        const keys: Array<ReadonlyArray<string>> = []
        for (const [i, delays] of [[0, 4, 9], [9, 4, 0], [3, 0, 3]].entries()) {
          yield* Workflow.run(`wf ${i}`, body(delays)).pipe(inEngine(quiet))
          keys.push([...yield* recorded(`wf ${i}`)].sort())
        }
        expect(keys[0]).toEqual([
          "0.0 first 0",
          "0.1.0 left 0",
          "0.2.0 right 0",
          "1.0 first 1",
          "1.1.0 left 1",
          "1.2.0 right 1",
          "2.0 first 2",
          "2.1.0 left 2",
          "2.2.0 right 2",
          "3 last"
        ])
        expect(keys[1]).toEqual(keys[0])
        expect(keys[2]).toEqual(keys[0])
      }))
  })

  describe("5. Same order", () => {
    test("branches that share a Ref, a race and a timeout come out of a replay as they came out of life", () =>
      Effect.gen(function*() {
        const random = (id: string) => Effect.suspend(() => slow(id, Math.floor(Math.random() * 6)))
        const body = Effect.gen(function*() {
          const order = yield* Ref.make<ReadonlyArray<string>>([])
          const note = (id: string) => Ref.updateAndGet(order, (ids) => [...ids, id])
          yield* Branch.forEach(
            ["a", "b", "c", "d"],
            (id) => Effect.forEach([1, 2, 3], (n) => Effect.flatMap(random(`${id}${n}`), note)),
            { concurrency: "unbounded" }
          )
          yield* Effect.flatMap(Branch.raceAll([random("x"), random("y"), random("z")]), note)
          yield* Branch.timeout(random("in time"), "1 day").pipe(Effect.flatMap(note))
          return yield* Ref.get(order)
        })
        for (let i = 0; i < 5; i++) {
          const [first, again] = yield* livedTwice(`wf ${i}`, body).pipe(inEngine(quiet))
          expect(again).toEqual(first)
          expect(Exit.getOrElse(first, () => [])).toHaveLength(14)
        }
      }))
  })

  describe("6. No lost wake-up", () => {
    const Part = Workflow.make({ name: "part", payload: {}, success: Schema.String })

    for (const what of ["a signal", "a cancellation", "a timer", "a finished child"] as const) {
      test(`${what} that arrives while the run is being parked wakes it`, () =>
        withFaults((faults) =>
          Effect.gen(function*() {
            const { commit } = yield* StepStore.StepStore
            const child = gate()
            const arrive = {
              "a signal": commit([
                update("wf", { epoch: null, signals: [{ signalId: "s", name: "go", sentAt: 0, value: "7" }] })
              ]),
              "a cancellation": commit([update("wf", { epoch: null, cancelAt: 1 })]),
              "a timer": TestClock.adjust("1 hour"),
              "a finished child": Effect.zipRight(child.open, turns(3))
            }[what]
            let parks = 0
            faults.commit = (batch, call) =>
              batch.some((one) => one.workflowId === "wf" && brings("SUSPENDED")(one)) && parks++ === 0
                ? Effect.zipRight(Effect.asVoid(Effect.orDie(arrive)), call)
                : call
            const body = {
              "a signal": Effect.map(Signal.next(Go), String),
              "a cancellation": Effect.as(Signal.next(Go), "never"),
              "a timer": Effect.as(Effect.sleep("1 hour"), "rested"),
              "a finished child": Effect.orDie(Child.execute(Part, undefined))
            }[what]
            yield* Effect.gen(function*() {
              const waiting = yield* Effect.fork(Effect.either(run))
              yield* turns(40)
              yield* TestClock.adjust("1 second")
              const end = yield* Fiber.join(waiting)
              expect(end).toMatchObject(
                {
                  "a signal": { right: "7" },
                  "a cancellation": { left: { _tag: "RunCancelled" } },
                  "a timer": { right: "rested" },
                  "a finished child": { right: "part" }
                }[what]
              )
              expect(parks).toBeGreaterThan(0)
            }).pipe(
              inEngine({
                ...quiet,
                workflows: [
                  Job.toLayer(() => body),
                  Part.toLayer(() => Effect.as(child.pass, "part").pipe(Step.durable("part")))
                ]
              })
            )
          })
        ))
    }
  })

  describe("7. Timers never fire early", () => {
    test("and fire after any number of restarts; the time of the run never goes back", () =>
      Effect.gen(function*() {
        const times: Array<Array<number>> = []
        const live = Job.toLayer(() =>
          Effect.gen(function*() {
            const seen: Array<number> = []
            times.push(seen)
            const look = Effect.map(Clock.currentTimeMillis, (now) => void seen.push(now))
            yield* look
            yield* Effect.sleep("30 days")
            yield* look
            yield* slow("after", 0)
            yield* look
            return "rested"
          })
        )
        for (const at of [0, 1, 7 * day, 29 * day, 30 * day - 1]) {
          yield* TestClock.setTime(at)
          yield* Effect.gen(function*() {
            yield* Job.start(undefined, { workflowId: "wf" })
            yield* turns(40)
            expect(yield* historyOf("wf")).toEqual([])
          }).pipe(inEngine({ ...quiet, workflows: [live] }))
        }
        // A jump of the clock is time passed.
        yield* TestClock.setTime(90 * day)
        expect(yield* run.pipe(inEngine({ ...quiet, workflows: [live] }))).toBe("rested")
        expect(times.at(-1)).toEqual([0, 90 * day, 90 * day])
        for (const seen of times.slice(0, -1)) {
          expect(seen).toEqual([0])
        }
      }))
  })

  describe("8. Only the workflow's own typed error fails a run", () => {
    const mistakes: ReadonlyArray<
      readonly [string, Errors.StopReason["_tag"], (mended: boolean) => Effect.Effect<unknown, string, Workflow.Run>]
    > = [
      ["a defect of the body", "BodyDied", (mended) => mended ? Effect.void : Effect.dieMessage("no")],
      [
        "a defect of a step",
        "StepDied",
        (mended) => Step.durable(mended ? Effect.void : Effect.dieMessage("no"), "work")
      ],
      [
        "changed code",
        "NonDeterminismError",
        (mended) => mended ? Effect.void : Effect.zipRight(slow("x", 0), Effect.dieMessage("never"))
      ],
      [
        "a guard",
        "Misplaced",
        (mended) => Step.durable(mended ? Effect.void : Effect.asVoid(Branch.all([])), "work")
      ],
      [
        "a limit",
        "LimitExceeded",
        (mended) => Step.durable(Effect.succeed("x".repeat(mended ? 1 : 2_000)), "large")
      ],
      [
        "a result that cannot be encoded",
        "StepDied",
        (mended) => Step.durable(Effect.succeed(mended ? 1 : Number.NaN), "number")
      ]
    ]

    for (const [what, reason, mistake] of mistakes) {
      test(`${what} stops it: nothing is undone, no parent is told, and resume finishes it`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const planted = yield* StepStore.StepStore
          yield* planted.commit([newRun("parent", { name: "elsewhere" })])
          const payload = { name: "job", parent: "parent", status: "PENDING" as const, payload: "{}", createdAt: 0 }
          yield* planted.commit([{ ...newRun("wf", payload), epoch: 0 }])
          const live = (mended: boolean) =>
            Job.toLayer(() =>
              stepOf("book", add).pipe(
                Workflow.withCompensation(() => add("undo")),
                Effect.zipRight(reason === "NonDeterminismError" && mended ? Effect.void : mistake(mended)),
                Effect.zipRight(stepOf("last", add))
              )
            )
          if (reason === "NonDeterminismError") {
            const code = Job.toLayer(() =>
              stepOf("book", add).pipe(Effect.zipRight(stepOf("last", add)), Effect.zipRight(Effect.dieMessage("no")))
            )
            yield* stoppedBy("BodyDied")(Job.await("wf")).pipe(inEngine({ ...quiet, workflows: [code] }))
          }
          const limits = { value: 1_000 }
          const resumed = reason === "NonDeterminismError" ? Job.resume("wf") : Effect.void
          yield* Effect.zipRight(resumed, stoppedBy(reason)(Job.await("wf"))).pipe(
            inEngine({ ...quiet, limits, workflows: [live(false)] })
          )
          expect(yield* statusOf("wf")).toBe("STOPPED")
          expect((yield* rowOf("parent")).inbox).toBe(0)
          expect(entries).not.toContain("undo")
          expect(
            yield* Effect.zipRight(Job.resume("wf"), Job.await("wf")).pipe(
              inEngine({ ...quiet, limits, workflows: [live(true)] })
            )
          ).toBe("last")
          expect(entries).toEqual(["book", "last"])
          expect((yield* rowOf("parent")).inbox).toBe(1)
        }))
    }

    test("a store that is full, or cannot be reached, releases it, and it goes on by itself", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const live = Job.toLayer(() =>
            stepOf("book", add).pipe(
              Workflow.withCompensation(() => add("undo")),
              Effect.zipRight(stepOf("last"))
            )
          )
          for (const [i, kind] of [Errors.StoreFull, Errors.StoreUnavailable, Errors.StoreReadOnly].entries()) {
            const workflowId = `wf ${i}`
            const error = new kind({ target: "the store", detail: "for a while" })
            const count = failCommits(faults, { error, times: 2, when: records("last") })
            yield* Effect.gen(function*() {
              const waiting = yield* Effect.fork(Job.execute(undefined, { workflowId }))
              for (const times of [1, 2]) {
                yield* eventually(Effect.sync(() => count.failed), (failed) => failed === times)
                yield* turns(10)
                yield* TestClock.adjust("10 seconds")
              }
              expect(yield* Fiber.join(waiting)).toBe("last")
            }).pipe(inEngine({ ...quiet, workflows: [live] }))
          }
          expect(entries).toEqual(["book", "book", "book"])
        })
      ))

    test("a defect deployed by mistake stops 100 runs, some holding what only a step gives back; the mended code and a resume of each finish them", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const store = yield* StepStore.StepStore
        const Order = Workflow.make({ name: "order", payload: { n: Schema.Number }, success: Schema.Number })
        const ids = Array.from({ length: 100 }, (_, n) => `order ${n}`)
        yield* store.commit([newRun("parent", { name: "elsewhere" })])
        yield* store.commit(ids.map((id, n) => ({
          ...newRun(id, { name: "order", parent: "parent", status: "PENDING", payload: `{"n":${n}}`, createdAt: 0 }),
          epoch: 0
        })))
        const live = (mended: boolean) =>
          Order.toLayer(({ n }) => {
            const mistake = Step.durable(mended ? Effect.void : Effect.dieMessage("deployed by mistake"), "work")
            const work = Effect.as(add(`book ${n}`), n).pipe(
              Step.durable("book", { compensate: () => add(`undo ${n}`) }),
              Effect.zipRight(n % 3 === 0 ? Branch.all([mistake, slow("beside", 40)], { concurrency: 2 }) : mistake)
            )
            const held = Effect.acquireUseRelease(
              stepOf("lock", () => add(`lock ${n}`)),
              () => work,
              () => stepOf("unlock", () => add(`unlock ${n}`))
            )
            return Effect.as(n % 2 === 0 ? Effect.asVoid(held) : Effect.asVoid(work), n)
          })
        yield* Effect.gen(function*() {
          const reasons = yield* Effect.forEach(ids, (id) => stopped(Order.await(id)), { concurrency: "unbounded" })
          expect(new Set(reasons.map(({ _tag }) => _tag))).toEqual(new Set(["StepDied"]))
        }).pipe(inEngine({ ...quiet, workflows: [live(false)] }))
        yield* Effect.forEach(ids, (id) => Effect.map(statusOf(id), (status) => expect(status).toBe("STOPPED")))
        expect(entries.filter((entry) => /^(unlock|undo) /.test(entry))).toEqual([])
        expect((yield* rowOf("parent")).inbox).toBe(0)

        yield* Effect.gen(function*() {
          yield* Effect.forEach(ids, (id) => Order.resume(id), { discard: true })
          expect(yield* Effect.forEach(ids, (id) => Order.await(id), { concurrency: "unbounded" }))
            .toEqual(ids.map((_, n) => n))
        }).pipe(inEngine({ ...quiet, workflows: [live(true)] }))
        for (const what of ["lock", "book", "unlock"]) {
          const ran = entries.filter((entry) => entry.startsWith(`${what} `))
          expect(ran).toHaveLength(what === "book" ? 100 : 50)
          expect(new Set(ran)).toHaveLength(ran.length)
        }
        expect(entries.filter((entry) => entry.startsWith("undo"))).toEqual([])
        expect((yield* rowOf("parent")).inbox).toBeGreaterThan(0)
      }))
  })

  describe("9. Changed code is caught", () => {
    test("a replay that asks for another operation stops, shows both side by side, and overwrites nothing", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const before = Effect.zipRight(stepOf("reserve"), stepOf("charge")).pipe(
          Effect.zipRight(Effect.dieMessage("no"))
        )
        yield* stoppedBy("BodyDied")(Workflow.run("wf", before)).pipe(inEngine(quiet))
        const history = yield* historyOf("wf")
        const changes = [
          Effect.zipRight(stepOf("reserve"), stepOf("invoice", add)),
          Effect.zipRight(stepOf("charge", add), stepOf("reserve", add)),
          Effect.zipRight(stepOf("reserve"), Effect.as(Effect.sleep("1 second"), "slept")),
          stepOf("reserve")
        ]
        const shown: Array<unknown> = []
        for (const changed of changes) {
          const reason = yield* stoppedBy("NonDeterminismError")(Workflow.run("wf", changed)).pipe(inEngine(quiet))
          shown.push([reason.recorded?.id, reason.requested?.id])
          expect(reason.message).toContain("charge")
          expect(yield* historyOf("wf")).toEqual(history)
        }
        expect(shown).toEqual([["charge", "invoice"], ["reserve", "charge"], ["charge", "sleep"], [
          "charge",
          undefined
        ]])
        expect(entries).toEqual([])
        expect(yield* Workflow.run("wf", Effect.zipRight(stepOf("reserve"), stepOf("charge"))).pipe(inEngine(quiet)))
          .toBe(
            "charge"
          )
      }))
  })

  describe("10. Errors are values", () => {
    test("a caller's are typed, and a body that catches every cause does not get hold of the engine's", () =>
      withFaults((faults) =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const caught = <A>(self: Effect.Effect<A, never, Workflow.Run>) =>
            self.pipe(
              Effect.catchAllCause((cause) => Effect.zipRight(add(`caught ${cause}`), Effect.succeed("caught"))),
              Effect.catchAllDefect((defect) => Effect.zipRight(add(`caught ${defect}`), Effect.succeed("caught")))
            )
          const bodies: Record<string, Effect.Effect<unknown, never, Workflow.Run>> = {
            Misplaced: Step.durable(Effect.asVoid(Branch.all([])), "guard"),
            StepDied: Step.durable(Effect.dieMessage("no"), "dies"),
            LimitExceeded: stepOf("x".repeat(10)).pipe(
              Effect.zipRight(Step.durable(Effect.succeed("x".repeat(2_000)), "large"))
            ),
            StoreRejected: stepOf("refused")
          }
          faults.commit = (batch, call) =>
            batch.some(records("refused"))
              ? Effect.fail(new Errors.StoreRejected({ target: "the store", detail: "no" }))
              : call
          for (const [tag, body] of Object.entries(bodies)) {
            const error = yield* failure(Job.execute(undefined, { workflowId: tag })).pipe(
              inEngine({
                ...quiet,
                limits: { value: 1_000 },
                workflows: [Job.toLayer(() => Effect.as(caught(body), "went on"))]
              })
            )
            expect(error).toMatchObject({ _tag: "RunStopped", reason: { _tag: tag } })
          }

          // A fence: the body is not told that somebody else has its run.
          const { begun, open, pass } = gate()
          const live = Job.toLayer(() => caught(Effect.as(pass, "mine").pipe(Step.durable("s"))))
          const engine = yield* openEngine({ ...quiet, workflows: [live] })
          yield* engine.run(Job.start(undefined, { workflowId: "fenced" }))
          yield* begun
          yield* steal("fenced")
          yield* open
          yield* turns(40)
          yield* engine.close
          expect(entries).toEqual([])

          yield* Effect.gen(function*() {
            expect(yield* failure(Job.await("nobody"))).toMatchObject({ _tag: "WorkflowNotFound" })
            expect(yield* failure(Job.start(undefined, { workflowId: "~" }))).toMatchObject({
              _tag: "WorkflowIdInvalid"
            })
            expect(yield* failure(Signal.send(Go, { workflowId: "nobody", value: 1 }))).toMatchObject({
              _tag: "WorkflowNotFound"
            })
          }).pipe(inEngine(quiet))
          expect((yield* stepsOf("StepDied")).length).toBe(1)
        })
      ))
  })
})
