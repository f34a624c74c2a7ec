import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Cause, Effect, Exit } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { newRun } from "../suites/rows.js"
import { turns } from "../support/harness.js"
import { type Dice, dice } from "./dice.js"
import { quickFolder } from "./folder.js"
import { row, seed } from "./row.js"
import { pageSize, specimen, view, write } from "./specimen.js"

/** Every file of a folder, by name: what must be as it was. */
const filesOf = (folder: string): ReadonlyMap<string, string> =>
  new Map(
    readdirSync(folder)
      // Nothing of a database is in there: SQLite maps it to find frames of the log.
      .filter((name) => !name.endsWith("-shm"))
      .map((name) => {
        const path = join(folder, name)
        return [name, statSync(path).isDirectory() ? "a folder" : readFileSync(path).toString("latin1")] as const
      })
  )

/** What can stand in place of a database, put into a folder as `durable.db`; it is refused as a whole. */
type Stranger = readonly [name: string, put: (folder: string, drawn: Dice) => void]

const inFolder = (folder: string) => join(folder, "durable.db")

/** A database of another application, closed. */
const application = (sql: string) => (folder: string) => void new Sqlite(inFolder(folder)).exec(sql).close()

const header = Buffer.from("SQLite format 3\0")

const strangersOf = (database: Buffer, log: Buffer): ReadonlyArray<Stranger> => [
  ["garbage", (folder, drawn) => writeFileSync(inFolder(folder), drawn.bytes(1 + drawn.below(30_000)))],
  ["text", (folder, drawn) => writeFileSync(inFolder(folder), "once upon a time ".repeat(1 + drawn.below(1_000)))],
  [
    "the first words of a database, then garbage",
    (folder, drawn) => writeFileSync(inFolder(folder), Buffer.concat([header, drawn.bytes(600 + drawn.below(30_000))]))
  ],
  [
    "a database that is cut within a page or behind one",
    (folder, drawn) =>
      writeFileSync(inFolder(folder), database.subarray(0, 1 + drawn.below(database.length - pageSize)))
  ],
  ["a database whose first page is lost", (folder, drawn) => {
    const bytes = Buffer.from(database)
    drawn.isBelow(0.5) ? bytes.fill(0, 0, pageSize) : drawn.bytes(pageSize).copy(bytes)
    writeFileSync(inFolder(folder), bytes)
  }],
  ["a database that is empty beside its log", (folder) => {
    writeFileSync(inFolder(folder), "")
    writeFileSync(`${inFolder(folder)}-wal`, log)
  }],
  ["no database beside a log", (folder) => writeFileSync(`${inFolder(folder)}-wal`, log)],
  ["a folder", (folder) => mkdirSync(inFolder(folder))],
  [
    "a database of an application that has tables of our names",
    application("CREATE TABLE Steps (n); INSERT INTO Steps VALUES (1)")
  ],
  ["one in another encoding", application("PRAGMA encoding = 'UTF-16'; CREATE TABLE workers (n)")],
  ["one with a log", application("PRAGMA journal_mode = WAL; CREATE VIEW signals AS SELECT 1")],
  [
    "a database of a version to come",
    application(
      "CREATE TABLE perdure_schema (only INTEGER, version INTEGER, min_compatible INTEGER); " +
        "PRAGMA journal_mode = WAL; INSERT INTO perdure_schema VALUES (1, 9, 9)"
    )
  ]
]

/** Every page with its kind. */
const pagesOf = (database: Buffer): ReadonlyMap<string, ReadonlyArray<number>> => {
  const kinds = new Map<string, Array<number>>()
  const types: Record<number, string> = { 2: "inner index", 5: "inner table", 10: "index", 13: "table" }
  const freeTrunk = database.readUInt32BE(32)
  const free = new Set<number>()
  for (let trunk = freeTrunk; trunk !== 0; trunk = database.readUInt32BE((trunk - 1) * pageSize)) {
    const at = (trunk - 1) * pageSize
    free.add(trunk)
    for (let i = 0; i < database.readUInt32BE(at + 4); i++) {
      free.add(database.readUInt32BE(at + 8 + 4 * i))
    }
  }
  // The first page is a stranger's matter.
  for (let page = 1; page < database.length / pageSize; page++) {
    const kind = page + 1 === freeTrunk
      ? "trunk of free pages"
      : free.has(page + 1)
      ? "free"
      : types[database[page * pageSize]!] ?? "overflow"
    kinds.set(kind, [...kinds.get(kind) ?? [], page])
  }
  return kinds
}

row(
  {
    name: "corrupt-file",
    title: "a file that is damaged or another's: refused with a typed error, never served, never overwritten",
    ci: 200,
    night: 5_000
  },
  2,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const root = yield* quickFolder
      const whole = yield* specimen(root)
      // Free pages are what a table that was dropped leaves.
      const roomy = join(root, "roomy.db")
      writeFileSync(roomy, whole.database)
      const bare = new Sqlite(roomy)
      bare.exec("CREATE TABLE large (text)")
      const insert = bare.prepare("INSERT INTO large VALUES (?)")
      Array.from({ length: 40 }, () => insert.run("x".repeat(3_000)))
      bare.exec("DROP TABLE large").close()
      const database = readFileSync(roomy)
      const pages = pagesOf(database)
      const kinds = [...pages.keys()]
      assert.sameMembers(kinds, [
        "inner table",
        "inner index",
        "table",
        "index",
        "overflow",
        "free",
        "trunk of free pages"
      ])
      const strangers = strangersOf(database, whole.log)

      const folder = join(root, "files")
      const filename = inFolder(folder)
      const opened = <A, E>(use: (store: StepStore.StepStore["Type"]) => Effect.Effect<A, E>) =>
        Effect.exit(Effect.provide(
          Effect.flatMap(StepStore.StepStore, use),
          SqliteStepStore.layer({ filename, synchronous: "NORMAL" })
        ))
      const isTyped = (exit: Exit.Exit<unknown, unknown>, told: string) =>
        assert.isTrue(
          Exit.isSuccess(exit) || exit.cause._tag === "Fail",
          `${told} ${Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""}`
        )

      const stranger = ([name, put]: Stranger, drawn: Dice, trial: string) =>
        Effect.gen(function*() {
          const told = `${trial}: ${name}`
          put(folder, drawn)
          const before = filesOf(folder)
          const exit = yield* opened(() => Effect.void)
          isTyped(exit, told)
          assert.isTrue(Exit.isFailure(exit), `is refused: ${told}`)
          assert.deepStrictEqual(filesOf(folder), before, told)
        })

      const damaged = (kind: string, drawn: Dice, trial: string) =>
        Effect.gen(function*() {
          const page = drawn.among(pages.get(kind)!)
          const other = drawn.below(database.length / pageSize)
          const how = drawn.among(["zeros", "garbage", "another page"])
          const told = `${trial}: page ${page} (${kind}) is ${how}${how === "another page" ? ` (${other})` : ""}`
          const bytes = Buffer.from(database)
          const written = how === "zeros"
            ? Buffer.alloc(pageSize)
            : how === "garbage"
            ? drawn.bytes(pageSize)
            : Buffer.from(database.subarray(other * pageSize, (other + 1) * pageSize))
          written.copy(bytes, page * pageSize)
          writeFileSync(filename, bytes)

          const exit = yield* opened(view)
          isTyped(exit, told)
          const after = readFileSync(filename)
          const isAsItWas = (from: number) => after.compare(bytes, from, from + pageSize, from, from + pageSize) === 0
          assert.isTrue(isAsItWas(page * pageSize), `is not overwritten: ${told}`)
          if (Exit.isFailure(exit)) {
            assert.isTrue(after.equals(bytes), told)
            return
          }
          for (const [what, value] of exit.value.shown) {
            assert.deepStrictEqual(value, whole.shown.get(what), `${what}: ${told}`)
          }
          // An index, and a page that is free, may be of no use to what is read here; two ends of long texts may be the same.
          const isOther = !written.equals(database.subarray(page * pageSize, (page + 1) * pageSize))
          const isRead = kind === "overflow" ? how !== "another page" : kind.includes("table")
          if (exit.value.errors.length === 0 && isRead && isOther) {
            assert.isBelow(exit.value.shown.size, whole.shown.size, `is not served: ${told}`)
          }
          // Writing on, it may meet the damage, and makes nothing wrong that was right.
          isTyped(yield* opened((store) => Effect.zipRight(store.commit([newRun("later")]), write(store, 2))), told)
          const later = yield* opened(view)
          isTyped(later, told)
          for (const [what, value] of Exit.isSuccess(later) ? later.value.shown : []) {
            if (whole.shown.has(what)) {
              assert.deepStrictEqual(value, whole.shown.get(what), `later, ${what}: ${told}`)
            }
          }
        })

      for (let i = 0; i < count; i++) {
        // The runner of the tests wants its turns too.
        yield* turns(1)
        rmSync(folder, { recursive: true, force: true })
        mkdirSync(folder)
        const drawn = dice(seed, i)
        const trial = `trial ${i}, FC_SEED=${seed}`
        const n = Math.floor(i / 2)
        yield* i % 2 === 0
          ? stranger(strangers[n % strangers.length]!, drawn, trial)
          : damaged(kinds[n % kinds.length]!, drawn, trial)
      }
      return count
    }))
)
