import { describe, expect, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, FiberRef, Layer, Option, Schema, TestClock } from "effect"
import { Branch, Step, StepStore, Workflow } from "perdure"
import { newRun, patch, update } from "./suites/rows.js"
import {
  attemptsOf,
  eventually,
  failure,
  gate,
  historyOf,
  inEngine,
  ledger,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  steal,
  stepOf,
  stepsOf,
  stopped,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String, on: Schema.Date }) {}

type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }

const Greeting = Workflow.make({
  name: "greeting",
  payload: { name: Schema.String },
  success: Schema.String,
  error: Schema.String,
  idempotencyKey: ({ name }) => name
})

/** A workflow of one run, for what is not about ids. */
const Job = Workflow.make({
  name: "job",
  payload: {},
  success: Schema.Unknown as Schema.Schema<string | number | undefined>,
  error: Schema.String,
  idempotencyKey: () => "1"
})

const jobId = "job/1"

type JobBody = Effect.Effect<string | number | undefined, string, Workflow.Run>

/** An engine whose job has this body; runs an effect in it. */
const withJob = (body: JobBody) => inEngine({ workflows: [Job.toLayer(() => body)] })

/** A step that fails with its own error. */
const failing = (id: string, error: string) => Effect.fail(error).pipe(Step.durable(id, { error: Schema.String }))

const refusedIds: ReadonlyArray<readonly [what: string, id: string, says: string]> = [
  ["that is empty", "", "it is empty"],
  ["with a NUL", "a\0b", "it contains a NUL or half a surrogate pair"],
  ["with half a surrogate pair", "a\uDC00", "it contains a NUL or half a surrogate pair"],
  ["of 257 bytes", "x".repeat(257), "it has 257 bytes, and 256 are allowed"],
  ["of 129 characters with two bytes each", "é".repeat(129), "it has 258 bytes, and 256 are allowed"],
  ["that begins with a tilde", "~job", "ids that begin with \"~\" are kept for children"]
]

/** Writes a run as another worker, or another version of the library, has left it. */
const plant = (workflowId: string, insert: Partial<StepStore.RunInsert>, rest: Partial<StepStore.RunUpdate> = {}) =>
  Effect.flatMap(StepStore.StepStore, (store) =>
    store.commit([{
      ...newRun(workflowId, { name: "job", fingerprint: "", payload: "{}", createdAt: 0, ...insert }),
      ...rest
    }]))

const patchOf = (status: StepStore.RunStatus): StepStore.RunPatch =>
  patch({ status, outcome: null, updatedAt: 0, endedAt: null })

/** A worker of which nothing is known but that it lives, until it is told to die. */
const anotherWorker = (id: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const life = yield* Deferred.make<void>()
    const lives = yield* Deferred.make<void>()
    const fiber = yield* store.register({ id, host: "elsewhere", pid: 1, startedAt: 0 }).pipe(
      Effect.zipRight(Deferred.succeed(lives, undefined)),
      Effect.zipRight(Deferred.await(life)),
      Effect.scoped,
      Effect.fork
    )
    yield* Deferred.await(lives)
    return { dies: Effect.zipRight(Deferred.succeed(life, undefined), Fiber.join(fiber)) }
  })

describe("Workflow.make", () => {
  const refusedNames: ReadonlyArray<readonly [name: string, says: string]> = [
    ["", "it is empty"],
    ["~job", "names that begin with \"~\" are kept for the engine"],
    ["a\0", "it contains a NUL or half a surrogate pair"],
    ["x".repeat(257), "it has 257 bytes, and 256 are allowed"]
  ]
  for (const [name, says] of refusedNames) {
    it(`refuses the name ${JSON.stringify(name.slice(0, 10))}`, () => {
      expect(() => Workflow.make({ name, payload: {} })).toThrow(
        new TypeError(`The workflow name ${JSON.stringify(name)} cannot be used: ${says}`)
      )
    })
  }

  for (const version of ["", "1.0\0", "\ud800", "x".repeat(257)]) {
    it(`refuses the version ${JSON.stringify(version.slice(0, 10))}`, () => {
      expect(() => Workflow.make({ name: "job", payload: {}, version })).toThrow(
        `The version ${JSON.stringify(version)} of workflow "job" cannot be used: `
      )
    })
  }

  it("tells what it was made of", () => {
    const Versioned = Workflow.make({ name: "versioned", payload: Schema.Number, version: "2" })
    expect(Versioned.name).toBe("versioned")
    expect(Versioned.version).toBe("2")
    expect(Versioned.payloadSchema).toBe(Schema.Number)
    expect(Versioned.successSchema).toBe(Schema.Void)
    expect(Versioned.errorSchema).toBe(Schema.Never)
    expect(Greeting.version).toBeUndefined()
    expect(Schema.decodeSync(Greeting.payloadSchema)({ name: "Ada" })).toEqual({ name: "Ada" })
  })

  it("derives the id from the payload as it is with its defaults", () => {
    const Report = Workflow.make({
      name: "report",
      payload: { year: Schema.Number.pipe(Schema.propertySignature, Schema.withConstructorDefault(() => 1815)) },
      idempotencyKey: ({ year }) => String(year)
    })
    expect(Greeting.workflowId({ name: "Ada" })).toBe("greeting/Ada")
    expect(Report.workflowId({})).toBe("report/1815")
    expect(Report.workflowId({ year: 1852 })).toBe("report/1852")
    expect(Job.workflowId()).toBe("job/1")
  })

  it("derives no id where there is no idempotency key, and says so", () => {
    const Free = Workflow.make({ name: "free", payload: {} })
    expect(() => Free.workflowId()).toThrow(
      new TypeError("Workflow \"free\" has no idempotencyKey, so an id cannot be derived from a payload")
    )
  })
})

describe.each(stores)("Workflow (%s)", (_, store) => {
  const test = testOn(store)

  describe("its id", () => {
    const GreetingLive = Greeting.toLayer(({ name }, workflowId) => Effect.succeed(`${name} in ${workflowId}`))

    test("is the name and the idempotency key", () =>
      Effect.gen(function*() {
        expect(yield* Greeting.start({ name: "Ada" })).toBe("greeting/Ada")
        expect(yield* Greeting.await("greeting/Ada")).toBe("Ada in greeting/Ada")
        expect(yield* rowOf("greeting/Ada")).toMatchObject({
          name: "greeting",
          version: null,
          payload: "{\"name\":\"Ada\"}"
        })
      }).pipe(inEngine({ workflows: [GreetingLive] })))

    test("is a fresh one where there is no key", () => {
      const Free = Workflow.make({ name: "free", payload: { n: Schema.Number }, success: Schema.Number, version: "7" })
      return Effect.gen(function*() {
        const ids = yield* Effect.all([Free.start({ n: 1 }), Free.start({ n: 1 }), Free.start({ n: 2 })])
        expect(new Set(ids).size).toBe(3)
        for (const id of ids) {
          expect(id).toMatch(/^free\/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        }
        expect(yield* Effect.forEach(ids, Free.await)).toEqual([1, 1, 2])
        expect((yield* rowOf(ids[0])).version).toBe("7")
      }).pipe(inEngine({ workflows: [Free.toLayer(({ n }) => Effect.succeed(n))] }))
    })

    test("may be given by the caller, in any text", () =>
      Effect.gen(function*() {
        for (
          const workflowId of [
            "x".repeat(256),
            "é".repeat(128),
            "👩‍👩‍👧‍👦",
            "a:b/c#1",
            " ",
            "'; DROP TABLE workflows; --",
            "a~"
          ]
        ) {
          expect(yield* Greeting.execute({ name: "Ada" }, { workflowId })).toBe(`Ada in ${workflowId}`)
          expect(yield* Greeting.poll(workflowId)).toEqual(
            Option.some({ _tag: "COMPLETED", value: `Ada in ${workflowId}` })
          )
        }
      }).pipe(inEngine({ workflows: [GreetingLive] })))

    for (const [what, id, says] of refusedIds) {
      test(`${what} is refused, and nothing is started`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const errors = yield* Effect.all([
            failure(Greeting.start({ name: "Ada" }, { workflowId: id })),
            failure(Greeting.execute({ name: "Ada" }, { workflowId: id })),
            failure(Workflow.run(id, add("ran")))
          ])
          for (const error of errors) {
            expect(error).toMatchObject({ _tag: "WorkflowIdInvalid", workflowId: id, problem: says })
            expect((error as Error).message).toBe(
              `The workflow id ${JSON.stringify(id.slice(0, 64))} cannot be used: ${says}`
            )
          }
          expect(entries).toEqual([])
          const store = yield* StepStore.StepStore
          expect(yield* store.runs({ after: null, limit: 10 })).toEqual([])
        }).pipe(inEngine({ workflows: [GreetingLive] })))
    }

    test("is refused when it is derived and too long", () =>
      Effect.gen(function*() {
        expect(yield* failure(Greeting.start({ name: "x".repeat(248) }))).toMatchObject({
          _tag: "WorkflowIdInvalid",
          problem: "it has 257 bytes, and 256 are allowed"
        })
        expect(yield* Greeting.start({ name: "x".repeat(247) })).toHaveLength(256)
      }).pipe(inEngine({ workflows: [GreetingLive] })))
  })

  describe("the same id", () => {
    test("attaches to the run while it runs", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const body = Effect.zipRight(add("ran"), Effect.as(pass, "done").pipe(Step.durable("s")))
        yield* Effect.gen(function*() {
          const first = yield* Effect.fork(Job.execute())
          yield* begun
          const second = yield* Effect.fork(Job.execute())
          expect(yield* Job.start()).toBe(jobId)
          yield* turns(5)
          yield* open
          expect([yield* Fiber.join(first), yield* Fiber.join(second), yield* Job.await(jobId)]).toEqual([
            "done",
            "done",
            "done"
          ])
        }).pipe(withJob(body))
        expect(entries).toEqual(["ran"])
      }))

    test("started many times at once runs once", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const answers = yield* Effect.all(Array.from({ length: 20 }, () => Job.execute()), { concurrency: "unbounded" })
          .pipe(withJob(stepOf("s", add)))
        expect(new Set(answers)).toEqual(new Set(["s"]))
        expect(entries).toEqual(["s"])
      }))

    test("started again and again while the run records its steps disturbs nothing", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const ids = Array.from({ length: 30 }, (_, i) => String(i))
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Job.execute())
          yield* Effect.forEach(ids, () => Effect.zipLeft(Job.start(), turns(1)), { discard: true })
          expect(yield* Fiber.join(fiber)).toBe("done")
        }).pipe(withJob(Effect.as(Effect.forEach(ids, (id) => stepOf(id, add), { discard: true }), "done")))
        expect(entries).toEqual(ids)
        expect(yield* rowOf(jobId)).toMatchObject({ status: "COMPLETED", epoch: 1 })
      }))

    test("answers with the record of a run that has completed, in this engine and in the next", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const twice = Effect.all([Job.execute(), Job.execute()]).pipe(withJob(stepOf("s", add)))
        expect(yield* twice).toEqual(["s", "s"])
        expect(yield* twice).toEqual(["s", "s"])
        expect(entries).toEqual(["s"])
      }))

    test("answers with the failure of a run that has failed", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const twice = Effect.all([failure(Job.execute()), failure(Job.execute())]).pipe(
          withJob(Effect.zipRight(add("ran"), Effect.fail("no")))
        )
        expect(yield* twice).toEqual(["no", "no"])
        expect(yield* twice).toEqual(["no", "no"])
        expect(entries).toEqual(["ran"])
      }))

    test("answers at once that a run is stopped, and does not run it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        yield* Effect.gen(function*() {
          const first = yield* stoppedBy("BodyDied")(Job.execute())
          const second = yield* stoppedBy("BodyDied")(Job.execute())
          expect(second).toEqual(first)
          expect(yield* stopped(Job.await(jobId))).toEqual(first)
        }).pipe(withJob(Effect.zipRight(add("ran"), Effect.die("boom"))))
        expect(entries).toEqual(["ran"])
      }))

    test("under another name is a conflict", () =>
      Effect.gen(function*() {
        yield* Job.start(undefined, { workflowId: "wf" })
        const error = yield* failure(Greeting.start({ name: "Ada" }, { workflowId: "wf" }))
        expect(error).toMatchObject({
          _tag: "WorkflowIdConflict",
          workflowId: "wf",
          existing: "job",
          requested: "greeting"
        })
        expect(error.message).toBe("The id \"wf\" belongs to a run of \"job\", not of \"greeting\"; use another id")
        expect(yield* failure(Greeting.execute({ name: "Ada" }, { workflowId: "wf" }))).toEqual(error)
      }).pipe(withJob(Effect.succeed(1))))

    test("with another payload is a conflict; the order of keys makes no other payload", () => {
      const Any = Workflow.make({ name: "any", payload: Schema.Unknown as Schema.Schema<Json> })
      return Effect.gen(function*() {
        const start = (payload: Json) => Any.start(payload, { workflowId: "wf" })
        yield* start({ a: 1, b: { c: [1, 2], d: null } })
        expect(yield* start({ b: { d: null, c: [1, 2] }, a: 1 })).toBe("wf")
        for (const other of [{ a: 1, b: { c: [2, 1], d: null } }, { a: 1, b: { c: [1, 2] } }, {}, []]) {
          const error = yield* failure(start(other))
          expect(error).toMatchObject({ _tag: "WorkflowIdConflict", existing: "any", requested: "any" })
          expect(error.message).toBe(
            "A run \"wf\" of \"any\" exists with another payload; use another id for this payload"
          )
        }
      }).pipe(inEngine())
    })
  })

  describe("its payload", () => {
    const Count = Workflow.make({
      name: "count",
      payload: { n: Schema.Number, on: Schema.Date, note: Schema.optional(Schema.String) },
      success: Schema.String
    })
    const CountLive = Count.toLayer(({ n, note, on }) =>
      Effect.succeed(`${n} ${on instanceof Date ? on.toISOString() : "no date"} ${note}`)
    )
    const on = new Date(0)

    test("passes through its schema, and the body gets it decoded, live and after a restart", () =>
      Effect.gen(function*() {
        yield* Count.start({ n: 1, on, note: undefined }, { workflowId: "wf" }).pipe(inEngine())
        expect((yield* rowOf("wf")).payload).toBe("{\"n\":1,\"on\":\"1970-01-01T00:00:00.000Z\"}")
        yield* Effect.gen(function*() {
          expect(yield* Count.await("wf")).toBe("1 1970-01-01T00:00:00.000Z undefined")
          expect(yield* Count.execute({ n: 2, on, note: "x" })).toBe("2 1970-01-01T00:00:00.000Z x")
        }).pipe(inEngine({ workflows: [CountLive] }))
      }))

    test("that is not what the schema describes is refused, and the error says where", () =>
      Effect.gen(function*() {
        const wrong = { n: "1", on } as unknown as { readonly n: number; readonly on: Date }
        const error = yield* failure(Count.execute(wrong))
        expect(error).toMatchObject({ _tag: "PayloadInvalid", workflow: "count" })
        expect((error as Error).message).toContain("The payload for workflow \"count\" cannot be used: ")
        expect((error as Error).message).toContain("[\"n\"]")
        expect((error as Error).message).toContain("Expected number, actual \"1\"")
        const store = yield* StepStore.StepStore
        expect(yield* store.runs({ after: null, limit: 10 })).toEqual([])
      }).pipe(inEngine({ workflows: [CountLive] })))

    test("that cannot be encoded is refused", () => {
      const Even = Workflow.make({
        name: "even",
        payload: Schema.transformOrFail(Schema.Number, Schema.Number, {
          strict: true,
          decode: Effect.succeed,
          encode: (n, _, ast) =>
            n % 2 === 0 ? Effect.succeed(n) : Effect.fail(new (class extends Error {})("odd") as never).pipe(
              Effect.mapError(() => ({ _tag: "Type", ast, actual: n, message: "it is odd" }) as never)
            )
        })
      })
      return Effect.gen(function*() {
        const error = yield* failure(Even.start(3))
        expect(error._tag).toBe("PayloadInvalid")
        expect(error.message).toContain("it is not what the schema describes")
        expect(error.message).toContain("it is odd")
        expect(yield* Even.start(4, { workflowId: "wf" })).toBe("wf")
      }).pipe(inEngine())
    })

    test("a payload that nobody can encode without dying of it is refused", () => {
      const Any = Workflow.make({ name: "any", payload: Schema.Unknown as Schema.Schema<unknown, string> })
      const value = Object.defineProperty({}, "it", {
        enumerable: true,
        get: () => {
          throw new Error("boom")
        }
      })
      return Effect.gen(function*() {
        const error = yield* failure(Any.start(value))
        expect(error._tag).toBe("PayloadInvalid")
        expect(error.message).toContain("it is not to be encoded: Error: boom")
      }).pipe(inEngine())
    })

    test("that is no JSON once encoded is refused, and the error names the path", () => {
      const Sneaky = Workflow.make({ name: "sneaky", payload: Schema.Unknown as Schema.Schema<Json> })
      return Effect.gen(function*() {
        const error = yield* failure(Sneaky.start({ list: [{ at: new Date(0) as never }] }))
        expect(error.message).toBe(
          "The payload for workflow \"sneaky\" cannot be used: it is not plain JSON once encoded by its schema: list[0].at is an instance of Date"
        )
      }).pipe(inEngine())
    })

    test("that is larger than allowed is refused", () =>
      Effect.gen(function*() {
        const error = yield* failure(Greeting.start({ name: "x".repeat(100) }))
        expect(error.message).toBe(
          "The payload for workflow \"greeting\" cannot be used: it is too large: it has 111 bytes once encoded, and 64 are allowed"
        )
      }).pipe(inEngine({ limits: { value: 64 } })))

    test("may be any schema: a class, a value, a union with null", () => {
      class Order extends Schema.Class<Order>("Order")({ id: Schema.String, at: Schema.Date }) {}
      const ByClass = Workflow.make({ name: "by-class", payload: Order, success: Schema.String })
      const ByValue = Workflow.make({ name: "by-value", payload: Schema.Date, success: Schema.String })
      const ByUnion = Workflow.make({
        name: "by-union",
        payload: Schema.NullOr(Schema.NonEmptyString).pipe(Schema.filter((value) => value !== "no")),
        success: Schema.String
      })
      return Effect.gen(function*() {
        expect(yield* ByClass.execute(new Order({ id: "1", at: on }))).toBe("true 1 0")
        expect(yield* ByValue.execute(on)).toBe("1970")
        expect(yield* ByUnion.execute(null)).toBe("null")
        expect(yield* ByUnion.execute("x")).toBe("x")
        expect(yield* failure(ByUnion.execute("no"))).toMatchObject({ _tag: "PayloadInvalid" })
      }).pipe(inEngine({
        workflows: [
          ByClass.toLayer((order) => Effect.succeed(`${order instanceof Order} ${order.id} ${order.at.getTime()}`)),
          ByValue.toLayer((date) => Effect.succeed(String(date.getUTCFullYear()))),
          ByUnion.toLayer((value) => Effect.succeed(String(value)))
        ]
      }))
    })

    test("that the schema in the code no longer decodes stops the run, and one that does lets it go on", () => {
      const job = (payload: Schema.Schema<any, any>) => Workflow.make({ name: "job", payload, success: Schema.String })
      return Effect.gen(function*() {
        yield* job(Schema.Number).start(1, { workflowId: "wf" }).pipe(inEngine())
        const Changed = job(Schema.String)
        const reason = yield* Changed.await("wf").pipe(
          stoppedBy("RecordUndecodable"),
          inEngine({ workflows: [Changed.toLayer(String as never)] })
        )
        expect(reason.record).toBe("payload")
        expect(reason.message).toContain("The record \"payload\" of run \"wf\" does not fit the schema in the code")
        expect(reason.message).toContain("Expected string, actual 1")
        const Mended = job(Schema.Union(Schema.String, Schema.Number))
        const result = Effect.zipRight(Mended.resume("wf"), Mended.await("wf")).pipe(
          inEngine({ workflows: [Mended.toLayer((payload) => Effect.succeed(`got ${payload}`))] })
        )
        expect(yield* result).toBe("got 1")
      })
    })
  })

  describe("its outcome", () => {
    const Dated = Workflow.make({
      name: "dated",
      payload: { fails: Schema.Boolean },
      success: Schema.Option(Schema.Date),
      error: Refused
    })
    const DatedLive = Dated.toLayer(({ fails }) =>
      fails ? Effect.fail(new Refused({ why: "closed", on: new Date(1) })) : Effect.succeed(Option.some(new Date(2)))
    )

    test("is recorded as its schema encodes it, and everybody gets it decoded", () =>
      Effect.gen(function*() {
        const value = Option.some(new Date(2))
        expect(yield* Dated.execute({ fails: false }, { workflowId: "ok" })).toEqual(value)
        expect(yield* Dated.await("ok")).toEqual(value)
        expect(yield* Dated.poll("ok")).toEqual(Option.some({ _tag: "COMPLETED", value }))
        expect((yield* rowOf("ok")).outcome).toBe("{\"_tag\":\"Some\",\"value\":\"1970-01-01T00:00:00.002Z\"}")
        const error = yield* failure(Dated.execute({ fails: true }, { workflowId: "no" }))
        expect(error).toBeInstanceOf(Refused)
        expect(error).toEqual(new Refused({ why: "closed", on: new Date(1) }))
        expect(yield* failure(Dated.await("no"))).toEqual(error)
        expect(yield* Dated.poll("no")).toEqual(Option.some({ _tag: "FAILED", error }))
        expect(JSON.parse((yield* rowOf("no")).outcome!)).toEqual({
          _tag: "Refused",
          why: "closed",
          on: "1970-01-01T00:00:00.001Z"
        })
      }).pipe(inEngine({ workflows: [DatedLive] })))

    test("may be nothing", () => {
      const Quiet = Workflow.make({ name: "quiet", payload: {}, idempotencyKey: () => "1" })
      return Effect.gen(function*() {
        expect(yield* Quiet.execute()).toBeUndefined()
        expect(yield* Quiet.execute()).toBeUndefined()
        expect(yield* rowOf("quiet/1")).toMatchObject({ status: "COMPLETED", outcome: null })
        expect(yield* Quiet.poll("quiet/1")).toEqual(Option.some({ _tag: "COMPLETED", value: undefined }))
      }).pipe(inEngine({ workflows: [Quiet.toLayer(() => Effect.void)] }))
    })

    test("that the schema in the code no longer decodes is told as a stop, and nothing is changed", () =>
      Effect.gen(function*() {
        yield* plant("bad", { name: "dated" }, { patch: { ...patchOf("COMPLETED"), outcome: "{\"_tag\":\"Maybe\"}" } })
        yield* plant("worse", { name: "dated" }, { patch: { ...patchOf("FAILED"), outcome: "1" } })
        for (const id of ["bad", "worse"]) {
          const reason = yield* stoppedBy("RecordUndecodable")(Dated.await(id))
          expect(reason).toMatchObject({ workflowId: id, record: "outcome" })
          expect(yield* Dated.poll(id)).toEqual(Option.some({ _tag: "STOPPED", reason }))
        }
        expect([yield* statusOf("bad"), yield* statusOf("worse")]).toEqual(["COMPLETED", "FAILED"])
      }).pipe(inEngine({ workflows: [DatedLive] })))

    test("is FAILED for the typed error alone; everything else stops the run", () =>
      Effect.gen(function*() {
        const oddities: ReadonlyArray<readonly [what: string, body: JobBody, says: string]> = [
          ["a defect", Effect.die(new Error("out of ink")), "out of ink"],
          [
            "a typed error beside a defect",
            Effect.ensuring(Effect.fail("no"), Effect.die("no rollback")),
            "no rollback"
          ],
          ["an interruption from inside", Effect.interrupt, "it was interrupted from inside"],
          ["a defect with a cause", Effect.die(new Error("outer", { cause: new Error("inner") })), "inner"],
          [
            "a thrown exception",
            Effect.suspend(() => {
              throw new TypeError("x is not a function")
            }),
            "x is not a function"
          ],
          [
            "a failure of another type",
            Effect.fail(1 as unknown as string),
            "its failure is not what the schema describes: Expected string, actual 1"
          ],
          [
            "a result that is no JSON",
            Effect.succeed(new Map() as never),
            "its result is not plain JSON once encoded by its schema: the value itself is an instance of Map"
          ]
        ]
        for (const [what, body, says] of oddities) {
          const reason = yield* Job.execute(undefined, { workflowId: what }).pipe(stoppedBy("BodyDied"), withJob(body))
          expect(reason.detail, what).toContain(says)
          expect(reason.message, what).toContain("Mend it, then resume the run")
          expect(yield* rowOf(what), what).toMatchObject({
            status: "STOPPED",
            outcome: null,
            owner: null,
            stopReason: reason
          })
        }
        expect(yield* Job.execute().pipe(failure, withJob(Effect.fail("no")))).toBe("no")
        expect(yield* rowOf(jobId)).toMatchObject({
          status: "FAILED",
          outcome: "\"no\"",
          owner: null,
          stopReason: null
        })
      }))

    test("that is larger than allowed stops the run, and names what is too large", () =>
      Effect.gen(function*() {
        const long = "x".repeat(100)
        const limits = { value: 50 }
        const result = yield* Job.execute().pipe(
          stoppedBy("LimitExceeded"),
          inEngine({ limits, workflows: [Job.toLayer(() => Effect.succeed(long))] })
        )
        expect(result).toMatchObject({ what: "the number of bytes in the result of the run", limit: 50, actual: 102 })
        const error = yield* Job.execute(undefined, { workflowId: "wf" }).pipe(
          stoppedBy("LimitExceeded"),
          inEngine({ limits, workflows: [Job.toLayer(() => Effect.fail(long))] })
        )
        expect(error.what).toBe("the number of bytes in the failure of the run")
        // With a higher limit both go on.
        yield* Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(withJob(Effect.succeed(long)))
      }))
  })

  describe("poll and await", () => {
    test("poll tells how a run stands", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const tag = Effect.map(Job.poll(jobId), Option.map((state) => state._tag))
        expect(yield* tag.pipe(inEngine())).toEqual(Option.none())
        yield* Job.start().pipe(inEngine())
        expect(yield* tag.pipe(inEngine())).toEqual(Option.some("PENDING"))
        yield* Effect.gen(function*() {
          yield* begun
          expect(yield* tag).toEqual(Option.some("RUNNING"))
          yield* open
          yield* Job.await(jobId)
        }).pipe(withJob(Effect.as(pass, "done").pipe(Step.durable("s"))))
        expect(yield* Job.poll(jobId).pipe(inEngine())).toEqual(Option.some({ _tag: "COMPLETED", value: "done" }))
      }))

    test("poll tells why a run has failed or is stopped", () =>
      Effect.gen(function*() {
        yield* Job.execute().pipe(failure, withJob(Effect.fail("no")))
        expect(yield* Job.poll(jobId).pipe(inEngine())).toEqual(Option.some({ _tag: "FAILED", error: "no" }))
        const reason = yield* Job.execute(undefined, { workflowId: "wf" }).pipe(
          stoppedBy("BodyDied"),
          withJob(Effect.die("boom"))
        )
        expect(yield* Job.poll("wf").pipe(inEngine())).toEqual(Option.some({ _tag: "STOPPED", reason }))
      }))

    test("poll tells what is recorded by others: cancelled, suspended, stopped without a reason", () =>
      Effect.gen(function*() {
        yield* plant("asleep", {}, { patch: patchOf("SUSPENDED") })
        expect(yield* Job.poll("asleep")).toEqual(Option.some({ _tag: "SUSPENDED" }))
        yield* plant("gone", {}, { patch: patchOf("CANCELLED") })
        expect(yield* Job.poll("gone")).toEqual(Option.some({ _tag: "CANCELLED", reason: "cancelled" }))
        yield* plant("wf", {}, { patch: patchOf("STOPPED") })
        const state = Option.getOrThrow(yield* Job.poll("wf"))
        expect(state).toMatchObject({
          _tag: "STOPPED",
          reason: { _tag: "RecordUndecodable", detail: "no reason is recorded" }
        })
        expect(yield* stopped(Job.await("wf"))).toMatchObject({ detail: "no reason is recorded" })
      }).pipe(inEngine()))

    test("a run of another workflow is not found", () =>
      Effect.gen(function*() {
        yield* Job.execute()
        expect(yield* Greeting.poll(jobId)).toEqual(Option.none())
        for (const ask of [Greeting.await(jobId), Greeting.resume(jobId), Job.await("nobody"), Job.resume("nobody")]) {
          const error = yield* failure(ask as Effect.Effect<unknown, unknown, Effect.Effect.Context<typeof ask>>)
          expect(error).toMatchObject({ _tag: "WorkflowNotFound" })
          expect((error as Error).message).toMatch(/^There is no run "(job\/1|nobody)" in this store; check the id/)
        }
      }).pipe(withJob(Effect.succeed(1))))

    test("a run of another workflow that lives here is not found", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        yield* Effect.gen(function*() {
          yield* Job.start()
          yield* begun
          expect(yield* failure(Greeting.await(jobId))).toMatchObject({ _tag: "WorkflowNotFound" })
          yield* open
          yield* Job.await(jobId)
        }).pipe(withJob(Effect.as(pass, 1).pipe(Step.durable("s"))))
      }))

    test("await waits for a run that lives in another engine", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const engine = yield* openEngine({
          workflows: [Job.toLayer(() => Effect.as(pass, "done").pipe(Step.durable("s")))]
        })
        yield* engine.run(Job.start())
        yield* begun
        const waiting = yield* Effect.fork(Job.await(jobId).pipe(withJob(Effect.die("this engine must not run it"))))
        yield* turns(20)
        yield* open
        expect(yield* Fiber.join(waiting)).toBe("done")
        yield* engine.close
      }))
  })

  describe("resume", () => {
    test("of a run that is alive changes nothing", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(Job.execute())
          yield* begun
          const before = yield* rowOf(jobId)
          yield* Job.resume(jobId)
          expect(yield* rowOf(jobId)).toEqual(before)
          yield* open
          expect(yield* Fiber.join(fiber)).toBe("done")
        }).pipe(withJob(Effect.zipRight(add("ran"), Effect.as(pass, "done").pipe(Step.durable("s")))))
        expect(entries).toEqual(["ran"])
      }))

    test("of a run that has completed changes nothing", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        yield* Effect.gen(function*() {
          yield* Job.execute()
          const before = yield* rowOf(jobId)
          yield* Job.resume(jobId)
          expect(yield* rowOf(jobId)).toEqual(before)
        }).pipe(withJob(Effect.as(add("ran"), 1)))
        expect(entries).toEqual(["ran"])
      }))

    test("of a stopped run runs the dead step again, and the others not", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.zipRight(
          stepOf("a", add),
          Effect.flatMap(Step.attempt, (n) => n === 1 ? Effect.die("boom") : add(`b ${n}`)).pipe(
            Effect.as("done"),
            Step.durable("b")
          )
        )
        yield* Effect.gen(function*() {
          yield* stoppedBy("StepDied")(Job.execute())
          yield* Job.resume(jobId)
          expect(yield* Job.await(jobId)).toBe("done")
        }).pipe(withJob(body))
        expect(entries).toEqual(["a", "b 2"])
        expect(yield* stepsOf(jobId)).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!"])
      }))

    test("by an engine that has no such workflow leaves the run to one that has", () =>
      Effect.gen(function*() {
        yield* Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.die("boom")))
        yield* Job.resume(jobId).pipe(inEngine())
        expect(yield* rowOf(jobId)).toMatchObject({ status: "PENDING", stopReason: null, owner: null })
        expect(yield* Job.await(jobId).pipe(withJob(Effect.succeed("mended")))).toBe("mended")
      }))

    test("of a failed run runs the failed step again where nothing followed it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.zipRight(
          stepOf("a", add),
          Effect.flatMap(Step.attempt, (n) =>
            Effect.zipRight(add(`b ${n}`), n === 1 ? Effect.fail("declined") : Effect.succeed("paid"))).pipe(
              Step.durable("b", { error: Schema.String })
            )
        )
        yield* Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("declined")
          expect(yield* statusOf(jobId)).toBe("FAILED")
          yield* Job.resume(jobId)
          expect(yield* Job.await(jobId)).toBe("paid")
          expect(yield* rowOf(jobId)).toMatchObject({ status: "COMPLETED", outcome: "\"paid\"" })
        }).pipe(withJob(body))
        expect(entries).toEqual(["a", "b 1", "b 2"])
        expect(yield* stepsOf(jobId)).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!"])
        expect(yield* recorded(jobId)).toEqual(["0 a", "1 b"])
      }))

    test("of a failed run whose failed step was followed, or without one, says that there is nothing to resume", () =>
      Effect.gen(function*() {
        const bodies: ReadonlyArray<readonly [string, JobBody]> = [
          [
            "followed",
            failing("pay", "declined").pipe(
              Effect.catchAll((error) => Effect.zipRight(stepOf("apologise"), Effect.fail(error)))
            )
          ],
          [
            "followed by a branch",
            failing("pay", "declined").pipe(
              Effect.catchAll((error) => Effect.zipRight(Branch.all([stepOf("apologise")]), Effect.fail(error)))
            )
          ],
          [
            "in a branch that was followed",
            Branch.all([failing("pay", "declined")]).pipe(
              Effect.catchAll((error) => Effect.zipRight(stepOf("apologise"), Effect.fail(error))),
              Effect.as(1)
            )
          ],
          [
            "in a branch that was followed by another branch",
            Branch.all([failing("pay", "declined")]).pipe(
              Effect.catchAll((error) => Effect.zipRight(Branch.all([stepOf("apologise")]), Effect.fail(error))),
              Effect.as(1)
            )
          ],
          [
            "in a branch before others, one at a time",
            Branch.all([failing("pay", "declined"), stepOf("ship")], { mode: "either" }).pipe(
              Effect.flatMap((all) => Effect.all(all)),
              Effect.as(1)
            )
          ],
          ["without a step", Effect.fail("declined")],
          ["without a failed step", Effect.zipRight(stepOf("a"), Effect.fail("declined"))]
        ]
        for (const [workflowId, body] of bodies) {
          yield* Effect.gen(function*() {
            expect(yield* failure(Job.execute(undefined, { workflowId }))).toBe("declined")
            const before = yield* stepsOf(workflowId)
            const error = yield* failure(Job.resume(workflowId))
            expect(error._tag, workflowId).toBe("NothingToResume")
            expect(error.message).toContain(`Run "${workflowId}" cannot be resumed: `)
            expect(error.message).toContain("Start a new run")
            expect(yield* stepsOf(workflowId)).toEqual(before)
            expect(yield* statusOf(workflowId)).toBe("FAILED")
          }).pipe(withJob(body))
        }
      }))

    test("of a failed run runs failed branches again, and not those that were followed or have succeeded", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const attempted = (id: string) =>
          Effect.flatMap(
            Step.attempt,
            (n) => Effect.zipRight(add(`${id} ${n}`), n === 1 ? Effect.fail(id) : Effect.succeed(id))
          ).pipe(
            Step.durable(id, { error: Schema.String })
          )
        const body = Branch.all([
          stepOf("fine", add),
          attempted("fails"),
          Effect.zipRight(Effect.flip(failing("handled", "x")), stepOf("after", add)),
          Effect.zipRight(stepOf("before", add), Branch.all([attempted("deep")])).pipe(Effect.map(([value]) => value))
        ], { concurrency: "unbounded", mode: "either" }).pipe(
          Effect.flatMap((all) => Effect.map(Effect.all(all), (values) => values.join(" ")))
        )
        yield* Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("fails")
          yield* Job.resume(jobId)
          expect(yield* Job.await(jobId)).toBe("fine fails after deep")
        }).pipe(withJob(body))
        expect([...entries].sort()).toEqual(["after", "before", "deep 1", "deep 2", "fails 1", "fails 2", "fine"])
      }))

    test("of a failed run is not kept from it by branches that were on their way, and went on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const told = gate()
        const attempted = Effect.flatMap(
          Step.attempt,
          (n) => n === 1 ? Effect.fail("declined") : Effect.succeed("paid")
        ).pipe(Step.durable("pay", { error: Schema.String }))
        const body = Branch.all([
          attempted.pipe(Effect.tapError(() => told.open)),
          Effect.zipRight(stepOf("pack", add), Effect.zipRight(told.pass, add("ship")).pipe(Step.durable("ship"))).pipe(
            Effect.zipRight(Branch.all([stepOf("label", add)])),
            Effect.as("shipped")
          )
        ], { concurrency: "unbounded", mode: "either" }).pipe(
          Effect.flatMap((all) => Effect.map(Effect.all(all), (values) => values.join()))
        )
        yield* Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("declined")
          expect([...yield* recorded(jobId)].sort()).toEqual(["0.0 pay", "1.0 pack", "1.1 ship", "1.2.0 label"])
          yield* Job.resume(jobId)
          expect(yield* Job.await(jobId)).toBe("paid,shipped")
        }).pipe(withJob(body))
        expect(entries).toEqual(["pack", "ship", "label"])
      }))

    test("asked for by several at once, of a failed run and of a stopped one, is done once", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const attempted = Effect.flatMap(
          Step.attempt,
          (n) => Effect.zipRight(add(`attempt ${n}`), n === 1 ? Effect.fail("no") : Effect.succeed("yes"))
        ).pipe(Step.durable("s", { error: Schema.String }))
        const atOnce = <A, E, R>(self: Effect.Effect<A, E, R>) =>
          Effect.all([self, self, self, self], { concurrency: "unbounded" })
        yield* Effect.gen(function*() {
          expect(yield* failure(Job.execute())).toBe("no")
          yield* atOnce(Job.resume(jobId))
          expect(yield* Job.await(jobId)).toBe("yes")
          const call = Workflow.run("wf", attempted, { error: Schema.String })
          expect(yield* failure(call)).toBe("no")
          expect(yield* atOnce(call)).toEqual(["yes", "yes", "yes", "yes"])
        }).pipe(withJob(attempted))
        expect(entries).toEqual(["attempt 1", "attempt 2", "attempt 1", "attempt 2"])
        // Where nobody drives the run at once, too.
        yield* Job.execute(undefined, { workflowId: "other" }).pipe(failure, withJob(failing("s", "no")))
        yield* atOnce(Job.resume("other")).pipe(inEngine())
        expect(yield* stepsOf("other")).toEqual(["0 s FAILED 1"])
        let broken = true
        const mended = Effect.suspend(() => broken ? Effect.die("boom") : Effect.succeed("mended")).pipe(
          Step.durable("s")
        )
        yield* Effect.gen(function*() {
          const stopped = { workflowId: "stopped" }
          yield* stoppedBy("StepDied")(Job.execute(undefined, stopped))
          broken = false
          yield* atOnce(Job.resume("stopped"))
          expect(yield* Job.await("stopped")).toBe("mended")
          expect((yield* attemptsOf("stopped")).length).toBe(1)
        }).pipe(withJob(mended))
      }))
  })

  describe("a replay by other code", () => {
    /** Lets the job stop after `before`, then replays it with `after`. */
    const changed = (before: JobBody, after: JobBody) =>
      Effect.zipRight(
        Job.execute().pipe(stoppedBy("BodyDied"), withJob(Effect.zipRight(before, Effect.die("end")))),
        Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(stoppedBy("NonDeterminismError"), withJob(after))
      )

    test("that asks for a step of another name stops, shows both beside what agreed, and overwrites nothing", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const reason = yield* changed(
          Effect.zipRight(stepOf("reserve"), stepOf("charge")),
          Effect.zipRight(stepOf("reserve", add), Effect.catchAllCause(stepOf("refund", add), () => add("caught")))
            .pipe(Effect.as(1))
        )
        const operation = (address: string, id: string) => ({ address, kind: "step", id, fingerprint: null })
        expect(reason).toMatchObject({
          recorded: operation("1", "charge"),
          requested: operation("1", "refund"),
          agreed: [operation("0", "reserve")]
        })
        expect(reason.message).toBe([
          "Run \"job/1\" was recorded by other code than this:",
          "  recorded          requested",
          "  0 step \"reserve\"  0 step \"reserve\"",
          "> 1 step \"charge\"   1 step \"refund\"",
          "                           ^^^^^^^^",
          "New code goes behind Workflow.patched(\"…\"), which is false where a run has recorded something else.",
          "Deploy code that asks for what is recorded, or give it back the input (a file, a setting) that it read then, and " +
          "resume the run"
        ].join("\n"))
        expect(entries).toEqual([])
        expect(yield* recorded(jobId)).toEqual(["0 reserve", "1 charge"])
        const again = Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(
          withJob(Effect.zipRight(stepOf("reserve", add), stepOf("charge", add)))
        )
        expect(yield* again).toBe("charge")
        expect(entries).toEqual([])
      }))

    test("that asks for another kind of operation stops", () =>
      Effect.gen(function*() {
        yield* plant("wf", {}, {
          steps: [{
            stepKey: "wf:0",
            stepId: "s",
            kind: "sleep",
            sequence: 0,
            status: "COMPLETED",
            position: 0,
            attempt: 1,
            epoch: 1,
            final: true,
            startedAt: 0,
            updatedAt: 0,
            askedAfter: -1,
            fingerprint: null,
            output: null,
            errorTag: null,
            error: null
          }]
        })
        const reason = yield* Job.await("wf").pipe(stoppedBy("NonDeterminismError"), withJob(stepOf("s")))
        expect(reason).toMatchObject({ recorded: { kind: "sleep" }, requested: { kind: "step" } })
      }))

    test("that ends before it has asked for what is recorded stops", () =>
      Effect.gen(function*() {
        const reason = yield* changed(Effect.zipRight(stepOf("a"), stepOf("b")), stepOf("a"))
        expect(reason).toMatchObject({ recorded: { address: "1", id: "b" }, requested: null })
        expect(reason.message).toContain(
          "> 1 step \"b\"  (nothing)\n              ^^^^^^^^^\nThe code does not ask for what is recorded"
        )
        const failed = Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(
          stoppedBy("NonDeterminismError"),
          withJob(Effect.zipRight(stepOf("a"), Effect.fail("no")))
        )
        expect(yield* failed).toMatchObject({ recorded: { address: "1", id: "b" }, requested: null })
        const died = Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(
          stoppedBy("BodyDied"),
          withJob(Effect.zipRight(stepOf("a"), Effect.die("boom")))
        )
        expect((yield* died).detail).toContain("boom")
      }))

    test("that shows at most the last eight operations that agreed", () =>
      Effect.gen(function*() {
        const steps = (last: string) => Effect.as(Effect.forEach([..."0123456789", last], (id) => stepOf(id)), 1)
        const reason = yield* changed(steps("a"), steps("b"))
        expect(reason.agreed.map(({ id }) => id)).toEqual([..."23456789"])
      }))

    test("that waits for something else stops after half a minute", () =>
      Effect.gen(function*() {
        yield* Job.execute().pipe(
          stoppedBy("BodyDied"),
          withJob(Effect.zipRight(Effect.zipRight(stepOf("a"), stepOf("b")), Effect.die("end")))
        )
        yield* Effect.gen(function*() {
          yield* Job.resume(jobId)
          const fiber = yield* Effect.fork(stoppedBy("NonDeterminismError")(Job.await(jobId)))
          yield* turns(20)
          yield* TestClock.adjust("29 seconds")
          yield* turns(20)
          expect(fiber.unsafePoll()).toBeNull()
          yield* TestClock.adjust("1 second")
          expect(yield* Fiber.join(fiber)).toMatchObject({ recorded: { address: "1", id: "b" }, requested: null })
        }).pipe(withJob(Effect.zipRight(stepOf("a"), Effect.never)))
      }))

    test("that asks for something at another place stops after half a minute, and shows what it asked for", () =>
      Effect.gen(function*() {
        yield* Job.execute().pipe(
          stoppedBy("BodyDied"),
          withJob(Effect.zipRight(Effect.zipRight(stepOf("a"), stepOf("b")), Effect.die("end")))
        )
        const { add, entries } = ledger()
        yield* Effect.gen(function*() {
          yield* Job.resume(jobId)
          const fiber = yield* Effect.fork(stoppedBy("NonDeterminismError")(Job.await(jobId)))
          yield* turns(20)
          yield* TestClock.adjust("30 seconds")
          expect(yield* Fiber.join(fiber)).toMatchObject({
            recorded: { address: "1", id: "b" },
            requested: { address: "1.0", id: "b" }
          })
        }).pipe(withJob(Effect.zipRight(stepOf("a"), Effect.as(Branch.all([stepOf("b", add)]), 1))))
        expect(entries).toEqual([])
      }))

    test("is given the time that the body needs for what it awaits outside a step", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        yield* Job.execute().pipe(
          stoppedBy("BodyDied"),
          withJob(Effect.zipRight(stepOf("a"), Effect.die("end")))
        )
        yield* Effect.gen(function*() {
          yield* Job.resume(jobId)
          const fiber = yield* Effect.fork(Job.await(jobId))
          yield* begun
          yield* TestClock.adjust("9 seconds")
          yield* open
          expect(yield* Fiber.join(fiber)).toBe("a")
          // The alarm that was set meanwhile concerns nobody any more.
          yield* TestClock.adjust("1 minute")
          expect(yield* statusOf(jobId)).toBe("COMPLETED")
        }).pipe(
          inEngine({
            unrequestedAfter: "10 seconds",
            workflows: [Job.toLayer(() => Effect.zipRight(pass, stepOf("a")))]
          })
        )
      }))

    test("that has another name for a step that was under way stops", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const crashed = yield* Effect.exit(Job.execute()).pipe(
          inEngine({ crashAfter: 1, workflows: [Job.toLayer(() => stepOf("charge", add))] })
        )
        expect(Exit.isFailure(crashed)).toBe(true)
        expect(yield* stepsOf(jobId)).toEqual(["0 charge IN_PROGRESS 1"])
        const reason = yield* Job.await(jobId).pipe(
          stoppedBy("NonDeterminismError"),
          withJob(stepOf("refund", add))
        )
        expect(reason).toMatchObject({
          recorded: { address: "0", id: "charge" },
          requested: { address: "0", id: "refund" }
        })
        expect(entries).toEqual([])
        yield* Effect.zipRight(Job.resume(jobId), Job.await(jobId)).pipe(withJob(stepOf("charge", add)))
        expect(yield* stepsOf(jobId)).toEqual(["0 charge COMPLETED 2!"])
      }))
  })

  describe("its body", () => {
    test("that waits for what nothing can bring stops as deadlocked", () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.fork(stoppedBy("Deadlocked")(Job.execute()))
        yield* eventually(historyOf(jobId), (rows) => rows.length === 1)
        yield* turns(20)
        yield* TestClock.adjust("299 seconds")
        yield* turns(20)
        expect(fiber.unsafePoll()).toBeNull()
        yield* TestClock.adjust("1 second")
        const reason = yield* Fiber.join(fiber)
        expect(reason.afterMillis).toBe(300_000)
        expect(reason.message).toContain("Wait inside a step, then resume the run")
      }).pipe(withJob(Effect.zipRight(stepOf("a"), Effect.never))))

    test("that stirs now and then is not deadlocked; the time counts from the last stir", () =>
      Effect.gen(function*() {
        const first = Deferred.unsafeMake<void>(yield* Effect.fiberId)
        yield* Effect.gen(function*() {
          const fiber = yield* Effect.fork(stoppedBy("Deadlocked")(Job.execute()))
          yield* eventually(historyOf(jobId), (rows) => rows.length === 1)
          yield* turns(20)
          yield* TestClock.adjust("9 seconds")
          yield* Deferred.succeed(first, undefined)
          yield* turns(20)
          yield* TestClock.adjust("1 second")
          yield* turns(20)
          expect(fiber.unsafePoll()).toBeNull()
          yield* TestClock.adjust("10 seconds")
          expect((yield* Fiber.join(fiber)).afterMillis).toBe(10_000)
        }).pipe(inEngine({
          deadlockAfter: "10 seconds",
          workflows: [
            Job.toLayer(() => Effect.zipRight(stepOf("a"), Effect.zipRight(Deferred.await(first), Effect.never)))
          ]
        }))
      }))

    test("may be woken from outside while it has one branch", () =>
      Effect.gen(function*() {
        const value = Effect.promise(() => Promise.resolve("from a promise"))
        const body = Effect.gen(function*() {
          yield* stepOf("a")
          const awaited = yield* value
          yield* Branch.all([stepOf("b"), stepOf("c")], { concurrency: "unbounded" })
          yield* Effect.yieldNow()
          return awaited
        })
        expect(yield* Job.execute().pipe(withJob(body))).toBe("from a promise")
      }))

    test("may be woken from outside by several at once while it has one branch", () =>
      Effect.gen(function*() {
        const values = [1, 2, 3].map((value) => Effect.promise(() => Promise.resolve(value)))
        const body = Effect.gen(function*() {
          const awaited = yield* Effect.all(values, { concurrency: "unbounded" })
          return yield* Effect.succeed(awaited.join()).pipe(Step.durable("a"))
        })
        expect(yield* Job.execute().pipe(withJob(body))).toBe("1,2,3")
      }))

    test("may be woken from outside in its one branch that goes on, however deep", () =>
      Effect.gen(function*() {
        const value = Effect.promise(() => Promise.resolve(1))
        const body = Branch.all([Branch.all([Effect.zipRight(value, stepOf("a"))]), stepOf("b")])
        expect(yield* Job.execute().pipe(withJob(Effect.map(body, ([[a], b]) => `${a} ${b}`)))).toBe("a b")
      }))

    test("stops where something from outside wakes a branch while the one around it waits for a step", () =>
      Effect.gen(function*() {
        const { begun, pass } = gate()
        const body = Effect.gen(function*() {
          // @effect-diagnostics-next-line runEffectInsideEffect:off
          const [bound] = yield* Branch.reserve([Effect.promise(() => Effect.runPromise(begun))])
          yield* Effect.fork(bound)
          return yield* Effect.as(pass, 1).pipe(Step.durable("a"))
        })
        const reason = yield* Job.execute().pipe(stoppedBy("Misplaced"), withJob(body))
        expect(reason.operation).toBe("A wait that no step contains")
      }))

    test("stops where something from outside wakes it while it has several branches", () =>
      Effect.gen(function*() {
        const { pass } = gate()
        const reason = yield* Job.execute().pipe(
          stoppedBy("Misplaced"),
          withJob(
            Branch.all([
              Effect.promise(() => Promise.resolve(1)),
              Effect.as(pass, 1).pipe(Step.durable("a"))
            ], { concurrency: "unbounded" }).pipe(Effect.as(1))
          )
        )
        expect(reason.operation).toBe("A wait that no step contains")
        expect(reason.detail).toContain("Wrap that effect in Step.durable")
      }))

    test("may sleep in a step, and read the clock", () =>
      Effect.gen(function*() {
        yield* TestClock.setTime(5_000)
        const fiber = yield* Effect.fork(
          Job.execute().pipe(withJob(Effect.zipRight(
            Effect.sleep("2 seconds").pipe(Step.durable("wait")),
            Effect.map(Effect.clock, (clock) => {
              expect(clock.unsafeCurrentTimeNanos()).toBe(7_000_000_000n)
              return clock.unsafeCurrentTimeMillis()
            })
          )))
        )
        yield* turns(20)
        yield* TestClock.adjust("2 seconds")
        expect(yield* Fiber.join(fiber)).toBe(7_000)
      }))

    test("of a later generation has the generation in its keys, and replays by them", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const workflowId = "a:b#2"
        yield* plant(workflowId, { status: "PENDING" }, { generation: 1, epoch: 0 })
        const body = (end: Effect.Effect<void>) =>
          Effect.zipRight(Branch.all([stepOf("a", add)]), Effect.zipLeft(stepOf("b", add), end))
        yield* Job.await(workflowId).pipe(stoppedBy("BodyDied"), withJob(body(Effect.die("end"))))
        yield* Effect.zipRight(Job.resume(workflowId), Job.await(workflowId)).pipe(withJob(body(Effect.void)))
        expect(entries).toEqual(["a", "b"])
        const store = yield* StepStore.StepStore
        const rows = (yield* store.history(workflowId, 1, { after: null, limit: 10 })).rows
        expect(rows.map((row) => row.stepKey)).toEqual(["a:b#2:1#0.0", "a:b#2:1#1"])
      }))

    test("records whole milliseconds, also where the clock of a test stands between two", () =>
      Effect.gen(function*() {
        const Free = Workflow.make({ name: "free", payload: {} })
        yield* TestClock.setTime(1_000.75)
        const id = yield* Free.start()
        expect(id).toMatch(/^free\/00000000-03e8-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/)
        expect(yield* Job.execute()).toBe("s")
        expect(yield* rowOf(jobId)).toMatchObject({ createdAt: 1_000, updatedAt: 1_000, endedAt: 1_000 })
        expect(yield* historyOf(jobId)).toMatchObject([{ startedAt: 1_000, updatedAt: 1_000 }])
      }).pipe(withJob(stepOf("s"))))

    test("has the context and the FiberRefs of the place where its layer was built, not the caller's", () =>
      Effect.gen(function*() {
        class Printer extends Context.Tag("Printer")<Printer, string>() {}
        const ref = FiberRef.unsafeMake("default")
        const live = Layer.provide(
          Job.toLayer((_, workflowId) =>
            Effect.gen(function*() {
              const inBody = `${yield* Printer} ${yield* FiberRef.get(ref)}`
              const inStep = yield* Effect.zipWith(Printer, FiberRef.get(ref), (a, b) => `${a} ${b}`).pipe(
                Step.durable("s")
              )
              const run = yield* Workflow.Run
              return `${inBody}, ${inStep}, ${run.workflowId} ${run.workflow} ${run.generation} ${workflowId}`
            })
          ),
          Layer.succeed(Printer, "laser")
        )
        const answer = Job.execute().pipe(
          Effect.locally(ref, "caller"),
          Effect.provideService(Printer, "ink"),
          inEngine({ workflows: [Layer.locally(live, ref, "layer")] })
        )
        expect(yield* answer).toBe("laser layer, laser layer, job/1 job 0 job/1")
      }))

    test("has a scope that closes when the body ends, before anybody is told", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        yield* Effect.zipLeft(Job.execute(), add("told")).pipe(
          inEngine({
            workflows: [
              Job.toLayer(() =>
                Effect.as(Effect.acquireRelease(add("open"), () => add("close")), 1).pipe(Effect.zipLeft(add("use")))
              )
            ]
          })
        )
        expect(entries).toEqual(["open", "use", "close", "told"])
      }))

    test("may not start, await, poll or resume runs outside a step; in a step it may", () =>
      Effect.gen(function*() {
        const calls: ReadonlyArray<readonly [called: string, call: Effect.Effect<unknown, unknown, any>]> = [
          ["Workflow \"greeting\" start", Greeting.start({ name: "Ada" })],
          ["Workflow \"greeting\" execute", Greeting.execute({ name: "Ada" })],
          ["Workflow \"greeting\" await", Greeting.await("greeting/Ada")],
          ["Workflow \"greeting\" poll", Greeting.poll("greeting/Ada")],
          ["Workflow \"greeting\" resume", Greeting.resume("greeting/Ada")],
          ["Workflow \"greeting\" cancel", Greeting.cancel("greeting/Ada")],
          ["Workflow.run", Workflow.run("other", Effect.void)],
          ["Workflow.run", Workflow.run("", Effect.void)]
        ]
        for (const [i, [called, call]] of calls.entries()) {
          const reason = yield* Workflow.run(`wf-${i}`, Effect.asVoid(Effect.ignore(call as Effect.Effect<unknown>)))
            .pipe(
              stoppedBy("Misplaced")
            )
          expect(reason.operation).toBe(called)
          expect(reason.detail).toMatch(/wrap it in Step.durable/i)
        }
        expect(Option.isNone(yield* Greeting.poll("greeting/Ada"))).toBe(true)
        const inStep = Workflow.run("wf", Greeting.execute({ name: "Ada" }).pipe(Effect.orDie, Step.durable("s")))
        expect(yield* inStep).toBe("Hello, Ada")
      }).pipe(inEngine({ workflows: [Greeting.toLayer(({ name }) => Effect.succeed(`Hello, ${name}`))] })))
  })

  describe("Workflow.run", () => {
    test("has the caller's context and FiberRefs, in each call those of that call", () =>
      Effect.gen(function*() {
        class Printer extends Context.Tag("Printer")<Printer, string>() {}
        const ref = FiberRef.unsafeMake("default")
        let dies = true
        const seen: Array<string> = []
        const body = Effect.gen(function*() {
          seen.push(`${yield* Printer} ${yield* FiberRef.get(ref)} ${(yield* Workflow.Run).workflow}`)
          yield* Effect.zipWith(Printer, FiberRef.get(ref), (a, b) => void seen.push(`${a} ${b}`)).pipe(
            Effect.zipRight(Effect.suspend(() => dies ? Effect.die("boom") : Effect.void)),
            Step.durable("s")
          )
        })
        const call = (value: string) =>
          Workflow.run("wf", body).pipe(Effect.provideService(Printer, value), Effect.locally(ref, value))
        yield* stoppedBy("StepDied")(call("first"))
        dies = false
        yield* call("second")
        expect(seen).toEqual(["first first ~run", "first first", "second second ~run", "second second"])
      }).pipe(inEngine()))

    test("returns the record of a completed run without running it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const call = Workflow.run("wf", Effect.as(add("ran"), new Date(3)), { success: Schema.Date })
        expect(yield* call).toEqual(new Date(3))
        expect(yield* call).toEqual(new Date(3))
        expect(entries).toEqual(["ran"])
        expect(yield* rowOf("wf")).toMatchObject({ name: "~run", outcome: "\"1970-01-01T00:00:00.003Z\"" })
      }).pipe(inEngine()))

    test("runs the failed step of a failed run again where nothing followed it", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const call = Workflow.run(
          "wf",
          Effect.flatMap(Step.attempt, (n) =>
            Effect.zipRight(add(`attempt ${n}`), n === 1 ? Effect.fail("no") : Effect.succeed("yes"))).pipe(
              Step.durable("s", { error: Schema.String })
            ),
          { error: Schema.String }
        )
        expect(yield* failure(call)).toBe("no")
        expect(yield* statusOf("wf")).toBe("FAILED")
        expect(yield* call).toBe("yes")
        expect(entries).toEqual(["attempt 1", "attempt 2"])
      }).pipe(inEngine()))

    test("returns the recorded failure of a failed run of which nothing may run again", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const call = Workflow.run("wf", Effect.zipRight(add("ran"), Effect.fail("no")), { error: Schema.String })
        expect(yield* failure(call)).toBe("no")
        expect(yield* failure(call)).toBe("no")
        expect(entries).toEqual(["ran"])
        expect(yield* statusOf("wf")).toBe("FAILED")
      }).pipe(inEngine()))

    test("stops for a failure without a schema", () =>
      Effect.gen(function*() {
        const call = Workflow.run("wf", Effect.fail("no") as Effect.Effect<never>)
        expect((yield* stoppedBy("BodyDied")(call)).detail).toContain("no")
      }).pipe(inEngine()))

    test("resumes a stopped run", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const call = (end: Effect.Effect<string>) => Workflow.run("wf", Effect.zipRight(stepOf("a", add), end))
        yield* stoppedBy("BodyDied")(call(Effect.die("boom")))
        expect(yield* call(Effect.succeed("done"))).toBe("done")
        expect(entries).toEqual(["a"])
      }).pipe(inEngine()))

    test("interrupted, gives the run up, and the next call goes on", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        const call = (second: Effect.Effect<void>) =>
          Workflow.run("wf", Effect.zipRight(stepOf("a", add), second.pipe(Step.durable("b"))))
        const fiber = yield* Effect.fork(call(Effect.onInterrupt(pass, () => add("cut"))))
        yield* begun
        yield* Fiber.interrupt(fiber)
        expect(entries).toEqual(["a", "cut"])
        expect(yield* rowOf("wf")).toMatchObject({ status: "PENDING", owner: null })
        yield* call(add("b"))
        expect(entries).toEqual(["a", "cut", "b"])
        expect(yield* recorded("wf")).toEqual(["0 a", "1 b"])
      }).pipe(inEngine()))

    test("called twice at once in one engine, runs once and answers both", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, open, pass } = gate()
        const call = Workflow.run("wf", Effect.zipRight(add("ran"), Effect.as(pass, "done").pipe(Step.durable("s"))))
        const first = yield* Effect.fork(call)
        yield* begun
        const second = yield* Effect.fork(call)
        yield* turns(20)
        expect(second.unsafePoll()).toBeNull()
        yield* open
        expect([yield* Fiber.join(first), yield* Fiber.join(second)]).toEqual(["done", "done"])
        expect(entries).toEqual(["ran"])
      }).pipe(inEngine()))

    test("called many times at the same moment, runs once and answers all", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const calls = Array.from({ length: 10 }, () => Workflow.run("wf", stepOf("s", add)))
        expect(new Set(yield* Effect.all(calls, { concurrency: "unbounded" }))).toEqual(new Set(["s"]))
        expect(entries).toEqual(["s"])
      }).pipe(inEngine()))

    test("called twice at once, goes on in the second call when the first is interrupted", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const { begun, pass } = gate()
        const first = yield* Effect.fork(
          Workflow.run("wf", Effect.zipRight(stepOf("a", add), Effect.as(pass, "first").pipe(Step.durable("b"))))
        )
        yield* begun
        const second = yield* Effect.fork(
          Workflow.run("wf", Effect.zipRight(stepOf("a", add), Effect.succeed("second").pipe(Step.durable("b"))))
        )
        yield* turns(20)
        yield* Fiber.interrupt(first)
        expect(yield* Fiber.join(second)).toBe("second")
        expect(entries).toEqual(["a"])
      }).pipe(inEngine()))

    test("waits for a run that lives in another engine, and answers with its outcome", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const engine = yield* openEngine()
        const theirs = yield* Effect.fork(
          engine.run(Workflow.run("wf", Effect.as(pass, "theirs").pipe(Step.durable("s"))))
        )
        yield* begun
        yield* Effect.gen(function*() {
          const mine = yield* Effect.fork(Workflow.run("wf", Effect.die("it lives elsewhere")))
          yield* turns(20)
          yield* open
          expect(yield* Fiber.join(theirs)).toBe("theirs")
          expect(yield* Fiber.join(mine)).toBe("theirs")
        }).pipe(inEngine())
        yield* engine.close
      }))

    test("waiting for a run elsewhere can be interrupted", () =>
      Effect.gen(function*() {
        yield* anotherWorker("theirs")
        yield* plant("wf", { name: "~run", owner: "theirs", payload: null })
        const fiber = yield* Effect.fork(Workflow.run("wf", Effect.die("it lives elsewhere")))
        yield* turns(20)
        yield* Fiber.interrupt(fiber)
        expect(yield* rowOf("wf")).toMatchObject({ status: "RUNNING", owner: "theirs", epoch: 1 })
      }).pipe(inEngine()))

    test("takes a run over when its owner dies", () =>
      Effect.gen(function*() {
        const worker = yield* anotherWorker("theirs")
        yield* plant("wf", { name: "~run", owner: "theirs", payload: null })
        const fiber = yield* Effect.fork(Workflow.run("wf", stepOf("s")))
        yield* turns(20)
        yield* TestClock.adjust("5 seconds")
        yield* turns(20)
        expect(yield* rowOf("wf")).toMatchObject({ owner: "theirs", epoch: 1 })
        yield* worker.dies
        yield* TestClock.adjust("5 seconds")
        expect(yield* Fiber.join(fiber)).toBe("s")
        expect(yield* rowOf("wf")).toMatchObject({ status: "COMPLETED", epoch: 2 })
      }).pipe(inEngine()))

    test("takes a run over at once if its owner is dead already", () =>
      Effect.gen(function*() {
        yield* plant("wf", { name: "~run", owner: "dead", payload: null })
        expect(yield* Workflow.run("wf", stepOf("s"))).toBe("s")
      }).pipe(inEngine()))

    test("and a definition do not share ids", () =>
      Effect.gen(function*() {
        yield* Job.execute()
        expect(yield* failure(Workflow.run(jobId, Effect.void))).toMatchObject({
          _tag: "WorkflowIdConflict",
          workflowId: jobId,
          existing: "job",
          requested: "~run"
        })
        yield* Workflow.run("wf", Effect.void)
        expect(yield* failure(Job.execute(undefined, { workflowId: "wf" }))).toMatchObject({
          _tag: "WorkflowIdConflict",
          workflowId: "wf",
          existing: "~run",
          requested: "job"
        })
      }).pipe(withJob(Effect.succeed(1))))

    test("that is cut off by another worker answers with the outcome that the other one records", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const fiber = yield* Effect.fork(
          Workflow.run("wf", Effect.zipRight(Effect.as(pass, "mine").pipe(Step.durable("a")), stepOf("b")))
        )
        yield* begun
        const thief = yield* steal("wf")
        yield* open
        yield* turns(20)
        expect(fiber.unsafePoll()).toBeNull()
        const store = yield* StepStore.StepStore
        yield* store.commit([
          update("wf", { epoch: 2, patch: { ...patchOf("COMPLETED"), outcome: JSON.stringify(thief) } })
        ])
        expect(yield* Fiber.join(fiber)).toBe("thief")
        expect(yield* recorded("wf")).toEqual([])
      }).pipe(inEngine()))

    test("dies of what nobody can ask for: to be cancelled", () =>
      Effect.gen(function*() {
        yield* plant("wf", { name: "~run" }, { patch: { ...patchOf("CANCELLED"), outcome: "\"deadline\"" } })
        const exit = yield* Effect.exit(Workflow.run("wf", Effect.void))
        expect(exit).toMatchObject({ cause: { _tag: "Die", defect: { _tag: "RunCancelled", reason: "deadline" } } })
      }).pipe(inEngine()))

    test("resumes after a simulated crash", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const call = Workflow.run("wf", Effect.zipRight(stepOf("a", add), stepOf("b", add)))
        const crashed = yield* Effect.exit(call)
        expect(Exit.isFailure(crashed) && Cause.pretty(crashed.cause)).toContain("CrashSimulator ended run \"wf\"")
        expect(entries).toEqual(["a"])
        expect(yield* call).toBe("b")
        expect(entries).toEqual(["a", "b"])
        expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 2!"])
        expect((yield* attemptsOf("wf")).map((row) => row.stepKey)).toEqual(["wf:1"])
      }).pipe(inEngine({ crashAfter: 2 })))

    test("outside an engine that still lives, fails and does not hang", () =>
      Effect.gen(function*() {
        const engine = yield* openEngine()
        yield* engine.close
        expect(yield* failure(engine.run(Workflow.run("wf", Effect.void)))).toMatchObject({
          _tag: "StoreUnavailable"
        })
      }))
  })
})
