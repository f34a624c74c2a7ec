/**
 * Several workers in one process over one store, several runs of random workflows, and faults, all of it decided by one seed.
 *
 * First comes a storm: calls of the store fail, take their time, or are performed and reported as failed; processes are killed, hang
 * and come back, close, and begin anew; clocks jump; what changes is not told. Then comes calm, in which every run must end.
 * Nothing real is waited for, so that a turn of the event loop is the same turn whenever the seed is run.
 */
import { assert } from "@effect/vitest"
import {
  Cause,
  Clock,
  type Context,
  type Duration,
  Effect,
  Exit,
  FastCheck as fc,
  Fiber,
  Layer,
  Logger,
  Option,
  Random,
  Scope,
  Stream
} from "effect"
import { Errors, MemoryStepStore, Signal, StepStore } from "perdure"
import { checkAttempts, checkCompensations, checkPrefixes, checkSignals, type Histories } from "../support/checks.js"
import { engineLayer, turns } from "../support/harness.js"
import { type End, endOf, historiesOf, type Outside, Time } from "../support/lives.js"
import { bodyOf, partOf, signalOf, signalsOf, Trialled, type Trials, trials, World } from "../support/trials.js"
import { type Dice, dice } from "./dice.js"
import { endsAs, withoutNonces } from "./expected.js"

/** The engines have a lot to say of their stores. */
const quiet = Logger.remove(Logger.defaultLogger)

type Store = StepStore.StepStore["Type"]
type Engine = Effect.Effect.Context<ReturnType<typeof Trialled.start>>

const minute = 60_000
const hour = 60 * minute

/** Times beyond this are those of an engine that waits for nothing. */
const never = 200 * 24 * hour

/** How often time passes in the calm, and in hundreds how many turns all takes, before what goes on is called stuck. */
const patience = 1_000

/** Turns without anything to do after which nothing goes on but time. */
const idleTurns = 8

// ---------------------------------------------------------------------------------------------------------------------
// what is tried
// ---------------------------------------------------------------------------------------------------------------------

/** How often what goes wrong, in each thousand. */
interface Weather {
  /** Of the calls of the store: some are slow, fail, are performed and reported as failed, or are the last of their process. */
  readonly slow: number
  readonly failed: number
  readonly unsaid: number
  readonly last: number
  /** Of what changes: it is not told. */
  readonly untold: number
  /** Of the turns: a process is killed, hangs, or closes, or its clock jumps. */
  readonly killed: number
  readonly hung: number
  readonly closed: number
  readonly jumps: number
}

const calm: Weather = {
  slow: 0,
  failed: 0,
  unsaid: 0,
  last: 0,
  untold: 0,
  killed: 0,
  hung: 0,
  closed: 0,
  jumps: 0
}

interface RunPlan {
  readonly program: Trials
  /** Whether its branches share state, signals and failures, and race: then only the moments decide how it ends. */
  readonly shares: boolean
  readonly startAt: number
  /** Turns before each signal, used again from the start when there are more. */
  readonly delays: ReadonlyArray<number>
  readonly cancelAt: number | null
}

interface Plan {
  readonly weather: Weather
  readonly workers: number
  /** Turns that the storm lasts. */
  readonly storm: number
  readonly room: number
  readonly grace: Duration.DurationInput
  readonly runs: ReadonlyArray<RunPlan>
}

const often = (most: number) => fc.constantFrom(0, Math.ceil(most / 4), most)

const plans: fc.Arbitrary<Plan> = fc.record({
  weather: fc.record({
    slow: often(300),
    failed: often(40),
    unsaid: often(40),
    last: often(20),
    untold: often(200),
    killed: often(8),
    hung: often(8),
    closed: often(6),
    jumps: often(10)
  }),
  workers: fc.integer({ min: 1, max: 4 }),
  storm: fc.integer({ min: 50, max: 400 }),
  room: fc.constantFrom(1, 2, 1_000),
  grace: fc.constantFrom<Duration.DurationInput>(0, "1 second", "5 minutes"),
  runs: fc.array(
    fc.boolean().chain((shares) =>
      fc.record({
        program: trials(shares),
        shares: fc.constant(shares),
        startAt: fc.integer({ min: 0, max: 60 }),
        delays: fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 4 }),
        cancelAt: fc.option(fc.integer({ min: 1, max: 300 }), { freq: 5, nil: null })
      })
    ),
    { minLength: 1, maxLength: 4 }
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// processes
// ---------------------------------------------------------------------------------------------------------------------

const lost = new Errors.StoreUnavailable({ target: "the store", detail: "this process is gone" })

const mishaps: ReadonlyArray<Errors.StoreError> = [
  new Errors.StoreBusy({ target: "the store", detail: "somebody else is writing" }),
  new Errors.StoreUnavailable({ target: "the store", detail: "nobody answers" }),
  new Errors.StoreFull({ target: "the store", detail: "no room is left" })
]

const isStoreError = (error: unknown) => mishaps.some((one) => error instanceof one.constructor)

/** What happens is written here, word for word the same each time that a seed is run. */
class Log {
  readonly entries: Array<string> = []
  tick = 0

  add(entry: string): void {
    this.entries.push(`${this.tick} ${entry}`)
  }
}

/** A clock that is wrong. */
class SkewedClock implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  /** Milliseconds that it is fast. */
  skew = 0
  private readonly time: Time
  private readonly awake: Effect.Effect<void>

  constructor(time: Time, awake: Effect.Effect<void>) {
    this.time = time
    this.awake = awake
  }

  unsafeCurrentTimeMillis() {
    return this.time.unsafeCurrentTimeMillis() + this.skew
  }

  unsafeCurrentTimeNanos() {
    return BigInt(this.unsafeCurrentTimeMillis()) * 1_000_000n
  }

  readonly currentTimeMillis = Effect.sync(() => this.unsafeCurrentTimeMillis())
  readonly currentTimeNanos = Effect.sync(() => this.unsafeCurrentTimeNanos())

  /** A process that hangs does not wake. */
  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.zipRight(this.time.sleep(duration), Effect.suspend(() => this.awake))
  }
}

/** A process: killed, nothing of it is performed any more; hung, everything in it waits until it comes back. */
class Process {
  gone = false
  hung = false
  workerId = ""
  context: Context.Context<Engine> | null = null
  readonly name: string
  readonly clock: SkewedClock
  readonly scope = Effect.runSync(Scope.make())
  private readonly latch = Effect.unsafeMakeLatch(true)

  constructor(name: string, time: Time) {
    this.name = name
    this.clock = new SkewedClock(time, this.latch.await)
  }

  /** Waits while the process hangs. */
  readonly awake: Effect.Effect<void> = Effect.suspend(() => this.latch.await)

  get up(): boolean {
    return this.context !== null && !this.gone && !this.hung
  }

  hang(): void {
    this.hung = true
    this.latch.unsafeClose()
  }

  comeBack(): void {
    this.hung = false
    this.latch.unsafeOpen()
  }
}

/** The world as one life of a body sees it, from the process in which it lives. */
class Sight extends World {
  override readonly started: Map<string, number>
  override readonly ended: Map<string, number>
  override readonly undone: Set<string>
  override readonly tokens: Set<string>
  private readonly world: World
  private readonly before: (label: string) => Effect.Effect<void>

  constructor(world: World, before: (label: string) => Effect.Effect<void>) {
    super(world.random)
    this.started = world.started
    this.ended = world.ended
    this.undone = world.undone
    this.tokens = world.tokens
    this.world = world
    this.before = before
  }

  override effect(label: string, turns: number): Effect.Effect<number> {
    return Effect.zipRight(this.before(label), this.world.effect(label, turns))
  }
}

/** A run under way. */
interface Course {
  readonly id: string
  readonly plan: RunPlan
  readonly world: World
  /** What each life of its body saw, by generation. */
  readonly sights: Array<{ readonly generation: number; readonly sight: Sight }>
  readonly outside: Outside
  readonly ends: Array<End>
}

interface Errand {
  readonly what: string
  due: number
  under: boolean
  readonly run: Effect.Effect<unknown, unknown, Engine>
}

const courseIdOf = (workflowId: string): string => /^~*([^:]*)/.exec(workflowId)![1]!

// ---------------------------------------------------------------------------------------------------------------------
// the simulation
// ---------------------------------------------------------------------------------------------------------------------

class Simulation {
  readonly log = new Log()
  private readonly time = new Time()
  private readonly dice: Dice
  private readonly plan: Plan
  private readonly real: Store
  private weather: Weather
  private readonly courses: ReadonlyArray<Course>
  private readonly errands = new Set<Errand>()
  private readonly mailed = new Set<string>()
  private readonly processes: Array<Process> = []
  private readonly closings: Array<Fiber.RuntimeFiber<void>> = []
  private readonly violations: Array<string> = []
  private begun = 0
  /** Beats of the workers whose death nobody has noticed, and all that there ever were. */
  private readonly beats = new Map<string, number>()
  private readonly workers: Array<string> = []
  /** The latest epoch of each run, and who has written in which. */
  private readonly epochs = new Map<string, number>()
  private readonly writers = new Map<string, string>()
  /** How often the body of each run has begun. */
  private readonly lives = new Map<string, number>()

  constructor(seed: number, real: Store) {
    this.plan = fc.sample(plans, { seed, numRuns: 1 })[0]!
    this.dice = dice(seed, 0)
    this.real = real
    this.weather = this.plan.weather
    this.courses = this.plan.runs.map((plan, i) => this.courseOf(plan, i))
  }

  // -- what comes from outside

  private courseOf(plan: RunPlan, i: number): Course {
    const world = new World(() => this.dice.fraction())
    const outside: Outside = { world, workers: [], acknowledged: new Map(), snapshots: [], deaths: 0, sent: [] }
    const id = `run-${i}`
    const course: Course = { id, plan, world, outside, sights: [], ends: [] }
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
    if (error === null || tag === "SignalNotWanted") {
      this.errands.delete(errand)
    } else if (tag !== "WorkflowNotFound" && !isStoreError(error)) {
      this.violations.push(`${errand.what}: ${String(error)}`)
    }
  }

  // -- the store of a process

  private storeOf(process: Process): Store {
    const { real } = this
    const reached = <A, E, R>(what: () => string, call: Effect.Effect<A, E | Errors.StoreError, R>) =>
      this.reached(process, what, call)
    return {
      ...real,
      commit: (batch) =>
        Effect.tap(
          reached(() => `commit ${batch.map(shown).join("; ")}`, this.performed(process, batch)),
          (answers) => Effect.sync(() => this.acknowledged(batch, answers))
        ),
      claim: (options) =>
        reached(
          () => `claim ${options.workflowId ?? "any"}`,
          Effect.tap(real.claim(options), (claimed) => Effect.sync(() => this.claimed(process, claimed)))
        ),
      run: (id) => reached(() => `run ${id}`, real.run(id)),
      owned: (worker) => reached(() => "owned", real.owned(worker)),
      ended: (ids) => reached(() => `ended ${ids.join()}`, real.ended(ids)),
      inboxes: (ids) => reached(() => `inboxes ${ids.join()}`, real.inboxes(ids)),
      mail: (id, wanted) => reached(() => `mail ${id}`, real.mail(id, wanted)),
      token: (token) => reached(() => "token", real.token(token)),
      nextWake: (names) => reached(() => "nextWake", real.nextWake(names)),
      history: (id, generation, page) => reached(() => `history ${id}`, real.history(id, generation, page)),
      unfinished: (id, generation) => reached(() => `unfinished ${id}`, real.unfinished(id, generation)),
      records: (runs, limit) => reached(() => "records", real.records(runs, limit)),
      attempts: (id, generation) => reached(() => `attempts ${id}`, real.attempts(id, generation)),
      changes: Stream.filter(
        real.changes,
        (change) => change === null || !this.dice.isBelow(this.weather.untold / 1_000)
      ),
      register: (info) =>
        Effect.asVoid(Effect.acquireRelease(
          Effect.sync(() => {
            process.workerId = info.id
            this.workers.push(info.id)
            this.beats.set(info.id, 0)
          }),
          // Of one that was killed somebody has to notice.
          () => Effect.sync(() => process.gone ? false : this.beats.delete(info.id))
        )),
      beat: (info) =>
        reached(
          () => "beat",
          Effect.sync(() => {
            if (this.beats.has(info.id)) {
              this.beats.set(info.id, this.beats.get(info.id)! + 1)
            }
            return Array.from(this.beats, ([id, beats]) => ({ id, beats }))
          })
        ),
      dead: reached(() => "dead", Effect.sync(() => this.workers.filter((id) => !this.beats.has(id))))
    }
  }

  /** A call reaches the store, unless something befalls it or its process. */
  private reached<A, E, R>(
    process: Process,
    what: () => string,
    call: Effect.Effect<A, E | Errors.StoreError, R>
  ): Effect.Effect<A, E | Errors.StoreError, R> {
    const { dice } = this
    const alive = Effect.zipRight(process.awake, Effect.suspend(() => process.gone ? Effect.fail(lost) : Effect.void))
    const slowly = Effect.suspend(() => turns(dice.isBelow(this.weather.slow / 1_000) ? 1 + dice.below(5) : 0))
    const note = (how: string) => this.log.add(`${process.name} ${what()}${how}`)
    const befallen = Effect.suspend(() => {
      const { failed, last, unsaid } = this.weather
      const mishap = () => mishaps[dice.below(mishaps.length)]!
      if (dice.isBelow(last / 1_000)) {
        const written = dice.isBelow(500 / 1_000)
        note(` is its last, ${written ? "performed" : "not performed"}`)
        return Effect.zipRight(
          written ? Effect.ignore(call) : Effect.void,
          Effect.zipRight(Effect.sync(() => this.kill(process)), Effect.fail(lost))
        )
      }
      if (dice.isBelow(unsaid / 1_000)) {
        note(" is performed and fails")
        return Effect.zipRight(Effect.ignore(call), Effect.fail(mishap()))
      }
      if (dice.isBelow(failed / 1_000)) {
        note(" fails")
        return Effect.fail(mishap())
      }
      note("")
      return call
    })
    return alive.pipe(
      Effect.zipRight(slowly),
      Effect.zipRight(alive),
      Effect.zipRight(befallen),
      Effect.zipLeft(slowly),
      Effect.zipLeft(alive)
    )
  }

  private performed(process: Process, batch: ReadonlyArray<StepStore.RunUpdate>): ReturnType<Store["commit"]> {
    return Effect.tap(this.real.commit(batch), (answers) =>
      Effect.sync(() =>
        answers.forEach((answer, i) => {
          this.log.add(`  ${answer._tag}`)
          if (answer._tag === "Accepted") {
            this.accepted(process, batch[i]!)
          }
        })
      ))
  }

  /** One writer an epoch, and none in an epoch that is over. */
  private accepted(process: Process, { epoch, insert, signals, steps, workflowId }: StepStore.RunUpdate): void {
    if (epoch === null) {
      signals.forEach(({ value }) =>
        this.courses.find(({ id }) => id === workflowId)?.outside.sent.push(JSON.parse(value!))
      )
      return
    }
    if (insert !== null) {
      this.epochs.set(workflowId, epoch)
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

  private acknowledged(
    batch: ReadonlyArray<StepStore.RunUpdate>,
    answers: Effect.Effect.Success<ReturnType<Store["commit"]>>
  ): void {
    answers.forEach((answer, i) => {
      const { steps, workflowId } = batch[i]!
      if (answer._tag === "Accepted") {
        const { outside } = this.courseWith(workflowId)
        steps.filter((row) => row.final).forEach((row) => outside.acknowledged.set(row.stepKey, { workflowId, row }))
      }
    })
  }

  private courseWith(workflowId: string): Course {
    return this.courses.find(({ id }) => id === courseIdOf(workflowId))!
  }

  // -- the life of processes

  private open(): void {
    const process = new Process(`p${++this.begun}`, this.time)
    this.processes.push(process)
    process.clock.skew = this.dice.isBelow(500 / 1_000) ? this.skew() : 0
    this.log.add(`${process.name} begins, ${process.clock.skew} ms fast`)
    Effect.runFork(
      Layer.buildWithScope(this.engineOf(process), process.scope).pipe(
        Effect.provideService(StepStore.StepStore, this.storeOf(process)),
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
        const sight = this.sightOf(course, process, workflowId)
        course.sights.push({ generation: payload.generation, sight })
        return bodyOf(course.plan.program, course.plan.shares, sight)(payload)
      })
    )
    return engineLayer({
      slowPoll: "4 hours",
      heartbeat: "6 hours",
      missedBeats: 2,
      parkGrace: this.plan.grace,
      maxResidentRuns: this.plan.room,
      deadlockAfter: "100000 days",
      unrequestedAfter: "100000 days",
      limits: { kills: 1_000 },
      workflows: [body, partOf((workflowId) => this.sightOf(this.courseWith(workflowId), process, workflowId))]
    })
  }

  private skew(): number {
    const sizes = [1, 1_000, minute, hour]
    return (this.dice.isBelow(500 / 1_000) ? 1 : -1) * sizes[this.dice.below(sizes.length)]! * (1 + this.dice.below(3))
  }

  /** A life begins. */
  private sightOf(course: Course, process: Process, workflowId: string): Sight {
    this.lives.set(workflowId, (this.lives.get(workflowId) ?? 0) + 1)
    return new Sight(course.world, (label) => this.beforeEffect(process, workflowId, label))
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
      (run, rows) => {
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
      this.later(this.dice.below(40), `${process.name} is known to be dead`, () => this.beats.delete(workerId))
    }
  }

  private close(process: Process): void {
    this.processes.splice(this.processes.indexOf(process), 1)
    this.closings.push(Effect.runFork(Scope.close(process.scope, Exit.void)))
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
      if (dice.isBelow(weather.killed / 1_000)) {
        this.kill(process)
      } else if (dice.isBelow(weather.hung / 1_000)) {
        this.log.add(`${process.name} hangs`)
        process.hang()
        this.later(1 + dice.below(120), `${process.name} comes back`, () => process.comeBack())
      } else if (dice.isBelow(weather.closed / 1_000)) {
        this.log.add(`${process.name} closes`)
        this.close(process)
      } else if (dice.isBelow(weather.jumps / 1_000)) {
        process.clock.skew += this.skew()
        this.log.add(`the clock of ${process.name} is now ${process.clock.skew} ms fast`)
      }
    }
    if (this.processes.length < this.plan.workers && dice.isBelow(60 / 1_000)) {
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

  /** Lets time pass where nothing else goes on; answers whether it may. */
  private readonly hop = (): boolean => {
    const at = this.time.next
    const passes = at - this.time.unsafeCurrentTimeMillis() < never
    if (passes) {
      this.log.add(`it is ${at}`)
      this.time.hop(at)
    }
    return passes
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
    if (this.violations.length > 0) {
      throw new Error(this.violations.join("\n"))
    }
  })

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
    if (this.processes.length === 0) {
      this.open()
    }
    while (!over) {
      over = yield* this.someTurns
      if (this.seen.hops > patience || this.log.tick > 100 * patience) {
        throw new Error(`stuck: ${yield* this.unfinished}`)
      }
    }
    yield* this.checks
    Array.from(this.processes).forEach((process) => this.close(process))
    while (this.closings.length > 0) {
      yield* this.turn
      if (Option.isSome(yield* Fiber.poll(this.closings[0]!))) {
        yield* Fiber.join(this.closings.shift()!)
      }
      if (this.seen.hops > 2 * patience || this.log.tick > 200 * patience) {
        throw new Error("an engine does not close")
      }
    }
  })

  // -- what must hold

  private readonly checks = Effect.gen(this, function*() {
    yield* this.snapshot
    for (const course of this.courses) {
      yield* this.check(course)
    }
  })

  private check({ ends, id, outside, plan, sights }: Course): Effect.Effect<void, Errors.StoreError> {
    return Effect.gen(this, function*() {
      const { real } = this
      const row = Option.getOrThrow(yield* real.run(id))
      const histories: Histories = yield* historiesOf(real, id)
      const attempts = yield* Effect.forEach(histories, (_, generation) => real.attempts(id, generation))
      const relatives = new Set([...outside.acknowledged.values()].map(({ workflowId }) => workflowId))
      relatives.delete(id)
      const children = yield* Effect.forEach(relatives, (child) => historiesOf(real, child))
      const end = endOfRow(row)
      const lives = sights.filter(({ generation }) => generation === row.generation).map(({ sight }) => sight.trace)
      const trace = lives.reduce((longest, trace) => trace.length > longest.length ? trace : longest, [])
      // Each life of a run does everything once at the most.
      const livesOf = (run: string, generations: number) => Math.max(0, (this.lives.get(run) ?? 0) - generations)
      outside.deaths = Array.from(relatives).reduce(
        (sum, child) => sum + livesOf(child, 1),
        livesOf(id, histories.length)
      )
      const life = { end, outside, trace }
      ends.forEach((answer) => assert.deepStrictEqual(answer, end, `what was answered of ${id}`))
      checkPrefixes(histories, children.flat(2), life)
      checkAttempts(plan.program.body, histories, attempts, life)
      checkCompensations(plan.program, histories, life)
      checkSignals(plan.program, life)
      checkLives(sights)
      if (!plan.shares && end._tag !== "Cancelled") {
        assert.deepStrictEqual(withoutNonces(end), endsAs(plan.program), `how ${id} ends`)
      }
      assert.isTrue(end._tag !== "Cancelled" || plan.cancelAt !== null, `${id} was not to be cancelled`)
    })
  }
}

/** What a body does follows from the record: no life of it differs from another, as far as each came. */
const checkLives = (sights: Course["sights"]): void => {
  const told = new Map<number, ReadonlyArray<string>>()
  for (const { generation, sight } of sights) {
    const trace = sight.trace.filter((entry) => !entry.startsWith("cut "))
    const other = told.get(generation) ?? []
    const common = Math.min(trace.length, other.length)
    assert.deepStrictEqual(trace.slice(0, common), other.slice(0, common), `lives of generation ${generation}`)
    told.set(generation, trace.length > other.length ? trace : other)
  }
}

const endOfRow = ({ outcome, status }: StepStore.RunRow): End => {
  switch (status) {
    case "COMPLETED":
      return { _tag: "Succeeded", value: JSON.parse(outcome!) }
    case "FAILED":
      return { _tag: "Failed", error: JSON.parse(outcome!) }
    default:
      return { _tag: "Cancelled" }
  }
}

const shown = (
  { attempts, epoch, generation, inbox, insert, next, patch, signals, steps, workflowId }: StepStore.RunUpdate
) =>
  [
    `${workflowId}#${generation}@${epoch}`,
    ...(insert === null ? [] : ["new"]),
    ...(next === null ? [] : ["next"]),
    ...(inbox === null ? [] : [`if ${inbox}`]),
    ...(patch === null ? [] : [patch.status]),
    ...steps.map((row) => `${row.stepKey} ${row.kind} ${row.stepId} ${row.status} ${row.position}`),
    ...attempts.map((row) => `${row.stepKey} attempt ${row.attempt} ${row.errorTag}`),
    ...(epoch === null ? signals.map(({ name }) => `signal ${name}`) : [])
  ].join(", ")

/** What a seed brings: what happened, and what did not hold, if so. */
export const simulate = (
  seed: number
): Effect.Effect<{ readonly log: ReadonlyArray<string>; readonly failure: unknown }> =>
  Effect.gen(function*() {
    const simulation = new Simulation(seed, yield* StepStore.StepStore)
    const exit = yield* Effect.exit(simulation.run)
    return {
      log: simulation.log.entries,
      failure: Exit.isSuccess(exit) ? null : Cause.squash(exit.cause)
    }
  }).pipe(Effect.provide(MemoryStepStore.layer), Effect.provide(quiet))
