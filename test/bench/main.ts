/**
 * The benchmark: `npm run bench`, or `npm run bench -- --workload fleet --runs 200 --steps 10 --sync FULL`.
 *
 * Each workload runs in strict alternation with its floor: floor, engine, floor, engine, and so on, each on a fresh file. What comes first
 * warms up and is not counted.
 */
import { writeFileSync } from "node:fs"
import { performance } from "node:perf_hooks"
import { parseArgs } from "node:util"
import { NodeRuntime } from "@effect/platform-node"
import { Array as Arr, Console, Effect, Either } from "effect"
import { type Line, machine, table, writeJson } from "./report.js"
import { type Measure, median, type Sample, type Size, type Sync, type Workload } from "./workload.js"
import { fanOut } from "./workloads/fanOut.js"
import { fleet, fleetOnClient } from "./workloads/fleet.js"
import { latency } from "./workloads/latency.js"
import { replay } from "./workloads/replay.js"
import { sequential, sequentialOnClient } from "./workloads/sequential.js"
import { sleepers } from "./workloads/sleepers.js"

const workloads = [sequential, fleet, fanOut, latency, replay, sequentialOnClient, fleetOnClient, sleepers]

const syncs: ReadonlyArray<Sync> = ["FULL", "NORMAL"]

/** How many milliseconds the whole may take; where they do not suffice, there are fewer rounds. A part is kept for the growth. */
const time = { all: 255_000, growth: 80_000 }

// ---------------------------------------------------------------------------------------------------------------------
// the command line
// ---------------------------------------------------------------------------------------------------------------------

const usage = `Usage: npm run bench -- [options]

  --workload NAME    only this one; may be repeated: ${workloads.map(({ name }) => name).join(", ")}
  --sync MODE        only this one; may be repeated: ${syncs.join(", ")}
  --runs N           how many runs, where a workload has several (with --growth: at 1x)
  --steps N          how many steps each run has, where that is free (with --growth: at 1x)
  --rounds N         how many measured rounds, however long they take; otherwise as many as fit in ${
  time.all / 1_000
} s, at most 5
  --growth           also the table of growth, of the workloads that have one; on unless a workload or a size is chosen
  --no-growth        without it
  --json FILE        writes the results there as well
  --help             this text`

interface Command {
  readonly workloads: ReadonlyArray<Workload>
  readonly syncs: ReadonlyArray<Sync>
  readonly growthSyncs: ReadonlyArray<Sync>
  readonly size: Partial<Size>
  readonly rounds: number | undefined
  readonly growth: boolean
  readonly json: string | undefined
}

/** The values that are among the possible ones; all of these if none are given. */
const chosen = <A>(
  option: string,
  given: ReadonlyArray<string> | undefined,
  all: ReadonlyArray<readonly [string, A]>
) =>
  Arr.dedupe(given ?? all.map(([name]) => name)).map((name) => {
    const found = all.find(([possible]) => possible === name)
    if (found === undefined) {
      throw new Error(`--${option} ${JSON.stringify(name)} is none of ${all.map(([name]) => name).join(", ")}`)
    }
    return found[1]
  })

const positive = (option: string, given: string | undefined): number | undefined => {
  if (given !== undefined && !/^[1-9]\d{0,6}$/.test(given)) {
    throw new Error(`--${option} ${JSON.stringify(given)} is no whole number from 1 to 9999999`)
  }
  return given === undefined ? undefined : Number(given)
}

const parse = (args: ReadonlyArray<string>): Command | "help" => {
  const { values } = parseArgs({
    args: [...args],
    options: {
      workload: { type: "string", multiple: true },
      sync: { type: "string", multiple: true },
      runs: { type: "string" },
      steps: { type: "string" },
      rounds: { type: "string" },
      growth: { type: "boolean" },
      "no-growth": { type: "boolean" },
      json: { type: "string" },
      help: { type: "boolean" }
    }
  })
  if (values.help === true) {
    return "help"
  }
  const [runs, steps] = [positive("runs", values.runs), positive("steps", values.steps)]
  const size = { ...(runs === undefined ? {} : { runs }), ...(steps === undefined ? {} : { steps }) }
  const selected = chosen("workload", values.workload, workloads.map((workload) => [workload.name, workload]))
  for (const part of ["runs", "steps"] as const) {
    if (part in size && !selected.some(({ takes }) => takes.includes(part))) {
      throw new Error(`--${part} changes nothing in ${selected.map(({ name }) => name).join(", ")}`)
    }
  }
  if (values.growth === true && values["no-growth"] === true) {
    throw new Error("--growth and --no-growth exclude each other")
  }
  if (values.json !== undefined) {
    // It would be a pity to learn at the end that it cannot be written.
    writeFileSync(values.json, "", { flag: "a" })
  }
  const wanted = chosen("sync", values.sync, syncs.map((sync) => [sync, sync]))
  return {
    workloads: selected,
    syncs: wanted,
    growthSyncs: values.sync === undefined ? ["NORMAL"] : wanted,
    size,
    rounds: positive("rounds", values.rounds),
    growth: values.growth ?? (values["no-growth"] !== true && (values.workload ?? runs ?? steps) === undefined),
    json: values.json
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the order of rounds
// ---------------------------------------------------------------------------------------------------------------------

const progress = (text: string) => Effect.sync(() => process.stderr.write(`${text}\n`))

/** What there was no time for. */
const leftOut: Array<string> = []

const leaveOut = (what: string) => Effect.sync(() => leftOut.push(what))

/** The size, with what the command line changes in it. */
const sizeOf = (workload: Workload, size: Size, change: Partial<Size>): Size =>
  workload.takes.reduce((size, part) => ({ ...size, [part]: change[part] ?? size[part] }), size)

const shownSize = ({ runs, steps }: Size) => `${runs} x ${steps}`

/** Value and floor are medians over the rounds; the ratio is the median of the ratios of the pairs. */
const lineOf = (
  { name, size, sync }: { readonly name: string; readonly size: Size; readonly sync: Sync },
  { key, label, target, unit }: Measure,
  pairs: ReadonlyArray<{ readonly floor: Sample; readonly engine: Sample }>
): Line => {
  const value = median(pairs.map((pair) => pair.engine[key]!))
  const hasFloor = pairs.every((pair) => key in pair.floor)
  const floor = hasFloor ? median(pairs.map((pair) => pair.floor[key]!)) : null
  const wanted = target === null ? null : target(size)
  return {
    workload: label === "" ? name : `${name}: ${label}`,
    sync,
    size: shownSize(size),
    value,
    unit,
    floor,
    ratio: hasFloor ? median(pairs.map((pair) => pair.engine[key]! / pair.floor[key]!)) : null,
    target: wanted === null ? "" : wanted.text,
    met: wanted === null ? null : wanted.isMet(value, floor ?? 0),
    rounds: pairs.length
  }
}

/** Rounds, one at least, until there are enough of them or another one would last beyond the deadline. */
const rounds = <A>(round: Effect.Effect<A>, most: number, deadline: number) =>
  Effect.gen(function*() {
    const start = performance.now()
    const all = [yield* round]
    while (all.length < most && performance.now() + (performance.now() - start) / all.length <= deadline) {
      all.push(yield* round)
    }
    return all
  })

/** One after the other. Each has its share of the time until the end; what it leaves is for the others. */
const inTurn = <A, B>(
  all: ReadonlyArray<A>,
  end: number,
  f: (a: A, deadline: number) => Effect.Effect<ReadonlyArray<B>>
): Effect.Effect<ReadonlyArray<B>> =>
  Effect.map(
    Effect.forEach(all, (a, i) =>
      Effect.suspend(() => f(a, performance.now() + (end - performance.now()) / (all.length - i)))),
    (lists) =>
      lists.flat()
  )

interface Part {
  readonly workload: Workload
  readonly sync: Sync
}

const partsOf = (workloads: ReadonlyArray<Workload>, syncs: ReadonlyArray<Sync>): ReadonlyArray<Part> =>
  workloads.flatMap((workload) => syncs.map((sync) => ({ workload, sync })))

const measured = ({ sync, workload }: Part, command: Command, deadline: number) =>
  Effect.scoped(Effect.gen(function*() {
    const size = sizeOf(workload, workload.size, command.size)
    const what = `${workload.name}, ${sync}, ${shownSize(size)}`
    if (performance.now() > deadline) {
      yield* leaveOut(what)
      return []
    }
    yield* progress(what)
    const floor = yield* workload.floor(size, sync)
    const engine = yield* workload.engine(size, sync)
    const pair = Effect.all({ floor, engine })
    yield* Effect.replicateEffect(pair, workload.warmUps, { discard: true })
    const pairs = yield* rounds(pair, command.rounds ?? workload.rounds, deadline)
    return workload.measures.map((measure) => lineOf({ name: workload.name, size, sync }, measure, pairs))
  }))

// ---------------------------------------------------------------------------------------------------------------------
// growth
// ---------------------------------------------------------------------------------------------------------------------

/** How much larger each size is than the first, and its rounds. The first rounds of all are still being compiled. */
const scales = [
  { scale: 1, warmUps: 3, most: 5 },
  { scale: 10, warmUps: 0, most: 3 },
  { scale: 100, warmUps: 0, most: 1 }
]

const grown = ({ sync, workload }: Part, command: Command, deadline: number) =>
  Effect.gen(function*() {
    const { growth, name } = workload
    const lines: Array<Line> = []
    if (growth === null) {
      return lines
    }
    const base = sizeOf(workload, growth.from, command.size)
    let expected = 0
    for (const { most, scale, warmUps } of scales) {
      const size = { ...base, [growth.grows]: scale * base[growth.grows] }
      const what = `growth of ${name}, ${sync}, ${shownSize(size)}`
      if (performance.now() + expected > deadline) {
        yield* leaveOut(what)
        break
      }
      yield* progress(what)
      const start = performance.now()
      const samples = yield* Effect.scoped(Effect.gen(function*() {
        const engine = yield* workload.engine(size, sync)
        const prepared = performance.now()
        yield* Effect.replicateEffect(engine, warmUps, { discard: true })
        const samples = yield* rounds(engine, command.rounds ?? most, deadline)
        // The next size is prepared once, and has one round at least.
        expected = 10 * (prepared - start + (performance.now() - prepared) / (warmUps + samples.length))
        return samples
      }))
      const value = median(samples.map((sample) => growth.millis(sample) * 1_000 / size.runs / size.steps))
      const first = lines[0]?.value ?? value
      lines.push({
        workload: `growth of ${name}`,
        sync,
        size: shownSize(size),
        value,
        unit: "µs/step",
        floor: first,
        ratio: value / first,
        target: scale === 1 ? "" : "at most 1.3 x that at 1x",
        met: scale === 1 ? null : value <= 1.3 * first,
        rounds: samples.length
      })
    }
    return lines
  })

// ---------------------------------------------------------------------------------------------------------------------
// all of it
// ---------------------------------------------------------------------------------------------------------------------

const bench = (command: Command) =>
  Effect.gen(function*() {
    const end = command.rounds === undefined ? performance.now() + time.all : Infinity
    const lines = yield* inTurn(
      partsOf(command.workloads, command.syncs),
      command.growth ? end - time.growth : end,
      (part, deadline) => measured(part, command, deadline)
    )
    yield* Console.log(table(
      [
        machine(),
        "Medians over the measured rounds; warm-up rounds are excluded. The ratio is the median of engine / floor of each pair of rounds.",
        "Floor and engine take turns, each on a fresh file (replay on its recorded one). The floor: the same rows, tables and pragmas, with",
        "better-sqlite3 alone.",
        ...command.workloads.map(({ name, note }) => `- ${name}: ${note}`)
      ].join("\n"),
      ["engine", "floor", "ratio"],
      lines
    ))
    const growth = yield* inTurn(
      command.growth ? partsOf(command.workloads.filter(({ growth }) => growth !== null), command.growthSyncs) : [],
      end,
      (part, deadline) => grown(part, command, deadline)
    )
    if (growth.length > 0) {
      yield* Console.log(table(
        [
          `Growth, synchronous = ${
            command.growthSyncs.join(" and ")
          }: what a step costs at 1x, 10x and 100x the size, where that fits in the time.`,
          "Medians over the measured rounds of the engine; the warm-up rounds before the first size are excluded."
        ].join("\n"),
        ["engine", "at 1x", "ratio"],
        growth
      ))
    }
    if (leftOut.length > 0) {
      yield* Console.log(`Left out, because the time was over:\n${leftOut.map((what) => `- ${what}`).join("\n")}\n`)
    }
    if (command.json !== undefined) {
      writeJson(command.json, [...lines, ...growth])
    }
  })

Either.match(Either.try({ try: () => parse(process.argv.slice(2)), catch: (error) => (error as Error).message }), {
  onLeft: (message) => {
    process.stderr.write(`${message}\n\n${usage}\n`)
    process.exitCode = 2
  },
  onRight: (command) => command === "help" ? process.stdout.write(`${usage}\n`) : NodeRuntime.runMain(bench(command))
})
