import { execFileSync, spawnSync } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Cause, Effect } from "effect"
import type { Report } from "../fixtures/faults/full.js"
import { bundle, launch, type Program } from "../support/bundle.js"
import { quickFolder } from "./folder.js"
import { row, seed } from "./row.js"

const fixtures = fileURLToPath(new URL("../fixtures", import.meta.url))

/** Mounts a small file system, in a namespace of its own that goes with the process, and becomes the command that follows. */
const onSmallDisk = (folder: string) => [
  "unshare",
  "--user",
  "--map-root-user",
  "--mount",
  "sh",
  "-c",
  "mount -t tmpfs -o size=12m tmpfs \"$0\" && exec \"$@\"",
  folder
]

/** Not every system lets everybody have such a namespace. */
const canMount = spawnSync("unshare", [...onSmallDisk("/tmp").slice(1), "true"]).status === 0

/** Makes `fullDisk.c` a library, and answers how to become a command whose disk it limits. */
const onLimitedDisk = (folder: string, roomFile: string) => {
  const library = join(dirname(roomFile), "fullDisk.so")
  execFileSync("cc", ["-shared", "-fPIC", "-O1", "-o", library, join(fixtures, "fullDisk.c"), "-ldl", "-lpthread"])
  writeFileSync(roomFile, Buffer.alloc(8, 0xff))
  return ["env", `LD_PRELOAD=${library}`, `FULL_FOLDER=${folder}`, `FULL_ROOM=${roomFile}`]
}

type Way = "pages" | "room" | "tmpfs"

/** The command to go through. */
const through: Record<Way, (folder: string, roomFile: string) => ReadonlyArray<string>> = {
  pages: () => [],
  room: onLimitedDisk,
  tmpfs: onSmallDisk
}

const ways: ReadonlyArray<Way> = ["pages", "room", canMount ? "tmpfs" : "room"]

/** The runs of a trial, and how each must end. */
const work = ["work/1", "work/2", "work/3"]
const statuses = new Map([
  ...work.map((id) => [id, "COMPLETED"] as const),
  ...work.map((id) => [`~${id}:6`, "COMPLETED"] as const),
  ["idle/0", "CANCELLED"] as const
])

/** Looks from outside at what a trial has left. */
const check = ({ complaints, database, failure, ledger, pays, refusals }: Report) => {
  assert.isNull(failure, failure ?? "")
  assert.deepStrictEqual(complaints, [])
  assert.includeMembers(["StoreFull", "ClientRefused"], [...refusals])

  // No step ran again once the body had been told what it came to.
  const keys = new Map<number, string>()
  const latest = new Map<string, number>()
  const passed = new Set<string>()
  for (const entry of ledger) {
    if (entry.effect !== undefined) {
      assert.isFalse(passed.has(entry.effect), `${entry.effect} ran again`)
      keys.set(entry.nonce!, entry.effect)
      latest.set(entry.effect, entry.nonce!)
    }
    if (entry.passed !== undefined) {
      passed.add(keys.get(entry.passed)!)
    }
  }

  const bare = new Sqlite(database)
  try {
    assert.strictEqual(bare.pragma("integrity_check", { simple: true }), "ok")
    const runs = bare.prepare<[], { id: string; status: string; outcome: string }>(
      "SELECT workflow_id AS id, status, outcome FROM workflows"
    ).all()
    assert.deepStrictEqual(new Map(runs.map(({ id, status }) => [id, status])), statuses)
    for (const { ended, result } of ledger.filter(({ ended }) => ended !== undefined)) {
      const { outcome } = runs.find(({ id }) => id === ended)!
      assert.deepStrictEqual(JSON.parse(outcome), result, ended)
    }
    const steps = bare.prepare<[], { key: string; output: string }>(
      "SELECT step_key AS key, output FROM steps WHERE kind = 'step' AND final AND step_id <> 'pay'"
    ).all()
    // Of the run that is cancelled, perhaps none.
    assert.isAtLeast(steps.length, 6 * work.length)
    for (const { key, output } of steps) {
      assert.strictEqual(JSON.parse(output).nonce, latest.get(key), key)
    }
    if (pays) {
      const paid = bare.prepare("SELECT n FROM payments ORDER BY n").pluck().all()
      assert.deepStrictEqual(paid, [1, 2, 3], "payments, each made once")
    }
  } finally {
    bare.close()
  }
}

row(
  {
    name: "disk-full",
    title: `no room for the database (max_page_count, ENOSPC${
      canMount ? ", a full tmpfs" : "; a tmpfs cannot be mounted here"
    }): typed errors and no defect, and runs go on by themselves when there is room`,
    ci: 100,
    night: 2_000
  },
  2,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const program = yield* bundle("faults/full")
      const root = yield* quickFolder
      const start = (way: Way, i: number) => {
        const home = join(root, String(i))
        const [disk, out, roomFile] = [join(home, "disk"), join(home, "out"), join(home, "room")]
        mkdirSync(disk, { recursive: true })
        mkdirSync(out)
        return launch(program, [way, disk, out, roomFile], through[way](disk, roomFile))
      }
      const processes = yield* Effect.forEach(ways, start)

      const trial = (number: number, { line, tell }: Program) =>
        Effect.gen(function*() {
          yield* tell(JSON.stringify({ number, seed }))
          const report = JSON.parse(yield* line) as Report
          check(report)
          rmSync(report.database)
          return report
        }).pipe(Effect.catchAllCause((cause) =>
          Effect.die(new Error(`trial ${number}, FC_SEED=${seed}: ${Cause.pretty(cause)}`))
        ))

      // Each process makes its trials one after the other: they share its disk.
      const all = Array.from({ length: count }, (_, number) =>
        number)
      const reports = yield* Effect.forEach(
        processes,
        (process, i) =>
          Effect.forEach(all.filter((number) => number % ways.length === i), (number) => trial(number, process)),
        { concurrency: "unbounded" }
      )
      // There was something that found no room, of a run or of the user.
      const troubled = reports.flat().filter(({ refused, released }) => refused + released > 0)
      assert.isAtLeast(troubled.length, Math.floor(count / 4))
      return count
    }))
)
