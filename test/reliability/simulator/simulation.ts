/**
 * Several workers in one process over one store, several runs of random workflows, and faults, all of it decided by one seed.
 *
 * First comes a storm: calls of the store fail, take their time, or are performed and reported as failed; processes are killed, hang
 * and come back, close, and begin anew; clocks jump; what changes is not told. Then comes calm, in which every run must end.
 * Nothing real is waited for, so that a turn of the event loop is the same turn whenever the seed is run.
 */
import { assert } from "@effect/vitest"
import { Cause, Effect, Exit, FastCheck as fc, Fiber, Layer, Logger, Option, Random, Scope } from "effect"
import { type Errors, MemoryStepStore, Signal, StepStore } from "perdure"
import { engineLayer, turns } from "../../support/harness.js"
import { endOf, historiesOf, type Outside, Time } from "../../support/lives.js"
import { bodyOf, partOf, signalOf, signalsOf, Trialled, World } from "../../support/trials.js"
import { type Dice, dice } from "../dice.js"
import { check, type Course } from "./checks.js"
import { anyFault, type Kind, type Watch } from "./kind.js"
import { calm, type Plan, type RunPlan, type Weather } from "./plan.js"
import { type Engine, Process, Sight } from "./process.js"
import { isStoreError, Liveness, Log, storeOf, type Surroundings } from "./store.js"

/** The engines have a lot to say of their stores. */
const quiet = Logger.remove(Logger.defaultLogger)

type Store = StepStore.StepStore["Type"]

const hour = 60 * 60_000

/** Times beyond this are those of an engine that waits for nothing. */
const never = 200 * 24 * hour

/** How often time passes in the calm, and in hundreds how many turns all takes, before what goes on is called stuck. */
const patience = 1_000

/** Turns without anything to do after which nothing goes on but time. */
const idleTurns = 8

/** How often, in a calm in which clocks are right, time passes no further than to what waits for it. */
const exactHops = 8

/** By how much it passes at once after that, at the most. */
const longestHop = 30 * 24 * hour

interface Errand {
  readonly what: string
  due: number
  under: boolean
  readonly run: Effect.Effect<unknown, unknown, Engine>
}

const courseIdOf = (workflowId: string): string => /^~*([^:]*)/.exec(workflowId)![1]!

class Simulation {
  readonly log = new Log()
  private readonly time = new Time()
  private readonly dice: Dice
  private readonly kind: Kind
  private readonly watch: Watch
  private readonly plan: Plan
  private readonly real: Store
  private weather: Weather
  private readonly surroundings: Surroundings
  private readonly courses: ReadonlyArray<Course>
  private readonly errands = new Set<Errand>()
  private readonly mailed = new Set<string>()
  private processes: ReadonlyArray<Process> = []
  private readonly clocks: Array<Process["clock"]> = []
  private readonly closings: Array<Fiber.RuntimeFiber<void>> = []
  private readonly violations: Array<string> = []
  private begun = 0
  private readonly liveness = new Liveness()
  /** The latest epoch of each run, and who has written in which. */
  private readonly epochs = new Map<string, number>()
  private readonly writers = new Map<string, string>()
  /** How often the body of each run has begun. */
  private readonly lives = new Map<string, number>()

  constructor(seed: number, kind: Kind, real: Store) {
    this.kind = kind
    this.watch = kind.watch()
    this.time.hop(kind.beginsAt)
    this.plan = fc.sample(kind.plans, { seed, numRuns: 1 })[0]!
    this.dice = dice(seed, 0)
    this.real = real
    this.weather = this.plan.weather
    this.courses = this.plan.runs.map((plan, i) => this.courseOf(plan, i))
    this.surroundings = {
      real,
      dice: this.dice,
      log: this.log,
      liveness: this.liveness,
      weather: () => this.weather,
      kill: (process) => this.kill(process),
      claimed: (process, claimed) => this.claimed(process, claimed),
      accepted: (process, update) => this.accepted(process, update),
      acknowledged: (update) => this.acknowledged(update)
    }
  }

  // -- what comes from outside

  private courseOf(plan: RunPlan, i: number): Course {
    const world = new World(() => this.dice.fraction())
    const outside: Outside = {
      world,
      workers: [],
      acknowledged: new Map(),
      snapshots: [],
      deaths: 0,
      calls: [],
      sent: []
    }
    const id = `run-${i}`
    const course: Course = { id, plan, world, outside, sights: [], last: null, ends: [] }
    const { cancelAt, delays, program, startAt } = plan
    const names = signalsOf(program.body)
    let due = startAt
    this.errand(`start ${id}`, startAt, Trialled.start({ generation: 0 }, { workflowId: id }))
    this.errand(
      `execute ${id}`,
      startAt,
      Effect.map(
        Effect.exit(Trialled.execute({ generation: 0 }, { workflowId: id })),
        (exit) => this.answered(course, exit)
      )
    )
    Array.from({ length: program.generations }, () => names).flat().forEach((name, n) => {
      due += delays[n % delays.length]!
      const value = `${name} ${n}`
      this.errand(
        `send ${id} ${value}`,
        due,
        Signal.send(signalOf(name), { workflowId: id, value, idempotencyKey: `${n}` })
      )
    })
    if (cancelAt !== null) {
      this.errand(`cancel ${id}`, startAt + cancelAt, Trialled.cancel(id))
    }
    return course
  }

  private errand(what: string, due: number, run: Effect.Effect<unknown, unknown, Engine>): void {
    this.errands.add({ what, due, run, under: false })
  }

  private answered(course: Course, exit: Exit.Exit<string, unknown>): void {
    const end = endOf(exit)
    this.log.add(`${course.id} answers ${end === null ? "nothing" : end._tag}`)
    if (end !== null) {
      course.ends.push(end)
    }
  }

  private takeMail(): void {
    for (const { id, plan, world } of this.courses) {
      for (const token of world.tokens) {
        if (!this.mailed.has(token)) {
          this.mailed.add(token)
          const delay = plan.delays[this.mailed.size % plan.delays.length]!
          const run = Signal.answer(signalOf("token"), { token, value: `answer ${token}` })
          this.errand(`answer ${id} ${this.mailed.size}`, this.log.tick + delay, run)
        }
      }
    }
  }

  /** An errand is done again by somebody until it is answered. */
  private doErrands(): void {
    const up = this.processes.filter((process) => process.up)
    const next = Array.from(this.errands).find(({ due, under }) => !under && due <= this.log.tick)
    if (next === undefined || up.length === 0) {
      return
    }
    const { clock, context, name } = up[this.dice.below(up.length)]!
    next.under = true
    this.log.add(`${name} ${next.what}`)
    Effect.runFork(next.run.pipe(
      Effect.provide(context!),
      Effect.withClock(clock),
      Effect.exit,
      Effect.map((exit) => this.errandEnded(next, exit)),
      Effect.provide(quiet)
    ))
  }

  private errandEnded(errand: Errand, exit: Exit.Exit<unknown, unknown>): void {
    const error = Exit.isSuccess(exit) ? null : Cause.squash(exit.cause)
    const tag = error === null ? "done" : (error as { readonly _tag: string })._tag
    this.log.add(`${errand.what}: ${tag}`)
    errand.under = false
    errand.due = this.log.tick + 10
    // The run may have ended meanwhile.
    if (error === null || tag === "SignalNotWanted" || tag === "NothingToResume") {
      this.errands.delete(errand)
    } else if (tag !== "WorkflowNotFound" && !isStoreError(error)) {
      this.violations.push(`${errand.what}: ${String(error)}`)
    }
  }

  // -- what the store accepts

  /** One writer an epoch, and none in an epoch that is over. */
  private accepted(process: Process, update: StepStore.RunUpdate): void {
    const { epoch, insert, signals, steps, workflowId } = update
    this.violations.push(...this.watch.accepted(process, update))
    if (epoch === null) {
      signals.forEach(({ value }) =>
        this.courses.find(({ id }) => id === workflowId)?.outside.sent.push(JSON.parse(value!))
      )
      return
    }
    if (insert !== null) {
      this.epochs.set(workflowId, epoch)
    }
    const course = this.courses.find(({ id }) => id === workflowId)
    if (course !== undefined && update.patch !== null && update.patch.endedAt !== null) {
      course.last = course.sights.filter((sight) =>
        sight.process === process && sight.generation === update.generation
      ).at(-1) ?? null
    }
    if (steps.length > 0) {
      const life = `${workflowId} in epoch ${epoch}`
      const writer = this.writers.get(life) ?? process.name
      this.writers.set(life, writer)
      if (writer !== process.name || epoch !== this.epochs.get(workflowId)) {
        this.violations.push(
          `${process.name} writes ${life}, of ${writer}; the run is in epoch ${this.epochs.get(workflowId)}`
        )
      }
    }
  }

  private claimed(process: Process, claimed: ReadonlyArray<StepStore.Claimed>): void {
    for (const { epoch, workflowId } of claimed) {
      this.log.add(`  ${process.name} has ${workflowId} in epoch ${epoch}`)
      if (epoch !== (this.epochs.get(workflowId) ?? 0) + 1) {
        this.violations.push(`${workflowId} goes from epoch ${this.epochs.get(workflowId)} to ${epoch}`)
      }
      this.epochs.set(workflowId, epoch)
    }
  }

  private acknowledged({ steps, workflowId }: StepStore.RunUpdate): void {
    const { outside } = this.courseWith(workflowId)
    steps.filter((row) => row.final).forEach((row) => outside.acknowledged.set(row.stepKey, { workflowId, row }))
  }

  private courseWith(workflowId: string): Course {
    return this.courses.find(({ id }) => id === courseIdOf(workflowId))!
  }

  // -- the life of processes

  private open(): void {
    const process = new Process(`p${++this.begun}`, this.time)
    this.processes = [...this.processes, process]
    this.clocks.push(process.clock)
    process.clock.skew = this.dice.isBelow(0.5) && !this.isSettled ? this.kind.set(0, this.dice) : 0
    this.log.add(`${process.name} begins, ${process.clock.skew} ms fast`)
    process.building = Effect.runFork(
      Layer.buildWithScope(this.engineOf(process), process.scope).pipe(
        Effect.provideService(StepStore.StepStore, storeOf(process, this.surroundings)),
        Effect.withClock(process.clock),
        Effect.withRandom(Random.make(`${this.dice.fraction()}`)),
        Effect.map((context) => {
          process.context = context
        }),
        Effect.catchAllCause((cause) =>
          Effect.sync(() => this.log.add(`${process.name} does not begin: ${cause._tag}`))
        ),
        Effect.provide(quiet)
      )
    )
  }

  private engineOf(process: Process) {
    const body = Trialled.toLayer((payload, workflowId) =>
      Effect.suspend(() => {
        const course = this.courseWith(workflowId)
        const sight = this.sightOf(course, process, workflowId, payload.generation)
        course.sights.push(sight)
        return bodyOf(course.plan.program, course.plan.shares, sight)(payload)
      })
    )
    return engineLayer({
      ...this.kind.pace,
      missedBeats: 2,
      parkGrace: this.plan.grace,
      maxResidentRuns: this.plan.room,
      deadlockAfter: "100000 days",
      unrequestedAfter: "100000 days",
      limits: { kills: 1_000 },
      workflows: [body, partOf((workflowId) => this.sightOf(this.courseWith(workflowId), process, workflowId, 0))]
    })
  }

  private get isSettled(): boolean {
    return this.kind.settles && this.weather === calm
  }

  /** A life begins. */
  private sightOf(course: Course, process: Process, workflowId: string, generation: number): Sight {
    this.lives.set(workflowId, (this.lives.get(workflowId) ?? 0) + 1)
    return new Sight(course.world, process, generation, (label) => this.beforeEffect(process, workflowId, label))
  }

  /** A process that is gone starts nothing, and one that owns a run nothing that is recorded. */
  private beforeEffect(process: Process, workflowId: string, label: string): Effect.Effect<void> {
    return process.awake.pipe(
      Effect.zipRight(Effect.suspend(() => process.gone ? Effect.interruptible(Effect.never) : Effect.void)),
      Effect.zipRight(Effect.suspend(() => {
        this.log.add(`${process.name} does ${workflowId} ${label}`)
        const [, generation, stepId] = /^(\d+)\/(.*)$/.exec(label) ?? []
        return generation === undefined || courseIdOf(workflowId) !== workflowId
          ? Effect.void
          : this.checkUnrecorded(process, workflowId, Number(generation), stepId!)
      }))
    )
  }

  private checkUnrecorded(process: Process, workflowId: string, generation: number, stepId: string) {
    return Effect.zipWith(
      this.real.run(workflowId),
      this.real.history(workflowId, generation, { after: null, limit: 10_000 }),
      (run, { rows }) => {
        const isOwner = Option.exists(run, (row) => row.owner === process.workerId && row.generation === generation)
        if (isOwner && rows.some((row) => row.kind === "step" && row.stepId === stepId)) {
          this.violations.push(`${process.name} does ${stepId} of ${workflowId} again, which is recorded`)
        }
      }
    ).pipe(Effect.orDie)
  }

  /** Nothing of it is performed any more; some time later this is noticed. */
  private kill(process: Process): void {
    if (!process.gone) {
      this.log.add(`${process.name} is killed`)
      process.gone = true
      process.comeBack()
      this.close(process)
      const { workerId } = process
      this.later(this.dice.below(40), `${process.name} is known to be dead`, () => this.liveness.forget(workerId))
    }
  }

  private close(process: Process): void {
    this.processes = this.processes.filter((other) => other !== process)
    this.closings.push(Effect.runFork(
      Effect.zipRight(Fiber.interrupt(process.building), Scope.close(process.scope, Exit.void))
    ))
  }

  private readonly scheduled: Array<{ readonly at: number; readonly what: string; readonly run: () => void }> = []

  private later(turns: number, what: string, run: () => void): void {
    this.scheduled.push({ at: this.log.tick + turns, what, run })
  }

  private doScheduled(): void {
    for (const one of this.scheduled.filter(({ at }) => at <= this.log.tick)) {
      this.scheduled.splice(this.scheduled.indexOf(one), 1)
      this.log.add(one.what)
      one.run()
    }
  }

  private passTurnOfWeather(): void {
    const { dice, weather } = this
    const process = this.processes[dice.below(Math.max(1, this.processes.length))]
    if (process !== undefined && process.up) {
      if (dice.isBelow(weather.killed)) {
        this.kill(process)
      } else if (dice.isBelow(weather.hung)) {
        this.log.add(`${process.name} hangs`)
        process.hang()
        this.later(1 + dice.below(120), `${process.name} comes back`, () => process.comeBack())
      } else if (dice.isBelow(weather.closed)) {
        this.log.add(`${process.name} closes`)
        this.close(process)
      } else if (dice.isBelow(weather.jumps)) {
        process.clock.skew = this.kind.set(process.clock.skew, this.dice)
        this.log.add(`the clock of ${process.name} is now ${process.clock.skew} ms fast`)
      }
    }
    if (this.processes.length < this.plan.workers && dice.isBelow(0.06)) {
      this.open()
    }
  }

  // -- from the first turn to the last

  private readonly statuses = Effect.suspend(() =>
    Effect.forEach(this.courses, ({ id }) => Effect.map(this.real.run(id), Option.getOrNull))
  )

  /** Looks after the runs as a person would; answers whether all of them have ended. */
  private readonly lookAfter = Effect.map(this.statuses, (rows) => {
    rows.forEach((row) => {
      if (row?.status === "STOPPED") {
        const what = `resume ${row.workflowId} ${row.epoch}`
        if (row.stopReason?._tag !== "StepDied") {
          this.violations.push(`${row.workflowId} stopped: ${JSON.stringify(row.stopReason)}`)
        } else if (!Array.from(this.errands).some((errand) => errand.what === what)) {
          this.errand(what, this.log.tick, Trialled.resume(row.workflowId))
        }
      }
    })
    return rows.every((row) => row !== null && row.endedAt !== null)
  })

  /** What has not come to its end, for people. */
  private readonly unfinished = Effect.map(this.statuses, (rows) =>
    [
      ...rows.filter((row) => row !== null && row.endedAt === null).map((row) =>
        `${row!.workflowId} is ${row!.status}, of ${row!.owner}, wakes at ${row!.wakeAt}`
      ),
      ...Array.from(this.errands, ({ what }) => `${what} has not been done`)
    ].join("; "))

  private readonly snapshot = Effect.suspend(() =>
    Effect.forEach(
      this.courses,
      ({ id, outside }) => Effect.map(historiesOf(this.real, id), (histories) => outside.snapshots.push(histories)),
      { discard: true }
    )
  )

  /** Lets time pass where nothing else goes on. */
  private hop(): void {
    const now = this.time.unsafeCurrentTimeMillis()
    const more = this.isSettled && this.seen.hops > exactHops ? Math.min(hour * 2 ** this.seen.hops, longestHop) : 0
    const { next } = this.time
    if (next - now < never) {
      const at = Math.max(next, now + more)
      this.log.add(`it is ${at}`)
      this.time.hop(at)
    }
  }

  private readonly seen = { entries: 0, idle: 0, hops: 0 }

  private readonly turn: Effect.Effect<void, Errors.StoreError> = Effect.gen(this, function*() {
    const { log, seen } = this
    yield* turns(1)
    log.tick++
    this.doScheduled()
    this.passTurnOfWeather()
    this.takeMail()
    this.doErrands()
    if (log.tick % 64 === 0) {
      yield* this.snapshot
    }
    seen.idle = log.entries.length === seen.entries ? seen.idle + 1 : 0
    seen.entries = log.entries.length
    if (seen.idle >= idleTurns) {
      seen.idle = 0
      seen.hops++
      this.hop()
    }
    assert.isEmpty(this.violations, this.violations.join("; "))
  })

  /** It is as late as any clock has shown, and all of them show that. */
  private settle(): void {
    if (this.isSettled) {
      const at = Math.max(...this.clocks.map(({ latest }) => latest))
      this.clocks.forEach((clock) => {
        clock.skew = 0
      })
      this.log.add(`it is ${at}, and the clocks are right`)
      this.time.hop(at)
    }
  }

  private isStuck(patience: number): boolean {
    return this.seen.hops > patience || this.log.tick > 100 * patience
  }

  /** Answers whether there is nothing left to do. */
  private readonly someTurns = Effect.gen(this, function*() {
    for (let i = 0; i < 6; i++) {
      yield* this.turn
    }
    return (yield* this.lookAfter) && this.errands.size === 0
  })

  readonly run: Effect.Effect<void, Errors.StoreError> = Effect.gen(this, function*() {
    while (this.processes.length < this.plan.workers) {
      this.open()
    }
    let over = false
    while (this.log.tick < this.plan.storm && !over) {
      over = yield* this.someTurns
    }
    this.log.add("it is calm")
    this.weather = calm
    this.seen.hops = 0
    this.settle()
    if (this.processes.length === 0) {
      this.open()
    }
    while (!over) {
      over = yield* this.someTurns
      if (this.isStuck(patience)) {
        assert.fail(`stuck: ${yield* this.unfinished}`)
      }
    }
    yield* this.checks
    this.processes.forEach((process) => this.close(process))
    while (this.closings.length > 0) {
      yield* this.turn
      // An engine that was made to end while it was built says that it was interrupted.
      const closed = yield* Fiber.poll(this.closings[0]!)
      if (Option.isSome(closed)) {
        this.closings.shift()
        yield* Exit.isInterrupted(closed.value) ? Effect.void : closed.value
      }
      assert.isFalse(this.isStuck(2 * patience), "an engine does not close")
    }
  })

  // -- what must hold

  private readonly checks = Effect.gen(this, function*() {
    yield* this.snapshot
    for (const course of this.courses) {
      yield* check(this.real, this.lives, course)
      this.watch.ended(course)
    }
  })
}

/** What a seed brings: what happened, and what did not hold, if so. */
export const simulate = (
  seed: number,
  kind: Kind = anyFault,
  store: Layer.Layer<StepStore.StepStore> = MemoryStepStore.layer
): Effect.Effect<{ readonly log: ReadonlyArray<string>; readonly failure: unknown }> =>
  Effect.gen(function*() {
    const simulation = new Simulation(seed, kind, yield* StepStore.StepStore)
    const exit = yield* Effect.exit(simulation.run)
    return {
      log: [...simulation.log.entries],
      failure: Exit.isSuccess(exit) ? null : Cause.squash(exit.cause)
    }
  }).pipe(Effect.provide(Layer.merge(store, quiet)))
