/** Timers for points in time, however far away. */

export type After = (millis: number, callback: () => void) => () => void

/** A timer of JavaScript holds 24 days. */
const longest = 24 * 60 * 60 * 1_000

/**
 * Calls back when a clock shows a time, in epoch milliseconds, or is past it; at once if it is.
 *
 * @returns what stops that
 */
export const callAt = (after: After, now: () => number, at: number, callback: () => void): () => void => {
  let stop = () => {}
  const wait = () => {
    const rest = at - now()
    if (rest > 0) {
      stop = after(Math.min(rest, longest), wait)
    } else {
      callback()
    }
  }
  wait()
  return () => stop()
}

/** One timer for the first of many times. */
export class Alarm {
  private at = Number.POSITIVE_INFINITY
  private cancel = () => {}
  private stopped = false

  private readonly after: After
  private readonly now: () => number
  private readonly ring: () => void

  constructor(after: After, now: () => number, ring: () => void) {
    this.after = after
    this.now = now
    this.ring = ring
  }

  /** Rings at this time too, in epoch milliseconds, or at once if it is past. */
  setAt(at: number): void {
    if (!this.stopped && at < this.at) {
      this.cancel()
      this.at = at
      this.cancel = callAt(this.after, this.now, at, () => {
        this.at = Number.POSITIVE_INFINITY
        this.ring()
      })
    }
  }

  /** It rings no more, whatever it is set to. */
  stop(): void {
    this.stopped = true
    this.cancel()
  }
}
