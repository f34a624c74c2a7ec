import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, Exit, Fiber, Layer, Schema, Scope, TestClock } from "effect"
import { Engine, Errors, MemoryStepStore, Step, StepStore, Workflow } from "perdure"
import { emptyUpdate, type Entry, Journal } from "../src/internal/journal.js"
import { turns } from "./support/harness.js"
import { stores } from "./support/stores.js"

// ---------------------------------------------------------------------------------------------------------------------
// support
// ---------------------------------------------------------------------------------------------------------------------

interface Commits {
  readonly batches: Array<ReadonlyArray<StepStore.RunUpdate>>
}

/** A store that tells what it was asked to commit. */
const counted = (commits: Commits, base: Layer.Layer<StepStore.StepStore>) =>
  Layer.effect(
    StepStore.StepStore,
    Effect.map(StepStore.StepStore, (store) => ({
      ...store,
      commit: (batch: ReadonlyArray<StepStore.RunUpdate>) => {
        commits.batches.push(batch)
        return store.commit(batch)
      }
    }))
  ).pipe(Layer.provide(base))

const quiet = { active: false, at: () => Effect.void }

const row = (workflowId: string, n: number, fields: Partial<StepStore.StepRow> = {}): StepStore.StepRow => ({
  stepKey: `${workflowId}:${n}`,
  stepId: "s",
  kind: "step",
  sequence: n,
  status: "COMPLETED",
  position: n,
  attempt: 1,
  epoch: 0,
  final: true,
  startedAt: 0,
  updatedAt: 0,
  askedAfter: -1,
  fingerprint: null,
  output: "1",
  errorTag: null,
  error: null,
  ...fields
})

const begun = (workflowId: string, n: number): StepStore.StepRow =>
  row(workflowId, n, { status: "IN_PROGRESS", position: null, final: false, output: null })

const insertion = (workflowId: string): StepStore.RunUpdate => ({
  ...emptyUpdate({ workflowId, generation: 0, epoch: 0 }),
  insert: {
    name: "w",
    version: null,
    status: "RUNNING",
    owner: "w1",
    parent: null,
    deadlineAt: null,
    trace: null,
    fingerprint: "f",
    payload: null,
    createdAt: 0
  }
})

const steps = (workflowId: string, ...rows: ReadonlyArray<StepStore.StepRow>): StepStore.RunUpdate => ({
  ...emptyUpdate({ workflowId, generation: 0, epoch: 0 }),
  steps: rows
})

/** A journal over a store whose commits wait until they are let through. */
const harness = Effect.gen(function*() {
  const store = yield* StepStore.StepStore
  const batches: Array<ReadonlyArray<StepStore.RunUpdate>> = []
  const gate = yield* Effect.makeLatch(true)
  const begunCommit = yield* Effect.makeLatch(false)
  const journal = yield* Journal.make({
    ...store,
    commit: (batch) =>
      Effect.sync(() => batches.push(batch)).pipe(
        Effect.zipRight(begunCommit.open),
        Effect.zipRight(gate.await),
        Effect.zipRight(store.commit(batch))
      )
  }, quiet)
  return { batches, gate, journal, store, begunCommit }
})

const keysOf = (batch: ReadonlyArray<StepStore.RunUpdate> | undefined) =>
  batch?.flatMap((update) => update.steps.map((step) => `${step.stepKey} ${step.status}`))

const test = (name: string, body: Effect.Effect<unknown, unknown, StepStore.StepStore | Scope.Scope>) =>
  it.scoped(name, () => Effect.provide(body, MemoryStepStore.layer))

/** Collects what nothing refers to any more. */
const collect = Effect.sync(() => {
  setFlagsFromString("--expose-gc")
  runInNewContext("gc")()
})

// ---------------------------------------------------------------------------------------------------------------------
// with the engine
// ---------------------------------------------------------------------------------------------------------------------

const Chain = Workflow.make({
  name: "chain",
  payload: { n: Schema.Number, steps: Schema.Number },
  success: Schema.Number,
  idempotencyKey: ({ n }) => `${n}`
})

const ChainLive = Chain.toLayer(({ steps }) =>
  Effect.map(
    Effect.forEach(Array.from({ length: steps }, (_, i) => i), (i) => Effect.succeed(i).pipe(Step.durable("link"))),
    (links) => links.length
  )
)

describe.each(stores)("group commit (%s)", (_, store) => {
  it.effect("a thousand runs of ten steps share their commits: at most one for every fifty steps", () => {
    const commits: Commits = { batches: [] }
    return Effect.gen(function*() {
      const results = yield* Effect.forEach(
        Array.from({ length: 1_000 }, (_, n) => n),
        (n) => Chain.execute({ n, steps: 10 }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(results.reduce((sum, links) => sum + links, 0), 10_000)
      assert.isAtMost(commits.batches.length, 10_000 / 50)
      for (const batch of commits.batches) {
        assert.isAtMost(batch.reduce((rows, update) => rows + Math.max(1, update.steps.length), 0), 1_000)
      }
    }).pipe(
      Effect.provide(ChainLive.pipe(Layer.provideMerge(Engine.layer), Layer.provideMerge(counted(commits, store))))
    )
  })

  it.effect("a run alone waits for no timer and needs one commit a step", () => {
    const commits: Commits = { batches: [] }
    return Effect.gen(function*() {
      // The test clock stands still: a timer anywhere on the way would never end.
      assert.strictEqual(yield* Chain.execute({ n: 1, steps: 25 }), 25)
      // One for its start, one a step, one for its end.
      assert.strictEqual(commits.batches.length, 27)
      assert.isTrue(
        commits.batches.every((batch) => batch.length === 1 && batch.every(({ steps }) => steps.length <= 1))
      )
    }).pipe(
      Effect.provide(ChainLive.pipe(Layer.provideMerge(Engine.layer), Layer.provideMerge(counted(commits, store))))
    )
  })
})

describe("what the journal writes", () => {
  test(
    "what waits while a batch is written goes together into the next one",
    Effect.gen(function*() {
      const { batches, begunCommit, gate, journal } = yield* harness
      yield* gate.close
      const first = yield* Effect.fork(journal.write(insertion("a")))
      yield* begunCommit.await
      const others = yield* Effect.fork(
        Effect.forEach(["b", "c", "d"], (id) => journal.write(insertion(id)), { concurrency: "unbounded" })
      )
      yield* turns(3)
      yield* gate.open
      yield* Fiber.join(first)
      const answers = yield* Fiber.join(others)
      assert.deepStrictEqual(batches.map((batch) => batch.map((update) => update.workflowId)), [["a"], ["b", "c", "d"]])
      assert.deepStrictEqual(answers, [{ _tag: "Accepted" }, { _tag: "Accepted" }, { _tag: "Accepted" }])
    })
  )

  test(
    "an insert is not merged with what else is written of its run: each gets an answer of its own",
    Effect.gen(function*() {
      const { batches, journal, store } = yield* harness
      const answers = yield* Effect.all([
        journal.write(insertion("a")),
        journal.write(insertion("a")),
        journal.write(steps("a", row("a", 0))),
        Effect.sync(() => journal.jot(steps("a"), begun("a", 1))),
        journal.write(insertion("a")),
        journal.write(steps("a", row("a", 2)))
      ], { concurrency: "unbounded" })
      assert.deepStrictEqual(answers.map((answer) => answer?._tag), [
        "Accepted",
        "Exists",
        "Accepted",
        undefined,
        "Exists",
        "Accepted"
      ])
      assert.deepStrictEqual(batches.map(keysOf), [
        [],
        [],
        ["a:1 IN_PROGRESS", "a:0 COMPLETED"],
        [],
        ["a:2 COMPLETED"]
      ])
      assert.strictEqual((yield* store.steps("a", 0, { after: null, limit: 10 })).length, 3)
    })
  )

  test(
    "rows that nobody waits for go together after a few milliseconds, but for those of another epoch",
    Effect.gen(function*() {
      const { batches, journal } = yield* harness
      yield* journal.write(insertion("a"))
      journal.jot(steps("a"), begun("a", 0))
      journal.jot(steps("a"), begun("a", 1))
      journal.jot({ ...steps("a"), epoch: 1 }, begun("a", 2))
      yield* turns(3)
      assert.strictEqual(batches.length, 1)
      yield* TestClock.adjust("10 millis")
      yield* turns(5)
      assert.deepStrictEqual(batches.slice(1).map(keysOf), [["a:1 IN_PROGRESS", "a:0 IN_PROGRESS"]])
    })
  )

  test(
    "what still waits when the journal closes is told so",
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const scope = yield* Scope.make()
      const gate = yield* Effect.makeLatch(false)
      const begunCommit = yield* Effect.makeLatch(false)
      const journal = yield* Scope.extend(
        Journal.make({
          ...store,
          commit: (batch) => Effect.zipRight(begunCommit.open, Effect.zipRight(gate.await, store.commit(batch)))
        }, quiet),
        scope
      )
      const first = yield* Effect.fork(journal.write(insertion("a")))
      yield* begunCommit.await
      const second = yield* Effect.fork(Effect.either(journal.write(insertion("b"))))
      const close = yield* Effect.fork(Scope.close(scope, Exit.void))
      yield* turns(3)
      yield* gate.open
      yield* Fiber.join(close)
      assert.strictEqual((yield* Fiber.join(first))._tag, "Accepted")
      for (const answer of [yield* Fiber.join(second), yield* Effect.either(journal.write(insertion("c")))]) {
        assert.deepStrictEqual(
          answer,
          Either.left(
            new Errors.StoreUnavailable({
              target: store.target,
              detail: "the layer of the engine that speaks to it has been closed"
            })
          )
        )
      }
    })
  )

  test(
    "a row that nobody waits for is not lost beside an insert of its run",
    Effect.gen(function*() {
      const { batches, begunCommit, gate, journal } = yield* harness
      yield* journal.write(insertion("a"))
      yield* gate.close
      yield* begunCommit.close
      const other = yield* Effect.fork(journal.write(insertion("b")))
      yield* begunCommit.await
      journal.jot(steps("a"), begun("a", 0))
      const again = yield* Effect.fork(journal.write(insertion("a")))
      yield* turns(3)
      yield* TestClock.adjust("10 millis")
      yield* gate.open
      yield* Fiber.join(other)
      assert.strictEqual((yield* Fiber.join(again))._tag, "Exists")
      yield* TestClock.adjust("10 millis")
      yield* turns(5)
      assert.deepStrictEqual(batches.slice(2).map(keysOf), [[], ["a:0 IN_PROGRESS"]])
    })
  )

  test(
    "a batch holds at most a thousand rows, and the order within a run stays",
    Effect.gen(function*() {
      const { batches, journal } = yield* harness
      yield* journal.write(insertion("a"))
      yield* Effect.forEach(
        Array.from({ length: 2_500 }, (_, n) => n),
        (n) => journal.write(steps("a", row("a", n))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(batches.slice(1).map((batch) => batch[0]?.steps.length), [1_000, 1_000, 500])
      assert.deepStrictEqual(
        batches.slice(1).flatMap((batch) => batch[0]?.steps.map((step) => step.position)),
        Array.from({ length: 2_500 }, (_, n) => n)
      )
    })
  )

  test(
    "a batch holds at most four million characters, and a larger payload goes alone",
    Effect.gen(function*() {
      const { batches, journal } = yield* harness
      yield* journal.write(insertion("a"))
      const large = (n: number, length: number) =>
        steps("a", row("a", n, { output: "\"".padEnd(length - 1, "x") + "\"" }))
      yield* Effect.forEach(
        [large(0, 3_000_000), large(1, 3_000_000), large(2, 6_000_000), large(3, 10)],
        (update) => journal.write(update),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(batches.slice(1).map((batch) => batch[0]?.steps.length), [1, 1, 1, 1])
    })
  )

  test(
    "whoever writes waits outside while 64 million characters are waiting, and is let in in turn",
    Effect.gen(function*() {
      const { begunCommit, gate, journal } = yield* harness
      yield* journal.write(insertion("a"))
      yield* gate.close
      yield* begunCommit.close
      const text = "\"" + "x".repeat(8_000_000) + "\""
      let entered = 0
      let acknowledged = 0
      const offer = (n: number) =>
        journal.offer({
          update: steps("a", row("a", n, { output: text })),
          cancelled: () => false,
          done: () => void acknowledged++
        }).pipe(Effect.tap(() => Effect.sync(() => void entered++)))
      // The first is being written, eight fill the room, and the others wait outside.
      const first = yield* Effect.fork(offer(0))
      yield* begunCommit.await
      const offers = yield* Effect.forEach(Array.from({ length: 12 }, (_, n) => n + 1), (n) => Effect.fork(offer(n)))
      yield* turns(5)
      assert.isBelow(entered, 11)
      assert.isAbove(entered, 8)
      const last = offers.at(-1)
      assert.isDefined(last)
      yield* Fiber.interrupt(last)
      yield* gate.open
      yield* Fiber.join(first)
      yield* Fiber.joinAll(offers.slice(0, -1))
      yield* journal.write(steps("a", row("a", 99)))
      assert.strictEqual(entered, 12)
      assert.strictEqual(acknowledged, 12)
    })
  )

  test(
    "a batch that holds a bad row is split, and only the run it belongs to is told",
    Effect.gen(function*() {
      const { batches, begunCommit, gate, journal, store } = yield* harness
      yield* Effect.forEach(["a", "b", "c"], (id) => journal.write(insertion(id)))
      yield* journal.write(steps("b", row("b", 0)))
      yield* gate.close
      yield* begunCommit.close
      const blocker = yield* Effect.fork(journal.write(steps("a", row("a", 0))))
      yield* begunCommit.await
      const before = batches.length
      // The row of `b` would overwrite a final one.
      const together = yield* Effect.fork(Effect.forEach(
        [steps("a", row("a", 1)), steps("b", row("b", 0)), steps("c", row("c", 0))],
        (update) => Effect.exit(journal.write(update)),
        { concurrency: "unbounded" }
      ))
      yield* turns(3)
      yield* gate.open
      yield* Fiber.join(blocker)
      const [a, b, c] = yield* Fiber.join(together)
      assert.deepStrictEqual(batches.slice(before).map((batch) => batch.map((update) => update.workflowId)), [
        ["a", "b", "c"],
        ["a"],
        ["b"],
        ["c"]
      ])
      assert.isTrue(a !== undefined && Exit.isSuccess(a))
      assert.isTrue(c !== undefined && Exit.isSuccess(c))
      assert.isTrue(
        b !== undefined && Exit.isFailure(b) && b.cause._tag === "Fail" && b.cause.error instanceof Errors.StoreRejected
      )
      assert.strictEqual((yield* store.history("a", 0, { after: null, limit: 10 })).rows.length, 2)
      assert.strictEqual((yield* store.history("c", 0, { after: null, limit: 10 })).rows.length, 1)
    })
  )

  test(
    "an error that passes is told to all of the batch, and nothing is written twice",
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      let calls = 0
      const journal = yield* Journal.make({
        ...store,
        commit: () =>
          Effect.suspend(() => {
            calls++
            return Effect.fail(new Errors.StoreFull({ target: "t", detail: "full" }))
          })
      }, quiet)
      const answers = yield* Effect.forEach(["a", "b"], (id) => Effect.flip(journal.write(insertion(id))), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(answers.map((error) => error._tag), ["StoreFull", "StoreFull"])
      assert.strictEqual(calls, 1)
    })
  )

  test(
    "what is cancelled before its turn is not written, and updates of two epochs do not share a batch",
    Effect.gen(function*() {
      const { batches, begunCommit, gate, journal } = yield* harness
      yield* gate.close
      const first = yield* Effect.fork(journal.write(insertion("a")))
      yield* begunCommit.await
      const entry = (update: StepStore.RunUpdate, cancelled: boolean): Entry => ({
        update,
        cancelled: () => cancelled,
        done: () => {}
      })
      journal.enqueue(entry(steps("a", row("a", 0)), true))
      journal.enqueue(entry(steps("a", row("a", 1)), false))
      const later = yield* Effect.fork(journal.write({ ...steps("a", row("a", 2)), epoch: 1 }))
      yield* turns(2)
      yield* gate.open
      yield* Fiber.join(first)
      assert.deepStrictEqual(yield* Fiber.join(later), { _tag: "Fenced" })
      assert.deepStrictEqual(batches.slice(1).map(keysOf), [["a:1 COMPLETED"], ["a:2 COMPLETED"]])
    })
  )
})

describe("rows that nobody waits for", () => {
  test(
    "do not wake the journal, and are written after five milliseconds",
    Effect.gen(function*() {
      const { batches, journal, store } = yield* harness
      yield* journal.write(insertion("a"))
      yield* journal.write(insertion("b"))
      journal.jot(steps("a"), begun("a", 0))
      journal.jot(steps("b"), begun("b", 0))
      yield* turns(5)
      assert.strictEqual(batches.length, 2)
      yield* TestClock.adjust("5 millis")
      yield* turns(5)
      assert.deepStrictEqual(keysOf(batches[2]), ["a:0 IN_PROGRESS", "b:0 IN_PROGRESS"])
      assert.strictEqual((yield* store.unfinished("a", 0)).length, 1)
      // The next one starts the timer anew.
      journal.jot(steps("a"), begun("a", 1))
      yield* turns(5)
      yield* TestClock.adjust("5 millis")
      yield* turns(5)
      assert.deepStrictEqual(keysOf(batches[3]), ["a:1 IN_PROGRESS"])
    })
  )

  test(
    "go with the next update of their run, unless it makes them superfluous",
    Effect.gen(function*() {
      const { batches, journal } = yield* harness
      yield* journal.write(insertion("a"))
      yield* journal.write(insertion("b"))
      journal.jot(steps("a"), begun("a", 0))
      journal.jot(steps("a"), begun("a", 1))
      journal.jot(steps("b"), begun("b", 0))
      yield* journal.write(steps("a", row("a", 0)))
      assert.deepStrictEqual(keysOf(batches[2]), ["a:1 IN_PROGRESS", "a:0 COMPLETED"])
    })
  )

  test(
    "of an earlier life of the run are not written under the present epoch",
    Effect.gen(function*() {
      const { batches, journal } = yield* harness
      yield* journal.write(insertion("a"))
      journal.jot({ ...steps("a"), epoch: 7 }, begun("a", 1))
      yield* journal.write(steps("a", row("a", 0)))
      assert.deepStrictEqual(keysOf(batches[1]), ["a:0 COMPLETED"])
    })
  )

  test(
    "join a batch that their run is already in when their time has come",
    Effect.gen(function*() {
      const { batches, begunCommit, gate, journal } = yield* harness
      yield* journal.write(insertion("a"))
      yield* journal.write(insertion("b"))
      yield* gate.close
      yield* begunCommit.close
      const blocker = yield* Effect.fork(journal.write(steps("b", row("b", 0))))
      yield* begunCommit.await
      journal.jot(steps("a"), begun("a", 5))
      yield* TestClock.adjust("6 millis")
      const next = yield* Effect.fork(journal.write(steps("b", row("b", 1))))
      yield* turns(2)
      yield* gate.open
      yield* Fiber.join(blocker)
      yield* Fiber.join(next)
      assert.deepStrictEqual(keysOf(batches[3]), ["b:1 COMPLETED", "a:5 IN_PROGRESS"])
    })
  )

  it.scoped("what is written is not kept in memory", () =>
    Effect.gen(function*() {
      const base = yield* StepStore.StepStore
      const journal = yield* Journal.make({
        ...base,
        commit: (batch) => Effect.succeed(batch.map(() => ({ _tag: "Accepted" as const })))
      }, quiet)
      const written: Array<WeakRef<StepStore.RunUpdate>> = []
      for (let n = 0; n < 10; n++) {
        const update = steps("wf", row("wf", n))
        written.push(new WeakRef(update))
        yield* journal.write(update)
      }
      yield* turns(5)
      yield* collect
      assert.deepStrictEqual(
        written.slice(0, 9).map((update) => update.deref()),
        Array.from({ length: 9 }, () => undefined)
      )
    }).pipe(Effect.provide(MemoryStepStore.layer)))
})
