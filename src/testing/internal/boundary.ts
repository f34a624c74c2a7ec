/** Where a crash can come: at each commit, before and after it, and at the start of each step; and the store of a process that crashes. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { StoreUnavailable } from "../../Errors.js"
import type { FaultPointsShape } from "../../internal/faultPoints.js"
import { never } from "../../internal/sequencer.js"
import type { RunStatus, RunUpdate, StepRow } from "../../StepStore.js"
import type { Store } from "./life.js"

/** A place in the life of a process: the nth of its kind. */
export interface Boundary {
  readonly at: "before-commit" | "after-commit" | "step-started"
  readonly nth: number
}

const waits: Record<string, string> = {
  sleep: "a sleep",
  signal: "the wait for signal",
  answer: "the wait for the answer to a token of signal",
  token: "a token of signal",
  child: "child",
  start: "the start of child",
  await: "the wait for child",
  patch: "the marker of change",
  cancel: "the cancellation",
  compensation: "the compensation of step"
}

/** How a run has ended, in words. */
export const endWords = (
  { outcome, status }: { readonly status: string; readonly outcome: string | null }
): string => `${status} with ${outcome}`

/** An operation in words. */
export const operationWords = ({ id, kind }: { readonly kind: string; readonly id: string }): string =>
  kind === "sleep" || kind === "cancel" ? waits[kind]! : `${waits[kind] ?? kind} ${JSON.stringify(id)}`

const stepWords = ({ attempts }: RunUpdate) => ({ final, kind, status, stepId, stepKey }: StepRow) => {
  const what = operationWords({ kind, id: stepId })
  if (final) {
    return `the outcome of ${what}`
  }
  return attempts.some((row) => row.stepKey === stepKey)
    ? `an attempt at ${what}`
    : `the ${status === "IN_PROGRESS" ? "beginning" : "end"} of ${what}`
}

const statusWords: Partial<Record<RunStatus, string>> = {
  SUSPENDED: "that the run sleeps",
  PENDING: "that the run is given back",
  STOPPED: "that the run has stopped"
}

const updateWords = (update: RunUpdate): ReadonlyArray<string> => {
  const { insert, next, patch, steps, workflowId } = update
  return [
    ...(insert === null ? [] : [`the start of run ${JSON.stringify(workflowId)}`]),
    ...steps.map(stepWords(update)),
    ...(next === null ? [] : ["the beginning of the next generation"]),
    ...(patch === null ? [] : [statusWords[patch.status] ?? `the end of run ${JSON.stringify(workflowId)}`])
  ]
}

const batchWords = (batch: ReadonlyArray<RunUpdate>) => {
  const words = batch.flatMap(updateWords)
  return words.length === 0 ? "a change of the run" : words.join(" and ")
}

/** The store as a process sees it that is to crash at a boundary, or, without one, as any other sees it. */
export class Lifeline {
  /** Where the crash has come, in words. */
  reached: string | null = null
  readonly store: Store
  readonly faults: FaultPointsShape

  private commits = 0
  private steps = 0
  private readonly crashed: Deferred.Deferred<unknown>

  /**
   * @param crashed - done at the crash
   * @param onCommit - told what is written, and whether anybody has been told
   */
  constructor(
    real: Store,
    boundary: Boundary | null,
    crashed: Deferred.Deferred<unknown>,
    earlier: {
      readonly workers: Array<string>
      readonly onCommit: (batch: ReadonlyArray<RunUpdate>, told: boolean) => void
    }
  ) {
    this.crashed = crashed
    const reach = <A, E, R>(call: Effect.Effect<A, E, R>) =>
      Effect.suspend((): Effect.Effect<A, E | StoreUnavailable, R> => this.reached === null ? call : Effect.fail(lost))
    const commit: Store["commit"] = (batch) =>
      Effect.suspend(() => {
        this.commits++
        if (boundary === null || boundary.at === "step-started" || boundary.nth !== this.commits) {
          return Effect.tap(real.commit(batch), () => Effect.sync(() => earlier.onCommit(batch, true)))
        }
        if (boundary.at === "before-commit") {
          return this.crash(`when ${batchWords(batch)} was about to be written`, Effect.fail(lost))
        }
        return Effect.zipRight(
          real.commit(batch),
          Effect.suspend(() => {
            earlier.onCommit(batch, false)
            return this.crash(`when ${batchWords(batch)} had been written, and nobody had been told`, Effect.fail(lost))
          })
        )
      })
    this.store = {
      ...real,
      commit: (batch) => reach(commit(batch)),
      claim: (options) => reach(real.claim(options)),
      run: (id) => reach(real.run(id)),
      ended: (ids) => reach(real.ended(ids)),
      inboxes: (ids) => reach(real.inboxes(ids)),
      mail: (id, wanted) => reach(real.mail(id, wanted)),
      token: (token) => reach(real.token(token)),
      nextWake: (names) => reach(real.nextWake(names)),
      history: (id, generation, page) => reach(real.history(id, generation, page)),
      unfinished: (id, generation) => reach(real.unfinished(id, generation)),
      records: (runs, limit) => reach(real.records(runs, limit)),
      attempts: (id, generation) => reach(real.attempts(id, generation)),
      register: (worker) =>
        Effect.zipRight(Effect.sync(() => void earlier.workers.push(worker.id)), real.register(worker)),
      // Whoever has lived before has died.
      dead: reach(Effect.sync(() => earlier.workers.slice(0, -1)))
    }
    this.faults = {
      // Then each step is marked on disk before its effect, which is a commit more.
      active: boundary?.at === "step-started",
      at: (point) =>
        Effect.suspend(() =>
          point === "step-started" && boundary?.at === point && ++this.steps === boundary.nth
            ? this.crash(
              `when the start of the ${ordinal(boundary.nth)} step had been written, and its effect had not begun`,
              Effect.interruptible(never)
            )
            : Effect.void
        )
    }
  }

  private crash<E>(where: string, end: Effect.Effect<never, E>): Effect.Effect<never, E> {
    return Effect.suspend(() => {
      this.reached = `after a crash ${where}`
      Deferred.unsafeDone(this.crashed, Effect.void)
      return end
    })
  }
}

const rules = new Intl.PluralRules("en", { type: "ordinal" })

const endings = new Map<Intl.LDMLPluralRule, string>([["one", "st"], ["two", "nd"], ["few", "rd"], ["other", "th"]])

const ordinal = (n: number) => `${n}${endings.get(rules.select(n))}`

const lost = new StoreUnavailable({ target: "the store", detail: "this process has crashed" })
