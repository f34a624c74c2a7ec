/**
 * Workers whose clocks are wrong, and are set forwards and backwards again and again, by a millisecond or by years, while they die,
 * close, and take over from each other. By the clock of the worker that fires it no timer fires early, all of them fire in the end,
 * and the time of a run never goes back.
 */
import { join } from "node:path"
import { assert } from "@effect/vitest"
import { type Duration, Effect, FastCheck as fc, Layer } from "effect"
import { SqliteStepStore, type StepStore } from "perdure"
import { holds, type Trial, trials } from "../support/trials.js"
import type { Dice } from "./dice.js"
import { quickFolder } from "./folder.js"
import { row, seed } from "./row.js"
import type { Course } from "./simulator/checks.js"
import type { Kind, Watch } from "./simulator/kind.js"
import type { Plan, RunPlan, Weather } from "./simulator/plan.js"
import type { Process } from "./simulator/process.js"
import { simulate } from "./simulator/simulation.js"

const tenYears = 10 * 365 * 24 * 60 * 60_000

/** Each of so many trials is on a file. */
const onFile = 20

/** Lines of what happened that a failure shows. */
const shown = 60

// ---------------------------------------------------------------------------------------------------------------------
// scripts
// ---------------------------------------------------------------------------------------------------------------------

const often = (most: number) => fc.constantFrom(0, most / 4, most)

const weather: fc.Arbitrary<Weather> = fc.record({
  slow: often(0.2),
  failed: fc.constant(0),
  unsaid: fc.constant(0),
  last: often(0.01),
  untold: often(0.2),
  killed: often(0.02),
  hung: often(0.01),
  closed: often(0.02),
  jumps: fc.constantFrom(0.1, 0.3, 0.6)
})

const waits = (node: Trial): boolean =>
  node.op === "sleep" || node.op === "timeout" || (node.op === "child" && node.millis > 0) ||
  (node.op === "step" && (node.how === "recovers" || node.how === "gives up" || node.how === "hangs"))

/** Of twelve operations at the most: the rest of the time of a trial is better spent on another one. */
const isSmall = (body: Trial): boolean => {
  let size = 0
  holds(body, () => ++size > 12)
  return size <= 12
}

const runs = (shares: boolean): fc.Arbitrary<RunPlan> =>
  fc.record({
    program: trials(shares).filter(({ body }) => holds(body, waits) && isSmall(body)),
    shares: fc.constant(shares),
    startAt: fc.integer({ min: 0, max: 20 }),
    delays: fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 1, maxLength: 4 }),
    cancelAt: fc.option(fc.integer({ min: 1, max: 200 }), { freq: 10, nil: null })
  })

const plans: fc.Arbitrary<Plan> = fc.noBias(fc.record({
  weather,
  workers: fc.integer({ min: 2, max: 3 }),
  storm: fc.integer({ min: 20, max: 80 }),
  room: fc.constantFrom(1, 1_000),
  grace: fc.constantFrom<Duration.DurationInput>(0, "1 second", "5 minutes"),
  runs: fc.tuple(fc.oneof(runs(true), runs(false)))
}))

/** From a millisecond to ten years, each order of magnitude as often as another, and no clock is wrong by more than twice that. */
const set = (skew: number, dice: Dice): number => {
  const by = Math.floor(Math.exp(dice.fraction() * Math.log(tenYears + 1)))
  const next = skew + (dice.isBelow(0.5) ? by : -by)
  return Math.max(-2 * tenYears, Math.min(2 * tenYears, next))
}

// ---------------------------------------------------------------------------------------------------------------------
// what must hold
// ---------------------------------------------------------------------------------------------------------------------

/** When a run's generation began, and what it has done and when, as the store was told. */
class Times implements Watch {
  private readonly begun = new Map<string, number>()
  private readonly recorded = new Map<string, Array<number>>()
  /** When a sleep ends, by its key, as it was recorded first. */
  private readonly sleeps = new Map<string, string>()
  /** When the next attempt at a step is due, by the step's key and the number of that attempt. */
  private readonly attempts = new Map<string, number>()

  accepted({ clock, name }: Process, update: StepStore.RunUpdate): ReadonlyArray<string> {
    const { attempts, epoch, generation, insert, next, steps, workflowId } = update
    const wrong: Array<string> = []
    const must = (holds: boolean, what: string) => {
      if (!holds) {
        wrong.push(`${name} writes of ${workflowId}: ${what}`)
      }
    }
    if (epoch === null) {
      return wrong
    }
    if (insert !== null) {
      this.begun.set(`${workflowId} ${generation}`, insert.createdAt)
    }
    if (next !== null) {
      this.begun.set(`${workflowId} ${generation + 1}`, next.begunAt)
    }
    for (const row of attempts) {
      const { attempt, dueAt, endedAt, stepKey } = row
      if (dueAt !== null) {
        must(dueAt >= endedAt, `${stepKey} is tried again before it has failed`)
        this.attempts.set(`${stepKey} ${attempt + 1}`, dueAt)
      }
      this.checkAttempt(row, must)
    }
    for (const row of steps) {
      const { final, kind, output, startedAt, status, stepKey, updatedAt } = row
      if (kind === "sleep" && status !== "FAILED") {
        const due = this.sleeps.get(stepKey) ?? output!
        this.sleeps.set(stepKey, due)
        must(output === due, `${stepKey} sleeps until ${output}, and not until ${due}`)
        must(
          !final || updatedAt >= Date.parse(JSON.parse(due)),
          `${stepKey} has slept until ${new Date(updatedAt).toISOString()}, and not until ${due}`
        )
      }
      if (kind === "step" && (final || status === "IN_PROGRESS")) {
        this.checkAttempt({ attempt: row.attempt, startedAt, stepKey }, must)
      }
      if (final) {
        must(clock.shown.has(updatedAt), `${stepKey} is recorded at ${updatedAt}, which its clock has not shown`)
        const key = `${workflowId} ${generation}`
        this.recorded.set(key, [...this.recorded.get(key) ?? [], updatedAt])
      }
    }
    return wrong
  }

  private checkAttempt(
    { attempt, startedAt, stepKey }: { readonly attempt: number; readonly startedAt: number; readonly stepKey: string },
    must: (holds: boolean, what: string) => void
  ): void {
    const due = this.attempts.get(`${stepKey} ${attempt}`) ?? startedAt
    must(startedAt >= due, `attempt ${attempt} at ${stepKey} begins at ${startedAt}, and is due at ${due}`)
  }

  /** What the lives of a body have in common is compared by the simulator, with the times in it. */
  ended({ id, sights }: Course): void {
    const generations = [...new Set(sights.map(({ generation }) => generation))].sort((a, b) => a - b)
    let latest = Number.NEGATIVE_INFINITY
    for (const generation of generations) {
      const began = this.begun.get(`${id} ${generation}`)!
      assert.isAtLeast(began, latest, `${id} begins its generation ${generation} after what came before`)
      latest = began
      const moments = [began, ...this.recorded.get(`${id} ${generation}`) ?? []]
      for (const sight of sights.filter((one) => one.generation === generation)) {
        const times = sight.trace.map((entry) => Number(entry.slice(entry.lastIndexOf("@") + 1)))
        assert.deepStrictEqual(times, [...times].sort((a, b) => a - b), `the time of ${id} in a life`)
        assert.includeMembers(moments, times, `the time of ${id} is that of a record`)
        latest = Math.max(latest, ...times)
      }
    }
  }
}

const clockJumps: Kind = {
  plans,
  beginsAt: Date.UTC(2000, 0, 1),
  // Seldom: else time would pass from one look to the next, and not from timer to timer.
  pace: { slowPoll: "4 days", heartbeat: "6 days" },
  set,
  settles: true,
  watch: () => new Times()
}

const file: Layer.Layer<StepStore.StepStore> = Layer.orDie(Layer.unwrapScoped(
  Effect.map(quickFolder, (folder) =>
    SqliteStepStore.layer({
      filename: join(folder, "durable.db"),
      synchronous: "NORMAL",
      pollInterval: "1000 days"
    }))
))

row(
  {
    name: "clock-jumps",
    title:
      "clocks of workers that are set by a millisecond to ten years: no timer fires early, all fire, no run's time goes back",
    ci: 500,
    night: 20_000
  },
  2,
  (count) =>
    Effect.gen(function*() {
      for (let trial = 0; trial < count; trial++) {
        const { failure, log } = yield* simulate(seed + trial, clockJumps, trial % onFile === 0 ? file : undefined)
        if (failure !== null) {
          const [plan] = fc.sample(plans, { seed: seed + trial, numRuns: 1 })
          const last = log.slice(-shown).join("\n  ")
          return assert.fail(
            `trial ${trial} of FC_SEED=${seed} fails: ${String(failure)}\n${JSON.stringify(plan)}\nAt last:\n  ${last}`
          )
        }
      }
      return count
    })
)
