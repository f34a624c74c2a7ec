import { readdirSync } from "node:fs"
import { basename, dirname } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Option, Schedule, type Scope } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundle, launch, type Program } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"

interface Entry {
  readonly what: "begun" | "done"
  readonly stepKey: string
  readonly attempt: number
  readonly epoch: number
  readonly name: string
}

interface Members {
  readonly database: string
  /** Starts a process, and waits until it is ready. */
  readonly join: (name: string, options: object) => Effect.Effect<Program, never, Scope.Scope>
  /** What has really happened. */
  readonly ledger: Effect.Effect<ReadonlyArray<Entry>>
}

const program = Effect.runSync(Effect.cached(bundle("faults/member")))

const members = (use: (members: Members) => Effect.Effect<void, unknown, Scope.Scope | StepStore.StepStore>) =>
  Effect.scoped(Effect.gen(function*() {
    const database = yield* temporaryFile
    const file = `${database}.ledger`
    yield* use({
      database,
      join: (name, options) =>
        Effect.tap(
          Effect.flatMap(program, (path) => launch(path, [database, file, name, JSON.stringify(options)])),
          (member) => Effect.map(member.line, (line) => assert.strictEqual(line, "ready"))
        ),
      ledger: Effect.sync(() => entriesOf<Entry>(file))
    }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))
  }))

const until = <A, E, R>(what: Effect.Effect<A, E, R>, holds: (value: A) => boolean) =>
  Effect.repeat(what, { until: holds, schedule: Schedule.spaced("10 millis") }).pipe(
    Effect.timeout("10 seconds"),
    Effect.orDie
  )

const lockFiles = (database: string) =>
  readdirSync(dirname(database)).filter((file) => file.startsWith(`${basename(database)}-worker-`))

const row = (workflowId: string) =>
  Effect.flatMap(StepStore.StepStore, (store) => Effect.map(store.run(workflowId), Option.getOrThrow))

const historyOf = (workflowId: string) =>
  Effect.flatMap(
    StepStore.StepStore,
    (store) => Effect.map(store.history(workflowId, 0, { after: null, limit: 100 }), ({ rows }) => rows)
  )

const isDone = (workflowId: string) => until(row(workflowId), ({ status }) => status === "COMPLETED")

/** Starts jobs in a process. */
const start = (member: Program, ns: ReadonlyArray<number>) =>
  Effect.zipRight(member.tell(`start ${ns.join(" ")}`), member.line)

const observer = { id: "observer", host: "here", pid: process.pid, startedAt: 0 }

/** Suspends a process, while it does not hold the lock for writing: nobody could go on without that. */
const hang = (member: Program) =>
  Effect.flatMap(StepStore.StepStore, (store) =>
    Effect.suspend(() => {
      member.child.kill("SIGSTOP")
      return Effect.timeout(store.beat(observer), "1 second")
    }).pipe(
      Effect.tapError(() => Effect.sync(() => member.child.kill("SIGCONT"))),
      Effect.retry({ times: 10, schedule: Schedule.spaced("30 millis") })
    ))

/** Lets a process end by itself. */
const end = (member: Program) =>
  Effect.map(Effect.zipRight(member.hush, member.ended), (code) => assert.strictEqual(code, 0))

const numbers = (count: number) => Array.from({ length: count }, (_, n) => n)

const of = (name: string) => (entries: ReadonlyArray<Entry>) => entries.filter((entry) => entry.name === name)

describe("processes that share a SQLite file", () => {
  it.live("share the work: each run is done by one of them, each step once", () =>
    members(({ database, join, ledger }) =>
      Effect.gen(function*() {
        const options = { maxResidentRuns: 5, slowPoll: "1 hour" }
        const [a, b] = yield* Effect.all([join("a", options), join("b", options)], { concurrency: 2 })
        assert.lengthOf(lockFiles(database), 2)
        yield* start(a, numbers(40))
        yield* Effect.forEach(numbers(40), (n) => isDone(`job/${n}`))
        const entries = yield* ledger
        assert.lengthOf(entries, 40 * 3 * 2)
        for (const n of numbers(40)) {
          const mine = entries.filter(({ stepKey }) => stepKey.startsWith(`job/${n}:`))
          assert.strictEqual(new Set(mine.map(({ name }) => name)).size, 1, `job/${n}`)
          assert.deepStrictEqual(
            mine.map(({ attempt, stepKey, what }) => `${stepKey} ${attempt} ${what}`),
            [0, 1, 2].flatMap((i) => [`job/${n}:${i} 1 begun`, `job/${n}:${i} 1 done`])
          )
        }
        assert.isAtLeast(of("a")(entries).length, 6)
        assert.isAtLeast(of("b")(entries).length, 6)
        yield* Effect.zipRight(end(a), end(b))
        assert.deepStrictEqual(lockFiles(database), [])
      })
    ))

  it.live("one that is killed leaves its runs to the other, which notices by the lock", () =>
    members(({ database, join, ledger }) =>
      Effect.gen(function*() {
        const options = { slowPoll: "200 millis", heartbeat: "1 hour", millis: 30, steps: 10 }
        const [a, b] = yield* Effect.all([join("a", options), join("b", options)], { concurrency: 2 })
        yield* start(b, numbers(8))
        yield* until(ledger, (entries) => entries.length > 40)
        yield* b.kill
        const from = yield* Clock.currentTimeMillis
        yield* Effect.forEach(numbers(8), (n) => isDone(`job/${n}`))
        assert.isBelow((yield* Clock.currentTimeMillis) - from, 5_000)
        const entries = yield* ledger
        for (const n of numbers(8)) {
          const history = yield* historyOf(`job/${n}`)
          assert.lengthOf(history, 10)
          for (const { epoch, output, stepKey } of history) {
            const ran = entries.filter((entry) => entry.stepKey === stepKey && entry.what === "done")
            // Recorded by whoever did it last, and done again only where the other died before it was recorded.
            assert.strictEqual(output, JSON.stringify(ran.at(-1)?.name), stepKey)
            assert.strictEqual(epoch, ran.at(-1)?.epoch, stepKey)
            assert.deepStrictEqual(ran.map(({ name }) => name), [...new Set(ran.map(({ name }) => name))], stepKey)
          }
        }
        assert.isAtLeast(of("a")(entries).length, 8)
        yield* end(a)
        assert.deepStrictEqual(lockFiles(database), [])
      })
    ))

  it.live("one that hangs loses its runs by its missed beats, cannot write to them, and goes on with others", () =>
    members(({ database, join, ledger }) =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const options = { slowPoll: "1 hour", heartbeat: "100 millis", missedBeats: 10, millis: 1_000, steps: 1 }
        const [a, b] = yield* Effect.all([join("a", options), join("b", options)], { concurrency: 2 })
        yield* start(b, numbers(3))
        // Seen by others, not only begun.
        yield* until(
          Effect.forEach(numbers(3), (n) => store.unfinished(`job/${n}`, 0)),
          (rows) => rows.flat().length === 3
        )
        const id = (yield* row("job/0")).owner
        yield* hang(b)
        yield* Effect.forEach(numbers(3), (n) => isDone(`job/${n}`))
        // It lives, for all that its lock says.
        assert.deepStrictEqual(yield* store.dead, [])
        assert.lengthOf(lockFiles(database), 2)

        const beats = Effect.map(store.beat(observer), (all) => all.find((pulse) => pulse.id === id)?.beats)
        const before = yield* beats
        assert.isNumber(before)
        b.child.kill("SIGCONT")
        yield* until(beats, (now) => now !== before)
        // What it was doing comes to an end, and is recorded nowhere.
        yield* until(ledger, (entries) => of("b")(entries).filter(({ what }) => what === "done").length === 3)
        yield* start(b, [10])
        assert.strictEqual(yield* Effect.zipRight(b.tell("await 0 10"), b.line), "0 a")
        assert.strictEqual(yield* b.line, "10 b")
        const entries = yield* ledger
        for (const n of numbers(3)) {
          assert.deepStrictEqual(
            (yield* historyOf(`job/${n}`)).map(({ attempt, epoch, output }) => [attempt, epoch, output]),
            [[2, 2, "\"a\""]]
          )
          assert.deepStrictEqual(
            (yield* store.attempts(`job/${n}`, 0)).map(({ attempt, errorTag }) => [attempt, errorTag]),
            [[1, "OwnerDied"]]
          )
          const mine = entries.filter(({ stepKey }) => stepKey.startsWith(`job/${n}:`))
          assert.deepStrictEqual(
            mine.filter(({ what }) => what === "begun").map(({ attempt, epoch, name }) =>
              `${name} ${attempt} ${epoch}`
            ),
            ["b 1 1", "a 2 2"]
          )
        }
        assert.deepStrictEqual((yield* historyOf("job/10")).map(({ epoch }) => epoch), [1])
        yield* Effect.zipRight(end(a), end(b))
        assert.deepStrictEqual(lockFiles(database), [])
      })
    ))

  it.live("each does what it knows: a start is noticed without a poll, and other workflows are left alone", () =>
    members(({ join, ledger }) =>
      Effect.gen(function*() {
        const options = { slowPoll: "1 hour", heartbeat: "1 hour", millis: 100 }
        const b = yield* join("b", { ...options, has: ["other"] })
        const a = yield* join("a", options)
        yield* Effect.zipRight(a.tell("other 1"), a.line)
        const from = yield* Clock.currentTimeMillis
        yield* isDone("other/1")
        assert.isBelow((yield* Clock.currentTimeMillis) - from, 2_000)
        assert.deepStrictEqual([...new Set((yield* ledger).map(({ name }) => name))], ["b"])

        yield* start(a, [1])
        yield* until(ledger, (entries) => of("a")(entries).length > 0)
        yield* end(a)
        yield* Effect.sleep("300 millis")
        const left = yield* row("job/1")
        assert.deepStrictEqual([left.status, left.owner, left.epoch], ["PENDING", null, 1])
        const c = yield* join("c", options)
        yield* isDone("job/1")
        assert.deepStrictEqual(
          (yield* historyOf("job/1")).map(({ output }) => output),
          ["\"a\"", "\"c\"", "\"c\""]
        )
        yield* Effect.zipRight(end(b), end(c))
      })
    ))

  it.live("one that gets SIGTERM finishes the step in flight, and the next goes on from there", () =>
    members(({ database, join, ledger }) =>
      Effect.gen(function*() {
        const options = { slowPoll: "1 hour", heartbeat: "1 hour", millis: 300, steps: 2 }
        const a = yield* join("a", options)
        yield* start(a, [1])
        yield* until(ledger, (entries) => entries.length === 1)
        a.child.kill("SIGTERM")
        assert.oneOf(yield* a.ended, [0, 130])
        assert.deepStrictEqual((yield* ledger).map(({ stepKey, what }) => `${stepKey} ${what}`), [
          "job/1:0 begun",
          "job/1:0 done"
        ])
        const left = yield* row("job/1")
        assert.deepStrictEqual([left.status, left.owner, left.epoch], ["PENDING", null, 1])
        assert.deepStrictEqual(lockFiles(database), [])

        const b = yield* join("b", options)
        yield* isDone("job/1")
        assert.deepStrictEqual(
          (yield* historyOf("job/1")).map(({ attempt, epoch, output }) => [attempt, epoch, output]),
          [[1, 1, "\"a\""], [1, 2, "\"b\""]]
        )
        yield* end(b)
      })
    ))
})
