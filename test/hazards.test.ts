/**
 * The hazards of the ground we build on: each is reproduced with the bare libraries, and shown to be met by the store.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { SqlClient } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { afterEach, describe, expect, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Cause, Effect, Either, Exit, Fiber, Layer } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { vi } from "vitest"
import { start } from "./suites/processes.js"
import { completed, everything, newRun, patch, update } from "./suites/rows.js"
import { temporaryFile, temporaryFolder } from "./suites/stores.js"

/** The connections that stores have opened for themselves. */
const connections = vi.hoisted((): Array<Connection> => [])

vi.mock("@effect/sql-sqlite-node/SqliteClient", async (original) => {
  const module = await original<typeof SqliteClient>()
  return {
    ...module,
    make: (config: SqliteClient.SqliteClientConfig) =>
      Effect.map(module.make(config), (client) => ({
        ...client,
        reserve: Effect.tap(client.reserve, (connection) => Effect.sync(() => connections.push(connection)))
      }))
  }
})

afterEach(() => {
  connections.length = 0
})

/** What a pragma of the store's own connection says. */
const pragmaOfStore = (name: string) =>
  Effect.map(
    Effect.suspend(() => connections[0]!.executeUnprepared(`PRAGMA ${name}`, [], undefined)),
    ([row]) => (row as Record<string, unknown>)[name]
  )

const openBare = (filename: string, timeout = 0) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const database = new Sqlite(filename, { timeout })
      database.pragma("journal_mode = WAL")
      return database
    }),
    (database) => Effect.sync(() => database.close())
  )

const codeOf = (run: () => unknown): string => {
  try {
    run()
    return "no error"
  } catch (error) {
    return (error as { readonly code: string }).code
  }
}

/** A run with a step, written through the store and read back. */
const useStore = Effect.fnUntraced(function*(run: string) {
  const store = yield* StepStore.StepStore
  yield* store.commit([newRun(run)])
  yield* store.commit([update(run, { steps: [completed(run, 0)] })])
  return (yield* store.history(run, 0, everything)).rows
})

/** The longest time for which no timer of this process ran while the effect did. */
const longestSilence = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    let last = performance.now()
    let longest = 0
    const measure = () => {
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
    }
    const ticking = setInterval(measure, 5)
    const exit = yield* Effect.exit(effect)
    measure()
    clearInterval(ticking)
    return { exit, longest }
  })

describe("hazard 1: a commit is not power-safe by default", () => {
  it.scoped("the driver lowers synchronous with the first write", () =>
    Effect.gen(function*() {
      const bare = yield* openBare(yield* temporaryFile)
      expect(bare.pragma("synchronous", { simple: true })).toBe(2)
      bare.exec("CREATE TABLE t (a)")
      expect(bare.pragma("synchronous", { simple: true })).toBe(1)
    }))

  for (
    const [name, options, level] of [["by default", {}, 2], ["with NORMAL", { synchronous: "NORMAL" }, 1]] as const
  ) {
    it.scoped(`the store keeps it at ${level} ${name}, on a new file and on an old one`, () =>
      Effect.gen(function*() {
        const filename = yield* temporaryFile
        for (const file of ["new", "old"]) {
          connections.length = 0
          yield* Effect.gen(function*() {
            expect(yield* pragmaOfStore("synchronous")).toBe(level)
            yield* useStore(file)
            expect(yield* pragmaOfStore("synchronous")).toBe(level)
          }).pipe(Effect.provide(SqliteStepStore.layer({ filename, ...options })))
          expect(connections).toHaveLength(1)
        }
      }))
  }

  for (const [synchronous, level] of [["FULL", 2], ["NORMAL", 1], ["inherit", 3]] as const) {
    it.scoped(`a client's connection has ${level} with ${synchronous}`, () =>
      Effect.gen(function*() {
        const client = SqliteClient.layer({ filename: yield* temporaryFile })
        yield* Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          yield* sql`PRAGMA synchronous = EXTRA`
          yield* Effect.provide(useStore("run"), SqliteStepStore.layerClient({ synchronous }))
          expect(yield* sql`PRAGMA synchronous`).toEqual([{ synchronous: level }])
        }).pipe(Effect.provide(client))
      }))
  }
})

describe("hazard 2: transactions begin deferred", () => {
  it.scoped("a transaction of the client that has read fails behind another writer", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const other = yield* openBare(filename)
      other.exec("CREATE TABLE t (a); INSERT INTO t VALUES (0)")
      const failure = yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        return yield* sql.withTransaction(Effect.gen(function*() {
          yield* sql`SELECT a FROM t`
          other.exec("UPDATE t SET a = a + 1")
          yield* sql`UPDATE t SET a = a + 1`
        })).pipe(Effect.flip)
      }).pipe(Effect.provide(SqliteClient.layer({ filename })))
      expect(failure.cause).toMatchObject({ code: "SQLITE_BUSY_SNAPSHOT" })
    }))

  it.scoped("the store holds the lock for writing from the first statement on, and reads behind it", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const other = yield* openBare(filename)
        const statements: Array<string> = []
        const connection = connections[0]!
        const executeRaw = connection.executeRaw
        Object.assign(connection, {
          executeRaw: (sql: string, values: ReadonlyArray<unknown>) =>
            Effect.suspend(() => {
              statements.push(sql.split(" ")[0]!)
              // Between any two statements of the transaction somebody else tries to write.
              if (statements.length > 1) {
                expect(codeOf(() => other.exec("BEGIN IMMEDIATE"))).toBe("SQLITE_BUSY")
              }
              return executeRaw(sql, values)
            })
        })
        yield* store.commit([newRun("a"), newRun("b"), update("c")])
        expect(statements).toEqual(["BEGIN", "SELECT", "INSERT", "INSERT", "COMMIT"])
      }).pipe(Effect.provide(SqliteStepStore.layer({ filename })))
    }))

  it.scoped("a large transaction is one turn: no other fiber runs in between", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const other = yield* openBare(filename)
        const looking = yield* Effect.fork(Effect.forever(Effect.zipRight(
          Effect.sync(() => {
            other.exec("BEGIN IMMEDIATE")
            other.exec("ROLLBACK")
          }),
          Effect.yieldNow()
        )))
        const runs = Array.from({ length: 3_000 }, (_, index) => newRun(`run-${index}`))
        yield* store.commit(runs)
        const steps = runs.map(({ workflowId }) =>
          update(workflowId, { steps: [completed(workflowId, 0)], patch: patch() })
        )
        yield* store.commit(steps)
        expect(
          Cause.isInterruptedOnly(yield* Effect.flip(Effect.sandbox(Fiber.interrupt(looking).pipe(Effect.flatten))))
        )
          .toBe(true)
      }).pipe(Effect.provide(SqliteStepStore.layer({ filename })))
    }))
})

describe("hazard 3: a busy wait blocks the process", () => {
  it.live("the driver's own wait stops every timer", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const holder = yield* openBare(filename)
      const bare = yield* openBare(filename, 300)
      holder.exec("BEGIN IMMEDIATE")
      const { longest } = yield* longestSilence(Effect.sync(() => codeOf(() => bare.exec("BEGIN IMMEDIATE"))))
      expect(longest).toBeGreaterThan(250)
    })))

  for (const kind of ["file", "client"] as const) {
    it.live(`the store waits for a process that locks for 400 ms at a time, and timers run (${kind})`, () =>
      Effect.scoped(Effect.gen(function*() {
        const filename = yield* temporaryFile
        const store = kind === "file"
          ? SqliteStepStore.layer({ filename })
          : Layer.provide(SqliteStepStore.layerClient(), SqliteClient.layer({ filename }))
        yield* Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          yield* store.commit([newRun("run")])
          const holder = yield* start("lockHolder", [filename, "400", "10"])
          yield* holder.line
          const { exit, longest } = yield* longestSilence(
            Effect.forEach(
              [0, 1, 2],
              (position) => store.commit([update("run", { steps: [completed("run", position)] })])
            )
          )
          expect(exit).toEqual(Exit.succeed([[{ _tag: "Accepted" }], [{ _tag: "Accepted" }], [{ _tag: "Accepted" }]]))
          expect(longest).toBeLessThan(200)
        }).pipe(Effect.provide(store))
      })))
  }
})

describe("hazard 4: failures arrive as defects", () => {
  it.scoped("opening what cannot be opened kills the driver's effect", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Layer.build(SqliteClient.layer({ filename: "/no/such/folder/durable.db" })))
      expect(Exit.isFailure(exit) && Cause.isDie(exit.cause)).toBe(true)
    }))

  it.scoped("a full database inside a transaction kills the driver's effect", () =>
    Effect.gen(function*() {
      const client = SqliteClient.layer({ filename: yield* temporaryFile })
      const exit = yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE t (a)`
        yield* sql`PRAGMA max_page_count = 3`
        return yield* Effect.exit(sql.withTransaction(sql`INSERT INTO t VALUES (${"x".repeat(100_000)})`))
      }).pipe(Effect.provide(client))
      expect(Exit.isFailure(exit) && Cause.isDie(exit.cause)).toBe(true)
    }))

  it.scoped("the store says StoreFull, writes nothing, and goes on when there is room", () =>
    Effect.gen(function*() {
      const client = SqliteClient.layer({ filename: yield* temporaryFile })
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const store = yield* StepStore.StepStore
        yield* store.commit([newRun("run")])
        const [{ page_count: pages }] = (yield* sql`PRAGMA page_count`) as unknown as [{ readonly page_count: number }]
        yield* sql.unsafe(`PRAGMA max_page_count = ${pages}`)
        const large = completed("run", 0, { output: JSON.stringify("x".repeat(100_000)) })
        for (const rest of [{}, { patch: patch() }]) {
          const full = yield* Effect.flip(store.commit([update("run", { steps: [large], ...rest })]))
          expect(full).toMatchObject({ _tag: "StoreFull" })
          expect(full.message).toMatch(/no room left/)
        }
        expect((yield* store.history("run", 0, everything)).rows).toEqual([])
        yield* sql`PRAGMA max_page_count = 1000000`
        expect(yield* store.commit([update("run", { steps: [large], patch: patch() })])).toEqual([{ _tag: "Accepted" }])
      }).pipe(Effect.provide(Layer.provideMerge(SqliteStepStore.layerClient(), client)))
    }))

  const refusal = (filename: string) => Effect.flip(Effect.scoped(Layer.build(SqliteStepStore.layer({ filename }))))

  const cases: ReadonlyArray<readonly [name: string, filename: (folder: string) => string]> = [
    ["a file that is no database", (folder) => {
      writeFileSync(join(folder, "durable.db"), "once upon a time ".repeat(1_000))
      return join(folder, "durable.db")
    }],
    ["a database whose first page is overwritten", (folder) => {
      const filename = join(folder, "durable.db")
      const database = new Sqlite(filename)
      database.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
      database.close()
      writeFileSync(filename, readFileSync(filename).fill(7, 0, 4_096))
      return filename
    }]
  ]
  for (const [name, filename] of cases) {
    it.scoped(`${name} is StoreCorrupt when the layer is built`, () =>
      Effect.gen(function*() {
        const error = yield* refusal(filename(yield* temporaryFolder))
        expect(error._tag).toBe("StoreCorrupt")
      }))
  }
})

describe("hazard 5: a migration can be reported and not made", () => {
  it.live("a store that is opened while somebody writes waits, and then has its tables", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const holder = yield* start("lockHolder", [filename, "400", "10"])
      yield* holder.line
      const rows = yield* Effect.provide(useStore("run"), SqliteStepStore.layer({ filename }))
      expect(rows).toHaveLength(1)
    })))
})

describe("hazard 6: old versions of SQLite corrupt databases", () => {
  /** The application's client, but for the version that it reports. */
  const clientOf = (version: string) =>
    Layer.effect(
      SqlClient.SqlClient,
      Effect.map(SqlClient.SqlClient, (client) =>
        ({
          ...client,
          onDialectOrElse: client.onDialectOrElse,
          reserve: Effect.map(client.reserve, (connection): Connection => ({
            ...connection,
            executeRaw: (sql, values) =>
              sql.includes("sqlite_version") ? Effect.succeed([{ version }]) : connection.executeRaw(sql, values)
          }))
        }) as SqlClient.SqlClient)
    ).pipe(Layer.provide(SqliteClient.layer({ filename: ":memory:" })))

  for (
    const [version, isRefused] of [
      ["3.51.2", true],
      ["3.50.9", true],
      ["2.99.99", true],
      ["3.51.3", false],
      ["3.51.10", false],
      ["3.52.0", false],
      ["4.0.0", false]
    ] as const
  ) {
    it.effect(`SQLite ${version} is ${isRefused ? "refused" : "accepted"}`, () =>
      Effect.gen(function*() {
        const result = yield* useStore("run").pipe(
          Effect.provide(Layer.provide(SqliteStepStore.layerClient(), clientOf(version))),
          Effect.either
        )
        expect(Either.isLeft(result)).toBe(isRefused)
        expect(Either.match(result, { onLeft: (error) => error.message, onRight: () => version })).toContain(version)
      }))
  }

  it.scoped("nothing is mapped into memory", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.provide(
        Effect.gen(function*() {
          expect(yield* pragmaOfStore("mmap_size")).toBe(0)
        }),
        SqliteStepStore.layer({ filename })
      )
    }))
})

describe("hazard 7: pages have no checksums", () => {
  it.scoped("a flipped bit is served by the database, and refused by the store for that run alone", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const write = Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        yield* store.commit([newRun("damaged"), newRun("whole")])
        yield* store.commit([
          update("damaged", { steps: [completed("damaged", 0, { output: "\"the truth\"" })] }),
          update("whole", { steps: [completed("whole", 0)] })
        ])
      })
      yield* Effect.provide(write, SqliteStepStore.layer({ filename }))

      const page = readFileSync(filename)
      const at = page.indexOf("the truth")
      page[at + 4] = page[at + 4]! ^ 0x01
      writeFileSync(filename, page)

      const bare = yield* openBare(filename)
      expect(bare.prepare("SELECT output FROM steps WHERE workflow_id = 'damaged'").get()).toEqual({
        output: "\"the uruth\""
      })
      expect(bare.pragma("integrity_check", { simple: true })).toBe("ok")

      const read = Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const error = yield* Effect.flip(store.history("damaged", 0, everything))
        expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: "damaged" })
        expect((yield* store.history("whole", 0, everything)).rows).toHaveLength(1)
      })
      yield* Effect.provide(read, SqliteStepStore.layer({ filename }))
    }))
})
