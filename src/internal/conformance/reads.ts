/** What a store answers when it is asked. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type { HistoryPage, Paged, RunUpdate, StepRow } from "../../StepStore.js"
import { StepStore } from "../../StepStore.js"
import {
  at,
  attempt,
  type Cases,
  completed,
  create,
  equal,
  everything,
  historyOf,
  holds,
  keysOf,
  recordsOf,
  rowOf,
  step,
  update
} from "./check.js"

/** A text that has so many bytes as JSON. */
const textOf = (bytes: number) => `"${"x".repeat(bytes - 2)}"`

/** The pages of a history, up to the first that says that it is the last. */
const pagesOf = Effect.fnUntraced(function*(workflowId: string, page: Omit<HistoryPage, "after">) {
  const store = yield* StepStore
  const pages: Array<ReadonlyArray<StepRow>> = []
  for (let after: number | null = null;;) {
    const { more, rows }: Paged<StepRow> = yield* store.history(workflowId, 0, { after, ...page })
    yield* holds("a page that others follow has a record", !more || rows.length > 0)
    pages.push(rows)
    if (!more) {
      return pages
    }
    after = at(rows, rows.length - 1).position
  }
})

export const reads: Cases = {
  "a history is read in pages, in the order of recording": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/history"
    yield* create(id)
    // Recorded in another order than the one of the keys, and with gaps.
    const steps = Array.from({ length: 25 }, (_, index) => completed(`${id}:${(index * 7) % 25}`, index * 3))
    yield* store.commit([update(id, 1, { steps: [...steps].reverse() })])
    const pages = yield* pagesOf(id, { limit: 10 })
    yield* equal("the sizes", pages.map((page) => page.length), [10, 10, 5])
    yield* equal("the rows", pages.flat(), steps)
    yield* equal("the sizes of full pages", (yield* pagesOf(id, { limit: 5 })).map((page) => page.length), [
      5,
      5,
      5,
      5,
      5
    ])
    yield* equal("all at once", yield* store.history(id, 0, { after: null, limit: 25 }), { rows: steps, more: false })
    const last = { after: at(steps, 24).position, limit: 10 }
    yield* equal("after the last", yield* store.history(id, 0, last), { rows: [], more: false })
  }),

  "a page of a history ends with the record with which the payloads come to the bytes that it may have": Effect.gen(
    function*() {
      const store = yield* StepStore
      const id = "conformance/bytes"
      yield* create(id)
      // Of 100 bytes each, as output, as error, or as both; a character may have several. The third has none.
      const steps = [
        completed(`${id}:0`, 0, { output: textOf(100) }),
        completed(`${id}:1`, 1, { output: null, error: textOf(100), status: "FAILED" }),
        completed(`${id}:2`, 2, { output: null }),
        completed(`${id}:3`, 4, { output: textOf(40), error: textOf(60) }),
        completed(`${id}:4`, 5, { output: `"${"€".repeat(32)}é"` }),
        completed(`${id}:5`, 9, { output: textOf(100) })
      ]
      // Of no weight here: what is not final, and what belongs to others.
      const others = [step(`${id}:6`, { output: textOf(1_000) }), step(`${id}:7`, { error: textOf(1_000) })]
      yield* store.commit([update(id, 1, { steps: [...steps, ...others] })])
      yield* store.commit([update(id, 1, { generation: 1, steps: [completed(`${id}:1#0`, 0)] })])
      const sizes = (bytes: number, limit = 100) =>
        Effect.map(pagesOf(id, { limit, bytes }), (pages) => pages.map((page) => page.length))
      const expected: ReadonlyArray<readonly [number, ReadonlyArray<number>]> = [
        [0, [1, 1, 1, 1, 1, 1]],
        [1, [1, 1, 2, 1, 1]],
        [100, [1, 1, 2, 1, 1]],
        [101, [2, 3, 1]],
        [200, [2, 3, 1]],
        [201, [4, 2]],
        [300, [4, 2]],
        [400, [5, 1]],
        [401, [6]],
        [500, [6]],
        [501, [6]],
        [Number.MAX_SAFE_INTEGER, [6]]
      ]
      for (const [bytes, pages] of expected) {
        yield* equal(`the sizes of pages of ${bytes} bytes`, yield* sizes(bytes), pages)
        yield* equal(`the rows in pages of ${bytes} bytes`, (yield* pagesOf(id, { limit: 100, bytes })).flat(), steps)
      }
      yield* equal("the sizes of pages with both limits", yield* sizes(200, 2), [2, 2, 2])
      yield* equal("the sizes of pages of one record", yield* sizes(100, 1), [1, 1, 1, 1, 1, 1])
      const page = { after: 1, limit: 3, bytes: 200 }
      yield* equal("a page", yield* store.history(id, 0, page), { rows: steps.slice(2, 5), more: true })
      yield* equal("the last page", yield* store.history(id, 0, { ...page, after: 4 }), {
        rows: steps.slice(4),
        more: false
      })
      yield* equal("after the last", yield* store.history(id, 0, { ...page, after: 9 }), { rows: [], more: false })
    }
  ),

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
        (yield* historyOf(id, generation)).length,
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
    const read = (steps: number) =>
      Effect.map(
        store.records(asked, { steps, bytes: 1_000_000 }),
        (all) => new Map(all.map((one) => [one.workflowId, one.records]))
      )
    const some = yield* read(4)
    yield* equal("the runs with little", [...some.keys()].sort(), [few, none].sort())
    yield* equal(
      "their records",
      some.get(few!),
      Either.right({
        history: yield* historyOf(few!),
        unfinished: yield* store.unfinished(few!, 0),
        attempts: yield* store.attempts(few!, 0)
      })
    )
    yield* equal("no records", some.get(none!), Either.right({ history: [], unfinished: [], attempts: [] }))
    yield* equal("all runs", [...(yield* read(5)).keys()].sort(), [few, steps, attempts, none].sort())
    yield* equal("of no run", yield* store.records([], { steps: 5, bytes: 1_000_000 }), [])
  }),

  "what is recorded of several runs is read together, but for runs with many bytes of it": Effect.gen(function*() {
    const store = yield* StepStore
    const kinds = ["output", "error", "unfinished", "attempt", "all"] as const
    const weights: Readonly<Record<typeof kinds[number], (id: string, bytes: number) => Partial<RunUpdate>>> = {
      output: (id, bytes) => ({ steps: [completed(`${id}:0`, 0, { output: textOf(bytes) })] }),
      error: (id, bytes) => ({
        steps: [completed(`${id}:0`, 0, { output: null, error: textOf(bytes), status: "FAILED" })]
      }),
      unfinished: (id, bytes) => ({ steps: [step(`${id}:0`, { error: textOf(bytes) })] }),
      attempt: (id, bytes) => ({ attempts: [attempt(`${id}:0`, 1, { error: textOf(bytes) })] }),
      all: (id, bytes) => ({
        steps: [
          completed(`${id}:0`, 0, { output: `"${"€".repeat(10)}"`, error: textOf(10) }),
          step(`${id}:1`, { output: textOf(10), error: textOf(10) })
        ],
        attempts: [attempt(`${id}:0`, 1, { error: textOf(10) }), attempt(`${id}:0`, 2, { error: textOf(bytes - 72) })]
      })
    }
    const idOf = (kind: string, bytes: number) => `conformance-heavy/${kind}-${bytes}`
    const sizes = [100, 101]
    const all = kinds.flatMap((kind) => sizes.map((bytes) => ({ kind, bytes, id: idOf(kind, bytes) })))
    yield* Effect.forEach(all, ({ id }) => create(id))
    yield* store.commit(all.map(({ bytes, id, kind }) => update(id, 1, weights[kind](id, bytes))))
    const read = (bytes: number) =>
      Effect.map(
        store.records(all.map(({ id }) => ({ workflowId: id, generation: 0 })), { steps: 2, bytes }),
        (some) => some.map((one) => one.workflowId).sort()
      )
    const upTo = (bytes: number) => kinds.flatMap((kind) => sizes.filter((n) => n <= bytes).map((n) => idOf(kind, n)))
    for (const bytes of [99, 100, 101]) {
      yield* equal(`the runs with at most ${bytes} bytes`, yield* read(bytes), upTo(bytes).sort())
    }
  }),

  "of a run that is not there nothing is found": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/nowhere"
    const records = yield* recordsOf(id)
    yield* equal("the records", records, { run: Option.none(), history: [], unfinished: [], attempts: [] })
    yield* equal("the steps", yield* store.steps(id, 0, everything), [])
  })
}
