/**
 * What a body does while it unwinds from its own throw.
 *
 * The steps of its finalizers run and are recorded then, and whoever mends the body has to know of them. Effect does not tell
 * a finalizer apart from other effects, so the moment at which a defect first appears is noted: by a supervisor, which sees
 * every failure that a fiber goes through.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as RuntimeFlagsPatch from "effect/RuntimeFlagsPatch"
import * as Supervisor from "effect/Supervisor"
import type { Operation } from "../Errors.js"
import type { Sequencer } from "./sequencer.js"

/** Defects kept in mind; a body that catches its defects may have any number. */
const kept = 8

export class Unwinding extends Supervisor.AbstractSupervisor<void> {
  /** How many outcomes had been handed to the body when a defect was first seen. */
  private readonly seen = new Map<unknown, number>()
  private readonly sequencer: Sequencer

  constructor(sequencer: Sequencer) {
    super()
    this.sequencer = sequencer
  }

  override readonly value = Effect.void

  override onEffect<A, E>(_: Fiber.RuntimeFiber<A, E>, effect: Effect.Effect<unknown, unknown, unknown>): void {
    if (Exit.isExit(effect) && Exit.isFailure(effect)) {
      Option.map(Cause.dieOption(effect.cause), (defect) => this.throws(defect))
    }
  }

  private throws(defect: unknown) {
    if (!this.seen.has(defect)) {
      this.seen.set(defect, this.sequencer.handed)
      if (this.seen.size > kept) {
        this.seen.delete(this.seen.keys().next().value)
      }
    }
  }

  /** Whether a defect was seen after the latest outcome: the body may be about to die of it. */
  get throwing(): boolean {
    return Array.from(this.seen.values()).includes(this.sequencer.handed)
  }

  /** The operations, at most the latest few, whose outcomes the body was handed after the first defect of a cause. */
  since(cause: Cause.Cause<unknown>): ReadonlyArray<Operation> {
    const { agreed, handed } = this.sequencer
    const thrownAt = Array.from(Cause.defects(cause), (defect) => this.seen.get(defect) ?? handed)
    const count = handed - Math.min(handed, ...thrownAt)
    return count === 0 ? [] : agreed.slice(-count)
  }

  /** Watches a body. */
  readonly watch = <A, E, R>(body: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    body.pipe(
      Effect.withRuntimeFlagsPatch(RuntimeFlagsPatch.enable(RuntimeFlags.OpSupervision)),
      Effect.supervised(this)
    )
}

/** The flags of a step that begins in a body: nobody watches it. */
export const unwatched = RuntimeFlags.disable(RuntimeFlags.OpSupervision)
