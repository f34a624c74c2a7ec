import { describe, expect } from "@effect/vitest"
import {
  Clock,
  Context,
  Effect,
  Exit,
  Fiber,
  FiberSet,
  Layer,
  Random,
  RateLimiter,
  Request,
  RequestResolver,
  Runtime,
  Schedule,
  Scheduler,
  Schema,
  Stream,
  TestClock
} from "effect"
import { Branch, Engine, Step, Workflow } from "perdure"
import {
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  realClock,
  recorded,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

type Body = Effect.Effect<unknown, unknown, Workflow.Run>

const a = stepOf("a")
const b = stepOf("b")
const T = Context.GenericTag<string>("T")
const failing = Effect.fail("no").pipe(Step.durable("fails", { error: Schema.String }))
/** Only what nobody awaits is left to the body; its type is of no interest here. */
const quiet = (body: Body) => Effect.asVoid(body) as Effect.Effect<void, never, Workflow.Run>

/** What works, and the keys that it leaves. */
const works: Record<string, readonly [body: Body, keys: ReadonlyArray<string>]> = {
  "Effect.all, one after the other": [Effect.all([a, b]), ["0 a", "1 b"]],
  "Effect.forEach, one after the other": [Effect.forEach(["a", "b"], (id) => stepOf(id)), ["0 a", "1 b"]],
  "Effect.timed": [Effect.timed(a), ["0 a"]],
  "Effect.cached": [Effect.flatMap(Effect.cached(a), (cached) => Effect.zip(cached, cached)), ["0 a"]],
  "Effect.cachedWithTTL": [
    Effect.flatMap(Effect.cachedWithTTL(a, "1 minute"), (cached) => Effect.zip(cached, cached)),
    ["0 a"]
  ],
  "Effect.once": [Effect.flatMap(Effect.once(a), (once) => Effect.zip(once, once)), ["0 a"]],
  "Effect.retry without a delay": [Effect.ignore(Effect.retry(failing, { times: 2 })), [
    "0 fails",
    "1 fails",
    "2 fails"
  ]],
  "Effect.retry with a schedule without a delay": [
    Effect.ignore(Effect.retry(failing, Schedule.recurs(1))),
    ["0 fails", "1 fails"]
  ],
  "Effect.repeat without a delay": [Effect.repeat(a, Schedule.recurs(1)), ["0 a", "1 a"]],
  "Effect.iterate": [Effect.iterate(0, { while: (n) => n < 2, body: (n) => Effect.as(a, n + 1) }), ["0 a", "1 a"]],
  "acquireUseRelease": [
    Effect.acquireUseRelease(stepOf("acquire"), () => stepOf("use"), () => stepOf("release")),
    ["0 acquire", "1 use", "2 release"]
  ],
  "Effect.ensuring": [Effect.ensuring(a, b), ["0 a", "1 b"]],
  "Effect.onExit": [Effect.onExit(a, () => b), ["0 a", "1 b"]],
  "Effect.onError of a typed failure": [Effect.ignore(Effect.onError(failing, () => b.pipe(Effect.ignore))), [
    "0 fails",
    "1 b"
  ]],
  "a finalizer of Effect.scoped": [Effect.scoped(Effect.zipRight(Effect.addFinalizer(() => b), a)), ["0 a", "1 b"]],
  "a finalizer of the run's own scope": [
    Effect.zipRight(Effect.addFinalizer(() => b), a) as Body,
    ["0 a", "1 b"]
  ],
  "a semaphore": [Effect.flatMap(Effect.makeSemaphore(1), (semaphore) => semaphore.withPermits(1)(a)), ["0 a"]],
  "Effect.withSpan": [Effect.withSpan(a, "span"), ["0 a"]],
  "Effect.uninterruptible": [Effect.uninterruptible(Effect.zip(a, b)), ["0 a", "1 b"]],
  "Effect.uninterruptibleMask": [Effect.uninterruptibleMask((restore) => Effect.zip(restore(a), b)), ["0 a", "1 b"]],
  "Effect.onInterrupt of what is not interrupted": [Effect.onInterrupt(a, () => b), ["0 a"]],
  "a Layer around a step": [Effect.provide(a, Layer.succeed(T, "t")), ["0 a"]],
  "a Layer that is built with a step": [Effect.provide(T, Layer.effect(T, a)), ["0 a"]],
  "Effect.provideServiceEffect with a step": [Effect.provideServiceEffect(T, T, a), ["0 a"]],
  "Effect.async that resumes with a step": [Effect.async<string, never, Workflow.Run>((resume) => resume(a)), ["0 a"]],
  "Effect.promise, in a single branch": [Effect.zip(a, Effect.zipRight(Effect.promise(() => Promise.resolve()), b)), [
    "0 a",
    "1 b"
  ]],
  "Effect.yieldNow": [Effect.zip(a, Effect.zipRight(Effect.yieldNow(), b)), ["0 a", "1 b"]],
  "a fork without operations": [
    Effect.flatMap(Effect.fork(Effect.succeed(1)), (fiber) => Effect.zip(Fiber.join(fiber), a)),
    ["0 a"]
  ],
  "parallel work without operations": [
    Effect.zipRight(Effect.all([Effect.yieldNow(), Effect.yieldNow()], { concurrency: "unbounded" }), a),
    ["0 a"]
  ],
  "a pure race": [Effect.zipRight(Effect.race(Effect.succeed(1), Effect.never), a), ["0 a"]]
}

/** What is refused, and from which branch it is forked. */
const refused: Record<string, readonly [body: Body, operation: string, branch?: string]> = {
  "Effect.all with concurrency": [Effect.all([a, b], { concurrency: "unbounded" }), "Step.durable(\"a\")"],
  "Effect.all with a bounded concurrency": [Effect.all([a, b], { concurrency: 2 }), "Step.durable(\"a\")"],
  "Effect.all with an inherited concurrency": [
    Effect.withConcurrency(Effect.all([a, b], { concurrency: "inherit" }), 4),
    "Step.durable(\"a\")"
  ],
  "Effect.forEach with concurrency": [
    Effect.forEach(["a", "b"], (id) => stepOf(id), { concurrency: 2 }),
    "Step.durable(\"a\")"
  ],
  "Effect.zip, concurrent": [Effect.zip(a, b, { concurrent: true }), "Step.durable(\"a\")"],
  "Effect.race": [Effect.race(a, Effect.never), "Step.durable(\"a\")"],
  "Effect.raceAll": [Effect.raceAll([a, Effect.never]), "Step.durable(\"a\")"],
  "Effect.raceFirst": [Effect.raceFirst(a, Effect.never), "Step.durable(\"a\")"],
  "Effect.raceWith": [
    Effect.raceWith(a, Effect.never, { onSelfDone: () => Effect.void, onOtherDone: () => Effect.void }),
    "Step.durable(\"a\")"
  ],
  "Effect.timeout": [Effect.timeout(a, "1 minute"), "Step.durable(\"a\")"],
  "Effect.timeoutOption": [Effect.timeoutOption(a, "1 minute"), "Step.durable(\"a\")"],
  "Effect.disconnect": [Effect.disconnect(a), "Step.durable(\"a\")"],
  "Effect.fork": [Effect.flatMap(Effect.fork(a), Fiber.join), "Step.durable(\"a\")"],
  "Effect.fork that nobody joins": [
    Effect.zip(Effect.fork(a), Effect.zip(Effect.yieldNow(), Effect.never)),
    "Step.durable(\"a\")"
  ],
  "Effect.forkDaemon": [Effect.flatMap(Effect.forkDaemon(a), Fiber.join), "Step.durable(\"a\")"],
  "Effect.forkScoped": [Effect.scoped(Effect.flatMap(Effect.forkScoped(a), Fiber.join)), "Step.durable(\"a\")"],
  "Effect.forkAll": [Effect.flatMap(Effect.forkAll([a, b]), Fiber.join), "Step.durable(\"a\")"],
  "Effect.forkIn": [
    Effect.scoped(Effect.flatMap(Effect.scope, (scope) => Effect.flatMap(Effect.forkIn(a, scope), Fiber.join))),
    "Step.durable(\"a\")"
  ],
  "a fork within a fork": [
    Effect.flatMap(Effect.fork(Effect.flatMap(Effect.fork(a), Fiber.join)), Fiber.join),
    "Step.durable(\"a\")"
  ],
  "a fork in a branch": [
    Branch.all([b, Effect.flatMap(Effect.fork(a), Fiber.join)]),
    "Step.durable(\"a\")",
    "branch 1"
  ],
  "a fork in a nested branch": [
    Branch.all([Branch.all([Effect.race(a, Effect.never)])]),
    "Step.durable(\"a\")",
    "branch 0.0"
  ],
  "Stream.runForEach, which forks even one after the other": [
    Stream.fromIterable(["a", "b"]).pipe(Stream.runForEach((id) => stepOf(id))),
    "Step.durable(\"a\")"
  ],
  "Stream.mapEffect and Stream.runCollect": [
    Stream.fromIterable(["a", "b"]).pipe(Stream.mapEffect((id) => stepOf(id)), Stream.runCollect),
    "Step.durable(\"a\")"
  ],
  "a request that is resolved with a step": [
    Effect.request(
      Request.of<Request.Request<string>>()({}),
      RequestResolver.fromEffect(() => a as Effect.Effect<string>)
    ),
    "Step.durable(\"a\")"
  ],
  "Stream.mapEffect with concurrency": [
    Stream.fromIterable(["a", "b"]).pipe(Stream.mapEffect((id) => stepOf(id), { concurrency: 2 }), Stream.runDrain),
    "Step.durable(\"a\")"
  ],
  "Stream.buffer": [
    Stream.fromIterable(["a", "b"]).pipe(
      Stream.mapEffect((id) => stepOf(id)),
      Stream.buffer({ capacity: 2 }),
      Stream.runDrain
    ),
    "Step.durable(\"a\")"
  ],
  "Stream.merge": [Stream.runDrain(Stream.merge(Stream.fromEffect(a), Stream.never)), "Step.durable(\"a\")"],
  "two Layers that are built side by side": [
    Effect.provide(
      T,
      Layer.merge(Layer.effect(T, a), Layer.effectDiscard(b)) as Layer.Layer<string, never, Workflow.Run>
    ),
    "Step.durable(\"a\")"
  ],
  "finalizers side by side": [
    Effect.scoped(
      Effect.parallelFinalizers(Effect.zipRight(Effect.addFinalizer(() => a), Effect.addFinalizer(() => a)))
    ),
    "Step.durable(\"a\")"
  ],
  "Runtime.runPromise of a captured runtime": [
    Effect.flatMap(Effect.runtime<Workflow.Run>(), (runtime) => Effect.promise(() => Runtime.runPromise(runtime)(a))),
    "Step.durable(\"a\")"
  ],
  "Runtime.runFork of a captured runtime": [
    Effect.flatMap(Effect.runtime<Workflow.Run>(), (runtime) => Fiber.join(Runtime.runFork(runtime)(a))),
    "Step.durable(\"a\")"
  ],
  "FiberSet.runtime": [
    Effect.scoped(
      Effect.flatMap(
        FiberSet.make(),
        (set) => Effect.flatMap(FiberSet.runtime(set)<Workflow.Run>(), (run) => Fiber.join(run(a)))
      )
    ),
    "Step.durable(\"a\")"
  ],
  "a branch in a fork": [Effect.flatMap(Effect.fork(Branch.all([a])), Fiber.join), "Branch.all"],
  "Branch.reserve in a fork": [Effect.flatMap(Effect.fork(Branch.reserve([a])), Fiber.join), "Branch.reserve"]
}

/** What a body may wait for in a step only. */
/** What sleeps, reads the time or draws random numbers in a fiber of which nobody knows when it gets there. */
const strays: Record<string, readonly [body: Body, operation: string]> = {
  "a sleep in a fork": [Effect.zipRight(Effect.fork(Effect.sleep("1 second")), Effect.never), "A sleep"],
  "Effect.timeout of what has no operations": [Effect.timeout(Effect.never, "1 second"), "A sleep"],
  "a rate limiter": [
    Effect.scoped(
      Effect.flatMap(RateLimiter.make({ limit: 10, interval: "1 minute" }), (limited) => limited(a))
    ),
    "A sleep"
  ],
  "Stream.schedule": [
    Stream.fromIterable([1]).pipe(Stream.schedule(Schedule.spaced(5)), Stream.runDrain),
    "Clock.currentTimeMillis"
  ],
  "the time in a fork": [Effect.flatMap(Effect.fork(Clock.currentTimeMillis), Fiber.join), "Clock.currentTimeMillis"],
  "the time in nanoseconds in a fork": [
    Effect.flatMap(Effect.fork(Clock.currentTimeNanos), Fiber.join),
    "Clock.currentTimeNanos"
  ],
  "Random in a fork": [Effect.flatMap(Effect.fork(Random.next), Fiber.join), "Random.next"],
  "a UUID in a fork": [Effect.flatMap(Effect.fork(Workflow.uuid), Fiber.join), "Random.nextIntBetween"]
}

/** What bodies do to keep what they are told to themselves. */
const swallows: Record<string, (self: Body, add: (entry: string) => Effect.Effect<void>) => Body> = {
  "catchAllCause": (self, add) => Effect.catchAllCause(self, () => add("caught")),
  "catchAll": (self, add) => Effect.catchAll(self, () => add("caught")),
  "catchAllDefect": (self, add) => Effect.catchAllDefect(self, () => add("caught")),
  "exit": (self, add) => Effect.zipRight(Effect.exit(self), add("caught")),
  "sandbox": (self, add) => Effect.zipRight(Effect.flip(Effect.sandbox(self)), add("caught")),
  "ignore": (self, add) => Effect.zipRight(Effect.ignore(self), add("caught")),
  "either": (self, add) => Effect.zipRight(Effect.either(self), add("caught")),
  "orElse": (self, add) => Effect.orElse(self, () => add("caught")),
  "ensuring": (self, add) => Effect.zipRight(Effect.ensuring(self, stepOf("finalizer", add)), add("caught")),
  "onExit": (self, add) => Effect.onExit(self, () => stepOf("finalizer", add)),
  "acquireUseRelease": (self, add) => Effect.acquireUseRelease(Effect.void, () => self, () => stepOf("finalizer", add)),
  "uninterruptible": (self, add) =>
    Effect.uninterruptible(Effect.zipRight(Effect.exit(self), Effect.zipRight(stepOf("next", add), add("went on")))),
  "forever": (self, add) => Effect.forever(Effect.catchAllCause(self, () => stepOf("next", add))),
  "forever, uninterruptible": (self, add) =>
    Effect.uninterruptible(Effect.forever(Effect.catchAllCause(self, () => stepOf("next", add)))),
  "fork and await": (self, add) =>
    Effect.flatMap(Effect.fork(self), (fiber) => Effect.zipRight(Fiber.await(fiber), stepOf("next", add))),
  "retry": (self, add) => Effect.zipRight(Effect.retry(Effect.sandbox(self), { times: 3 }), add("caught")),
  "Branch.all in mode either": (self, add) =>
    Effect.zipRight(Branch.all([self], { mode: "either" }), stepOf("next", add))
}

const Empty = Workflow.make({ name: "empty", payload: {} })

/** What a body may call in a step only. */
const calls: Record<string, Effect.Effect<unknown, unknown, Engine.Engine>> = {
  "Workflow \"empty\" execute": Empty.execute(),
  "Workflow \"empty\" start": Empty.start(),
  "Workflow \"empty\" poll": Empty.poll("id"),
  "Workflow \"empty\" await": Empty.await("id"),
  "Workflow \"empty\" resume": Empty.resume("id"),
  "Workflow.run": Workflow.run("id", Effect.void),
  // The id is looked at later: a body that cannot call it gets no answer about its arguments either.
  "Workflow.run ": Workflow.run("~id", Effect.void)
}

describe.each(stores)("The guard (%s)", (_, store) => {
  const test = testOn(store)

  describe("lets what does not fork", () => {
    for (const [name, [body, keys]] of Object.entries(works)) {
      test(`${name}, with the same keys in a replay`, () =>
        Effect.gen(function*() {
          const [live, replayed] = yield* livedTwice("wf", quiet(body))
          expect(live).toEqual(Exit.void)
          expect(replayed).toEqual(live)
          expect(yield* recorded("wf")).toEqual(keys)
        }).pipe(inEngine()))
    }
  })

  describe("refuses what forks without a reservation", () => {
    for (const [name, [body, operation, branch = "the root branch"]] of Object.entries(refused)) {
      test(`${name}, and says what to write`, () =>
        Effect.gen(function*() {
          const reason = yield* Workflow.run("wf", quiet(body)).pipe(stoppedBy("Misplaced"))
          expect(reason.operation).toBe(operation)
          expect(reason.detail).toContain(
            `it was called in a fiber that was forked from ${branch} without a reserved sequence, so its key would depend on timing`
          )
          for (
            const instead of [
              "Branch.all",
              "Branch.forEach",
              "Branch.reserve",
              "Branch.race",
              "Branch.timeout",
              "Effect.timeout inside the step",
              "Branch.fork",
              "for a Stream",
              "for a Layer"
            ]
          ) {
            expect(reason.detail).toContain(instead)
          }
          expect(yield* statusOf("wf")).toBe("STOPPED")
          expect((yield* historyOf("wf")).filter((row) => row.stepId === "a")).toEqual([])
        }).pipe(inEngine()))
    }

    test("a raw Effect.run, which has lost its run, dies", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run(
          "wf",
          // @effect-diagnostics-next-line runEffectInsideEffect:off
          Effect.promise(() => Effect.runPromise(a as Effect.Effect<string>))
        ).pipe(stoppedBy("BodyDied"))
        expect(reason.detail).toContain("Step.durable(\"a\") was called outside a run")
      }).pipe(inEngine()))
  })

  test("refuses an operation on another scheduler, which would never be noticed", () =>
    Effect.gen(function*() {
      const elsewhere = Effect.withScheduler(a, new Scheduler.MixedScheduler(10))
      const reason = yield* Workflow.run("wf", quiet(elsewhere)).pipe(stoppedBy("Misplaced"))
      expect(reason.detail).toContain("on another scheduler than that of its run")
      expect(
        yield* Workflow.run(
          "inside",
          Effect.withScheduler(Effect.succeed(1), Scheduler.defaultScheduler).pipe(Step.durable("s"))
        )
      )
        .toBe(1)
    }).pipe(inEngine()))

  describe("refuses time and chance in a fiber without a reservation", () => {
    for (const [name, [body, operation]] of Object.entries(strays)) {
      test(name, () =>
        Effect.gen(function*() {
          const reason = yield* Workflow.run("wf", quiet(body)).pipe(stoppedBy("Misplaced"))
          expect(reason.operation).toBe(operation)
          expect(reason.detail).toContain(
            "it was called in a fiber that was forked from the root branch without a reserved sequence"
          )
          expect(reason.detail).toContain("Branch.reserve")
        }).pipe(inEngine()))
    }

    test("but not the reads of the clock that loggers and pools make", () =>
      Effect.gen(function*() {
        const read = Effect.map(Effect.clock, (clock) => clock.unsafeCurrentTimeMillis())
        expect(yield* Workflow.run("wf", Effect.flatMap(Effect.fork(read), Fiber.join))).toBe(0)
      }).pipe(inEngine()))

    test("a step sleeps as it likes", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const sleepy = Effect.sleep(1).pipe(
          Effect.zipRight(Effect.retry(
            Effect.suspend(() => entries.length < 2 ? Effect.flip(add("try")) : Effect.void),
            Schedule.spaced(1)
          )),
          Effect.timeout("1 minute"),
          Effect.orDie,
          Effect.withClock(realClock),
          Step.durable("sleepy")
        )
        yield* Workflow.run("wf", sleepy)
        expect(entries).toEqual(["try", "try"])
      }).pipe(inEngine()))

    test("a body reads the time", () =>
      Effect.gen(function*() {
        const now = yield* Workflow.run(
          "wf",
          Effect.map(Effect.clock, (clock) => clock.unsafeCurrentTimeMillis() + Number(clock.unsafeCurrentTimeNanos()))
        )
        expect(now).toBe(0)
      }).pipe(inEngine()))
  })

  describe("refuses to ask the engine in a body", () => {
    for (const [called, call] of Object.entries(calls)) {
      test(`${called}, and lets a step do it`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const body = Effect.asVoid(Effect.zipRight(Effect.exit(call), add("went on")))
          const engine = yield* Engine.Engine
          const reason = yield* Workflow.run("wf", Effect.provideService(body, Engine.Engine, engine)).pipe(
            stoppedBy("Misplaced")
          )
          expect(reason.operation).toBe(called.trim())
          const instead = called.includes("execute") ? "Use Child.execute, or wrap" : "Use Child.start, or wrap"
          const start = called.includes("execute") || called.includes("start")
          expect(reason.detail).toBe(
            `it was called in the body, where a replay would call it again. ${
              start ? instead : "Wrap"
            } it in Step.durable`
          )
          expect(entries).toEqual([])
          const inStep = Effect.exit(call).pipe(
            Effect.zipRight(add("asked")),
            Effect.provideService(Engine.Engine, engine),
            Step.durable("ask")
          )
          yield* Workflow.run("in-step", Effect.zipRight(inStep, Effect.void))
          expect(entries).toEqual(["asked"])
        }).pipe(inEngine({ workflows: [Empty.toLayer(() => Effect.void)] })))
    }

    test("in a fork of the body too", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run(
          "wf",
          Effect.flatMap(Effect.fork(Empty.poll("id")), Fiber.join).pipe(Effect.ignore)
        ).pipe(
          stoppedBy("Misplaced")
        )
        expect(reason.operation).toBe("Workflow \"empty\" poll")
      }).pipe(inEngine()))

    test("a run within a step is a run of its own", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.gen(function*() {
          const inner = yield* Workflow.run("inner", Effect.zip(stepOf("x", add), stepOf("y", add))).pipe(
            Effect.orDie,
            Step.durable("outer")
          )
          yield* stepOf("after", add)
          return inner
        })
        expect(yield* Workflow.run("wf", body)).toEqual(["x", "y"])
        expect(yield* recorded("inner")).toEqual(["0 x", "1 y"])
        expect(yield* recorded("wf")).toEqual(["0 outer", "1 after"])
        expect(entries).toEqual(["x", "y", "after"])
      }).pipe(inEngine()))

    test("a sleep in the body of a run within a step is durable in that run", () =>
      Effect.gen(function*() {
        const engine = yield* Engine.Engine
        const inner = Workflow.run("inner", Effect.sleep("1 second")).pipe(Effect.provideService(Engine.Engine, engine))
        const outer = yield* Effect.fork(Workflow.run("wf", Step.durable(Effect.orDie(inner), "outer")))
        yield* turns(20)
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(outer)
        expect(yield* recorded("inner")).toEqual(["0 sleep"])
        expect(yield* recorded("wf")).toEqual(["0 outer"])
      }).pipe(inEngine()))
  })

  describe("is not swallowed by", () => {
    for (const [name, swallow] of Object.entries(swallows)) {
      test(name, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const guarded = Effect.zip(stepOf("forked", add), stepOf("forked", add), { concurrent: true })
          const reason = yield* Workflow.run("wf", quiet(swallow(guarded, add))).pipe(stoppedBy("Misplaced"))
          expect(reason.operation).toBe("Step.durable(\"forked\")")
          expect(entries.filter((entry) => entry !== "caught")).toEqual([])
          expect(yield* stepsOf("wf")).toEqual([])
          expect(yield* statusOf("wf")).toBe("STOPPED")
        }).pipe(inEngine()))
    }
  })
})
