/**
 * A run with many recorded steps is reopened. Measured is the time from when the engine's layer is built (its worker is registered, the
 * workflow is registered, the run is claimed, its history is read, decoded and handed to the body) until the body has passed its
 * last recorded step, which it tells by a callback. The store is open by then, its tables made. The floor is one SELECT of those rows
 * with all columns that a replay reads, on a connection that is opened before.
 */
import { strict as assert } from "node:assert"
import { performance } from "node:perf_hooks"
import Database from "better-sqlite3"
import { Deferred, Effect, Exit, Layer, Schema } from "effect"
import { Engine, Signal, Step, Workflow } from "perdure"
import { temporaryFile } from "../../support/stores.js"
import { reserved, type Size, type Sync, timedSync, type Workload } from "../workload.js"

const Replayed = Workflow.make({ name: "replayed", payload: { steps: Schema.Int } })

const Never = Signal.make("never", Schema.Null)

/** What the body calls after its last step. */
let passed: () => void = () => {}

const ReplayedLive = Replayed.toLayer(({ steps }) =>
  Effect.gen(function*() {
    for (let n = 0; n < steps; n++) {
      yield* Effect.succeed({ n, done: true, label: "record" }).pipe(Step.durable("record"))
    }
    passed()
    yield* Signal.next(Never)
  })
)

/** When the body has passed its last step, counted from now on. */
const passing = Effect.map(Deferred.make<number>(), (deferred) => {
  passed = () => Deferred.unsafeDone(deferred, Exit.succeed(performance.now()))
  return Deferred.await(deferred)
})

const live = Layer.provideMerge(ReplayedLive, Engine.layer)

/** A file with a run that waits behind its last step; whoever drove it has given it back. */
const recorded = ({ steps }: Size, synchronous: Sync) =>
  Effect.tap(temporaryFile, (filename) =>
    Effect.gen(function*() {
      const end = yield* passing
      yield* Replayed.start({ steps })
      yield* end
    }).pipe(
      Effect.provide(Layer.provide(live, reserved({ filename, synchronous }))),
      Effect.orDie
    ))

/** The columns of a record that the engine's own statement names. */
const history =
  "SELECT step_key, step_id, kind, sequence, status, position, attempt, epoch, final, started_at, updated_at, " +
  "asked_after, fingerprint, codec, digest, error_tag, output, error FROM steps " +
  "WHERE namespace = 'default' AND workflow_id = ? AND generation = 0 AND final = 1 ORDER BY position"

export const replay: Workload = {
  name: "replay",
  size: { runs: 1, steps: 5_000 },
  takes: ["steps"],
  rounds: 5,
  warmUps: 12,
  measures: [{
    key: "perStep",
    label: "",
    unit: "µs/step",
    target: () => ({ text: "at most 10 above the floor", isMet: (value, floor) => value - floor <= 10 })
  }],
  note:
    "from building the layer of engine and workflow (registers, claims, reads, decodes, replays) until the body has passed its " +
    "last recorded step; the store is open before; floor: one SELECT of the records",
  engine: (size, synchronous) =>
    Effect.map(recorded(size, synchronous), (filename) =>
      Effect.scoped(Effect.gen(function*() {
        const store = yield* Layer.build(reserved({ filename, synchronous }))
        const end = yield* passing
        const start = performance.now()
        yield* Effect.provide(Layer.build(live), store)
        const millis = (yield* end) - start
        return { perStep: millis * 1_000 / size.steps, millis }
      })).pipe(Effect.orDie)),
  floor: (size, synchronous) =>
    Effect.map(recorded(size, synchronous), (filename) =>
      Effect.acquireUseRelease(
        Effect.sync(() => new Database(filename)),
        (database) =>
          Effect.sync(() => {
            const id = database.prepare("SELECT workflow_id FROM workflows").pluck().get()
            const select = database.prepare(history)
            let rows: ReadonlyArray<unknown> = []
            const millis = timedSync(() => {
              rows = select.all(id)
            })
            assert.equal(rows.length, size.steps)
            return { perStep: millis * 1_000 / size.steps }
          }),
        (database) => Effect.sync(() => database.close())
      )),
  growth: { grows: "steps", from: { runs: 1, steps: 1_000 }, millis: (sample) => sample.millis! }
}
