/**
 * The scheduler on which the fibers of one run's body run, and by which the engine knows when the body is at rest.
 *
 * A turn of the event loop is the smallest unit of waiting here: it is not time, so no clock is asked.
 */
import * as Effect from "effect/Effect"
import * as Scheduler from "effect/Scheduler"

/** Calls back in the next turn of the event loop, after the promises that are settled by now. */
export const nextTurn = (callback: () => void): void => {
  setImmediate(callback)
}

/** Waits for the next turn of the event loop. */
export const turn: Effect.Effect<void> = Effect.async((resume) => nextTurn(() => resume(Effect.void)))

/** Rounds of tasks run before other work of the process gets its turn. */
const roundsInATurn = 64

/**
 * Runs the tasks of a run's body, first in first out.
 *
 * A task that arrives while no other task runs and that {@link cause} did not bring was caused from outside: by a promise, a
 * socket or a timer that the body awaits. That is reported, because no history can repeat it.
 */
export class RunScheduler implements Scheduler.Scheduler {
  private readonly tasks = new Scheduler.PriorityBuckets()
  private running = false
  private causing = false
  private kicked = false
  private dropped = false
  /** How many tasks have arrived: unchanged between two looks means that nothing has stirred. */
  stirred = 0

  private readonly onRest: () => void
  private readonly onForeign: () => void

  constructor(onRest: () => void, onForeign: () => void) {
    this.onRest = onRest
    this.onForeign = onForeign
  }

  shouldYield = Scheduler.defaultShouldYield

  /** Nothing is left to run. */
  get idle(): boolean {
    return !this.running && this.tasks.buckets.length === 0
  }

  scheduleTask(task: Scheduler.Task, priority: number): void {
    if (this.dropped) {
      return
    }
    this.stirred++
    this.tasks.scheduleTask(task, priority)
    if (!this.running && !this.causing) {
      this.onForeign()
      this.kick()
    }
  }

  /** Wakes the body on behalf of the engine, and runs it until it rests again. */
  cause(wake: () => void): void {
    this.causing = true
    wake()
    this.causing = false
    this.run()
  }

  /** Gives the body up: what it would still do is not done. */
  drop(): void {
    this.dropped = true
    this.tasks.buckets = []
  }

  private kick() {
    if (!this.kicked) {
      this.kicked = true
      nextTurn(() => {
        this.kicked = false
        this.run()
      })
    }
  }

  private run() {
    this.running = true
    for (let round = 0; round < roundsInATurn && this.tasks.buckets.length > 0; round++) {
      const buckets = this.tasks.buckets
      this.tasks.buckets = []
      for (const [, tasks] of buckets) {
        for (const task of tasks) {
          task()
        }
      }
    }
    this.running = false
    if (this.tasks.buckets.length > 0) {
      this.kick()
    } else {
      this.onRest()
    }
  }
}
