/** Runs that were disturbed, and what must hold of each, seen from outside the engine. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { MemoryStepStore, StepStore } from "perdure"
import { newRun, update } from "../suites/rows.js"
import { checkAttempts, checkCompensations, checkPrefixes, checkSignals, type Histories, records } from "./checks.js"
import { historiesOf, live, type Plan, undisturbed, workflowId } from "./lives.js"
import type { Trials } from "./trials.js"

type Store = StepStore.StepStore["Type"]
type Life = Effect.Effect.Success<ReturnType<typeof live>>

/** Puts what is recorded of a run into an empty store, as a worker that died left it. */
const plant = (from: Store, to: Store) =>
  Effect.gen(function*() {
    const row = Option.getOrThrow(yield* from.run(workflowId))
    const { deadlineAt, fingerprint, generation, name, parent } = row
    const accepted = (change: StepStore.RunUpdate) =>
      Effect.map(to.commit([change]), (answers) => assert.deepStrictEqual(answers, [{ _tag: "Accepted" }]))
    const { createdAt } = row
    yield* accepted(newRun(workflowId, { name, fingerprint, createdAt, payload: "{\"generation\":0}" }))
    for (let next = 1; next <= generation; next++) {
      yield* accepted(update(workflowId, {
        generation: next - 1,
        next: { name, fingerprint, deadlineAt, parent, payload: `{"generation":${next}}`, begunAt: row.begunAt }
      }))
    }
    yield* accepted(update(workflowId, {
      generation,
      steps: (yield* from.history(workflowId, generation, { after: null, limit: 10_000 })).rows
    }))
  })

/** Replaying the final history ends as the run did, and starts no effect. */
const checkReplay = (program: Trials, shares: boolean, store: Store, life: Life) =>
  Effect.gen(function*() {
    const empty = yield* StepStore.StepStore
    yield* plant(store, empty)
    const again = yield* live(program, shares, undisturbed, empty)
    assert.deepStrictEqual(again.end, life.end)
    assert.deepStrictEqual(again.trace, life.trace)
    assert.deepStrictEqual([...again.outside.world.started], [])
    const generation = (yield* historiesOf(store, workflowId)).length - 1
    assert.deepStrictEqual(
      records((yield* historiesOf(empty, workflowId))[generation]!),
      records((yield* historiesOf(store, workflowId))[generation]!)
    )
  }).pipe(Effect.provide(MemoryStepStore.layer))

/** Runs a program through its crashes, and looks at what it left. */
export const undergone = (program: Trials, shares: boolean, plan: Plan) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const life = yield* live(program, shares, plan, store)
    const histories = yield* historiesOf(store, workflowId)
    const attempts = yield* Effect.forEach(histories, (_, generation) => store.attempts(workflowId, generation))
    assert.deepStrictEqual(life.early ?? life.end, life.end)
    const ids = new Set([...life.outside.acknowledged.values()].map((one) => one.workflowId))
    ids.delete(workflowId)
    const children = yield* Effect.forEach(ids, (id) => historiesOf(store, id))
    checkPrefixes(histories, children.flat(2), life)
    checkAttempts(program.body, histories, attempts, life)
    checkCompensations(program, histories, life)
    checkSignals(program, life)
    return { life, histories }
  })

/** As {@link undergone}, and replays what it left. */
export const disturbed = (program: Trials, shares: boolean, plan: Plan) =>
  Effect.tap(
    undergone(program, shares, plan),
    ({ life }) => Effect.flatMap(StepStore.StepStore, (store) => checkReplay(program, shares, store, life))
  )

/** What a program without races and shared state ends with, whatever the moments: nonces, tokens and attempts are others each time. */
export const settled = ({ histories, life }: { readonly life: Life; readonly histories: Histories }) => {
  const clean = (text: string | null) => text?.replace(/~\d+/g, "").replace(/"attempt":\d+/g, "") ?? null
  return {
    end: JSON.parse(clean(JSON.stringify(life.end))!),
    records: histories.flat().map(({ error, errorTag, kind, output, status, stepId, stepKey }) => ({
      error: clean(error),
      errorTag,
      kind,
      output: kind === "step" || kind === "signal" || kind === "compensation" ? clean(output) : null,
      status,
      stepId,
      // Branches are undone in the order in which they were recorded, which is one of moments.
      stepKey: kind === "compensation" ? `~ ${stepId}` : stepKey
    })).sort((a, b) => a.stepKey < b.stepKey ? -1 : 1)
  }
}
