/**
 * A process that is suspended past its lease, loses its runs to others and goes on: what it writes to them from then on is refused, and
 * it tells of nothing that is not recorded.
 *
 * The beats are short, so a process that lives may be taken for dead on a crowded machine, and its runs have one life more: the checker
 * counts lives by epochs.
 */
import { truncateSync, writeFileSync } from "node:fs"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Effect, FastCheck as fc, Schedule } from "effect"
import type { Entry, Job } from "../fixtures/faults/zombie.js"
import { bundle, launch, type Program } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"
import { row } from "./row.js"
import { inTrial, scriptOf } from "./scripts.js"

const processes = 4

const options = { heartbeat: "25 millis", missedBeats: 6, slowPoll: "1 hour", limits: { kills: 1_000 } }

interface Script {
  /** Who is suspended. */
  readonly victim: number
  /** The steps of each of its runs, by the milliseconds that they take. */
  readonly runs: ReadonlyArray<ReadonlyArray<number>>
  /** How long after the start it is suspended, in milliseconds. */
  readonly after: number
  /** Whether one that has taken over is suspended too. */
  readonly another: boolean
  /** When they go on: as soon as their runs have been taken, in the midst of the next life, or when these have ended. */
  readonly until: "taken" | "ended"
}

const scripts: fc.Arbitrary<Script> = fc.record({
  victim: fc.integer({ min: 0, max: processes - 1 }),
  runs: fc.array(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 4, maxLength: 7 }), {
    minLength: 2,
    maxLength: 5
  }),
  after: fc.integer({ min: 0, max: 20 }),
  another: fc.boolean(),
  until: fc.constantFrom("taken", "ended")
})

interface Run {
  readonly id: string
  readonly status: string
  readonly epoch: number
  readonly pid: number | null
  readonly outcome: string | null
}

interface Record {
  readonly key: string
  readonly epoch: number
  readonly status: string
  readonly final: number
  readonly position: number | null
  readonly output: string | null
}

/** What the checker sees of a database. */
class Outside {
  readonly database: Sqlite.Database
  readonly ledger: string

  constructor(file: string, ledger: string) {
    this.database = new Sqlite(file, { timeout: 0 })
    this.ledger = ledger
  }

  runs(jobs: ReadonlyArray<Job>): ReadonlyArray<Run> {
    return this.database.prepare(
      "SELECT workflow_id AS id, status, epoch, outcome, (SELECT pid FROM workers WHERE id = owner) AS pid FROM workflows " +
        "WHERE workflow_id IN (SELECT value FROM json_each(?)) ORDER BY workflow_id"
    ).all(JSON.stringify(jobs.map(({ id }) => id))) as ReadonlyArray<Run>
  }

  records(id: string): ReadonlyArray<Record> {
    return this.database.prepare(
      "SELECT step_key AS key, epoch, status, final, position, output FROM steps WHERE workflow_id = ? ORDER BY position, key"
    ).all(id) as ReadonlyArray<Record>
  }

  entries(): ReadonlyArray<Entry> {
    return entriesOf<Entry>(this.ledger)
  }

  acknowledged(id: string): ReadonlyArray<Entry> {
    return this.entries().filter((entry) => entry.what === "acknowledged" && entry.id === id)
  }

  /** Whether nobody is writing. */
  isFree(): boolean {
    try {
      this.database.exec("BEGIN IMMEDIATE; ROLLBACK")
      return true
    } catch (error) {
      if ((error as { readonly code?: unknown }).code === "SQLITE_BUSY") {
        return false
      }
      throw error
    }
  }
}

const within = (what: string, holds: () => boolean) =>
  Effect.repeat(Effect.sync(holds), { until: (held) => held, schedule: Schedule.spaced("4 millis") }).pipe(
    Effect.timeout("30 seconds"),
    Effect.catchTag("TimeoutException", () => Effect.dieMessage(`in 30 seconds it has not come about that ${what}`))
  )

/** Suspends a process, while it does not hold the lock for writing: nobody could go on without that. */
const suspend = (process: Program, outside: Outside): Effect.Effect<void> =>
  Effect.sync(() => process.child.kill("SIGSTOP")).pipe(
    Effect.zipRight(Effect.repeat(Effect.sync(() => outside.isFree()), {
      until: (free) => free,
      schedule: Schedule.intersect(Schedule.spaced("2 millis"), Schedule.recurs(20))
    })),
    Effect.flatMap(() =>
      outside.isFree()
        ? Effect.void
        : Effect.sync(() => process.child.kill("SIGCONT")).pipe(
          Effect.zipRight(Effect.sleep("3 millis")),
          Effect.zipRight(suspend(process, outside))
        )
    )
  )

const start = (process: Program, jobs: ReadonlyArray<Job>) =>
  Effect.zipRight(
    process.tell(JSON.stringify(jobs)),
    Effect.map(process.line, (line) => assert.strictEqual(line, "started"))
  )

const isOver = ({ status }: Run) => status === "COMPLETED"

/** Whether each of these runs has another life now, or needs none. */
const areTaken = (before: ReadonlyArray<Run>, now: ReadonlyArray<Run>) =>
  before.every(({ epoch }, i) => isOver(now[i]!) || now[i]!.epoch > epoch)

const check = (outside: Outside, job: Job, pid: number): void => {
  const run = outside.runs([job])[0]!
  const records = outside.records(job.id)
  const entries = outside.entries().filter((entry) =>
    entry.what !== "acknowledged" && entry.stepKey.startsWith(`${job.id}:`)
  )
  assert.lengthOf(records, job.millis.length, job.id)
  assert.deepStrictEqual(
    [...new Set(records.map(({ final, status }) => `${status} ${final}`))],
    ["COMPLETED 1"],
    job.id
  )
  const epochs = records.map(({ epoch }) => epoch)
  assert.deepStrictEqual(epochs, [...epochs].sort((a, b) => a - b), `${job.id}: epochs in the order of recording`)
  assert.isAtMost(Math.max(...epochs), run.epoch)

  const lives = new Map<string, number>()
  for (const entry of entries) {
    if (entry.what === "acknowledged") {
      continue
    }
    const life = `${entry.what} ${entry.stepKey} in ${entry.epoch}`
    assert.isFalse(lives.has(life), `${life}, twice`)
    lives.set(life, entry.epoch)
    const record = records.find(({ key }) => key === entry.stepKey)!
    assert.isAtMost(entry.epoch, record.epoch, `${life}, although it was recorded in ${record.epoch}`)
    if (entry.epoch === record.epoch) {
      assert.strictEqual(JSON.stringify(entry.nonce), record.output, life)
    }
  }
  for (const { epoch, key } of records) {
    assert.isTrue(lives.has(`done ${key} in ${epoch}`), `${key} was recorded, and not done`)
  }

  const nonces = new Map(records.map(({ key, output }) => [key, JSON.parse(output!) as string]))
  const result = job.millis.map((_, i) => {
    const root = job.millis.length - 2
    return nonces.get(`${job.id}:${i < root ? i : `${i}.0`}`)
  }).join()
  assert.strictEqual(run.outcome, JSON.stringify(result))
  assert.deepStrictEqual(outside.acknowledged(job.id), [{ what: "acknowledged", id: job.id, result, pid }])

  const tags = outside.database.prepare("SELECT DISTINCT error_tag AS tag FROM attempts WHERE workflow_id = ?").all(
    job.id
  )
  assert.isTrue(tags.every((one) => (one as { readonly tag: string }).tag === "OwnerDied"), JSON.stringify(tags))
}

/** Answers whether anything was taken over: the runs may have ended before. */
const trial = Effect.fnUntraced(
  function*(programs: ReadonlyArray<Program>, outside: Outside, name: string, script: Script) {
    truncateSync(outside.ledger)
    const victim = programs[script.victim]!
    const jobs = script.runs.map((millis, i): Job => ({ id: `${name}.${i}`, millis }))
    yield* start(victim, jobs)
    yield* Effect.sleep(script.after)
    yield* suspend(victim, outside)
    const suspended = [victim]
    const before = outside.runs(jobs)
    const went = before.some((run) => !isOver(run))
    yield* within("the runs are taken over", () => areTaken(before, outside.runs(jobs)))

    const then = outside.runs(jobs)
    const heir = script.another
      ? programs.find(({ child }) => then.some((run) => !isOver(run) && run.pid === child.pid))
      : undefined
    if (heir !== undefined && heir !== victim) {
      yield* suspend(heir, outside)
      suspended.push(heir)
      const its = (run: Run) => run.pid === heir.child.pid && !isOver(run)
      const held = outside.runs(jobs)
      yield* within("the runs are taken over once more", () => {
        const now = outside.runs(jobs)
        return held.every((run, i) => !its(run) || areTaken([run], [now[i]!]))
      })
    }
    if (script.until === "ended") {
      yield* within("the runs end elsewhere", () => outside.runs(jobs).every(isOver))
    }

    // What stands there now under an epoch that is over is all that ever will.
    const snapshot = outside.runs(jobs).map((run) => ({ ...run, records: outside.records(run.id) }))
    yield* Effect.sync(() => suspended.forEach(({ child }) => child.kill("SIGCONT")))
    // They live, and do what is new.
    const fresh = suspended.map((_, i): Job => ({ id: `${name}.fresh.${i}`, millis: [1, 1, 1] }))
    yield* Effect.forEach(suspended, (process, i) => start(process, [fresh[i]!]))
    yield* within(
      "all is acknowledged",
      () => [...jobs, ...fresh].every(({ id }) => outside.acknowledged(id).length > 0)
    )

    jobs.forEach((job) => check(outside, job, victim.child.pid!))
    fresh.forEach((job, i) => check(outside, job, suspended[i]!.child.pid!))
    for (const { epoch, id, records, status } of snapshot) {
      const ended = status === "COMPLETED" ? epoch + 1 : epoch
      const old = (record: Record) => record.epoch < ended
      const known = new Map(records.filter(old).map((record) => [record.key, record]))
      for (const record of outside.records(id).filter(old)) {
        assert.deepStrictEqual(record, known.get(record.key), `${record.key} was written in an epoch that is over`)
      }
    }
    return went
  }
)

row(
  {
    name: "zombie",
    title: "a process that is suspended past its lease, loses its runs and goes on writes nothing to them",
    ci: 50,
    night: 2_000
  },
  3,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const file = yield* temporaryFile
      const ledger = `${file}.ledger`
      yield* Effect.sync(() => writeFileSync(ledger, ""))
      const program = yield* bundle("faults/zombie")
      const programs = yield* Effect.replicateEffect(
        launch(program, [file, ledger, JSON.stringify(options)]),
        processes
      )
      yield* Effect.forEach(
        programs,
        (process) => Effect.map(process.line, (line) => assert.strictEqual(line, "ready"))
      )
      const outside = yield* Effect.acquireRelease(
        Effect.sync(() => new Outside(file, ledger)),
        ({ database }) => Effect.sync(() => database.close())
      )
      let trials = 0
      for (let number = 0; trials < count; number++) {
        const script = scriptOf(scripts, number)
        if (yield* inTrial(number, script, trial(programs, outside, `run-${number}`, script))) {
          trials++
        }
        assert.isAtMost(number, 3 * count + 10, "hardly anything was taken over")
      }
      for (const process of programs) {
        yield* process.hush
        assert.strictEqual(yield* process.ended, 0)
      }
      return trials
    }))
)
