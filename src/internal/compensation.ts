/**
 * Undoing: when a run fails with its typed error, or is cancelled, what its body has done is undone in the reverse order.
 *
 * Each compensation is a durable step in a branch of its own, so a crash goes on where it was. All are asked for at once, and one
 * after the other begins: so a replay may be answered in any order, and one that dies does not keep the rest from running.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { CompensationDied } from "../Errors.js"
import type { AttemptRow, StepRow } from "../StepStore.js"
import type { ActiveRun, Compensation, LastRows } from "./activeRun.js"
import { Branch, inBranch } from "./place.js"
import { step } from "./step.js"
import type { Turns } from "./stepFiber.js"

/** Waits until every outcome that comes to nobody has been passed over, such as those of steps that could not be cut. */
export const drained = (run: ActiveRun): Effect.Effect<void> =>
  Effect.async((resume) => run.sequencer.drain(() => resume(Effect.void)))

/** Runs what undoes the effects of a body, the latest first. */
export const compensateAll = (root: Branch, cause: Cause.Cause<unknown>): Effect.Effect<void, never, unknown> => {
  const { run } = root
  return Effect.zipRight(
    drained(run),
    Effect.suspend(() => {
      const latestFirst = [...run.compensations].reverse()
      const first = root.take(latestFirst.length)
      const undoing = new Undoing(run)
      const branches = latestFirst.map((compensation, i) =>
        inBranch(
          undo(compensation, cause, undoing),
          new Branch(run, `${root.prefix}${first + i}.`, root),
          () => run.parked
        )
      )
      return Effect.all(branches, { concurrency: "unbounded", discard: true })
    })
  )
}

const undo = (
  { context, effect, id }: Compensation,
  cause: Cause.Cause<unknown>,
  undoing: Undoing
): Effect.Effect<unknown, never, unknown> =>
  step(Effect.asVoid(Effect.suspend(() => effect(cause))), {
    id,
    kind: "compensation",
    fingerprint: null,
    success: null,
    error: null,
    retry: null,
    timeout: null,
    onInterrupted: "rerun",
    compensate: null,
    turns: undoing
  }).pipe(Effect.orDie, Effect.provide(context))

/** Lets compensations begin one after the other, and the run stop when the last of them has ended, if one has died. */
class Undoing implements Turns {
  private readonly waiting: Array<() => void> = []
  private busy = false
  private readonly left: Array<CompensationDied["left"][number]> = []
  private readonly rows: { readonly steps: Array<StepRow>; readonly attempts: Array<AttemptRow> } = {
    steps: [],
    attempts: []
  }

  private readonly run: ActiveRun

  constructor(run: ActiveRun) {
    this.run = run
  }

  enter(begin: () => void): void {
    this.waiting.push(begin)
    this.next()
  }

  /** The one under way has died. */
  died(address: string, id: string, detail: string, { attempts = [], steps = [] }: LastRows): void {
    this.left.push({ address, id, detail })
    this.rows.steps.push(...steps)
    this.rows.attempts.push(...attempts)
    this.over()
  }

  /** What follows does not begin before that: else a crash would undo this one once more after it. */
  recorded(): void {
    this.over()
  }

  private over() {
    this.busy = false
    this.next()
  }

  private next() {
    if (this.busy || this.run.closed) {
      return
    }
    const begin = this.waiting.shift()
    if (begin !== undefined) {
      this.busy = true
      begin()
    } else if (this.left.length > 0) {
      this.run.stop(new CompensationDied({ workflowId: this.run.workflowId, left: this.left }), this.rows)
    }
  }
}
