/** An engine on a store with faults, which a script drives together with the model of its runs. */
import { assert } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Layer, Logger, Option, Schema, Scope } from "effect"
import { Branch, Child, Errors, Signal, Step, StepStore, Workflow } from "perdure"
import { faulty } from "../support/faults.js"
import { engineLayer, turns } from "../support/harness.js"
import { Time } from "../support/lives.js"
import {
  asked,
  childOf,
  type Course,
  type Op,
  placesOf,
  type Program,
  type Recorded,
  type Request,
  type Seen
} from "./model.js"
import { observe, type World } from "./observed.js"

/** What is done. Runs are given by their places in {@link idsOf}. */
export type Act =
  | { readonly do: "start" | "cancel" | "resume"; readonly run: number }
  | { readonly do: "send"; readonly run: number; readonly value: string }
  | { readonly do: "advance"; readonly millis: number }
  /** The process dies, or the engine closes; or it is started again. */
  | { readonly do: "crash" | "close" | "restart" }
  /** The clock of the engine is set ahead or back. */
  | { readonly do: "skew"; readonly millis: number }
  /** The nth write from now on fails, written or not; perhaps the process dies of it. */
  | { readonly do: "fault"; readonly nth: number; readonly written: boolean; readonly dies: boolean }

export interface Script {
  readonly programs: ReadonlyArray<Program>
  readonly acts: ReadonlyArray<Act>
}

const hour = 3_600_000

/** The engine looks so often for what it was not told of, and has made up for a failed write after twice that. */
const slowPoll = 3 * hour

/** It has heard of a jump of its clock after this time: no timer runs longer. */
const longestTimer = 24 * hour

const beginning = 1_700_000_000_000

// ---------------------------------------------------------------------------------------------------------------------
// the workflow
// ---------------------------------------------------------------------------------------------------------------------

const Modelled = Workflow.make({
  name: "modelled",
  payload: { program: Schema.String },
  success: Schema.String,
  error: Schema.String
})

const go = Signal.make("go", Schema.String)

type Engine = Effect.Effect.Context<ReturnType<typeof Modelled.cancel>>

const payloadOf = (program: Program) => ({ program: JSON.stringify(program) })

/** A body that does what a program says, and counts its effects. */
const bodyOf = (ran: (workflowId: string, effect: string) => number) => {
  const perform = (workflowId: string, address: string, op: Op) => {
    switch (op.op) {
      case "step": {
        const effect = Effect.suspend(() => {
          const nth = ran(workflowId, address)
          const end = op.ends === "badly"
            ? Effect.fail(String(nth))
            : op.ends === "dead at first" && nth === 1
            ? Effect.dieMessage("as the script wants it")
            : Effect.succeed(String(nth))
          return op.takes === 0 ? end : Effect.zipRight(Effect.sleep(op.takes), end)
        })
        const compensate = () => Effect.sync(() => ran(workflowId, `undo ${address}`))
        return Step.durable(effect, address, { error: Schema.String, ...(op.undo ? { compensate } : {}) })
      }
      case "sleep":
        return Effect.as(Effect.sleep(op.millis), "")
      case "signal":
        return Signal.next(go)
      case "child":
        return Effect.catchAll(
          Child.execute(Modelled, payloadOf(op.program)),
          (error) => Effect.succeed(typeof error === "string" ? `!${error}` : "cancelled")
        )
    }
  }
  const caught = <R>(self: Effect.Effect<string, string, R>) =>
    Effect.catchAll(self, (error) => Effect.succeed(`!${error}`))
  return Modelled.toLayer((payload, workflowId) =>
    Effect.gen(function*() {
      const program = JSON.parse(payload.program) as Program
      const places = placesOf(program)
      const values: Array<string> = []
      for (const [stage, ops] of program.entries()) {
        const effects = places.filter((place) => place.stage === stage).map(({ address, op }) =>
          perform(workflowId, address, op)
        )
        values.push(
          ...(ops.length === 1
            ? [yield* effects[0]!]
            : yield* Branch.all(effects.map(caught), { concurrency: "unbounded" }))
        )
      }
      return JSON.stringify(values)
    })
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// the engine
// ---------------------------------------------------------------------------------------------------------------------

type Store = StepStore.StepStore["Type"]

const lost = new Errors.StoreUnavailable({ target: "the store", detail: "this process is gone" })
const busy = new Errors.StoreBusy({ target: "the store", detail: "as the script wants it" })

/** Of one that is gone, nothing is written or read any more. */
interface Process {
  gone: boolean
}

/** An engine under way. */
interface Life {
  readonly run: <A, E>(self: Effect.Effect<A, E, Engine>) => Effect.Effect<A, E>
  readonly scope: Scope.CloseableScope
  readonly process: Process
}

/** Turns without a call of the store after which nothing goes on but time. */
const idleTurns = 10

class Real {
  life: Life | null = null
  /** A write has failed since the last act. */
  met = false
  skew = 0
  /** So many have failed. */
  faults = 0
  private fault: Act & { readonly do: "fault" } | null = null
  readonly time = new Time()
  private calls = 0
  private writes = 0
  private readonly workers: Array<string> = []
  private readonly ran = new Map<string, Record<string, number>>()
  private readonly store: Store

  constructor(store: Store) {
    this.store = store
  }

  get now(): number {
    return beginning + this.time.unsafeCurrentTimeMillis() + this.skew
  }

  private readonly clock: Clock.Clock = {
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => this.now,
    unsafeCurrentTimeNanos: () => BigInt(this.now) * 1_000_000n,
    currentTimeMillis: Effect.sync(() => this.now),
    currentTimeNanos: Effect.sync(() => BigInt(this.now) * 1_000_000n),
    sleep: (duration) => this.time.sleep(duration)
  }

  /** Plans a fault, or none, in place of one that was not met. */
  plan(fault: Act & { readonly do: "fault" } | null): void {
    this.fault = fault
    this.writes = 0
  }

  private storeOf(process: Process): Store {
    const write = <A, R>(call: Effect.Effect<A, Errors.StoreError, R>): Effect.Effect<A, Errors.StoreError, R> => {
      const { fault } = this
      if (process.gone || fault === null || ++this.writes < fault.nth) {
        return call
      }
      this.fault = null
      this.met = true
      this.faults++
      const end = Effect.suspend(() => {
        process.gone = fault.dies
        return Effect.fail(fault.dies ? lost : busy)
      })
      return Effect.zipRight(fault.written ? Effect.ignore(call) : Effect.void, end)
    }
    return faulty(this.store, {
      commit: (_, call) => write(call),
      claim: (_, call) => write(call),
      register: (worker, call) => Effect.zipRight(Effect.sync(() => void this.workers.push(worker.id)), call),
      // Whoever has lived before has died.
      dead: () => Effect.sync(() => this.workers.slice(0, -1)),
      any: (method, call) => {
        this.calls++
        return process.gone && method !== "register" && method !== "changes" ? Effect.fail(lost) : call
      }
    })
  }

  readonly start = Effect.gen(this, function*() {
    const scope = yield* Scope.make()
    const process = { gone: false }
    const layer = engineLayer({
      slowPoll,
      deadlockAfter: "100000 days",
      unrequestedAfter: "100000 days",
      limits: { kills: 1_000 },
      workflows: [bodyOf((workflowId, effect) => {
        const counts = this.ran.get(workflowId) ?? {}
        this.ran.set(workflowId, counts)
        return counts[effect] = (counts[effect] ?? 0) + 1
      })]
    })
    const context = yield* Layer.buildWithScope(layer, scope).pipe(
      Effect.provideService(StepStore.StepStore, this.storeOf(process)),
      Effect.withClock(this.clock)
    )
    this.life = {
      scope,
      process,
      run: (self) => Effect.withClock(Effect.provide(self, context), this.clock)
    }
  })

  /** The engine closes. */
  readonly close = Effect.gen(this, function*() {
    const { life } = this
    this.life = null
    if (life !== null) {
      const closing = yield* Effect.fork(Scope.close(life.scope, Exit.void))
      for (let hops = 0; Option.isNone(yield* Fiber.poll(closing)); hops++) {
        assert.isBelow(hops, 100, "the engine does not close")
        yield* this.rest
        if (Option.isNone(yield* Fiber.poll(closing))) {
          this.time.hop(this.time.next)
        }
      }
      yield* Fiber.join(closing)
    }
  })

  /** Waits until nothing goes on but time. */
  readonly rest = Effect.gen(this, function*() {
    for (let idle = 0, seen = -1; idle < idleTurns; idle++) {
      yield* turns(1)
      if (this.calls !== seen) {
        seen = this.calls
        idle = 0
      }
    }
  })

  advance(millis: number): Effect.Effect<void> {
    return Effect.gen(this, function*() {
      const target = this.time.unsafeCurrentTimeMillis() + millis
      while (this.life?.process.gone === false && this.time.next <= target) {
        this.time.hop(this.time.next)
        yield* this.rest
      }
      this.time.hop(target)
    })
  }

  /** Asks the engine; what is not answered is lost. */
  ask(self: Effect.Effect<unknown, { readonly _tag: string }, Engine>): Effect.Effect<string> {
    return Effect.gen(this, function*() {
      const fiber = yield* Effect.fork(Effect.exit(this.life!.run(self)))
      yield* this.rest
      const exit = Option.getOrNull(yield* Fiber.poll(fiber))
      if (exit === null) {
        yield* Fiber.interruptFork(fiber)
        return "lost"
      }
      const end = Exit.flatten(exit)
      if (Exit.isSuccess(end)) {
        return "done"
      }
      const { _tag: tag } = Cause.squash(end.cause) as { readonly _tag: string }
      return tag === "StoreBusy" || tag === "StoreUnavailable" ? "lost" : tag
    })
  }

  /** What the store shows of each run, and the world outside of its effects. */
  readonly seen: Effect.Effect<ReadonlyMap<string, Seen>, unknown> = Effect.gen(this, function*() {
    const seen = new Map<string, Seen>()
    for (const { workflowId } of yield* this.store.runs({ after: null, limit: 1_000 })) {
      const row = yield* Effect.flatten(this.store.run(workflowId))
      const wanted = { name: go.name, token: null, limit: 1_000 }
      const mail = yield* Effect.flatten(this.store.mail(workflowId, [wanted]))
      const history = (yield* this.store.history(workflowId, 0, { after: null, limit: 1_000 })).rows
      seen.set(workflowId, {
        status: row.status,
        outcome: row.outcome === null || row.status === "CANCELLED" ? null : JSON.parse(row.outcome),
        recorded: history.map(shownOf),
        mail: mail.signals.map(({ value }) => JSON.parse(value!)),
        cancelled: row.cancelAt !== null,
        begunAt: row.begunAt,
        ran: { ...this.ran.get(workflowId) }
      })
    }
    return seen
  })
}

const shownOf = (
  { error, errorTag, kind, output, status, stepId, stepKey, updatedAt }: StepStore.StepRow
): Recorded => ({
  kind,
  address: kind === "compensation" ? stepId : stepKey.slice(stepKey.lastIndexOf(":") + 1),
  told: kind !== "step" && kind !== "child" && kind !== "signal"
    ? ""
    : status === "COMPLETED"
    ? JSON.parse(output!)
    : errorTag === null
    ? `!${JSON.parse(error!)}`
    : "cancelled",
  at: updatedAt
})

// ---------------------------------------------------------------------------------------------------------------------
// scripts
// ---------------------------------------------------------------------------------------------------------------------

/** The runs of a script: first those that it may start, each with its program, then their children. */
const idsOf = (programs: ReadonlyArray<Program>): ReadonlyArray<string> => {
  const partsOf = (workflowId: string, program: Program): ReadonlyArray<string> =>
    placesOf(program).flatMap((place) => {
      const child = childOf(workflowId, place)
      return place.op.op === "child" ? [child, ...partsOf(child, place.op.program)] : []
    })
  const roots = programs.map((_, i) => `run-${i}`)
  return [...roots, ...roots.flatMap((id, i) => partsOf(id, programs[i]!))]
}

class Following {
  private world: World = new Map()
  private settled = true
  private jumped = false

  private readonly real: Real
  private readonly script: Script
  private readonly ids: ReadonlyArray<string>

  constructor(store: Store, script: Script) {
    this.real = new Real(store)
    this.script = script
    this.ids = idsOf(script.programs)
  }

  private request(
    act: Act
  ): readonly [id: string, request: Request, effect: Effect.Effect<unknown, { readonly _tag: string }, Engine>] | null {
    if (!("run" in act)) {
      return null
    }
    const { programs } = this.script
    const id = this.ids[act.run % (act.do === "start" ? programs.length : this.ids.length)]!
    switch (act.do) {
      case "start": {
        const program = programs[act.run % programs.length]!
        return [id, { do: "start", program }, Modelled.start(payloadOf(program), { workflowId: id })]
      }
      case "cancel":
        return [id, { do: "cancel" }, Modelled.cancel(id)]
      case "resume":
        return [id, { do: "resume" }, Modelled.resume(id)]
      case "send":
        return [id, act, Signal.send(go, { workflowId: id, value: act.value })]
    }
  }

  private perform(act: Exclude<Act, { readonly run: number }>) {
    const { real } = this
    switch (act.do) {
      case "advance":
        return real.advance(act.millis)
      case "crash":
        real.life!.process.gone = true
        return real.close
      case "close":
        return real.close
      case "restart":
        return real.start
      case "skew":
        real.skew += act.millis
        return Effect.void
      case "fault":
        real.plan(act)
        return Effect.void
    }
  }

  private readonly act = Effect.fnUntraced(
    function*(this: Following, act: Act) {
      const { real } = this
      const isUp = real.life !== null
      if (act.do === "restart" ? isUp : !isUp && ("run" in act || act.do === "crash" || act.do === "close")) {
        return
      }
      real.met = false
      const request = this.request(act)
      const answer = request === null ? null : yield* real.ask(request[2])
      if (!("run" in act)) {
        yield* this.perform(act)
      }
      yield* real.rest
      const died = real.life?.process.gone === true
      if (died) {
        yield* real.close
      }
      const { met, now } = real

      const patience = act.do === "advance" ? act.millis : 0
      this.jumped = act.do === "restart" ? false : this.jumped || (act.do === "skew" && act.millis > 0)
      this.jumped &&= patience < longestTimer
      const settled = real.life !== null && !met && (this.settled || act.do === "restart" || patience > 2 * slowPoll)
      const course: Course = {
        cut: met || died || act.do === "crash" || act.do === "close",
        settled,
        patience: this.settled ? patience : 0,
        now,
        jumped: this.jumped
      }

      const seen = yield* real.seen
      const worlds = request === null
        ? [this.world]
        : worldsAfter(this.world, request, answer!, { settled: this.settled, now })
      assert.isNotEmpty(worlds, `it was answered ${answer}`)
      this.world = observe(worlds, seen, course)
      this.settled = settled
    },
    (self, act) =>
      Effect.catchAllDefect(
        self,
        (defect) => Effect.dieMessage(`after ${JSON.stringify(act)}, ${(defect as Error).message}`)
      )
  )

  readonly follow = Effect.gen(this, function*() {
    yield* this.act({ do: "restart" })
    for (const act of this.script.acts) {
      yield* this.act(act)
    }
    this.real.plan(null)
    for (const act of [{ do: "restart" }, { do: "advance", millis: longestTimer }] as const) {
      yield* this.act(act)
    }
    return this.real.faults
  }).pipe(Effect.ensuring(Effect.suspend(() => this.real.close)), Effect.provide(Logger.remove(Logger.defaultLogger)))
}

/** The worlds that there may be after a request that was answered so. */
const worldsAfter = (
  world: World,
  [id, request]: readonly [id: string, request: Request, ...rest: ReadonlyArray<unknown>],
  answer: string,
  circumstances: { readonly settled: boolean; readonly now: number }
): ReadonlyArray<World> =>
  asked(world.get(id) ?? null, request, answer, circumstances).map((run) => {
    const others = [...world].filter(([other]) => other !== id)
    return new Map(run === null ? others : [...others, [id, run]])
  })

/**
 * Follows a script on the store in context, and then lets everything that can end come to its end. Dies where the model does not allow
 * what is seen.
 *
 * @returns how many faults were met
 */
export const follow = (script: Script): Effect.Effect<number, unknown, StepStore.StepStore> =>
  Effect.flatMap(StepStore.StepStore, (store) => new Following(store, script).follow)
