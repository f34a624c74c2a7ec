/**
 * An engine for tests: its time is that of Effect's `TestClock`, and a month of it passes in milliseconds.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Ref from "effect/Ref"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/TestClock"
import * as Engine from "../Engine.js"
import { Attending } from "../internal/attendant.js"
import { Observer } from "../internal/observer.js"
import * as MemoryStepStore from "../MemoryStepStore.js"
import { StepStore } from "../StepStore.js"
import type { StepSpy } from "./StepSpy.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * How an engine for tests behaves: as others do, but that steps in flight are cut off when it closes, unless `shutdownGrace` is
 * given. There is no housekeeping.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options extends Omit<Engine.Options, "housekeeping" | "slowPoll" | "heartbeat" | "missedBeats"> {
  /** Goes into `Step.idempotencyKey`; "default" unless given. */
  readonly namespace?: string
  /** Sees each attempt at a step, and puts failures in the place of those that are chosen; see `StepSpy`. */
  readonly spy?: StepSpy
}

/**
 * How {@link advance} waits.
 *
 * @since 0.1.0
 * @category models
 */
export interface AdvanceOptions {
  /**
   * For how long, in the machine's time, `advance` waits for work of which nothing is seen. 1 second unless given. A step, or a body,
   * that was waited for in vain is not waited for again.
   */
  readonly patience?: Duration.DurationInput
}

// ---------------------------------------------------------------------------------------------------------------------
// layers
// ---------------------------------------------------------------------------------------------------------------------

/**
 * An engine for tests with options; see {@link layer}.
 *
 * @param options - see {@link Options}
 * @example
 * ```ts
 * import { TestEngine } from "perdure/testing"
 *
 * export const TestEngineLive = TestEngine.layerWith({ parkGrace: "1 minute", namespace: "tests" })
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (
  { namespace = "default", spy, ...options }: Options
): Layer.Layer<Engine.Engine | StepStore> =>
  Layer.scopedContext(Effect.gen(function*() {
    const clock = yield* testClock("TestEngine.layer")
    const observer = new Observer(clock, spy?.attempt)
    const store = Layer.map(
      MemoryStepStore.layerWith({ namespace }),
      (context) => Context.make(StepStore, observer.store(Context.get(context, StepStore)))
    )
    const engine = Engine.layerWith({ shutdownGrace: 0, ...options, housekeeping: false }).pipe(
      Layer.provide(Layer.succeed(Attending, observer))
    )
    const scope = yield* Effect.acquireRelease(
      Scope.make(),
      (scope, exit) => whileTimePasses(clock, observer, Scope.close(scope, exit))
    )
    return yield* Layer.buildWithScope(Layer.provideMerge(engine, store), scope).pipe(
      // The runner of a test may have taken the loggers away, and a test that hangs has to say why.
      Effect.locallyWith(FiberRef.currentLoggers, HashSet.add(Logger.defaultLogger))
    )
  })).pipe(Layer.orDie)

/**
 * An engine over a store in memory, to be moved through time with {@link advance}. It has none of the timers by which an engine looks
 * again and again for what other processes do, so that nothing happens in it but what the workflows ask for.
 *
 * It needs a test clock: `it.effect` and `it.scoped` of `@effect/vitest` bring one, and so does `TestContext.TestContext` in any other
 * runner. Without one it dies. What the engine logs is seen even where the runner silences the test's own logs. When it closes, the
 * test's time is moved on as far as that needs.
 *
 * @example
 * ```ts
 * import { Effect, Fiber, Layer, Schema, TestContext } from "effect"
 * import { Step, Workflow } from "perdure"
 * import { TestEngine } from "perdure/testing"
 *
 * const Trial = Workflow.make({ name: "trial", payload: { email: Schema.String }, success: Schema.String })
 *
 * const TrialLive = Trial.toLayer(({ email }) =>
 *   Effect.zipRight(Effect.sleep("14 days"), Effect.succeed(`bill ${email}`).pipe(Step.durable("bill")))
 * )
 *
 * const test = Effect.gen(function*() {
 *   const trial = yield* Effect.fork(Trial.execute({ email: "ada@example.org" }))
 *   yield* TestEngine.advance("14 days")
 *   return yield* Fiber.join(trial) // "bill ada@example.org"
 * })
 *
 * await Effect.runPromise(
 *   test.pipe(Effect.provide(Layer.provideMerge(TrialLive, TestEngine.layer)), Effect.provide(TestContext.TestContext))
 * )
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Engine.Engine | StepStore> = layerWith({})

// ---------------------------------------------------------------------------------------------------------------------
// accessors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Lets time pass. The test clock hops from each time at which something is due to the next, of the engine, of steps, and of the test
 * itself, and waits at each until the engine is at rest: what is due has happened, is recorded, and so is what follows from it. At the
 * end the clock shows exactly the duration more. `advance(0)` waits for the engine to rest, and no time passes.
 *
 * A step that reads a file or calls a server is waited for; one that sleeps by the test clock is not. If nothing is seen of a step
 * for a while (see {@link AdvanceOptions}), time passes it by: it may wait for what the test does afterwards. What fibers of the test
 * itself wait for outside the process is not waited for, and neither is another engine that shares the clock.
 *
 * It dies if the engine in context does not come from {@link layer}.
 *
 * @param duration - how much time passes
 * @param options - see {@link AdvanceOptions}
 * @example
 * ```ts
 * import { Effect, TestContext } from "effect"
 * import { Step, Workflow } from "perdure"
 * import { TestEngine } from "perdure/testing"
 *
 * const billing = Effect.gen(function*() {
 *   yield* Effect.sleep("30 days")
 *   yield* Effect.log("charged").pipe(Step.durable("charge"))
 * })
 *
 * const test = Effect.gen(function*() {
 *   yield* Effect.fork(Workflow.run("billing", billing))
 *   yield* TestEngine.advance("30 days")
 * })
 *
 * await Effect.runPromise(test.pipe(Effect.provide(TestEngine.layer), Effect.provide(TestContext.TestContext)))
 * ```
 *
 * @since 0.1.0
 * @category accessors
 */
export const advance = (
  duration: Duration.DurationInput,
  options: AdvanceOptions = {}
): Effect.Effect<void, never, Engine.Engine> =>
  Effect.gen(function*() {
    const { attendant } = yield* Engine.Engine
    const clock = yield* testClock("TestEngine.advance")
    if (!(attendant instanceof Observer)) {
      return yield* Effect.dieMessage(
        "TestEngine.advance: the engine in context is not one for tests. Provide TestEngine.layer in place of Engine.layer"
      )
    }
    if (attendant.testClock !== clock) {
      return yield* Effect.dieMessage(
        "TestEngine.advance: the test clock here is not the one with which TestEngine.layer was built. Provide the layer within the test"
      )
    }
    const rest = attendant.rest(Duration.toMillis(options.patience ?? defaultPatience))
    const end = clock.unsafeCurrentTimeMillis() + Duration.toMillis(duration)
    // The clock's own way to move says to it, too, that this test does move it.
    yield* clock.adjust(0)
    yield* rest
    for (let due = yield* nextDue(clock); due <= end; due = yield* nextDue(clock)) {
      yield* moveTo(clock, due)
      yield* rest
    }
    yield* moveTo(clock, end)
  })

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

const defaultPatience = 1_000

const isTestClock = (clock: Clock.Clock): clock is TestClock.TestClock => "sleeps" in clock && "setTime" in clock

const testClock = (called: string): Effect.Effect<TestClock.TestClock> =>
  Effect.clockWith((clock) =>
    isTestClock(clock) ? Effect.succeed(clock) : Effect.dieMessage(
      `${called}: there is no test clock. Run the test with it.effect or it.scoped of @effect/vitest, or provide TestContext.TestContext`
    )
  )

/** When the first of those who sleep is to wake. */
const nextDue = (clock: TestClock.TestClock): Effect.Effect<number> =>
  Effect.map(clock.sleeps, Chunk.reduce(Number.POSITIVE_INFINITY, (first, at) => Math.min(first, at)))

/** What a test clock is made of, if it is Effect's. */
interface Inner {
  readonly clockState?: Ref.Ref<TestClock.Data>
}

/**
 * Shows a time, and wakes all who sleep until then or longer ago, in the order in which they fell asleep. `setTime` would do, but
 * it waits for several timers of the machine each time, and a poller of a month has thousands of times.
 */
const moveTo = (clock: TestClock.TestClock & Inner, instant: number): Effect.Effect<void> =>
  clock.clockState === undefined ? clock.setTime(instant) : Effect.flatMap(
    Ref.modify(clock.clockState, ({ sleeps }) => {
      const [later, due] = Chunk.partition(sleeps, ([at]) => at <= instant)
      return [due, TestClock.makeData(instant, later)]
    }),
    // Who fell asleep last stands first.
    (due) =>
      Effect.forEach(Chunk.reverse(due), ([, sleeper]) => Deferred.succeed(sleeper, undefined), { discard: true })
  )

/** Lets an effect end, and moves the clock on where nothing else goes on. */
const whileTimePasses = (
  clock: TestClock.TestClock,
  observer: Observer,
  self: Effect.Effect<void>
): Effect.Effect<void> =>
  Effect.acquireUseRelease(
    Effect.fork(Effect.interruptible(Effect.forever(
      observer.rest(defaultPatience).pipe(
        Effect.zipRight(nextDue(clock)),
        Effect.flatMap((due) => Effect.when(moveTo(clock, due), () => Number.isFinite(due)))
      )
    ))),
    () => self,
    Fiber.interrupt
  )
