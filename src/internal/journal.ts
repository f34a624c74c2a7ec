/**
 * The one door through which the live runs of a process write.
 *
 * One fiber takes what is waiting and commits it in one transaction; each waiting run goes on when its batch is durable. A
 * thousand runs share an fsync, and a run alone waits for no timer. Group commit as databases do it (DeWitt et al. 1984).
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { type StoreError, StoreUnavailable } from "../Errors.js"
import type { CommitAnswer, RunPatch, RunUpdate, StepRow, StepStore } from "../StepStore.js"
import type { FaultPointsShape } from "./faultPoints.js"
import { nextTurn, turn } from "./scheduler.js"

/** A batch holds at most this many rows. */
const maxRows = 1_000

/** A batch holds at most this many characters of payload, unless a single update has more. */
const maxCharacters = 4 * 1024 * 1024

/** Whoever wants to write waits while this many characters are waiting already. */
const maxWaiting = 64 * 1024 * 1024

/** What an update weighs beside its payload. */
const overhead = 256

/** A row that nobody waits for is written after this time at the latest. */
const jotMillis = 5

/** An update, and whom to tell what became of it. */
export interface Entry {
  readonly update: RunUpdate
  /** Asked before the update is written: nobody wants it any more. */
  readonly cancelled: () => boolean
  readonly done: (result: Exit.Exit<CommitAnswer, StoreError>) => void
}

/** What a batch holds of one run, gathered first and put together once: a thousand updates of a run cost a thousand times one. */
interface Group {
  readonly first: RunUpdate
  readonly isContested: boolean
  readonly entries: Array<Entry>
  /** Rows that nobody waits for. */
  readonly jotted: Array<StepRow>
}

/** What is written of one run, and whom to tell. */
interface Part {
  readonly update: RunUpdate
  readonly entries: ReadonlyArray<Entry>
}

/** A row that nobody waits for, of a life of a run that an update without changes names. */
interface Jot {
  readonly life: RunUpdate
  readonly row: StepRow
  readonly since: number
}

/** Errors that pass by themselves: what failed may be tried again as it is. */
export const isTransient = (error: StoreError): boolean =>
  error._tag === "StoreBusy" || error._tag === "StoreFull" || error._tag === "StoreReadOnly" ||
  error._tag === "StoreUnavailable"

/** The answer to whoever still asks an engine whose layer has been closed. */
export const engineClosed = (target: string) =>
  new StoreUnavailable({ target, detail: "the layer of the engine that speaks to it has been closed" })

const none: ReadonlyArray<never> = []

/** An update that changes nothing yet. */
export const emptyUpdate = (
  run: { readonly workflowId: string; readonly generation: number; readonly epoch: number | null }
): RunUpdate => ({
  workflowId: run.workflowId,
  generation: run.generation,
  epoch: run.epoch,
  inbox: null,
  insert: null,
  patch: null,
  next: null,
  cancelAt: null,
  reopen: none,
  steps: none,
  attempts: none,
  signals: none,
  takes: none,
  gives: none,
  children: none,
  tells: none
})

const textLength = (text: string | null | undefined) => text?.length ?? 0

const weigh = (update: RunUpdate): number => {
  let characters = overhead + textLength(update.insert?.payload) + textLength(update.patch?.outcome)
  for (const step of update.steps) {
    characters += overhead + textLength(step.output) + textLength(step.error)
  }
  for (const attempt of update.attempts) {
    characters += overhead + textLength(attempt.error)
  }
  for (const signal of update.signals) {
    characters += overhead + textLength(signal.value)
  }
  for (const child of update.children) {
    characters += overhead + textLength(child.insert.payload)
  }
  return characters + textLength(update.next?.payload)
}

const rowsOf = (update: RunUpdate): number =>
  Math.max(1, update.steps.length + update.attempts.length + update.children.length)

/** A later row of a key replaces an earlier one: only the last is written. */
const lastOfEach = (rows: ReadonlyArray<StepRow>): ReadonlyArray<StepRow> =>
  rows.length < 2 ? rows : [...new Map(rows.map((row) => [row.stepKey, row])).values()]

/** Whether an update may turn out to be in vain, because of what others have done, or ends what was merged with it. */
const isContested = (update: RunUpdate): boolean =>
  update.epoch === null || update.inbox !== null || update.insert !== null || update.next !== null ||
  update.reopen.length > 0

/** An update names one generation and one epoch, and its rows are those of no other. */
const ofOneLife = (first: RunUpdate, second: RunUpdate): boolean =>
  first.epoch === second.epoch && first.generation === second.generation

/** What may be in vain stands alone, so that its answer is not that of another update. */
const canJoin = (group: Group, update: RunUpdate): boolean =>
  !group.isContested && ofOneLife(group.first, update) && !isContested(update)

/** Rows that nobody waits for come first: an outcome is written after what led to it. */
const partOf = ({ entries, first, jotted }: Group): Part => {
  if (jotted.length === 0 && entries.length === 1) {
    return { update: first, entries }
  }
  const updates = entries.map((entry) => entry.update)
  const steps = updates.flatMap((update) => update.steps)
  return {
    entries,
    update: {
      ...first,
      patch: updates.reduce((patch: RunPatch | null, update) => update.patch ?? patch, null),
      steps: lastOfEach([...jotted.reverse(), ...steps]),
      attempts: updates.flatMap((update) => update.attempts),
      signals: updates.flatMap((update) => update.signals),
      takes: updates.flatMap((update) => update.takes),
      gives: updates.flatMap((update) => update.gives),
      children: updates.flatMap((update) => update.children),
      tells: updates.flatMap((update) => update.tells)
    }
  }
}

export class Journal {
  /**
   * An array and no linked list: a node that has been taken out still names the next one, and once it is among V8's old objects
   * it keeps all that come after it from being collected cheaply. That was half of the time of a thousand runs.
   */
  private queue: Array<Entry> = []
  private characters = 0
  private readonly outside = new Set<() => void>()
  /** By step key. Most are gone a moment later, without having been written: a short step ends before the next batch. */
  private readonly jots = new Map<string, Jot>()
  /** How often the timer of the jots has fired. It, and not the time, says which are old: a clock may be set back. */
  private round = 0
  private closed = false
  private waiting: (() => void) | null = null
  private waitingForJots: (() => void) | null = null

  private readonly store: StepStore["Type"]
  private readonly faults: FaultPointsShape

  private constructor(store: StepStore["Type"], faults: FaultPointsShape) {
    this.store = store
    this.faults = faults
  }

  /**
   * A journal that writes until the scope closes. Whoever closes it has waited for what must be written; what comes later is
   * told so.
   */
  static readonly make = (
    store: StepStore["Type"],
    faults: FaultPointsShape
  ): Effect.Effect<Journal, never, Scope.Scope> =>
    Effect.gen(function*() {
      const journal = new Journal(store, faults)
      yield* Effect.addFinalizer(() => Effect.sync(() => journal.close()))
      yield* Effect.forkScoped(Effect.withTracerEnabled(journal.turns, false))
      yield* Effect.forkScoped(Effect.withTracerEnabled(Effect.forever(journal.jotTimer), false))
      return journal
    })

  /** Hands an update over, as soon as there is room for it. */
  offer(entry: Entry): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.characters < maxWaiting) {
        this.enqueue(entry)
        return Effect.void
      }
      return Effect.async<void>((resume) => {
        const enter = () => {
          this.enqueue(entry)
          resume(Effect.void)
        }
        this.outside.add(enter)
        return Effect.sync(() => this.outside.delete(enter))
      })
    })
  }

  /** Writes an update and waits until it is durable. */
  write(update: RunUpdate): Effect.Effect<CommitAnswer, StoreError> {
    return Effect.async((resume) => {
      this.enqueue({ update, cancelled: () => false, done: resume })
    })
  }

  /** Notes a row that nobody waits for: it goes with the next update of its run, or after a few milliseconds. */
  jot(life: RunUpdate, row: StepRow): void {
    this.jots.set(row.stepKey, { life, row, since: this.round })
    this.waitingForJots?.()
  }

  /** Hands an update over at once. */
  enqueue(entry: Entry): void {
    if (this.closed) {
      entry.done(Exit.fail(engineClosed(this.store.target)))
      return
    }
    this.queue.push(entry)
    this.characters += weigh(entry.update)
    for (const step of entry.update.steps) {
      this.jots.delete(step.stepKey)
    }
    this.wake()
  }

  private close() {
    this.closed = true
    for (const entry of this.queue) {
      entry.done(Exit.fail(engineClosed(this.store.target)))
    }
    this.queue = []
  }

  /** The writer is woken in the next turn of the event loop: others get theirs, and join the batch. */
  private wake() {
    const waiting = this.waiting
    if (waiting !== null) {
      this.waiting = null
      nextTurn(waiting)
    }
  }

  // What has been taken is either written and acknowledged, or neither.
  private readonly turn: Effect.Effect<void> = Effect.uninterruptible(Effect.suspend(() => this.flush(this.take())))

  /** Without a yield between two of them: each waits for a turn of the event loop anyway. */
  private readonly turns: Effect.Effect<never> = Effect.flatMap(
    Effect.async<void>((resume) => {
      this.waiting = () => resume(this.turn)
      if (this.queue.length > 0) {
        this.wake()
      }
    }),
    () => this.turns
  )

  private readonly jotTimer = Effect.suspend(() =>
    Effect.async<void>((resume) => {
      this.waitingForJots = () => {
        this.waitingForJots = null
        resume(Effect.void)
      }
      if (this.jots.size > 0) {
        this.waitingForJots()
      }
    }).pipe(
      Effect.zipRight(Effect.sleep(jotMillis)),
      Effect.zipRight(Effect.sync(() => {
        this.round++
        this.wake()
      }))
    )
  )

  private take(): ReadonlyArray<Part> {
    const groups = new Map<string, Group>()
    let rows = 0
    let characters = 0
    let taken = 0
    for (const entry of this.queue) {
      const weight = weigh(entry.update)
      const group = groups.get(entry.update.workflowId)
      if (
        (rows > 0 && (rows + rowsOf(entry.update) > maxRows || characters + weight > maxCharacters)) ||
        (group !== undefined && !canJoin(group, entry.update))
      ) {
        break
      }
      taken++
      this.characters -= weight
      if (entry.cancelled()) {
        continue
      }
      rows += rowsOf(entry.update)
      characters += weight
      if (group === undefined) {
        const { update } = entry
        groups.set(update.workflowId, {
          first: update,
          isContested: isContested(update),
          entries: [entry],
          jotted: []
        })
      } else {
        group.entries.push(entry)
      }
    }
    this.queue.splice(0, taken)
    this.takeJots(groups)
    this.makeRoom()
    return Array.from(groups.values(), partOf)
  }

  /** A row that nobody waits for goes with what its run writes, or when it is old. */
  private takeJots(groups: Map<string, Group>) {
    let rows = 0
    for (const [key, { life, row, since }] of this.jots) {
      const group = groups.get(life.workflowId)
      const isDue = group === undefined || group.entries.length === 0 ? since < this.round : !group.isContested
      if (isDue && rows < maxRows) {
        rows++
        this.jots.delete(key)
        if (group === undefined) {
          groups.set(life.workflowId, { first: life, isContested: false, entries: [], jotted: [row] })
        } else if (ofOneLife(group.first, life)) {
          // One of an earlier life or generation of the run is not written under the name of the present one.
          group.jotted.push(row)
        }
      }
    }
  }

  private makeRoom() {
    for (const enter of this.outside) {
      if (this.characters < maxWaiting) {
        this.outside.delete(enter)
        enter()
      }
    }
  }

  private flush(parts: ReadonlyArray<Part>): Effect.Effect<void> {
    if (parts.length === 0) {
      return Effect.void
    }
    return Effect.matchCauseEffect(this.commit(parts), {
      onSuccess: (answers) => tellAll(parts, (i) => Exit.succeed(answers[i]!)),
      onFailure: (cause) => {
        // Split a batch that holds something unacceptable: only the run that it belongs to is told.
        const passing = cause._tag === "Fail" && isTransient(cause.error)
        return parts.length === 1 || passing
          ? tellAll(parts, () => Exit.failCause(cause))
          : Effect.forEach(parts, (part) => this.flush([part]), { discard: true })
      }
    })
  }

  private commit(parts: ReadonlyArray<Part>) {
    const commit = this.store.commit(parts.map((part) => part.update))
    return this.faults.active
      ? this.faults.at("before-commit", nobody).pipe(
        Effect.zipRight(commit),
        Effect.zipLeft(this.faults.at("after-commit", nobody))
      )
      : commit
  }
}

const nobody = () => {}

/** Runs told of in one turn of the event loop: each goes on at once, and timers and sockets have to get their turn. */
const toldInATurn = 32

const tellAll = (
  parts: ReadonlyArray<Part>,
  resultOf: (i: number) => Exit.Exit<CommitAnswer, StoreError>,
  from = 0
): Effect.Effect<void> => {
  const to = from + toldInATurn
  parts.slice(from, to).forEach((part, i) => tell(part, resultOf(from + i)))
  return to < parts.length ? Effect.flatMap(turn, () => tellAll(parts, resultOf, to)) : Effect.void
}

const tell = (part: Part, result: Exit.Exit<CommitAnswer, StoreError>) => {
  for (const entry of part.entries) {
    entry.done(result)
  }
}
