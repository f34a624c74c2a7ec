import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Cause, Effect, Exit } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { turns } from "../support/harness.js"
import { contentOf, frameHeader, walHeader } from "./database.js"
import { type Dice, dice } from "./dice.js"
import { quickFolder } from "./folder.js"
import { row, seed } from "./row.js"
import { pageSize, type Specimen, specimen, view } from "./specimen.js"

const sector = 512

/** Puts a database and its log in place of those that were there. */
const put = (filename: string, database: Buffer, log: Buffer | null): void => {
  rmSync(`${filename}-shm`, { force: true })
  writeFileSync(filename, database)
  log === null ? rmSync(`${filename}-wal`, { force: true }) : writeFileSync(`${filename}-wal`, log)
}

const flip = (bytes: Buffer, at: number, bit: number): void => {
  bytes[at] = bytes[at]! ^ (1 << bit)
}

interface Damaged {
  readonly bytes: Buffer
  readonly script: string
}

/** Overwrites whole sectors, as a write does of which only a part arrives. */
const tear = (bytes: Buffer, drawn: Dice): string => {
  const from = drawn.below(Math.ceil(bytes.length / sector)) * sector
  const to = Math.min(bytes.length, from + sector * (1 + drawn.below(12)))
  const source = drawn.among(["zeros", "garbage", "other sectors"])
  const other = drawn.below(bytes.length - (to - from) + 1)
  const written = source === "zeros"
    ? Buffer.alloc(to - from)
    : source === "garbage"
    ? drawn.bytes(to - from)
    : Buffer.from(bytes.subarray(other, other + to - from))
  written.copy(bytes, from)
  return `bytes ${from} to ${to} are ${source}${source === "other sectors" ? ` from ${other}` : ""}`
}

const flipped = (bytes: Buffer, drawn: Dice, where: () => number): string => {
  const places = Array.from({ length: 1 + drawn.below(3) }, () => [where(), drawn.below(8)] as const)
  places.forEach(([at, bit]) => flip(bytes, at, bit))
  return `flipped byte:bit ${places.map((place) => place.join(":")).join(" ")}`
}

const damagedLog = ({ log }: Specimen, drawn: Dice): Damaged => {
  const frame = frameHeader + pageSize
  const frames = (log.length - walHeader) / frame
  const kind = drawn.below(10)
  if (kind < 5) {
    // At an edge: of the header of the log, of that of a frame, of its page; and one byte before it and behind.
    const edge = drawn.among([0, walHeader, walHeader + frameHeader]) + frame * drawn.below(frames + 1)
    const length = Math.min(log.length, Math.max(0, edge + drawn.below(3) - 1))
    return { bytes: log.subarray(0, length), script: `cut at ${length}` }
  }
  const bytes = Buffer.from(log)
  switch (kind) {
    case 5:
      return { bytes: Buffer.concat([bytes, drawn.bytes(drawn.below(2 * frame))]), script: "garbage behind it" }
    case 6:
    case 7:
      return { bytes, script: tear(bytes, drawn) }
    default:
      return { bytes, script: flipped(bytes, drawn, () => drawn.below(drawn.among([walHeader, bytes.length]))) }
  }
}

/** The first byte that is not as it was. */
const firstDifference = (bytes: Buffer, before: Buffer): number => {
  const length = Math.min(bytes.length, before.length)
  for (let at = 0; at < length; at += sector) {
    const end = Math.min(length, at + sector)
    if (bytes.compare(before, at, end, at, end) !== 0) {
      for (let byte = at;; byte++) {
        if (bytes[byte] !== before[byte]) {
          return byte
        }
      }
    }
  }
  return length
}

/** Text and numbers of rows are in most bytes, so what holds the tree together is hit as often by choice. */
const damagedDatabase = ({ database }: Specimen, drawn: Dice): Damaged => {
  const bytes = Buffer.from(database)
  const pages = bytes.length / pageSize
  const inTable = (page: number) => bytes[page * pageSize] === 13
  const structure = Array.from({ length: pages }, (_, page) => page).filter((page) => !inTable(page))
  const places: ReadonlyArray<() => number> = [
    () => drawn.below(bytes.length),
    () => drawn.among(structure) * pageSize + drawn.below(pageSize),
    () => drawn.below(pages) * pageSize + drawn.below(100)
  ]
  return drawn.isBelow(0.1)
    ? { bytes, script: tear(bytes, drawn) }
    : { bytes, script: flipped(bytes, drawn, drawn.among(places)) }
}

row(
  {
    name: "torn-write",
    title: "a torn write or a flipped bit: the log opens as a prefix of the commits, and no wrong value is served",
    ci: 2_000,
    night: 100_000
  },
  4,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const folder = yield* quickFolder
      const whole = yield* specimen(folder)
      const filename = join(folder, "durable.db")

      /** What the store makes of the files; it fails with typed errors, and does not die. */
      const opened = <A, E>(use: (store: StepStore.StepStore["Type"]) => Effect.Effect<A, E>) =>
        Effect.exit(Effect.provide(
          Effect.flatMap(StepStore.StepStore, use),
          SqliteStepStore.layer({ filename, synchronous: "NORMAL" })
        ))

      const log = (drawn: Dice, name: string) =>
        Effect.gen(function*() {
          const { bytes, script } = damagedLog(whole, drawn)
          const told = `${name}, the log: ${script}`
          put(filename, whole.behind, bytes)
          const exit = yield* opened(() =>
            Effect.sync(() => {
              const bare = new Sqlite(filename)
              const content = contentOf(bare)
              bare.close()
              return content
            })
          )
          assert.isTrue(Exit.isSuccess(exit), `${told} ${exit}`)
          const expected = whole.contentBefore(firstDifference(bytes, whole.log))
          assert.isTrue(Exit.isSuccess(exit) && exit.value === expected, `the prefix of the commits: ${told}`)
          return false
        })

      const database = (drawn: Dice, name: string) =>
        Effect.gen(function*() {
          const { bytes, script } = damagedDatabase(whole, drawn)
          const told = `${name}, the database: ${script}`
          put(filename, bytes, null)
          const exit = yield* opened(view)
          if (Exit.isFailure(exit)) {
            // Its file is no database of ours any more, and it says so.
            assert.strictEqual(exit.cause._tag, "Fail", `${told} ${Cause.pretty(exit.cause)}`)
            return true
          }
          for (const [what, value] of exit.value.shown) {
            assert.deepStrictEqual(value, whole.shown.get(what), `${what}: ${told}`)
          }
          return exit.value.errors.length > 0
        })

      let noticed = 0
      for (let i = 0; i < count; i++) {
        const drawn = dice(seed, i)
        // The runner of the tests wants its turns too.
        yield* turns(1)
        const trial = i % 2 === 0 ? log : database
        noticed += Number(yield* trial(drawn, `trial ${i}, FC_SEED=${seed}`))
      }
      // Of half of the trials, those whose damage was met by what was read.
      assert.isAbove(noticed, count / 8)
      return count
    }))
)
