import { copyFileSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Effect } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { newRun } from "../suites/rows.js"
import { temporaryFile } from "../suites/stores.js"
import { bundleForMany, launch } from "../support/bundle.js"
import { done, goOn, readRuns } from "../support/oldRuns.js"
import { dice } from "./dice.js"
import { repeatedRow, seed } from "./row.js"

const databases = fileURLToPath(new URL("../fixtures/databases", import.meta.url))

const text = "an old text, with \u{1f600} and '"
const refused = { why: text, on: "1970-01-01T00:00:00.000Z", _tag: "Refused" }

/** What the runs that a version has left come to, whatever the version that goes on with them. */
const outcomes: Readonly<Record<string, unknown>> = {
  "ended/1": { n: 1, on: "1970-01-02T00:00:00.000Z" },
  "ended/2": { why: "no 2", on: "1970-01-02T00:00:00.000Z", _tag: "Refused" },
  "asleep/1": `${text} true after`,
  "waiting/1": ["one 1", `${text} 0`, "ada 1000", "true", "grace", "last"],
  "asked/1": 42,
  "retried/1": `${text} 2`,
  "parent/1": `one 101, ${text} 0, ada 1000, true, grace, last`,
  "longer/1": 3,
  "stuck/1": `${text} 2`,
  "broken/1": text,
  "undone/1": refused,
  "undone/2": refused,
  "undoing/1": refused,
  "cancelled/1": { workflowId: "cancelled/1", reason: "cancelled", _tag: "RunCancelled" },
  "early/1": ["ada", "grace"],
  "racing/1": `${text}: late, ada`,
  "launching/1": 1,
  "unclaimed/1": text,
  "transferring/1": `${text} ada`,
  script: "it has gone on",
  "a new one": { n: 1, on: "1970-01-02T00:00:00.000Z" }
}

/** The effects that are left to be had, and no other: what is recorded is not repeated. */
const effects = [
  "asleep after",
  "ended",
  "racing",
  "retried",
  "script two",
  "stuck",
  "unclaimed",
  "undoing undo one",
  "undone undo",
  "waiting last",
  "waiting last"
]

const withDatabase = <A>(filename: string, use: (database: Sqlite.Database) => A) =>
  Effect.acquireUseRelease(
    Effect.sync(() => new Sqlite(filename)),
    (database) => Effect.sync(() => use(database)),
    (database) => Effect.sync(() => database.close())
  )

const schemaOf = (filename: string) =>
  withDatabase(filename, (database) => ({
    tables: database.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").all(),
    versions: database.prepare("SELECT version, min_compatible FROM perdure_schema").all(),
    check: database.pragma("integrity_check", { simple: true })
  }))

const opened = (filename: string, workflowId: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const [answer] = yield* store.commit([newRun(workflowId)])
    return answer!._tag
  }).pipe(Effect.provide(SqliteStepStore.layer({ filename })))

const released = readdirSync(databases)

const fileOf = (version: string, name: string) => join(databases, version, name)

/** A copy of what a version has left. */
const copyOf = (version: string) =>
  Effect.map(temporaryFile, (filename) => {
    copyFileSync(fileOf(version, "runs.db"), filename)
    return filename
  })

/** What an older version has read, without what it had not. */
const asBefore = (now: unknown, before: unknown): unknown =>
  Array.isArray(before) && Array.isArray(now) && now.length === before.length
    ? now.map((value, i) => asBefore(value, before[i]))
    : typeof before === "object" && before !== null && typeof now === "object" && now !== null
    ? Object.fromEntries(
      Object.keys(before).map((key) => [key, asBefore(Reflect.get(now, key), Reflect.get(before, key))])
    )
    : now

const isRead = (version: string) =>
  Effect.gen(function*() {
    const before: unknown = JSON.parse(readFileSync(fileOf(version, "runs.json"), "utf8"))
    const now = yield* readRuns(yield* copyOf(version))
    assert.deepStrictEqual(asBefore(now, before), before, `what ${version} has read`)
  })

const goesOn = (version: string) =>
  Effect.gen(function*() {
    const filename = yield* copyOf(version)
    done.length = 0
    assert.deepStrictEqual(yield* goOn(filename), outcomes, version)
    assert.deepStrictEqual([...done].sort(), effects, version)
    const { check } = yield* schemaOf(filename)
    assert.strictEqual(check, "ok", version)
    // What had ended is as it was, also after all that.
    const before = JSON.parse(readFileSync(fileOf(version, "runs.json"), "utf8")) as ReadonlyArray<OldRun>
    const now = new Map((yield* readRuns(filename)).map((run) => [(run as unknown as OldRun).run.workflowId, run]))
    for (const old of before.filter(({ run }) => ["COMPLETED", "FAILED", "CANCELLED"].includes(run.status))) {
      assert.deepStrictEqual(asBefore(now.get(old.run.workflowId), old), old, `${version}: ${old.run.workflowId}`)
    }
  })

interface OldRun {
  readonly run: { readonly workflowId: string; readonly status: string }
}

/** A database of a version to come. */
const isRefused = (version: string) =>
  Effect.gen(function*() {
    const filename = yield* copyOf(version)
    yield* withDatabase(filename, (database) => {
      database.exec("ALTER TABLE workflows ADD COLUMN later TEXT")
      database.exec("UPDATE perdure_schema SET version = 1000, min_compatible = 999")
    })
    const before = readFileSync(filename)
    const error = yield* Effect.flip(opened(filename, "new"))
    assert.deepInclude({ ...error }, { _tag: "StoreSchemaMismatch", found: 1_000, supported: 1, minCompatible: 999 })
    for (const named of ["version 1000", "from version 999 on", "only version 1;"]) {
      assert.include(error.message, named)
    }
    assert.isTrue(before.equals(readFileSync(filename)), `the database of ${version} that is refused is as it was`)
    assert.deepStrictEqual(readdirSync(dirname(filename)), ["durable.db"])
  })

/** One that a version to come has only added to. */
const isUsed = (version: string) =>
  Effect.gen(function*() {
    const filename = yield* copyOf(version)
    yield* withDatabase(filename, (database) => {
      database.exec("ALTER TABLE workflows ADD COLUMN later TEXT")
      database.exec("UPDATE perdure_schema SET version = 1000")
    })
    assert.strictEqual(yield* opened(filename, "new"), "Accepted", version)
    const { versions } = yield* schemaOf(filename)
    assert.deepStrictEqual(versions, [{ version: 1_000, min_compatible: 1 }], version)
  })

/** Opens the file that a process was killed over. */
const isWhole = (filename: string, expected: unknown, told: string) =>
  Effect.gen(function*() {
    assert.strictEqual(yield* opened(filename, "run"), "Accepted", told)
    assert.deepStrictEqual(yield* schemaOf(filename), expected, told)
  })

/** What is done before the nth statement of a process that makes a new file ready, or at a moment. */
const kills = (round: number) =>
  Effect.gen(function*() {
    const program = yield* bundleForMany("faults/migration")
    const fresh = yield* temporaryFile
    const whole = yield* launch(program, [fresh, "0"])
    const began = performance.now()
    assert.strictEqual(yield* whole.line, "ready")
    const statements = Number(yield* whole.line)
    const millis = performance.now() - began
    assert.strictEqual(yield* whole.ended, 0)
    const expected = yield* schemaOf(fresh)
    const atStatement = (at: number) =>
      Effect.scoped(Effect.gen(function*() {
        const told = `killed before statement ${at} of ${statements}`
        const filename = yield* temporaryFile
        const killed = yield* launch(program, [filename, String(at)])
        assert.strictEqual(yield* killed.ended, "SIGKILL", told)
        yield* isWhole(filename, expected, told)
      }))
    const atMoment = (trial: number) =>
      Effect.scoped(Effect.gen(function*() {
        const after = dice(seed, round * moments + trial).fraction() * millis
        const told = `killed ${after} ms after it had begun: trial ${trial} of round ${round}, FC_SEED=${seed}`
        const filename = yield* temporaryFile
        const killed = yield* launch(program, [filename, "0"])
        yield* killed.line
        yield* Effect.sleep(after)
        yield* killed.kill
        yield* isWhole(filename, expected, told)
      }))
    yield* Effect.forEach(
      [
        ...Array.from({ length: statements }, (_, i) => atStatement(i + 1)),
        ...Array.from({ length: moments }, (_, i) => atMoment(i))
      ],
      (trial) => trial,
      { concurrency: 2 }
    )
    return statements + moments
  })

const moments = 6

/** Processes that find no tables at the same moment make them once. */
const together = Effect.gen(function*() {
  const filename = yield* temporaryFile
  const gate = `${filename}.gate`
  const program = yield* bundleForMany("openStore")
  const ids = Array.from({ length: 8 }, (_, index) => `run-${index}`)
  const processes = yield* Effect.forEach(ids, (id) => launch(program, [filename, id, gate]))
  const lines = Effect.forEach(processes, (process) => process.line, { concurrency: "unbounded" })
  assert.deepStrictEqual(yield* lines, ids.map(() => "ready"))
  yield* Effect.sync(() => writeFileSync(gate, ""))
  assert.deepStrictEqual(yield* lines, ids.map(() => "Accepted"))
  const { check, versions } = yield* schemaOf(filename)
  assert.deepStrictEqual([check, versions], ["ok", [{ version: 1, min_compatible: 1 }]])
  const runs = yield* withDatabase(
    filename,
    (database) => database.prepare("SELECT workflow_id FROM workflows ORDER BY 1").pluck().all()
  )
  assert.deepStrictEqual(runs, ids)
})

/** The version whose tables are made now must have a database in the corpus. */
const { version: current } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  readonly version: string
}

repeatedRow(
  {
    name: "old-schema",
    title:
      "an old database goes on as it would have, one that is too new is left alone, and a migration is made whole, once",
    night: { rounds: 500 }
  },
  2,
  30,
  (round) =>
    Effect.scoped(Effect.gen(function*() {
      assert.include(released, current)
      for (const version of released) {
        assert.isBelow(statSync(fileOf(version, "runs.db")).size, 200_000, version)
        yield* isRead(version)
        yield* goesOn(version)
        yield* isRefused(version)
        yield* isUsed(version)
      }
      yield* together
      return 4 * released.length + 1 + (yield* kills(round))
    }))
)
