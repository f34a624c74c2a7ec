/** A process of the simulation: it has an engine, a clock that may be wrong, and its own sight of the world. */
import { Clock, type Context, type Duration, Effect, type Fiber, Scope } from "effect"
import type { Time } from "../../support/lives.js"
import { type Trialled, World } from "../../support/trials.js"

export type Engine = Effect.Effect.Context<ReturnType<typeof Trialled.start>>

/** A clock that is wrong. */
class SkewedClock implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  /** Milliseconds that it is fast. */
  skew = 0
  /** All times that it has shown. */
  readonly shown = new Set<number>()
  private readonly time: Time
  private readonly awake: Effect.Effect<void>

  constructor(time: Time, awake: Effect.Effect<void>) {
    this.time = time
    this.awake = awake
  }

  unsafeCurrentTimeMillis() {
    const now = this.time.unsafeCurrentTimeMillis() + this.skew
    this.shown.add(now)
    return now
  }

  get latest(): number {
    return Math.max(...this.shown)
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
export class Process {
  gone = false
  hung = false
  workerId = ""
  context: Context.Context<Engine> | null = null
  building: Fiber.RuntimeFiber<void> = Effect.runFork(Effect.void)
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
export class Sight extends World {
  override readonly started: Map<string, number>
  override readonly ended: Map<string, number>
  override readonly undone: Set<string>
  override readonly tokens: Set<string>
  readonly process: Process
  readonly generation: number
  private readonly world: World
  private readonly before: (label: string) => Effect.Effect<void>

  constructor(world: World, process: Process, generation: number, before: (label: string) => Effect.Effect<void>) {
    super(world.random)
    this.process = process
    this.generation = generation
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
