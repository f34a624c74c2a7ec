/** Who is alive. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { StepStore } from "../../StepStore.js"
import { at, type Cases, claimOf, create, equal, holds, patch, update, worker } from "./check.js"

export const workers: Cases = {
  "a worker is alive while its scope is open, and then dead for as long as it owns runs": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-workers"
    const scope = yield* Scope.make()
    yield* Scope.extend(store.register(worker(`${name}-1`)), scope)
    yield* create(`${name}/1`, { name, owner: `${name}-1` })
    yield* equal("dead while it lives", (yield* store.dead).includes(`${name}-1`), false)
    yield* Scope.close(scope, Exit.void)
    yield* equal("dead when it is closed", (yield* store.dead).includes(`${name}-1`), true)
    yield* store.claim(claimOf(name, { worker: `${name}-2`, dead: [`${name}-1`] }))
    yield* equal("dead when its run is taken over", (yield* store.dead).includes(`${name}-1`), false)
  }),

  "an owner that nobody knows is dead": Effect.gen(function*() {
    const store = yield* StepStore
    yield* create("conformance-orphan/1", { owner: "conformance-orphan-owner" })
    yield* holds("it is", (yield* store.dead).includes("conformance-orphan-owner"))
    yield* store.commit([update("conformance-orphan/1", 1, { patch: patch({ status: "COMPLETED", owner: null }) })])
    yield* holds("it owns nothing then", !(yield* store.dead).includes("conformance-orphan-owner"))
  }),

  "a worker without runs is not reported": Effect.gen(function*() {
    const store = yield* StepStore
    yield* Effect.scoped(store.register(worker("conformance-idle")))
    yield* equal("dead", (yield* store.dead).includes("conformance-idle"), false)
  }),

  "a worker's beats are counted, and seen by all": Effect.scoped(Effect.gen(function*() {
    const store = yield* StepStore
    const [one, other] = [worker("conformance-beats-1"), worker("conformance-beats-2")]
    yield* store.register(other)
    yield* store.register(one)
    const pulses = Effect.map(store.beat(one), (all) => all.filter(({ id }) => id === one.id || id === other.id))
    const before = yield* pulses
    yield* equal("those who are seen", before.map(({ id }) => id), [one.id, other.id])
    yield* store.beat(other)
    const after = yield* pulses
    yield* equal("the beats since", after.map(({ beats }, i) => beats - at(before, i).beats), [1, 1])
  })),

  "a worker that has gone is seen no more, and its beat puts it back": Effect.gen(function*() {
    const store = yield* StepStore
    const [one, other] = [worker("conformance-gone-1"), worker("conformance-gone-2")]
    const seen = Effect.map(store.beat(other), (all) => all.some(({ id }) => id === one.id))
    yield* Effect.scoped(Effect.gen(function*() {
      yield* store.register(other)
      yield* Effect.scoped(store.register(one))
      yield* equal("seen when it has gone", yield* seen, false)
      // Closing what is registered in a scope then removes what the beat has put back.
      yield* Effect.scoped(Effect.gen(function*() {
        yield* store.beat(one)
        yield* equal("seen when it has beaten", yield* seen, true)
        yield* store.register(one)
      }))
      yield* equal("seen in the end", yield* seen, false)
    }))
  })
}
