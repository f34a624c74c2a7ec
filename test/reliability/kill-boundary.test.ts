import { assert } from "@effect/vitest"
import { Effect, Exit, FastCheck as fc, Option, Scope } from "effect"
import { type CrashSimulator, SqliteStepStore, StepStore } from "perdure"
import { bundleForMany, launch, type Program } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"
import { row, seed } from "./row.js"

interface Death {
  readonly point: CrashSimulator.Point
  /** How often the point is reached before. */
  readonly after: number
}

interface Entry {
  readonly effect?: string
  readonly life: string
  readonly nonce?: string
  readonly acknowledged?: string
}

/** Processes at a time: half of a life is waiting, so two cores carry twice as many. */
const lanes = 4

/** Pairs of deaths in `npm test`, where all single ones are walked. */
const somePairs = 12

/** Three things are under way at a time: two branches, and a child that nobody waits for yet. */
const width = 3

/** What the run has recorded at its end: thirty operations less the two that were cut. */
const recorded = [
  "order-1:0 step reserve COMPLETED",
  "order-1:1 step ask FAILED",
  "order-1:10 token answer COMPLETED",
  "order-1:11 step mail COMPLETED",
  "order-1:12 answer answer COMPLETED",
  "order-1:13 sleep sleep COMPLETED",
  "order-1:14.0 sleep sleep COMPLETED",
  "order-1:14.1 step wide 1 COMPLETED",
  "order-1:15.0 sleep sleep COMPLETED",
  "order-1:15.1 step wide 2 COMPLETED",
  "order-1:16.0 sleep sleep COMPLETED",
  "order-1:16.1 step wide 3 COMPLETED",
  "order-1:18.0 sleep sleep COMPLETED",
  "order-1:19 patch polite COMPLETED",
  "order-1:2 start half COMPLETED",
  "order-1:20 step knock COMPLETED",
  "order-1:21 signal go COMPLETED",
  "order-1:22.0 child half COMPLETED",
  "order-1:23.0 await half COMPLETED",
  "order-1:24 step ship COMPLETED",
  "order-1:3 sleep sleep COMPLETED",
  "order-1:4 signal paid COMPLETED",
  "order-1:5.0 step left COMPLETED",
  "order-1:5.1 step left lid COMPLETED",
  "order-1:6.0 step right COMPLETED",
  "order-1:6.1 step right lid COMPLETED",
  "order-1:7 child half FAILED",
  "order-1:9.0 step win COMPLETED"
]

const family = [
  "order-1 COMPLETED null",
  "~order-1:2 COMPLETED order-1",
  "~order-1:22.0 COMPLETED order-1",
  "~order-1:7 FAILED order-1",
  "~order-1:8.0 PENDING order-1"
]

/** The effects of the run, by the keys of their steps. */
const effects = recorded.flatMap((line) => line.split(" ")[1] === "step" ? [line.split(" ")[0]!] : [])
  .concat("~order-1:2:0", "~order-1:7:0", "~order-1:22.0:0")

/** The run's result, without what is another value each time an effect happens. */
const result = "reserve,chair,paid,left,left lid,right,right lid,win,yes,wide 1,wide 2,wide 3,none,true,knock,go," +
  "3,odd,2,halve,1,halve,ship"

const lifeOf = (answer: string) => answer.slice("lived ".length)

type Live = (line: string) => Effect.Effect<string | null, string>

/** Lives in a process until that dies, and then in another one. Answers the name of the life, or null if it died. */
const lives = (program: string): Effect.Effect<Live, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync((): { worker: readonly [Program, Scope.CloseableScope] | null } => ({ worker: null })),
      ({ worker }) => worker === null ? Effect.void : Scope.close(worker[1], Exit.void)
    ),
    (current) => (line) =>
      Effect.gen(function*() {
        if (current.worker === null) {
          const scope = yield* Scope.make()
          current.worker = [yield* Scope.extend(launch(program, []), scope), scope]
        }
        const [worker, scope] = current.worker
        yield* worker.tell(line)
        const answer = yield* Effect.catchAllDefect(worker.line, (defect) =>
          Effect.flatMap(worker.ended, (end) =>
            end === "SIGKILL"
              ? Effect.succeed(null)
              : Effect.fail(`it ended with ${end}: ${String(defect)}`)))
        if (answer === null) {
          current.worker = null
          yield* Scope.close(scope, Exit.void)
          return null
        }
        return lifeOf(answer)
      }).pipe(
        Effect.timeoutFail({
          duration: "60 seconds",
          onTimeout: () => "the run did not end: something was lost"
        })
      )
  )

/** Looks from outside at what lives have left. */
const check = (database: string, ended: ReadonlyArray<string>, deaths: number) =>
  Effect.gen(function*() {
    const ledger = entriesOf<Entry>(`${database}.ledger`)
    const acknowledged = ledger.filter((entry) => entry.acknowledged !== undefined)
    // Each life that has ended was told once, and all were told the same.
    assert.includeMembers(acknowledged.map(({ life }) => life), [...ended])
    assert.strictEqual(new Set(acknowledged.map(({ life }) => life)).size, acknowledged.length)
    assert.isAtMost(acknowledged.length, ended.length + deaths)
    const [first] = acknowledged
    for (const entry of acknowledged) {
      assert.strictEqual(entry.acknowledged, first!.acknowledged)
    }
    assert.strictEqual(first!.acknowledged!.replaceAll(/ \d+\.\d+\.\d+/g, ""), result)

    const store = yield* StepStore.StepStore
    const runs = yield* store.runs({ after: null, limit: 10 })
    assert.deepStrictEqual(runs.map((run) => `${run.workflowId} ${run.status} ${run.parent}`).sort(), family)
    const cut = yield* store.run("~order-1:8.0")
    assert.isNotNull(Option.getOrThrow(cut).cancelAt)
    const history = (yield* store.history("order-1", 0, { after: null, limit: 100 })).rows
    assert.deepStrictEqual(
      history.map(({ kind, status, stepId, stepKey }) => `${stepKey} ${kind} ${stepId} ${status}`).sort(),
      recorded
    )

    let repeated = 0
    for (const key of effects) {
      const ran = ledger.filter(({ effect }) => effect === key)
      assert.isAtLeast(ran.length, 1, key)
      // Once, and once more for each life that died between the effect and its record.
      assert.isAtMost(ran.length, 1 + deaths, key)
      assert.strictEqual(new Set(ran.map(({ life }) => life)).size, ran.length, `${key} was repeated within a life`)
      for (const { life } of ran.slice(0, -1)) {
        assert.notInclude(ended, life, `${key} was repeated after a life that had ended`)
      }
      assert.notStrictEqual(ran.at(-1)!.life, ended.at(-1), `${key} was repeated in a run that was recorded as a whole`)
      // What is recorded is what the last one brought: nothing happened after it was recorded.
      const step = history.find(({ stepKey }) => stepKey === key)
      if (step?.status === "COMPLETED") {
        assert.strictEqual(step.output, JSON.stringify(ran.at(-1)!.nonce), key)
      }
      repeated += ran.length - 1
    }
    // A death repeats what was under way.
    assert.isAtMost(repeated, width * deaths)
  }).pipe(Effect.provide(SqliteStepStore.layer({ filename: database })))

/** One run over so many deaths, then lived to its end, and once more over a run that is recorded as a whole. */
const trial = (live: Live, deaths: ReadonlyArray<Death>) =>
  Effect.scoped(Effect.gen(function*() {
    const database = yield* temporaryFile
    const ended: Array<string> = []
    for (const { after, point } of [...deaths, ...[1, 2].map(() => ({ point: "none", after: 0 }))]) {
      const life = yield* live(`${database} ${database}.ledger ${point} ${after}`)
      if (life !== null) {
        ended.push(life)
      }
    }
    const died = deaths.length + 2 - ended.length
    yield* check(database, ended, died)
    return died
  })).pipe(
    Effect.catchAllCause((cause) => {
      const script = deaths.map(({ after, point }) => `${point} ${after}`).join(", then ")
      return Effect.die(new Error(`dies at ${script} (seed ${seed}): ${cause.toString()}`))
    })
  )

const points = ["before-commit", "after-commit", "step-started"] as const

/** Hands boundaries out until a few lives have not reached theirs, for the groups of commits differ a little between lives. */
const boundaries = () => {
  const walked = { "before-commit": 0, "after-commit": 0, "step-started": 0 }
  const missed = { "before-commit": 0, "after-commit": 0, "step-started": 0 }
  return {
    walked,
    next: (): Death | null => {
      const point = points.find((point) => missed[point] < lanes)
      return point === undefined ? null : { point, after: ++walked[point] + missed[point] }
    },
    missed: (point: CrashSimulator.Point) => {
      walked[point]--
      missed[point]++
    }
  }
}

/** Deaths in two lives that follow each other: the second is sought in what the first has left of the run. */
const pairsOf = (
  walked: Record<CrashSimulator.Point, number>,
  count: number
): ReadonlyArray<readonly [Death, Death]> => {
  const share = fc.double({ min: 0, max: 0.999, noNaN: true })
  const point = fc.constantFrom(...points)
  const at = (point: CrashSimulator.Point, share: number): Death => ({
    point,
    after: 1 + Math.floor(share * walked[point])
  })
  return fc.sample(fc.tuple(point, share, point, share), { seed, numRuns: count })
    .map(([first, i, second, j]) => [at(first, i), at(second, (1 - i) * j)])
}

row(
  {
    name: "kill-boundary",
    title:
      "SIGKILL at every boundary of a run of 30 operations, and then in two lives that follow each other: what was " +
      "acknowledged survives, keys stay the same, and no completed step is repeated",
    ci: 90,
    // Nine hundred pairs, for each kind of boundary.
    night: 2_700
  },
  5,
  (count) =>
    Effect.gen(function*() {
      const program = yield* bundleForMany("faults/reference")
      const atOnce = (work: (live: Live) => Effect.Effect<void>) =>
        Effect.all(Array.from({ length: lanes }, () => Effect.scoped(Effect.flatMap(lives(program), work))), {
          concurrency: "unbounded"
        })

      // The first one ends by itself, which leaves the compiled program to the others.
      yield* Effect.scoped(Effect.gen(function*() {
        const worker = yield* launch(program, [])
        yield* trial((line) => Effect.zipRight(worker.tell(line), Effect.map(worker.line, lifeOf)), [])
        yield* worker.hush
        assert.strictEqual(yield* worker.ended, 0)
      }))

      const { missed, next, walked } = boundaries()
      const walk = (live: Live): Effect.Effect<void> =>
        Effect.suspend(() => {
          const death = next()
          return death === null ? Effect.void : Effect.zipRight(
            Effect.map(trial(live, [death]), (died) => died === 0 ? missed(death.point) : undefined),
            walk(live)
          )
        })
      yield* atOnce(walk)
      assert.isAtLeast(walked["step-started"], 16)
      assert.isAtLeast(walked["before-commit"], 30)
      assert.isAtLeast(walked["after-commit"], 30)

      const singles = points.reduce((sum, point) => sum + walked[point], 0)
      // A count beyond the single deaths is one of pairs.
      const pairs = pairsOf(walked, count > singles ? count : somePairs)
      const left = [...pairs]
      let died = 0
      yield* atOnce((live) =>
        Effect.whileLoop({
          while: () => left.length > 0,
          body: () => trial(live, left.shift()!),
          step: (deaths) => {
            died += deaths
          }
        })
      )
      // A second life may have less left than was thought; many die all the same.
      assert.isAbove(died, pairs.length)
      return singles + died
    })
)
