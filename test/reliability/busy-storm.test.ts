/** Processes that write to one file, which somebody else locks nearly all the time. */
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Clock, Effect } from "effect"
import type { Report } from "../fixtures/faults/storm.js"
import { bundle, launch, type Program } from "../support/bundle.js"
import { linesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"
import { seed, timedRow } from "./row.js"

const processes = 8

const runs = 200

/** The steps of a run, beside its sleep. */
const steps = 3

/** The engine's own, in milliseconds: those of its options are as they are unless given. */
const heartbeat = 2_000

const lease = 10 * heartbeat

/** A wave of runs in each process begins so long after the one before, or when that is done. */
const pace = 15_000

/** For how long the lock is held at most, and let go of, in milliseconds. */
const [hold, gap] = [400, 40]

/** Notes, from outside, when each worker shows that it lives. */
class Beats {
  private readonly statement: Sqlite.Statement
  private readonly latest = new Map<string, { readonly beats: number; readonly at: number }>()
  /** How long after the one before each beat came, in milliseconds. */
  readonly intervals: Array<number> = []

  constructor(database: Sqlite.Database) {
    this.statement = database.prepare("SELECT id, beats FROM workers")
  }

  look(at: number): void {
    const all = this.statement.all() as ReadonlyArray<{ readonly id: string; readonly beats: number }>
    assert.deepStrictEqual(all.length, processes, "workers that are registered")
    for (const { beats, id } of all) {
      const before = this.latest.get(id)
      if (before?.beats !== beats) {
        if (before !== undefined) {
          this.intervals.push(at - before.at)
        }
        this.latest.set(id, { beats, at })
      }
    }
    assert.strictEqual(this.latest.size, processes, "each lives from the start to the end")
    for (const [id, beat] of this.latest) {
      assert.isBelow(at - beat.at, lease, `the silence of ${id}`)
    }
  }
}

/** One wave of runs in a process. */
const wave = Effect.fnUntraced(function*(process: Program, first: number) {
  yield* process.tell(`${first} ${runs}`)
  const report: Report = JSON.parse(yield* process.line)
  assert.deepStrictEqual(report.complaints, [])
  assert.strictEqual(report.right, runs)
  return report
})

/** What the tables and the ledger say of all runs, when they have ended. */
const check = (database: Sqlite.Database, ledger: string, total: number): void => {
  assert.deepStrictEqual(
    database.prepare("SELECT status, epoch, count(*) AS count FROM workflows GROUP BY status, epoch").all(),
    [{ status: "COMPLETED", epoch: 1, count: total }]
  )
  assert.deepStrictEqual(
    database.prepare("SELECT status, final, epoch, attempt FROM steps GROUP BY status, final, epoch, attempt").all(),
    [{ status: "COMPLETED", final: 1, epoch: 1, attempt: 1 }]
  )
  assert.deepStrictEqual(database.prepare("SELECT * FROM attempts").all(), [])
  const keys = database.prepare("SELECT step_key FROM steps WHERE kind = 'step' ORDER BY step_key").pluck().all()
  assert.lengthOf(keys, total * steps)
  const done = linesOf(ledger)
  assert.strictEqual([...done].sort().join(), [...keys].sort().join(), "steps, and effects that happened")
}

timedRow(
  {
    name: "busy-storm",
    title: "eight processes write to one file, which is locked for up to 400 ms at a time: no error, and beats on time",
    ci: { seconds: 60 },
    night: { seconds: 1_800 }
  },
  4,
  (seconds) =>
    Effect.scoped(Effect.gen(function*() {
      const file = yield* temporaryFile
      const ledger = `${file}.ledger`
      const [storm, holder] = yield* Effect.all([bundle("faults/storm"), bundle("lockHolder")])
      const programs = yield* Effect.replicateEffect(launch(storm, [file, ledger]), processes)
      yield* Effect.forEach(
        programs,
        (process) => Effect.map(process.line, (line) => assert.strictEqual(line, "ready"))
      )
      const locks = yield* launch(holder, [file, String(hold), String(gap), String(seed)])
      assert.strictEqual(yield* locks.line, "held")
      const database = yield* Effect.acquireRelease(
        Effect.sync(() => new Sqlite(file, { readonly: true })),
        (database) => Effect.sync(() => database.close())
      )

      const beats = new Beats(database)
      const looking = Effect.forever(
        Effect.zipRight(Effect.map(Clock.currentTimeMillis, (now) => beats.look(now)), Effect.sleep("50 millis"))
      )
      const end = (yield* Clock.currentTimeMillis) + seconds * 1_000
      const waves = Effect.fnUntraced(function*(process: Program, number: number) {
        const reports: Array<Report> = []
        for (;;) {
          const report = yield* wave(process, (reports.length * processes + number) * runs)
          reports.push(report)
          const left = end - (yield* Clock.currentTimeMillis)
          const rest = Math.max(0, pace - report.elapsed)
          // The storm goes on to its end; another wave begins only if there is time for it.
          if (left < rest + report.elapsed) {
            yield* Effect.sleep(Math.max(0, left))
            return reports
          }
          yield* Effect.sleep(rest)
        }
      })
      const reports = (yield* Effect.raceFirst(
        Effect.forEach(programs, waves, { concurrency: "unbounded" }),
        looking
      )).flat()

      assert.isNull(locks.child.exitCode, "the lock was held to the end")
      yield* locks.kill
      yield* Effect.forEach(programs, (process) => Effect.zipRight(process.hush, process.ended), {
        concurrency: "unbounded"
      })
        .pipe(Effect.map((codes) => assert.deepStrictEqual(codes, programs.map(() => 0))))
      const total = reports.length * runs
      assert.isAtLeast(total, processes * runs)
      check(database, ledger, total)

      const sum = (of: (report: typeof reports[number]) => number) =>
        reports.reduce((sum, report) => sum + of(report), 0)
      // Where the driver waits for the lock, no timer fires before it is let go.
      assert.isBelow(sum(({ blocked }) => blocked), sum(({ ticks }) => ticks) / 25, "times that a process was blocked")

      const late = beats.intervals.map((interval) => interval - heartbeat).sort((a, b) => a - b)
      assert.isAtLeast(late.length, processes)
      const slowest = Math.max(...reports.map(({ elapsed }) => elapsed))
      const at = (share: number) => late[Math.floor(share * (late.length - 1))]
      yield* Effect.log(
        `${total} runs in waves of at most ${slowest} ms; of ${late.length} beats the median was ${at(0.5)} ms late, ` +
          `the 99th percentile ${at(0.99)} ms, the last ${at(1)} ms`
      )
      return total
    }))
)
