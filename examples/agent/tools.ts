/** The tools of the agent. Each answers with a text, its failures too: they are for the model to deal with. */
import { FileSystem } from "@effect/platform"
import { Effect, Match } from "effect"
import { Ledger } from "../support/ledger.js"
import type { ToolCall } from "./model.js"

const corpus = [
  "Harbour Hotel, Turku: a double room costs 120 euros a night.",
  "Harbour Hotel, Turku: breakfast costs 15 euros a person.",
  "Harbour Hotel, Turku: the sauna is warm from six to ten.",
  "Harbour Hotel, Turku: dogs stay for nothing."
]

const search = (query: string) =>
  corpus.filter((line) => line.toLowerCase().includes(query.toLowerCase())).join("\n") || "nothing found"

/** Whole numbers with + - * / and parentheses. */
const calculate = (expression: string): string => {
  const tokens = expression.match(/\d+|\S/g) ?? []
  const operations: Record<string, (a: number, b: number) => number> = {
    "+": (a, b) => a + b,
    "-": (a, b) => a - b,
    "*": (a, b) => a * b,
    "/": (a, b) => a / b
  }
  const chain = (operators: string, operand: () => number) => () => {
    let value = operand()
    while (tokens.length > 0 && operators.includes(tokens[0]!)) {
      value = operations[tokens.shift()!]!(value, operand())
    }
    return value
  }
  const atom = (): number => {
    const token = tokens.shift()
    if (token !== "(") {
      return Number(token)
    }
    const value = sum()
    return tokens.shift() === ")" ? value : NaN
  }
  const sum = chain("+-", chain("*/", atom))
  const value = sum()
  return Number.isFinite(value) && tokens.length === 0 ? String(value) : `cannot calculate ${expression}`
}

export class Tools extends Effect.Service<Tools>()("examples/Tools", {
  effect: Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const ledger = yield* Ledger

    const use = Match.type<ToolCall>().pipe(
      Match.tagsExhaustive({
        Search: ({ query }) => Effect.succeed(search(query)),
        Calculate: ({ expression }) => Effect.succeed(calculate(expression)),
        WriteFile: ({ name, text }) =>
          /^\w+\.txt$/.test(name)
            ? fs.writeFileString(name, text).pipe(
              Effect.as(`wrote ${name}`),
              Effect.catchAll((error) => Effect.succeed(`cannot write ${name}: ${error.message}`))
            )
            : Effect.succeed(`cannot write ${name}: its name must be like notes.txt`)
      })
    )
    return {
      use: Effect.fn(function*(call: ToolCall) {
        const { _tag, ...input } = call
        yield* ledger.post(`${_tag} ${JSON.stringify(input)}`)
        return yield* use(call)
      })
    }
  })
}) {}
