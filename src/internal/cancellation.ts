/**
 * The cancellation of a run: an outcome with a place in the history, where a replay cancels it too. No operation asks for it; it
 * interrupts the body, as `Fiber.interrupt` would.
 */
import type * as Effect from "effect/Effect"
import type { StepRow } from "../StepStore.js"
import type { CancelReason } from "./run.js"
import type { Sequencer } from "./sequencer.js"
import { cancelKind } from "./sequencer.js"

/** What has to be known of a run. */
interface Cancellable {
  readonly identity: { readonly cancelled: boolean; readonly epoch: number }
  readonly household: { readonly fork: (effect: Effect.Effect<void>) => void }
  readonly sequencer: Sequencer
  /** The body has ended. */
  readonly concluding: boolean
  readonly now: () => number
  readonly keyOf: (address: string) => string
  readonly record: (row: Omit<StepRow, "position" | "final">) => Effect.Effect<void>
  readonly interruptBody: () => void
}

export class Cancellation {
  /** What the body has been told. */
  told: CancelReason | null = null
  /** It is in the history, or on its way there. */
  isRecorded = false
  /** It is on its way there: the body will be told. */
  isUnderWay = false
  private reason: CancelReason | null

  private readonly run: Cancellable

  constructor(run: Cancellable) {
    this.run = run
    this.reason = run.identity.cancelled ? "cancelled" : null
  }

  /** Cancels the run, if nothing has before. */
  ask(reason: CancelReason): void {
    this.reason = this.reason ?? reason
    if (!this.run.sequencer.ahead) {
      this.isNext()
    }
  }

  /** Nothing recorded is ahead: answers whether the body is about to be told, so that nothing begins before that. */
  isNext(): boolean {
    if (this.reason === null || this.run.concluding || this.told !== null) {
      return false
    }
    if (!this.isRecorded) {
      this.isRecorded = true
      this.isUnderWay = true
      this.run.household.fork(this.run.record(this.rowOf(this.reason)))
    }
    return true
  }

  /** Tells the body; of one that has ended, it is void. */
  hand(record: StepRow): void {
    this.isRecorded = true
    this.isUnderWay = false
    if (!this.run.concluding) {
      this.told = record.stepId === "deadline" ? "deadline" : "cancelled"
      this.run.sequencer.cause(() => this.run.interruptBody())
    }
  }

  private rowOf(reason: CancelReason) {
    const at = this.run.now()
    return {
      stepKey: this.run.keyOf(cancelKind),
      stepId: reason,
      kind: cancelKind,
      sequence: -1,
      status: "COMPLETED",
      attempt: 1,
      epoch: this.run.identity.epoch,
      startedAt: at,
      updatedAt: at,
      // It depends on nothing, and nothing that was asked for follows it.
      askedAfter: -1,
      fingerprint: null,
      output: null,
      errorTag: null,
      error: null
    } as const
  }
}
