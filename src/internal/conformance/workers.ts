/** Who is alive. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { StepStore } from "../../StepStore.js"
import { type Cases, claimOf, create, equal, holds, patch, update, worker } from "./check.js"

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
  })
}
