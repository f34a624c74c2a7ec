/** The store over a SQL database: each method is one turn, and one transaction, on it. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type StoreError, StoreRejected } from "../../Errors.js"
import type * as StepStore from "../../StepStore.js"
import { ChangeHub } from "../changeHub.js"
import { invariant } from "../invariant.js"
import { type Database, type Session, transaction, type Work } from "./database.js"
import type { Liveness } from "./liveness.js"
import { type Client, make as makeSharedClient } from "./sharedClient.js"
import type { Many, Of, Statements, Value } from "./statements.js"

type Answer = StepStore.CommitAnswer<StepStore.RunRowEncoded>

/** A row with more characters of payload is bound by itself. */
const heavy = 65_536

const accepted: Answer = { _tag: "Accepted" }
const fenced: Answer = { _tag: "Fenced" }

export const make = (options: {
  readonly database: Database
  readonly statements: Statements
  readonly liveness: Liveness
  /** Given if the store uses a client of the application's. */
  readonly client: Client | null
  /** Runs while somebody listens to changes, and reports what other connections committed. */
  readonly watch: (report: () => void) => Effect.Effect<void, never, Scope.Scope>
}): StepStore.Encoded => {
  const { client, database, liveness, statements } = options
  const { namespace } = statements
  const hub = new ChangeHub()

  const rows = <Row>(sql: string, values: ReadonlyArray<Value>): Effect.Effect<ReadonlyArray<Row>, StoreError> =>
    database.turn((session) => session.all<Row>(sql, values))

  // -- commit

  /** A run alone records a step: one statement, which is its own transaction, with the fence in it. */
  const commitSteps = (sql: string, update: StepStore.RunUpdateEncoded) => {
    const { epoch, generation, steps, workflowId } = update
    const values: Array<Value> = []
    for (const row of steps) {
      statements.bindStep(values, { workflowId, generation, row })
    }
    values.push(namespace, workflowId, epoch)
    return Effect.map(
      database.turn((session) => session.change(sql, values)),
      (changed): ReadonlyArray<Answer> => {
        invariant(changed === steps.length || changed === 0, "a statement writes all of its rows or none")
        // None: the run is in another epoch, or gone. A final record in the way is an error of the statement.
        return changed === 0 ? [fenced] : [accepted]
      }
    )
  }

  const commitAll = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) =>
    database.turn(transaction(statements.begin, (session) => writeAll(session, batch)))

  const writeAll = Effect.fnUntraced(function*(session: Session, batch: ReadonlyArray<StepStore.RunUpdateEncoded>) {
    const ids = batch.map((update) => update.workflowId)
    invariant(new Set(ids).size === batch.length, "a run stands in a batch once")
    const found = yield* session.all<{ readonly workflowId: string; readonly epoch: number }>(
      statements.epochs,
      [namespace, JSON.stringify(ids)]
    )
    const epochs = new Map(found.map((run) => [run.workflowId, run.epoch]))
    const isAccepted = (update: StepStore.RunUpdateEncoded) =>
      epochs.get(update.workflowId) === (update.insert === null ? update.epoch : undefined)
    const updates = batch.filter(isAccepted)

    const inserts: Array<Parameters<typeof statements.insertRuns.bind>[1]> = []
    const patches: Array<Of<StepStore.RunPatchEncoded>> = []
    const reopened: Array<Of<string>> = []
    const steps: Array<Of<StepStore.StepRowEncoded>> = []
    const attempts: Array<Of<StepStore.AttemptRowEncoded>> = []
    for (const update of updates) {
      const { epoch, generation, insert, patch, workflowId } = update
      if (insert !== null) {
        inserts.push({ workflowId, generation, row: { ...insert, epoch } })
      }
      if (patch !== null) {
        patches.push({ workflowId, generation, row: patch })
      }
      reopened.push(...update.reopen.map((row) => ({ workflowId, generation, row })))
      steps.push(...update.steps.map((row) => ({ workflowId, generation, row })))
      attempts.push(...update.attempts.map((row) => ({ workflowId, generation, row })))
    }
    yield* write(session, statements.insertRuns, inserts)
    for (const { generation, row, workflowId } of reopened) {
      const changed = yield* session.change(statements.reopenStep, [namespace, workflowId, generation, row])
      if (changed === 0) {
        const detail = `${row} cannot be opened again: it is no final FAILED record`
        return yield* new StoreRejected({ target: database.target, detail })
      }
    }
    yield* write(session, statements.putSteps, steps)
    yield* write(session, statements.insertAttempts, attempts)
    yield* write(session, statements.patchRuns, patches)

    const there = batch.filter((update) => update.insert !== null && epochs.has(update.workflowId))
    const runs = there.length === 0
      ? []
      : yield* session.all<StepStore.RunRowEncoded>(
        statements.runsAmong,
        [namespace, JSON.stringify(there.map((update) => update.workflowId))]
      )
    const existing = new Map(runs.map((run) => [run.workflowId, run]))
    return batch.map((update): Answer => {
      if (isAccepted(update)) {
        return accepted
      }
      const run = existing.get(update.workflowId)
      return run === undefined ? fenced : { _tag: "Exists", run }
    })
  })

  /** Writes rows in as few statements as the sizes allow, in their order. */
  const write = Effect.fnUntraced(function*<Row>(session: Session, many: Many<Row>, all: ReadonlyArray<Row>) {
    for (let from = 0; from < all.length;) {
      const isLight = (row: Row) => many.weight(row) <= heavy
      const { rows, sql } = many.several.find(({ rows }) =>
        from + rows <= all.length && all.slice(from, from + rows).every(isLight)
      ) ?? many.single
      const values: Array<Value> = []
      for (const row of all.slice(from, from + rows)) {
        many.bind(values, row)
      }
      const changed = yield* session.change(sql, values)
      invariant(changed === rows, `${changed} of ${rows} rows were written`)
      from += rows
    }
  })

  const publish = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) => (answers: ReadonlyArray<Answer>) =>
    Effect.sync(() =>
      hub.publish(batch.flatMap((update, index) => answers[index] === accepted ? [update.workflowId] : []))
    )

  const commit = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) => {
    const [only, another] = batch
    if (only !== undefined && another === undefined && hasStepsOnly(only)) {
      const sql = statements.fencedSteps[only.steps.length - 1]
      if (sql !== undefined) {
        return Effect.tap(commitSteps(sql, only), publish(batch))
      }
    }
    return Effect.tap(commitAll(batch), publish(batch))
  }

  // -- claim

  const claim = (options: StepStore.ClaimOptions) => {
    const values: ReadonlyArray<Value> = [
      namespace,
      JSON.stringify(["", ...options.dead]),
      options.names === null ? 1 : 0,
      JSON.stringify(options.names),
      options.workflowId === null ? 1 : 0,
      options.workflowId,
      options.limit
    ]
    const work: Work<ReadonlyArray<StepStore.RunRowEncoded>> = Effect.fnUntraced(function*(session) {
      // A worker that finds nothing to do must not take the lock for writing: it asks often.
      const some = yield* session.all(statements.claimable, values)
      return some.length === 0
        ? []
        : yield* session.all<StepStore.RunRowEncoded>(
          statements.claim,
          [options.worker, options.at, namespace, ...values]
        )
    })
    return Effect.map(database.turn(work), (runs) => {
      hub.publish(runs.map((run) => run.workflowId))
      return [...runs].sort(oldestFirst)
    })
  }

  // -- workers

  const dead = Effect.gen(function*() {
    const [owners, registered] = yield* database.turn((session) =>
      Effect.all([
        session.all<{ readonly id: string }>(statements.owners, [namespace]),
        session.all<{ readonly id: string }>(statements.workers, [namespace])
      ])
    )
    const owning = new Set(owners.map((row) => row.id))
    const known = new Set(registered.map((row) => row.id))
    const gone = yield* Effect.filter([...new Set([...owning, ...known])], (id) => liveness.isDead(id, known.has(id)))
    const idle = gone.filter((id) => !owning.has(id))
    yield* Effect.forEach(idle, forget)
    return gone.filter((id) => owning.has(id))
  })

  const removeRow = (id: string) =>
    database.turn((session) => session.change(statements.deleteWorkers, [namespace, JSON.stringify([id])]))

  const forget = (id: string) => Effect.zipRight(removeRow(id), liveness.forget(id))

  /** The lock comes first: a worker whose row is seen without it would look dead. */
  const register = Effect.fnUntraced(function*(worker: StepStore.WorkerInfo) {
    yield* liveness.acquire(worker.id)
    yield* Effect.addFinalizer(() => Effect.ignore(removeRow(worker.id)))
    yield* database.turn((session) =>
      session.change(
        statements.insertWorker,
        [namespace, worker.id, worker.host, worker.pid, worker.startedAt]
      )
    )
  })

  return {
    target: database.target,
    namespace,
    sharedClient: client === null
      ? null
      : makeSharedClient({ client, statements, publish: (workflowId) => hub.publish([workflowId]) }),
    commit,
    claim,
    run: (workflowId) =>
      Effect.map(
        rows<StepStore.RunRowEncoded>(statements.run, [namespace, workflowId]),
        ([run]) => run ?? null
      ),
    history: (workflowId, generation, page) =>
      rows(statements.history, [namespace, workflowId, generation, page.after ?? -1, page.limit]),
    unfinished: (workflowId, generation) => rows(statements.unfinished, [namespace, workflowId, generation]),
    steps: (workflowId, generation, page) =>
      rows(statements.steps, [namespace, workflowId, generation, page.after ?? "", page.limit]),
    runs: (page) => rows(statements.runs, [namespace, page.after ?? "", page.limit]),
    attempts: (workflowId, generation) => rows(statements.attempts, [namespace, workflowId, generation]),
    register,
    dead,
    changes: hub.changes(options.watch)
  }
}

const hasStepsOnly = (update: StepStore.RunUpdateEncoded) =>
  update.insert === null && update.patch === null && update.reopen.length === 0 && update.attempts.length === 0

const oldestFirst = (self: StepStore.RunSummaryEncoded, that: StepStore.RunSummaryEncoded) =>
  self.createdAt - that.createdAt || Buffer.compare(Buffer.from(self.workflowId), Buffer.from(that.workflowId))
