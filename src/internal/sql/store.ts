/** The store over a SQL database: each method is one turn, and one transaction, on it. */
import type { SqlError } from "@effect/sql/SqlError"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type StoreError, StoreRejected } from "../../Errors.js"
import type * as StepStore from "../../StepStore.js"
import { ChangeHub } from "../changeHub.js"
import { invariant } from "../invariant.js"
import { type Database, first, type Session, transaction, type Work } from "./database.js"
import { toStoreError } from "./errors.js"
import type { Liveness } from "./liveness.js"
import { type Client, make as makeSharedClient } from "./sharedClient.js"
import type { Many, Of, Statements, Value } from "./statements.js"

type Answer = StepStore.CommitAnswer<StepStore.RunRowEncoded>

/** A row with more characters of payload is bound by itself. */
const heavy = 65_536

const accepted: Answer = { _tag: "Accepted" }
const fenced: Answer = { _tag: "Fenced" }
const missed: Answer = { _tag: "Missed" }
const ended: Answer = { _tag: "Ended" }
const known: Answer = { _tag: "Known" }

const justAccepted: Effect.Effect<ReadonlyArray<Answer>> = Effect.succeed([accepted])

/** A statement that is a whole commit, and the number of rows that it writes unless its run is not as expected. */
interface Alone {
  readonly sql: string
  readonly values: ReadonlyArray<Value>
  readonly rows: number
}

/** How a run stands before an update of it. */
interface RunBefore {
  readonly workflowId: string
  readonly epoch: number
  readonly inbox: number
  readonly ended: number
}

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

  /** What one statement can do for an update that stands alone: it is its own transaction, and has the fence in it. */
  const statementOf = (update: StepStore.RunUpdateEncoded): Alone | null => {
    const { epoch, generation, insert, patch, steps, workflowId } = update
    if (epoch === null || !touchesOneTable(update)) {
      return null
    }
    const values: Array<Value> = []
    if (insert !== null) {
      statements.insertRuns.bind(values, { workflowId, generation, row: { ...insert, epoch } })
      return { sql: statements.insertIfAbsent, values, rows: 1 }
    }
    if (patch !== null) {
      statements.bindPatch(values, patch)
      values.push(namespace, workflowId, epoch, update.inbox)
      return { sql: statements.patchRun, values, rows: 1 }
    }
    const sql = statements.fencedSteps[steps.length - 1]
    if (sql === undefined || update.inbox !== null) {
      return null
    }
    for (const row of steps) {
      statements.bindStep(values, { workflowId, generation, row })
    }
    values.push(namespace, workflowId, epoch)
    return { sql, values, rows: steps.length }
  }

  const commitAlone = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>, { rows, sql, values }: Alone) =>
    Effect.flatMap(database.change(sql, values), (changed) => {
      invariant(changed === rows || changed === 0, "a statement writes all of its rows or none")
      // None: why that is has to be looked at. A final record in the way is an error of the statement.
      if (changed === 0) {
        return commitAll(batch)
      }
      hub.committed(batch)
      return justAccepted
    })

  const commitAll = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) =>
    Effect.tap(database.turn(transaction(statements.begin, (session) => writeAll(session, batch))), publish(batch))

  const writeAll = Effect.fnUntraced(function*(session: Session, batch: ReadonlyArray<StepStore.RunUpdateEncoded>) {
    const ids = batch.map((update) => update.workflowId)
    invariant(new Set(ids).size === batch.length, "a run stands in a batch once")
    const found = yield* session.all<RunBefore>(statements.runsBefore, [namespace, JSON.stringify(ids)])
    const before = new Map(found.map((run) => [run.workflowId, run]))
    const there = batch.filter((update) => update.insert !== null && before.has(update.workflowId))
    const runs = there.length === 0
      ? []
      : yield* session.all<StepStore.RunRowEncoded>(
        statements.runsAmong,
        [namespace, JSON.stringify(there.map((update) => update.workflowId))]
      )
    const existing = new Map(runs.map((run) => [run.workflowId, run]))
    const answers: Array<Answer> = []
    for (const update of batch) {
      const run = before.get(update.workflowId)
      answers.push(
        update.epoch === null && run !== undefined ? yield* deliver(session, update, run) : answerOf(update, run)
      )
    }
    const updates = batch.filter((_, i) => answers[i] === accepted)

    const inserts: Array<Parameters<typeof statements.insertRuns.bind>[1]> = []
    const patches: Array<Of<StepStore.RunPatchEncoded>> = []
    const reopened: Array<Of<string>> = []
    const steps: Array<Of<StepStore.StepRowEncoded>> = []
    const attempts: Array<Of<StepStore.AttemptRowEncoded>> = []
    const children: typeof inserts = []
    for (const update of updates) {
      const { generation, insert, patch, workflowId } = update
      if (insert !== null) {
        inserts.push({ workflowId, generation, row: { ...insert, epoch: update.epoch as number } })
      }
      for (const child of update.children) {
        children.push({ workflowId: child.workflowId, generation: 0, row: { ...child.insert, epoch: 0 } })
      }
      if (patch !== null) {
        patches.push({ workflowId, generation, row: patch })
      }
      reopened.push(...update.reopen.map((row) => ({ workflowId, generation, row })))
      steps.push(...update.steps.map((row) => ({ workflowId, generation, row })))
      attempts.push(...update.attempts.map((row) => ({ workflowId, generation, row })))
    }
    yield* write(session, statements.insertRuns, inserts)
    yield* write(session, statements.insertChildren, children, "some")
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
    for (const update of updates.filter(exchanges)) {
      yield* exchange(session, update)
    }
    yield* tell(session, updates.flatMap((update) => update.tells))

    return batch.map((update, i): Answer => {
      const run = existing.get(update.workflowId)
      return run === undefined ? answers[i]! : { _tag: "Exists", run }
    })
  })

  /** What becomes of an update of a run's own worker, by what is there. */
  const answerOf = (update: StepStore.RunUpdateEncoded, run: RunBefore | undefined): Answer => {
    if (update.insert !== null) {
      return run === undefined ? accepted : fenced
    }
    if (run === undefined || update.epoch !== run.epoch) {
      return fenced
    }
    return update.inbox === null || update.inbox === run.inbox ? accepted : missed
  }

  /** What is sent to a run from outside: a signal, or that it is to be cancelled. */
  const deliver = Effect.fnUntraced(function*(session: Session, update: StepStore.RunUpdateEncoded, run: RunBefore) {
    const { cancelAt, signals, workflowId } = update
    const [signal] = signals
    if (signal !== undefined) {
      return yield* send(session, workflowId, signal, run)
    }
    if (run.ended === 1) {
      return ended
    }
    const changed = yield* session.change(statements.cancel, [cancelAt, namespace, workflowId])
    return changed === 1 ? accepted : known
  })

  const send = Effect.fnUntraced(
    function*(session: Session, workflowId: string, signal: StepStore.SignalEncoded, run: RunBefore) {
      if (run.ended === 1) {
        const sent = yield* session.all(statements.sent, [namespace, workflowId, signal.signalId])
        return sent.length === 0 ? ended : known
      }
      if ((yield* putSignal(session, workflowId, signal, run.inbox + 1)) === 0) {
        return known
      }
      yield* tell(session, [workflowId])
      return accepted
    }
  )

  const putSignal = (session: Session, workflowId: string, signal: StepStore.SignalEncoded, number: number | null) => {
    const values: Array<Value> = []
    statements.bindSignal(values, workflowId, signal, number)
    return session.change(statements.insertSignal, values)
  }

  const tell = (session: Session, workflowIds: ReadonlyArray<string>) =>
    workflowIds.length === 0
      ? Effect.void
      : session.change(statements.tell, [namespace, JSON.stringify(workflowIds)])

  /** What an update of a run's own worker does with signals, and with the generation. */
  const exchange = Effect.fnUntraced(function*(session: Session, update: StepStore.RunUpdateEncoded) {
    const { generation, gives, next, signals, takes, workflowId } = update
    for (const signal of signals) {
      yield* putSignal(session, workflowId, signal, null)
    }
    if (gives.length > 0) {
      yield* session.change(statements.giveBack, [namespace, workflowId, JSON.stringify(gives)])
    }
    for (const { signalId, stepKey } of takes) {
      const changed = yield* session.change(statements.takeSignal, [stepKey, namespace, workflowId, signalId])
      if (changed === 0) {
        const detail = `the signal ${JSON.stringify(signalId)} cannot be taken: it has been, or nobody has sent it`
        return yield* new StoreRejected({ target: database.target, detail })
      }
    }
    if (next !== null) {
      const changed = yield* session.change(
        statements.nextGeneration,
        [
          next.begunAt,
          next.begunAt,
          next.payloadCodec,
          next.payloadDigest,
          next.payload,
          namespace,
          workflowId,
          generation
        ]
      )
      if (changed === 0) {
        const detail = `generation ${generation} of the run is not its present one`
        return yield* new StoreRejected({ target: database.target, detail })
      }
    }
  })

  /**
   * Writes rows in as few statements as the sizes allow, in their order; `some` of them may be there already. A heavy row is bound by
   * itself.
   */
  const write = Effect.fnUntraced(function*<Row>(
    session: Session,
    many: Many<Row>,
    all: ReadonlyArray<Row>,
    expected: "all" | "some" = "all"
  ) {
    for (let from = 0; from < all.length;) {
      let light = from
      while (light < all.length && light < from + many.most && many.weight(all[light]!) <= heavy) {
        light++
      }
      const { rows, sql } = many.several.find(({ rows }) => from + rows <= light) ?? many.single
      const values: Array<Value> = []
      for (let i = from; i < from + rows; i++) {
        many.bind(values, all[i]!)
      }
      const changed = yield* session.change(sql, values)
      invariant(changed === rows || expected === "some", `${changed} of ${rows} rows were written`)
      from += rows
    }
  })

  const publish = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) => (answers: ReadonlyArray<Answer>) =>
    Effect.sync(() => hub.committed(batch.filter((_, index) => answers[index] === accepted)))

  const commit = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) => {
    const alone = batch.length === 1 ? statementOf(batch[0]!) : null
    return alone === null ? commitAll(batch) : commitAlone(batch, alone)
  }

  // -- claim

  const claimable = (session: Session, options: StepStore.ClaimOptions) =>
    session.all<{ readonly workflow_id: string }>(statements.claimable, statements.bindClaimable(options))

  const claimTogether = (session: Session, options: StepStore.ClaimOptions) =>
    session.all<StepStore.RunRowEncoded>(
      statements.claim,
      [options.worker, options.at, namespace, ...statements.bindClaimable(options)]
    )

  const isRejected = (failure: SqlError) => toStoreError(database.target, failure)._tag === "StoreRejected"

  /** One after the other: a row that the database refuses to change, because it is damaged, is left where it is. */
  const claimApart = Effect.fnUntraced(function*(session: Session, options: StepStore.ClaimOptions) {
    for (let limit = options.limit;; limit *= 2) {
      const some = yield* claimable(session, { ...options, limit })
      const claimed: Array<StepStore.RunRowEncoded> = []
      for (const { workflow_id: workflowId } of some) {
        const one = claimTogether(session, { ...options, workflowId, limit: 1 })
        claimed.push(...(yield* Effect.catchIf(one, isRejected, () => Effect.succeed([]))))
        if (claimed.length === options.limit) {
          break
        }
      }
      if (claimed.length > 0 || some.length < limit) {
        return claimed
      }
    }
  })

  const claim = (options: StepStore.ClaimOptions) => {
    const work: Work<ReadonlyArray<StepStore.RunRowEncoded>> = Effect.fnUntraced(function*(session) {
      // A worker that finds nothing to do must not take the lock for writing: it asks often.
      const some = yield* claimable(session, options)
      const together = claimTogether(session, options)
      return some.length === 0
        ? []
        : yield* options.workflowId === null
          ? Effect.catchIf(together, isRejected, () => claimApart(session, options))
          : together
    })
    return Effect.map(database.turn(work), (runs) => {
      hub.publish({ runs: runs.map((run) => run.workflowId), mail: [] })
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

  const rowOf = (worker: StepStore.WorkerInfo) => [namespace, worker.id, worker.host, worker.pid, worker.startedAt]

  /** The lock comes first: a worker whose row is seen without it would look dead. */
  const register = Effect.fnUntraced(function*(worker: StepStore.WorkerInfo) {
    yield* liveness.acquire(worker.id)
    yield* Effect.addFinalizer(() => Effect.ignore(removeRow(worker.id)))
    yield* database.turn((session) => session.change(statements.insertWorker, rowOf(worker)))
  })

  const beat = (worker: StepStore.WorkerInfo) =>
    database.turn(transaction(statements.begin, (session) =>
      Effect.zipRight(
        session.change(statements.beat, rowOf(worker)),
        session.all<StepStore.Pulse>(statements.pulses, [namespace])
      )))

  return {
    target: database.target,
    namespace,
    sharedClient: client === null
      ? null
      : makeSharedClient({
        client,
        statements,
        publish: (change) => hub.publish(change),
        send: (workflowId, signal) =>
          Effect.fnUntraced(function*(session) {
            // A transaction of the application that has read first could not write any more.
            yield* session.change(statements.touch, [namespace, workflowId])
            const [run] = yield* session.all<RunBefore>(
              statements.runsBefore,
              [namespace, JSON.stringify([workflowId])]
            )
            return run === undefined ? fenced : yield* send(session, workflowId, signal, run)
          })
      }),
    commit,
    claim,
    run: (workflowId) =>
      Effect.map(
        rows<StepStore.RunRowEncoded>(statements.run, [namespace, workflowId]),
        ([run]) => run ?? null
      ),
    owned: (worker) =>
      Effect.map(
        rows<{ readonly workflowId: string }>(statements.owned, [namespace, worker]),
        (all) => all.map((row) => row.workflowId)
      ),
    ended: (workflowIds) => rows(statements.ended, [namespace, JSON.stringify(workflowIds)]),
    inboxes: (workflowIds) => rows(statements.inboxes, [namespace, JSON.stringify(workflowIds)]),
    mail: (workflowId, wanted) =>
      database.turn(Effect.fnUntraced(function*(session: Session) {
        const [inbox] = yield* session.all<Omit<StepStore.MailEncoded, "signals">>(
          statements.inbox,
          [namespace, workflowId]
        )
        return inbox === undefined ? null : {
          ...inbox,
          signals: (yield* Effect.forEach(wanted, ({ limit, name, token }) =>
            session.all<StepStore.SignalEncoded>(
              token === null ? statements.namedMail : statements.tokenMail,
              [namespace, workflowId, name, ...(token === null ? [] : [token]), limit]
            ))).flat()
        }
      })),
    token: (token) =>
      Effect.map(rows<StepStore.TokenOwner>(statements.token, [namespace, token]), ([owner]) => owner ?? null),
    nextWake: (names) =>
      Effect.map(
        rows<{ readonly wakeAt: number }>(statements.nextWake, [namespace, JSON.stringify(names)]),
        ([next]) => next === undefined ? null : next.wakeAt
      ),
    history: (workflowId, generation, { after, bytes = Number.MAX_SAFE_INTEGER, limit }) =>
      database.turn(Effect.fnUntraced(function*(session: Session) {
        const from = [namespace, workflowId, generation, after ?? -1]
        // With one more, which shows whether there are others. Nearly every page is light, and costs this alone.
        const light = yield* session.all<StepStore.StepRowEncoded>(
          statements.lightHistory,
          [...from, ...from, limit + 1, bytes, limit + 1]
        )
        if (light.length > 0) {
          return { rows: light.slice(0, limit), more: light.length > limit }
        }
        const { count, share } = first(
          yield* session.all<{ readonly count: number; readonly share: number }>(
            statements.share,
            [bytes, ...from, limit + 1]
          )
        )
        const most = Math.min(share, limit)
        const rows = yield* session.all<StepStore.StepRowEncoded>(statements.history, [...from, most])
        return { rows, more: count > most }
      })),
    unfinished: (workflowId, generation) => rows(statements.unfinished, [namespace, workflowId, generation]),
    steps: (workflowId, generation, page) =>
      rows(statements.steps, [namespace, workflowId, generation, page.after ?? "", page.limit]),
    runs: (page) => rows(statements.runs, [namespace, page.after ?? "", page.limit]),
    attempts: (workflowId, generation) => rows(statements.attempts, [namespace, workflowId, generation]),
    records: (runs, limit) =>
      database.turn(Effect.fnUntraced(function*(session: Session) {
        const few = [namespace, limit.steps, limit.steps]
        const counted = [namespace, limit.steps]
        const short = yield* session.all<StepStore.RunGeneration>(
          statements.short,
          [pairsOf(runs), ...few, ...few, ...counted, ...counted, limit.bytes]
        )
        const asked = [pairsOf(short), namespace]
        const steps = byRun(yield* session.all<OfRun<StepStore.StepRowEncoded>>(statements.stepsOfAsked, asked))
        const attempts = byRun(
          yield* session.all<OfRun<StepStore.AttemptRowEncoded>>(statements.attemptsOfAsked, asked)
        )
        return short.map(({ generation, workflowId }) => ({
          workflowId,
          generation,
          history: (steps.get(workflowId) ?? []).filter((row) => row.final === 1),
          unfinished: (steps.get(workflowId) ?? []).filter((row) => row.final === 0),
          attempts: attempts.get(workflowId) ?? []
        }))
      })),
    register,
    beat,
    dead,
    changes: hub.changes(options.watch)
  }
}

type OfRun<Row> = Row & { readonly workflowId: string }

const pairsOf = (runs: ReadonlyArray<StepStore.RunGeneration>) =>
  JSON.stringify(runs.map(({ generation, workflowId }) => [workflowId, generation]))

/** In their order. */
const byRun = <Row extends { readonly workflowId: string }>(rows: ReadonlyArray<Row>): Map<string, Array<Row>> => {
  const runs = new Map<string, Array<Row>>()
  for (const row of rows) {
    const others = runs.get(row.workflowId)
    if (others === undefined) {
      runs.set(row.workflowId, [row])
    } else {
      others.push(row)
    }
  }
  return runs
}

/** Most updates do nothing with signals, and belong to the generation that goes on. */
const exchanges = (update: StepStore.RunUpdateEncoded) =>
  update.epoch !== null &&
  (update.next !== null || update.signals.length + update.takes.length + update.gives.length > 0)

/** Whether an update only inserts its run, or only changes its row, or only records steps. */
const touchesOneTable = (update: StepStore.RunUpdateEncoded) =>
  Number(update.insert !== null) + Number(update.patch !== null) + Number(update.steps.length > 0) === 1 &&
  update.next === null && update.reopen.length === 0 && update.attempts.length === 0 && update.signals.length === 0 &&
  update.takes.length === 0 && update.gives.length === 0 && update.children.length === 0 && update.tells.length === 0

const oldestFirst = (self: StepStore.RunSummaryEncoded, that: StepStore.RunSummaryEncoded) =>
  self.createdAt - that.createdAt || Buffer.compare(Buffer.from(self.workflowId), Buffer.from(that.workflowId))
