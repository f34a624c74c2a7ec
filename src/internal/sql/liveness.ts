/**
 * Who lives. A worker holds an exclusive lock on a small file of its own beside the database for as long as it lives;
 * the system releases the lock with the process, however that ends. Whoever can read the file knows that its worker is
 * dead.
 *
 * Right where process ids and clocks are not: in containers, in worker threads, after a restart. Nothing here opens
 * such a file but SQLite: POSIX drops the locks of a process when the process closes any descriptor of the file.
 */
import { existsSync, rmSync } from "node:fs"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { StoreError } from "../../Errors.js"
import { digest } from "../digest.js"
import { type Busy, make, ownConnection, Prepared, Session } from "./database.js"
import { toStoreError } from "./errors.js"
import { open } from "./sqlite.js"

export interface Liveness {
  /** Shows that the worker lives, until the scope closes. */
  readonly acquire: (id: string) => Effect.Effect<void, StoreError, Scope.Scope>
  /** When in doubt, a worker is alive. */
  readonly isDead: (id: string, registered: boolean) => Effect.Effect<boolean>
  /** Removes what a dead worker left. */
  readonly forget: (id: string) => Effect.Effect<void>
}

/** A database in memory has the workers of this process only, each registered for as long as it lives. */
export const inMemory: Liveness = {
  acquire: () => Effect.void,
  isDead: (_, registered) => Effect.succeed(!registered),
  forget: () => Effect.void
}

const noWait = "PRAGMA busy_timeout = 0"

/**
 * @param options.file - the database
 * @param options.busy - how long to wait while somebody looks whether the worker lives
 */
export const besideFile = (options: {
  readonly file: string
  readonly namespace: string
  readonly busy: Busy | undefined
}): Liveness => {
  /** Workers that live in this process need no look at a file. */
  const here = new Set<string>()

  // The id may be any text, so the file is named after its digest.
  const lockOf = (id: string) => `${options.file}-worker-${digest([options.namespace, id])}.lock`

  const remove = (lock: string) => Effect.ignore(Effect.try(() => rmSync(lock, { force: true })))

  const acquire = Effect.fnUntraced(function*(id: string) {
    const target = lockOf(id)
    const prepared = new Prepared()
    yield* Effect.addFinalizer(() => remove(target))
    const connection = yield* Effect.mapError(open({ filename: target }), (failure) => toStoreError(target, failure))
    const session = new Session(connection, prepared)
    const lock = make({ target, prepared, busy: options.busy, ...ownConnection(session) })
    yield* lock.turn(() =>
      session.once(noWait).pipe(
        // A journal on disk would be a second file, left behind by whoever is killed.
        Effect.zipRight(session.once("PRAGMA journal_mode = MEMORY")),
        Effect.zipRight(session.change("BEGIN EXCLUSIVE", []))
      )
    )
    yield* Effect.acquireRelease(
      Effect.sync(() => here.add(id)),
      () => Effect.sync(() => here.delete(id))
    )
  })

  /** Only a reader's lock is taken, so that two who look at once do not take each other for the worker. */
  const isFree = Effect.fnUntraced(function*(lock: string) {
    const session = new Session(yield* open({ filename: lock, readonly: true }), new Prepared())
    yield* session.once(noWait)
    yield* session.all("SELECT count(*) FROM sqlite_master", [])
    return true
  })

  const isDead = (id: string) =>
    Effect.suspend(() => {
      if (here.has(id)) {
        return Effect.succeed(false)
      }
      return existsSync(lockOf(id))
        ? Effect.orElseSucceed(Effect.scoped(isFree(lockOf(id))), () => false)
        : Effect.succeed(true)
    })

  return { acquire, isDead, forget: (id) => remove(lockOf(id)) }
}
