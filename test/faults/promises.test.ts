/** Those of the ten promises in which processes are involved, with processes that are killed; the third is the row `zombie`. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Schedule, type Scope } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { bundle, launch, type Program } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"

interface Entry {
  readonly what: "effect" | "woken" | "undone"
  readonly pid: number
  readonly stepKey?: string
  readonly nonce?: string
  readonly early?: boolean
}

interface Processes {
  /** Starts a process, and waits until it is ready. */
  readonly join: (
    mode?: "sound" | "mistaken",
    options?: object
  ) => Effect.Effect<Program, never, Scope.Scope>
  readonly ledger: Effect.Effect<ReadonlyArray<Entry>>
}

const program = Effect.runSync(Effect.cached(bundle("faults/promises")))

const engine = { parkGrace: "10 millis", slowPoll: "200 millis", heartbeat: "1 hour" }

const processes = (use: (processes: Processes) => Effect.Effect<void, unknown, Scope.Scope | StepStore.StepStore>) =>
  Effect.scoped(Effect.gen(function*() {
    const database = yield* temporaryFile
    const file = `${database}.ledger`
    yield* use({
      join: (mode = "sound", options = engine) =>
        Effect.tap(
          Effect.flatMap(program, (path) => launch(path, [database, file, mode, JSON.stringify(options)])),
          (process) => Effect.map(process.line, (line) => assert.strictEqual(line, "ready"))
        ),
      ledger: Effect.sync(() => entriesOf<Entry>(file))
    }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))
  }))

/** Says a line, and answers so many lines that come back. */
const ask = (process: Program, line: string, answers = 1) =>
  Effect.zipRight(process.tell(line), Effect.replicateEffect(process.line, answers))

const until = <A, E, R>(what: Effect.Effect<A, E, R>, holds: (value: A) => boolean) =>
  Effect.repeat(what, { until: holds, schedule: Schedule.spaced("5 millis") }).pipe(
    Effect.timeout("15 seconds"),
    Effect.orDie
  )

const row = (workflowId: string) =>
  Effect.flatMap(StepStore.StepStore, (store) => Effect.map(store.run(workflowId), Option.getOrThrow))

const historyOf = (workflowId: string) =>
  Effect.flatMap(
    StepStore.StepStore,
    (store) => Effect.map(store.history(workflowId, 0, { after: null, limit: 100 }), ({ rows }) => rows)
  )

describe("1. Recorded once", () => {
  it.live("what is recorded when the process is killed does not run again in the next, which returns it", () =>
    processes(({ join, ledger }) =>
      Effect.gen(function*() {
        const recorded = new Map<string, string | null>()
        for (let life = 0; life < 4; life++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const process = yield* join()
            yield* ask(process, `start steps ${life}`)
            yield* until(historyOf(`steps/${life}`), (rows) => rows.length > life % 5)
            yield* process.kill
          }))
          for (const { output, stepKey } of yield* historyOf(`steps/${life}`)) {
            recorded.set(stepKey, output)
          }
        }
        const last = yield* join()
        const ends = yield* ask(last, "await steps 0 1 2 3", 4)
        const entries = yield* ledger
        assert.isAtLeast(recorded.size, 4 + 3)
        for (const [stepKey, output] of recorded) {
          const ran = entries.filter((entry) => entry.stepKey === stepKey)
          assert.strictEqual(JSON.stringify(ran.at(-1)?.nonce), output, stepKey)
          assert.isTrue(ends.some((end) => end.includes(JSON.parse(output!))), stepKey)
        }
      })
    ))
})

describe("2. Nothing acknowledged is lost", () => {
  it.live("a start and an outcome that a process has told of outlive its SIGKILL in the same moment", () =>
    processes(({ join }) =>
      Effect.gen(function*() {
        const told: Array<string> = []
        for (let life = 0; life < 5; life++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const process = yield* join()
            yield* ask(process, `start steps ${life}`)
            if (life > 0) {
              told.push(...yield* ask(process, `await steps ${life - 1}`))
            }
            yield* process.kill
          }))
          assert.strictEqual((yield* row(`steps/${life}`)).workflowId, `steps/${life}`)
        }
        for (const [n, end] of told.entries()) {
          const { outcome, status } = yield* row(`steps/${n}`)
          assert.strictEqual(status, "COMPLETED")
          assert.strictEqual(`${n} ${JSON.parse(outcome!)}`, end)
        }
        assert.lengthOf(told, 4)
      })
    ))
})

describe("6. No lost wake-up", () => {
  it.live("what is sent while a process parks its runs, or is killed as it does, wakes them somewhere", () =>
    processes(({ join }) =>
      Effect.gen(function*() {
        const sender = yield* join()
        const numbers = Array.from({ length: 8 }, (_, n) => n)
        for (const n of numbers) {
          yield* Effect.scoped(Effect.gen(function*() {
            const process = yield* join()
            yield* ask(process, `start signal ${n}`)
            yield* ask(process, `start child ${n}`)
            yield* until(historyOf(`signal/${n}`), (rows) => rows.length === 1)
            // The grace before it is parked takes ten milliseconds.
            yield* Effect.sleep(2 * n)
            yield* ask(sender, n % 3 === 0 ? `cancel ${n}` : `send ${n}`)
            yield* process.kill
          }))
        }
        const ends = yield* ask(sender, `await signal ${numbers.join(" ")}`, numbers.length)
        assert.deepStrictEqual(
          ends,
          numbers.map((n) => n % 3 === 0 ? `${n} RunCancelled` : `${n} sent ${n}`)
        )
        assert.deepStrictEqual(
          yield* ask(sender, `await child ${numbers.join(" ")}`, numbers.length),
          numbers.map((n) => `${n} part ${n}`)
        )
      })
    ))
})

describe("7. Timers never fire early", () => {
  it.live("and fire in whatever process is there, after those before it were killed", () =>
    processes(({ join, ledger }) =>
      Effect.gen(function*() {
        const numbers = "0 1 2 3 4"
        for (let life = 0; life < 3; life++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const process = yield* join()
            yield* ask(process, `start timer ${numbers}`)
            yield* Effect.sleep(life * 40)
            yield* process.kill
          }))
        }
        const last = yield* join()
        assert.deepStrictEqual(yield* ask(last, `await timer ${numbers}`, 5), [0, 1, 2, 3, 4].map((n) => `${n} rested`))
        const woken = (yield* ledger).filter(({ what }) => what === "woken")
        assert.isAtLeast(woken.length, 5)
        assert.deepStrictEqual(woken.filter(({ early }) => early), [])
      })
    ))
})

describe("8. Only the workflow's own typed error fails a run", () => {
  it.live("a defect deployed by mistake stops runs whose process is killed; the next one, mended, finishes them", () =>
    processes(({ join, ledger }) =>
      Effect.gen(function*() {
        const numbers = Array.from({ length: 10 }, (_, n) => n)
        yield* Effect.scoped(Effect.gen(function*() {
          const process = yield* join("mistaken")
          yield* ask(process, `start mistake ${numbers.join(" ")}`)
          yield* until(row("mistake/9"), ({ status }) => status === "STOPPED")
          yield* process.kill
        }))
        const second = yield* join("mistaken")
        assert.deepStrictEqual(
          yield* ask(second, `await mistake ${numbers.join(" ")}`, 10),
          numbers.map((n) => `${n} RunStopped`)
        )
        yield* second.kill
        const before = yield* ledger
        assert.deepStrictEqual(before.filter(({ nonce, what }) => what === "undone" || nonce?.startsWith("unlock")), [])

        const mended = yield* join()
        yield* ask(mended, `resume mistake ${numbers.join(" ")}`)
        const ends = yield* ask(mended, `await mistake ${numbers.join(" ")}`, 10)
        assert.deepStrictEqual(ends.filter((end) => !/^\d work \d+$/.test(end)), [])
        const entries = yield* ledger
        assert.deepStrictEqual(entries.filter(({ what }) => what === "undone"), [])
        assert.lengthOf(entries.filter(({ nonce }) => nonce?.startsWith("unlock")), 10)
      })
    ))
})
