import { SqlClient, SqlError } from "@effect/sql"
import type { Connection } from "@effect/sql/SqlConnection"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it } from "@effect/vitest"
import {
  Context,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Option,
  Schema,
  type Scope,
  TestClock
} from "effect"
import { Branch, Errors, MemoryStepStore, PayloadCodec, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import {
  attemptsOf,
  closing,
  eventually,
  gate,
  historyOf,
  inEngine,
  livedTwice,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  steal,
  stepOf,
  stepsOf,
  stoppedBy,
  turns
} from "./support/harness.js"
import { temporaryFile } from "./support/stores.js"

type Shared = SqlClient.SqlClient | StepStore.StepStore

const clientOf = (filename: string) => SqliteClient.layer({ filename })

/** A file that the application has a client and a table for, and a store on that client; nothing of it polls. */
const sharedLayer = Layer.orDie(Layer.unwrapScoped(Effect.map(temporaryFile, (filename) =>
  Layer.provideMerge(
    SqliteStepStore.layerClient({ synchronous: "NORMAL", pollInterval: "1 day" }),
    Layer.tap(clientOf(filename), (context) => Effect.provide(Effect.orDie(table), context))
  ))))

const table = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE entries (entry TEXT)`)

const test = (name: string, body: () => Effect.Effect<unknown, unknown, Shared | Scope.Scope>) =>
  it.scoped(name, () => Effect.provide(body(), sharedLayer))

const enter = (entry: string) =>
  Effect.orDie(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO entries VALUES (${entry})`))

const entries = Effect.flatMap(SqlClient.SqlClient, (sql) =>
  Effect.map(
    sql<{ readonly entry: string }>`SELECT entry FROM entries ORDER BY rowid`,
    (rows) => rows.map(({ entry }) => entry)
  ))

const entered = (id: string) => Effect.as(enter(id), id).pipe(Step.transaction(id))

type Transact = Effect.Effect<StepStore.TransactionEnd, Errors.StoreError, StepStore.StepStore | Scope.Scope>

/** Lets an effect use a store whose transactions are something else, made of what they are. */
const withTransact = <A, E, R>(instead: (transact: Transact) => Transact, self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const shared = store.sharedClient!
    const context = yield* Effect.context<StepStore.StepStore | Scope.Scope>()
    return yield* Effect.provideService(self, StepStore.StepStore, {
      ...store,
      sharedClient: {
        ...shared,
        transact: <R2>(transaction: StepStore.StepTransaction<R2>) =>
          Effect.flatMap(
            Effect.context<R2>(),
            (inner) => Effect.provide(instead(Effect.provide(shared.transact(transaction), inner)), context)
          )
      }
    })
  })

const withoutClient = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.mapInputContext(
    self,
    (context: Context.Context<R>) =>
      Context.omit(SqlClient.SqlClient)(context as Context.Context<R | SqlClient.SqlClient>) as Context.Context<R>
  )

/** A client whose next commits find the database busy, as many as it is told. */
const failingCommits = (sql: SqlClient.SqlClient, commits: { busy: number }) =>
  Effect.map(Effect.scoped(sql.reserve), (real) => {
    const connection: Connection = {
      ...real,
      executeRaw: (statement, values) =>
        Effect.suspend(() =>
          statement === "COMMIT" && commits.busy-- > 0
            ? Effect.fail(new SqlError.SqlError({ cause: { code: "SQLITE_BUSY" }, message: "" }))
            : real.executeRaw(statement, values)
        )
    }
    return new Proxy(sql, {
      get: (target, key) => key === "reserve" ? Effect.as(sql.reserve, connection) : Reflect.get(target, key)
    })
  })

/** A connection of its own to a file. */
const open = (filename: string) =>
  Effect.map(Layer.build(Layer.fresh(clientOf(filename))), Context.get(SqlClient.SqlClient))

describe("Step.transaction", () => {
  test("commits what its effect writes together with its record, and is answered from it", () =>
    Effect.gen(function*() {
      const body = Effect.gen(function*() {
        const one = yield* entered("one")
        const two = yield* stepOf("two")
        return [one, two, yield* entered("three")]
      })
      const [first, second] = yield* livedTwice("wf", body)
      expect(second).toEqual(first)
      expect(first).toEqual(Exit.succeed(["one", "two", "three"]))
      expect(yield* entries).toEqual(["one", "three"])
      expect(yield* stepsOf("wf")).toEqual(["0 one COMPLETED 1!", "1 two COMPLETED 1!", "2 three COMPLETED 1!"])
    }).pipe(inEngine()))

  test("is one transaction: nothing of it is seen before its end, and it holds the lock for writing", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const [main] = yield* sql<{ readonly file: string }>`SELECT file FROM pragma_database_list`
      const other = yield* open(main!.file)
      yield* other`PRAGMA busy_timeout = 0`
      const door = gate()
      const run = yield* Effect.fork(Workflow.run(
        "wf",
        Effect.zipRight(enter("in"), door.pass).pipe(Step.transaction("t"))
      ))
      yield* door.begun
      expect(yield* other`SELECT status FROM steps`).toEqual([{ status: "IN_PROGRESS" }])
      expect(yield* other`SELECT * FROM entries`).toEqual([])
      expect(Exit.isFailure(yield* Effect.exit(other`DELETE FROM entries`))).toBe(true)
      yield* door.open
      yield* Fiber.join(run)
      expect(yield* other`SELECT status FROM steps`).toEqual([{ status: "COMPLETED" }])
      expect(yield* other`SELECT * FROM entries`).toEqual([{ entry: "in" }])
    }).pipe(inEngine()))

  test("rolls back at a typed failure, which is recorded by itself", () =>
    Effect.gen(function*() {
      const body = Effect.zipRight(enter("lost"), Effect.fail("no")).pipe(
        Step.transaction("t", { error: Schema.String }),
        Effect.flip,
        Effect.tap(() => entered("kept"))
      )
      const [first, second] = yield* livedTwice("wf", body)
      expect([first, second]).toEqual([Exit.succeed("no"), Exit.succeed("no")])
      expect(yield* entries).toEqual(["kept"])
      expect(yield* stepsOf("wf")).toEqual(["0 t FAILED 1!", "1 kept COMPLETED 1!"])
    }).pipe(inEngine()))

  test("rolls back at a death, which stops the run; resumed, it runs again", () =>
    Effect.gen(function*() {
      let broken = true
      const body = Effect.zipRight(enter("x"), Effect.suspend(() => broken ? Effect.die("a bug") : Effect.succeed(1)))
        .pipe(
          Step.transaction("t")
        )
      const reason = yield* stoppedBy("StepDied")(Workflow.run("wf", body))
      expect(reason.message).toContain("a bug")
      expect(yield* entries).toEqual([])
      expect(yield* attemptsOf("wf")).toMatchObject([{ stepKey: "wf:0", attempt: 1 }])
      broken = false
      expect(yield* Workflow.run("wf", body)).toBe(1)
      expect(yield* entries).toEqual(["x"])
      expect(yield* stepsOf("wf")).toEqual(["0 t COMPLETED 2!"])
    }).pipe(inEngine()))

  test("dies when it takes too long, and names itself and the option", () =>
    Effect.gen(function*() {
      const reasonAfter = (id: string, options: { readonly timeout?: Duration.DurationInput }, millis: number) =>
        Effect.gen(function*() {
          const door = gate()
          const slow = Effect.zipRight(enter("x"), door.pass).pipe(
            Effect.as(0),
            Step.transaction("t", options)
          )
          const run = yield* Effect.fork(stoppedBy("StepDied")(Workflow.run(id, slow)))
          yield* door.begun
          yield* TestClock.adjust(millis - 1)
          yield* turns(5)
          expect(Option.isNone(yield* Fiber.poll(run))).toBe(true)
          yield* TestClock.adjust(1)
          return (yield* Fiber.join(run)).message
        })
      const usual = yield* reasonAfter("usual", {}, 5_000)
      expect(usual).toContain(`Step.transaction("t") kept its transaction open for more than 5000 ms`)
      expect(usual).toContain("its option `timeout`")
      expect(yield* reasonAfter("short", { timeout: "1 second" }, 1_000)).toContain("more than 1000 ms")
      expect(yield* entries).toEqual([])
    }).pipe(inEngine({ slowPoll: "1 hour" })))

  test("gives back nothing too large, and nothing that is not JSON", () =>
    Effect.gen(function*() {
      const large = Effect.as(enter("x"), "x".repeat(200)).pipe(Step.transaction("t"))
      yield* stoppedBy("LimitExceeded")(Workflow.run("large", Effect.asVoid(large)))
      const odd = Effect.as(enter("x"), 1n as unknown as number).pipe(Step.transaction("t"))
      yield* stoppedBy("StepDied")(Workflow.run("odd", Effect.asVoid(odd)))
      expect(yield* entries).toEqual([])
    }).pipe(inEngine({ limits: { value: 100 } })))

  test("is refused beyond the end of a history", () =>
    Effect.gen(function*() {
      const reason = yield* stoppedBy("LimitExceeded")(
        Workflow.run("wf", Effect.forEach(["1", "2", "3"], entered))
      )
      expect(reason.message).toContain("recorded operations")
      expect(yield* entries).toEqual(["1", "2"])
    }).pipe(inEngine({ limits: { history: 2 } })))

  test("contains steps, transactions and savepoints, and a start commits with it", () =>
    Effect.gen(function*() {
      const Job = Workflow.make({ name: "job", payload: {}, idempotencyKey: () => "1" })
      const body = Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* stepOf("inner")
        yield* entered("inner transaction")
        yield* Effect.ignore(sql.withTransaction(Effect.zipRight(enter("lost"), Effect.fail("no"))))
        return yield* Effect.orDie(Job.start())
      }).pipe(Step.transaction("outer"))
      expect(yield* Workflow.run("wf", body)).toBe("job/1")
      expect(yield* stepsOf("wf")).toEqual(["0 outer COMPLETED 1!"])
      expect(yield* entries).toEqual(["inner transaction"])
      expect(yield* statusOf("job/1")).toBe("PENDING")
    }).pipe(inEngine()))

  test("refuses what would wait for it, and branches", () =>
    Effect.gen(function*() {
      const Job = Workflow.make({ name: "job", payload: {}, idempotencyKey: () => "1" })
      const inside = (what: Effect.Effect<unknown, unknown, never>) =>
        Effect.zipRight(enter("x"), Effect.asVoid(Effect.orDie(what))).pipe(Step.transaction("t"))
      const engine = yield* Effect.context<never>()
      const execute = yield* stoppedBy("StepDied")(
        Workflow.run("execute", inside(Effect.provide(Job.execute() as Effect.Effect<void, unknown>, engine)))
      )
      expect(execute.message).toContain("await was called inside a transaction of the SqlClient")
      const branch = yield* stoppedBy("Misplaced")(
        Workflow.run("branch", inside(Branch.all([Effect.void]) as Effect.Effect<unknown>))
      )
      expect(branch.message).toContain("Branch.all")
      expect([yield* entries, yield* statusOf("branch")]).toEqual([[], "STOPPED"])
      const reason = yield* stoppedBy("Misplaced")(
        Workflow.run("within", entered("t").pipe(Step.durable("outer")))
      )
      expect(reason.message).toContain(`it was called inside step "outer"`)
    }).pipe(inEngine()))

  test("and every other step refuse to be called inside a transaction of the body, which would wait for their record", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const inTransaction = (id: string, step: Effect.Effect<number, never, Workflow.Run>) =>
        stoppedBy("Misplaced")(Workflow.run(id, Effect.orDie(sql.withTransaction(step))))
      const steps = [
        yield* inTransaction("step", Effect.succeed(1).pipe(Step.durable("s"))),
        yield* inTransaction("transaction", Effect.succeed(1).pipe(Step.transaction("s")))
      ]
      for (const reason of steps) {
        expect(reason.message).toContain("it was called inside a transaction of the same SqlClient")
        expect(reason.message).toContain("let the whole transaction be a Step.transaction")
      }
      expect(yield* Workflow.run("after", Effect.succeed(1).pipe(Step.durable("s")))).toBe(1)
    }).pipe(inEngine()))

  test("refuses names and fingerprints that cannot be used", () =>
    Effect.gen(function*() {
      const named = yield* stoppedBy("Misplaced")(Workflow.run("a", Effect.void.pipe(Step.transaction(""))))
      expect(named.message).toContain("its step id cannot be used")
      const printed = yield* stoppedBy("Misplaced")(
        Workflow.run("b", Effect.void.pipe(Step.transaction("t", { fingerprint: "a\0" })))
      )
      expect(printed.message).toContain("its fingerprint cannot be used")
    }).pipe(inEngine()))

  it.scoped.each(
    [
      ["memory", MemoryStepStore.layer],
      ["a file of its own", SqliteStepStore.layer({ filename: ":memory:" })]
    ] as const
  )("needs a store that shares the client: %s does not", ([, store]) =>
    Effect.gen(function*() {
      const reason = yield* stoppedBy("Misplaced")(Workflow.run("wf", Effect.void.pipe(Step.transaction("t"))))
      expect(reason.message).toContain(`Step.transaction("t")`)
      expect(reason.message).toContain("SqliteStepStore.layerClient")
    }).pipe(inEngine(), Effect.provide(store as Layer.Layer<StepStore.StepStore>)))

  test("needs the very client of the store, outside its transactions; without any in context it takes the store's", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const other = yield* open(":memory:")
      const reason = yield* stoppedBy("Misplaced")(
        Workflow.run("other", Effect.provideService(entered("t"), SqlClient.SqlClient, other))
      )
      expect(reason.message).toContain("is not the one of the store")
      expect(reason.message).toContain("SqliteStepStore.layerClient")
      const inside = yield* Effect.fork(
        stoppedBy("Misplaced")(
          Workflow.run("inside", Effect.orDie(sql.withTransaction(entered("t"))))
        )
      )
      expect((yield* Fiber.join(inside)).message).toContain("whose end its record would wait for")
      const repository = Effect.orDie(Effect.asVoid(sql`INSERT INTO entries VALUES ('captured')`))
      yield* withoutClient(Workflow.run("captured", repository.pipe(Step.transaction("t"))))
      expect(yield* entries).toEqual(["captured"])
    }).pipe(inEngine()))
})

describe("branches with transactions", () => {
  test("side by side, among other steps, replay in the order in which they were recorded", () =>
    Effect.gen(function*() {
      const body = Effect.gen(function*() {
        const order: Array<string> = []
        const noted = (id: string) => Effect.map(entered(id), (id) => void order.push(id))
        const stepped = (id: string) => Effect.map(stepOf(id), (id) => void order.push(id))
        yield* Branch.all([
          Effect.zipRight(noted("a1"), noted("a2")),
          Effect.zipRight(stepped("b1"), noted("b2")),
          Effect.forEach(["c1", "c2", "c3", "c4"], stepped),
          Effect.zipRight(noted("d1"), stepped("d2"))
        ], { concurrency: "unbounded" })
        return order
      })
      const [first, second] = yield* livedTwice("wf", body)
      expect(second).toEqual(first)
      const rows = yield* historyOf("wf")
      expect(Exit.isSuccess(first) && first.value).toEqual(rows.map((row) => row.stepId))
      expect(rows.map((row) => row.position)).toEqual(rows.map((_, position) => position))
      expect([...yield* entries].sort()).toEqual(["a1", "a2", "b2", "d1"])
    }).pipe(inEngine()))

  test("a record that waits for the transaction is told before it, as in a replay", () =>
    Effect.gen(function*() {
      const door = gate()
      const body = Effect.gen(function*() {
        const order: Array<string> = []
        yield* Branch.all([
          Effect.map(Effect.as(door.pass, "t").pipe(Step.transaction("t")), (id) => void order.push(id)),
          Effect.map(
            Effect.zipRight(door.begun, Effect.succeed("s")).pipe(Step.durable("s")),
            (id) => void order.push(id)
          )
        ], { concurrency: "unbounded" })
        return order
      })
      const lives = yield* Effect.fork(livedTwice("wf", body))
      yield* door.begun
      // The step is done, and its record waits for the connection.
      yield* turns(20)
      yield* door.open
      const [first, second] = yield* Fiber.join(lives)
      expect(first).toEqual(Exit.succeed(["s", "t"]))
      expect(second).toEqual(first)
      expect(yield* recorded("wf")).toEqual(["1.0 s", "0.0 t"])
    }).pipe(inEngine()))

  test("one that has committed may lose the race all the same, and then loses it in each replay", () =>
    Effect.gen(function*() {
      const door = gate()
      const body = Branch.race(
        Effect.zipRight(enter("t"), door.pass).pipe(Effect.as("t"), Step.transaction("t")),
        Effect.as(door.begun, "s").pipe(Step.durable("s"))
      )
      const lives = yield* Effect.fork(livedTwice("wf", body))
      yield* door.begun
      yield* turns(20)
      yield* door.open
      const [first, second] = yield* Fiber.join(lives)
      expect([first, second]).toEqual([Exit.succeed("s"), Exit.succeed("s")])
      expect(yield* entries).toEqual(["t"])
      expect(yield* stepsOf("wf")).toEqual(["0.0 t COMPLETED 1!", "1.0 s COMPLETED 1!"])
    }).pipe(inEngine()))

  test("one that loses a race leaves nothing behind", () =>
    Effect.gen(function*() {
      const slow = Effect.zipRight(enter("lost"), Effect.never).pipe(Step.transaction("slow"))
      expect(yield* Workflow.run("wf", Branch.race(entered("quick"), slow))).toBe("quick")
      expect(yield* entries).toEqual(["quick"])
      expect(yield* stepsOf("wf")).toEqual(["0.0 quick COMPLETED 1!", "1.0 slow FAILED 1"])
    }).pipe(inEngine()))
})

describe("a transaction that does not end well", () => {
  test("writes nothing if the process dies before it begins", () =>
    Effect.gen(function*() {
      const body = entered("t")
      yield* Effect.exit(Workflow.run("wf", body)).pipe(inEngine({ crashAfter: 1 }))
      expect([yield* entries, yield* stepsOf("wf")]).toEqual([[], ["0 t IN_PROGRESS 1"]])
      yield* Workflow.run("wf", body).pipe(inEngine())
      expect([yield* entries, yield* stepsOf("wf")]).toEqual([["t"], ["0 t COMPLETED 2!"]])
    }))

  test("is done again as a whole if the database is busy at its commit, and the gap in the positions harms nobody", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const commits = { busy: 0 }
      const client = yield* failingCommits(sql, commits)
      const body = Effect.gen(function*() {
        const runs = { count: 0 }
        const twice = Effect.suspend(() => {
          commits.busy = runs.count++ === 0 ? 1 : 0
          return enter("x")
        }).pipe(Effect.zipRight(stepOf("inner")), Step.transaction("t"))
        return [yield* entered("a"), yield* twice, yield* stepOf("b"), yield* entered("c")]
      })
      yield* Effect.gen(function*() {
        const lives = yield* Effect.fork(livedTwice("wf", body))
        yield* closing(Fiber.await(lives))
        const [first, second] = yield* Fiber.join(lives)
        expect([first, second]).toEqual([Exit.succeed(["a", "inner", "b", "c"]), first])
        expect((yield* historyOf("wf")).map((row) => row.position)).toEqual([0, 2, 3, 4])
      }).pipe(
        inEngine(),
        Effect.provide(Layer.provideMerge(SqliteStepStore.layerClient(), Layer.succeed(SqlClient.SqlClient, client)))
      )
      expect(yield* entries).toEqual(["a", "x", "c"])
    }))

  test("is rolled back when its run is given up, and runs again in the next life", () =>
    Effect.gen(function*() {
      const door = gate()
      const body = Effect.zipRight(enter("x"), door.pass).pipe(Step.transaction("t"))
      const engine = yield* openEngine()
      yield* Effect.fork(engine.run(Effect.exit(Workflow.run("wf", body))))
      yield* door.begun
      yield* engine.close
      expect(yield* entries).toEqual([])
      yield* door.open
      yield* Workflow.run("wf", body).pipe(inEngine())
      expect(yield* entries).toEqual(["x"])
      expect(yield* stepsOf("wf")).toEqual(["0 t COMPLETED 2!"])
    }))

  test("is not begun in a run that has stopped in the same moment, or that is to leave", () =>
    Effect.gen(function*() {
      const dies = Effect.die("a bug").pipe(Step.durable("dies"))
      const transaction = Effect.asVoid(enter("x")).pipe(Step.transaction("t"))
      yield* stoppedBy("StepDied")(Workflow.run("wf", Branch.all([dies, transaction], { concurrency: 2 })))
      expect(yield* entries).toEqual([])
      expect((yield* attemptsOf("wf")).map(({ errorTag, stepKey }) => [stepKey, errorTag])).toEqual([
        ["wf:0.0", "StepDied"]
      ])
    }).pipe(inEngine()))

  test("in flight may end before its engine does", () =>
    Effect.gen(function*() {
      const door = gate()
      const body = Effect.zipRight(
        Effect.asVoid(Effect.zipRight(enter("x"), door.pass)).pipe(Step.transaction("t")),
        stepOf("next")
      )
      const engine = yield* openEngine({ shutdownGrace: "10 seconds" })
      const call = yield* Effect.fork(Effect.flip(engine.run(Workflow.run("wf", body))))
      yield* door.begun
      const close = yield* Effect.fork(engine.close)
      yield* turns(20)
      expect(close.unsafePoll()).toBeNull()
      yield* door.open
      expect(yield* Fiber.join(close)).toBe(0)
      expect(yield* Fiber.join(call)).toMatchObject({ _tag: "StoreUnavailable" })
      expect(yield* entries).toEqual(["x"])
      expect(yield* stepsOf("wf")).toEqual(["0 t COMPLETED 1!"])
      expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null })
    }))

  test("is not begun by a worker that has lost the run", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const run: StepStore.RunIdentity = { workflowId: "none", generation: 0, epoch: 1 }
      const end = yield* store.sharedClient!.transact({
        run,
        work: Effect.die("not to be begun"),
        position: () => 0,
        committed: () => {}
      })
      expect(end).toBe("Fenced")
    }))

  test("leaves the run to whoever has taken it over meanwhile", () =>
    withTransact(
      (transact) => Effect.zipRight(Effect.orDie(steal("wf")), transact),
      Effect.gen(function*() {
        const run = yield* Effect.fork(Workflow.run("wf", entered("t")))
        yield* eventually(Effect.option(rowOf("wf")), (row) => Option.exists(row, ({ owner }) => owner === "thief"))
        yield* turns(50)
        expect([yield* entries, yield* stepsOf("wf")]).toEqual([[], ["0 t IN_PROGRESS 1"]])
        yield* Fiber.interrupt(run)
      }).pipe(inEngine())
    ))

  test("is tried again when the store can be used again", () =>
    Effect.suspend(() => {
      let failures = 2
      return withTransact(
        (transact) =>
          Effect.suspend(() =>
            failures-- > 0 ? Effect.fail(new Errors.StoreFull({ target: "it", detail: "full" })) : transact
          ),
        Effect.gen(function*() {
          const run = yield* Effect.fork(Workflow.run("wf", entered("t")))
          yield* closing(Fiber.await(run))
          expect(yield* Fiber.join(run)).toBe("t")
          expect([yield* entries, yield* stepsOf("wf")]).toEqual([["t"], ["0 t COMPLETED 3!"]])
        }).pipe(inEngine(), Effect.provide(Logger.remove(Logger.defaultLogger)))
      )
    }))

  test("is begun anew if the database has rolled it back meanwhile, whatever its effect makes of that", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const limit = (pages: number) => Effect.orDie(sql.unsafe(`PRAGMA max_page_count = ${pages}`))
      const body = Effect.gen(function*() {
        yield* enter("a")
        // Without room for it, SQLite ends the whole transaction.
        yield* Effect.ignore(sql`INSERT INTO entries VALUES (${"x".repeat(100_000)})`)
        yield* limit(1_000_000)
        return "t"
      }).pipe(Step.transaction("t"))
      yield* limit(1)
      const run = yield* Effect.fork(Workflow.run("wf", body))
      yield* closing(Fiber.await(run))
      expect(yield* Fiber.join(run)).toBe("t")
      expect((yield* entries).map((entry) => entry.slice(0, 1))).toEqual(["a", "x"])
    }).pipe(inEngine(), Effect.provide(Logger.remove(Logger.defaultLogger))))

  test("has ended with its record, whatever comes after", () =>
    withTransact(
      (transact) => Effect.zipLeft(transact, Effect.never),
      Effect.gen(function*() {
        expect(yield* Workflow.run("wf", Branch.all([entered("a"), entered("b")]))).toEqual(["a", "b"])
        expect([yield* entries, yield* stepsOf("wf")]).toEqual([
          ["a", "b"],
          ["0.0 a COMPLETED 1!", "1.0 b COMPLETED 1!"]
        ])
      }).pipe(inEngine())
    ))

  test("stops the run if its result cannot be stored", () =>
    Effect.gen(function*() {
      const codec = Layer.succeed(PayloadCodec.PayloadCodec, {
        name: "picky",
        encode: () => Effect.fail(new PayloadCodec.PayloadCodecError({ codec: "picky", detail: "no" })),
        decode: Effect.succeed
      })
      const store = Layer.fresh(Layer.provide(SqliteStepStore.layerClient(), codec))
      yield* stoppedBy("StoreCorrupt")(Workflow.run("wf", entered("t"))).pipe(inEngine(), Effect.provide(store))
      expect(yield* entries).toEqual([])
    }))

  test("is rolled back if its run has to leave before the commit", () =>
    Effect.gen(function*() {
      const body = Branch.all([
        Effect.zipRight(enter("x"), turns(5)).pipe(Effect.uninterruptible, Step.transaction("t")),
        Effect.die("a bug").pipe(Step.durable("dies"))
      ], { concurrency: "unbounded", discard: true })
      yield* stoppedBy("StepDied")(Workflow.run("wf", body))
      expect(yield* entries).toEqual([])
    }).pipe(inEngine()))

  it.scopedLive("waits while another process writes", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      yield* Effect.gen(function*() {
        yield* table
        const other = yield* open(filename)
        const run = yield* Effect.fork(withTransact(
          (transact) => Effect.zipRight(Effect.orDie(other`BEGIN IMMEDIATE`), transact),
          Workflow.run("wf", entered("t")).pipe(inEngine())
        ))
        yield* Effect.sleep("100 millis")
        expect(Option.isNone(yield* Fiber.poll(run))).toBe(true)
        yield* other`ROLLBACK`
        expect(yield* Fiber.join(run)).toBe("t")
        expect(yield* entries).toEqual(["t"])
      }).pipe(
        Effect.provide(Layer.provideMerge(SqliteStepStore.layerClient(), clientOf(filename)))
      )
    }))
})
