/** A connection, used in one turn of the event loop: what the store's operations are written against. */
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import type { StoreError } from "../../Errors.js"
import { toStoreError } from "./errors.js"
import type { Value } from "./statements.js"

/** What goes wrong inside a transaction: something the database says, or something that the store refuses. */
export type Failure = SqlError | StoreError

/** Runs statements on a connection. None of it ever waits. */
export class Session {
  readonly connection: Connection
  readonly prepared: Prepared

  constructor(connection: Connection, prepared: Prepared) {
    this.connection = connection
    this.prepared = prepared
  }

  /** The rows that a statement answers. */
  readonly all = <Row>(sql: string, values: ReadonlyArray<Value>): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    this.connection.executeRaw(sql + this.prepared.salt, values) as Effect.Effect<ReadonlyArray<Row>, SqlError>

  /** How many rows a statement wrote. */
  readonly change = (sql: string, values: ReadonlyArray<Value>): Effect.Effect<number, SqlError> =>
    Effect.map(
      this.connection.executeRaw(sql + this.prepared.salt, values) as Effect.Effect<
        { readonly changes: number },
        SqlError
      >,
      (result) => result.changes
    )

  /** A statement that is prepared anew each time. Many pragmas act when they are prepared, and only then. */
  readonly once = <Row>(sql: string): Effect.Effect<ReadonlyArray<Row>, SqlError> =>
    Effect.catchAllDefect(
      Effect.suspend(() => this.connection.executeUnprepared(sql, [], undefined)),
      (cause) => Effect.fail(new SqlError({ cause, message: "Failed to prepare statement " }))
    )
}

/**
 * The driver caches what came of preparing a statement, and a failure as long as a success. So after such a failure each
 * statement is asked for under another text, which differs by a comment.
 */
export class Prepared {
  salt = ""
  private failures = 0

  readonly note = (failure: SqlError): void => {
    if (failure.message.startsWith("Failed to prepare")) {
      this.salt = ` /* ${++this.failures} */`
    }
  }
}

/** The row of a statement that always answers with one. */
export const first = <Row>(rows: ReadonlyArray<Row>): Row => rows[0] as Row

/** How long to wait for a lock that somebody else holds. */
export interface Busy {
  /** The first delay; 1 millisecond unless given. */
  readonly first?: Duration.DurationInput
  /** Each delay is so many times the one before; 2 unless given. */
  readonly factor?: number
  /** No delay is longer; 25 milliseconds unless given. */
  readonly cap?: Duration.DurationInput
  /** After this time the call fails with `StoreBusy`; 30 seconds unless given. */
  readonly patience?: Duration.DurationInput
}

/** Where work is done in one turn of the event loop. */
export interface Turns {
  /** The file or database, for messages. */
  readonly target: string
  /** Does the work in one turn of the event loop; while the database is busy, all of it again, later. */
  readonly turn: <A>(work: Work<A>) => Effect.Effect<A, StoreError>
}

export interface Database extends Turns {
  /** How many rows one statement wrote. It is a transaction by itself, so that it needs no turn, which would cost as much again. */
  readonly change: Change<StoreError>
}

type Change<E> = (sql: string, values: ReadonlyArray<Value>) => Effect.Effect<number, E>

/** What is done with a connection, from its first statement to its last. */
export type Work<A> = (session: Session) => Effect.Effect<A, Failure>

/**
 * Does the work without a yield, so that nobody else's statement comes between: Effect's fibers yield every 2,048
 * operations, and a transaction that stays open meanwhile blocks whoever waits for it on this very thread.
 */
export const inOneTurn = <A>(work: Work<A>, session: Session): Effect.Effect<A, Failure> =>
  Effect.suspend(() => Effect.runSyncExit(work(session)))

/** All of the work or, whatever goes wrong, nothing of it. */
export const transaction = <A>(begin: string, work: Work<A>): Work<A> =>
  Effect.fnUntraced(function*(session: Session) {
    yield* session.change(begin, [])
    const exit = yield* Effect.exit(Effect.zipLeft(work(session), session.change("COMMIT", [])))
    // SQLite has ended the transaction already after some errors, and then there is nothing to roll back.
    yield* Effect.unless(Effect.ignore(session.change("ROLLBACK", [])), () => Exit.isSuccess(exit))
    return yield* exit
  })

const isBusy = (error: StoreError) => error._tag === "StoreBusy"

/** Does something again while the database is busy, and says what else fails in the words of the store. */
export type Patiently = <A, R>(
  once: Effect.Effect<A, Failure, R>,
  passes?: (error: StoreError) => boolean
) => Effect.Effect<A, StoreError, R>

export const patiently = (options: {
  readonly target: string
  readonly busy: Busy | undefined
  readonly prepared: Prepared
}): Patiently => {
  const busy = { first: 1, factor: 2, cap: 25, patience: "30 seconds" as const, ...options.busy }
  const policy = Schedule.exponential(busy.first, busy.factor).pipe(
    Schedule.union(Schedule.spaced(busy.cap)),
    Schedule.jittered,
    Schedule.upTo(busy.patience)
  )
  const translate = (failure: Failure): StoreError => {
    if (failure._tag !== "SqlError") {
      return failure
    }
    options.prepared.note(failure)
    return toStoreError(options.target, failure)
  }
  return <A, R>(work: Effect.Effect<A, Failure, R>, passes: (error: StoreError) => boolean = isBusy) =>
    Effect.catchAll(work, (failure): Effect.Effect<A, StoreError, R> => {
      const error = translate(failure)
      return passes(error)
        ? Effect.retry(Effect.mapError(work, translate), { schedule: policy, while: passes })
        : Effect.fail(error)
    })
}

/** How work gets to a connection. */
interface Door {
  /** Does the work in one turn. */
  readonly withConnection: <A>(work: Work<A>) => Effect.Effect<A, Failure>
  readonly change: Change<Failure>
}

/** To a connection that nobody else uses. */
export const ownConnection = (session: Session): Door => ({
  withConnection: (work) => inOneTurn(work, session),
  change: session.change
})

export const make = (
  options: Door & {
    readonly target: string
    readonly busy: Busy | undefined
    readonly prepared: Prepared
  }
): Database => {
  const patient = patiently(options)
  return {
    target: options.target,
    turn: (work) => patient(options.withConnection(work)),
    change: (sql, values) => patient(options.change(sql, values))
  }
}
