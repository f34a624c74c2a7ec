import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { basename, dirname } from "node:path"
import { SqlClient } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqlError } from "@effect/sql/SqlError"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Chunk, Config, ConfigProvider, Context, Effect, Exit, Fiber, Layer, Scope, Stream, TestClock } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { digest } from "../src/internal/digest.js"
import { invariant } from "../src/internal/invariant.js"
import { sqlite } from "../src/internal/sql/dialect.js"
import { toStoreError } from "../src/internal/sql/errors.js"
import { useWal } from "../src/internal/sql/sqlite.js"
import * as Statements from "../src/internal/sql/statements.js"
import { start } from "./suites/processes.js"
import { completed, everything, newRun, patch, update, workerInfo } from "./suites/rows.js"
import { temporaryFile } from "./suites/stores.js"

type Store = StepStore.StepStore["Type"]

/** A store that lives as long as the scope. */
const build = <E>(layer: Layer.Layer<StepStore.StepStore, E>): Effect.Effect<Store, E, Scope.Scope> =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) => Context.get(context, StepStore.StepStore))

const open = (filename: string, options: Partial<SqliteStepStore.Options> = {}) =>
  build(SqliteStepStore.layer({ filename, ...options }))

/** Somebody else's connection to the same file. */
const openBare = (filename: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new Sqlite(filename, { timeout: 0 })),
    (database) => Effect.sync(() => database.close())
  )

const idsOf = (runs: ReadonlyArray<{ readonly workflowId: string }>) => runs.map((run) => run.workflowId)

const claimAll = { worker: "taker", names: ["work"], workflowId: null, dead: [], limit: 100, at: 5 }

describe("options", () => {
  it.scoped("a person with the sqlite3 shell can read what happened", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      yield* store.commit([newRun("run"), newRun("other")])
      yield* store.commit([update("run", { steps: [completed("run", 0)] })])
      const bare = yield* openBare(filename)
      expect(bare.prepare("SELECT workflow_id, status, payload FROM workflows ORDER BY workflow_id").all()).toEqual([
        { workflow_id: "other", status: "RUNNING", payload: "{\"a\":1}" },
        { workflow_id: "run", status: "RUNNING", payload: "{\"a\":1}" }
      ])
      expect(bare.prepare("SELECT step_key, status, output, final FROM steps").all()).toEqual([
        { step_key: "run:0", status: "COMPLETED", output: "{\"position\":0}", final: 1 }
      ])
      for (const table of ["attempts", "signals", "workers"]) {
        expect(bare.prepare(`SELECT * FROM ${table}`).all()).toEqual([])
      }
    }))

  it.scoped("what was acknowledged is there when the file is opened again", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.scoped(Effect.gen(function*() {
        const store = yield* open(filename)
        yield* store.commit([newRun("run")])
        yield* store.commit([update("run", { steps: [completed("run", 0)], patch: patch() })])
      }))
      const store = yield* open(filename)
      expect((yield* store.history("run", 0, everything)).rows).toEqual([completed("run", 0)])
      expect(store.target).toBe(filename)
    }))

  it.scoped("runs of another namespace are invisible", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [one, other] = [yield* open(filename, { namespace: "one" }), yield* open(filename, { namespace: "other" })]
      yield* one.commit([newRun("run", { owner: "gone" })])
      yield* other.commit([newRun("run", { name: "else" })])
      expect((yield* other.runs(everything)).map((run) => run.name)).toEqual(["else"])
      expect(yield* other.claim(claimAll)).toEqual([])
      expect(yield* other.dead).toEqual([])
      expect(yield* one.dead).toEqual(["gone"])
      expect(one.namespace).toBe("one")
    }))

  it.scoped("stores with other table prefixes share a file", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [one, other] = [yield* open(filename, { tablePrefix: "a_" }), yield* open(filename, { tablePrefix: "b_" })]
      yield* one.commit([newRun("run")])
      expect(yield* other.runs(everything)).toEqual([])
    }))

  for (const tablePrefix of ["a-b", "1a", "x; DROP TABLE steps; --", "é", "x".repeat(33)]) {
    it.effect(`the table prefix ${JSON.stringify(tablePrefix)} is refused`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Effect.scoped(open(":memory:", { tablePrefix })))
        expect(error).toMatchObject({ _tag: "StoreUnavailable" })
        expect(error.message).toContain("table prefix")
      }))
  }

  for (const namespace of ["", "x".repeat(257), "a\0b", "\ud800"]) {
    it.effect(`the namespace ${JSON.stringify(namespace.slice(0, 9))} (${namespace.length}) is refused`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Effect.scoped(open(":memory:", { namespace })))
        expect(error).toMatchObject({ _tag: "StoreUnavailable" })
        expect(error.message).toContain("namespace")
      }))
  }

  it.scoped("options can come from the configuration", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const layer = SqliteStepStore.layerConfig({
        filename: Config.string("FILE"),
        namespace: Config.string("SPACE"),
        busy: { patience: Config.duration("PATIENCE") }
      })
      const provider = ConfigProvider.fromMap(
        new Map([["FILE", filename], ["SPACE", "orders"], ["PATIENCE", "1 second"]])
      )
      const store = yield* build(layer).pipe(Effect.withConfigProvider(provider))
      expect([store.target, store.namespace]).toEqual([filename, "orders"])
      const error = yield* Effect.flip(build(layer).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(new Map()))))
      expect(String(error)).toContain("Expected FILE to exist")
    }))
})

describe("the schema", () => {
  it.scoped("a newer database is used if it allows that, and kept at its version", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.scoped(open(filename))
      const bare = yield* openBare(filename)
      bare.exec("UPDATE perdure_schema SET version = 9, min_compatible = 1")
      const store = yield* open(filename)
      yield* store.commit([newRun("run")])
      expect(bare.prepare("SELECT version, min_compatible FROM perdure_schema").all())
        .toEqual([{ version: 9, min_compatible: 1 }])
    }))

  it.scoped("a newer database that this library cannot read is refused, and left as it is", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.scoped(open(filename))
      const bare = yield* openBare(filename)
      bare.exec("UPDATE perdure_schema SET version = 9, min_compatible = 8")
      const error = yield* Effect.flip(open(filename))
      expect(error).toMatchObject({ _tag: "StoreSchemaMismatch", found: 9, minCompatible: 8, supported: 1 })
      expect(bare.prepare("SELECT version FROM perdure_schema").all()).toEqual([{ version: 9 }])
    }))

  it.scoped("tables of somebody else are left alone, and the message names the way out", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const bare = yield* openBare(filename)
      bare.exec("CREATE TABLE steps (mine)")
      const error = yield* Effect.flip(open(filename))
      expect(error).toMatchObject({ _tag: "StoreUnavailable" })
      expect(error.message).toContain("tablePrefix")
      expect(bare.prepare("SELECT name FROM sqlite_master").all()).toEqual([{ name: "steps" }])
      yield* Effect.flatMap(open(filename, { tablePrefix: "perdure_" }), (store) => store.commit([newRun("run")]))
    }))

  it.scoped("a file with tables of somebody else's names is refused before a byte of it changes", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      new Sqlite(filename).exec("CREATE TABLE t (a); CREATE INDEX Steps_History ON t (a)").close()
      const before = readFileSync(filename)
      const error = yield* Effect.flip(open(filename))
      expect(error).toMatchObject({ _tag: "StoreUnavailable" })
      expect(error.message).toContain(
        "Steps_History already exists and is not Perdure's: give this store a tablePrefix"
      )
      expect(readFileSync(filename).equals(before)).toBe(true)
    }))

  for (const what of ["empty", "missing"]) {
    it.scoped(`a database that is ${what} beside a log with runs in it is refused, and the log is left as it is`, () =>
      Effect.gen(function*() {
        const filename = yield* temporaryFile
        const log = yield* Effect.scoped(Effect.gen(function*() {
          const store = yield* open(filename)
          yield* store.commit([newRun("run")])
          return readFileSync(`${filename}-wal`)
        }))
        what === "empty" ? writeFileSync(filename, "") : rmSync(filename)
        writeFileSync(`${filename}-wal`, log)
        const error = yield* Effect.flip(open(filename))
        expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: null })
        expect(error.message).toContain(`${filename}-wal`)
        expect(readFileSync(`${filename}-wal`).equals(log)).toBe(true)
      }))
  }

  it.scoped("a file that is empty is a new database: the death of a process that creates one leaves it so", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      writeFileSync(filename, "")
      const store = yield* open(filename)
      expect(yield* store.commit([newRun("run")])).toEqual([{ _tag: "Accepted" }])
    }))

  it.scoped("histories and claims are read through their indexes", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* open(filename)
      const bare = yield* openBare(filename)
      const statements = Statements.make(sqlite, "", "default")
      const planOf = (sql: string) =>
        (bare.prepare(`EXPLAIN QUERY PLAN ${sql}`).all(...Array.from(sql.matchAll(/\?/g), () => 1)) as ReadonlyArray<
          { readonly detail: string }
        >).map((row) => row.detail).join("\n")
      expect(planOf(statements.history)).toMatch(/^SEARCH steps USING INDEX steps_history \(.*position>\?\)$/)
      for (const sql of [statements.lightHistory, statements.share]) {
        expect(planOf(sql)).toMatch(/SEARCH steps USING INDEX steps_history \(.*position>\?\)/)
        expect(planOf(sql)).not.toMatch(/SCAN steps|TEMP B-TREE/)
      }
      expect(planOf(statements.claimable)).toMatch(
        /SEARCH workflows USING INDEX workflows_open \(namespace=\? AND <expr>=\?\)/
      )
      expect(planOf(statements.claimable)).not.toMatch(/SCAN workflows/)
      expect(planOf(statements.owners)).toMatch(
        /SEARCH workflows USING INDEX workflows_open \(namespace=\? AND <expr>>\?\)/
      )
      expect(planOf(statements.owners)).not.toMatch(/TEMP B-TREE/)
      expect(planOf(statements.runs)).not.toMatch(/TEMP B-TREE/)
      expect(planOf(statements.steps)).not.toMatch(/TEMP B-TREE/)
    }))

  it.scoped("a page of a long history costs the same as a page of a short one", () =>
    Effect.gen(function*() {
      const store = yield* open(":memory:")
      yield* store.commit([newRun("run")])
      for (let from = 0; from < 20_000; from += 1_000) {
        const steps = Array.from({ length: 1_000 }, (_, index) => completed("run", from + index))
        yield* store.commit([update("run", { steps })])
      }
      let [count, after] = [0, null as number | null]
      for (let more = true; more;) {
        const page: StepStore.Paged<StepStore.StepRow> = yield* store.history("run", 0, { after, limit: 1_000 })
        count += page.rows.length
        after = page.rows.at(-1)!.position
        more = page.more
      }
      expect([count, after]).toEqual([20_000, 19_999])
    }))
})

/** The application's client, whose connection answers some statements in its own way. */
const tampered = (
  config: SqliteClient.SqliteClientConfig,
  tamper: (connection: Connection) => Partial<Connection>
): Layer.Layer<SqlClient.SqlClient, unknown> =>
  Layer.effect(
    SqlClient.SqlClient,
    Effect.map(SqlClient.SqlClient, (client) =>
      ({
        ...client,
        onDialectOrElse: client.onDialectOrElse,
        reserve: Effect.map(client.reserve, (connection) => ({ ...connection, ...tamper(connection) }))
      }) as SqlClient.SqlClient)
  ).pipe(Layer.provide(SqliteClient.layer(config)))

const openTampered = (
  tamper: (connection: Connection) => Partial<Connection>,
  options: SqliteStepStore.ClientOptions = {}
) => build(Layer.provide(SqliteStepStore.layerClient(options), tampered({ filename: ":memory:" }, tamper)))

describe("what is asserted when the layer is built", () => {
  it.scoped("a migration that was reported and not made is refused", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(openTampered((connection) => ({
        executeUnprepared: (sql, values, transform) =>
          sql.startsWith("INSERT INTO perdure_schema")
            ? Effect.succeed([])
            : connection.executeUnprepared(sql, values, transform)
      })))
      expect(error).toMatchObject({ _tag: "StoreSchemaMismatch", found: 0 })
    }))

  it.scoped("a connection that does not become as durable as it should is refused", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(openTampered((connection) => ({
        executeUnprepared: (sql, values, transform) =>
          connection.executeUnprepared(sql.replace("synchronous = FULL", "synchronous = OFF"), values, transform)
      })))
      expect(error).toMatchObject({ _tag: "StoreUnavailable" })
      expect(String(error)).toContain("synchronous = FULL, and stays at 0")
    }))

  it.effect("a file system without shared memory is refused", () =>
    Effect.gen(function*() {
      const database = {
        target: "net.db",
        turn: () => Effect.succeed([{ journal_mode: "delete" }]) as Effect.Effect<never>
      }
      const error = yield* Effect.flip(useWal(database, ""))
      expect(error.message).toContain("SQLite stays at delete")
    }))

  it.effect("the client of another database is refused", () =>
    Effect.gen(function*() {
      const client = Layer.succeed(
        SqlClient.SqlClient,
        { onDialectOrElse: (options: { readonly orElse: () => unknown }) => options.orElse() } as SqlClient.SqlClient
      )
      const error = yield* Effect.flip(Effect.scoped(build(Layer.provide(SqliteStepStore.layerClient(), client))))
      expect(error).toMatchObject({ _tag: "StoreUnavailable" })
      expect(error.message).toContain("another database")
    }))

  it("an invariant that does not hold is our bug, and says so", () => {
    expect(() => invariant(true, "fine")).not.toThrow()
    expect(() => invariant(false, "2 of 3 rows")).toThrow(/invariant does not hold: 2 of 3 rows/)
  })
})

describe("failures", () => {
  it("each thing that SQLite says stands for one error", () => {
    const error = (cause: unknown) => toStoreError("x.db", new SqlError({ cause }))
    const expected: Record<string, ReadonlyArray<unknown>> = {
      StoreBusy: [
        "SQLITE_BUSY",
        "SQLITE_BUSY_SNAPSHOT",
        "SQLITE_LOCKED",
        "SQLITE_LOCKED_SHAREDCACHE",
        "SQLITE_PROTOCOL"
      ],
      StoreFull: ["SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"],
      StoreReadOnly: ["SQLITE_READONLY", "SQLITE_READONLY_DBMOVED", "SQLITE_PERM"],
      StoreCorrupt: ["SQLITE_CORRUPT", "SQLITE_CORRUPT_VTAB", "SQLITE_NOTADB"],
      StoreUnavailable: ["SQLITE_CANTOPEN", "SQLITE_IOERR_READ", "SQLITE_NOMEM", "SQLITE_ERROR", "SQLITE_SCHEMA"],
      StoreRejected: ["SQLITE_CONSTRAINT_CHECK", "SQLITE_TOOBIG", "SQLITE_MISMATCH", "SQLITE_RANGE"]
    }
    for (const [tag, codes] of Object.entries(expected)) {
      for (const code of codes) {
        expect([code, error({ code, message: "text" })._tag]).toEqual([code, tag])
      }
    }
    expect(error({ code: "SQLITE_FULL", message: "disk is full" })).toMatchObject({
      target: "x.db",
      detail: "SQLITE_FULL: disk is full"
    })
    expect(error(new TypeError("The database connection is not open"))._tag).toBe("StoreUnavailable")
    expect(error(new TypeError("Cannot open database because the directory does not exist"))._tag).toBe(
      "StoreUnavailable"
    )
    expect(error(new RangeError("The supplied value is too large"))._tag).toBe("StoreRejected")
    expect(toStoreError("x.db", "just text")).toMatchObject({ _tag: "StoreRejected", detail: "just text" })
    expect(toStoreError("x.db", undefined)._tag).toBe("StoreRejected")
  })

  it.scoped("what cannot be bound is rejected", () =>
    Effect.gen(function*() {
      const store = yield* open(":memory:")
      yield* store.commit([newRun("run")])
      const step = completed("run", 0, { sequence: "a" as unknown as number })
      expect(yield* Effect.flip(store.commit([update("run", { steps: [step] })]))).toMatchObject({
        _tag: "StoreRejected"
      })
      const object = completed("run", 0, { fingerprint: [] as unknown as string })
      expect(yield* Effect.flip(store.commit([update("run", { steps: [object] })]))).toMatchObject({
        _tag: "StoreRejected"
      })
    }))

  it.effect("a store whose layer was released is unavailable", () =>
    Effect.gen(function*() {
      const store = yield* Effect.scoped(open(":memory:"))
      expect(yield* Effect.flip(store.runs(everything))).toMatchObject({ _tag: "StoreUnavailable" })
    }))

  it.scoped("a run that stands twice in a batch is a defect of the caller, and undone", () =>
    Effect.gen(function*() {
      const store = yield* open(":memory:")
      const cause = yield* Effect.flip(Effect.sandbox(store.commit([newRun("run"), newRun("run")])))
      expect(String(cause)).toContain("a run stands in a batch once")
      expect(yield* store.commit([newRun("run"), newRun("other")])).toHaveLength(2)
    }))

  /** Makes the database refuse every change of these runs, as it does where their rows are damaged. */
  const refuseChanges = (bare: Sqlite.Database, workflowIds: ReadonlyArray<string>) =>
    bare.exec(
      `CREATE TRIGGER refused BEFORE UPDATE ON workflows WHEN old.workflow_id IN (${
        workflowIds.map((id) => `'${id}'`).join(", ")
      }) BEGIN SELECT RAISE(ABORT, 'damaged'); END`
    )

  it.scoped("runs whose rows the database refuses to change keep no other from being claimed", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const bare = yield* openBare(filename)
      const ids = ["a", "b", "c", "d", "e"]
      yield* store.commit(ids.map((id, createdAt) => newRun(id, { createdAt })))
      refuseChanges(bare, ["a", "b", "d"])
      expect(idsOf(yield* store.claim({ ...claimAll, limit: 1 }))).toEqual(["c"])
      expect(idsOf(yield* store.claim({ ...claimAll, limit: 1 }))).toEqual(["e"])
      expect(yield* store.claim({ ...claimAll, limit: 1 })).toEqual([])
      expect(yield* Effect.flip(store.claim({ ...claimAll, workflowId: "a" }))).toMatchObject({ _tag: "StoreRejected" })
    }))

  it.scoped("a COMMIT that fails is undone, and the next transaction is not in its way", () =>
    Effect.gen(function*() {
      let isBroken = true
      const store = yield* openTampered((connection) => ({
        executeRaw: (sql, values) =>
          sql === "COMMIT" && isBroken && values !== undefined
            ? Effect.fail(new SqlError({ cause: { code: "SQLITE_IOERR_FSYNC", message: "disk I/O error" } }))
            : connection.executeRaw(sql, values)
      })).pipe(
        Effect.provideService(Scope.Scope, yield* Effect.scope),
        Effect.catchAll((error) => {
          expect(error).toMatchObject({ _tag: "StoreUnavailable" })
          isBroken = false
          return openTampered((connection) => ({
            executeRaw: (sql, values) =>
              Effect.suspend(() =>
                sql === "COMMIT" && isBroken
                  ? Effect.fail(new SqlError({ cause: { code: "SQLITE_IOERR_FSYNC", message: "disk I/O error" } }))
                  : connection.executeRaw(sql, values)
              )
          }))
        })
      )
      isBroken = true
      const two = [newRun("run"), newRun("other")]
      expect(yield* Effect.flip(store.commit(two))).toMatchObject({ _tag: "StoreUnavailable" })
      isBroken = false
      expect(yield* store.run("run")).toMatchObject({ _tag: "None" })
      expect(yield* store.commit([newRun("run")])).toEqual([{ _tag: "Accepted" }])
    }))

  it.scoped("a statement that could once not be prepared is prepared again", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const bare = yield* openBare(filename)
      yield* store.commit([newRun("run")])
      bare.exec("ALTER TABLE attempts RENAME TO elsewhere")
      expect(yield* Effect.flip(store.attempts("run", 0))).toMatchObject({ _tag: "StoreUnavailable" })
      bare.exec("ALTER TABLE elsewhere RENAME TO attempts")
      expect(yield* store.attempts("run", 0)).toEqual([])
    }))
})

describe("waiting for the lock", () => {
  it.live("a transaction that finds the database locked is made as a whole when the lock is gone", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const bare = yield* openBare(filename)
      bare.exec("BEGIN IMMEDIATE")
      const waiting = yield* Effect.fork(store.commit([newRun("a"), newRun("b")]))
      yield* Effect.sleep("50 millis")
      expect(bare.prepare("SELECT count(*) AS runs FROM workflows").get()).toEqual({ runs: 0 })
      bare.exec("COMMIT")
      expect(yield* Fiber.join(waiting)).toEqual([{ _tag: "Accepted" }, { _tag: "Accepted" }])
      expect(idsOf(yield* store.runs(everything))).toEqual(["a", "b"])
    })))

  it.effect("patience is an option, and ends with StoreBusy", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename, {
        busy: { first: "1 seconds", factor: 1, cap: "1 seconds", patience: "1 minute" }
      })
      const bare = yield* openBare(filename)
      bare.exec("BEGIN IMMEDIATE")
      const waiting = yield* Effect.fork(Effect.flip(store.commit([newRun("run")])))
      yield* TestClock.adjust("55 seconds")
      expect(yield* Fiber.poll(waiting)).toMatchObject({ _tag: "None" })
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(waiting)
      expect(error).toMatchObject({ _tag: "StoreBusy", target: filename })
      expect(error.message).toContain("\"busy\" option")
    })))

  it.scoped("reads, and claims that find nothing, need no lock", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const bare = yield* openBare(filename)
      yield* store.commit([newRun("run", { owner: "owner" })])
      bare.exec("BEGIN IMMEDIATE")
      expect(yield* store.claim(claimAll)).toEqual([])
      expect(idsOf(yield* store.runs(everything))).toEqual(["run"])
      expect((yield* store.history("run", 0, everything)).rows).toEqual([])
      bare.exec("COMMIT")
    }))

  it.live("processes that claim at once never get the same run", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const ids = Array.from({ length: 300 }, (_, index) => `run-${String(index).padStart(3, "0")}`)
      yield* store.commit(ids.map((id) => newRun(id)))
      const gate = `${filename}.gate`
      const claimers = yield* Effect.forEach(["a", "b", "c"], (worker) => start("claimer", [filename, worker, gate]))
      const lines = Effect.forEach(claimers, (claimer) => claimer.line, { concurrency: "unbounded" })
      yield* lines
      mkdirSync(gate)
      const claimed = (yield* lines).flatMap((line) => JSON.parse(line) as ReadonlyArray<string>)
      expect([...claimed].sort()).toEqual(ids)
      expect((yield* store.runs(everything)).every((run) => run.epoch === 2)).toBe(true)
    })))
})

describe("liveness", () => {
  const locksOf = (filename: string) =>
    readdirSync(dirname(filename)).filter((name) => name.startsWith(`${basename(filename)}-worker-`))

  const lockOf = (filename: string, id: string) => `${filename}-worker-${digest(["default", id])}.lock`

  it.live("a worker that is killed is dead at once; one that hangs is not", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      const worker = yield* start("worker", [filename, "w"])
      yield* worker.line
      expect(yield* store.dead).toEqual([])
      worker.child.kill("SIGSTOP")
      expect(yield* store.dead).toEqual([])
      yield* worker.kill
      expect(yield* store.dead).toEqual(["w"])
      expect(yield* store.dead).toEqual(["w"])

      const bare = yield* openBare(filename)
      expect(bare.prepare("SELECT id, host FROM workers").all()).toEqual([{ id: "w", host: "here" }])
      expect(idsOf(yield* store.claim({ ...claimAll, dead: ["w"] }))).toEqual(["run-of-w"])
      expect(yield* store.dead).toEqual(["taker"])
      expect(bare.prepare("SELECT id FROM workers").all()).toEqual([])
      expect(locksOf(filename)).toEqual([])
    })))

  it.scoped("stores of one process see each other's workers, and what is closed is gone", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [here, there] = [yield* open(filename), yield* open(filename)]
      const scope = yield* Scope.make()
      yield* Scope.extend(here.register(workerInfo("w")), scope)
      yield* here.commit([newRun("run", { owner: "w" })])
      expect([yield* here.dead, yield* there.dead]).toEqual([[], []])
      expect(locksOf(filename)).toHaveLength(1)
      yield* Scope.close(scope, Exit.void)
      expect([yield* here.dead, yield* there.dead]).toEqual([["w"], ["w"]])
      expect(locksOf(filename)).toEqual([])
    }))

  it.scoped("a client's database has the same locks beside its file", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const client = yield* build(Layer.provide(SqliteStepStore.layerClient(), SqliteClient.layer({ filename })))
      const other = yield* open(filename)
      yield* client.register(workerInfo("w"))
      yield* client.commit([newRun("run", { owner: "w" })])
      expect(yield* other.dead).toEqual([])
      expect(existsSync(lockOf(filename, "w"))).toBe(true)
    }))

  it.scoped("a worker whose lock cannot be looked at is taken for alive, and one without a lock for dead", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [here, there] = [yield* open(filename), yield* open(filename)]
      yield* here.register(workerInfo("w"))
      yield* here.commit([newRun("run", { owner: "w" })])
      rmSync(lockOf(filename, "w"))
      expect(yield* there.dead).toEqual(["w"])
      mkdirSync(lockOf(filename, "w"))
      expect(yield* there.dead).toEqual([])
      expect(yield* here.dead).toEqual([])
    }))

  it.effect("a worker whose lock cannot be taken is not registered", () =>
    Effect.scoped(Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* open(filename)
      mkdirSync(lockOf(filename, "w"))
      expect(yield* Effect.flip(store.register(workerInfo("w")))).toMatchObject({ _tag: "StoreUnavailable" })
      const bare = yield* openBare(filename)
      expect(bare.prepare("SELECT id FROM workers").all()).toEqual([])
    })))
})

describe("changes", () => {
  const changesOf = (store: Store) =>
    Effect.gen(function*() {
      const pull = yield* Stream.toPull(store.changes)
      expect(Chunk.toReadonlyArray(yield* pull)).toEqual([null])
      return { next: Effect.map(pull, Chunk.toReadonlyArray) }
    })

  it.scoped("what another connection commits is noticed after the poll interval, and one's own commits are named", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const [here, there] = [yield* open(filename), yield* open(filename, { pollInterval: "10 seconds" })]
      const { next } = yield* changesOf(here)
      const { next: slow } = yield* changesOf(there)
      yield* here.commit([newRun("mine")])
      expect(yield* next).toEqual([{ runs: ["mine"], mail: [] }])
      yield* there.commit([newRun("theirs")])
      expect(yield* slow).toEqual([{ runs: ["theirs"], mail: [] }])

      const noticed = yield* Effect.fork(next)
      yield* TestClock.adjust("19 millis")
      expect(yield* Fiber.poll(noticed)).toMatchObject({ _tag: "None" })
      yield* TestClock.adjust("1 millis")
      expect(yield* Fiber.join(noticed)).toEqual([null])

      const late = yield* Effect.fork(slow)
      yield* TestClock.adjust("9 seconds")
      expect(yield* Fiber.poll(late)).toMatchObject({ _tag: "None" })
      yield* TestClock.adjust("1 seconds")
      expect(yield* Fiber.join(late)).toEqual([null])
    }))

  it.scoped("nothing is polled when nobody listens", () =>
    Effect.gen(function*() {
      const polls: Array<string> = []
      const filename = yield* temporaryFile
      const client = tampered({ filename }, (connection) => ({
        executeRaw: (sql, values) => {
          polls.push(...sql.includes("data_version") ? [sql] : [])
          return connection.executeRaw(sql, values)
        }
      }))
      const store = yield* build(Layer.provide(SqliteStepStore.layerClient(), client))
      yield* TestClock.adjust("1 seconds")
      expect(polls).toEqual([])
      yield* Effect.scoped(Effect.zipRight(changesOf(store), TestClock.adjust("1 seconds")))
      const count = polls.length
      expect(count).toBeGreaterThan(40)
      yield* TestClock.adjust("1 seconds")
      expect(polls.length).toBe(count)
    }))

  it.scoped("a poll that fails is tried again", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      let isBroken = true
      const client = tampered({ filename }, (connection) => ({
        executeRaw: (sql, values) =>
          Effect.suspend(() =>
            isBroken && sql.includes("data_version")
              ? Effect.fail(new SqlError({ cause: { code: "SQLITE_IOERR", message: "disk I/O error" } }))
              : connection.executeRaw(sql, values)
          )
      }))
      const store = yield* build(Layer.provide(SqliteStepStore.layerClient(), client))
      const { next } = yield* changesOf(store)
      const waiting = yield* Effect.fork(next)
      yield* TestClock.adjust("1 seconds")
      expect(yield* Fiber.poll(waiting)).toMatchObject({ _tag: "None" })
      isBroken = false
      yield* TestClock.adjust("20 millis")
      expect(yield* Fiber.join(waiting)).toEqual([null])
    }))

  it.scoped("a listener that sleeps for very long is told \"some\"", () =>
    Effect.gen(function*() {
      const store = yield* open(":memory:")
      const { next } = yield* changesOf(store)
      for (let from = 0; from < 11_000; from += 1_000) {
        yield* store.commit(Array.from({ length: 1_000 }, (_, index) => newRun(`run-${from + index}`)))
      }
      expect(yield* next).toEqual([null])
      yield* store.commit([newRun("last")])
      expect(yield* next).toEqual([{ runs: ["last"], mail: [] }])
    }))
})

describe("a client of the application", () => {
  it.scoped("keeps its own busy timeout", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const store = yield* StepStore.StepStore
        yield* sql`PRAGMA busy_timeout = 1234`
        yield* store.commit([newRun("run")])
        yield* Effect.flip(store.commit([update("run", { steps: [completed("run", 0, { position: null })] })]))
        expect(yield* sql.unsafe("PRAGMA  busy_timeout")).toEqual([{ timeout: 1_234 }])
      }).pipe(Effect.provide(Layer.provideMerge(SqliteStepStore.layerClient(), SqliteClient.layer({ filename }))))
    }))

  it.scoped("a transaction of another client does not take in what the store writes", () =>
    Effect.gen(function*() {
      const [theirs, ours] = [yield* temporaryFile, yield* temporaryFile]
      const store = yield* open(ours)
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* Effect.flip(
          sql.withTransaction(Effect.zipRight(store.commit([newRun("run")]), Effect.fail("rolled back")))
        )
        expect(idsOf(yield* store.runs(everything))).toEqual(["run"])
        expect(yield* sql`SELECT name FROM sqlite_master`).toEqual([])
      }).pipe(Effect.provide(SqliteClient.layer({ filename: theirs })))
    }))

  it.scoped("reads numbers as numbers where the application reads them as bigints", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const store = yield* build(Layer.provide(SqliteStepStore.layerClient(), SqliteClient.layer({ filename })))
      const read = Effect.provideService(
        Effect.zipRight(store.commit([newRun("run")]), store.runs(everything)),
        SqlClient.SafeIntegers,
        true
      )
      expect((yield* read).map((run) => run.epoch)).toEqual([1])
    }))
})
