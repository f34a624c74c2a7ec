/**
 * The floor: what the rows of a workload cost if `better-sqlite3` alone writes them, into the same tables, with the same indexes
 * and pragmas. The rows are those that an engine has written; each round has a file of its own, so their keys are new in it.
 */
import { strict as assert } from "node:assert"
import Database from "better-sqlite3"
import { Effect, Layer, type Scope } from "effect"
import { SqliteStepStore } from "perdure"
import { temporaryFile } from "../support/stores.js"
import type { Size, Sync } from "./workload.js"

type Values = ReadonlyArray<unknown>

interface Table {
  readonly columns: ReadonlyArray<string>
  readonly rows: ReadonlyArray<Values>
}

/** What an engine has left in its file. */
export interface Written {
  readonly runs: Table
  readonly steps: Table
}

/** A statement, and what it is given. */
export type Write = readonly [statement: Database.Statement, values: Values]

// ---------------------------------------------------------------------------------------------------------------------
// what an engine has written
// ---------------------------------------------------------------------------------------------------------------------

const reading = <A>(filename: string, read: (database: Database.Database) => A): A => {
  const database = new Database(filename, { readonly: true })
  try {
    return read(database)
  } finally {
    database.close()
  }
}

const table = (database: Database.Database, name: string): Table => {
  const all = database.prepare(`SELECT * FROM ${name} ORDER BY rowid`).raw()
  return { columns: all.columns().map((column) => column.name), rows: all.all() as Array<Values> }
}

export const written = (filename: string): Written =>
  reading(filename, (database) => ({ runs: table(database, "workflows"), steps: table(database, "steps") }))

/** A round that has not done all of its work has measured nothing. */
export const assertDone = (filename: string, { runs, steps }: Size): void => {
  const found = reading(filename, (database) =>
    database.prepare(
      `SELECT (SELECT count(*) FROM workflows WHERE status = 'COMPLETED') AS runs,
        (SELECT count(*) FROM steps WHERE status = 'COMPLETED') AS steps`
    ).get())
  assert.deepEqual(found, { runs, steps: runs * steps })
}

// ---------------------------------------------------------------------------------------------------------------------
// writing the same
// ---------------------------------------------------------------------------------------------------------------------

/** A fresh file with the tables, the journal mode and the `synchronous` of a store, on a bare connection. */
export const fresh = (synchronous: Sync): Effect.Effect<Database.Database, never, Scope.Scope> =>
  Effect.gen(function*() {
    const filename = yield* temporaryFile
    yield* Effect.orDie(Effect.scoped(Layer.build(SqliteStepStore.layer({ filename, synchronous }))))
    const database = yield* Effect.acquireRelease(
      Effect.sync(() => new Database(filename)),
      (database) => Effect.sync(() => database.close())
    )
    assert.equal(database.pragma("journal_mode", { simple: true }), "wal")
    // The driver's build of SQLite lowers the setting with the first write, unless it was made before.
    database.exec("UPDATE perdure_schema SET version = version")
    database.pragma(`synchronous = ${synchronous}`)
    database.pragma("wal_autocheckpoint = 4000")
    assert.equal(database.pragma("synchronous", { simple: true }), synchronous === "FULL" ? 2 : 1)
    return database
  })

const inserting = (database: Database.Database, name: string, { columns }: Table) =>
  database.prepare(`INSERT INTO ${name} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`)

/** One insert for each step row. */
export const stepWrites = (database: Database.Database, { steps }: Written): ReadonlyArray<Write> => {
  const insert = inserting(database, "steps", steps)
  return steps.rows.map((row) => [insert, row])
}

/** What a run row has as long as its run is driven, and what the end of the run changes. */
const driven: Readonly<Record<string, unknown>> = {
  status: "RUNNING",
  owner: "00000000-0000-4000-8000-000000000000",
  stop_reason: null,
  wake_at: null,
  ended_at: null,
  outcome_codec: null,
  outcome_digest: null,
  outcome: null
}

/** One insert for each run row, as of a run that has begun. */
export const runInserts = (database: Database.Database, { runs }: Written): ReadonlyArray<Write> => {
  const insert = inserting(database, "workflows", runs)
  return runs.rows.map((
    row
  ) => [insert, row.map((value, i) => runs.columns[i]! in driven ? driven[runs.columns[i]!] : value)])
}

/** One update for each run row, to what it is at the end. */
export const runUpdates = (database: Database.Database, { runs }: Written): ReadonlyArray<Write> => {
  const changed = [...Object.keys(driven), "updated_at"]
  const update = database.prepare(
    `UPDATE workflows SET ${
      changed.map((column) => `${column} = ?`).join(", ")
    } WHERE namespace = ? AND workflow_id = ?`
  )
  const places = [...changed, "namespace", "workflow_id"].map((column) => runs.columns.indexOf(column))
  return runs.rows.map((row) => [update, places.map((place) => row[place])])
}

/** Each in a transaction of its own. */
export const oneByOne = (writes: ReadonlyArray<Write>): void => {
  for (const [statement, values] of writes) {
    statement.run(values)
  }
}

const perTransaction = 1_000

/** How many transactions {@link inTransactions} makes of so many writes. */
export const transactionsOf = (writes: number): number => Math.ceil(writes / perTransaction)

/** A thousand in each transaction. */
export const inTransactions = (database: Database.Database, writes: ReadonlyArray<Write>): void => {
  const [begin, commit] = [database.prepare("BEGIN IMMEDIATE"), database.prepare("COMMIT")]
  for (let from = 0; from < writes.length; from += perTransaction) {
    begin.run()
    oneByOne(writes.slice(from, from + perTransaction))
    commit.run()
  }
}
