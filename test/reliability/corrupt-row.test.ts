import { hash } from "node:crypto"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Cause, Clock, Effect, Exit, Layer, Option, Schedule, Schema } from "effect"
import { Branch, Engine, Errors, Signal, SqliteStepStore, Step, Workflow } from "perdure"
import { temporaryFile } from "../support/stores.js"
import { type Damage, damageAll, damages } from "./damage.js"
import { row, seed } from "./row.js"

// ---------------------------------------------------------------------------------------------------------------------
// the run
// ---------------------------------------------------------------------------------------------------------------------

class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String }) {}

const Numbered = Schema.Struct({ n: Schema.Number, text: Schema.String })

const Early = Signal.make("early", Numbered)
const Go = Signal.make("go", Numbered)
const More = Signal.make("more", Numbered)

const Fragile = Workflow.make({
  name: "fragile",
  payload: { id: Schema.String, n: Schema.Number },
  success: Schema.Struct({ texts: Schema.Array(Schema.String), begun: Schema.Number, at: Schema.Number }),
  error: Refused,
  idempotencyKey: ({ id }) => id
})

/** The process outside of which the runs are: what they have done, and whether they may go on. */
interface World {
  /** How often each step was begun, by run and step. */
  readonly begun: Map<string, number>
  readonly atGate: Set<string>
  isOpen: boolean
}

const layerOf = (world: World) =>
  Fragile.toLayer(({ n }, workflowId) => {
    const does = (id: string) =>
      Effect.sync(() => void world.begun.set(`${workflowId} ${id}`, (world.begun.get(`${workflowId} ${id}`) ?? 0) + 1))
    const tells = (id: string) => Effect.as(does(id), { n, text: `${id} ${n}` })
    return Effect.gen(function*() {
      const begun = yield* Clock.currentTimeMillis
      const one = yield* tells("one").pipe(Step.durable("one", { success: Numbered }))
      const at = yield* Clock.currentTimeMillis
      const [two, three] = yield* Branch.all([
        Effect.zipRight(
          tells("two"),
          Effect.flatMap(Step.attempt, (attempt) =>
            attempt === 1
              ? Effect.fail(new Refused({ why: `not yet ${n}` }))
              : Effect.succeed({ n, text: `two ${n}` }))
        ).pipe(Step.durable("two", { success: Numbered, error: Refused, retry: Schedule.recurs(3) }), Effect.orDie),
        Effect.zipRight(tells("three"), Effect.fail(new Refused({ why: `three ${n}` }))).pipe(
          Step.durable("three", { error: Refused }),
          Effect.catchTag("Refused", ({ why }) => Effect.succeed({ n, text: why }))
        )
      ], { concurrency: "unbounded" })
      const early = yield* Signal.next(Early)
      yield* Effect.suspend(() => {
        world.atGate.add(workflowId)
        return world.isOpen ? Effect.void : Effect.never
      }).pipe(Step.durable("gate"))
      const go = yield* Signal.next(Go)
      const more = yield* Signal.next(More)
      const last = yield* tells("last").pipe(Step.durable("last", { success: Numbered }))
      if (n % 7 === 0) {
        return yield* new Refused({ why: `in the end ${n}` })
      }
      return { texts: [one, two, three, early, go, more, last].map(({ text }) => text), begun, at }
    })
  })

/** What a run must end with; the times are those that the database had before the damage. */
const truthOf = (n: number, begun: number, at: number) =>
  n % 7 === 0
    ? Exit.fail(new Refused({ why: `in the end ${n}` }))
    : Exit.succeed({
      texts: ["one", "two", "three", "early", "go", "more", "last"].map((id) => `${id} ${n}`),
      begun,
      at
    })

// ---------------------------------------------------------------------------------------------------------------------
// what may come of damage
// ---------------------------------------------------------------------------------------------------------------------

/** Whose row it is, or where it is found: a row that is not found any more is as good as lost, and what is lost is not there. */
const lost: ReadonlyArray<string> = [
  "workflows.namespace",
  "workflows.workflow_id",
  "workflows.generation",
  "workflows.epoch",
  "steps.namespace",
  "steps.workflow_id",
  "steps.generation",
  "steps.step_key",
  "steps.position",
  "steps.final"
]

/** What a replay compares, also with what is under way, which no digest covers. */
const compared: ReadonlyArray<string> = ["steps.kind", "steps.step_id", "steps.fingerprint"]

/** Reasons for which a damaged run may stop. */
const stops: ReadonlyArray<Errors.StopReason["_tag"]> = ["StoreCorrupt", "RecordUndecodable", "StoreRejected"]

type End = Exit.Exit<unknown, unknown>

const placeOf = ({ column, table }: Damage) => `${table}.${column}`

const difference = (exit: End, truth: End) =>
  JSON.stringify(exit) === JSON.stringify(truth)
    ? null
    : `ended with ${JSON.stringify(exit)}, not ${JSON.stringify(truth)}`

/** Says what is wrong with how a damaged run has ended; `null` if nothing is. */
const complaint = (exit: End, truth: End, damage: Damage): string | null => {
  const place = placeOf(damage)
  if (Exit.isSuccess(exit) || exit.cause._tag !== "Fail") {
    return difference(exit, truth)
  }
  const { error } = exit.cause
  if (error instanceof Errors.RunStopped) {
    const { _tag } = error.reason
    return stops.includes(_tag) || (_tag === "NonDeterminismError" && [...lost, ...compared].includes(place))
      ? null
      : `stopped: ${error.message}`
  }
  if (error instanceof Errors.StoreCorrupt) {
    return null
  }
  if (error instanceof Errors.WorkflowNotFound) {
    return lost.includes(place) ? null : "is not there"
  }
  // Somebody has asked for that, for all that the database says.
  if (error instanceof Errors.RunCancelled) {
    return place === "workflows.cancel_at" ? null : error.message
  }
  return difference(exit, truth)
}

// ---------------------------------------------------------------------------------------------------------------------
// the trials
// ---------------------------------------------------------------------------------------------------------------------

/** Where the runs are when they are damaged. */
const modes = [
  // Asleep, beside the engine that has driven them and will again.
  "beside",
  // Given back by an engine that has closed, in the middle of a step; another one finds them damaged.
  "between",
  // At their end; they are asked for what they have ended with.
  "ended"
] as const

/** Runs in one batch: of ten, one is not damaged. */
const batchSize = 200

const eventually = (what: string, holds: () => boolean) =>
  Effect.repeat(Effect.sync(holds), { until: (held) => held, schedule: Schedule.spaced("2 millis") }).pipe(
    Effect.timeoutFail({
      duration: "20 seconds",
      onTimeout: () => new Cause.TimeoutException(`it did not happen that ${what}`)
    })
  )

/** Damages runs on one file, and answers how many it has damaged. */
const batch = (number: number, wanted: ReadonlyArray<Damage>) =>
  Effect.scoped(Effect.gen(function*() {
    const mode = modes[number % modes.length]!
    const filename = yield* temporaryFile
    const world: World = { begun: new Map(), atGate: new Set(), isOpen: mode !== "between" }
    const inEngine = <A, E>(self: Effect.Effect<A, E, Engine.Engine>) =>
      Effect.provide(
        self,
        Layer.provideMerge(
          layerOf(world),
          Engine.layerWith({
            shutdownGrace: 0,
            parkGrace: 0,
            slowPoll: "200 millis",
            unrequestedAfter: "200 millis",
            deadlockAfter: "2 seconds"
          })
        ).pipe(Layer.provide(SqliteStepStore.layer({ filename, synchronous: "NORMAL" })))
      )
    const runs = wanted.map((damage, i) => {
      // One bit less or other in an id of a row must not make it that of another run.
      const id = `${number}-${i}-${hash("sha256", `${number}-${i}`).slice(0, 8)}`
      return { n: i + 1, id, workflowId: `fragile/${id}`, damage }
    })
    const each = <E, R>(work: (run: typeof runs[number]) => Effect.Effect<unknown, E, R>) =>
      Effect.forEach(runs, work, { concurrency: "unbounded", discard: true })
    const begin = each(({ id, n, workflowId }) =>
      Effect.zipRight(
        Fragile.start({ id, n }),
        Effect.zipRight(
          Signal.send(Early, { workflowId, value: { n, text: `early ${n}` } }),
          Signal.send(More, { workflowId, value: { n, text: `more ${n}` } })
        )
      )
    )
    // Whoever has lost a signal may get it again: it says the same.
    const go = each(({ n, workflowId }) =>
      Effect.forEach([Early, Go, More], (signal) =>
        Signal.send(signal, { workflowId, value: { n, text: `${signal.name} ${n}` } }).pipe(
          Effect.catchAll((error) =>
            Effect.sync(() => void refused.set(workflowId, error._tag))
          )
        ))
    )
    const database = yield* Effect.acquireRelease(
      Effect.sync(() => new Sqlite(filename, { timeout: 5_000 })),
      (database) => Effect.sync(() => database.close())
    )
    const count = (sql: string) => () =>
      database.prepare(`SELECT count(*) AS n FROM ${sql}`).pluck().get() === runs.length

    let done: ReadonlyArray<string | null> = []
    const truths: Array<End> = []
    /** Runs that nothing could be sent to: who sent it was told, and they sleep on. */
    const refused = new Map<string, string>()
    const damage = Effect.sync(() => {
      for (const { n, workflowId } of runs) {
        const begun = database.prepare("SELECT begun_at FROM workflows WHERE workflow_id = ?").pluck().get(workflowId)
        const at = database.prepare("SELECT updated_at FROM steps WHERE workflow_id = ? AND step_id = 'one'").pluck()
          .get(workflowId)
        truths.push(truthOf(n, begun as number, at as number))
      }
      done = damageAll(database, runs.filter(isChosen).map(({ damage, workflowId }) => [workflowId, damage]))
    })
    const outcomes = Effect.zipRight(
      go,
      Effect.forEach(
        runs,
        ({ workflowId }) =>
          Effect.timeoutOption(
            Effect.exit(Fragile.await(workflowId)),
            refused.get(workflowId) === "StoreRejected" ? "100 millis" : "10 seconds"
          ),
        { concurrency: "unbounded" }
      )
    )
    const ends = yield* {
      beside: inEngine(Effect.gen(function*() {
        yield* begin
        yield* eventually("all runs sleep", count("workflows WHERE status = 'SUSPENDED'"))
        yield* damage
        return yield* outcomes
      })),
      between: Effect.gen(function*() {
        yield* inEngine(Effect.zipRight(
          begin,
          eventually("all runs are at the gate", () => world.atGate.size === runs.length)
        ))
        yield* damage
        world.isOpen = true
        return yield* inEngine(outcomes)
      }),
      ended: inEngine(Effect.gen(function*() {
        yield* begin
        yield* go
        yield* eventually("all runs have ended", count("workflows WHERE status IN ('COMPLETED', 'FAILED')"))
        yield* damage
        return yield* outcomes
      }))
    }[mode]

    const complaints: Array<string> = []
    const said = [...done]
    runs.forEach((run, i) => {
      const { damage, workflowId } = run
      const what = isChosen(run) ? said.shift()! : null
      const complain = (wrong: string | null) => {
        complaints.push(...wrong === null ? [] : [`${workflowId}, ${what ?? "whole"}: ${wrong}`])
      }
      const truth = truths[i]!
      Option.match(ends[i]!, {
        onNone: () => complain(refused.get(workflowId) === "StoreRejected" ? null : "neither ended nor stopped"),
        onSome: (exit) => complain(what === null ? difference(exit, truth) : complaint(exit, truth, damage))
      })
      for (const [step, most] of [["one", 1], ["two", 2], ["three", 1]] as const) {
        const times = world.begun.get(`${workflowId} ${step}`)
        complain(times === most || lost.includes(placeOf(damage)) ? null : `${times} attempts at step ${step}`)
      }
    })
    const known = new Set(runs.map(({ workflowId }) => workflowId))
    for (const step of world.begun.keys()) {
      complaints.push(
        ...known.has(step.slice(0, step.lastIndexOf(" "))) ? [] : [`nobody has started the run of "${step}"`]
      )
    }
    assert.deepStrictEqual(complaints, [], `seed ${seed}, batch ${number} (${mode})`)
    return done.filter((what) => what !== null).length
  }))

/** Of ten runs, one stays whole. */
const isChosen = ({ n }: { readonly n: number }) => n % 10 !== 0

row(
  {
    name: "corrupt-row",
    title: "a damaged cell of a run stops that run, with a typed error, or does no harm, and the others go on",
    ci: 1_000,
    night: 50_000
  },
  3,
  (count) =>
    Effect.gen(function*() {
      let done = 0
      for (let number = 0; done < count; number++) {
        const size = Math.min(batchSize, Math.ceil((count - done) / 0.9) + 1)
        done += yield* batch(number, damages(size, seed + number))
      }
      return done
    })
)
