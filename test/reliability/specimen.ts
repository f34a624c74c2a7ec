/** A database that is damaged in many ways, and what of it must never be shown otherwise than it was. */
import { readFileSync, writeFileSync } from "node:fs"
import Sqlite from "better-sqlite3"
import { Effect, Option } from "effect"
import { type Errors, SqliteStepStore, StepStore } from "perdure"
import { completed, everything, newRun, patch, update } from "../suites/rows.js"
import { contentOf, frameHeader, isCommit, walHeader } from "./database.js"

export const pageSize = 4_096

type Store = StepStore.StepStore["Type"]

export const runs = Array.from({ length: 6 }, (_, n) => `run-${n}`)

/** Some share a page, and some have pages of their own. */
const textOf = (n: number) => JSON.stringify(`value ${n} `.padEnd([20, 300, 9_000, 40, 2_500][n % 5]!, `${n} `))

const failedStep = (run: string, position: number) =>
  completed(run, position, { status: "FAILED", output: null, error: textOf(position) })

/** Each is a transaction. There may be more halves than two. */
const commitsOf = (half: number): ReadonlyArray<ReadonlyArray<StepStore.RunUpdate>> => {
  const signal = (n: number) => ({ signalId: `go/${half}`, name: "go", sentAt: 5, value: textOf(10 * n + half) })
  const attempt = { attempt: 1, startedAt: 1, endedAt: 2, dueAt: 3, errorTag: null }
  return [
    ...(half === 0 ? [runs.map((run, n) => newRun(run, { payload: textOf(n) }))] : []),
    ...Array.from({ length: 5 }, (_, i) => i + 5 * half).flatMap((position) => [
      ...runs.map((run, n) => [update(run, { steps: [completed(run, position, { output: textOf(position + n) })] })]),
      runs.map((run, n) =>
        update(run, { attempts: [{ ...attempt, stepKey: `${run}:${position}`, error: textOf(10 * n + position) }] })
      )
    ]),
    runs.map((run) => update(run, { steps: [failedStep(run, 10 + half)] })),
    ...runs.map((run, n) => [update(run, { epoch: null, signals: [signal(n)] })]),
    [update(runs[half]!, { patch: patch({ outcome: textOf(2) }) })]
  ]
}

/** Writes a half of the transactions. */
export const write = (store: Store, half: number) => Effect.forEach(commitsOf(half), store.commit, { discard: true })

/** What of a record a digest covers. */
type Shown = ReadonlyMap<string, unknown>

const stepOf = (
  { askedAfter, error, errorTag, fingerprint, kind, output, position, status, stepId }: StepStore.StepRow
) => ({ askedAfter, error, errorTag, fingerprint, kind, output, position, status, stepId })

const attemptOf = ({ dueAt, endedAt, error, errorTag }: StepStore.AttemptRow) => ({ dueAt, endedAt, error, errorTag })

/** Everything that a store shows of the runs, by its name, and which errors it answered instead. */
export const view = (
  store: Store
): Effect.Effect<{ readonly shown: Shown; readonly errors: ReadonlyArray<Errors.StoreError> }> =>
  Effect.gen(function*() {
    const shown = new Map<string, unknown>()
    const errors: Array<Errors.StoreError> = []
    const read = <A>(what: Effect.Effect<A, Errors.StoreError>, show: (value: A) => void) =>
      Effect.match(what, { onFailure: (error) => void errors.push(error), onSuccess: show })
    const steps = (run: string, rows: ReadonlyArray<StepStore.StepRow>) =>
      rows.forEach((row) => shown.set(`${run} step ${row.stepKey}`, stepOf(row)))
    const attempts = (run: string, rows: ReadonlyArray<StepStore.AttemptRow>) =>
      rows.forEach((row) => shown.set(`${run} attempt ${row.stepKey} ${row.attempt}`, attemptOf(row)))

    yield* read(store.runs(everything), () => undefined)
    for (const run of runs) {
      yield* read(
        store.run(run),
        Option.map(({ fingerprint, name, outcome, payload, status }) =>
          shown.set(run, { name, fingerprint, payload, outcome: outcome === null ? null : { outcome, status } })
        )
      )
      yield* read(store.history(run, 0, everything), ({ rows }) => steps(run, rows))
      yield* read(store.steps(run, 0, everything), () => undefined)
      yield* read(store.attempts(run, 0), (rows) => attempts(run, rows))
      yield* read(
        store.mail(run, [{ name: "go", token: null, limit: 10 }]),
        Option.map(({ signals }) =>
          signals.forEach(({ name, signalId, value }) => shown.set(`${run} signal ${signalId}`, { name, value }))
        )
      )
    }
    yield* read(
      store.records(runs.map((workflowId) => ({ workflowId, generation: 0 })), { steps: 100, bytes: 1_000_000 }),
      (all) =>
        all.forEach(({ records, workflowId }) => {
          if (records._tag === "Left") {
            errors.push(records.left)
          } else {
            steps(workflowId, records.right.history)
            attempts(workflowId, records.right.attempts)
          }
        })
    )
    return { shown, errors }
  })

export interface Specimen {
  /** All is in it. */
  readonly database: Buffer
  readonly shown: Shown
  /** The first half is in it; the second is in the log. */
  readonly behind: Buffer
  readonly log: Buffer
  /** What a commit has left, of which the log is whole up to a byte. */
  readonly contentBefore: (byte: number) => string
}

const frame = frameHeader + pageSize

export const specimen = (folder: string): Effect.Effect<Specimen, Errors.StoreError> =>
  Effect.gen(function*() {
    const filename = `${folder}/specimen.db`
    const inStore = <A, E>(use: (store: Store) => Effect.Effect<A, E>) =>
      Effect.provide(
        Effect.flatMap(StepStore.StepStore, use),
        SqliteStepStore.layer({ filename, synchronous: "NORMAL" })
      )
    yield* inStore((store) => write(store, 0))
    const behind = readFileSync(filename)
    const log = yield* inStore((store) => Effect.map(write(store, 1), () => readFileSync(`${filename}-wal`)))
    const { shown } = yield* inStore(view)
    const copy = `${folder}/copy.db`
    const contentOfCopy = (log: Buffer) => {
      writeFileSync(copy, behind)
      writeFileSync(`${copy}-wal`, log)
      const bare = new Sqlite(copy)
      const content = contentOf(bare)
      bare.close()
      return content
    }
    /** After each whole frame, none of which come first. */
    const contents = [contentOfCopy(Buffer.alloc(0))]
    for (let at = walHeader; at < log.length; at += frame) {
      contents.push(isCommit(log.subarray(at)) ? contentOfCopy(log.subarray(0, at + frame)) : contents.at(-1)!)
    }
    return {
      database: readFileSync(filename),
      shown,
      behind,
      log,
      contentBefore: (byte) => contents[Math.max(0, Math.floor((byte - walHeader) / frame))]!
    }
  })
