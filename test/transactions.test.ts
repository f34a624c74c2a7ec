import { SqlClient, type SqlError } from "@effect/sql"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Option, Schema, TestClock } from "effect"
import { PayloadCodec, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { withoutTransaction } from "../src/internal/transaction.js"
import { eventually, failure, inEngine, rowOf, statusOf, turns } from "./support/harness.js"
import { temporaryFile } from "./support/stores.js"

const Job = Workflow.make({
  name: "job",
  payload: { n: Schema.Number },
  success: Schema.String,
  idempotencyKey: ({ n }) => `${n}`
})

const JobLive = Job.toLayer(({ n }) => Effect.succeed(`done ${n}`).pipe(Step.durable("work")))

type Shared = SqlClient.SqlClient | StepStore.StepStore

/** Adds a mark to each payload. */
const LoudCodec = Layer.succeed(PayloadCodec.PayloadCodec, {
  name: "loud",
  encode: (json) => Effect.succeed(`${json}!`),
  decode: (stored) => Effect.succeed(stored.slice(0, -1))
})

/** A connection of its own to a file. */
const open = (filename: string) =>
  Effect.map(Layer.build(Layer.fresh(SqliteClient.layer({ filename }))), Context.get(SqlClient.SqlClient))

/** A file that the application has a client for, and a store on that client; nothing of it polls. */
const sharedLayer = Layer.orDie(Layer.unwrapScoped(Effect.map(temporaryFile, (filename) =>
  Layer.provideMerge(
    SqliteStepStore.layerClient({ synchronous: "NORMAL", pollInterval: "1 day" }),
    SqliteClient.layer({ filename })
  ))))

const test = (name: string, body: () => Effect.Effect<unknown, unknown, Shared>) =>
  it.scoped(name, () => Effect.provide(body(), sharedLayer))

const orders = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE orders (id INTEGER)`)

const order = (id: number) => Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO orders VALUES (${id})`)

const ordered = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) =>
    Effect.map(sql<{ readonly id: number }>`SELECT id FROM orders ORDER BY id`, (rows) => rows.map(({ id }) => id))
)

const inTransaction = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<
  A,
  E | SqlError.SqlError,
  R | SqlClient.SqlClient
> => Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(self))

const runIds = Effect.flatMap(
  StepStore.StepStore,
  (store) => Effect.map(store.runs({ after: null, limit: 100 }), (runs) => runs.map((run) => run.workflowId))
)

const running = inEngine({ workflows: [JobLive] })

const diesOf = (exit: Exit.Exit<unknown, unknown>) => Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "success"

describe("start inside a transaction of the application", () => {
  test("is part of it, and the run goes on once it has committed, without a poll", () =>
    Effect.gen(function*() {
      yield* orders
      const id = yield* inTransaction(Effect.gen(function*() {
        yield* order(1)
        const id = yield* Job.start({ n: 1 })
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql`SELECT status, owner, epoch FROM workflows`
        expect(rows).toEqual([{ status: "PENDING", owner: null, epoch: 0 }])
        return id
      }))
      // The clock of the test stands still.
      yield* eventually(statusOf(id), (status) => status === "COMPLETED")
      expect(yield* Job.await(id)).toBe("done 1")
      expect(yield* ordered).toEqual([1])
    }).pipe(running))

  test("wakes whoever waits for it already, and is done once", () =>
    Effect.gen(function*() {
      yield* orders
      const id = yield* inTransaction(Job.start({ n: 1 }))
      expect(yield* Job.await(id)).toBe("done 1")
      expect(yield* Job.execute({ n: 1 })).toBe("done 1")
      expect((yield* rowOf(id)).epoch).toBe(1)
    }).pipe(running))

  test("vanishes with it", () =>
    Effect.gen(function*() {
      yield* orders
      const exit = yield* Effect.exit(inTransaction(
        order(1).pipe(
          Effect.zipRight(Job.start({ n: 1 })),
          Effect.zipRight(Effect.fail("no"))
        )
      ))
      expect(exit).toEqual(Exit.fail("no"))
      yield* turns(20)
      expect([yield* runIds, yield* ordered]).toEqual([[], []])
      expect(yield* Job.execute({ n: 1 })).toBe("done 1")
    }).pipe(running))

  test("vanishes with the savepoint it was made in", () =>
    Effect.gen(function*() {
      const [kept] = yield* inTransaction(Effect.all([
        Job.start({ n: 1 }),
        Effect.exit(inTransaction(Effect.zipRight(Job.start({ n: 2 }), Effect.fail("no"))))
      ]))
      expect(yield* Job.await(kept)).toBe("done 1")
      expect(yield* runIds).toEqual([kept])
    }).pipe(running))

  test("answers as ever: the same run attaches, another payload conflicts", () =>
    Effect.gen(function*() {
      yield* Job.execute({ n: 1 })
      const ids = yield* inTransaction(Effect.gen(function*() {
        const before = yield* Job.start({ n: 1 })
        const id = yield* Job.start({ n: 2 })
        const conflict = yield* failure(Job.start({ n: 3 }, { workflowId: id }))
        expect(conflict).toMatchObject({ _tag: "WorkflowIdConflict", workflowId: id })
        const other = yield* failure(Job.start({ n: 3 }, { workflowId: before }))
        expect(other._tag).toBe("WorkflowIdConflict")
        return [before, id, yield* Job.start({ n: 2 })]
      }))
      expect(ids).toEqual(["job/1", "job/2", "job/2"])
      expect(yield* Job.await("job/2")).toBe("done 2")
    }).pipe(running))

  test("leaves a run to whoever registers its workflow", () =>
    Effect.gen(function*() {
      const id = yield* inTransaction(Job.start({ n: 1 })).pipe(inEngine())
      expect(yield* statusOf(id)).toBe("PENDING")
      expect(yield* Job.await(id).pipe(running)).toBe("done 1")
    }))

  test("execute dies of what it would wait for, and takes the transaction with it", () =>
    Effect.gen(function*() {
      const text = diesOf(yield* Effect.exit(inTransaction(Job.execute({ n: 1 }))))
      expect(text).toContain("await was called inside a transaction of the SqlClient")
      expect(text).toContain("Call start and Signal.send inside the transaction, and the others after it")
      expect(yield* runIds).toEqual([])
    }).pipe(running))

  test("of another client is not part of it", () =>
    Effect.gen(function*() {
      const other = yield* open(":memory:")
      const exit = yield* Effect.exit(other.withTransaction(Effect.gen(function*() {
        const id = yield* Job.start({ n: 1 })
        expect(yield* Job.await(id)).toBe("done 1")
        return yield* Effect.fail("no")
      })))
      expect(exit).toEqual(Exit.fail("no"))
      expect(yield* runIds).toEqual(["job/1"])
    }).pipe(Effect.scoped, running))

  test("passes through the codec, and tells of a run that cannot be read", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* inTransaction(Job.start({ n: 1 }))
      expect(yield* sql`SELECT payload, payload_codec AS codec FROM workflows`).toEqual([
        { payload: "{\"n\":1}!", codec: "loud" }
      ])
      expect(yield* Job.await("job/1")).toBe("done 1")
      yield* sql`UPDATE workflows SET payload = 'x!'`
      const error = yield* failure(inTransaction(Job.start({ n: 1 })))
      expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: "job/1" })
    }).pipe(running, Effect.provide(Layer.fresh(Layer.provide(SqliteStepStore.layerClient(), LoudCodec)))))

  it.scopedLive("waits while another process writes, and gives up at once what waiting cannot help", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const mine = Layer.provideMerge(SqliteStepStore.layerClient(), SqliteClient.layer({ filename }))
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const other = yield* open(filename)
        yield* orders
        yield* other`BEGIN IMMEDIATE`
        const fiber = yield* Effect.fork(inTransaction(Job.start({ n: 1 })))
        yield* Effect.sleep("50 millis")
        expect(Option.isNone(yield* Fiber.poll(fiber))).toBe(true)
        yield* other`COMMIT`
        expect(yield* Job.await(yield* Fiber.join(fiber))).toBe("done 1")

        const behind = sql.withTransaction(Effect.gen(function*() {
          yield* ordered
          yield* withoutTransaction(other`INSERT INTO orders VALUES (1)`)
          return yield* Job.start({ n: 2 })
        }))
        const error = yield* failure(Effect.timeout(behind, "5 seconds"))
        expect(error).toMatchObject({ _tag: "StoreBusy" })
        expect(String(error)).toContain("SQLITE_BUSY_SNAPSHOT")
        expect(yield* runIds).toEqual(["job/1"])
        // What the application had set for its connection holds again.
        expect(yield* sql`PRAGMA busy_timeout`).toEqual([{ timeout: 5_000 }])
      }).pipe(running, Effect.provide(mine))
    }))
})

const Go = Signal.make("go", Schema.String)

const send = (workflowId: string, value: string, idempotencyKey?: string) =>
  Signal.send(Go, { workflowId, value, ...(idempotencyKey === undefined ? {} : { idempotencyKey }) })

describe("Signal.send inside a transaction of the application", () => {
  const Waiting = Workflow.make({ name: "waiting", payload: {}, success: Schema.String })
  const WaitingLive = Waiting.toLayer(() => Signal.next(Go))
  const waiting = inEngine({ workflows: [WaitingLive], slowPoll: "1000 days" })
  const begin = Waiting.start(undefined, { workflowId: "wf" })
  const end = Waiting.await("wf")

  const parked = Effect.gen(function*() {
    yield* turns(20)
    yield* TestClock.adjust("1 second")
    yield* eventually(statusOf("wf"), (status) => status === "SUSPENDED")
  })

  test("is part of it, and wakes the run once it has committed, without a poll", () =>
    Effect.gen(function*() {
      yield* orders
      yield* Effect.zipRight(begin, parked)
      yield* inTransaction(Effect.gen(function*() {
        yield* order(1)
        yield* send("wf", "a")
        yield* turns(20)
        const sql = yield* SqlClient.SqlClient
        expect(yield* sql`SELECT owner, inbox FROM workflows`).toEqual([{ owner: null, inbox: 1 }])
      }))
      expect(yield* end).toBe("a")
      expect(yield* ordered).toEqual([1])
    }).pipe(waiting))

  test("vanishes with it", () =>
    Effect.gen(function*() {
      yield* Effect.zipRight(begin, parked)
      const exit = yield* Effect.exit(inTransaction(Effect.zipRight(send("wf", "a"), Effect.fail("no"))))
      expect(exit).toEqual(Exit.fail("no"))
      yield* turns(20)
      expect(yield* rowOf("wf")).toMatchObject({ status: "SUSPENDED", inbox: 0 })
      yield* send("wf", "b")
      expect(yield* end).toBe("b")
    }).pipe(waiting))

  test("reaches a run that was started in the same transaction", () =>
    Effect.gen(function*() {
      yield* inTransaction(Effect.zipRight(begin, send("wf", "a")))
      expect(yield* end).toBe("a")
    }).pipe(waiting))

  test("answers as ever: the same key, nobody, and a run that has ended", () =>
    Effect.gen(function*() {
      yield* begin
      yield* inTransaction(Effect.zipRight(send("wf", "a", "key"), send("wf", "b", "key")))
      expect(yield* end).toBe("a")
      yield* inTransaction(Effect.gen(function*() {
        yield* send("wf", "c", "key")
        expect(yield* failure(send("wf", "d"))).toMatchObject({ _tag: "SignalNotWanted", reason: "ended" })
        expect(yield* failure(send("nobody", "d"))).toMatchObject({ _tag: "WorkflowNotFound" })
      }))
      expect((yield* rowOf("wf")).inbox).toBe(1)
    }).pipe(waiting))

  test("from a Step.transaction it is sent with the record of the step", () =>
    Effect.gen(function*() {
      const Sender = Workflow.make({ name: "sender", payload: {} })
      const SenderLive = Sender.toLayer(() => Step.transaction(Effect.orDie(send("wf", "exactly once")), "send"))
      yield* Effect.gen(function*() {
        yield* begin
        yield* Sender.execute(undefined, { workflowId: "sender" })
        expect(yield* end).toBe("exactly once")
      }).pipe(inEngine({ workflows: [WaitingLive, SenderLive] }))
    }))

  test("Signal.answer dies of what it would wait for", () =>
    Effect.gen(function*() {
      const text = diesOf(yield* Effect.exit(inTransaction(Signal.answer(Go, { token: "x", value: "a" }))))
      expect(text).toContain("Signal.answer was called inside a transaction of the SqlClient")
      expect(text).toContain("Call start and Signal.send inside the transaction, and the others after it")
    }).pipe(waiting))
})
