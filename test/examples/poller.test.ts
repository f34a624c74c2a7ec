import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { folder, program, removeBundles } from "../fixtures/examples/commands.js"
import { done } from "../fixtures/examples/ledger.js"

const patience = 240_000
const poller = program("examples/poller.ts")
/** The test moves the parcel. */
const pace = { LOOK_EVERY: "20 millis", CARRIER_PACE: "1 hour" }

afterAll(removeBundles)

/** What the customer was told, which is what the run has seen. */
const told = (cwd: string, stdout: string, kills: number) => {
  const [, seen = "", generations = ""] = /was (.*)\. That took (\d+) generations/.exec(stdout) ?? []
  expect(done(join(cwd, "poller.log"), kills)).toEqual(
    seen.split(", ").map((status) => `mail: your parcel is ${status}`)
  )
  return { seen: seen.split(", "), generations: Number(generations) }
}

describe.concurrent("the poller", () => {
  it.scopedLive(
    "killed at its looks, it goes on in its generation, and tells each change once",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        const all = ["announced", "packed", "in Stockholm", "delivered"]
        for (const station of all.slice(1)) {
          const { code, stderr } = yield* poller([], { cwd, env: { ...pace, CRASH_AFTER: "9" } })
          expect(code, stderr).toBe(137)
          writeFileSync(join(cwd, "parcel.txt"), station)
        }
        const last = yield* poller([], { cwd, env: pace })
        expect(last.code, last.stderr).toBe(0)
        const { generations, seen } = told(cwd, last.stdout, 0)
        expect(seen).toEqual(all)
        // Each process but the last began at least seven looks, and a generation has five.
        expect(generations).toBeGreaterThanOrEqual(4)

        const again = yield* poller([], { cwd, env: pace })
        expect(again.code, again.stderr).toBe(0)
        expect(told(cwd, again.stdout, 0)).toEqual({ generations, seen })
      }),
    patience
  )

  it.scopedLive("without further ado, the parcel is driven, and delivered", () =>
    Effect.gen(function*() {
      const cwd = yield* folder
      const { code, stderr, stdout } = yield* poller([], { cwd, env: { ...pace, CARRIER_PACE: "200 millis" } })
      expect(code, stderr).toBe(0)
      expect(told(cwd, stdout, 0).seen.at(-1)).toBe("delivered")
    }), patience)

  it.scopedLive("killed in its sleep and around its commits, it looks again", () =>
    Effect.gen(function*() {
      const cwd = yield* folder
      for (const [at, after] of [["before-commit", 4], ["after-commit", 20]] as const) {
        const { code, stderr } = yield* poller([], { cwd, env: { ...pace, CRASH_AT: at, CRASH_AFTER: String(after) } })
        expect(code, stderr).toBe(137)
      }
      const asleep = yield* poller([], {
        cwd,
        env: { ...pace, LOOK_EVERY: "2 seconds" },
        watch: (stdout, child) => stdout.includes("Where is") && setTimeout(() => child.kill("SIGKILL"), 500)
      })
      expect(asleep.code, asleep.stderr).toBe(137)
      writeFileSync(join(cwd, "parcel.txt"), "delivered\n")
      const last = yield* poller([], { cwd, env: pace })
      expect(last.code, last.stderr).toBe(0)
      expect(told(cwd, last.stdout, 2).seen).toEqual(["announced", "delivered"])
    }), patience)
})
