import { execFileSync } from "node:child_process"
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Effect, type Scope } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import type { Opening } from "../fixtures/faults/opening.js"
import { start } from "../suites/processes.js"
import { newRun } from "../suites/rows.js"
import { bundle, launch } from "../support/bundle.js"
import { fixedRow } from "./row.js"

type Tag = "StoreUnavailable" | "StoreReadOnly" | "StoreBusy"

/** What the message tells to do. */
const remedies: Record<Tag, RegExp> = {
  StoreUnavailable: /check that the path exists and that this process may open it$/,
  StoreReadOnly: /give this process write permission on the file and on its folder$/,
  StoreBusy: /find the process that holds the lock for so long, or raise the store's "busy" option$/
}

interface Case {
  readonly what: string
  readonly tag: Tag
  /** Makes it in an empty folder that everybody may write to, and answers the path of the database. */
  readonly path: (folder: string) => string | Effect.Effect<string, never, Scope.Scope>
}

const database = "durable.db"

/** A folder that everybody may write to. */
const folderIn = (folder: string, name: string) => {
  const path = join(folder, name)
  mkdirSync(path)
  chmodSync(path, 0o777)
  return path
}

/** Somebody else's database, without a log, that everybody may write to. */
const plain = (folder: string) => {
  const file = join(folder, database)
  new Sqlite(file).exec("CREATE TABLE t (a)").close()
  chmodSync(file, 0o666)
  return file
}

/** A store's database with a log, as a process that was killed has left it. */
const withLog = (folder: string): Effect.Effect<string> =>
  Effect.gen(function*() {
    const elsewhere = join(folder, "elsewhere")
    mkdirSync(elsewhere)
    yield* Effect.flatMap(StepStore.StepStore, (store) => {
      const files = ["", "-wal", "-shm"].map((suffix) => database + suffix)
      return Effect.zipRight(
        store.commit([newRun("run")]),
        Effect.sync(() => files.forEach((name) => copyFileSync(join(elsewhere, name), join(folder, name))))
      )
    }).pipe(Effect.provide(SqliteStepStore.layer({ filename: join(elsewhere, database) })), Effect.orDie)
    rmSync(elsewhere, { recursive: true })
    for (const name of readdirSync(folder)) {
      chmodSync(join(folder, name), 0o666)
    }
    return join(folder, database)
  })

const long = (length: number) => "x".repeat(length)

const cases: ReadonlyArray<Case> = [
  // -- no such place
  { what: "an empty name", tag: "StoreUnavailable", path: () => "" },
  { what: "a blank name", tag: "StoreUnavailable", path: () => "  " },
  { what: "a name with a NUL", tag: "StoreUnavailable", path: (folder) => join(folder, "dur\0able.db") },
  {
    what: "a name with white space around it",
    tag: "StoreUnavailable",
    path: (folder) => join(folder, "durable.db\n")
  },
  { what: "half a surrogate pair", tag: "StoreUnavailable", path: (folder) => join(folder, "\ud800.db") },
  { what: "a name too long for a file", tag: "StoreUnavailable", path: (folder) => join(folder, long(300)) },
  {
    what: "a path too long for SQLite",
    tag: "StoreUnavailable",
    path: (folder) => {
      const deep = Array.from({ length: 10 }, () => long(100)).reduce((path, name) => folderIn(path, name), folder)
      return join(deep, database)
    }
  },
  { what: "a missing folder", tag: "StoreUnavailable", path: (folder) => join(folder, "missing", database) },
  { what: "a folder as the file", tag: "StoreUnavailable", path: (folder) => folder },
  {
    what: "a folder that may not be written to as the file",
    tag: "StoreUnavailable",
    path: (folder) => {
      chmodSync(folder, 0o555)
      return folder
    }
  },
  {
    what: "a file as the folder",
    tag: "StoreUnavailable",
    path: (folder) => {
      writeFileSync(join(folder, "file"), "")
      return join(folder, "file", database)
    }
  },
  {
    what: "a folder in place of the log",
    tag: "StoreUnavailable",
    path: (folder) => {
      const file = plain(folder)
      mkdirSync(`${file}-wal`)
      return file
    }
  },
  {
    what: "a symbolic link into a missing folder",
    tag: "StoreUnavailable",
    path: (folder) => {
      symlinkSync(join(folder, "missing", database), join(folder, database))
      return join(folder, database)
    }
  },
  {
    what: "a circle of symbolic links",
    tag: "StoreUnavailable",
    path: (folder) => {
      symlinkSync(join(folder, "other"), join(folder, database))
      symlinkSync(join(folder, database), join(folder, "other"))
      return join(folder, database)
    }
  },

  // -- something else
  {
    what: "a pipe",
    tag: "StoreUnavailable",
    path: (folder) => {
      execFileSync("mkfifo", ["-m", "666", join(folder, database)])
      return join(folder, database)
    }
  },
  {
    what: "a socket",
    tag: "StoreUnavailable",
    path: (folder) =>
      Effect.as(
        Effect.acquireRelease(
          Effect.async<ReturnType<typeof createServer>>((resume) => {
            const server = createServer().listen(join(folder, database), () => {
              chmodSync(join(folder, database), 0o777)
              resume(Effect.succeed(server))
            })
          }),
          (server) => Effect.sync(() => server.close())
        ),
        join(folder, database)
      )
  },
  {
    what: "a device",
    tag: "StoreUnavailable",
    path: (folder) => {
      symlinkSync("/dev/zero", join(folder, database))
      return join(folder, database)
    }
  },

  // -- without permission
  {
    what: "a new file in a folder that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => {
      chmodSync(folder, 0o555)
      return join(folder, database)
    }
  },
  {
    what: "a file in a folder that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => {
      const file = plain(folder)
      chmodSync(folder, 0o555)
      return file
    }
  },
  {
    what: "a file in a folder that may not be looked into",
    tag: "StoreReadOnly",
    path: (folder) => {
      const file = plain(folder)
      chmodSync(folder, 0o000)
      return file
    }
  },
  {
    what: "a file that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => {
      const file = plain(folder)
      chmodSync(file, 0o444)
      return file
    }
  },
  {
    what: "a file that may not be read",
    tag: "StoreReadOnly",
    path: (folder) => {
      const file = plain(folder)
      chmodSync(file, 0o000)
      return file
    }
  },
  {
    what: "a symbolic link to a file that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => {
      chmodSync(plain(folder), 0o444)
      symlinkSync(join(folder, database), join(folder, "link.db"))
      return join(folder, "link.db")
    }
  },
  {
    what: "a store that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => Effect.tap(withLog(folder), (file) => Effect.sync(() => chmodSync(file, 0o444)))
  },
  {
    what: "a store in a folder that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) =>
      Effect.tap(withLog(folder), (file) =>
        Effect.sync(() => {
          rmSync(`${file}-wal`)
          rmSync(`${file}-shm`)
          chmodSync(folder, 0o555)
        }))
  },
  {
    what: "a log that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => Effect.tap(withLog(folder), (file) => Effect.sync(() => chmodSync(`${file}-wal`, 0o444)))
  },
  {
    what: "an index of the log that may not be written to",
    tag: "StoreReadOnly",
    path: (folder) => Effect.tap(withLog(folder), (file) => Effect.sync(() => chmodSync(`${file}-shm`, 0o444)))
  },

  // -- somebody else's
  {
    what: "a file that another process has locked",
    tag: "StoreBusy",
    path: (folder) => {
      const file = plain(folder)
      return Effect.gen(function*() {
        const holder = yield* start("lockHolder", [file, "100000"])
        yield* holder.line
        return file
      }).pipe(Effect.orDie)
    }
  }
]

/** What is in a folder: what kind of thing each is, and what is in it. */
const contentOf = (folder: string): ReadonlyArray<string> => {
  const { mode } = lstatSync(folder)
  chmodSync(folder, 0o755)
  const content = readdirSync(folder).flatMap((name) => {
    const path = join(folder, name)
    const found = lstatSync(path)
    const line = `${path} ${found.mode} ${found.size}`
    if (found.isDirectory()) {
      return [line, ...contentOf(path)]
    }
    // The index is made of the log, and made anew by whoever comes first.
    if (!found.isFile() || name.endsWith("-shm")) {
      return [line]
    }
    chmodSync(path, 0o600)
    const bytes = readFileSync(path)
    chmodSync(path, found.mode)
    return [`${line} ${bytes.toString("base64")}`]
  })
  chmodSync(folder, mode)
  return content
}

/** A folder that everybody finds, and that goes with the scope whatever has been forbidden in it. */
const publicFolder = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = mkdtempSync(join(tmpdir(), "perdure-"))
    chmodSync(folder, 0o755)
    return folder
  }),
  (folder) =>
    Effect.sync(() => {
      for (const name of readdirSync(folder)) {
        chmodSync(join(folder, name), 0o777)
      }
      rmSync(folder, { recursive: true })
    })
)

fixedRow(
  {
    name: "read-only",
    title:
      "a path that is missing, forbidden or no file: a typed error when the layer is built, which names path and " +
      "remedy, and nothing is changed"
  },
  1,
  12,
  Effect.scoped(Effect.gen(function*() {
    const opener = yield* launch(yield* bundle("faults/opening"), [])
    const open = (filename: string) =>
      Effect.map(
        Effect.zipRight(opener.tell(JSON.stringify(filename)), opener.line),
        (line) => JSON.parse(line) as Opening
      ).pipe(Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => "the process hangs" }))
    const root = yield* publicFolder
    // The process is somebody who may open what is not forbidden.
    assert.strictEqual((yield* open(join(folderIn(root, "good"), database))).tag, "opened")
    for (const [i, { path, tag, what }] of cases.entries()) {
      yield* Effect.scoped(Effect.gen(function*() {
        const folder = folderIn(root, String(i))
        const made = path(folder)
        const filename = typeof made === "string" ? made : yield* made
        const before = contentOf(folder)
        const { message, tag: found } = yield* open(filename)
        assert.deepStrictEqual({ what, found, message }, { what, found: tag, message })
        // A name that is none is shown as a text.
        assert.include(
          message,
          /^\/[\w\/.-]+$/.test(filename) ? filename : JSON.stringify(filename),
          what
        )
        assert.match(message, remedies[tag], what)
        assert.deepStrictEqual(contentOf(folder), before, what)
      }))
    }
    return cases.length
  }))
)
