import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Effect, Layer } from "effect"
import { MemoryStepStore, SqliteStepStore, type StepStore } from "perdure"

/** A folder that goes with the scope. */
export const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "perdure-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/** The path of a database in a folder of its own. */
export const temporaryFile = Effect.map(temporaryFolder, (folder) => join(folder, "durable.db"))

/** A store in a file of its own. */
export const sqliteLayer = (options: Partial<SqliteStepStore.Options> = {}) =>
  Layer.unwrapScoped(Effect.map(temporaryFile, (filename) => SqliteStepStore.layer({ filename, ...options })))

/** A store on a client that the application has. */
export const clientLayer = (options: SqliteStepStore.ClientOptions = {}) =>
  Layer.unwrapScoped(Effect.map(
    temporaryFile,
    (filename) => Layer.provide(SqliteStepStore.layerClient(options), SqliteClient.layer({ filename }))
  ))

/** Every kind of store, for suites that each must pass. */
export const stores: ReadonlyArray<readonly [name: string, layer: Layer.Layer<StepStore.StepStore, unknown>]> = [
  ["memory", MemoryStepStore.layer],
  ["SQLite file", sqliteLayer()],
  ["SQLite in memory", SqliteStepStore.layer({ filename: ":memory:", tablePrefix: "perdure_" })],
  ["SQLite client", clientLayer({ tablePrefix: "app_", namespace: "orders" })],
  [
    "SQLite client in memory",
    Layer.provide(SqliteStepStore.layerClient(), SqliteClient.layer({ filename: ":memory:" }))
  ]
]
