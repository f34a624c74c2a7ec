/** What the suites of the engine share: engines over a store, and a look into what is recorded. */
import { expect, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, FiberId, Layer, Option, Scope, TestClock } from "effect"
import { CrashSimulator, Engine, Errors, Step, StepStore, Workflow } from "perdure"

export interface EngineOptions extends Engine.Options {
  /** Layers of workflows. */
  readonly workflows?: ReadonlyArray<Layer.Layer<never, never, Engine.Engine>>
  /** Ends a run at the nth step that is started. */
  readonly crashAfter?: number
}

/**
 * An engine over the store in context. Unless the test says otherwise, it cuts steps in flight off when it closes, which for most
 * tests is the point, and has no heartbeat, for which the test's clock would have to stop every other second.
 */
export const engineLayer = ({ crashAfter, workflows = [], ...options }: EngineOptions = {}) => {
  const engine = Engine.layerWith({ shutdownGrace: 0, heartbeat: "1000 days", ...options }).pipe(
    crashAfter === undefined ? (self) => self : Layer.provide(CrashSimulator.layerInterrupt({ after: crashAfter }))
  )
  return Layer.provideMerge(Layer.mergeAll(Layer.empty, ...workflows), engine)
}

/** Runs an effect in an engine of its own, which closes afterwards. */
export const inEngine = (options: EngineOptions = {}) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.provide(self, engineLayer(options))

/** `it.scoped` on one of the stores. */
export const testOn = (store: Layer.Layer<StepStore.StepStore>) =>
(
  name: string,
  body: () => Effect.Effect<unknown, unknown, StepStore.StepStore | Scope.Scope>,
  timeout?: number
) => it.scoped(name, () => Effect.provide(body(), store), timeout)

/** What happened, in order. */
export const ledger = () => {
  const entries: Array<string> = []
  return { entries, add: (entry: string) => Effect.sync(() => void entries.push(entry)) }
}

/** Why the run stopped, if that is how the effect ended. */
export const stopped = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<Errors.StopReason, never, R> =>
  Effect.map(Effect.exit(self), (exit) => {
    const error: unknown = Exit.isFailure(exit) ? Cause.squash(exit.cause) : "success"
    if (!(error instanceof Errors.RunStopped)) {
      expect.unreachable(`expected RunStopped, got ${String(error)} ${JSON.stringify(exit)}`)
    }
    return error.reason
  })

const one = <R>(_tag: string, reason: { readonly _tag: string }): R => {
  expect(reason._tag, "message" in reason ? String(reason.message) : "").toBe(_tag)
  return reason as unknown as R
}

/** Why the run stopped, which must be a reason of this kind. */
export const stoppedBy = <Tag extends Errors.StopReason["_tag"]>(tag: Tag) =>
<A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<Extract<Errors.StopReason, { readonly _tag: Tag }>, never, R> =>
  Effect.map(stopped(self), (reason) => one(tag, reason))

/** The error of an effect that must fail with a typed one. */
export const failure = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<E, never, R> =>
  Effect.map(Effect.exit(self), (exit) => {
    if (Exit.isSuccess(exit) || exit.cause._tag !== "Fail") {
      return expect.unreachable(`expected a typed failure, got ${JSON.stringify(exit)}`)
    }
    return exit.cause.error
  })

// -- what is recorded

export const rowOf = (workflowId: string) =>
  Effect.flatMap(StepStore.StepStore, (store) => Effect.flatMap(store.run(workflowId), (row) => row))

export const statusOf = (workflowId: string) => Effect.map(rowOf(workflowId), (row) => row.status)

/** Every row of a run: `address id status attempt`, final ones marked with `!`. */
export const stepsOf = (workflowId: string) =>
  Effect.flatMap(
    StepStore.StepStore,
    (store) =>
      Effect.map(store.steps(workflowId, 0, { after: null, limit: 10_000 }), (rows) =>
        rows.map((row) =>
          `${row.stepKey.slice(workflowId.length + 1)} ${row.stepId} ${row.status} ${row.attempt}${
            row.final ? "!" : ""
          }`
        ))
  )

/** The final rows of a run, in the order of recording. */
export const historyOf = (workflowId: string) =>
  Effect.flatMap(
    StepStore.StepStore,
    (store) => Effect.map(store.history(workflowId, 0, { after: null, limit: 10_000 }), ({ rows }) => rows)
  )

/** `address id` of the final rows, in the order of recording. */
export const recorded = (workflowId: string) =>
  Effect.map(
    historyOf(workflowId),
    (rows) => rows.map((row) => `${row.stepKey.slice(workflowId.length + 1)} ${row.stepId}`)
  )

export const attemptsOf = (workflowId: string) =>
  Effect.flatMap(StepStore.StepStore, (store) => store.attempts(workflowId, 0))

/** Waits until something holds of the store, without waiting for time. */
export const eventually = <A, E, R>(
  what: Effect.Effect<A, E, R>,
  holds: (value: A) => boolean
): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    for (let turn = 0; turn < 20_000; turn++) {
      const value = yield* what
      if (holds(value)) {
        return value
      }
      yield* turns(1)
    }
    return expect.unreachable("what was awaited did not happen")
  })

/** Lets so many turns of the event loop pass. */
export const turns = (count: number): Effect.Effect<void> =>
  count === 0 ? Effect.void : Effect.zipRight(
    Effect.async<void>((resume) => {
      setImmediate(() => resume(Effect.void))
    }),
    turns(count - 1)
  )

// -- lives

/**
 * Lets a body live twice: the first time it dies at its end, the second time it is replayed.
 *
 * @returns what the body ended with each time
 */
export const livedTwice = <A, E, R>(workflowId: string, body: Effect.Effect<A, E, R>) => {
  const ends: Array<Exit.Exit<A, E>> = []
  const life = Effect.flatMap(Effect.exit(body), (end) => {
    ends.push(end)
    return ends.length === 1 ? Effect.die("the first life ends here") : Effect.void
  })
  return Workflow.run(workflowId, life as Effect.Effect<void, never, R>).pipe(
    stoppedBy("BodyDied"),
    Effect.zipRight(Workflow.run(workflowId, life as Effect.Effect<void, never, R>)),
    Effect.map(() => {
      expect(ends.length).toBe(2)
      return [ends[0]!, ends[1]!] as const
    })
  )
}

/** A step that waits until it is let go, and says when it has begun. */
export const gate = () => {
  const begun = Deferred.unsafeMake<void>(FiberId.none)
  const open = Deferred.unsafeMake<void>(FiberId.none)
  return {
    begun: Deferred.await(begun),
    open: Deferred.succeed(open, undefined),
    pass: Effect.zipRight(Deferred.succeed(begun, undefined), Deferred.await(open))
  }
}

export const stepOf = (id: string, add: (entry: string) => Effect.Effect<void> = () => Effect.void) =>
  Effect.as(add(id), id).pipe(Step.durable(id))

/** The clock of the machine, for what sleeps in a step. */
export const realClock: Clock.Clock = Clock.make()

// -- engines that close

/** An engine that the test closes; a clean close answers with the seconds of the test's clock that it took. */
export const openEngine = (options: EngineOptions = {}) =>
  Effect.gen(function*() {
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => closing(Scope.close(scope, Exit.void)))
    const context = yield* Layer.buildWithScope(engineLayer(options), scope)
    return {
      run: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.provide(self, context),
      close: closing(Scope.close(scope, Exit.void))
    }
  })

/** Lets an effect end, moving the test's clock where nothing else goes on; answers with the seconds that it took. */
export const closing = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(self)
    for (let seconds = 0; seconds < 20; seconds++) {
      for (let turn = 0; turn < 50; turn++) {
        yield* turns(1)
        if (Option.isSome(yield* Fiber.poll(fiber))) {
          yield* Fiber.join(fiber)
          return seconds
        }
      }
      yield* TestClock.adjust("1 second")
    }
    return expect.unreachable("it did not end in bounded time")
  })

/** Builds a layer that the test closes. */
export const openScope = <A, E, R>(layer: Layer.Layer<A, E, R>) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(layer, scope)
    return { context, close: Scope.close(scope, Exit.void) }
  })

/** Makes another worker, which is alive, the owner of a run. */
export const steal = (workflowId: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const { owner } = yield* rowOf(workflowId)
    yield* store.register({ id: "thief", host: "elsewhere", pid: 1, startedAt: 0 })
    const claimed = yield* store.claim({ worker: "thief", names: null, workflowId, dead: [owner!], limit: 1, at: 0 })
    expect(claimed).toHaveLength(1)
    return "thief"
  })
