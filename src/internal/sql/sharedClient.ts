/** What a store does inside transactions of the application, whose client it uses. */
import { type SqlClient, TransactionConnection } from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { StoreError } from "../../Errors.js"
import type * as StepStore from "../../StepStore.js"
import { invariant } from "../invariant.js"
import { ambientConnection, withoutTransaction } from "../transaction.js"
import { first, inOneTurn, type Patiently, type Prepared, Session, type Work } from "./database.js"
import type { Statements, Value } from "./statements.js"

/** The application's client, and its one connection. */
export interface Client {
  readonly sql: SqlClient
  readonly connection: Connection
  readonly patiently: Patiently
  readonly prepared: Prepared
  /** Within which the store is used. */
  readonly scope: Scope.Scope
}

/** The driver's wait for a lock blocks the whole process, and only Effect's lets its timers run. */
export const withoutWaiting = <A>(work: Work<A>): Work<A> => (session) =>
  Effect.flatMap(
    session.once<{ readonly timeout: number }>("PRAGMA busy_timeout"),
    (theirs) =>
      session.once("PRAGMA busy_timeout = 0").pipe(
        Effect.zipRight(work(session)),
        Effect.ensuring(Effect.ignore(session.once(`PRAGMA busy_timeout = ${first(theirs).timeout}`)))
      )
  )

/** A transaction that has read what was changed since can never write: waiting does not help. */
const passes = (error: StoreError) => error._tag === "StoreBusy" && !error.detail.startsWith("SQLITE_BUSY_SNAPSHOT")

export const make = (options: {
  readonly client: Client
  readonly statements: Statements
  /** Sends a signal, and answers what became of it. */
  readonly send: (
    workflowId: string,
    signal: StepStore.SignalEncoded
  ) => Work<StepStore.CommitAnswer<StepStore.RunRowEncoded>>
  readonly publish: (change: NonNullable<StepStore.Change>) => void
}): StepStore.SharedClientEncoded => {
  const { client, publish, statements } = options
  const { namespace } = statements
  const session = new Session(client.connection, client.prepared)

  /** Whoever gets the connection knows that the transaction which holds it now has ended, either way. */
  const publishAfterwards = (change: NonNullable<StepStore.Change>) =>
    Effect.scoped(client.sql.reserve).pipe(
      Effect.zipRight(Effect.sync(() => publish(change))),
      Effect.ignore,
      withoutTransaction,
      Effect.interruptible,
      Effect.forkIn(client.scope)
    )

  const insert = (run: StepStore.RunIdentity, row: StepStore.RunInsertEncoded) => {
    const { epoch, generation, workflowId } = run
    const values: Array<Value> = []
    statements.insertRuns.bind(values, { workflowId, generation, row: { ...row, epoch } })
    const work: Work<StepStore.CommitAnswer<StepStore.RunRowEncoded>> = Effect.fnUntraced(function*(session) {
      if ((yield* session.change(statements.insertIfAbsent, values)) === 1) {
        return { _tag: "Accepted" }
      }
      const existing = yield* session.all<StepStore.RunRowEncoded>(statements.run, [namespace, workflowId])
      return { _tag: "Exists", run: first(existing) }
    })
    return Effect.tap(
      client.patiently(turn(work), passes),
      (answer) => answer._tag === "Accepted" ? publishAfterwards({ runs: [workflowId], mail: [] }) : Effect.void
    )
  }

  const send = (workflowId: string, signal: StepStore.SignalEncoded) =>
    Effect.tap(
      client.patiently(turn(options.send(workflowId, signal)), passes),
      (answer) =>
        answer._tag === "Accepted" ? publishAfterwards({ runs: [workflowId], mail: [workflowId] }) : Effect.void
    )

  const turn = <A>(work: Work<A>) => Effect.suspend(() => inOneTurn(withoutWaiting(work), session))

  /** The connection is the transaction's own until its end, so that others of this process wait for it without the driver. */
  const transactOnce = <R>(
    { epoch, generation, workflowId }: StepStore.RunIdentity,
    work: Effect.Effect<() => StepStore.Committing | null, StoreError, R>
  ) => {
    let open = false
    const rollback = Effect.suspend(() =>
      open ? Effect.ignore(turn((session) => session.change(statements.rollback, []))) : Effect.void
    )
    const begin: Work<boolean> = Effect.fnUntraced(function*(session) {
      yield* session.change(statements.begin, [])
      open = true
      yield* session.change(statements.mark, [])
      return (yield* session.change(statements.fence, [namespace, workflowId, epoch])) === 1
    })
    const commit = (ending: () => StepStore.Committing | null): Work<StepStore.TransactionEnd> =>
      Effect.fnUntraced(function*(session) {
        const last = ending()
        if (last === null) {
          return "RolledBack"
        }
        // The database may have ended the transaction at an error that the effect has got over: then the record would stand alone.
        yield* session.change(statements.unmark, [])
        const values: Array<Value> = []
        statements.bindStep(values, { workflowId, generation, row: last.row })
        const changed = yield* session.change(statements.putSteps.single.sql, values)
        invariant(changed === 1, "a statement writes its row or fails")
        yield* session.change(statements.commit, [])
        open = false
        last.committed()
        publish({ runs: [workflowId], mail: [] })
        return "Committed"
      })
    return Effect.gen(function*() {
      yield* client.sql.reserve
      yield* Effect.addFinalizer(() => rollback)
      if (!(yield* turn(begin))) {
        return "Fenced" as const
      }
      return yield* turn(commit(yield* Effect.provideService(work, TransactionConnection, [client.connection, 0])))
    })
  }

  return {
    is: (candidate) => candidate === client.sql,
    transact: (run, work) => client.patiently(Effect.scoped(Effect.suspend(() => transactOnce(run, work)))),
    isHeld: Effect.map(ambientConnection, Option.contains(client.connection)),
    insert,
    send
  }
}
