/** What a store answers when it is asked. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import { StepStore } from "../../StepStore.js"
import {
  at,
  attempt,
  type Cases,
  completed,
  create,
  equal,
  everything,
  holds,
  keysOf,
  recordsOf,
  rowOf,
  step,
  update
} from "./check.js"

export const reads: Cases = {
  "a history is read in pages, in the order of recording": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/history"
    yield* create(id)
    // Recorded in another order than the one of the keys, and with gaps.
    const steps = Array.from({ length: 25 }, (_, index) => completed(`${id}:${(index * 7) % 25}`, index * 3))
    yield* store.commit([update(id, 1, { steps: [...steps].reverse() })])
    const first = yield* store.history(id, 0, { after: null, limit: 10 })
    const second = yield* store.history(id, 0, { after: at(first, 9).position, limit: 10 })
    const third = yield* store.history(id, 0, { after: at(second, 9).position, limit: 10 })
    const fourth = yield* store.history(id, 0, { after: at(third, 4).position, limit: 10 })
    yield* equal("the sizes", [first, second, third, fourth].map((page) => page.length), [10, 10, 5, 0])
    yield* equal("the rows", [...first, ...second, ...third], steps)
  }),

  "what is unfinished comes in the order of the keys": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/unfinished"
    yield* create(id)
    const retrying = step(`${id}:1`, { status: "FAILED", errorTag: "OwnerDied", error: "\"it broke\"", attempt: 3 })
    yield* store.commit([update(id, 1, { steps: [step(`${id}:2`), retrying, completed(`${id}:0`, 0)] })])
    yield* equal("the rows", yield* store.unfinished(id, 0), [retrying, step(`${id}:2`)])
  }),

  "steps are listed in pages, in the order of the keys, without payloads": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/steps"
    yield* create(id)
    const keys = ["\u{1f600}", "\ue000", "0", "10", "2"].map((part) => `${id}:${part}`)
    yield* store.commit([update(id, 1, { steps: keys.map((key, index) => completed(key, index)) })])
    const first = yield* store.steps(id, 0, { after: null, limit: 3 })
    const second = yield* store.steps(id, 0, { after: at(first, 2).stepKey, limit: 3 })
    const sorted = ["0", "10", "2", "\ue000", "\u{1f600}"].map((part) => `${id}:${part}`)
    yield* equal("the keys", keysOf([...first, ...second]), sorted)
    const { askedAfter: _, error: __, errorTag: ___, fingerprint: ____, output: _____, ...summary } = completed(
      `${id}:0`,
      2
    )
    yield* equal("the first", first[0], summary)
  }),

  "runs are listed in pages, in the order of the ids, without payloads": Effect.gen(function*() {
    const store = yield* StepStore
    const ids = ["\u{1f600}", "\ue000", "b", "a"].map((part) => `conformance-runs/${part}`)
    yield* Effect.forEach(ids, (id) => create(id))
    const first = yield* store.runs({ after: "conformance-runs/", limit: 3 })
    const second = yield* store.runs({ after: at(first, 2).workflowId, limit: 1 })
    const listed = [...first, ...second].map((run) => run.workflowId)
    yield* equal("the ids", listed, ["a", "b", "\ue000", "\u{1f600}"].map((part) => `conformance-runs/${part}`))
    const row = yield* rowOf(at(ids, 3))
    yield* equal("the first", first[0], {
      workflowId: row.workflowId,
      generation: row.generation,
      name: row.name,
      version: row.version,
      status: row.status,
      owner: row.owner,
      epoch: row.epoch,
      wakeAt: row.wakeAt,
      parent: row.parent,
      createdAt: row.createdAt,
      updatedAt: row.updatedAt,
      endedAt: row.endedAt
    })
    const all = yield* store.runs(everything)
    yield* holds("a listing from the start has them too", ids.every((id) => all.some((run) => run.workflowId === id)))
  }),

  "each generation has records of its own": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/generations"
    yield* create(id)
    const rest = { steps: [completed(`${id}:0`, 0)], attempts: [attempt(`${id}:0`, 1)] }
    yield* store.commit([update(id, 1, rest)])
    yield* store.commit([update(id, 1, { ...rest, generation: 1 })])
    for (const generation of [0, 1, 2]) {
      const counts = [
        (yield* store.history(id, generation, everything)).length,
        (yield* store.steps(id, generation, everything)).length,
        (yield* store.attempts(id, generation)).length
      ]
      yield* equal(`generation ${generation}`, counts, generation === 2 ? [0, 0, 0] : [1, 1, 1])
    }
  }),

  "what is recorded of several runs is read together, but for runs with much of it": Effect.gen(function*() {
    const store = yield* StepStore
    const [few, steps, attempts, none] = ["few", "steps", "attempts", "none"].map((part) =>
      `conformance-records/${part}`
    )
    yield* Effect.forEach([few, steps, attempts], (id) => create(id!))
    const rest = {
      steps: [completed(`${few}:0`, 1), completed(`${few}:1`, 0), step(`${few}:3`), step(`${few}:2`)],
      attempts: [attempt(`${few}:3`, 2), attempt(`${few}:3`, 1), attempt(`${few}:2`, 1)]
    }
    yield* store.commit([
      update(few!, 1, rest),
      update(steps!, 1, { steps: Array.from({ length: 5 }, (_, i) => completed(`${steps}:${i}`, i)) }),
      update(attempts!, 1, { attempts: Array.from({ length: 5 }, (_, i) => attempt(`${attempts}:0`, i + 1)) })
    ])
    yield* store.commit([update(few!, 1, { generation: 1, steps: [completed(`${few}:1#0`, 0)] })])
    const asked = [few, steps, attempts, none].map((workflowId) => ({ workflowId: workflowId!, generation: 0 }))
    const read = (limit: number) =>
      Effect.map(store.records(asked, limit), (all) => new Map(all.map((one) => [one.workflowId, one.records])))
    const some = yield* read(4)
    yield* equal("the runs with little", [...some.keys()].sort(), [few, none].sort())
    yield* equal(
      "their records",
      some.get(few!),
      Either.right({
        history: yield* store.history(few!, 0, everything),
        unfinished: yield* store.unfinished(few!, 0),
        attempts: yield* store.attempts(few!, 0)
      })
    )
    yield* equal("no records", some.get(none!), Either.right({ history: [], unfinished: [], attempts: [] }))
    yield* equal("all runs", [...(yield* read(5)).keys()].sort(), [few, steps, attempts, none].sort())
    yield* equal("of no run", yield* store.records([], 5), [])
  }),

  "of a run that is not there nothing is found": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/nowhere"
    const records = yield* recordsOf(id)
    yield* equal("the records", records, { run: Option.none(), history: [], unfinished: [], attempts: [] })
    yield* equal("the steps", yield* store.steps(id, 0, everything), [])
  })
}
