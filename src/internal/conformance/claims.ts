/** How runs are taken over. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { StepStore } from "../../StepStore.js"
import {
  accepted,
  at,
  type Cases,
  claimOf,
  completed,
  create,
  equal,
  fenced,
  insert,
  patch,
  rowOf,
  update
} from "./check.js"

export const claims: Cases = {
  "a claim takes the oldest runs first, and gives each a new epoch": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-order"
    const ids = ["c", "a", "d", "b"].map((letter) => `${name}/${letter}`)
    yield* Effect.forEach(
      ids,
      (id, index) => create(id, { name, owner: null, status: "PENDING", createdAt: index < 2 ? 2_000 : 1_000 })
    )
    const first = yield* store.claim(claimOf(name, { limit: 3 }))
    const second = yield* store.claim(claimOf(name))
    const order = [`${name}/b`, `${name}/d`, `${name}/a`, `${name}/c`]
    yield* equal("the runs", [...first, ...second].map((claimed) => claimed.workflowId), order)
    yield* equal("the epochs", [...first, ...second].map((claimed) => claimed.epoch), [2, 2, 2, 2])
    const row = yield* rowOf(at(order, 0))
    const { epoch, owner, status, updatedAt } = row
    yield* equal(
      "the run",
      { epoch, owner, status, updatedAt },
      { epoch: 2, owner: "taker", status: "RUNNING", updatedAt: 3_000 }
    )
    yield* equal("the row that comes with the claim", at(first, 0).run, Either.right(row))
    yield* equal("a third claim", yield* store.claim(claimOf(name)), [])
  }),

  "what a worker owns is told": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-owned"
    for (const [id, owner] of [["mine", "me"], ["pending", "me"], ["theirs", "them"], ["free", null]] as const) {
      yield* create(`${name}/${id}`, { name, owner: owner === null ? null : `${name}-${owner}` })
    }
    yield* create(`${name}/ended`, { name, owner: `${name}-me` })
    yield* store.commit([update(`${name}/ended`, 1, { patch: patch({ status: "COMPLETED", owner: `${name}-me` }) })])
    const owned = yield* store.owned(`${name}-me`)
    yield* equal("the runs", [...owned].sort(), [`${name}/mine`, `${name}/pending`])
  }),

  "a second claim ends the first": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-second"
    const id = `${name}/1`
    yield* create(id, { name, owner: "first" })
    yield* store.claim(claimOf(name, { worker: "second", dead: ["first"] }))
    const late = yield* store.commit([update(id, 1, { steps: [completed(`${id}:0`, 0)] })])
    const timely = yield* store.commit([update(id, 2, { steps: [completed(`${id}:0`, 0)] })])
    yield* equal("the answers", [...late, ...timely], [fenced, accepted])
  }),

  "a claim leaves alone what is not for it": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-not"
    yield* create(`${name}/pending`, { name, owner: null, status: "PENDING" })
    yield* create(`${name}/unowned`, { name, owner: null })
    yield* create(`${name}/of-the-dead`, { name, owner: "dead" })
    yield* create(`${name}/of-the-living`, { name, owner: "living" })
    yield* create(`${name}/of-another-name`, { name: `${name}-other`, owner: null })
    for (const status of ["SUSPENDED", "STOPPED", "COMPLETED", "FAILED", "CANCELLED"] as const) {
      const id = `${name}/${status}`
      yield* create(id, { name, owner: "dead" })
      yield* store.commit([update(id, 1, { patch: patch({ status, owner: null }) })])
    }
    const taken = yield* store.claim(claimOf(name, { dead: ["dead", "nobody"] }))
    yield* equal(
      "the runs taken",
      taken.map((claimed) => claimed.workflowId),
      [`${name}/of-the-dead`, `${name}/pending`, `${name}/unowned`]
    )
  }),

  "a run can be claimed by its id, whatever its name": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-one"
    yield* create(`${name}/1`, { name, owner: null })
    yield* create(`${name}/2`, { name, owner: null })
    const taken = yield* store.claim(claimOf(name, { names: null, workflowId: `${name}/2` }))
    yield* equal("the runs taken", taken.map((claimed) => claimed.workflowId), [`${name}/2`])
    const none = yield* store.claim(claimOf(name, { names: ["other"], workflowId: `${name}/1` }))
    yield* equal("with another name", none, [])
  }),

  "a worker that knows no workflow claims nothing": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-none"
    yield* create(`${name}/1`, { name, owner: null })
    yield* equal("the runs taken", yield* store.claim(claimOf(name, { names: [] })), [])
  }),

  "no run is claimed by two workers": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-claim-race"
    const ids = Array.from({ length: 40 }, (_, index) => `${name}/${index}`)
    yield* store.commit(ids.map((id) => update(id, 1, { insert: insert({ name, owner: null }) })))
    const taken = yield* Effect.forEach(
      ["a", "b", "c", "d"],
      (worker) =>
        Effect.replicateEffect(Effect.zipLeft(store.claim(claimOf(name, { worker, limit: 3 })), Effect.yieldNow()), 5),
      { concurrency: "unbounded" }
    )
    const claimed = taken.flat(2).map((claimed) => claimed.workflowId)
    yield* equal("the number of claims", claimed.length, 40)
    yield* equal("the runs claimed", new Set(claimed), new Set(ids))
  })
}
