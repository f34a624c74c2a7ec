import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { folder, program, removeBundles, run } from "./fixtures/examples/commands.js"

const npmRunBench = (...args: ReadonlyArray<string>) => run("npm", ["run", "--silent", "bench", "--", ...args])

const bench = program("test/bench/main.ts")

afterAll(removeBundles)

const Line = Schema.Struct({
  workload: Schema.String,
  sync: Schema.Literal("FULL", "NORMAL"),
  size: Schema.String,
  value: Schema.JsonNumber,
  unit: Schema.String,
  floor: Schema.NullOr(Schema.JsonNumber),
  ratio: Schema.NullOr(Schema.JsonNumber)
})

const decode = Schema.decodeUnknownSync(Schema.parseJson(Schema.Array(Line)), { onExcessProperty: "error" })

const measures = [
  ["sequential", "µs/step"],
  ["fleet", "rows/s"],
  ["fleet: steps", "steps/s"],
  ["fleet: commits", "commits"],
  ["fan-out", "rows/s"],
  ["latency: p50", "ms"],
  ["latency: p99", "ms"],
  ["replay", "µs/step"],
  ["sequential-client", "µs/step"],
  ["fleet-client", "rows/s"],
  ["fleet-client: steps", "steps/s"],
  ["fleet-client: commits", "commits"],
  ["sleepers: started", "runs/s"],
  ["sleepers: parked", "runs/s"],
  ["sleepers: parked, with the grace", "runs/s"],
  ["sleepers: memory", "bytes/run"],
  ["sleepers: woken", "runs/s"]
] as const

const growths = ["sequential", "fleet", "replay"].map((name) => `growth of ${name}`)

describe.concurrent("the benchmark", () => {
  it.scopedLive("measures every workload, and tells it as tables and as JSON", () =>
    Effect.gen(function*() {
      const json = join(yield* folder, "bench.json")
      const sizes = ["--runs", "2", "--steps", "3", "--rounds", "1"]
      const ended = yield* npmRunBench(...sizes, "--sync", "NORMAL", "--growth", "--json", json)
      expect(ended, ended.stderr).toMatchObject({ code: 0 })

      const lines = decode(readFileSync(json, "utf8"))
      expect(lines.slice(0, measures.length).map(({ unit, workload }) => [workload, unit])).toEqual(measures)
      expect(lines.slice(measures.length).map(({ workload }) => workload)).toEqual(
        growths.flatMap((name) => [name, name, name])
      )
      expect(lines.find(({ workload }) => workload === "fleet")).toMatchObject({ sync: "NORMAL", size: "2 x 3" })
      for (const { floor, ratio, value, workload } of lines.filter(({ unit }) => unit !== "bytes/run")) {
        expect(value, workload).toBeGreaterThan(0)
        expect(floor, workload).toBeGreaterThan(0)
        expect(ratio, workload).toBeCloseTo(value / floor!, 5)
      }
      expect(lines.find(({ unit }) => unit === "bytes/run")).toMatchObject({ floor: null, ratio: null })
      const printed = ended.stdout.split("\n")
      for (const name of [...measures.map(([name]) => name), ...growths]) {
        expect(printed.some((line) => line.startsWith(`${name}  `)), name).toBe(true)
      }
    }))

  it.scopedLive("measures what is chosen, with the durability that is chosen", () =>
    Effect.gen(function*() {
      const { code, stderr, stdout } = yield* bench([
        "--workload",
        "fleet",
        "--runs",
        "2",
        "--steps",
        "2",
        "--sync",
        "FULL"
      ])
      expect(code, stderr).toBe(0)
      expect(stdout).toMatch(/^fleet +FULL +2 x 2 /m)
      expect(stdout).not.toMatch(/NORMAL|sequential|Growth/)
    }))

  it.scopedLive("refuses what it does not understand, before it measures anything", () =>
    Effect.gen(function*() {
      const path = yield* folder
      const refused = [
        [["--workload", "sleeper"], "\"sleeper\" is none of sequential, fleet"],
        [["--sync", "OFF"], "\"OFF\" is none of FULL, NORMAL"],
        [["--runs", "0"], "--runs \"0\" is no whole number"],
        [["--workload", "sequential", "--runs", "5"], "--runs changes nothing in sequential"],
        [["--growth", "--no-growth"], "exclude each other"],
        [["--json", join(path, "nowhere", "bench.json")], "no such file or directory"],
        [["--round", "5"], "--round"],
        [["fleet"], "fleet"]
      ] as const
      yield* Effect.forEach(refused, ([args, message]) =>
        Effect.map(bench(args), (ended) => {
          expect(ended.code, args.join(" ")).toBe(2)
          expect(ended.stderr).toContain(message)
          expect(ended.stderr).toContain("Usage: npm run bench")
          expect(ended.stdout).toBe("")
        }), { concurrency: 2 })
      expect(existsSync(join(path, "nowhere"))).toBe(false)
    }))
})
