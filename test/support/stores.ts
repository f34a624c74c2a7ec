/** The stores that every suite of the engine runs on. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Layer } from "effect"
import { MemoryStepStore, SqliteStepStore, type StepStore } from "perdure"

/** A path in a folder that goes with the scope. */
export const temporaryFile = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "perdure-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
).pipe(Effect.map((folder) => join(folder, "durable.db")))

export const stores: ReadonlyArray<readonly [name: string, layer: Layer.Layer<StepStore.StepStore>]> = [
  ["memory", MemoryStepStore.layer],
  [
    "sqlite",
    Layer.orDie(
      Layer.unwrapScoped(
        // A poll for other processes, of which there are none, would make the test's clock hop every 20 milliseconds.
        Effect.map(
          temporaryFile,
          (filename) => SqliteStepStore.layer({ filename, synchronous: "NORMAL", pollInterval: "1000 days" })
        )
      )
    )
  ]
]
