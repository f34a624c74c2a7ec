/** The work of an engine that is started and stopped time and again: errands, and a ledger of them that the engine knows nothing of. */
import { Effect, Layer, Random, Schema } from "effect"
import { Branch, Child, Engine, type Errors, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { entriesOf, openLedger } from "../support/ledger.js"

export interface Entry {
  readonly life: string
  /** The key of a step. */
  readonly begun?: string
  readonly done?: string
  readonly nonce?: number
  /** The id of a run. */
  readonly started?: string
  readonly sent?: string
  readonly acknowledged?: string
  readonly result?: ReadonlyArray<number>
}

export interface Life {
  readonly database: string
  readonly ledger: string
  readonly name: string
  /** It ends when all that was ever begun is done; otherwise there is always more to do. */
  readonly finishes: boolean
  /** Milliseconds that steps in flight have to end. */
  readonly shutdownGrace: number
  /** Called at each line that is entered into the ledger. */
  readonly onLine: () => void
}

/** Errands under way at a time. */
const width = 4

const Go = Signal.make("go", Schema.Number)

const Part = Workflow.make({ name: "part", payload: { n: Schema.Number }, success: Schema.Number })

const Errand = Workflow.make({
  name: "errand",
  payload: { n: Schema.Number },
  success: Schema.Array(Schema.Number),
  idempotencyKey: ({ n }) => String(n)
})

export const readLedger = (file: string) => entriesOf<Entry>(file)

const moment = Effect.flatMap(Random.nextIntBetween(0, 3), (millis) => Effect.sleep(millis))

/** What is not told to its engine is lost: it neither polls nor beats, and so waits for no missed beats of another one. */
export const live = (
  { database, finishes, ledger, name, onLine, shutdownGrace }: Life
): Effect.Effect<void, Errors.StartError | Signal.SendError | Errors.RunStopped | Errors.RunCancelled> => {
  const before = readLedger(ledger)
  const sent = new Set(before.map((entry) => entry.sent))

  const entries = openLedger<Entry>(ledger)
  const enter = (entry: Omit<Entry, "life">) =>
    Effect.sync(() => {
      entries.enter({ ...entry, life: name })
      onLine()
    })

  const effect = (id: string) =>
    Effect.gen(function*() {
      const { stepKey } = yield* Step.Current
      yield* enter({ begun: stepKey })
      yield* moment
      const nonce = yield* Random.nextIntBetween(0, 1e9)
      yield* enter({ done: stepKey, nonce })
      return nonce
    }).pipe(Step.durable(id))

  const workflows = Layer.merge(
    Part.toLayer(() => effect("part")),
    Errand.toLayer(({ n }) =>
      Effect.gen(function*() {
        const first = yield* effect("first")
        const both = yield* Branch.all([effect("left"), effect("right")], { concurrency: "unbounded" })
        yield* Effect.sleep("2 millis")
        const go = yield* Signal.next(Go)
        const part = yield* Effect.orDie(Child.execute(Part, { n }))
        const last = yield* effect("last")
        return [first, ...both, go, part, last]
      })
    )
  )

  /** Sent until that is acknowledged, and never again. */
  const send = (workflowId: string, n: number) =>
    sent.has(workflowId)
      ? Effect.void
      : Effect.zipRight(moment, Signal.send(Go, { workflowId, value: n, idempotencyKey: "go" })).pipe(
        // It was recorded, and not acknowledged, and the run has used it.
        Effect.catchTag("SignalNotWanted", () => Effect.void),
        Effect.zipRight(enter({ sent: workflowId }))
      )

  const errand = (n: number) =>
    Effect.tap(Errand.start({ n }), (workflowId) => enter({ started: workflowId })).pipe(
      Effect.flatMap((workflowId) =>
        Effect.zipRight(
          send(workflowId, n),
          Effect.flatMap(Errand.await(workflowId), (result) => enter({ acknowledged: workflowId, result }))
        )
      )
    )

  return Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const runs = yield* store.runs({ after: null, limit: 100_000 })
    const known = runs.filter(({ parent }) => parent === null).length
    const numbers = Array.from({ length: finishes ? known : known + 10_000 }, (_, n) => n)
    yield* Effect.forEach(finishes ? numbers : numbers.slice(Math.max(0, known - 2 * width)), errand, {
      concurrency: finishes ? "unbounded" : width,
      discard: true
    })
  }).pipe(
    Effect.provide(
      workflows.pipe(
        Layer.provideMerge(Engine.layerWith({ parkGrace: 2, slowPoll: "1 hour", heartbeat: "1 hour", shutdownGrace })),
        Layer.provideMerge(SqliteStepStore.layer({ filename: database, synchronous: "NORMAL" }))
      )
    ),
    Effect.ensuring(Effect.sync(entries.close))
  )
}
