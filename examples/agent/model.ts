/** The model of the agent: what it is asked, what it may answer, and one that is a function of what it is asked. */
import { Context, Effect, Layer, Schema } from "effect"

export class Search extends Schema.TaggedClass<Search>()("Search", { query: Schema.String }) {}
export class Calculate extends Schema.TaggedClass<Calculate>()("Calculate", { expression: Schema.String }) {}
export class WriteFile extends Schema.TaggedClass<WriteFile>()("WriteFile", {
  name: Schema.String,
  text: Schema.String
}) {}
export class Answer extends Schema.TaggedClass<Answer>()("Answer", { text: Schema.String }) {}

export const ToolCall = Schema.Union(Search, Calculate, WriteFile)
export type ToolCall = typeof ToolCall.Type

export const Decision = Schema.Union(ToolCall, Answer)
export type Decision = typeof Decision.Type

/** One call of a tool and what came of it. */
export interface Turn {
  readonly call: ToolCall
  readonly result: string
}

export class ModelUnavailable extends Schema.TaggedError<ModelUnavailable>()("ModelUnavailable", {
  reason: Schema.String
}) {}

/** A real one is another Layer of this tag: it sends the question and the turns to its API, and decodes the answer with `Decision`. */
export class Model extends Context.Tag("examples/Model")<Model, {
  readonly decide: (question: string, turns: ReadonlyArray<Turn>) => Effect.Effect<Decision, ModelUnavailable>
}>() {}

/** A model that needs no network, and always decides the same: it looks two prices up, adds them up, and writes an offer. */
export const layerLocal = Layer.succeed(Model, {
  decide: (question, turns) => {
    const price = (i: number) => /(\d+) euros/.exec(turns[i]?.result ?? "")?.[1] ?? "0"
    const total = turns[2]?.result ?? ""
    const plan: ReadonlyArray<Decision> = [
      new Search({ query: "double room" }),
      new Search({ query: "breakfast" }),
      new Calculate({ expression: `3 * (${price(0)} + 2 * ${price(1)})` }),
      new WriteFile({ name: "offer.txt", text: `${question}\n${total} euros.\n` })
    ]
    return Effect.succeed(plan[turns.length] ?? new Answer({ text: `${total} euros; the offer is in offer.txt` }))
  }
})
