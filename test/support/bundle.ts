/** Programs that run in processes of their own, bundled so that they start in a tenth of a second. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { Effect, type Scope } from "effect"
import { build } from "esbuild"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** Bundles a file of `test/fixtures`, and answers the path of the program. */
export const bundle = (fixture: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const outfile = `${root}node_modules/.cache/perdure/${process.pid}/${fixture}.mjs`
    await build({
      entryPoints: [`${root}test/fixtures/${fixture}.ts`],
      bundle: true,
      platform: "node",
      format: "esm",
      // Native, and found from where the bundle lies.
      external: ["better-sqlite3"],
      outfile,
      tsconfig: `${root}tsconfig.json`,
      banner: { js: "import { createRequire } from \"node:module\"; const require = createRequire(import.meta.url)" },
      logLevel: "error"
    })
    return outfile
  })

export interface Program {
  readonly child: ChildProcess
  /** The next line that it prints; dies if it ends instead. */
  readonly line: Effect.Effect<string>
  /** Writes a line to its input. */
  readonly tell: (line: string) => Effect.Effect<void>
  /** Ends its input. */
  readonly hush: Effect.Effect<void>
  /** Waits until it has ended, and answers its exit code, or the signal that ended it. */
  readonly ended: Effect.Effect<number | string>
  /** Ends it with SIGKILL, and waits until it is gone. */
  readonly kill: Effect.Effect<void>
}

/** Starts a program, which is killed at the latest when the scope closes. */
export const launch = (program: string, args: ReadonlyArray<string>): Effect.Effect<Program, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [program, ...args], { stdio: "pipe" })
      let complaints = ""
      child.stderr.on("data", (text: Buffer) => {
        complaints += text.toString()
      })
      const exit = once(child, "close")
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      const ended = Effect.promise(async () => {
        const [code, signal] = await exit as [number | null, string | null]
        return code ?? signal ?? "unknown"
      })
      return {
        child,
        line: Effect.promise(async () => {
          const next = await lines.next()
          if (next.done === true) {
            throw new Error(`the program ended: ${complaints}`)
          }
          return next.value
        }),
        tell: (line) => Effect.sync(() => void child.stdin.write(`${line}\n`)),
        hush: Effect.sync(() => void child.stdin.end()),
        ended,
        kill: Effect.asVoid(Effect.zipRight(Effect.sync(() => child.kill("SIGKILL")), ended))
      }
    }),
    (program) => program.kill
  )
