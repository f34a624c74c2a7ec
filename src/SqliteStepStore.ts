/**
 * A store in a SQLite database, on `@effect/sql-sqlite-node`.
 *
 * `layer` opens a file of its own; several processes of one machine may share it. `layerClient` keeps runs in the
 * database that the application uses already. Network file systems are not supported: their locks do not hold.
 *
 * **Durability.** With `synchronous: "FULL"`, the default, what was acknowledged survives the loss of power. `"NORMAL"`
 * saves the wait for the disk at each commit, and gives up just that: what is acknowledged still survives the death of
 * the process, but a loss of power or a crash of the system can take the last commits back, so that steps whose results
 * were acknowledged run again. The database stays consistent in both.
 *
 * **Waiting.** SQLite has one writer at a time. Whoever finds the database locked waits without blocking the process,
 * and tries again with growing, jittered delays until the patience of the `busy` option is over; only then does a call
 * fail, with `StoreBusy`.
 *
 * **Liveness.** A worker holds a lock on a small file beside the database, named `<database>-worker-<digest>.lock`.
 * Leave these files alone; they go with their workers.
 *
 * @since 0.1.0
 */
import { SqlClient } from "@effect/sql/SqlClient"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { type StoreError, StoreUnavailable } from "./Errors.js"
import { nameProblem } from "./internal/names.js"
import {
  type Busy,
  type Database,
  inOneTurn,
  make as makeDatabase,
  ownConnection,
  patiently,
  Prepared,
  Session,
  type Work
} from "./internal/sql/database.js"
import { sqlite } from "./internal/sql/dialect.js"
import { toStoreError } from "./internal/sql/errors.js"
import { besideFile, inMemory } from "./internal/sql/liveness.js"
import { type Client, withoutWaiting } from "./internal/sql/sharedClient.js"
import {
  ensure,
  explain,
  keepLog,
  mustBeFile,
  open,
  prepare,
  type Synchronous,
  useWal,
  validate,
  watch
} from "./internal/sql/sqlite.js"
import { make as makeStatements } from "./internal/sql/statements.js"
import { make as makeStore } from "./internal/sql/store.js"
import * as StepStore from "./StepStore.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category models
 */
export interface ClientOptions {
  /** Runs of other namespaces in the same database are invisible; "default" unless given. */
  readonly namespace?: string
  /** Goes before the name of each table: at most 32 letters, digits and underscores; empty unless given. */
  readonly tablePrefix?: string
  /** What a commit waits for; "FULL" unless given. "inherit" leaves the connection as the application has set it. */
  readonly synchronous?: Synchronous
  /** How long to wait while another process holds the lock for writing. */
  readonly busy?: BusyOptions
  /** How often to look whether another process has committed, while somebody listens; 20 milliseconds unless given. */
  readonly pollInterval?: Duration.DurationInput
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options extends ClientOptions {
  /**
   * The path of the database, which is created if it is not there; its folder must be. ":memory:" is a database in
   * memory.
   */
  readonly filename: string
  /** What a commit waits for: "FULL", the default, or "NORMAL". */
  readonly synchronous?: "FULL" | "NORMAL"
}

/**
 * The delays between the attempts to get the lock: each is `factor` times the one before, at most `cap`, jittered.
 *
 * @since 0.1.0
 * @category models
 */
export interface BusyOptions extends Busy {}

// ---------------------------------------------------------------------------------------------------------------------
// layers
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A store in a SQLite file, on a connection of its own.
 *
 * @param options - the file, and how to use it
 * @example
 * ```ts
 * import { Engine, SqliteStepStore } from "perdure"
 * import { Layer } from "effect"
 *
 * export const EngineLive = Engine.layer.pipe(
 *   Layer.provide(SqliteStepStore.layer({ filename: "durable.db", busy: { patience: "1 minute" } }))
 * )
 * ```
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<StepStore.StepStore, StoreError> =>
  Layer.scoped(StepStore.StepStore, fromFile(options))

/**
 * A store in a SQLite file whose options are read from the configuration.
 *
 * @param config - the options, each of which may be a `Config`
 * @example
 * ```ts
 * import { Config } from "effect"
 * import { SqliteStepStore } from "perdure"
 *
 * export const StoreLive = SqliteStepStore.layerConfig({ filename: Config.string("DATABASE_FILE") })
 * ```
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (
  config: Config.Config.Wrap<Options>
): Layer.Layer<StepStore.StepStore, StoreError | ConfigError> =>
  Layer.scoped(StepStore.StepStore, Effect.flatMap(Config.unwrap(config), fromFile))

/**
 * A store in the SQLite database that the application has a client for already.
 *
 * Transactions take turns with the application's own on its one connection. A `start` inside a transaction of this very client
 * is part of it: the run is there if the transaction commits, and begins then. While a transaction of the store is at work
 * the busy timeout of the connection is 0, and afterwards what it was: the driver's own 5 seconds block every timer of
 * the process, so set it low for the application's queries too. `synchronous` is a setting of the connection, so it
 * holds for the application's commits as well; "inherit" leaves it alone, and with it what a commit survives.
 *
 * @param options - how to use the database
 * @example
 * ```ts
 * import { SqliteClient } from "@effect/sql-sqlite-node"
 * import { Layer } from "effect"
 * import { SqliteStepStore } from "perdure"
 *
 * const SqlLive = SqliteClient.layer({ filename: "app.db" })
 *
 * export const StoreLive = SqliteStepStore.layerClient({ tablePrefix: "perdure_" }).pipe(Layer.provide(SqlLive))
 * ```
 * @since 0.1.0
 * @category layers
 */
export const layerClient = (
  options: ClientOptions = {}
): Layer.Layer<StepStore.StepStore, StoreError, SqlClient> => Layer.scoped(StepStore.StepStore, fromClient(options))

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

const fromFile = (options: Options): Effect.Effect<StepStore.StepStore["Type"], StoreError, Scope.Scope> => {
  const target = options.filename
  // The driver drops the white space around a name, takes an empty one for a temporary database, and cuts one at a NUL.
  return ensure(
    target === target.trim() && nameProblem(target, Infinity) === null,
    () => new StoreUnavailable({ target: JSON.stringify(target), detail: "it is no name for a file" })
  ).pipe(
    Effect.zipRight(mustBeFile(target)),
    Effect.zipRight(validated(target, options)),
    Effect.flatMap((complete) => Effect.catchAll(fromName(target, complete), explain(target)))
  )
}

const fromName = Effect.fnUntraced(function*(target: string, options: Complete) {
  yield* keepLog(target)
  const prepared = new Prepared()
  const connection = yield* Effect.mapError(open({ filename: target }), (failure) => toStoreError(target, failure))
  const session = new Session(connection, prepared)
  const database = makeDatabase({
    target,
    prepared,
    busy: options.busy,
    ...ownConnection(session)
  })
  yield* useWal(database, options.tablePrefix)
  return yield* fromDatabase(database, options, null)
})

const fromClient = Effect.fnUntraced(function*(options: ClientOptions) {
  const sql = yield* SqlClient
  const target = "the application's SQLite database"
  yield* ensure(
    sql.onDialectOrElse({ sqlite: () => true, orElse: () => false }),
    () => new StoreUnavailable({ target, detail: "the SqlClient is one of another database" })
  )
  const complete = yield* validated(target, options)
  const prepared = new Prepared()
  const patient = patiently({ target, prepared, busy: options.busy })
  const client: Client = {
    sql,
    connection: yield* patient(Effect.scoped(sql.reserve)),
    patiently: patient,
    prepared,
    scope: yield* Effect.scope
  }
  const withConnection = <A>(work: Work<A>) =>
    Effect.scoped(
      Effect.flatMap(sql.reserve, (connection) => inOneTurn(withoutWaiting(work), new Session(connection, prepared)))
    )
  const database = makeDatabase({
    target,
    prepared,
    busy: options.busy,
    withConnection,
    change: (sql, values) => withConnection((session) => session.change(sql, values))
  })
  return yield* fromDatabase(database, complete, client)
})

/** Options with the defaults in place of those that are not given. */
const validated = (target: string, options: ClientOptions) => {
  const complete = {
    namespace: "default",
    tablePrefix: "",
    synchronous: "FULL" as const,
    pollInterval: "20 millis" as const,
    busy: undefined,
    ...options
  }
  return Effect.as(validate(target, complete.tablePrefix, complete.namespace), complete)
}

type Complete = Effect.Effect.Success<ReturnType<typeof validated>>

const fromDatabase = Effect.fnUntraced(function*(
  database: Database,
  options: Complete,
  client: Client | null
) {
  const { busy, namespace, pollInterval, synchronous, tablePrefix } = options
  const file = yield* prepare(database, { prefix: tablePrefix, synchronous })
  return yield* StepStore.make(makeStore({
    database,
    statements: makeStatements(sqlite, tablePrefix, namespace),
    client,
    liveness: file === "" ? inMemory : besideFile({ file, namespace, busy }),
    watch: file === "" ? () => Effect.void : watch(database, pollInterval)
  }))
})
