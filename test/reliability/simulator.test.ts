import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { row, seed } from "./row.js"
import { simulate } from "./simulator/simulation.js"

/** Each of so many seeds is run twice, to see whether it brings the same. */
const twice = 50

/** Lines of what happened that a failure shows. */
const shown = 60

row(
  {
    name: "simulator",
    title:
      "workers that fail, die, hang, come back and have wrong clocks lose nothing, repeat nothing, and end every run",
    ci: 1_000,
    night: 50_000
  },
  4,
  (count) =>
    Effect.gen(function*() {
      for (let i = 0; i < count; i++) {
        const { failure, log } = yield* simulate(seed + i)
        if (failure !== null) {
          const how = `npm run test:night -- --row simulator --seed ${seed + i} --count 1`
          const last = log.slice(-shown).join("\n  ")
          return assert.fail(
            `seed ${seed + i} fails; run it again with\n  ${how}\n${String(failure)}\nAt last:\n  ${last}`
          )
        }
        if (i % twice === 0) {
          assert.deepStrictEqual(
            (yield* simulate(seed + i)).log,
            log,
            `seed ${seed + i} is not the same when run again`
          )
        }
      }
      return count
    })
)
