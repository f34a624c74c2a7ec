/** Programs that run in processes of their own, bundled so that they start in a tenth of a second. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { relative } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { Effect, type Scope } from "effect"
import { build, type BuildOptions, type Plugin } from "esbuild"
import { seed, seededBug } from "../reliability/bugs.js"

const root = fileURLToPath(new URL("../..", import.meta.url))

const folder = `${root}node_modules/.cache/perdure/${process.pid}`

/** Puts a bug into the source as it is bundled, if the environment asks for one. */
const bugs = (): Array<Plugin> => {
  const bug = seededBug()
  return bug === null ? [] : [{
    name: "seeded-bugs",
    setup: ({ onLoad }) =>
      onLoad({ filter: /\.ts$/ }, ({ path }) =>
        path.startsWith(`${root}src/`)
          ? { contents: seed(bug, relative(`${root}src`, path), readFileSync(path, "utf8")), loader: "ts" }
          : undefined)
  }]
}

const buildOptions = (fixture: string): BuildOptions => ({
  entryPoints: [`${root}test/fixtures/${fixture}.ts`],
  bundle: true,
  platform: "node",
  // Native, and found from where the bundle lies.
  external: ["better-sqlite3"],
  tsconfig: `${root}tsconfig.json`,
  plugins: bugs(),
  logLevel: "error"
})

/** Bundles a file of `test/fixtures`, and answers the path of the program. */
export const bundle = (fixture: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const outfile = `${folder}/${fixture}.mjs`
    await build({
      ...buildOptions(fixture),
      format: "esm",
      outfile,
      banner: { js: "import { createRequire } from \"node:module\"; const require = createRequire(import.meta.url)" }
    })
    return outfile
  })

/** Runs a bundle with what V8 has compiled of it in the first process that ended by itself. */
const starter = (outfile: string) => `
const { existsSync, readFileSync, renameSync, writeFileSync } = require("node:fs")
const { createRequire } = require("node:module")
const { Script } = require("node:vm")
const filename = ${JSON.stringify(outfile)}
const kept = filename + ".compiled"
const script = new Script("(function(require, module, exports) {" + readFileSync(filename, "utf8") + "\\n})", {
  filename,
  ...(existsSync(kept) ? { cachedData: readFileSync(kept) } : {})
})
const module_ = { exports: {} }
script.runInThisContext()(createRequire(filename), module_, module_.exports)
if (!existsSync(kept)) {
  process.once("exit", () => {
    const own = kept + "." + process.pid
    writeFileSync(own, script.createCachedData())
    renameSync(own, kept)
  })
}
`

/** Bundles a file of `test/fixtures` that is started hundreds of times: all but the first start take half as long. */
export const bundleForMany = (fixture: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const outfile = `${folder}/${fixture}.bundle.cjs`
    const program = `${folder}/${fixture}.cjs`
    await build({ ...buildOptions(fixture), format: "cjs", outfile })
    await writeFile(program, starter(outfile))
    return program
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

/**
 * Starts a program, which is killed at the latest when the scope closes.
 *
 * @param through - a command that becomes the one it is given
 */
export const launch = (
  program: string,
  args: ReadonlyArray<string>,
  through: ReadonlyArray<string> = []
): Effect.Effect<Program, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const [command = "", ...rest] = [...through, process.execPath, program, ...args]
      const child = spawn(command, rest, { stdio: "pipe" })
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
