/** What must hold of a run when it has ended, whatever befell it. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import type { Errors, StepStore } from "perdure"
import { checkAttempts, checkCompensations, checkPrefixes, checkSignals, type Histories } from "../../support/checks.js"
import { type End, historiesOf, type Outside } from "../../support/lives.js"
import type { World } from "../../support/trials.js"
import { endsAs, withoutNonces } from "./expected.js"
import type { RunPlan } from "./plan.js"
import type { Sight } from "./process.js"

/** A run under way. */
export interface Course {
  readonly id: string
  readonly plan: RunPlan
  readonly world: World
  /** What each life of its body saw, by generation. */
  readonly sights: Array<Sight>
  /** That of the life in which it has ended. */
  last: Sight | null
  readonly outside: Outside
  readonly ends: Array<End>
}

/** What a body does follows from the record: no life of it differs from another, as far as each came. */
const checkLives = (sights: Course["sights"]): void => {
  const told = new Map<number, ReadonlyArray<string>>()
  for (const { generation, trace } of sights) {
    const other = told.get(generation) ?? []
    const common = Math.min(trace.length, other.length)
    assert.deepStrictEqual(trace.slice(0, common), other.slice(0, common), `lives of generation ${generation}`)
    told.set(generation, trace.length > other.length ? trace : other)
  }
}

const endOfRow = ({ outcome, status }: StepStore.RunRow): End => {
  switch (status) {
    case "COMPLETED":
      return { _tag: "Succeeded", value: JSON.parse(outcome!) }
    case "FAILED":
      return { _tag: "Failed", error: JSON.parse(outcome!) }
    default:
      return { _tag: "Cancelled" }
  }
}

/** @param lives - how often the body of each run has begun */
export const check = (
  real: StepStore.StepStore["Type"],
  lives: ReadonlyMap<string, number>,
  { ends, id, last, outside, plan, sights }: Course
): Effect.Effect<void, Errors.StoreError> =>
  Effect.gen(function*() {
    const row = Option.getOrThrow(yield* real.run(id))
    const histories: Histories = yield* historiesOf(real, id)
    const attempts = yield* Effect.forEach(histories, (_, generation) => real.attempts(id, generation))
    const relatives = new Set([...outside.acknowledged.values()].map(({ workflowId }) => workflowId))
    relatives.delete(id)
    const children = yield* Effect.forEach(relatives, (child) => historiesOf(real, child))
    const end = endOfRow(row)
    const trace = last === null ? [] : last.trace
    // Each life of a run does everything once at the most.
    const livesOf = (run: string, generations: number) => Math.max(0, (lives.get(run) ?? 0) - generations)
    outside.deaths = Array.from(relatives).reduce(
      (sum, child) => sum + livesOf(child, 1),
      livesOf(id, histories.length)
    )
    const life = { end, outside, trace }
    ends.forEach((answer) => assert.deepStrictEqual(answer, end, `what was answered of ${id}`))
    checkPrefixes(histories, children.flat(2), life)
    checkAttempts(plan.program.body, histories, attempts, life)
    checkCompensations(plan.program, histories, life)
    checkSignals(plan.program, life)
    checkLives(sights)
    if (!plan.shares && end._tag !== "Cancelled") {
      assert.deepStrictEqual(withoutNonces(end), endsAs(plan.program), `how ${id} ends`)
    }
    assert.isTrue(end._tag !== "Cancelled" || plan.cancelAt !== null, `${id} was not to be cancelled`)
  })
