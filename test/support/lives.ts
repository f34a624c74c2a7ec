/** Lives of one run, in engines that crash one after the other over the same store, and what outlives them. */
import { Cause, Clock, Duration, Effect, Exit, FastCheck as fc, Fiber, Layer, Option, Scope } from "effect"
import { Errors, Signal, StepStore } from "perdure"
import { faulty, type Hiccup, Hiccups } from "./faults.js"
import { engineLayer, turns } from "./harness.js"
import { bodyOf, partOf, signalOf, signalsOf, Trialled, type Trials, World } from "./trials.js"

type Store = StepStore.StepStore["Type"]

export const workflowId = "wf"

// ---------------------------------------------------------------------------------------------------------------------
// what goes wrong, and what is done from outside
// ---------------------------------------------------------------------------------------------------------------------

/** How a life ends, unless the run has ended before. */
export type Crash =
  /** At the nth step that is started, by the crash simulator. */
  | { readonly at: "step"; readonly nth: number }
  /** At the nth commit, which nobody is told of, written or not. */
  | { readonly at: "commit"; readonly nth: number; readonly written: boolean }
  /** At a moment: the process is gone, or the engine closes. */
  | { readonly at: "moment"; readonly tick: number; readonly how: "gone" | "closed" }

export interface Disturbance {
  /** `null` for none: the run ends in this life. */
  readonly crash: Crash | null
  readonly hiccups: ReadonlyArray<Hiccup>
}

export interface Plan {
  readonly lives: ReadonlyArray<Disturbance>
  /** Ticks before each signal, used again from the start when there are more. */
  readonly delays: ReadonlyArray<number>
  /** When the run is cancelled; `null` for never. */
  readonly cancelAt: number | null
}

const crash = fc.oneof<Array<fc.Arbitrary<Crash>>>(
  fc.record({ at: fc.constant("step" as const), nth: fc.integer({ min: 1, max: 6 }) }),
  fc.record({ at: fc.constant("commit" as const), nth: fc.integer({ min: 1, max: 12 }), written: fc.boolean() }),
  fc.record({
    at: fc.constant("moment" as const),
    tick: fc.integer({ min: 0, max: 60 }),
    how: fc.constantFrom("gone" as const, "closed" as const)
  })
)

const hiccups = fc.array(fc.record({ nth: fc.integer({ min: 1, max: 30 }), written: fc.boolean() }), { maxLength: 2 })

/** @param cancels - whether some of the runs are cancelled */
export const plans = (cancels: boolean): fc.Arbitrary<Plan> =>
  fc.record({
    lives: fc.array(fc.record({ crash, hiccups }), { minLength: 1, maxLength: 5 }),
    delays: fc.array(fc.integer({ min: 0, max: 25 }), { minLength: 1, maxLength: 4 }),
    cancelAt: cancels
      ? fc.option(fc.integer({ min: 0, max: 120 }), { freq: 3, nil: null })
      : fc.constant(null)
  })

export const undisturbed: Plan = { lives: [], delays: [0], cancelAt: null }

// ---------------------------------------------------------------------------------------------------------------------
// time
// ---------------------------------------------------------------------------------------------------------------------

/** A clock that hops, and does not wait for anybody: `TestClock` takes a dozen milliseconds each time. */
export class Time implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  private now = 0
  private readonly sleepers = new Map<() => void, number>()

  unsafeCurrentTimeMillis() {
    return this.now
  }

  unsafeCurrentTimeNanos() {
    return BigInt(this.now) * 1_000_000n
  }

  readonly currentTimeMillis = Effect.sync(() => this.now)
  readonly currentTimeNanos = Effect.sync(() => this.unsafeCurrentTimeNanos())

  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.async((resume) => {
      const wake = () => resume(Effect.void)
      this.sleepers.set(wake, Math.ceil(this.now + Duration.toMillis(duration)))
      return Effect.sync(() => this.sleepers.delete(wake))
    })
  }

  /** When the next sleeper is to wake. */
  get next(): number {
    return Math.min(...this.sleepers.values())
  }

  hop(at: number): void {
    this.now = Math.max(at, this.now)
    for (const [wake, due] of [...this.sleepers].sort(([, a], [, b]) => a - b)) {
      if (due <= this.now) {
        this.sleepers.delete(wake)
        wake()
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// a store that can be lost
// ---------------------------------------------------------------------------------------------------------------------

/** What the checker knows without the engine. */
export interface Outside {
  readonly world: World
  readonly workers: Array<string>
  /** Final rows whose commit was acknowledged, those of children too, by key. */
  readonly acknowledged: Map<string, { readonly workflowId: string; readonly row: StepStore.StepRow }>
  /** What the store held after each life, by generation. */
  readonly snapshots: Array<ReadonlyArray<ReadonlyArray<StepStore.StepRow>>>
  /** How often something under way may have been cut off. */
  deaths: number
  /** How often each life has called the store, but for its registration and its ear for changes. */
  readonly calls: Array<number>
  /** Signals that were sent, in the order in which the store had them. */
  readonly sent: Array<string>
}

const lost = new Errors.StoreUnavailable({ target: "the store", detail: "this process is gone" })
const busy = new Errors.StoreBusy({ target: "the store", detail: "somebody else is writing" })

/** The store of one life. */
class Lifeline {
  gone = false
  commits = 0
  readonly store: Store
  private readonly hiccups: Hiccups

  constructor(real: Store, outside: Outside, disturbance: Disturbance | null) {
    const { crash = null, hiccups = [] } = disturbance ?? {}
    this.hiccups = new Hiccups(hiccups, () => busy, () => void outside.deaths++)
    const end = Effect.suspend(() => {
      this.gone = true
      return Effect.fail(lost)
    })
    const mortal = faulty(real, {
      commit: (_, call) => {
        this.commits++
        if (crash?.at === "commit" && crash.nth === this.commits) {
          return crash.written ? Effect.zipRight(Effect.ignore(call), end) : end
        }
        return call
      },
      register: (worker, call) => Effect.zipRight(Effect.sync(() => void outside.workers.push(worker.id)), call),
      // Whoever has lived before has died.
      dead: () => Effect.sync(() => outside.workers.slice(0, -1))
    })
    this.store = faulty(mortal, {
      any: (method, call) => {
        // The engine of a life is always there, and hears of what it does.
        if (method === "register" || method === "changes") {
          return call
        }
        return this.gone ? Effect.fail(lost) : this.hiccups.any(method, call)
      },
      commit: (batch, call) =>
        Effect.tap(call, (answers) =>
          Effect.sync(() =>
            answers.forEach((answer, i) => {
              if (answer._tag === "Accepted") {
                const { steps, workflowId } = batch[i]!
                steps.filter((row) => row.final).forEach((row) =>
                  outside.acknowledged.set(row.stepKey, { workflowId, row })
                )
              }
            })
          ))
    })
  }

  /** So many calls, all that failed among them. */
  get calls(): number {
    return this.hiccups.calls
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// lives
// ---------------------------------------------------------------------------------------------------------------------

/** Times beyond this are those of an engine that was not told. */
const never = 200 * 24 * 60 * 60_000

/** Turns without anything to do after which nothing goes on but time. */
const idleTurns = 14

export type End =
  | { readonly _tag: "Succeeded"; readonly value: string }
  | { readonly _tag: "Failed"; readonly error: string }
  | { readonly _tag: "Cancelled" }

export const endOf = (exit: Exit.Exit<string, unknown>): End | null => {
  if (Exit.isSuccess(exit)) {
    return { _tag: "Succeeded", value: exit.value }
  }
  const error = Option.getOrNull(Cause.failureOption(exit.cause))
  if (typeof error === "string") {
    return { _tag: "Failed", error }
  }
  return error instanceof Errors.RunCancelled ? { _tag: "Cancelled" } : null
}

/** Closes an engine, letting time pass only where nothing else goes on. */
const closing = (close: Effect.Effect<void>, time: Time) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.fork(close)
    for (let turn = 1; Option.isNone(yield* Fiber.poll(fiber)); turn++) {
      yield* turns(1)
      if (turn % idleTurns === 0) {
        time.hop(time.next)
      }
      if (turn > 100 * idleTurns) {
        throw new Error("the engine does not close")
      }
    }
    yield* Fiber.join(fiber)
  })

const isStoreError = (error: unknown) => error instanceof Errors.StoreUnavailable || error instanceof Errors.StoreBusy

/** The final rows of a run, by generation. */
export const historiesOf = (store: Store, id: string) =>
  Effect.flatMap(store.run(id), (row) =>
    Effect.forEach(
      Array.from({ length: Option.isSome(row) ? row.value.generation + 1 : 0 }, (_, generation) => generation),
      (generation) => Effect.map(store.history(id, generation, { after: null, limit: 10_000 }), ({ rows }) => rows)
    ))

interface Errand {
  readonly due: number
  readonly what: string
  readonly run: Effect.Effect<void, unknown, Engine>
}

type Engine = Effect.Effect.Context<ReturnType<typeof Trialled.start>>

/** Lets a run live, crash, and live again, until it has ended in an engine that nothing disturbs. */
export const live = (trials: Trials, shares: boolean, plan: Plan, real: Store) => {
  const time = new Time()
  return Effect.withClock(lived(trials, shares, plan, real, time), time)
}

const lived = (trials: Trials, shares: boolean, plan: Plan, real: Store, time: Time) =>
  Effect.gen(function*() {
    const world = new World()
    const outside: Outside = {
      world,
      workers: [],
      acknowledged: new Map(),
      snapshots: [],
      deaths: 0,
      calls: [],
      sent: []
    }
    const body = Trialled.toLayer(bodyOf(trials, shares, world))
    let tick = 0

    // -- errands from outside, each until it is done

    const names = signalsOf(trials.body)
    const all = Array.from({ length: trials.generations }, () => names).flat()
    const errands = new Set<Errand>()
    let due = 0
    all.forEach((name, i) => {
      due += plan.delays[i % plan.delays.length]!
      const value = `${name} ${i}`
      errands.add({
        due,
        what: value,
        run: Effect.zipRight(
          Signal.send(signalOf(name), { workflowId, value, idempotencyKey: `${i}` }),
          Effect.sync(() => void outside.sent.push(value))
        )
      })
    })
    if (plan.cancelAt !== null) {
      errands.add({ due: plan.cancelAt, what: "cancel", run: Trialled.cancel(workflowId) })
    }
    const mailed = new Set<string>()
    const takeMail = () => {
      for (const token of world.tokens) {
        if (!mailed.has(token)) {
          mailed.add(token)
          const delay = plan.delays[mailed.size % plan.delays.length]!
          const run = Signal.answer(signalOf("token"), { token, value: `answer ${token}` })
          errands.add({ due: tick + delay, what: "answer", run })
        }
      }
    }

    /** Answers whether the errand is done, or nobody wants it any more. */
    const doErrand = (errand: Errand) =>
      Effect.map(Effect.either(errand.run), (result) => {
        const tag = result._tag === "Left" ? (result.left as { readonly _tag: string })._tag : "done"
        if (tag === "done" || tag === "SignalNotWanted") {
          errands.delete(errand)
        } else if (tag !== "WorkflowNotFound" && !isStoreError(result._tag === "Left" ? result.left : null)) {
          throw new Error(`${errand.what}: ${tag}`)
        }
      })

    const oneLife = (disturbance: Disturbance | null) =>
      Effect.gen(function*() {
        const lifeline = new Lifeline(real, outside, disturbance)
        const crash = disturbance?.crash ?? null
        const scope = yield* Scope.make()
        const layer = engineLayer({
          slowPoll: never,
          deadlockAfter: "100000 days",
          unrequestedAfter: "100000 days",
          limits: { kills: 1_000 },
          workflows: [body, partOf(() => world)],
          ...(crash?.at === "step" ? { crashAfter: crash.nth } : {})
        })
        const context = yield* Layer.buildWithScope(layer, scope).pipe(
          Effect.provideService(StepStore.StepStore, lifeline.store)
        )
        const begin = () =>
          Trialled.execute({ generation: 0 }, { workflowId }).pipe(
            Effect.provide(context),
            Effect.fork
          )
        let waiting = yield* begin()
        let end: End | null = null
        let idle = 0
        let seen = 0
        let polls = 0
        const until = crash?.at === "moment" ? tick + crash.tick : Number.POSITIVE_INFINITY
        while (end === null && !lifeline.gone) {
          yield* turns(1)
          tick++
          const activity = lifeline.calls + world.trace.length
          idle = world.busy === 0 && activity === seen ? idle + 1 : 0
          seen = activity
          if (tick >= until) {
            lifeline.gone = crash?.at === "moment" && crash.how === "gone"
            break
          }
          const done = yield* Fiber.poll(waiting)
          if (Option.isSome(done)) {
            end = endOf(done.value)
            if (end === null) {
              const error = Cause.squash(Exit.isFailure(done.value) ? done.value.cause : Cause.empty)
              if (String(error).includes("CrashSimulator")) {
                break
              }
              if (error instanceof Errors.RunStopped && error.reason._tag === "StepDied") {
                outside.deaths++
                yield* Effect.ignore(Effect.provide(Trialled.resume(workflowId), context))
              } else if (!isStoreError(error)) {
                throw error
              }
              waiting = yield* begin()
            }
            idle = 0
            continue
          }
          takeMail()
          const next = [...errands].filter((errand) => errand.due <= tick)[0]
          if (next !== undefined) {
            yield* Effect.provide(doErrand(next), context)
            idle = 0
          } else if (idle >= idleTurns) {
            const at = time.next
            if (at - time.unsafeCurrentTimeMillis() < never / 2) {
              idle = 0
              time.hop(at)
            } else if (errands.size > 0) {
              // It waits for what is to come from outside.
              idle = 0
              tick = Math.min(...Array.from(errands, (errand) => errand.due))
            } else if (idle > 20 * idleTurns) {
              if (crash?.at === "step") {
                // The run that crashed is a child, which nobody in this life takes up again.
                break
              }
              // Only what the store failed to say may have to be looked for.
              idle = 0
              polls++
              if (polls > (disturbance?.hiccups.length ?? 0) * 4) {
                throw new Error("the run waits for ever")
              }
              time.hop(at)
            }
          }
        }
        if (end === null) {
          outside.deaths++
        }
        yield* Fiber.interruptFork(waiting)
        yield* closing(Scope.close(scope, Exit.void), time)
        outside.calls.push(lifeline.calls)
        outside.snapshots.push(yield* historiesOf(real, workflowId))
        return end
      })

    let early: End | null = null
    for (const disturbance of plan.lives) {
      early = (yield* oneLife(disturbance)) ?? early
    }
    const end = yield* oneLife(null)
    if (end === null) {
      throw new Error("the last life has no end")
    }
    return { end, early, outside, trace: world.trace }
  })
