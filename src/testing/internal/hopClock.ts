/** A clock that hops from one time at which something is due to the next, when whoever has it says so. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

export class HopClock implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  private now: number
  private readonly sleepers = new Map<() => void, number>()

  constructor(now: number) {
    this.now = now
  }

  unsafeCurrentTimeMillis() {
    return this.now
  }

  unsafeCurrentTimeNanos() {
    return BigInt(Math.floor(this.now)) * 1_000_000n
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

  /** When the next of those who sleep is to wake; `Infinity` if nobody sleeps. */
  get next(): number {
    return Math.min(...this.sleepers.values())
  }

  /** Shows a time, and wakes all who sleep until then, in the order of their times. */
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
