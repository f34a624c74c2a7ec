/** What only SQLite has: how a database is opened, made ready, and watched. Its hazards are met here. */
import { accessSync, constants, statSync } from "node:fs"
import { dirname } from "node:path"
import * as Reactivity from "@effect/experimental/Reactivity"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import * as SqliteClient from "@effect/sql-sqlite-node/SqliteClient"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { StoreCorrupt, type StoreError, StoreReadOnly, StoreSchemaMismatch, StoreUnavailable } from "../../Errors.js"
import { Housekeeping } from "../housekeeping.js"
import { nameProblem } from "../names.js"
import { type Database, first, type Session, transaction, type Turns, type Work } from "./database.js"
import { sqlite } from "./dialect.js"
import { isTaken } from "./errors.js"
import { migrations } from "./statements.js"

export type Synchronous = "FULL" | "NORMAL" | "inherit"

/** Below this version SQLite can corrupt a database that two connections write and checkpoint. */
const oldestSqlite = [3, 51, 3] as const

/** The oldest version of the library that can use the tables of this one. */
const minCompatible = 1

/**
 * Opens a file and takes its only connection for good. Failing to open is a defect of the driver's effect, and a failure
 * here.
 */
export const open = (options: {
  readonly filename: string
  readonly readonly?: boolean
}): Effect.Effect<Connection, SqlError, Scope.Scope> =>
  SqliteClient.make({ ...options, disableWAL: true, prepareCacheTTL: Duration.infinity }).pipe(
    Effect.provideServiceEffect(Reactivity.Reactivity, Reactivity.make),
    Effect.catchAllDefect((cause) => Effect.fail(new SqlError({ cause, message: "Failed to open the database" }))),
    Effect.flatMap((client) => client.reserve)
  )

/** Fails unless the condition holds. */
export const ensure = (condition: boolean, error: () => StoreError): Effect.Effect<void, StoreError> =>
  condition ? Effect.void : Effect.fail(error())

/** Fails unless the options can be used. */
export const validate = (target: string, prefix: string, namespace: string): Effect.Effect<void, StoreError> =>
  Effect.zipRight(
    ensure(/^([A-Za-z_]\w{0,31})?$/.test(prefix), () =>
      new StoreUnavailable({
        target,
        detail: `the table prefix ${JSON.stringify(prefix)} is not made of at most 32 letters, digits and underscores`
      })),
    Effect.suspend(() => {
      const problem = nameProblem(namespace)
      return ensure(problem === null, () => new StoreUnavailable({ target, detail: `as a namespace, ${problem}` }))
    })
  )

/**
 * Pages in the log before they are copied into the database. SQLite's own 1,000 are there after two hundred steps, and the copying
 * took a tenth of their time at `synchronous = FULL`; pages written many times are copied once. The log has 16 MB then.
 */
const checkpointPages = 4_000

/** The database gets a log of its own name, with this behind it. */
const logSuffix = "-wal"

/**
 * SQLite takes a database without a page for a new one, and removes the log beside it, with all that is in there: the database was
 * moved away or cut, and its last transactions would follow it. None of ours has a log before it has a page.
 */
export const keepLog = (filename: string): Effect.Effect<void, StoreError> =>
  Effect.flatMap(
    Effect.all([sizeOf(filename), sizeOf(filename + logSuffix)]),
    ([database, log]) =>
      ensure(database > 0 || log === 0, () =>
        new StoreCorrupt({
          target: filename,
          detail: `it is empty or gone, while its log ${filename}${logSuffix} is not`,
          workflowId: null
        }))
  )

/** SQLite waits at a pipe, puts a log beside a device, and says of a folder only that it cannot be opened. */
export const mustBeFile = (filename: string): Effect.Effect<void, StoreError> =>
  Effect.flatMap(
    Effect.orElseSucceed(Effect.try(() => statSync(filename).isFile()), () => true),
    (isFile) =>
      ensure(isFile, () =>
        new StoreUnavailable({ target: filename, detail: "it is no file, but a folder, a device, a pipe or a socket" }))
  )

/** Of a file that cannot be looked at, opening it says why. */
const sizeOf = (path: string): Effect.Effect<number> =>
  Effect.orElseSucceed(Effect.try(() => statSync(path).size), () => 0)

/** Several connections may read while one writes; the change of mode itself needs the database alone, and changes the file. */
export const useWal = Effect.fnUntraced(function*(database: Turns, prefix: string) {
  const { journal_mode: mode } = first(
    yield* database.turn(Effect.fnUntraced(function*(session) {
      yield* session.once("PRAGMA busy_timeout = 0")
      yield* session.once(`PRAGMA wal_autocheckpoint = ${checkpointPages}`)
      yield* leaveToOthers(database.target, session, prefix)
      return yield* session.once<{ readonly journal_mode: string }>("PRAGMA journal_mode = WAL")
    }))
  )
  yield* ensure(mode === "wal" || mode === "memory", () =>
    new StoreUnavailable({
      target: database.target,
      detail: `its file system does not allow the journal mode WAL, and SQLite stays at ${mode}`
    }))
})

/** Fails if the database has something of a name that we need, and is not ours. */
const leaveToOthers = Effect.fnUntraced(function*(target: string, session: Session, prefix: string) {
  const names = migrations(sqlite, prefix).flat().map((statement) => `'${nameIn(statement)}'`)
  const [taken] = yield* session.once<{ readonly name: string }>(
    `SELECT name FROM sqlite_master WHERE name COLLATE NOCASE IN (${names.join(", ")})
      AND NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '${prefix}perdure_schema') LIMIT 1`
  )
  yield* ensure(taken === undefined, () => isTaken(target, `${taken!.name} already exists`))
})

/** What a statement creates. */
const nameIn = (statement: string) =>
  (/^CREATE (?:TABLE|UNIQUE INDEX|INDEX) (\w+)/.exec(statement) as RegExpExecArray)[1]

/** Each part has less than a thousand values. */
const rank = (version: ReadonlyArray<string | number>) =>
  version.reduce((sum: number, part) => sum * 1_000 + Number(part), 0)

const isTooOld = (version: string): boolean => rank(version.split(".")) < rank(oldestSqlite)

/** Makes a database ready to be used, and answers the path of its file; of one in memory, the empty text. */
export const prepare = Effect.fnUntraced(function*(
  database: Database,
  options: { readonly prefix: string; readonly synchronous: Synchronous }
) {
  const { target } = database
  const { version } = first(
    yield* database.turn((session) =>
      session.all<{ readonly version: string }>("SELECT sqlite_version() AS version", [])
    )
  )
  yield* ensure(!isTooOld(version), () =>
    new StoreUnavailable({
      target,
      detail: `it is driven by SQLite ${version}, and below ${oldestSqlite.join(".")} SQLite can corrupt a ` +
        `database that several connections write to; upgrade better-sqlite3`
    }))
  yield* setSynchronous(database, options.synchronous)
  yield* migrate(database, options.prefix)
  // The driver's build of SQLite lowers the setting with the first write, unless it was made before.
  yield* setSynchronous(database, options.synchronous)
  const main = yield* database.turn((session) =>
    session.all<{ readonly file: string }>("SELECT file FROM pragma_database_list WHERE name = 'main'", [])
  )
  return first(main).file
})

const setSynchronous = Effect.fnUntraced(function*(database: Database, wanted: Synchronous) {
  if (wanted === "inherit") {
    return
  }
  const { synchronous: found } = first(
    yield* database.turn((session) =>
      Effect.zipRight(
        session.once(`PRAGMA synchronous = ${wanted}`),
        session.once<{ readonly synchronous: number }>("PRAGMA synchronous")
      )
    )
  )
  const levels = { NORMAL: 1, FULL: 2 }
  yield* ensure(found === levels[wanted], () =>
    new StoreUnavailable({
      target: database.target,
      detail: `it does not accept synchronous = ${wanted}, and stays at ${found}`
    }))
})

interface Version {
  readonly version: number
  readonly minCompatible: number
}

/** Brings the tables to the version of this library, whoever else does the same at the same time. */
const migrate = Effect.fnUntraced(function*(database: Database, prefix: string) {
  const { target } = database
  const steps = migrations(sqlite, prefix)
  const table = `${prefix}perdure_schema`
  const select = `SELECT version, min_compatible AS "minCompatible" FROM ${table}`
  const mismatch = (found: Version) =>
    new StoreSchemaMismatch({
      target,
      found: found.version,
      supported: steps.length,
      minCompatible: found.minCompatible
    })

  const work: Work<number> = Effect.fnUntraced(function*(session) {
    yield* session.once(
      `CREATE TABLE IF NOT EXISTS ${table} (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        version INTEGER NOT NULL,
        min_compatible INTEGER NOT NULL
      ) ${sqlite.heap}`
    )
    const [found = { version: 0, minCompatible: 0 }] = yield* session.once<Version>(select)
    yield* ensure(found.minCompatible <= steps.length, () => mismatch(found))
    for (const statement of steps.slice(found.version).flat()) {
      yield* session.once(statement)
    }
    const version = Math.max(found.version, steps.length)
    // Written even if nothing changes: that the database can be written to is better known now than at the first step.
    yield* session.once(
      `INSERT INTO ${table} VALUES (1, ${version}, ${Math.max(found.minCompatible, minCompatible)})
        ON CONFLICT (only) DO UPDATE SET version = excluded.version, min_compatible = excluded.min_compatible`
    )
    return version
  })
  const expected = yield* database.turn(transaction(sqlite.begin, work))
  const [found = { version: 0, minCompatible: 0 }] = yield* database.turn((session) => session.once<Version>(select))
  yield* ensure(found.version === expected, () => mismatch(found))
})

/** Tells a file that cannot be reached from one that this process may not write. */
export const explain = (filename: string) => (error: StoreError): Effect.Effect<never, StoreError> =>
  error._tag === "StoreUnavailable"
    ? Effect.if(isForbidden(filename), {
      onTrue: () => Effect.fail(new StoreReadOnly(error)),
      onFalse: () => Effect.fail(error)
    })
    : Effect.fail(error)

const isForbidden = (filename: string): Effect.Effect<boolean> =>
  Effect.map(Effect.all([accessTo(filename), accessTo(dirname(filename))]), (codes) => forbidden.test(codes.join()))

/** The file may not be used, or else the folder of one that is there or could be there. */
const forbidden = /^(EACCES|EPERM|EROFS)|^(ENOENT)?,(EACCES|EPERM|EROFS)/

/** Why a file or folder cannot be read and written; the empty text if it can. */
const accessTo = (path: string): Effect.Effect<string> =>
  Effect.try({
    try: () => accessSync(path, constants.R_OK | constants.W_OK),
    catch: (cause) => String((cause as NodeJS.ErrnoException).code)
  }).pipe(Effect.match({ onSuccess: () => "", onFailure: (code) => code }))

/**
 * Reports when another connection commits, unless housekeeping is off. Its failures are temporary, or somebody else meets them
 * too.
 */
export const watch = (database: Database, interval: Duration.DurationInput) => (report: () => void) =>
  Effect.gen(function*() {
    if (!(yield* Housekeeping)) {
      return
    }
    const version = Effect.map(
      database.turn((session) => session.all<{ readonly data_version: number }>("PRAGMA data_version", [])),
      (rows) => first(rows).data_version
    )
    let last = yield* Effect.orElseSucceed(version, () => -1)
    const look = Effect.flatMap(Effect.delay(version, interval), (now) =>
      Effect.sync(() => {
        if (now !== last) {
          last = now
          report()
        }
      }))
    yield* Effect.forkScoped(Effect.withTracerEnabled(Effect.forever(Effect.ignore(look)), false))
  })
