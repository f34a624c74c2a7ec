/**
 * What hands recorded outcomes to the body of a run: one at a time, in the order of recording, each after the body has come
 * to rest. Live and in replay alike, so that what branches share (a `Ref`, a `Queue`, a race) comes out the same.
 *
 * The idea of a deterministic single-threaded scheduler for replay is that of Temporal's workflow dispatcher; handing over
 * one outcome at rest, live too, is what makes records of decisions unnecessary here.
 */
import * as Effect from "effect/Effect"
import type { Operation } from "../Errors.js"
import type { StepRow } from "../StepStore.js"
import { Few } from "./few.js"
import { nextTurn, RunScheduler } from "./scheduler.js"

/** A fiber of the body that waits for the outcome of an operation. */
export interface Wait {
  readonly operation: Operation
  /** Continues the fiber with what the record says. */
  readonly answer: (record: StepRow) => void
  /** Continues the fiber with an effect that does not come back. */
  readonly release: () => void
  /** Starts the operation, because nothing is recorded of it. */
  readonly begin: () => void
  /** What it was recorded with comes to nobody: the fiber has stopped waiting. */
  readonly voided: (record: StepRow) => void
}

/**
 * A fiber of the body that asks what is recorded at its place, before it goes on. It is answered at rest, ahead of every outcome,
 * so that it goes on in the same order whether the answer is known at once or has to be read.
 */
export interface Question {
  readonly look: () => Look
  /** Continues the fiber with an effect that does not come back. */
  readonly release: () => void
}

/**
 * What continues a fiber that asks. Or why nothing does: `Unknown` if the answer is being read, before which nothing else goes on;
 * `Held` if another fiber has to go on first.
 */
export type Look = (() => void) | "Unknown" | "Held"

/** A fiber of the body that was interrupted while it waited, and goes on when the operation has let go. */
interface Cut {
  readonly resume: () => void
  readonly release: () => void
  ended: boolean
}

/** What the sequencer needs of those around it. */
export interface Surroundings {
  /** Loads the records after a position, and hands them to {@link Sequencer.load}. */
  readonly loadAfter: (position: number) => void
  /** Calls back after a time, unless the returned function is called first. */
  readonly after: (millis: number, callback: () => void) => () => void
  /** Another operation was recorded, or none was requested. */
  readonly onMismatch: (recorded: Operation, requested: Operation | null) => void
  /** Something from outside woke a body with several branches. */
  readonly onForeign: () => void
  /** The body waits for what nothing recorded can bring. */
  readonly onDeadlock: () => void
  /** The body rests, and waits for operations that have begun. */
  readonly onRest: () => void
  /** Nothing recorded is ahead: answers whether something else comes before the operations that would begin now. */
  readonly onFrontier: () => boolean
  /** The run was cancelled here. */
  readonly onCancel: (record: StepRow) => void
  /** Whether a record is on its way that the body has not been handed. */
  readonly isRecording: () => boolean
  readonly unrequestedAfter: number
  readonly deadlockAfter: number
}

/** The record of a cancellation: no operation asks for it. */
export const cancelKind = "cancel"

/** How many of the operations answered last are kept, to be shown beside a mismatch. */
const kept = 8

/** Outcomes handed over in one turn of the event loop, so that a long replay lets others work. */
const handedInATurn = 64

const sameOperation = (recorded: StepRow, requested: Operation) =>
  recorded.kind === requested.kind &&
  recorded.stepId === requested.id &&
  recorded.fingerprint === requested.fingerprint

/** The address is what follows the last colon of a key, and the generation if there is one: `wf-123:0`, `wf-123:1#0`. */
export const addressOf = (stepKey: string): string =>
  stepKey.slice(Math.max(stepKey.lastIndexOf(":"), stepKey.lastIndexOf("#")) + 1)

/** The position of a record; a row that answers a replay always has one. */
export const positionOf = (record: Pick<StepRow, "position">): number => record.position as number

/** The operation that a row is the record of. */
export const operationOf = (row: StepRow): Operation => ({
  address: addressOf(row.stepKey),
  kind: row.kind,
  id: row.stepId,
  fingerprint: row.fingerprint
})

export class Sequencer {
  readonly scheduler = new RunScheduler(() => this.settle(), () => this.foreign())
  /** Answered last, oldest first. */
  readonly agreed: Array<Operation> = []
  /** How many outcomes the body has been handed, and the position of the last of them. */
  handed = 0
  handedPosition = -1
  /** When the latest of the outcomes handed to the body was recorded, in epoch milliseconds. */
  handedAt = 0
  /** Branches that have begun and not ended, and those among them within which no other has begun. */
  private branches = 0
  private leaves = 0
  private readonly waits = new Few<string, Wait>()
  private readonly questions = new Few<Question, Question>()
  /** Operations whose waiting fiber is gone: their outcomes are void. */
  private readonly voided = new Few<string, Wait>()
  private readonly cuts: Array<Cut> = []
  /** Recorded, and not handed over yet from `next` on. */
  private records: Array<StepRow> = []
  private next = 0
  lastPosition = -1
  more = true
  private loading = false
  private readonly unbegun = new Few<string, Wait>()
  /** Who waits until nothing is ahead that comes to nobody. */
  private drained: (() => void) | null = null
  private started = false
  private turning = false
  private handing = false
  private closed = false
  private cancelAlarm: (() => void) | null = null
  /** How much had stirred when the body last came to rest with nothing to wait for that is known here. */
  private stranded = -1
  /** The body is ending because the run leaves. */
  private released = false

  private readonly around: Surroundings

  constructor(around: Surroundings) {
    this.around = around
  }

  /** A branch begins, and may wake others from now on; `nested` says that the branch around it was a leaf until now. */
  enter(nested: boolean): void {
    this.branches++
    if (!nested) {
      this.leaves++
    }
  }

  leave(nested: boolean): void {
    this.branches--
    if (!nested) {
      this.leaves--
    }
  }

  /** The body begins; the first records are there. */
  start(begin: () => void): void {
    this.started = true
    this.cause(begin)
  }

  /** The next records; `more` says whether there are others after them. */
  load(records: ReadonlyArray<StepRow>, more: boolean): void {
    this.loading = false
    this.more = more
    this.append(records)
    this.settle()
  }

  /** An operation has been recorded just now. */
  recorded(row: StepRow): void {
    this.append([row])
    this.settle()
  }

  private append(rows: ReadonlyArray<StepRow>) {
    if (this.next === this.records.length) {
      this.forget()
    }
    for (const row of rows) {
      this.records.push(row)
      this.lastPosition = positionOf(row)
    }
  }

  private forget() {
    this.records = []
    this.next = 0
  }

  /**
   * A fiber of the body asks for the outcome of an operation. The operation begins when the body is at rest and nothing
   * recorded is ahead: what the body itself cuts before it rests begins neither live nor in replay.
   */
  ask(wait: Wait): void {
    this.waits.set(wait.operation.address, wait)
    this.unbegun.set(wait.operation.address, wait)
  }

  /** A fiber of the body asks what is recorded. */
  inquire(question: Question): void {
    this.questions.set(question, question)
  }

  /** The fiber that asked was interrupted. */
  withdraw(question: Question): void {
    this.questions.delete(question)
  }

  /**
   * The fiber that waited was interrupted. It goes on in its turn, when the operation has let go and the body is at rest:
   * how long the letting go takes must not be seen by the body.
   */
  cut(wait: Wait, resume: () => void, release: () => void): { readonly ended: () => void } {
    this.waits.delete(wait.operation.address)
    this.unbegun.delete(wait.operation.address)
    this.voided.set(wait.operation.address, wait)
    const cut: Cut = { resume, release, ended: false }
    this.cuts.push(cut)
    return {
      ended: () => {
        cut.ended = true
        this.settle()
      }
    }
  }

  /** Calls back, as a wake-up of the body, when every outcome that comes to nobody has been passed over. */
  drain(callback: () => void): void {
    this.drained = callback
    this.settle()
  }

  /** Wakes the body on behalf of the engine. */
  cause(wake: () => void): void {
    this.scheduler.cause(wake)
  }

  /** Outcomes are recorded that the body has not been handed yet, as far as is known. */
  get ahead(): boolean {
    return this.more || this.next < this.records.length
  }

  /** How many operations the body waits for; none can be told if it has stopped waiting for one that has not let go. */
  get waiting(): number | null {
    return this.cuts.length > 0 || this.questions.size > 0 || this.ahead || !this.scheduler.idle
      ? null
      : this.waits.size
  }

  /** Something of the body goes on, or it waits for what neither a record nor a time brings. */
  get restless(): boolean {
    return this.released || this.turning || !this.scheduler.idle || this.stranded === this.scheduler.stirred
  }

  /** The outcomes that the body has not been handed yet, as far as they are loaded. */
  get upcoming(): ReadonlyArray<StepRow> {
    return this.records.slice(this.next)
  }

  /** The recorded outcome that the body, which has ended, never asked for. */
  get unread(): Operation | null {
    for (let i = this.next; i < this.records.length; i++) {
      const operation = operationOf(this.records[i]!)
      if (
        operation.kind !== cancelKind && this.voided.get(operation.address) === undefined &&
        this.waits.get(operation.address) === undefined
      ) {
        return operation
      }
    }
    return null
  }

  /** No outcome is handed over any more. */
  close(): void {
    this.closed = true
    this.cancelAlarm?.()
    this.cancelAlarm = null
  }

  /** Continues every waiting fiber with an effect that does not come back. */
  releaseAll(): void {
    this.released = true
    const waiting = [...this.waits.takeAll(), ...this.questions.takeAll(), ...this.cuts]
    this.cuts.length = 0
    this.unbegun.takeAll()
    for (const wait of waiting) {
      wait.release()
    }
  }

  private foreign() {
    // With one line of control that waits for nothing else, the wake-up can come at one place only.
    if (!this.closed && (this.leaves > 1 || (this.branches > 1 && this.waits.size + this.questions.size > 0))) {
      this.around.onForeign()
    }
  }

  /**
   * Looks whether there is something to hand over. With one branch the body is at rest when nothing of it is left to run;
   * with several, after a further turn of the event loop, in which a wake-up from outside would show itself.
   */
  settle(): void {
    if (!this.started || this.closed || this.handing || !this.scheduler.idle) {
      return
    }
    if (this.branches > 1) {
      this.later()
    } else {
      this.handAll()
    }
  }

  private later() {
    if (!this.turning) {
      this.turning = true
      nextTurn(() => {
        this.turning = false
        if (!this.closed && this.scheduler.idle) {
          this.handAll()
        }
      })
    }
  }

  private handAll() {
    this.handing = true
    let budget = handedInATurn
    while (!this.closed && this.scheduler.idle && this.handOne()) {
      if (this.branches > 1 || --budget === 0) {
        this.handing = false
        this.later()
        return
      }
    }
    this.handing = false
  }

  private handOne(): boolean {
    for (const question of this.questions.values()) {
      const look = question.look()
      if (look === "Unknown") {
        return false
      }
      if (look !== "Held") {
        this.questions.delete(question)
        this.cause(look)
        return true
      }
    }
    const cut = this.cuts[0]
    if (cut !== undefined) {
      if (cut.ended) {
        this.cuts.shift()
        this.cause(cut.resume)
      }
      return cut.ended
    }
    const record = this.records[this.next]
    return record === undefined ? this.handNothing() : this.handRecord(record)
  }

  private handRecord(record: StepRow): boolean {
    const recorded = operationOf(record)
    if (record.kind === cancelKind) {
      this.hand(record, recorded)
      this.around.onCancel(record)
      return true
    }
    const wait = this.waits.get(recorded.address)
    if (wait !== undefined) {
      if (!sameOperation(record, wait.operation)) {
        this.around.onMismatch(recorded, wait.operation)
        return false
      }
      this.waits.delete(recorded.address)
      this.unbegun.delete(recorded.address)
      this.hand(record, recorded)
      this.cause(() => wait.answer(record))
      return true
    }
    const gone = this.voided.get(recorded.address)
    if (gone !== undefined) {
      this.next++
      this.voided.delete(recorded.address)
      gone.voided(record)
      return true
    }
    if (this.drained !== null) {
      return this.handDrained(this.drained)
    }
    this.alarm(this.around.unrequestedAfter, () => this.around.onMismatch(recorded, this.firstUnbegun))
    return false
  }

  private handDrained(drained: () => void): true {
    this.drained = null
    this.cause(drained)
    return true
  }

  private hand(record: StepRow, operation: Operation) {
    this.next++
    this.agree(operation)
    this.handedPosition = positionOf(record)
    this.handedAt = Math.max(this.handedAt, record.updatedAt)
  }

  /** Nothing is recorded beyond this point, as far as is known. */
  private handNothing(): boolean {
    if (this.more) {
      if (!this.loading) {
        this.loading = true
        // What was handed over must not be there beside what comes next.
        this.forget()
        this.around.loadAfter(this.lastPosition)
        return !this.loading
      }
      return false
    }
    if (this.drained !== null) {
      return !this.around.isRecording() && this.handDrained(this.drained)
    }
    if (this.around.onFrontier()) {
      return false
    }
    for (const wait of this.unbegun.takeAll()) {
      wait.begin()
    }
    if (this.waits.size === 0) {
      this.alarm(this.around.deadlockAfter, this.around.onDeadlock)
    } else {
      this.around.onRest()
    }
    return false
  }

  private get firstUnbegun(): Operation | null {
    return this.unbegun.values()[0]?.operation ?? null
  }

  private agree(operation: Operation) {
    this.handed++
    this.agreed.push(operation)
    if (this.agreed.length > kept) {
      this.agreed.shift()
    }
  }

  /** Calls back after a time in which nothing in the body has stirred. */
  private alarm(millis: number, callback: () => void) {
    this.stranded = this.scheduler.stirred
    if (this.cancelAlarm === null) {
      const stirred = this.scheduler.stirred
      this.cancelAlarm = this.around.after(millis, () => {
        this.cancelAlarm = null
        if (this.scheduler.stirred === stirred) {
          callback()
        } else {
          this.settle()
        }
      })
    }
  }
}

/** Suspends for good, without keeping the process alive as `Effect.never` does. */
export const never: Effect.Effect<never> = Effect.async<never>(() => {})
