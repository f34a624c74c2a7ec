/** Where files lie of trials that fill, damage and reopen thousands of databases. */
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"

/** In memory, where the system has such a place: what a disk adds is the time of its syncs. */
const home = (): string => {
  try {
    accessSync("/dev/shm", constants.R_OK | constants.W_OK | constants.X_OK)
    return "/dev/shm"
  } catch {
    return tmpdir()
  }
}

/** A folder that goes with the scope. */
export const quickFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(home(), "perdure-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)
