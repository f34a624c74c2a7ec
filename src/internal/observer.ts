/**
 * Knows when an engine is at rest: nothing of it goes on, and nothing will unless time passes or somebody asks for something.
 *
 * No single place sees all of an engine, so the observer asks three things over several turns of the event loop: whether a call of
 * the store is under way, whether a body moves or waits for what the engine does not know, and whether a step does anything but
 * sleep. What lies between these (an update on its way to the journal, a record on its way to a body) lasts a turn at the most, and
 * ends in one of them.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import type * as FiberStatus from "effect/FiberStatus"
import { constTrue, identity } from "effect/Function"
import * as HashSet from "effect/HashSet"
import * as Option from "effect/Option"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Supervisor from "effect/Supervisor"
import type { StepStore } from "../StepStore.js"
import type { Attendant } from "./attendant.js"
import type { AnyFiber } from "./place.js"
import { turn } from "./scheduler.js"
import type { Sequencer } from "./sequencer.js"

/** Turns of the event loop in which nothing has gone on. The longest way from one thing that is seen to the next takes two. */
const quietTurns = 4

/** After so many turns whoever works waits for something outside the process: to look less often costs nothing then. */
const eagerTurns = 200

/** The clock of the machine, for work that takes its own time. */
const machine = Clock.make()

export class Observer implements Attendant {
  /** How often something has been seen to go on. */
  private stirred = 0
  /** Calls of the store under way. */
  private calls = 0
  private readonly asleep = new WeakSet<AnyFiber>()
  private readonly bodies = new Set<Sequencer>()
  private readonly steps = new Set<FollowedStep>()
  /** Bodies and steps that were waited for in vain. */
  private readonly givenUp = new WeakSet<Sequencer | FollowedStep>()

  readonly testClock: Clock.Clock
  readonly attempt: Attendant["attempt"]
  readonly mayBegin = constTrue

  /** @param attempt - what is to be done about the effects of steps */
  constructor(testClock: Clock.Clock, attempt: Attendant["attempt"] = identity) {
    this.testClock = testClock
    this.attempt = attempt
  }

  private readonly stir = () => {
    this.stirred++
  }

  private between<A, E, R>(
    begin: () => void,
    self: Effect.Effect<A, E, R>,
    end: () => void
  ): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      this.stirred++
      begin()
      return Effect.ensuring(
        self,
        Effect.sync(() => {
          this.stirred++
          end()
        })
      )
    })
  }

  // -- what is followed

  readonly clock = (clock: Clock.Clock): Clock.Clock => ({
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
    unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
    currentTimeMillis: clock.currentTimeMillis,
    currentTimeNanos: clock.currentTimeNanos,
    sleep: (duration) =>
      Effect.withFiberRuntime((fiber) =>
        this.between(() => this.asleep.add(fiber), clock.sleep(duration), () => this.asleep.delete(fiber))
      )
  })

  readonly body = <A, E, R>(self: Effect.Effect<A, E, R>, sequencer: Sequencer): Effect.Effect<A, E, R> =>
    this.between(
      () => this.bodies.add(sequencer),
      Effect.clockWith((clock) => Effect.withClock(self, this.clock(clock))),
      () => this.bodies.delete(sequencer)
    )

  readonly step = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withFiberRuntime((fiber) => {
      const step = new FollowedStep(fiber, this.stir)
      return this.between(
        () => this.steps.add(step),
        Effect.supervised(self, step),
        () => this.steps.delete(step)
      )
    })

  /** Follows the calls of a store. */
  store(store: StepStore["Type"]): StepStore["Type"] {
    const called = <A, E, R>(self: Effect.Effect<A, E, R>) => this.between(() => this.calls++, self, () => this.calls--)
    return {
      ...store,
      commit: (batch) => called(store.commit(batch)),
      claim: (options) => called(store.claim(options)),
      run: (workflowId) => called(store.run(workflowId)),
      ended: (workflowIds) => called(store.ended(workflowIds)),
      inboxes: (workflowIds) => called(store.inboxes(workflowIds)),
      mail: (workflowId, wanted) => called(store.mail(workflowId, wanted)),
      token: (token) => called(store.token(token)),
      nextWake: (names) => called(store.nextWake(names)),
      history: (workflowId, generation, page) => called(store.history(workflowId, generation, page)),
      unfinished: (workflowId, generation) => called(store.unfinished(workflowId, generation)),
      records: (runs, limit) => called(store.records(runs, limit)),
      attempts: (workflowId, generation) => called(store.attempts(workflowId, generation)),
      dead: called(store.dead)
    }
  }

  // -- whether it rests

  private readonly working: Effect.Effect<ReadonlyArray<Sequencer | FollowedStep>> = Effect.suspend(() =>
    Effect.map(
      Effect.filter(this.steps, (step) => step.works(this.asleep)),
      (steps) => [...steps, ...Array.from(this.bodies).filter((sequencer) => sequencer.restless)]
    )
  )

  /**
   * Waits until the engine is at rest. Work that nothing is seen of for a time of the machine, in milliseconds, is waited for no
   * longer, now and later.
   */
  rest(patience: number): Effect.Effect<void> {
    return Effect.gen(this, function*() {
      let quiet = 0
      let seen = -1
      let since = machine.unsafeCurrentTimeMillis()
      for (let turns = 0; quiet < quietTurns; turns++) {
        yield* turns < eagerTurns ? turn : Effect.zipRight(machine.sleep(oneMillisecond), turn)
        const working = (yield* this.working).filter((one) => !this.givenUp.has(one))
        if (this.stirred !== seen) {
          seen = this.stirred
          since = machine.unsafeCurrentTimeMillis()
          quiet = 0
        } else if (working.length === 0 && this.calls === 0) {
          quiet++
        } else if (machine.unsafeCurrentTimeMillis() - since > patience) {
          working.forEach((one) => this.givenUp.add(one))
          return
        }
      }
    })
  }
}

const oneMillisecond = Duration.millis(1)

/** A fiber of a step, and the one that forked it. */
interface Followed {
  readonly fiber: AnyFiber
  readonly parent: number | null
}

/** A step under way, with all its fibers. */
class FollowedStep extends Supervisor.AbstractSupervisor<void> {
  override readonly value = Effect.void
  /** By number, in the order in which they began. */
  private readonly fibers = new Map<number, Followed>()
  private readonly stir: () => void

  constructor(fiber: AnyFiber, stir: () => void) {
    super()
    this.stir = stir
    this.fibers.set(fiber.id().id, { fiber, parent: null })
  }

  override onStart<A, E, R>(
    _context: Context.Context<R>,
    _effect: Effect.Effect<A, E, R>,
    parent: Option.Option<AnyFiber>,
    fiber: Fiber.RuntimeFiber<A, E>
  ): void {
    this.stir()
    this.fibers.set(fiber.id().id, { fiber, parent: Option.getOrNull(Option.map(parent, (parent) => parent.id().id)) })
  }

  override onEnd<A, E>(_: Exit.Exit<A, E>, fiber: Fiber.RuntimeFiber<A, E>): void {
    this.stir()
    this.fibers.delete(fiber.id().id)
  }

  override onResume(): void {
    this.stir()
  }

  /** Whether a fiber of the step does anything but sleep, or wait for one that sleeps. */
  works(asleep: WeakSet<AnyFiber>): Effect.Effect<boolean> {
    const looks = Effect.forEach(
      this.fibers.values(),
      (one) => Effect.map(Fiber.status(one.fiber), (status) => lookAt(one, status, asleep.has(one.fiber)))
    )
    return Effect.map(looks, (fibers) => restingOf(fibers).size < fibers.length)
  }
}

/** A fiber at one moment. */
interface Look {
  readonly id: number
  readonly parent: number | null
  readonly asleep: boolean
  /** The fibers that it waits for. What it waits for and is no fiber has the number of the one that made it. */
  readonly awaited: HashSet.HashSet<number>
  /** It cannot be interrupted. */
  readonly guarded: boolean
}

const lookAt = ({ fiber, parent }: Followed, status: FiberStatus.FiberStatus, asleep: boolean): Look => {
  // One that has only yielded is called suspended, and blocked on nothing; one that has just ended has neither of the two.
  const { blockingOn, runtimeFlags } = status as Partial<FiberStatus.Suspended>
  return {
    id: fiber.id().id,
    parent,
    asleep,
    awaited: FiberId.ids(blockingOn ?? FiberId.none),
    guarded: !RuntimeFlags.interruptible(runtimeFlags as RuntimeFlags.RuntimeFlags)
  }
}

/** The fibers that sleep, or wait for one that rests; given and answered in the order in which they began. */
const restingOf = (fibers: ReadonlyArray<Look>): ReadonlySet<number> => {
  const resting = new Set(fibers.flatMap(({ asleep, id }) => asleep ? [id] : []))

  /**
   * Effect runs a collection side by side in fibers that it starts from a first one, which nothing interrupts and which their parent
   * waits for alone.
   */
  const leads = (one: Look, other: Look) =>
    one.guarded && one.parent === other.parent &&
    fibers.some(({ awaited, id }) =>
      id === one.parent && HashSet.has(awaited, one.id) && !HashSet.has(awaited, other.id)
    )

  const rests = (one: Look, i: number) =>
    HashSet.some(one.awaited, (id) => resting.has(id)) ||
    fibers.slice(i + 1).some((other) => resting.has(other.id) && leads(one, other))

  for (let before = -1; before < resting.size;) {
    before = resting.size
    fibers.forEach((one, i) => rests(one, i) && resting.add(one.id))
  }
  return resting
}
