/** What differs between the databases that share the statements of `statements.ts`. */

export interface Dialect {
  /** Begins a transaction that holds what it needs to write. */
  readonly begin: string
  /** Follows the columns of a table whose rows may be large. */
  readonly heap: string
  /** Follows the columns of a table of short rows, kept in the order of its key. */
  readonly keyed: string
  /** Whether the column is in a list, which is bound as the text of a JSON array. */
  readonly isAmong: (column: string) => string
  /** The rows of two columns, a text and a number, which are bound as the text of a JSON array of arrays. */
  readonly pairs: string
}

/** A deferred BEGIN would read first, and then find at its first write that another connection has written meanwhile. */
export const sqlite: Dialect = {
  begin: "BEGIN IMMEDIATE",
  heap: "STRICT",
  keyed: "STRICT, WITHOUT ROWID",
  isAmong: (column) => `${column} IN (SELECT value FROM json_each(?))`,
  pairs: "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
}
