/** What a store does with a batch. */
import { isDeepStrictEqual } from "node:util"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type { RunRow } from "../../StepStore.js"
import { StepStore } from "../../StepStore.js"
import {
  accepted,
  at,
  attempt,
  type Cases,
  claimOf,
  completed,
  create,
  equal,
  failed,
  fenced,
  historyOf,
  holds,
  insert,
  keysOf,
  patch,
  recordsOf,
  rejects,
  rowOf,
  step,
  update
} from "./check.js"

/** Texts that a database may mistake for something else, or sort in another order than JavaScript does. */
const hostile = [
  "'; DROP TABLE steps; --",
  "\"quoted\" 'twice' `thrice` \\ %_?1:a@b$c",
  "line\nbreak\r\ttab\u0001\u007f",
  "null",
  "0",
  "1e3",
  " leading and trailing ",
  "ﬁ é e\u0301 ß İ",
  "\ue000 before",
  "\u{1f600} after",
  "مرحبا \u202e dlrow",
  "😀".repeat(64)
]

export const commits: Cases = {
  "a run that is created is read back as it was given": Effect.gen(function*() {
    const id = "conformance/created"
    yield* create(id, { version: "7" })
    const expected: RunRow = {
      workflowId: id,
      generation: 0,
      name: "conformance",
      version: "7",
      status: "RUNNING",
      owner: "somebody",
      epoch: 1,
      wakeAt: null,
      parent: null,
      createdAt: 1_000,
      begunAt: 1_000,
      updatedAt: 1_000,
      endedAt: null,
      deadlineAt: null,
      cancelAt: null,
      inbox: 0,
      trace: null,
      stopReason: null,
      fingerprint: "fingerprint",
      payload: "{\"a\":1}",
      outcome: null
    }
    yield* equal("the run", yield* rowOf(id), expected)
  }),

  "creating a run that is there answers with it, and writes nothing": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/exists"
    yield* create(id)
    const before = yield* recordsOf(id)
    const answers = yield* store.commit([
      update(id, 5, {
        insert: insert({ name: "other" }),
        patch: patch({ status: "FAILED" }),
        steps: [completed(`${id}:0`, 0)],
        attempts: [attempt(`${id}:0`, 1)]
      })
    ])
    yield* equal("the answer", answers, [{ _tag: "Exists", run: Either.fromOption(before.run, () => "no run") }])
    yield* equal("what is recorded", yield* recordsOf(id), before)
  }),

  "one update creates a run with its steps, its attempts and its end": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/at-once"
    const steps = [completed(`${id}:0`, 0)]
    const attempts = [attempt(`${id}:0`, 1)]
    const end = patch({ status: "COMPLETED", owner: null, outcome: "42", endedAt: 2_000 })
    const answers = yield* store.commit([update(id, 3, { insert: insert(), patch: end, steps, attempts })])
    yield* equal("the answer", answers, [accepted])
    const records = yield* recordsOf(id)
    const { epoch, outcome, status } = Option.getOrThrow(records.run)
    yield* equal("the run", { epoch, outcome, status }, { epoch: 3, outcome: "42", status: "COMPLETED" })
    yield* equal("the history", records.history, steps)
    yield* equal("the attempts", records.attempts, attempts)
  }),

  "a write under another epoch is fenced off": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/fenced"
    yield* create(id)
    const before = yield* recordsOf(id)
    for (const epoch of [0, 2]) {
      const answers = yield* Effect.forEach([
        update(id, epoch, { steps: [completed(`${id}:0`, 0)] }),
        update(id, epoch, { steps: [completed(`${id}:0`, 0), completed(`${id}:1`, 1)] }),
        update(id, epoch, { patch: patch({ status: "COMPLETED" }) }),
        update(id, epoch, { attempts: [attempt(`${id}:0`, 1)] }),
        update(id, epoch, {})
      ], (update) => store.commit([update]))
      yield* equal(`the answers under epoch ${epoch}`, answers.flat(), [fenced, fenced, fenced, fenced, fenced])
    }
    yield* equal("what is recorded", yield* recordsOf(id), before)
  }),

  "a write to a run that is not there is fenced off": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/missing"
    const answers = yield* Effect.forEach([
      update(id, 1, { steps: [completed(`${id}:0`, 0)] }),
      update(id, 1, { patch: patch() })
    ], (update) => store.commit([update]))
    yield* equal("the answers", answers.flat(), [fenced, fenced])
    yield* equal("the run", yield* store.run(id), Option.none())
    yield* equal("the history", yield* historyOf(id), [])
  }),

  "an empty batch and an empty update are accepted": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/empty"
    yield* create(id)
    yield* equal("the answers to no update", yield* store.commit([]), [])
    yield* equal("the answer to an empty update", yield* store.commit([update(id, 1, {})]), [accepted])
  }),

  "an outcome takes the place of what was in progress": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/outcome"
    yield* create(id)
    const key = `${id}:0`
    yield* store.commit([update(id, 1, { steps: [step(key)] })])
    yield* equal("the step in progress", yield* store.unfinished(id, 0), [step(key)])
    yield* equal("the history meanwhile", yield* historyOf(id), [])
    const outcome = completed(key, 0, {
      attempt: 2,
      epoch: 1,
      updatedAt: 1_200,
      askedAfter: 7,
      fingerprint: "print"
    })
    yield* store.commit([update(id, 1, { steps: [outcome] })])
    yield* equal("the steps in progress then", yield* store.unfinished(id, 0), [])
    yield* equal("the history then", yield* historyOf(id), [outcome])
  }),

  "a step may be in progress and final in one update": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/twice"
    yield* create(id)
    const key = `${id}:0`
    yield* store.commit([update(id, 1, { steps: [step(key), completed(key, 0)] })])
    yield* equal("the history", yield* historyOf(id), [completed(key, 0)])
  }),

  "a final record is never overwritten, and nothing of that batch is written": Effect.gen(function*() {
    const store = yield* StepStore
    const [id, other] = ["conformance/final", "conformance/final-other"]
    yield* create(id)
    yield* create(other)
    const [kept, next] = [`${id}:0`, `${id}:1`]
    yield* store.commit([update(id, 1, { steps: [completed(kept, 0)] })])
    const before = [yield* recordsOf(id), yield* recordsOf(other)]
    const overwriting = [step(kept), completed(kept, 1), completed(kept, 0), failed(kept, 1)]
    for (const row of overwriting) {
      yield* rejects("one row", store.commit([update(id, 1, { steps: [row] })]))
      yield* rejects("after another row", store.commit([update(id, 1, { steps: [completed(next, 5), row] })]))
      yield* rejects(
        "in a batch",
        store.commit([
          update(other, 1, { steps: [completed(`${other}:0`, 0)], patch: patch({ status: "COMPLETED" }) }),
          update(id, 1, { steps: [row], attempts: [attempt(next, 1)] })
        ])
      )
    }
    yield* equal("what is recorded", [yield* recordsOf(id), yield* recordsOf(other)], before)
  }),

  "an update that is not accepted leaves the others of its batch alone": Effect.gen(function*() {
    const store = yield* StepStore
    const [good, late, there] = ["conformance/good", "conformance/late", "conformance/there"]
    yield* create(good)
    yield* create(late)
    yield* create(there)
    const run = yield* rowOf(there)
    const fresh = "conformance/fresh"
    const answers = yield* store.commit([
      update(late, 9, { steps: [completed(`${late}:0`, 0)] }),
      update(good, 1, { steps: [completed(`${good}:0`, 0)] }),
      update(there, 1, { insert: insert(), steps: [completed(`${there}:0`, 0)] }),
      update(fresh, 1, { insert: insert(), steps: [completed(`${fresh}:0`, 0)] })
    ])
    yield* equal("the answers", answers, [fenced, accepted, { _tag: "Exists", run: Either.right(run) }, accepted])
    const histories = yield* Effect.forEach([good, late, there, fresh], (id) => historyOf(id))
    yield* equal("the histories", histories.map((rows) => rows.length), [1, 0, 0, 1])
  }),

  "each final record has a position of its own": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/positions"
    yield* create(id)
    const [first, second] = [`${id}:0`, `${id}:1`]
    yield* store.commit([update(id, 1, { steps: [completed(first, 0)] })])
    yield* rejects("a position twice", store.commit([update(id, 1, { steps: [completed(second, 0)] })]))
    yield* rejects("no position", store.commit([update(id, 1, { steps: [completed(second, 0, { position: null })] })]))
    yield* equal("the history", yield* historyOf(id), [completed(first, 0)])
  }),

  "a final failure that is opened again answers no replay, and may be replaced": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/reopen"
    yield* create(id)
    const [kept, again] = [`${id}:0`, `${id}:1`]
    yield* store.commit([update(id, 1, { steps: [completed(kept, 0), failed(again, 1)] })])
    yield* store.commit([update(id, 1, { reopen: [again] })])
    yield* equal("the history", yield* historyOf(id), [completed(kept, 0)])
    yield* equal("what is unfinished", yield* store.unfinished(id, 0), [{
      ...failed(again, 1),
      position: null,
      final: false
    }])
    yield* store.commit([update(id, 1, { steps: [failed(again, 1)] })])
    const answers = yield* store.commit([
      update(id, 1, { reopen: [again], steps: [completed(again, 1)], patch: patch({ updatedAt: 2_500 }) })
    ])
    yield* equal("the answer to both at once", answers, [accepted])
    yield* equal("the history then", yield* historyOf(id), [completed(kept, 0), completed(again, 1)])
  }),

  "nothing but a final failure can be opened again": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/reopen-not"
    yield* create(id)
    yield* store.commit([update(id, 1, { steps: [completed(`${id}:0`, 0), step(`${id}:1`), failed(`${id}:2`, 1)] })])
    const before = yield* recordsOf(id)
    for (const key of [`${id}:0`, `${id}:1`, `${id}:3`]) {
      yield* rejects(key, store.commit([update(id, 1, { reopen: [`${id}:2`, key] })]))
    }
    yield* equal("what is recorded", yield* recordsOf(id), before)
  }),

  "a patch changes the run, and neither its payload nor its birth": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/patch"
    yield* create(id)
    const run = yield* rowOf(id)
    const end = patch({ status: "FAILED", owner: null, outcome: "{\"_tag\":\"No\"}", updatedAt: 2_000, endedAt: 2_000 })
    yield* equal("the answer", yield* store.commit([update(id, 1, { patch: end })]), [accepted])
    yield* equal("the run", yield* rowOf(id), { ...run, ...end })
  }),

  "attempts are listed by key and number, and recorded once": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/attempts"
    yield* create(id)
    const [first, second] = [`${id}:0`, `${id}:1`]
    const early = Array.from({ length: 8 }, (_, index) => attempt(first, index + 1, { dueAt: 2_000 + index }))
    yield* store.commit([update(id, 1, { attempts: [attempt(second, 1), attempt(first, 10), ...early] })])
    const cutOff = attempt(first, 9, { errorTag: "OwnerDied" })
    yield* store.commit([update(id, 1, { attempts: [cutOff] })])
    yield* rejects("an attempt twice", store.commit([update(id, 1, { attempts: [attempt(first, 9)] })]))
    yield* equal(
      "the attempts",
      yield* store.attempts(id, 0),
      [...early, cutOff, attempt(first, 10), attempt(second, 1)]
    )
  }),

  "a batch of a thousand runs is one write": Effect.gen(function*() {
    const store = yield* StepStore
    const ids = Array.from({ length: 1_000 }, (_, index) => `conformance/fleet-${index}`)
    const created = yield* store.commit(ids.map((id) => update(id, 1, { insert: insert() })))
    yield* holds("each run is created", created.every((answer) => answer._tag === "Accepted"))
    yield* store.commit(ids.map((id) => update(id, 1, { steps: [completed(`${id}:0`, 0)] })))
    yield* store.commit(
      ids.map((id) =>
        update(id, 1, { patch: patch({ status: "COMPLETED", owner: null, outcome: JSON.stringify(id) }) })
      )
    )
    const last = yield* recordsOf(at(ids, 999))
    yield* equal("the outcome of the last", Option.getOrThrow(last.run).outcome, JSON.stringify(ids[999]))
    yield* equal("the history of the last", keysOf(last.history), [`${ids[999]}:0`])
  }),

  "large and small payloads come back as they were given, in one batch": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/large"
    yield* create(id)
    const large = JSON.stringify("x€".repeat(500_000))
    const steps = Array.from(
      { length: 20 },
      (_, index) => completed(`${id}:${index}`, index, { output: index % 7 === 3 ? large : String(index) })
    )
    yield* store.commit([update(id, 1, { steps })])
    yield* holds("the outputs", isDeepStrictEqual(yield* historyOf(id), steps))
  }),

  "no payload is another thing than an empty one": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance/nothing"
    yield* create(id, { payload: null })
    yield* equal("the payload", (yield* rowOf(id)).payload, null)
    const steps = [completed(`${id}:0`, 0, { output: null }), completed(`${id}:1`, 1, { output: "\"\"" })]
    yield* store.commit([update(id, 1, { steps })])
    yield* equal("the outputs", yield* historyOf(id), steps)
  }),

  "any text is kept as it is": Effect.forEach(hostile, (text, index) =>
    Effect.gen(function*() {
      const store = yield* StepStore
      const id = `conformance/${text}`
      yield* create(id, { name: text, version: text, owner: text, fingerprint: text, payload: JSON.stringify(text) })
      const rows = [completed(`${id}:0`, 0, { stepId: text, fingerprint: text, output: JSON.stringify(text) })]
      const attempts = [{ ...attempt(`${id}:0`, 1), error: JSON.stringify(text) }]
      yield* store.commit([update(id, 1, { steps: rows })])
      yield* store.commit([update(id, 1, { attempts, steps: [step(`${id}:1`, { stepId: text })] })])
      const { fingerprint, name, owner, payload, version, workflowId } = yield* rowOf(id)
      yield* equal(
        `run ${index}`,
        { fingerprint, name, owner, payload, version, workflowId },
        { fingerprint: text, name: text, owner: text, payload: JSON.stringify(text), version: text, workflowId: id }
      )
      yield* equal(`history ${index}`, yield* historyOf(id), rows)
      yield* equal(`attempts ${index}`, yield* store.attempts(id, 0), attempts)
      const taken = yield* store.claim(claimOf(text, { dead: [text] }))
      yield* equal(`claim ${index}`, taken.map((claimed) => claimed.workflowId), [id])
    }), { discard: true })
}
