/**
 * An agent: a model decides which tool to use, sees what came of it, decides again, and answers in the end. Each decision and each
 * use of a tool is a step, so no call to the model is paid for twice. Kill it at any moment, and start it again:
 *
 *     npx tsx examples/agent.ts
 */
import { createHash } from "node:crypto"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schedule, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { Decision, layerLocal, Model, ModelUnavailable, type Turn } from "./agent/model.js"
import { Tools } from "./agent/tools.js"
import { EngineLive } from "./support/engine.js"
import { Ledger } from "./support/ledger.js"

class NoAnswer extends Schema.TaggedError<NoAnswer>()("NoAnswer", { turns: Schema.Int }) {
  override get message() {
    return `There was no answer after ${this.turns} turns`
  }
}

const Agent = Workflow.make({
  name: "agent",
  payload: { question: Schema.String, maxTurns: Schema.Int },
  success: Schema.String,
  error: Schema.Union(NoAnswer, ModelUnavailable),
  idempotencyKey: ({ question }) => fingerprint(question)
})

/** Of what a step is given: code that gives a recorded step something else is noticed. */
const fingerprint = (input: unknown) => createHash("sha256").update(JSON.stringify(input)).digest("hex").slice(0, 16)

const AgentLive = Agent.toLayer(({ maxTurns, question }) =>
  Effect.gen(function*() {
    const model = yield* Model
    const tools = yield* Tools
    const ledger = yield* Ledger
    const turns: Array<Turn> = []
    while (turns.length < maxTurns) {
      const decision = yield* ledger.post(`ask the model, turn ${turns.length + 1}`).pipe(
        Effect.zipRight(model.decide(question, turns)),
        Step.durable("decide", {
          success: Decision,
          error: ModelUnavailable,
          retry: { schedule: Schedule.exponential("1 second"), times: 5 },
          timeout: "1 minute",
          fingerprint: fingerprint({ question, turns })
        }),
        Effect.catchTag("StepTimeout", ({ message }) => new ModelUnavailable({ reason: message }))
      )
      if (decision._tag === "Answer") {
        return decision.text
      }
      const result = yield* tools.use(decision).pipe(
        Step.durable(`use ${decision._tag}`, { fingerprint: fingerprint(decision) })
      )
      turns.push({ call: decision, result })
    }
    return yield* new NoAnswer({ turns: maxTurns })
  })
)

const program = Effect.gen(function*() {
  const question = "What do three nights for two with breakfast cost at the Harbour Hotel?"
  yield* Console.log(question)
  yield* Console.log(yield* Agent.execute({ question, maxTurns: 20 }))
})

program.pipe(
  Effect.provide(AgentLive.pipe(
    Layer.provideMerge(EngineLive),
    Layer.provide([Tools.Default, layerLocal]),
    Layer.provide(Ledger.Default("agent.log")),
    Layer.provide(NodeContext.layer)
  )),
  NodeRuntime.runMain
)
