import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "@effect/vitest"
import Database from "better-sqlite3"
import { Context, Effect, Exit, Layer, Stream } from "effect"
import { Branch, Child, Engine, type Errors, MemoryStepStore, Step, Workflow } from "perdure"
import { clone, root, run } from "./fixtures/examples/commands.js"

const patience = 240_000

const readme = readFileSync(join(root, "README.md"), "utf8")

const blocks = (language: string) =>
  Array.from(readme.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\`$`, "gm")), ([, code = ""]) => code)

const snippets = blocks("ts")
/** The commands in the table of examples. */
const examples = Array.from(readme.matchAll(/^\| `(npx tsx examples\/.*\.ts)` \|/gm), ([, command = ""]) => command)
const commands = blocks("sh").flatMap((block) => block.trimEnd().split("\n")).map((line) => line.replace(/\s+#.*$/, ""))

describe.concurrent("the README", () => {
  it("has the program, the commands and the snippets that these tests look for", () => {
    expect(readme.trimStart().startsWith("# Perdure\n")).toBe(true)
    expect(snippets[0]).toContain("// hello.ts")
    expect(commands.slice(0, 3)).toEqual(["npx tsx hello.ts", "npm ci && npm start", "npm ci && npm test"])
    const fences = Array.from(readme.matchAll(/^```(.*)$/gm), ([, language = ""]) => language)
    const openings = fences.filter((_, i) => i % 2 === 0)
    expect(openings.filter((language) => language === "ts")).toHaveLength(snippets.length)
    expect(openings.filter((language) => !["ts", "sh", "sql", ""].includes(language))).toEqual([])
    expect(blocks("sql")).toHaveLength(1)
  })

  it.scopedLive("its commands do what it says, in the order in which it says them", () =>
    Effect.gen(function*() {
      const cwd = yield* clone
      writeFileSync(join(cwd, "hello.ts"), snippets[0]!)
      const outputs: Record<string, string> = {}
      for (const command of commands) {
        // What `npm ci` installs is there, and `npm test` is what runs this.
        const line = command.replace(/^npm ci && /, "")
        if (line === "npm test") {
          continue
        }
        const { code, stderr, stdout } = yield* run("sh", ["-c", line], { cwd })
        expect(code, `${line}\n${stderr}`).toBe(line.includes("crash-after") ? 137 : 0)
        outputs[line] = stdout
      }

      const first = outputs["npx tsx hello.ts"]!.trimEnd().split("\n")
      expect(first).toHaveLength(5)
      const second = yield* run("sh", ["-c", "npx tsx hello.ts"], { cwd })
      expect(second.stdout.trimEnd()).toBe(first.at(-1))

      const after = outputs["npm run onboarding -- status wf-1"]!
      expect(after).toMatch(/wf-1:0 .*COMPLETED[^]*wf-1:1\.0 .*IN_PROGRESS/)
      expect(after).not.toContain("wf-1:3")

      // The table that the README shows, but for the times.
      const shown = /^```\n(wf-1: COMPLETED\n[^]*?)^```$/m.exec(readme)![1]!
      const timeless = (text: string) => text.replaceAll(/ +\d+ ms$/gm, "").replaceAll(/ +took$/gm, "").trimEnd()
      const status = yield* run("sh", ["-c", "npm run -s onboarding -- status wf-1"], { cwd })
      expect(timeless(status.stdout)).toBe(timeless(shown))

      const rows = new Database(join(cwd, "durable.db"), { readonly: true }).prepare(blocks("sql")[0]!).all()
      expect(rows).toMatchObject([
        { step_key: "wf-1:0", step_id: "create-record", status: "COMPLETED", attempt: 1 },
        { step_key: expect.stringMatching(/^wf-1:[12]\.0$/), status: "COMPLETED", attempt: 2 },
        { step_key: expect.stringMatching(/^wf-1:[12]\.0$/), status: "COMPLETED", attempt: 2 },
        { step_key: "wf-1:3", step_id: "welcome-email", status: "COMPLETED", attempt: 1 }
      ])
    }), patience)

  it.scopedLive(
    "its snippets compile, those that are programs run, and what it says is refused is refused",
    () =>
      Effect.gen(function*() {
        const cwd = yield* clone
        const results = snippets.find((snippet) => snippet.includes("export const paidAt"))!
        const withoutSchemas = results.replace("{ success: Schema.Date, error: CardDeclined }", "{}")
        expect(withoutSchemas).not.toBe(results)
        const files = [...snippets, withoutSchemas].map((code, i) => {
          writeFileSync(join(cwd, `snippet-${i}.ts`), code)
          return `snippet-${i}.ts`
        })
        writeFileSync(
          join(cwd, "tsconfig.snippets.json"),
          JSON.stringify({ extends: "./tsconfig.json", include: files })
        )
        const { stdout } = yield* run("node_modules/.bin/tsc", ["-p", "tsconfig.snippets.json"], { cwd })
        const errors = stdout.split("\n").filter((line) => /^\S/.test(line))
        expect(errors.filter((line) => !line.startsWith(`${files.at(-1)}(`))).toEqual([])
        expect(stdout).toContain("schema")

        const programs = files.filter((_, i) => snippets[i]?.includes("runMain"))
        const outputs = yield* Effect.forEach(programs, (file) => run("node_modules/.bin/tsx", [file], { cwd }))
        expect(outputs.map(({ code }) => code), outputs.map(({ stderr }) => stderr).join()).toEqual([0, 0, 0])
        expect(outputs[1]!.stdout).toBe("approved by Ada, nobody answered\n")
        expect(outputs[2]!.stdout).toBe("charged by attempt 2\n")
      }),
    patience
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// the table of examples
// ---------------------------------------------------------------------------------------------------------------------

describe("the README's table of examples", () => {
  it.scopedLive("has each one, and each runs with its command", () =>
    Effect.gen(function*() {
      const cwd = yield* clone
      const shown = [...commands, ...examples].map((command) => /examples\/.*\.ts/.exec(command)?.[0])
      const files = readdirSync(join(root, "examples")).filter((name) => name.endsWith(".ts"))
      // `npm start` runs it.
      expect([...shown, "examples/onboarding.ts"]).toEqual(
        expect.arrayContaining(files.map((name) => `examples/${name}`))
      )
      yield* Effect.forEach(examples, (command) =>
        Effect.gen(function*() {
          let ended = false
          const { code, stderr, stdout } = yield* run("sh", ["-c", command], {
            cwd,
            env: { PORT: "0" },
            watch: (stdout) => {
              const server = /^Listening on .* kill -9 (\d+)/m.exec(stdout)
              if (server !== null && !ended) {
                ended = process.kill(Number(server[1]), "SIGTERM")
              }
            }
          })
          expect(code, `${command}\n${stderr}`).toBe(0)
          expect(stdout, command).not.toBe("")
          expect(ended, command).toBe(command.includes("approval"))
        }), { concurrency: 2, discard: true })
    }), patience)
})

// ---------------------------------------------------------------------------------------------------------------------
// the table of what is refused
// ---------------------------------------------------------------------------------------------------------------------

class Value extends Context.Tag("test/Value")<Value, number>() {}

const step = Effect.succeed(1).pipe(Step.durable("step"))
const valueFromStep = Layer.effect(Value, step)
const Other = Workflow.make({ name: "other", payload: {} })

type Program = Effect.Effect<unknown, unknown, Workflow.Run | Engine.Engine>

/** By the first cell of its row: what is refused, and what may be written instead. */
const table: Record<string, { readonly refused: ReadonlyArray<Program>; readonly instead: ReadonlyArray<Program> }> = {
  "`Effect.all` or `Effect.forEach` over steps, with a `concurrency`": {
    refused: [
      Effect.all([step, step], { concurrency: "unbounded" }),
      Effect.forEach([1, 2], () => step, { concurrency: 2 })
    ],
    instead: [
      Branch.all([step, step], { concurrency: "unbounded" }),
      Branch.forEach([1, 2], () => step, { concurrency: 2 }),
      Effect.flatMap(Branch.reserve([step, step]), (bound) => Effect.all(bound, { concurrency: 2 })),
      Effect.all([step, step]),
      Effect.forEach([1, 2], () => step)
    ]
  },
  "`Effect.race`, `Effect.raceAll` of steps": {
    refused: [Effect.race(step, step), Effect.raceAll([step, step])],
    instead: [Branch.race(step, step), Branch.raceAll([step, step])]
  },
  "`Effect.fork` of a step": {
    refused: [Effect.fork(step).pipe(Effect.flatMap((fiber) => fiber.await))],
    instead: [
      Branch.fork(step).pipe(Effect.flatMap(Branch.join)),
      Branch.all([step, step], { concurrency: "unbounded" })
    ]
  },
  "`Effect.timeout` around a step": {
    refused: [Effect.timeout(step, "1 minute")],
    instead: [
      Effect.orDie(Branch.timeout(step, "1 minute")),
      Effect.succeed(1).pipe(Step.durable("step", { timeout: "1 minute" }), Effect.orDie),
      Effect.succeed(1).pipe(Effect.timeout("1 minute"), Effect.orDie, Step.durable("step"))
    ]
  },
  "a `Stream` whose elements run steps": {
    refused: [
      Stream.make(1, 2).pipe(Stream.mapEffect(() => step), Stream.runCollect),
      Stream.make(1, 2).pipe(Stream.runForEach(() => step))
    ],
    instead: [
      Branch.forEach([1, 2], () => step),
      Stream.make(1, 2).pipe(Stream.runCollect, Effect.map((chunk) => [...chunk]), Step.durable("step"))
    ]
  },
  "Layers that run steps, built side by side (`Layer.merge`)": {
    refused: [Effect.provide(Value, Layer.merge(valueFromStep, Layer.effectDiscard(step)))],
    instead: [Effect.flatMap(step, (value) => Effect.provideService(Value, Value, value))]
  },
  "`execute` or `start` of a workflow": {
    refused: [Other.execute(), Other.start()],
    instead: [Child.start(Other), Other.start().pipe(Effect.orDie, Step.durable("step"))]
  },
  "`Branch.all` and the others inside a step": {
    refused: [Branch.all([step]).pipe(Step.durable("outer")), Branch.race(step, step).pipe(Step.durable("outer"))],
    instead: [Effect.all([step, step], { concurrency: "unbounded" }).pipe(Step.durable("outer"))]
  },
  "`Child.execute` or `Child.start` inside a step": {
    refused: [
      Effect.orDie(Child.execute(Other)).pipe(Step.durable("outer")),
      Effect.asVoid(Child.start(Other)).pipe(Step.durable("outer"))
    ],
    instead: [Other.start().pipe(Effect.orDie, Step.durable("step"))]
  }
}

describe("the README's table of what is refused", () => {
  it("has the rows that are tested here", () => {
    const rows = /^\| in a body \| write instead \|\n.*\n((?:\|.*\n)+)/m.exec(readme)![1]!.trimEnd().split("\n")
    expect(rows.map((row) => row.split(" | ")[0]!.slice(2))).toEqual(Object.keys(table))
  })

  const outcome = (program: Program) =>
    Workflow.run("run", Effect.asVoid(program as Effect.Effect<unknown, never, Workflow.Run>)).pipe(
      Effect.exit,
      Effect.provide(Engine.layer.pipe(Layer.provide(MemoryStepStore.layer)))
    )

  for (const [row, { instead, refused }] of Object.entries(table)) {
    refused.forEach((program, i) =>
      it.live(`refused, whatever the body catches: ${row} (${i + 1})`, () =>
        Effect.gen(function*() {
          for (const body of [program, Effect.catchAllCause(program, () => Effect.void)]) {
            const error = yield* Effect.flip(Effect.flatten(outcome(body))) as Effect.Effect<Errors.RunStopped>
            expect(error).toMatchObject({ _tag: "RunStopped", reason: { _tag: "Misplaced" } })
          }
        }))
    )
    instead.forEach((program, i) =>
      it.live(`instead of ${row} (${i + 1})`, () =>
        Effect.gen(function*() {
          expect(yield* outcome(program)).toEqual(Exit.void)
        }))
    )
  }
})
