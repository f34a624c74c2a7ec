import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Ended, folder, program, removeBundles } from "../fixtures/examples/commands.js"
import { done, killedUntilItEnds } from "../fixtures/examples/ledger.js"

const patience = 240_000
const agent = program("examples/agent.ts")

afterAll(removeBundles)

const offer = "What do three nights for two with breakfast cost at the Harbour Hotel?\n450 euros.\n"

const all = [
  "ask the model, turn 1",
  "Search {\"query\":\"double room\"}",
  "ask the model, turn 2",
  "Search {\"query\":\"breakfast\"}",
  "ask the model, turn 3",
  "Calculate {\"expression\":\"3 * (120 + 2 * 15)\"}",
  "ask the model, turn 4",
  `WriteFile ${JSON.stringify({ name: "offer.txt", text: offer })}`,
  "ask the model, turn 5"
]

const expectAnswer = (cwd: string, ended: Ended, kills: number) => {
  expect(ended.code, ended.stderr).toBe(0)
  expect(ended.stdout.trimEnd().split("\n").at(-1)).toBe("450 euros; the offer is in offer.txt")
  expect(readFileSync(join(cwd, "offer.txt"), "utf8")).toBe(offer)
  expect(done(join(cwd, "agent.log"), kills)).toEqual(all)
}

describe.concurrent("the agent", () => {
  it.scopedLive(
    "killed at each decision and each use of a tool, it asks the model nothing twice",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        const { ended, kills } = yield* killedUntilItEnds(agent, cwd, { CRASH_AFTER: "2" })
        expect(kills).toBe(all.length - 1)
        expectAnswer(cwd, ended, 0)
        expectAnswer(cwd, yield* agent([], { cwd }), 0)
      }),
    patience
  )

  it.scopedLive("killed before and after its commits, it goes on", () =>
    Effect.gen(function*() {
      const cwd = yield* folder
      const crashes = [["before-commit", 3], ["after-commit", 4]] as const
      for (const [at, after] of crashes) {
        const { code, stderr } = yield* agent([], { cwd, env: { CRASH_AT: at, CRASH_AFTER: String(after) } })
        expect(code, stderr).toBe(137)
      }
      expectAnswer(cwd, yield* agent([], { cwd }), crashes.length)
    }), patience)
})
