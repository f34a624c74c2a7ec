/** Who is told of what. */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { type Change, StepStore } from "../../StepStore.js"
import { at, type Cases, claimOf, completed, create, equal, holds, insert, patch, update } from "./check.js"

/** Listens; what it answers gives the runs that were told of, up to and including the given one. */
export const listen = Effect.fnUntraced(function*(
  told: (change: NonNullable<Change>) => ReadonlyArray<string> = ({ runs }) => runs
) {
  const store = yield* StepStore
  const pull = yield* Stream.toPull(store.changes)
  const started = yield* pull
  yield* equal("the first element", Chunk.toReadonlyArray(started), [null])
  const until = (workflowId: string): Effect.Effect<ReadonlyArray<string>, unknown> =>
    Effect.flatMap(pull, (chunk) => {
      const runs = Chunk.toReadonlyArray(chunk).flatMap((change) => change === null ? [] : told(change))
      return runs.includes(workflowId)
        ? Effect.succeed(runs)
        : Effect.map(until(workflowId), (more) => [...runs, ...more])
    })
  return until
})

export const changes: Cases = {
  "whoever listens is told of commits and claims": Effect.scoped(Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-changes"
    const until = yield* listen()
    yield* create(`${name}/1`, { name, owner: null })
    yield* until(`${name}/1`)
    yield* create(`${name}/2`, { name })
    yield* until(`${name}/2`)
    yield* store.claim(claimOf(name))
    yield* until(`${name}/1`)
    yield* store.commit([update(`${name}/1`, 2, { steps: [completed(`${name}/1:0`, 0)] })])
    yield* until(`${name}/1`)
  })),

  "whoever waits is woken": Effect.scoped(Effect.gen(function*() {
    const until = yield* listen()
    const waiting = yield* Effect.fork(until("conformance-woken/1"))
    for (const id of ["conformance-woken/0", "conformance-woken/1"]) {
      yield* Effect.yieldNow()
      yield* create(id)
    }
    yield* Fiber.join(waiting)
  })),

  "a slow listener holds nobody up and misses nothing": Effect.scoped(Effect.gen(function*() {
    const ids = Array.from({ length: 100 }, (_, index) => `conformance-slow/${index}`)
    const [slow, fast] = [yield* listen(), yield* listen()]
    for (const id of ids) {
      yield* create(id)
      yield* fast(id)
    }
    const told = yield* slow(at(ids, 99))
    yield* holds("all runs were told of", ids.every((id) => told.includes(id)))
  })),

  "a write that was not accepted is no change": Effect.scoped(Effect.gen(function*() {
    const store = yield* StepStore
    const [there, other] = ["conformance-no-change/1", "conformance-no-change/2"]
    yield* create(there)
    const until = yield* listen()
    yield* store.commit([update(there, 9, { steps: [completed(`${there}:0`, 0)] })])
    yield* store.commit([update(there, 9, { patch: patch() })])
    yield* store.commit([update(there, 1, { insert: insert() })])
    yield* create(other)
    yield* equal("the runs told of", yield* until(other), [other])
  }))
}
