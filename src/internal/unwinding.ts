/**
 * What a body does while it unwinds from its own throw.
 *
 * The steps of its finalizers run and are recorded then, and whoever mends the body has to know of them. Effect does not tell
 * a finalizer apart from other effects, so the moment at which a defect first appears is noted: by the supervisor of bodies.
 */
import * as Cause from "effect/Cause"
import type { Operation } from "../Errors.js"
import type { Sequencer } from "./sequencer.js"

/** Defects kept in mind; a body that catches its defects may have any number. */
const kept = 8

export class Unwinding {
  /** How many outcomes had been handed to the body when a defect was first seen; most bodies see none. */
  private seen: Map<unknown, number> | null = null
  private readonly sequencer: Sequencer

  constructor(sequencer: Sequencer) {
    this.sequencer = sequencer
  }

  throws(defect: unknown): void {
    const seen = this.seen ??= new Map()
    if (!seen.has(defect)) {
      seen.set(defect, this.sequencer.handed)
      if (seen.size > kept) {
        seen.delete(seen.keys().next().value)
      }
    }
  }

  /** Whether a defect was seen after the latest outcome: the body may be about to die of it. */
  get throwing(): boolean {
    return this.seen !== null && Array.from(this.seen.values()).includes(this.sequencer.handed)
  }

  /** The operations, at most the latest few, whose outcomes the body was handed after the first defect of a cause. */
  since(cause: Cause.Cause<unknown>): ReadonlyArray<Operation> {
    const { agreed, handed } = this.sequencer
    const thrownAt = Array.from(Cause.defects(cause), (defect) => this.seen?.get(defect) ?? handed)
    const count = handed - Math.min(handed, ...thrownAt)
    return count === 0 ? [] : agreed.slice(-count)
  }
}
