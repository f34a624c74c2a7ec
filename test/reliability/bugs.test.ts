/** Bugs that are put into the source: a suite that misses one is not finished. */
import { execFile } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Bug, bugs, type Catch, type Edit, seed } from "./bugs.js"
import { fixedRow } from "./row.js"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** What became of some tests. */
interface Outcome {
  /** What went wrong outside of them: a file could not be loaded. */
  readonly broken: ReadonlyArray<string>
  /** Each that ran, and what it said when it failed; nothing if it passed. */
  readonly tests: ReadonlyArray<readonly [name: string, said: string]>
}

const exactly = (names: ReadonlyArray<string>) =>
  `^(${names.map((name) => name.replaceAll(" > ", " ").replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})$`

const trialOf = (bug: string | null, edited: ReadonlyArray<Edit>, tests: ReadonlyArray<Catch>) => ({
  bug,
  edited: edited.map(({ file }) => join(root, "src", file)),
  files: tests.map(({ file }) => join(root, file)),
  pattern: exactly(tests.map(({ name }) => name))
})

/** As it was for whoever started the tests: what this run of them has added is not for another one. */
const environment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(VITEST|PERDURE_|TINYPOOL)/.test(name)))

/** Runs tests in processes of their own: for each trial, over a source with its bug. */
const attempt = (trials: ReadonlyArray<ReturnType<typeof trialOf>>): Effect.Effect<ReadonlyArray<Outcome>> =>
  Effect.async((resume) => {
    const child = execFile(
      process.execPath,
      [join(root, "test/reliability/catch.mjs"), JSON.stringify(trials)],
      { cwd: root, env: environment() },
      (error, stdout, stderr) =>
        resume(
          error === null
            ? Effect.sync(() => JSON.parse(stdout.trimEnd().split("\n").at(-1)!))
            : Effect.dieMessage(`the tests did not run: ${stdout}${stderr}`)
        )
    )
    return Effect.sync(() => child.kill())
  })

/** Why the suite has not caught a bug, if it has not. */
const missed = ({ caughtBy }: Bug, { broken, tests }: Outcome): ReadonlyArray<string> => [
  ...broken,
  ...caughtBy.flatMap(({ name, says }) => {
    const said = new Map(tests).get(name)
    const test = JSON.stringify(name)
    if (said === undefined) {
      return [`${test} is no test`]
    }
    if (said === "") {
      return [`${test} has not noticed it`]
    }
    return said.includes(says) ? [] : [`${test} failed for another reason: ${said}`]
  })
]

fixedRow(
  { name: "bugs", title: "each of ten bugs that are put into the source is caught by the suite" },
  10,
  10,
  Effect.gen(function*() {
    const tests = bugs.flatMap((bug) => bug.caughtBy)
    const [sound, ...outcomes] = yield* attempt([
      trialOf(null, [], tests),
      ...bugs.map((bug) => trialOf(bug.name, bug.edits, bug.caughtBy))
    ])
    // Without a bug, those that are to catch it pass.
    assert.deepStrictEqual(sound?.broken, [])
    assert.deepStrictEqual(new Map(sound?.tests), new Map(tests.map(({ name }) => [name, ""])))
    const misses = bugs.flatMap((bug, i) => missed(bug, outcomes[i]!).map((why) => `${bug.name}: ${why}`))
    assert.deepStrictEqual(misses, [])
    for (const [i, { name }] of bugs.entries()) {
      const failed = outcomes[i]!.tests.filter(([, said]) => said !== "")
      yield* Effect.log(`${name} is caught by ${failed.map(([test]) => test).join(", ")}`)
    }
    return bugs.length
  })
)

describe("seeded bugs", () => {
  it("a text that is not there, or twice, is an error and no bug that nobody notices", () => {
    const edit = { file: "a.ts", text: "1 + 1", instead: "$&$&" }
    const bug: Bug = { ...bugs[0]!, name: "sum", edits: [edit] }
    assert.strictEqual(seed(bug, "a.ts", "x = 1 + 1"), "x = $&$&")
    assert.strictEqual(seed(bug, "b.ts", "x = 2"), "x = 2")
    assert.throws(() => seed(bug, "a.ts", "x = 2"), "The bug sum cannot be seeded: src/a.ts contains \"1 + 1\" 0 times")
    assert.throws(() => seed(bug, "a.ts", "1 + 1 + 1 + 1"), "2 times")
  })

  it.each(bugs.map((bug) => [bug.name, bug] as const))("the texts of %s are in the source, each once", (_, bug) => {
    for (const { file } of bug.edits) {
      const source = readFileSync(join(root, "src", file), "utf8")
      assert.notStrictEqual(seed(bug, file, source), source)
    }
  })

  it("what is published has no switch for them, and nothing of the tests", () => {
    const read = (file: string) => JSON.parse(readFileSync(join(root, file), "utf8"))
    assert.deepStrictEqual(read("package.json").files, ["dist", "src"])
    // What is in `dist` is made of this, and the compiler refuses an import from anywhere else.
    const { compilerOptions, include } = read(".config/tsconfig.build.json")
    assert.strictEqual(compilerOptions.rootDir, "../src")
    assert.deepStrictEqual(include, ["../src"])
    const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    const sources = files.filter((file) => file.endsWith(".ts"))
    assert.isAbove(sources.length, 50)
    for (const file of sources) {
      const source = readFileSync(join(root, "src", file), "utf8")
      assert.notMatch(source, /PERDURE_BUG|process\.env|from "[./]*\/test\//, file)
    }
  })
})
