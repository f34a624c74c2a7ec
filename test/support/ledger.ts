/**
 * The external ledger: what effects did and what callers were told, a line of JSON each. The file lies beside the database, and the
 * engine knows nothing of it: what must hold is checked with it, with what was acknowledged, and with the database.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs"

export interface Ledger<Entry> {
  /** In one write and one sync: the entry is there for good before anything comes after it. */
  readonly enter: (entry: Entry) => void
  readonly close: () => void
}

export const openLedger = <Entry>(file: string): Ledger<Entry> => {
  const descriptor = openSync(file, "a")
  return {
    enter: (entry) => {
      writeSync(descriptor, `${JSON.stringify(entry)}\n`)
      fsyncSync(descriptor)
    },
    close: () => closeSync(descriptor)
  }
}

/** The whole lines: others write while one reads, and of a line that crosses a page one may see the beginning. */
export const linesOf = (file: string): ReadonlyArray<string> =>
  existsSync(file) ? readFileSync(file, "utf8").split("\n").slice(0, -1) : []

export const entriesOf = <Entry>(file: string): ReadonlyArray<Entry> =>
  linesOf(file).map((line): Entry => JSON.parse(line))
