/** Looks into a database from outside the store. */
import type Sqlite from "better-sqlite3"

/** All that is recorded, but for the version of the tables, which every opening writes. */
const tables = ["workflows", "steps", "attempts", "signals", "workers"]

/** Everything that is recorded, as a text; of a database without tables the same as of one whose tables are empty. */
export const contentOf = (database: Sqlite.Database): string => {
  const there = new Set(database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").pluck().all())
  return JSON.stringify(
    tables.map((table) =>
      there.has(table) ? database.prepare(`SELECT * FROM ${table} ORDER BY 1, 2, 3, 4, 5`).raw().all() : []
    )
  )
}

/** Whether the frame is the last one of a transaction: the size of the database stands in it. */
export const isCommit = (frameHeader: Buffer): boolean => frameHeader.readUInt32BE(4) > 0

export const walHeader = 32
export const frameHeader = 24
