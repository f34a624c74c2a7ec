/**
 * The one door through which the live runs of a process write.
 *
 * One fiber takes what is waiting and commits it in one transaction; each waiting run goes on when its batch is durable. A
 * thousand runs share an fsync, and a run alone waits for no timer. Group commit as databases do it (DeWitt et al. 1984).
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as MutableList from "effect/MutableList"
import type * as Scope from "effect/Scope"
import { type StoreError, StoreUnavailable } from "../Errors.js"
import type { CommitAnswer, RunUpdate, StepRow, StepStore } from "../StepStore.js"
import type { FaultPointsShape } from "./faultPoints.js"
import { nextTurn } from "./scheduler.js"

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

interface Group {
  update: RunUpdate
  readonly entries: Array<Entry>
}

interface Jot {
  readonly update: RunUpdate
  readonly since: number
}

/** Errors that pass by themselves: what failed may be tried again as it is. */
export const isTransient = (error: StoreError): boolean =>
  error._tag === "StoreBusy" || error._tag === "StoreFull" || error._tag === "StoreReadOnly" ||
  error._tag === "StoreUnavailable"

/** The answer to whoever still asks an engine whose layer has been closed. */
export const engineClosed = (target: string) =>
  new StoreUnavailable({ target, detail: "the layer of the engine that speaks to it has been closed" })

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
  reopen: [],
  steps: [],
  attempts: [],
  signals: [],
  takes: [],
  gives: [],
  children: [],
  tells: []
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
const canMerge = (first: RunUpdate, second: RunUpdate): boolean =>
  ofOneLife(first, second) && !isContested(first) && !isContested(second)

const merge = (first: RunUpdate, second: RunUpdate): RunUpdate => ({
  ...first,
  patch: second.patch ?? first.patch,
  steps: lastOfEach([...first.steps, ...second.steps]),
  attempts: [...first.attempts, ...second.attempts],
  signals: [...first.signals, ...second.signals],
  takes: [...first.takes, ...second.takes],
  gives: [...first.gives, ...second.gives],
  children: [...first.children, ...second.children],
  tells: [...first.tells, ...second.tells]
})

export class Journal {
  private readonly queue = MutableList.empty<Entry>()
  private characters = 0
  private readonly outside = new Set<() => void>()
  /** By run, and in it by step key. */
  private readonly jots = new Map<string, Map<string, Jot>>()
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
      yield* Effect.forkScoped(Effect.withTracerEnabled(Effect.forever(journal.turn), false))
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
  jot(update: RunUpdate, row: StepRow): void {
    let rows = this.jots.get(update.workflowId)
    if (rows === undefined) {
      rows = new Map()
      this.jots.set(update.workflowId, rows)
    }
    rows.set(row.stepKey, { update: { ...update, steps: [row] }, since: this.round })
    this.waitingForJots?.()
  }

  /** Hands an update over at once. */
  enqueue(entry: Entry): void {
    if (this.closed) {
      entry.done(Exit.fail(engineClosed(this.store.target)))
      return
    }
    MutableList.append(this.queue, entry)
    this.characters += weigh(entry.update)
    const rows = this.jots.get(entry.update.workflowId)
    for (const step of entry.update.steps) {
      rows?.delete(step.stepKey)
    }
    this.wake()
  }

  private close() {
    this.closed = true
    for (const entry of this.queue) {
      entry.done(Exit.fail(engineClosed(this.store.target)))
    }
    MutableList.reset(this.queue)
  }

  /** The writer is woken in the next turn of the event loop: others get theirs, and join the batch. */
  private wake() {
    const waiting = this.waiting
    if (waiting !== null) {
      this.waiting = null
      nextTurn(waiting)
    }
  }

  private readonly turn = Effect.suspend(() =>
    Effect.zipRight(
      Effect.async<void>((resume) => {
        this.waiting = () => resume(Effect.void)
        if (!MutableList.isEmpty(this.queue)) {
          this.wake()
        }
      }),
      // What has been taken is either written and acknowledged, or neither.
      Effect.uninterruptible(Effect.suspend(() => this.flush(this.take())))
    )
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

  private take(): ReadonlyArray<Group> {
    const groups = new Map<string, Group>()
    let rows = 0
    let characters = 0
    for (let entry = MutableList.head(this.queue); entry !== undefined; entry = MutableList.head(this.queue)) {
      const weight = weigh(entry.update)
      const group = groups.get(entry.update.workflowId)
      if (
        (rows > 0 && (rows + rowsOf(entry.update) > maxRows || characters + weight > maxCharacters)) ||
        (group !== undefined && !canMerge(group.update, entry.update))
      ) {
        break
      }
      MutableList.shift(this.queue)
      this.characters -= weight
      if (entry.cancelled()) {
        continue
      }
      rows += rowsOf(entry.update)
      characters += weight
      if (group === undefined) {
        groups.set(entry.update.workflowId, { update: this.withJots(entry.update), entries: [entry] })
      } else {
        group.update = merge(group.update, entry.update)
        group.entries.push(entry)
      }
    }
    this.takeOldJots(groups)
    this.makeRoom()
    return [...groups.values()]
  }

  private withJots(update: RunUpdate): RunUpdate {
    const rows = this.jots.get(update.workflowId)
    if (rows === undefined || isContested(update)) {
      return update
    }
    this.jots.delete(update.workflowId)
    let merged = update
    for (const jot of rows.values()) {
      // A row of an earlier life or generation of the run is not written under the name of the present one.
      if (ofOneLife(jot.update, update)) {
        merged = merge(jot.update, merged)
      }
    }
    return merged
  }

  private takeOldJots(groups: Map<string, Group>) {
    for (const [workflowId, rows] of this.jots) {
      // What is in the batch already has its rows with it, or must do without them.
      if (groups.has(workflowId)) {
        continue
      }
      for (const [key, jot] of rows) {
        if (jot.since < this.round && groups.size < maxRows) {
          rows.delete(key)
          const group = groups.get(workflowId)
          if (group === undefined) {
            groups.set(workflowId, { update: jot.update, entries: [] })
          } else if (canMerge(group.update, jot.update)) {
            group.update = merge(jot.update, group.update)
          }
        }
      }
      if (rows.size === 0) {
        this.jots.delete(workflowId)
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

  private flush(groups: ReadonlyArray<Group>): Effect.Effect<void> {
    if (groups.length === 0) {
      return Effect.void
    }
    return Effect.flatMap(
      Effect.exit(this.commit(groups)),
      Exit.match({
        onSuccess: (answers) => tellAll(groups, (i) => Exit.succeed(answers[i]!)),
        onFailure: (cause) => {
          // Split a batch that holds something unacceptable: only the run that it belongs to is told.
          const passing = cause._tag === "Fail" && isTransient(cause.error)
          return groups.length === 1 || passing
            ? tellAll(groups, () => Exit.failCause(cause))
            : Effect.forEach(groups, (group) => this.flush([group]), { discard: true })
        }
      })
    )
  }

  private commit(groups: ReadonlyArray<Group>) {
    const commit = this.store.commit(groups.map((group) => group.update))
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
  groups: ReadonlyArray<Group>,
  resultOf: (i: number) => Exit.Exit<CommitAnswer, StoreError>,
  from = 0
): Effect.Effect<void> =>
  Effect.suspend(() => {
    const to = from + toldInATurn
    groups.slice(from, to).forEach((group, i) => tell(group, resultOf(from + i)))
    return to < groups.length ? Effect.zipRight(turn, tellAll(groups, resultOf, to)) : Effect.void
  })

const turn = Effect.async<void>((resume) => nextTurn(() => resume(Effect.void)))

const tell = (group: Group, result: Exit.Exit<CommitAnswer, StoreError>) => {
  for (const entry of group.entries) {
    entry.done(result)
  }
}
