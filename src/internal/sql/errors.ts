/** Turns what the driver says, thrown or failed, into the errors of the store: the only place where it is looked at. */
import { SqlError } from "@effect/sql/SqlError"
import type { StoreError } from "../../Errors.js"
import { StoreBusy, StoreCorrupt, StoreFull, StoreReadOnly, StoreRejected, StoreUnavailable } from "../../Errors.js"

interface Facts {
  readonly target: string
  readonly detail: string
}

type Translation = readonly [symptom: RegExp, error: (facts: Facts) => StoreError]

/** A name that we need belongs to somebody else. */
export const isTaken = (target: string, detail: string): StoreError =>
  new StoreUnavailable({ target, detail: `${detail} and is not Perdure's: give this store a tablePrefix` })

/**
 * The first that matches counts. `SQLITE_PROTOCOL` is what a race for the WAL's locks looks like, and `SHMSIZE` a disk without room for
 * the index of the WAL.
 */
const translations: ReadonlyArray<Translation> = [
  [/^SQLITE_(BUSY|LOCKED|PROTOCOL)/, (facts) => new StoreBusy(facts)],
  [/^SQLITE_(FULL|IOERR_SHMSIZE)/, (facts) => new StoreFull(facts)],
  [/^SQLITE_(READONLY|PERM)/, (facts) => new StoreReadOnly(facts)],
  [/^SQLITE_(CORRUPT|NOTADB)/, (facts) => new StoreCorrupt({ ...facts, workflowId: null })],
  [/^SQLITE_(CONSTRAINT|TOOBIG|MISMATCH|RANGE)/, (facts) => new StoreRejected(facts)],
  [/already exists/, ({ detail, target }) => isTaken(target, detail)],
  // Whatever else SQLite reports, and a connection or a folder that is gone, concerns every run.
  [/^SQLITE_|connection is not open|directory does not exist/, (facts) => new StoreUnavailable(facts)],
  // The driver refuses what it cannot bind.
  [/^/, (facts) => new StoreRejected(facts)]
]

const textOf = (cause: unknown): string => {
  const { code, message = cause }: { readonly code?: unknown; readonly message?: unknown } = Object(cause)
  return [code, message].filter((part) => part !== undefined).map(String).join(": ")
}

/**
 * The error of the store that a failure of the database stands for.
 *
 * @param target - the file or database, for the message
 * @param failure - a `SqlError`, or what the driver threw
 */
export const toStoreError = (target: string, failure: unknown): StoreError => {
  const detail = textOf(failure instanceof SqlError ? failure.cause : failure)
  const [, error] = translations.find(([symptom]) => symptom.test(detail)) as Translation
  return error({ target, detail })
}
