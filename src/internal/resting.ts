/** When a run rests: everything in it waits for what the store or the time will bring, so it may leave memory. */
import * as Option from "effect/Option"
import type { After } from "./alarm.js"
import type { AwaitedChildren } from "./awaited.js"
import { Few } from "./few.js"
import type { Mailbox } from "./mailbox.js"
import { nextTurn } from "./scheduler.js"
import type { Sequencer } from "./sequencer.js"

/** What a run waits for: when it goes on by itself, `null` if it does not. */
type WakeAt = number | null

/** What has to be known of a run. */
interface Rester {
  readonly identity: { readonly parks: boolean; readonly deadlineAt: number | null }
  readonly household: { readonly after: After; readonly parkGrace: number; readonly crowded: () => boolean }
  readonly sequencer: Sequencer
  readonly mailbox: Mailbox
  readonly children: AwaitedChildren
  readonly cancellation: { readonly isRecorded: boolean; readonly isUnderWay: boolean }
  readonly closed: boolean
  readonly now: () => number
  readonly finish: (
    ending: { readonly _tag: "Parked"; readonly wakeAt: WakeAt; readonly inbox: number }
  ) => void
}

/** In the next turn of the event loop, whatever the time. */
const soon: After = (_, callback) => {
  let stopped = false
  nextTurn(() => stopped || callback())
  return () => {
    stopped = true
  }
}

export class Resting {
  /** What the body waits for and nothing in this process is needed for, by address, with the time at which it is due. */
  private readonly waits = new Few<string, number | null>()
  private stopTimer: (() => void) | null = null

  private readonly run: Rester

  constructor(run: Rester) {
    this.run = run
  }

  add(address: string, due: number | null): void {
    this.waits.set(address, due)
    this.look()
  }

  remove(address: string): void {
    this.waits.delete(address)
  }

  /** The run leaves memory. */
  close(): void {
    this.stopTimer?.()
  }

  /** When the run goes on by itself; none if something of it is under way, or it waits for something else. */
  private get wakeAt(): Option.Option<WakeAt> {
    const { cancellation, closed, identity, mailbox, sequencer } = this.run
    const { waits } = this
    const isTold = !mailbox.busy && !cancellation.isUnderWay
    if (!identity.parks || closed || !isTold || waits.size === 0 || sequencer.waiting !== waits.size) {
      return Option.none()
    }
    let wakeAt = cancellation.isRecorded ? null : identity.deadlineAt
    for (const due of waits.values()) {
      wakeAt = due === null ? wakeAt : Math.min(due, wakeAt ?? due)
    }
    return Option.some(wakeAt)
  }

  /** Others wait for a place in memory: the rest of the grace, which would only save reading the run again, is over. */
  hurry(): void {
    if (this.stopTimer !== null) {
      this.stopTimer()
      this.stopTimer = null
      this.look()
    }
  }

  /**
   * If the run rests for the whole grace, and for some time after it, it leaves memory. Where others wait for its place it leaves in
   * the next turn, and not in this one, in which the body has just come to rest. Who waits for children keeps the grace: they may be
   * those others, and their ends will wake it.
   */
  look(): void {
    const { children, household: { after, crowded, parkGrace }, sequencer: { scheduler } } = this.run
    const isLong = (wakeAt: WakeAt) => wakeAt === null || wakeAt > this.run.now() + parkGrace
    if (this.stopTimer !== null || !Option.exists(this.wakeAt, isLong)) {
      return
    }
    const { stirred } = scheduler
    this.stopTimer = (crowded() && !children.any ? soon : after)(parkGrace, () => {
      this.stopTimer = null
      this.leave(stirred)
    })
  }

  /** Leaves if nothing has stirred since, and the end of no child may have been missed. */
  private leave(stirred: number) {
    const { children, mailbox, sequencer } = this.run
    const wakeAt = Option.getOrUndefined(this.wakeAt)
    if (wakeAt === undefined || sequencer.scheduler.stirred !== stirred) {
      this.look()
    } else if (children.isBehind(mailbox.seen)) {
      children.look(mailbox.seen, () => this.leave(stirred))
    } else {
      this.run.finish({ _tag: "Parked", wakeAt, inbox: mailbox.seen })
    }
  }
}
