import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { Data, Effect, type Scope } from "effect"

/** A process ended when more was to come from it. */
export class ProcessEnded extends Data.TaggedError("ProcessEnded")<{ readonly message: string }> {}

/** A process of our own that runs a file of `test/fixtures`. */
export interface Process {
  readonly child: ChildProcess
  /** The next line that it prints; fails if it ends instead. */
  readonly line: Effect.Effect<string, ProcessEnded>
  /** Kills it, and waits until it is gone. */
  readonly kill: Effect.Effect<void>
}

const root = fileURLToPath(new URL("../..", import.meta.url))

/** Starts a process that goes with the scope. */
export const start = (
  fixture: string,
  args: ReadonlyArray<string>,
  options: SpawnOptions = {}
): Effect.Effect<Process, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(
        process.execPath,
        ["--import", "tsx", `test/fixtures/${fixture}.ts`, ...args],
        { cwd: root, ...options, stdio: ["ignore", "pipe", "pipe"] }
      )
      const gone = once(child, "exit")
      let complaints = ""
      child.stderr!.on("data", (text) => {
        complaints += text
      })
      const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
      const line = Effect.promise(() => lines.next()).pipe(
        Effect.filterOrFail(
          (next): next is IteratorYieldResult<string> => next.done !== true,
          () => new ProcessEnded({ message: `${fixture} ended: ${complaints}` })
        ),
        Effect.map((next) => next.value)
      )
      const kill = Effect.andThen(Effect.sync(() => child.kill("SIGKILL")), Effect.promise(() => gone))
      return { child, line, kill }
    }),
    (process) => process.kill
  )
