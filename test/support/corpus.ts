/**
 * A reference workflow for each feature, whose history is recorded once for each released version and must replay for ever:
 * `test/fixtures/histories/<version>/<name>.json`. What is here may be added to, and not be changed.
 */
import { SqliteClient } from "@effect/sql-sqlite-node"
import { Effect, Fiber, Layer, Schedule, Schema, TestContext } from "effect"
import { Branch, Child, Engine, Signal, SqliteStepStore, Step, type StepStore, Workflow } from "perdure"
import { History, TestEngine } from "perdure/testing"

const json = Schema.Union(Schema.String, Schema.Number, Schema.Null, Schema.Array(Schema.String))

const define = (name: string) =>
  Workflow.make({
    name,
    payload: { n: Schema.Number },
    success: json,
    error: Schema.String
  })

type Reference = ReturnType<typeof define>

export interface Case {
  readonly workflow: Reference
  readonly layer: Layer.Layer<never, never, Engine.Engine>
  /** What somebody does while the run goes on. */
  readonly during: Effect.Effect<unknown, unknown, Engine.Engine>
}

export const idOf = (name: string) => `${name}/1`

const step = (id: string, value: number) => Effect.succeed(value).pipe(Step.durable(id))

const word = (id: string) => Effect.succeed(id).pipe(Step.durable(id))

const nothing = Effect.succeed(null).pipe(Step.durable("nothing"))

const failing = (id: string) => Effect.fail(`${id} failed`).pipe(Step.durable(id, { error: Schema.String }))

type Body = Effect.Effect<typeof json.Type, string, Workflow.Run>

const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String }))

/** Tokens that were mailed. */
const mailed: Array<string> = []

const Part = Workflow.make({
  name: "part",
  payload: { n: Schema.Number },
  success: Schema.Number,
  error: Schema.String
})
const parts = Part.toLayer(({ n }) => n < 0 ? Effect.fail("negative") : step("double", n * 2))

const simple = (name: string, body: Body, during: Case["during"] = Effect.void): readonly [string, Case] => {
  const workflow = define(name)
  return [name, { workflow, layer: Layer.merge(workflow.toLayer(() => body), parts), during }]
}

const counting = define("continue-as-new")

export const cases: ReadonlyMap<string, Case> = new Map([
  simple("steps", Effect.zipRight(step("one", 1), Effect.zipRight(nothing, word("two")))),
  simple(
    "failures",
    failing("one").pipe(Effect.catchAll((error) => word(`handled ${error}`)), Effect.zipRight(failing("two")))
  ),
  simple(
    "retries",
    Step.attempt.pipe(
      Effect.filterOrFail((attempt) => attempt > 2, () => "not yet"),
      Step.durable("third", { error: Schema.String, retry: Schedule.spaced("1 hour") })
    )
  ),
  simple(
    "branches",
    Branch.all({ a: step("a", 1), b: Effect.zip(step("b", 2), step("c", 3)) }, { concurrency: "unbounded" }).pipe(
      Effect.map(({ a, b }) => [a, ...b].map(String))
    )
  ),
  simple(
    "for-each",
    Branch.forEach([1, 2, 3, 4, 5], (n) => step(`item ${n}`, n), { concurrency: 2 }).pipe(
      Effect.map((all) => all.map(String))
    )
  ),
  simple("race", Branch.race(word("fast"), Effect.as(Effect.sleep("1 hour"), "slow"))),
  simple(
    "timeout",
    Effect.as(Effect.sleep("2 hours"), "in time").pipe(Branch.timeout("1 hour"), Effect.orElseSucceed(() => "too late"))
  ),
  simple("sleep", Effect.zipRight(Effect.sleep("30 days"), step("after", 1))),
  simple(
    "signals",
    Effect.zipWith(Signal.next(Approval), Signal.next(Approval), (a, b) => [a.by, b.by]),
    Effect.forEach(["Ada", "Grace"], (by) => Signal.send(Approval, { workflowId: idOf("signals"), value: { by } }))
  ),
  simple(
    "tokens",
    Effect.gen(function*() {
      const { next, token } = yield* Signal.token(Approval)
      yield* Effect.sync(() => void mailed.push(token)).pipe(Step.durable("mail"))
      return (yield* next).by
    }),
    Effect.suspend(() => Signal.answer(Approval, { token: mailed.at(-1)!, value: { by: "Ada" } }))
  ),
  simple(
    "children",
    Effect.gen(function*() {
      const two = yield* Child.execute(Part, { n: 1 }).pipe(Effect.orDie)
      const failed = yield* Child.execute(Part, { n: -1 }).pipe(
        Effect.catchAll((error) => Effect.succeed(String(error)))
      )
      const handle = yield* Child.start(Part, { n: 2 })
      const four = yield* Child.await(handle).pipe(Effect.orDie)
      return [String(two), String(failed), String(four)]
    })
  ),
  simple(
    "compensation",
    step("reserve", 1).pipe(
      Workflow.withCompensation((value) => Effect.succeed(`undo ${value}`)),
      Effect.zipRight(failing("charge"))
    )
  ),
  [
    "continue-as-new",
    {
      workflow: counting,
      layer: counting.toLayer(({ n }) =>
        Effect.zipRight(step(`step ${n}`, n), n < 3 ? counting.continueAsNew({ n: n + 1 }) : Effect.succeed(n))
      ),
      during: Effect.void
    }
  ],
  simple(
    "cancellation",
    Effect.zipRight(step("one", 1), Effect.as(Effect.sleep("30 days"), 1)).pipe(Effect.ensuring(step("finally", 1))),
    Effect.suspend(() => cases.get("cancellation")!.workflow.cancel(idOf("cancellation")))
  ),
  simple(
    "patched",
    Effect.flatMap(Workflow.patched("new"), (isNew) => isNew ? step("new", 1) : step("old", 1))
  ),
  simple(
    "transactions",
    Effect.zipRight(Effect.succeed("in one transaction").pipe(Step.transaction("transfer")), step("after", 1))
  ),
  // Recorded while it is under way.
  simple("unfinished", Effect.zipRight(step("one", 1), Effect.as(Signal.next(Approval), 1)))
])

/** A store in which a step can be a transaction. */
const transactional: Layer.Layer<Engine.Engine | StepStore.StepStore> = Layer.orDie(
  Engine.layer.pipe(
    Layer.provideMerge(SqliteStepStore.layerClient({ synchronous: "NORMAL" })),
    Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
  )
)

/** Lets a reference run end, or rest, and reads what is recorded of it. */
export const record = (name: string): Effect.Effect<History.History, unknown> => {
  const { during, layer, workflow } = cases.get(name)!
  const workflowId = idOf(name)
  const start = workflow.start({ n: 1 }, { workflowId })
  if (name === "transactions") {
    return Effect.zipRight(workflow.execute({ n: 1 }, { workflowId }), History.read(workflowId)).pipe(
      Effect.provide(Layer.provideMerge(
        layer,
        transactional
      ))
    )
  }
  return Effect.gen(function*() {
    yield* start
    yield* TestEngine.advance(0)
    const fiber = yield* Effect.fork(during)
    yield* TestEngine.advance("60 days")
    yield* Fiber.join(fiber)
    return yield* History.read(workflowId)
  }).pipe(
    Effect.provide(layer.pipe(Layer.provideMerge(TestEngine.layer), Layer.provideMerge(TestContext.TestContext)))
  )
}
