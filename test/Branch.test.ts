import { describe, expect, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, FastCheck, Fiber, Ref, Schema, TestClock } from "effect"
import { Branch, Step, Workflow } from "perdure"
import {
  gate,
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  recorded,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

/** What callers see of an exit: the value, or the typed failure. */
const told = <A, E>(exit: Exit.Exit<A, E>) =>
  Exit.match(exit, {
    onSuccess: (value) => ({ value }),
    onFailure: (cause) => ({ failure: Cause.failureOption(cause) })
  })

const failing = (id: string) => Effect.fail(id).pipe(Step.durable(id, { error: Schema.String }))

describe.each(stores)("Branch (%s)", (_, store) => {
  const test = testOn(store)

  describe("the addresses", () => {
    test("the onboarding run has 0, 1.0, 2.0, 3", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          yield* stepOf("create-record")
          yield* Branch.all({ laptop: stepOf("provision-laptop"), access: stepOf("provision-access") }, {
            concurrency: "unbounded"
          })
          yield* stepOf("welcome-email")
        })
        yield* livedTwice("wf", body)
        expect(yield* stepsOf("wf")).toEqual([
          "0 create-record COMPLETED 1!",
          "1.0 provision-laptop COMPLETED 1!",
          "2.0 provision-access COMPLETED 1!",
          "3 welcome-email COMPLETED 1!"
        ])
      }).pipe(inEngine()))

    test("each branch counts for itself, three deep", () =>
      Effect.gen(function*() {
        const two = (name: string) => Effect.zipRight(stepOf(`${name}1`), stepOf(`${name}2`))
        const inner = Branch.all([two("x"), two("y")], { concurrency: "unbounded" })
        const outer = Branch.all([
          Effect.zipRight(stepOf("before"), inner),
          Branch.forEach([1], () => Branch.race(stepOf("fast"), Effect.never))
        ], { concurrency: "unbounded" })
        yield* livedTwice("wf", Effect.zipRight(outer, stepOf("after")))
        expect((yield* recorded("wf")).sort()).toEqual([
          "0.0 before",
          "0.1.0 x1",
          "0.1.1 x2",
          "0.2.0 y1",
          "0.2.1 y2",
          "1.0.0.0 fast",
          "2 after"
        ])
      }).pipe(inEngine()))

    test("sequences are taken in the order of the collection, whatever the concurrency", () =>
      Effect.gen(function*() {
        const keys = []
        for (const concurrency of [undefined, 1, 2, 5, "unbounded", "inherit"] as const) {
          const id = `wf-${concurrency}`
          yield* Workflow.run(
            id,
            Effect.zipRight(
              Branch.forEach(["a", "b", "c", "d", "e"], (name) => Effect.zipRight(stepOf(name), stepOf(`${name}'`)), {
                concurrency,
                discard: true
              }),
              stepOf("end")
            )
          )
          keys.push((yield* recorded(id)).sort())
        }
        for (const each of keys) {
          expect(each).toEqual([
            "0.0 a",
            "0.1 a'",
            "1.0 b",
            "1.1 b'",
            "2.0 c",
            "2.1 c'",
            "3.0 d",
            "3.1 d'",
            "4.0 e",
            "4.1 e'",
            "5 end"
          ])
        }
      }).pipe(inEngine()))

    test("an empty collection takes no sequence", () =>
      Effect.gen(function*() {
        const none: ReadonlyArray<Effect.Effect<never>> = []
        const value = yield* Workflow.run(
          "wf",
          Effect.gen(function*() {
            const results = [
              yield* Branch.all([]),
              yield* Branch.all({}),
              yield* Branch.all(none, { concurrency: "unbounded" }),
              yield* Branch.forEach([], () => stepOf("never")),
              yield* Branch.reserve([])
            ]
            yield* stepOf("only")
            return results.map((result) => Object.keys(result).length)
          })
        )
        expect(value).toEqual([0, 0, 0, 0, 0])
        expect(yield* recorded("wf")).toEqual(["0 only"])
      }).pipe(inEngine()))

    test("a branch without an operation takes its sequence all the same", () =>
      Effect.gen(function*() {
        yield* Workflow.run("wf", Effect.zipRight(Branch.all([Effect.void, Effect.void]), stepOf("after")))
        expect(yield* recorded("wf")).toEqual(["2 after"])
      }).pipe(inEngine()))
  })

  describe("the shapes", () => {
    test("tuples, structs, iterables and generators come back in the shape of Effect.all", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const tuple: [string, number] = yield* Branch.all([stepOf("a"), Effect.succeed(1)])
          const struct: { a: string; b: number } = yield* Branch.all({ a: stepOf("a"), b: Effect.succeed(1) }, {
            concurrency: 2
          })
          const set: Array<string> = yield* Branch.all(new Set([stepOf("x"), stepOf("y")]), {
            concurrency: "unbounded"
          })
          const nothing: void = yield* Branch.all([stepOf("z")], { discard: true })
          const each: Array<string> = yield* Branch.forEach(new Set(["u", "v"]), (id, i) => stepOf(`${id}${i}`))
          const piped: Array<string> = yield* Branch.forEach((id: string) => stepOf(id), { concurrency: 2 })(
            new Set(["w"])
          )
          const discarded: void = yield* Branch.forEach(["t"], (id) => stepOf(id), { discard: true })
          return { tuple, struct, set, nothing: nothing === undefined, each, piped, discarded: discarded === undefined }
        })
        const expected = Exit.succeed({
          tuple: ["a", 1],
          struct: { a: "a", b: 1 },
          set: ["x", "y"],
          nothing: true,
          each: ["u0", "v1"],
          piped: ["w"],
          discarded: true
        })
        expect(yield* livedTwice("wf", body)).toEqual([expected, expected])
      }).pipe(inEngine()))

    test("a struct may have keys that need care", () =>
      Effect.gen(function*() {
        const struct = JSON.parse("{\"__proto__\":1,\"constructor\":2,\"\":3}") as Record<string, number>
        const effects = Object.fromEntries(Object.entries(struct).map(([key, value]) => [key, Effect.succeed(value)]))
        const value = yield* Workflow.run("wf", Branch.reserve(effects).pipe(Effect.map((bound) => Object.keys(bound))))
        expect(value).toEqual(["__proto__", "constructor", ""])
      }).pipe(inEngine()))

    test("a failure ends the others, as in Effect.all", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const other = gate()
        const body = Branch.all([
          Effect.zipRight(other.begun, Effect.fail("no")).pipe(Step.durable("fails", { error: Schema.String })),
          Effect.onInterrupt(other.pass, () => add("cut")).pipe(Step.durable("waits"))
        ], { concurrency: "unbounded" }).pipe(Effect.flip, Effect.tap(() => stepOf("after")))
        expect(yield* livedTwice("wf", body)).toEqual([Exit.succeed("no"), Exit.succeed("no")])
        expect(entries).toEqual(["cut"])
        expect(yield* recorded("wf")).toEqual(["0.0 fails", "2 after"])
      }).pipe(inEngine()))

    test("mode either and mode validate collect failures", () =>
      Effect.gen(function*() {
        const both = [stepOf("a"), failing("b"), failing("c")] as const
        const body = Effect.all([
          Branch.all(both, { mode: "either", concurrency: "unbounded" }).pipe(
            Effect.map((all) => all.map((each) => each._tag))
          ),
          Effect.flip(Branch.all(both, { mode: "validate" })).pipe(Effect.map((all) => all.map((each) => each._tag))),
          Effect.flip(Branch.all(both, { mode: "validate", discard: true })).pipe(Effect.map((all) => all.length))
        ])
        const expected = Exit.succeed([["Right", "Left", "Left"], ["None", "Some", "Some"], 3])
        expect(yield* livedTwice("wf", body)).toEqual([expected, expected])
      }).pipe(inEngine()))
  })

  describe("races", () => {
    test("the first success recorded wins, in every replay, and the loser is cut", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const slow = gate()
        const race = Branch.race(
          Effect.onInterrupt(slow.pass, () => add("cut")).pipe(Step.durable("slow"), Effect.as("slow")),
          Effect.zipRight(slow.begun, Effect.void).pipe(Step.durable("quick"), Effect.as("quick"))
        )
        expect(yield* livedTwice("wf", race)).toEqual([Exit.succeed("quick"), Exit.succeed("quick")])
        expect(entries).toEqual(["cut"])
        expect(yield* recorded("wf")).toEqual(["1.0 quick"])
      }).pipe(inEngine()))

    test("a failure does not win a race", () =>
      Effect.gen(function*() {
        const ends = yield* livedTwice(
          "wf",
          Branch.raceAll([failing("a"), stepOf("b"), Effect.never]).pipe(Effect.zipLeft(stepOf("after")))
        )
        expect(ends).toEqual([Exit.succeed("b"), Exit.succeed("b")])
        expect(yield* recorded("wf")).toContain("3 after")
      }).pipe(inEngine()))

    test("race is pipeable", () =>
      Effect.gen(function*() {
        expect(yield* Workflow.run("wf", stepOf("a").pipe(Branch.race(Effect.never)))).toBe("a")
      }).pipe(inEngine()))
  })

  describe("Branch.reserve", () => {
    test("bound effects run under plain Effect.all with a bounded concurrency, with the keys of the reservation", () =>
      Effect.gen(function*() {
        const ids = Array.from({ length: 10 }, (_, i) => `s${i}`)
        const body = Branch.reserve(ids.map((id) => Effect.zipRight(stepOf(id), stepOf(`${id}'`)))).pipe(
          Effect.flatMap((bound) => Effect.all(bound, { concurrency: 3 })),
          Effect.zipLeft(stepOf("end"))
        )
        const ends = yield* livedTwice("wf", body)
        expect(ends[1]).toEqual(Exit.succeed(ids.map((id) => `${id}'`)))
        expect((yield* recorded("wf")).sort()).toEqual(
          [...ids.flatMap((id, i) => [`${i}.0 ${id}`, `${i}.1 ${id}'`]), "10 end"].sort()
        )
      }).pipe(inEngine()))

    test("bound effects race under plain Effect.race", () =>
      Effect.gen(function*() {
        const body = Effect.flatMap(Branch.reserve([stepOf("a"), Effect.never]), ([a, b]) => Effect.race(a, b))
        expect(yield* livedTwice("wf", body)).toEqual([Exit.succeed("a"), Exit.succeed("a")])
      }).pipe(inEngine()))

    test("a struct is bound in its shape", () =>
      Effect.gen(function*() {
        const body = Branch.reserve({ a: stepOf("a"), b: stepOf("b") }).pipe(
          Effect.flatMap(({ a, b }) => Effect.zip(b, a, { concurrent: true }))
        )
        expect(yield* Workflow.run("wf", body)).toEqual(["b", "a"])
        expect((yield* recorded("wf")).sort()).toEqual(["0.0 a", "1.0 b"])
      }).pipe(inEngine()))

    test("a branch that is never started leaves a gap and nothing else", () =>
      Effect.gen(function*() {
        yield* Workflow.run("wf", Effect.zipRight(Branch.reserve([stepOf("never")]), stepOf("next")))
        expect(yield* recorded("wf")).toEqual(["1 next"])
      }).pipe(inEngine()))

    test("a bound effect run again after its end goes on counting", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.flatMap(Branch.reserve([stepOf("s", add)]), ([bound]) => Effect.all([bound, bound, bound]))
        const ends = yield* livedTwice("wf", body)
        expect(ends[1]).toEqual(Exit.succeed(["s", "s", "s"]))
        expect(entries).toEqual(["s", "s", "s"])
        expect(yield* recorded("wf")).toEqual(["0.0 s", "0.1 s", "0.2 s"])
      }).pipe(inEngine()))

    test("a bound effect started again while it runs stops the run", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.flatMap(
          Branch.reserve([Effect.never.pipe(Step.durable("s"))]),
          ([bound]) => Effect.all([bound, bound], { concurrency: "unbounded" })
        ).pipe(Effect.catchAllCause(() => add("caught")))
        const reason = yield* Workflow.run("wf", Effect.asVoid(body)).pipe(stoppedBy("Misplaced"))
        expect(reason.operation).toBe("Branch.reserve")
        expect(reason.detail).toBe(
          "the effect of branch 0 was started a second time while it was running. Reserve a sequence for each start"
        )
        expect(entries).toEqual([])
      }).pipe(inEngine()))
  })

  describe("what is refused", () => {
    const inside: Record<string, Effect.Effect<void, never, Workflow.Run>> = {
      "Branch.reserve": Effect.asVoid(Branch.reserve([Effect.void])),
      "Branch.all": Branch.all([Effect.void], { discard: true }),
      "Branch.forEach": Branch.forEach([1], () => Effect.void, { discard: true }),
      "Branch.race": Branch.race(Effect.void, Effect.void),
      "Branch.raceAll": Branch.raceAll([Effect.void])
    }
    for (const [name, branches] of Object.entries(inside)) {
      test(`${name} inside a step stops the run, and says what to write`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const reason = yield* Workflow.run(
            "wf",
            branches.pipe(
              Effect.catchAllCause(() => add("caught")),
              Effect.zipRight(add("went on")),
              Step.durable("outer")
            )
          ).pipe(stoppedBy("Misplaced"))
          expect(reason.operation).toBe(name)
          expect(reason.detail).toContain("branches belong to the body, and step \"outer\" is recorded as a whole")
          expect(reason.detail).toContain("Inside a step use the Effect function of this name")
          expect(entries).toEqual([])
        }).pipe(inEngine()))
    }

    test("as many branches as the limit says are reserved, and one more stops the run", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = (n: number) =>
          Branch.forEach(Array.from({ length: n }), () => stepOf("s", add), { discard: true }).pipe(
            Effect.catchAllCause(() => add("caught"))
          )
        yield* Workflow.run("fits", body(3))
        const reason = yield* Workflow.run("wf", body(4)).pipe(stoppedBy("LimitExceeded"))
        expect(reason).toMatchObject({ what: "the number of branches reserved by Branch.forEach", limit: 3, actual: 4 })
        expect(entries).toEqual(["s", "s", "s"])
        expect(yield* historyOf("wf")).toEqual([])
      }).pipe(inEngine({ limits: { reservation: 3 } })))

    test("a collection that cannot be read kills the body", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run("wf", Branch.raceAll([] as Array<Effect.Effect<void>>)).pipe(
          stoppedBy("BodyDied")
        )
        expect(reason.detail).toContain("empty collection")
      }).pipe(inEngine()))
  })

  describe("Branch.timeout", () => {
    const limited = <A, E>(self: Effect.Effect<A, E, Workflow.Run>) =>
      self.pipe(
        Branch.timeout("1 minute"),
        Effect.catchIf(Cause.isTimeoutException, ({ message }) => Effect.succeed(message))
      )

    test("takes two sequences, and lets go what is in time", () =>
      Effect.gen(function*() {
        const lives = yield* livedTwice("wf", Effect.zip(limited(stepOf("a")), stepOf("after")))
        expect(lives.map(told)).toEqual([{ value: ["a", "after"] }, { value: ["a", "after"] }])
        expect(yield* stepsOf("wf")).toEqual(["0.0 a COMPLETED 1!", "1.0 sleep FAILED 1", "2 after COMPLETED 1!"])
      }).pipe(inEngine()))

    test("passes a failure on", () =>
      Effect.gen(function*() {
        expect(yield* Effect.flip(Workflow.run("wf", limited(failing("no")), { error: Schema.String }))).toBe("no")
      }).pipe(inEngine()))

    test("interrupts what takes too long, in every replay", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const slow = Effect.never.pipe(Step.durable("slow"), Effect.onInterrupt(() => add("interrupted")))
        const lives = yield* Effect.fork(livedTwice("wf", limited(slow)))
        yield* turns(20)
        yield* TestClock.adjust("59 seconds")
        expect(entries).toEqual([])
        yield* TestClock.adjust("1 second")
        expect((yield* Fiber.join(lives)).map(told)).toEqual([
          { value: "It took longer than 1m" },
          { value: "It took longer than 1m" }
        ])
        expect(entries).toEqual(["interrupted", "interrupted"])
        expect(yield* recorded("wf")).toEqual(["1.0 sleep"])
      }).pipe(inEngine()))

    test("counts the time from the call, through a restart", () =>
      Effect.gen(function*() {
        const body = limited(Effect.as(Effect.never, "done").pipe(Step.durable("slow")))
        const first = yield* Effect.fork(Workflow.run("wf", body))
        yield* turns(20)
        yield* TestClock.adjust("40 seconds")
        yield* Fiber.interrupt(first)
        const second = yield* Effect.fork(Workflow.run("wf", body))
        yield* turns(20)
        yield* TestClock.adjust("19 seconds")
        expect(second.unsafePoll()).toBeNull()
        yield* TestClock.adjust("1 second")
        expect(yield* Fiber.join(second)).toBe("It took longer than 1m")
      }).pipe(inEngine()))
  })

  describe("Branch.fork", () => {
    test("takes one sequence, and join none", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const forked = yield* Branch.fork(Effect.zip(stepOf("a"), stepOf("b")))
          const meanwhile = yield* stepOf("c")
          return [...yield* Branch.join(forked), meanwhile, yield* stepOf("d")]
        })
        const lives = yield* livedTwice("wf", body)
        expect(lives.map(told)).toEqual([{ value: ["a", "b", "c", "d"] }, { value: ["a", "b", "c", "d"] }])
        expect([...yield* recorded("wf")].sort()).toEqual(["0.0 a", "0.1 b", "1 c", "2 d"])
      }).pipe(inEngine()))

    test("passes a failure to whoever joins", () =>
      Effect.gen(function*() {
        const body = Effect.flatMap(Branch.fork(failing("no")), Branch.join)
        expect(yield* Effect.flip(Workflow.run("wf", body, { error: Schema.String }))).toBe("no")
      }).pipe(inEngine()))

    test("ends with the fiber that forked it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const forked = Effect.never.pipe(Step.durable("for ever"), Effect.onInterrupt(() => add("interrupted")))
        yield* Workflow.run("wf", Effect.zipRight(Branch.fork(forked), Effect.asVoid(stepOf("a"))))
        expect(entries).toEqual(["interrupted"])
        expect(yield* statusOf("wf")).toBe("COMPLETED")
      }).pipe(inEngine()))
  })

  describe("what is left open", () => {
    test("a finalizer of a scope opened in a branch that has ended may still run steps, in that branch", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const open = (id: string) =>
          Effect.zipRight(Effect.addFinalizer(() => stepOf(`close ${id}`, add)), stepOf(`open ${id}`, add))
        const body = Effect.scoped(
          Effect.zipRight(Branch.all([open("a"), open("b")], { concurrency: "unbounded" }), stepOf("use", add))
        ).pipe(Effect.zipRight(stepOf("end", add)))
        yield* livedTwice("wf", body)
        expect(entries).toHaveLength(6)
        expect((yield* recorded("wf")).sort()).toEqual([
          "0.0 open a",
          "0.1 close a",
          "1.0 open b",
          "1.1 close b",
          "2 use",
          "3 end"
        ])
      }).pipe(inEngine()))

    test("a step that lets go slowly holds back what is recorded meanwhile, and a replay has the same order", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const [slow, other] = [gate(), gate()]
        const body = Branch.all([
          Branch.race(slow.pass.pipe(Effect.uninterruptible, Step.durable("slow")), stepOf("fast")).pipe(
            Effect.zipRight(add("raced"))
          ),
          Effect.zipRight(other.pass.pipe(Step.durable("other")), add("other"))
        ], { concurrency: "unbounded", discard: true })
        const fiber = yield* Effect.fork(livedTwice("wf", body))
        yield* Effect.zipRight(slow.begun, other.begun)
        yield* other.open
        yield* turns(10)
        expect(yield* recorded("wf")).toEqual(["0.1.0 fast", "1.0 other"])
        expect(entries).toEqual([])
        yield* slow.open
        yield* Fiber.join(fiber)
        expect(entries).toEqual(["raced", "other", "raced", "other"])
      }).pipe(inEngine()))

    test("the same two branches deep", () =>
      Effect.gen(function*() {
        const open = Effect.addFinalizer(() => stepOf("close"))
        yield* livedTwice("wf", Effect.scoped(Branch.all([Branch.all([open])])))
        expect(yield* recorded("wf")).toEqual(["0.0.0 close"])
      }).pipe(inEngine()))

    test("finalizers that run side by side are forked, and stop the run", () =>
      Effect.gen(function*() {
        const open = (id: string) => Effect.addFinalizer(() => stepOf(`close ${id}`))
        const body = Effect.scoped(Effect.parallelFinalizers(Effect.zipRight(open("a"), open("b"))))
        const reason = yield* Workflow.run("wf", body).pipe(stoppedBy("Misplaced"))
        expect(reason.detail).toContain("forked from the root branch without a reserved sequence")
      }).pipe(inEngine()))
  })

  describe("what branches share", () => {
    test("a Ref, a Deferred and a semaphore that branches share come out the same in a replay", () =>
      Effect.gen(function*() {
        const body = Effect.gen(function*() {
          const order = yield* Ref.make<ReadonlyArray<string>>([])
          const ready = yield* Deferred.make<string>()
          const semaphore = yield* Effect.makeSemaphore(1)
          const note = (text: string) => Ref.update(order, (all) => [...all, text])
          const branch = (name: string) =>
            semaphore.withPermits(1)(Effect.zipRight(stepOf(`${name}1`), note(name))).pipe(
              Effect.zipRight(stepOf(`${name}2`)),
              Effect.zipRight(note(`${name}'`)),
              Effect.zipRight(Deferred.succeed(ready, name))
            )
          yield* Branch.all([branch("a"), branch("b"), branch("c"), Effect.flatMap(Deferred.await(ready), note)], {
            concurrency: "unbounded",
            discard: true
          })
          return yield* Ref.get(order)
        })
        const [live, replayed] = yield* livedTwice("wf", body)
        expect(replayed).toEqual(live)
      }).pipe(inEngine()))

    test("a branch may wait for another one without an operation of its own", () =>
      Effect.gen(function*() {
        const body = Effect.flatMap(Deferred.make<string>(), (deferred) =>
          Branch.all([
            Deferred.await(deferred),
            Effect.flatMap(stepOf("s"), (value) => Deferred.succeed(deferred, value))
          ], {
            concurrency: "unbounded"
          }))
        const expected = Exit.succeed(["s", true])
        expect(yield* livedTwice("wf", body)).toEqual([expected, expected])
        expect(yield* statusOf("wf")).toBe("COMPLETED")
      }).pipe(inEngine()))
  })
})

describe("Branch and Effect agree", () => {
  const [, memory] = stores[0]!

  type Concurrency = "inherit" | "unbounded" | number | undefined
  const concurrency = FastCheck.constantFrom<[Concurrency, ...Array<Concurrency>]>(
    undefined,
    1,
    2,
    3,
    "unbounded",
    "inherit"
  )
  const mode = FastCheck.constantFrom("default" as const, "validate" as const, "either" as const)
  // Effect.all itself does not end where a branch fails that yields, with `batching` and without concurrency.
  const options = FastCheck.record({
    concurrency,
    discard: FastCheck.boolean(),
    mode,
    concurrentFinalizers: FastCheck.boolean()
  })
  const outcome = FastCheck.record({ ok: FastCheck.boolean(), value: FastCheck.integer(), yields: FastCheck.nat(2) })
  const outcomes = FastCheck.array(outcome, { maxLength: 6 })

  type Outcome = { readonly ok: boolean; readonly value: number; readonly yields: number }
  const pure = ({ ok, value, yields }: Outcome) =>
    Effect.zipRight(
      Effect.replicateEffect(Effect.yieldNow(), yields, { discard: true }),
      ok ? Effect.succeed(value) : Effect.fail(value)
    )

  const same = <A>(mine: Effect.Effect<A, unknown, Workflow.Run>, plain: Effect.Effect<A, unknown>) =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const see = (exit: Exit.Exit<A, unknown>) => Effect.sync(() => void seen.push(told(exit)))
      yield* Workflow.run("wf", Effect.flatMap(Effect.exit(mine), see))
      yield* Effect.flatMap(Effect.exit(plain), see)
      expect(seen[0]).toEqual(seen[1])
    }).pipe(inEngine(), Effect.provide(memory))

  it.effect.prop(
    "Branch.all of an iterable",
    { outcomes, options },
    ({ options, outcomes }) =>
      same(
        Branch.all(outcomes.map(pure), options) as Effect.Effect<unknown, unknown, Workflow.Run>,
        Effect.all(outcomes.map(pure), options) as Effect.Effect<unknown, unknown>
      )
  )

  it.effect.prop(
    "Branch.all of a struct",
    { outcomes: FastCheck.dictionary(FastCheck.string(), outcome, { maxKeys: 4 }), options },
    ({ options, outcomes }) => {
      const effects = Object.fromEntries(Object.entries(outcomes).map(([key, each]) => [key, pure(each)]))
      return same(
        Branch.all(effects, options) as Effect.Effect<unknown, unknown, Workflow.Run>,
        Effect.all(effects, options) as Effect.Effect<unknown, unknown>
      )
    }
  )

  it.effect.prop(
    "Branch.forEach",
    { outcomes, concurrency, discard: FastCheck.constantFrom(true as const, false as never) },
    ({ concurrency, discard, outcomes }) =>
      same(
        Branch.forEach(outcomes, pure, { concurrency, discard }) as Effect.Effect<
          unknown,
          unknown,
          Workflow.Run
        >,
        Effect.forEach(outcomes, pure, { concurrency, discard })
      )
  )

  it.effect.prop(
    "Branch.raceAll",
    { outcomes: FastCheck.array(outcome, { minLength: 1, maxLength: 5 }) },
    ({ outcomes }) =>
      same<unknown>(
        Effect.exit(Branch.raceAll(outcomes.map(pure))).pipe(Effect.map(Exit.isSuccess)),
        Effect.exit(Effect.raceAll(outcomes.map(pure))).pipe(Effect.map(Exit.isSuccess))
      )
  )

  it.effect.prop(
    "Branch.all of steps gives the values of Effect.all, in every replay",
    { outcomes, concurrency, mode: FastCheck.constantFrom("validate" as const, "either" as const) },
    ({ concurrency, mode, outcomes }) =>
      Effect.gen(function*() {
        const steps = outcomes.map((each) => pure(each).pipe(Step.durable("s", { error: Schema.Number })))
        const [live, replayed] = yield* livedTwice(
          "wf",
          Branch.all(steps, { concurrency, mode }) as Effect.Effect<unknown, unknown, Workflow.Run>
        )
        const plain = yield* Effect.exit(
          Effect.all(outcomes.map(pure), { concurrency, mode }) as Effect.Effect<unknown, unknown>
        )
        expect(told(live)).toEqual(told(plain))
        expect(replayed).toEqual(live)
      }).pipe(inEngine(), Effect.provide(memory))
  )
})
