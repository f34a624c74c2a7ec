/**
 * Runs that are under way meet changed code. What they have recorded, and what they have begun, is compared by address with what the
 * changed code asks for there, by a model that knows nothing of the engine.
 */
import { assert } from "@effect/vitest"
import { Effect, FastCheck as fc, Fiber } from "effect"
import { Branch, Errors, MemoryStepStore, Step, Workflow } from "perdure"
import { StepStore } from "perdure"
import { eventually, historyOf, inEngine } from "../support/harness.js"
import { row, seed } from "./row.js"

/** What a body does, one after the other. */
type Op =
  | { readonly _tag: "Step"; readonly id: string; readonly fingerprint: string | null }
  | { readonly _tag: "Sleep"; readonly millis: number }
  | { readonly _tag: "Branches"; readonly ids: ReadonlyArray<string> }

const name = fc.constantFrom("a", "b", "c", "d", "e", "f")

const stepOp = fc.record({
  _tag: fc.constant("Step" as const),
  id: name,
  fingerprint: fc.option(fc.constantFrom("x", "y"), { nil: null })
})

const op: fc.Arbitrary<Op> = fc.oneof(
  { weight: 4, arbitrary: stepOp },
  { weight: 1, arbitrary: fc.record({ _tag: fc.constant("Sleep" as const), millis: fc.integer({ min: 0, max: 2 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      _tag: fc.constant("Branches" as const),
      ids: fc.array(name, { minLength: 1, maxLength: 3 })
    })
  }
)

/** How code is changed at a place. */
type Change =
  | { readonly how: "rename" | "remove" | "swap" | "fingerprint" | "duration" | "branches" | "nothing" }
  | { readonly how: "insert" | "replace"; readonly op: Op }

const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({
    how: fc.constantFrom(
      "rename" as const,
      "remove" as const,
      "swap" as const,
      "fingerprint" as const,
      "duration" as const,
      "branches" as const,
      "nothing" as const
    )
  }),
  fc.record({ how: fc.constantFrom("insert" as const, "replace" as const), op })
)

const changed = (ops: ReadonlyArray<Op>, at: number, change: Change): ReadonlyArray<Op> => {
  const one = ops[at]!
  const put = (...instead: ReadonlyArray<Op>) => [...ops.slice(0, at), ...instead, ...ops.slice(at + 1)]
  switch (change.how) {
    case "rename":
      return put(one._tag === "Step" ? { ...one, id: `${one.id}'` } : one)
    case "remove":
      return put()
    case "swap":
      return at + 1 < ops.length ? [...ops.slice(0, at), ops[at + 1]!, one, ...ops.slice(at + 2)] : ops
    case "fingerprint":
      return put(one._tag === "Step" ? { ...one, fingerprint: one.fingerprint === "x" ? "y" : "x" } : one)
    case "duration":
      return put(one._tag === "Sleep" ? { ...one, millis: one.millis + 1 } : one)
    case "branches":
      return put(one._tag === "Branches" ? { ...one, ids: [...one.ids, "g"] } : one)
    case "insert":
      return put(change.op, one)
    case "replace":
      return put(change.op)
    case "nothing":
      return ops
  }
}

/** What is asked for at which address, in order. */
const asked = (ops: ReadonlyArray<Op>): ReadonlyArray<Errors.Operation> => {
  let sequence = 0
  return ops.flatMap((op): ReadonlyArray<Errors.Operation> => {
    switch (op._tag) {
      case "Step":
        return [{ address: `${sequence++}`, kind: "step", id: op.id, fingerprint: op.fingerprint }]
      case "Sleep":
        return [{ address: `${sequence++}`, kind: "sleep", id: "sleep", fingerprint: null }]
      case "Branches":
        return op.ids.map((id) => ({ address: `${sequence++}.0`, kind: "step", id, fingerprint: null }))
    }
  })
}

const workflowId = "wf"

/** A body that does these; `held` is the root step, by its place, that does not end. */
const bodyOf = (ops: ReadonlyArray<Op>, ledger: Array<string>, held: number | null) => {
  const effect = (id: string) => Effect.sync(() => void ledger.push(id))
  return Effect.forEach(ops, (op, i) => {
    switch (op._tag) {
      case "Step":
        return Effect.zipRight(effect(op.id), i === held ? Effect.never : Effect.void).pipe(
          Step.durable(op.id, op.fingerprint === null ? {} : { fingerprint: op.fingerprint })
        )
      case "Sleep":
        return Effect.sleep(op.millis)
      case "Branches":
        return Branch.forEach(op.ids, (id) => effect(id).pipe(Step.durable(id)), {
          concurrency: "unbounded",
          discard: true
        })
    }
  }, { discard: true })
}

const same = (one: Errors.Operation, other: Errors.Operation | undefined) =>
  one.kind === other?.kind && one.id === other.id && one.fingerprint === other.fingerprint

interface Mutant {
  readonly ops: ReadonlyArray<Op>
  readonly last: Extract<Op, { readonly _tag: "Step" }>
  readonly rest: ReadonlyArray<Op>
  readonly at: number
  readonly change: Change
}

const mutant: fc.Arbitrary<Mutant> = fc.record({
  ops: fc.array(op, { maxLength: 5 }),
  last: stepOp,
  rest: fc.array(op, { maxLength: 2 }),
  at: fc.nat(),
  change
})

const trial = ({ at, change, last, ops, rest }: Mutant) =>
  Effect.gen(function*() {
    const before = [...ops, last, ...rest]
    const after = changed(before, at % before.length, change)
    const recorded = asked(ops)
    const begun = asked([...ops, last]).at(-1)!
    const requested = asked(after)
    const at_ = (address: string) => requested.find((operation) => operation.address === address)

    const first: Array<string> = []
    yield* Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const fiber = yield* Effect.fork(Workflow.run(workflowId, bodyOf(before, first, ops.length)))
      yield* eventually(
        store.unfinished(workflowId, 0),
        (rows) => rows.some((row) => row.stepKey === `${workflowId}:${begun.address}`)
      )
      yield* Fiber.interrupt(fiber)
    }).pipe(inEngine())
    const history = yield* historyOf(workflowId)
    assert.strictEqual(history.length, recorded.length)

    const second: Array<string> = []
    const end = yield* Effect.either(Workflow.run(workflowId, bodyOf(after, second, null))).pipe(
      inEngine({ unrequestedAfter: 5 })
    )

    const wrong = recorded.filter((operation) => !same(operation, at_(operation.address)))
    const begunAs = at_(begun.address)
    const isCaught = wrong.length > 0 || (begunAs !== undefined && !same(begun, begunAs))
    if (isCaught) {
      const reason = end._tag === "Left" && end.left instanceof Errors.RunStopped ? end.left.reason : null
      assert.instanceOf(reason, Errors.NonDeterminismError)
      const { recorded: was, requested: is } = reason as Errors.NonDeterminismError
      assert.deepInclude(wrong.length > 0 ? wrong : [begun], was)
      const instead = at_(was!.address)
      if (instead !== undefined) {
        assert.deepEqual(is, instead)
      }
      // Nothing is repeated, overwritten or lost.
      assert.deepEqual(second, [])
      assert.deepEqual(yield* historyOf(workflowId), history)
    } else {
      assert.strictEqual(end._tag, "Right")
      const done = new Set(recorded.map(({ address }) => address))
      assert.deepEqual(
        second,
        requested.filter(({ address, kind }) => kind === "step" && !done.has(address)).map(({ id }) => id)
      )
      assert.deepEqual((yield* historyOf(workflowId)).slice(0, history.length), history)
    }
    return isCaught
  }).pipe(Effect.provide(MemoryStepStore.layer))

row(
  {
    name: "changed-code",
    title: "code that asks for something else than the record is stopped, and any other goes on",
    ci: 200,
    night: 5_000
  },
  3,
  (count) =>
    Effect.promise(async () => {
      let caught = 0
      await fc.assert(
        fc.asyncProperty(mutant, async (mutant) => {
          caught += await Effect.runPromise(trial(mutant)) ? 1 : 0
        }),
        { numRuns: count, seed }
      )
      assert.isAbove(caught, count / 5, "mutants that were stopped")
      assert.isBelow(caught, count * 4 / 5, "mutants that were stopped")
      return count
    })
)
