import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import Database from "better-sqlite3"
import { Effect, FastCheck as fc, Option, Schema } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import {
  clone,
  type Ended,
  folder,
  type Options,
  program,
  removeBundles,
  root,
  run
} from "./fixtures/examples/commands.js"

// Each test starts several processes, which share two cores with other tests.
const patience = 240_000

const onboardingCli = program("examples/onboarding.ts")
const importCli = program("examples/import-csv.ts")

afterAll(removeBundles)

// ---------------------------------------------------------------------------------------------------------------------
// onboarding
// ---------------------------------------------------------------------------------------------------------------------

const stepIds = ["create-record", "provision-laptop", "provision-access", "welcome-email"]

/** The onboarding command line on files of its own. */
const onboarding = Effect.map(folder, (path) => {
  const db = join(path, "durable.db")
  const effects = join(path, "effects.log")
  return {
    db,
    effects,
    cli: (args: ReadonlyArray<string>, options?: Options) =>
      onboardingCli([
        ...args,
        ...(args.includes("--db") ? [] : ["--db", db]),
        ...(args.includes("--effects") || ["status", "list"].includes(args[0] ?? "") ? [] : ["--effects", effects])
      ], options),
    /** How often each step of a run left a line. */
    counts: (workflowId: string) => {
      const lines = readFileSync(effects, "utf8").trimEnd().split("\n").map((line) => line.split(" "))
      const mine = lines.filter(([id]) => id === workflowId)
      return Object.fromEntries(stepIds.map((step) => [step, mine.filter(([, id]) => id === step).length]))
    },
    contents: () => readFileSync(effects, "utf8"),
    stored: (workflowId: string) =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const run = Option.getOrThrow(yield* store.run(workflowId))
        return { run, steps: yield* store.steps(workflowId, 0, { after: null, limit: 100 }) }
      }).pipe(Effect.provide(SqliteStepStore.layer({ filename: db })))
  }
})

const Status = Schema.parseJson(Schema.Struct({
  workflowId: Schema.String,
  status: Schema.String,
  orphaned: Schema.Boolean,
  steps: Schema.Array(Schema.Struct({
    key: Schema.String,
    step: Schema.String,
    status: Schema.String,
    attempt: Schema.Int,
    took: Schema.NullOr(Schema.Number)
  }))
}))

const decodeStatus = (ended: Ended) => Schema.decodeUnknown(Status)(ended.stdout)

const expectRefused = (ended: Ended, ...parts: ReadonlyArray<string | RegExp>) => {
  expect(ended.code).toBe(1)
  for (const part of parts) {
    expect(ended.stderr).toMatch(part)
  }
  expect(ended.stderr).not.toMatch(/^\s+at /m)
}

const integrity = (file: string) => new Database(file, { readonly: true }).pragma("integrity_check", { simple: true })

describe.concurrent("the onboarding example", () => {
  it.scopedLive.each([1, 2, 3, 4])("crash-after wf-1 %i, then resume", (k) =>
    Effect.gen(function*() {
      const { cli, contents, counts, db, stored } = yield* onboarding

      const crashed = yield* cli(["crash-after", "wf-1", String(k)])
      expect(crashed.code, crashed.stderr).toBe(137)

      const after = yield* Effect.flatMap(cli(["status", "wf-1", "--json"]), decodeStatus)
      expect(after).toMatchObject({ workflowId: "wf-1", status: "RUNNING", orphaned: true })
      expect(after.steps.find(({ step }) => step === stepIds[k - 1])).toMatchObject({
        status: "IN_PROGRESS",
        attempt: 1
      })
      const cut = after.steps.filter(({ status }) => status === "IN_PROGRESS").map(({ step }) => step)

      const resumed = yield* cli(["resume", "wf-1"])
      expect(resumed, resumed.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining("wf-1: COMPLETED") })

      const record = yield* stored("wf-1")
      expect(record.run.status).toBe("COMPLETED")
      expect(record.steps.map(({ attempt, status, stepId, stepKey }) => [stepKey, stepId, status, attempt])).toEqual(
        ["wf-1:0", "wf-1:1.0", "wf-1:2.0", "wf-1:3"].map((key, i) => [
          key,
          stepIds[i],
          "COMPLETED",
          cut.includes(stepIds[i]!) ? 2 : 1
        ])
      )
      for (const [step, count] of Object.entries(counts("wf-1"))) {
        expect(count, step).toBeGreaterThanOrEqual(1)
        expect(count, step).toBeLessThanOrEqual(cut.includes(step) ? 2 : 1)
      }

      const lines = contents()
      const again = yield* cli(["resume", "wf-1"])
      expect(again, again.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining("no step runs again") })
      expect(contents()).toBe(lines)
      expect(yield* stored("wf-1")).toEqual(record)
      expect(integrity(db)).toBe("ok")
    }), patience)

  it.scopedLive(
    "a run that is started again is attached to, and another payload is refused",
    () =>
      Effect.gen(function*() {
        const { cli, contents, stored } = yield* onboarding
        const first = yield* cli(["start", "wf-1", "--employee", "Grace Hopper"])
        expect(first, first.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining("Grace Hopper") })
        const record = yield* stored("wf-1")
        const lines = contents()

        for (const employee of [[], ["--employee", "Grace Hopper"]]) {
          const again = yield* cli(["start", "wf-1", ...employee])
          expect(again, again.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining("no step runs again") })
          expect(again.stdout.trimEnd().split("\n").at(-1)).toBe(first.stdout.trimEnd().split("\n").at(-1))
        }
        expectRefused(yield* cli(["start", "wf-1", "--employee", "Ada"]), "wf-1", "another payload")
        expectRefused(yield* cli(["start", "~wf"]), "~wf")
        expect(contents()).toBe(lines)
        expect(yield* stored("wf-1")).toEqual(record)

        const list = yield* cli(["list"])
        expect(list).toMatchObject({ code: 0, stdout: expect.stringMatching(/wf-1 +onboarding +COMPLETED/) })
      }),
    patience
  )

  it.scopedLive("what does not exist is refused, and reading creates no database", () =>
    Effect.gen(function*() {
      const { cli, db } = yield* onboarding
      expectRefused(yield* cli(["status", "wf-1"]), "There is no database", "start wf-1")
      expectRefused(yield* cli(["list"]), "There is no database")
      expect(existsSync(db)).toBe(false)
      expectRefused(yield* cli(["resume", "nope"]), "There is no run \"nope\"", "list")
      expectRefused(yield* cli(["status", "nope", "--json"]), "There is no run \"nope\"")
      expectRefused(yield* cli(["crash-after", "wf-1", "0"]), "counted from 1")
      const file = join(db, "..", "no-database.db")
      writeFileSync(file, "this is no database, and stays as it is")
      expectRefused(yield* cli(["list", "--db", file]), "no-database.db", "not a Perdure database")
      expect(readFileSync(file, "utf8")).toContain("stays as it is")
    }), patience)

  it.scopedLive("a crash that comes too late is none", () =>
    Effect.gen(function*() {
      const { cli } = yield* onboarding
      expect(yield* cli(["crash-after", "wf-1", "5"])).toMatchObject({
        code: 0,
        stdout: expect.stringContaining("No crash")
      })
      expect(yield* cli(["crash-after", "wf-1", "1"])).toMatchObject({ code: 0 })
    }), patience)

  it.scopedLive("a crash leaves other runs as they were, and says that they go on", () =>
    Effect.gen(function*() {
      const { cli, counts } = yield* onboarding
      expect((yield* cli(["crash-after", "wf-1", "1"])).code).toBe(137)
      const second = yield* cli(["crash-after", "wf-2", "1"])
      expect(second, second.stderr).toMatchObject({ code: 137, stdout: expect.stringContaining("count too: wf-1\n") })
      for (const workflowId of ["wf-1", "wf-2"]) {
        expect((yield* cli(["start", workflowId])).code).toBe(0)
        expect(Object.values(counts(workflowId)).every((count) => count === 1 || count === 2)).toBe(true)
      }
    }), patience)

  it.scopedLive("a run that crashes again and again goes on each time", () =>
    Effect.gen(function*() {
      const { cli, counts, stored } = yield* onboarding
      for (let crash = 0; crash < 2; crash++) {
        expect((yield* cli(["crash-after", "wf-1", "1"])).code).toBe(137)
      }
      expect((yield* cli(["resume", "wf-1"])).code).toBe(0)
      expect((yield* stored("wf-1")).steps.map(({ attempt }) => attempt)).toEqual([3, 1, 1, 1])
      expect(counts("wf-1")).toEqual({
        "create-record": 1,
        "provision-laptop": 1,
        "provision-access": 1,
        "welcome-email": 1
      })
    }), patience)

  it.scopedLive("a typed failure fails the run, and resume tries the failed step again", () =>
    Effect.gen(function*() {
      const { cli, counts, stored } = yield* onboarding
      const env = { LAPTOPS_IN_STOCK: "0" }
      expectRefused(yield* cli(["start", "wf-1"], { env }), "FAILED", "Framework 13", "resume wf-1")
      expect((yield* stored("wf-1")).run.status).toBe("FAILED")
      expectRefused(yield* cli(["start", "wf-1"]), "FAILED")
      expect(yield* cli(["resume", "wf-1"])).toMatchObject({ code: 0 })
      expect(counts("wf-1")).toMatchObject({ "create-record": 1, "provision-laptop": 1, "welcome-email": 1 })
    }), patience)

  it.scopedLive("a step that dies stops the run, and resume runs it again", () =>
    Effect.gen(function*() {
      const { cli, counts, db } = yield* onboarding
      const nowhere = join(db, "..", "no-folder", "effects.log")
      const stopped = ["\"wf-1\" is stopped", "create-record", "no such file or directory", "resume wf-1"]
      expectRefused(yield* cli(["start", "wf-1", "--effects", nowhere]), ...stopped)
      expectRefused(yield* cli(["start", "wf-1"]), ...stopped)
      const status = yield* cli(["status", "wf-1"])
      expect(status).toMatchObject({ code: 0, stdout: expect.stringMatching(/STOPPED[^]*no such file[^]*resume wf-1/) })
      expect(yield* cli(["resume", "wf-1"])).toMatchObject({ code: 0 })
      expect(counts("wf-1")).toMatchObject({ "create-record": 1 })
    }), patience)

  it.scopedLive("Ctrl-C gives the run up, and resume goes on", () =>
    Effect.gen(function*() {
      const { cli, counts, stored } = yield* onboarding
      let pressed = false
      const cut = yield* cli(["start", "wf-1"], {
        env: { SLOWNESS: "20" },
        watch: (stdout, child) => {
          if (!pressed && stdout.includes("provisioning")) {
            pressed = child.kill("SIGINT")
          }
        }
      })
      expect(cut.stdout).not.toContain("COMPLETED")
      expect((yield* stored("wf-1")).run).toMatchObject({ status: "PENDING", owner: null })
      expect(yield* cli(["resume", "wf-1"])).toMatchObject({ code: 0 })
      expect(counts("wf-1")).toMatchObject({ "create-record": 1, "welcome-email": 1 })
    }), patience)

  it.scopedLive("npm start works, and works again", () =>
    Effect.gen(function*() {
      const cwd = yield* clone
      const first = yield* run("npm", ["start"], { cwd })
      expect(first, first.stderr).toMatchObject({
        code: 0,
        stdout: expect.stringContaining("sending the welcome email")
      })
      expect(existsSync(join(cwd, "durable.db"))).toBe(true)
      const lines = readFileSync(join(cwd, "effects.log"), "utf8")
      expect(lines.trimEnd().split("\n")).toHaveLength(4)
      const second = yield* run("npm", ["start"], { cwd })
      expect(second, second.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining("no step runs again") })
      expect(second.stdout).toMatch(/welcome-email +#/)
      expect(readFileSync(join(cwd, "effects.log"), "utf8")).toBe(lines)
    }), patience)

  it.scopedLive("debug logs tell the steps that run", () =>
    Effect.gen(function*() {
      const { cli } = yield* onboarding
      const quiet = yield* cli(["start", "wf-1"])
      expect(quiet.stdout).not.toContain("DEBUG")
      const debug = yield* cli(["start", "wf-2", "--log-level", "debug"])
      expect(debug.code).toBe(0)
      expect(debug.stdout).toMatch(/DEBUG.*create-record/)
    }), patience)
})

// ---------------------------------------------------------------------------------------------------------------------
// import-csv
// ---------------------------------------------------------------------------------------------------------------------

const csv = join(root, "examples/import-csv/customers.csv")
const rows = 3_000

interface Customer {
  readonly customer_id: string
  readonly email: string
  readonly note: string
  readonly written: number
}

describe.concurrent("the CSV example", () => {
  it.scopedLive(
    "killed at random moments, it imports each row once, and notices an edited file",
    () =>
      Effect.gen(function*() {
        const path = yield* folder
        const [db, into] = [join(path, "durable.db"), join(path, "customers.db")]
        const cli = (file: string, options?: Options) => importCli([file, "--db", db, "--into", into], options)
        const table = () => {
          const database = new Database(into, { readonly: true })
          expect(database.pragma("integrity_check", { simple: true })).toBe("ok")
          return database.prepare("SELECT * FROM customers ORDER BY customer_id").all() as ReadonlyArray<Customer>
        }
        const edited = (name: string, edit: (text: string) => string) => {
          mkdirSync(join(path, name))
          const file = join(path, name, "customers.csv")
          writeFileSync(file, edit(readFileSync(csv, "utf8")))
          return file
        }
        let kills = 0
        const killed = Effect.fn(function*(when: (stdout: string, kill: () => void) => void) {
          const ended = yield* cli(csv, {
            watch: (stdout, child) => when(stdout, () => child.kill("SIGKILL"))
          })
          expect([0, 137], ended.stderr).toContain(ended.code)
          kills += ended.code === 137 ? 1 : 0
        })

        yield* killed((stdout, kill) => /^[1-9]\d*\/3000$/m.test(stdout) && kill())
        expect(kills).toBe(1)

        const content = edited("content", (text) => text.replace("customer2@", "somebody-else@"))
        expectRefused(yield* cli(content), "is not the file", "recorded", "requested", "row C-00002", "fingerprint")
        const removed = edited("removed", (text) => text.replace(/^C-00002.*\n/m, ""))
        expectRefused(yield* cli(removed), /step "row C-00002".*step "row C-00003"/)

        const delays = fc.sample(fc.integer({ min: 0, max: 1_200 }), { numRuns: 5, seed: Number(process.env.FC_SEED) })
        for (const delay of delays) {
          let waiting = false
          yield* killed((stdout, kill) => {
            if (!waiting && stdout.includes("Importing")) {
              waiting = true
              setTimeout(kill, delay)
            }
          })
        }

        const last = yield* cli(csv)
        expect(last.code, last.stderr).toBe(0)
        const [, before = "", now = ""] = /: (\d+) were done before, (\d+) now/.exec(last.stdout) ?? []
        expect(Number(before)).toBeGreaterThan(0)
        expect(Number(before) + Number(now)).toBe(rows)

        const imported = table()
        expect(imported.map(({ customer_id }) => customer_id)).toEqual(
          Array.from({ length: rows }, (_, i) => `C-${String(i + 1).padStart(5, "0")}`)
        )
        expect(imported.reduce((sum, { written }) => sum + written - 1, 0)).toBeLessThanOrEqual(kills)
        expect(imported[1]).toMatchObject({ email: "customer2@example.com" })
        expect(imported[2]).toMatchObject({ note: "asked for the \"gold\" plan" })
        expect(imported[6]).toMatchObject({ note: "two offices:\nTurku\nTampere" })

        const further = yield* cli(csv)
        expect(further, further.stderr).toMatchObject({
          code: 0,
          stdout: expect.stringContaining("3000 were done before, 0 now")
        })
        expect(table()).toEqual(imported)
        expectRefused(yield* cli(content), "is not the file that import-csv/customers.csv began with", "--id")
        expect(integrity(db)).toBe("ok")
      }),
    patience
  )

  it.scopedLive("what is no table of customers is refused", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const file = join(path, "bad.csv")
      for (const [content, message] of [["\"open", "Quote Not Closed"], ["name\nAda\n", "customer_id"]] as const) {
        writeFileSync(file, content)
        const args = [file, "--db", join(path, "durable.db"), "--into", join(path, "customers.db")]
        expectRefused(yield* importCli(args), "bad.csv", message)
      }
    }), patience)

  it.scopedLive("the file is what its generator makes", () =>
    Effect.gen(function*() {
      const { stdout } = yield* program("examples/import-csv/generate.ts")([])
      expect(stdout).toBe(readFileSync(csv, "utf8"))
    }), patience)
})
