import { createHash } from "node:crypto"
import { describe, expect } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, FiberRef, Option, Schema } from "effect"
import { Branch, Step, Workflow } from "perdure"
import {
  attemptsOf,
  eventually,
  gate,
  historyOf,
  inEngine,
  ledger,
  livedTwice,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn
} from "./support/harness.js"
import { stores } from "./support/stores.js"

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", {
  model: Schema.String,
  since: Schema.Date
}) {}

class Person extends Schema.Class<Person>("Person")({ name: Schema.String, born: Schema.Date }) {
  get greeting() {
    return `Hello, ${this.name}`
  }
}

/** A value whose type says less than it is, as data from elsewhere often does. */
const disguised = (value: unknown) => Effect.succeed(value as string)

describe.each(stores)("Step (%s)", (_, store) => {
  const test = testOn(store)

  describe("its record", () => {
    test("a recorded step is answered from the record and does not run again", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const ends = yield* livedTwice("wf", Effect.zipRight(stepOf("a", add), stepOf("b", add)))
        expect(entries).toEqual(["a", "b"])
        expect(ends).toEqual([Exit.succeed("b"), Exit.succeed("b")])
        expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 1!", "1 b COMPLETED 1!"])
      }).pipe(inEngine()))

    test("every plain value comes back as it was, in the first life and in the second", () =>
      Effect.gen(function*() {
        const values = ["", "text 🎉 \u2028 \0", 0, -1.5e300, true, null, [], {}, [[null]], { a: { b: [1, "2"] } }, {
          __proto__x: 1,
          "": 2,
          "a.b": 3
        }]
        const ends = yield* livedTwice(
          "wf",
          Effect.forEach(values, (value) => Effect.succeed(value).pipe(Step.durable("value")))
        )
        expect(ends).toEqual([Exit.succeed(values), Exit.succeed(values)])
      }).pipe(inEngine()))

    test("undefined comes back as undefined", () =>
      Effect.gen(function*() {
        const ends = yield* livedTwice("wf", Effect.void.pipe(Step.durable("nothing"), Effect.map((value) => [value])))
        expect(ends).toEqual([Exit.succeed([undefined]), Exit.succeed([undefined])])
      }).pipe(inEngine()))

    test("the first life gets the decoded record too: fields that are undefined are gone, and -0 is 0", () =>
      Effect.gen(function*() {
        const value = { kept: 1, dropped: undefined as number | undefined, zero: -0 }
        const ends = yield* livedTwice("wf", Effect.succeed(value).pipe(Step.durable("value")))
        for (const end of ends) {
          const got = yield* end
          expect(Object.keys(got)).toEqual(["kept", "zero"])
          expect(Object.is(got.zero, 0)).toBe(true)
        }
      }).pipe(inEngine()))

    test("what is done to the value after the step has ended does not reach the body", () =>
      Effect.gen(function*() {
        const original = { items: ["a"] }
        const got = yield* Workflow.run(
          "wf",
          Effect.gen(function*() {
            const value = yield* Effect.succeed(original).pipe(Step.durable("value"))
            original.items.push("b")
            return value
          })
        )
        expect(got).toEqual({ items: ["a"] })
      }).pipe(inEngine()))

    test("a schema carries what JSON cannot: dates, options, classes", () =>
      Effect.gen(function*() {
        const born = new Date("1815-12-10T00:00:00.000Z")
        const ends = yield* livedTwice(
          "wf",
          Effect.all([
            Effect.succeed(born).pipe(Step.durable("date", { success: Schema.Date })),
            Effect.succeed(Option.some(born)).pipe(Step.durable("option", { success: Schema.Option(Schema.Date) })),
            Effect.succeed(Option.none<Date>()).pipe(Step.durable("none", { success: Schema.Option(Schema.Date) })),
            Effect.succeed(new Person({ name: "Ada", born })).pipe(Step.durable("class", { success: Person })),
            Effect.succeed(5n).pipe(Step.durable("bigint", { success: Schema.BigInt }))
          ])
        )
        for (const end of ends) {
          const [date, some, none, person, big] = yield* end
          expect(date).toEqual(born)
          expect(some).toEqual(Option.some(born))
          expect(none).toEqual(Option.none())
          expect(person).toBeInstanceOf(Person)
          expect(person.greeting).toBe("Hello, Ada")
          expect(big).toBe(5n)
        }
        expect((yield* historyOf("wf")).map((row) => row.output)).toEqual([
          "\"1815-12-10T00:00:00.000Z\"",
          "{\"_tag\":\"Some\",\"value\":\"1815-12-10T00:00:00.000Z\"}",
          "{\"_tag\":\"None\"}",
          "{\"name\":\"Ada\",\"born\":\"1815-12-10T00:00:00.000Z\"}",
          "\"5\""
        ])
      }).pipe(inEngine()))

    test("a schema may need a service, which the step's schema asks of the context", () =>
      Effect.gen(function*() {
        class Prefix extends Context.Tag("Prefix")<Prefix, string>() {}
        const Prefixed = Schema.transformOrFail(Schema.String, Schema.String, {
          strict: true,
          decode: (stored) => Effect.map(Prefix, (prefix) => stored.slice(prefix.length)),
          encode: (value) => Effect.map(Prefix, (prefix) => prefix + value)
        })
        const ends = yield* livedTwice("wf", Effect.succeed("value").pipe(Step.durable("a", { success: Prefixed })))
          .pipe(
            Effect.provideService(Prefix, "secret:")
          )
        expect(ends).toEqual([Exit.succeed("value"), Exit.succeed("value")])
        expect((yield* historyOf("wf")).map((row) => row.output)).toEqual(["\"secret:value\""])
      }).pipe(inEngine()))

    test("a typed failure is recorded and comes back as it was", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const error = new OutOfStock({ model: "MB-1", since: new Date(0) })
        const ends = yield* livedTwice(
          "wf",
          add("ran").pipe(
            Effect.zipRight(Effect.fail(error)),
            Step.durable("order", { error: OutOfStock }),
            Effect.either
          )
        )
        for (const end of ends) {
          const either = yield* end
          expect(either._tag).toBe("Left")
          if (either._tag === "Left") {
            expect(either.left).toBeInstanceOf(OutOfStock)
            expect(either.left).toEqual(error)
          }
        }
        expect(entries).toEqual(["ran"])
        expect(yield* stepsOf("wf")).toEqual(["0 order FAILED 1!"])
      }).pipe(inEngine()))

    test("a failure of undefined comes back as undefined", () =>
      Effect.gen(function*() {
        const ends = yield* livedTwice(
          "wf",
          Effect.fail(undefined).pipe(Step.durable("a", { error: Schema.Undefined }), Effect.flip, Effect.map(String))
        )
        expect(ends).toEqual([Exit.succeed("undefined"), Exit.succeed("undefined")])
      }).pipe(inEngine()))

    test("the forms are one: pipeable, data-first and Step.make leave the same record", () =>
      Effect.gen(function*() {
        const error = Schema.String
        yield* Workflow.run(
          "wf",
          Effect.gen(function*() {
            yield* Effect.succeed(1).pipe(Step.durable("a"))
            yield* Step.durable(Effect.succeed(1), "a")
            yield* Step.make({ id: "a", execute: Effect.succeed(1) })
            yield* Effect.flip(Effect.fail("e").pipe(Step.durable("b", { error, fingerprint: "f" })))
            yield* Effect.flip(Step.durable(Effect.fail("e"), "b", { error, fingerprint: "f" }))
            yield* Effect.flip(Step.make({ id: "b", error, fingerprint: "f", execute: Effect.fail("e") }))
          })
        )
        const rows = (yield* historyOf("wf")).map(({ error, fingerprint, output, status, stepId }) => [
          stepId,
          status,
          output,
          error,
          fingerprint
        ])
        const a = ["a", "COMPLETED", "1", null, null]
        const b = ["b", "FAILED", null, "\"e\"", "f"]
        expect(rows).toEqual([a, a, a, b, b, b])
      }).pipe(inEngine()))

    test("a loop gives each turn a key of its own under one step id", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.forEach([10, 20, 30], (n) => Effect.as(add(String(n)), n).pipe(Step.durable("fetch")))
        const ends = yield* livedTwice("wf", body)
        expect(ends).toEqual([Exit.succeed([10, 20, 30]), Exit.succeed([10, 20, 30])])
        expect(entries).toEqual(["10", "20", "30"])
        const rows = yield* historyOf("wf")
        expect(rows.map((row) => row.stepKey)).toEqual(["wf:0", "wf:1", "wf:2"])
        expect(rows.map((row) => row.sequence)).toEqual([0, 1, 2])
        expect(rows.map((row) => row.position)).toEqual([0, 1, 2])
        expect(new Set(rows.map((row) => row.stepId))).toEqual(new Set(["fetch"]))
      }).pipe(inEngine()))

    test("the same step value used twice is two steps", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const same = stepOf("same", add)
        yield* Workflow.run("wf", Effect.zip(same, same))
        expect(entries).toEqual(["same", "same"])
        expect(yield* recorded("wf")).toEqual(["0 same", "1 same"])
      }).pipe(inEngine()))
  })

  describe("what cannot be recorded", () => {
    const cyclic: { self?: unknown } = {}
    cyclic.self = cyclic

    const hole = [1, , 3]
    const cases: ReadonlyArray<readonly [what: string, value: unknown, says: string]> = [
      [
        "an instance of a class",
        new Person({ name: "Ada", born: new Date(0) }),
        "the value itself is an instance of Person"
      ],
      [
        "an instance within",
        { people: [new Person({ name: "Ada", born: new Date(0) })] },
        "people[0] is an instance of Person"
      ],
      [
        "an instance of a class without a constructor",
        Object.create(Object.create(null)),
        "is an instance of an unknown class"
      ],
      ["a Date", { at: new Date(0) }, "at is an instance of Date"],
      ["a Map", { a: { m: new Map() } }, "a.m is an instance of Map"],
      ["a Set", [new Set()], "[0] is an instance of Set"],
      ["an Error", new Error("x"), "the value itself is an instance of Error"],
      ["bytes", { b: new Uint8Array(1) }, "b is an instance of Uint8Array"],
      ["NaN", { n: Number.NaN }, "n is NaN"],
      ["Infinity", [[Infinity]], "[0][0] is Infinity"],
      ["-Infinity alone", -Infinity, "the value itself is -Infinity"],
      ["a hole", hole, "[1] is a hole"],
      ["undefined in an array", { list: [undefined] }, "list[0] is undefined"],
      ["a function", { f: () => 1 }, "f is a function"],
      ["a symbol", Symbol("s"), "the value itself is a symbol"],
      ["a key that is a symbol", { a: { [Symbol("s")]: 1 } }, "a has a key that is a symbol"],
      ["a bigint", { "odd key": 1n }, "[\"odd key\"] is a bigint"],
      ["a value that contains itself", cyclic, "may contain itself"]
    ]
    for (const [what, value, says] of cases) {
      test(`${what} stops the run, and the reason names the path`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const reason = yield* Workflow.run(
            "wf",
            disguised(value).pipe(
              Step.durable("s"),
              Effect.catchAllCause(() => add("caught")),
              Effect.zipRight(Effect.void)
            )
          ).pipe(stoppedBy("StepDied"))
          expect(reason.detail).toContain("the result of step \"s\" is not plain JSON, and there is no schema for it: ")
          expect(reason.detail).toContain(says)
          expect(entries).toEqual([])
          expect(yield* stepsOf("wf")).toEqual(["0 s FAILED 1"])
        }).pipe(inEngine()))
    }

    class Unprintable extends Error {
      override get message(): string {
        throw new Error("no message for you")
      }
    }
    const unprintable: ReadonlyArray<readonly [what: string, defect: () => unknown, says: string]> = [
      ["a bigint in an object", () => ({ n: 1n }), "[object Object]"],
      ["an error whose message throws", () => new Unprintable(), "a defect that cannot be printed"]
    ]
    for (const [what, defect, says] of unprintable) {
      test(`a defect that cannot be printed (${what}) stops the run like any other, in a step and in the body`, () =>
        Effect.gen(function*() {
          const dies = Effect.suspend(() => Effect.die(defect()))
          expect((yield* Workflow.run("step", dies.pipe(Step.durable("s"))).pipe(stoppedBy("StepDied"))).detail).toBe(
            says
          )
          expect((yield* Workflow.run("body", dies).pipe(stoppedBy("BodyDied"))).detail).toBe(says)
        }).pipe(inEngine()))
    }

    test("a value that its schema does not describe stops the run", () =>
      Effect.gen(function*() {
        const wrong = Effect.succeed(1 as unknown as string)
        const reason = yield* Workflow.run("wf", wrong.pipe(Step.durable("s", { success: Schema.String })))
          .pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain(
          "the result of step \"s\" is not what the schema describes: Expected string, actual 1"
        )
      }).pipe(inEngine()))

    test("a schema whose encoded side is no JSON stops the run", () =>
      Effect.gen(function*() {
        const sneaky = Schema.DateFromSelf as unknown as Schema.Schema<Date, string>
        const reason = yield* Workflow.run(
          "wf",
          Effect.succeed(new Date(0)).pipe(Step.durable("s", { success: sneaky })),
          {
            success: Schema.Date
          }
        ).pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain(
          "not plain JSON once encoded by its schema: the value itself is an instance of Date"
        )
      }).pipe(inEngine()))

    test("a failure that its schema does not describe stops the run", () =>
      Effect.gen(function*() {
        const wrong = Effect.fail(1 as unknown as string)
        const reason = yield* Workflow.run("wf", Effect.orDie(wrong.pipe(Step.durable("s", { error: Schema.String }))))
          .pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain("the failure of step \"s\" is not what the schema describes")
      }).pipe(inEngine()))

    test("a failure without a schema, which types have hidden, stops the run and names both ways out", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run(
          "wf",
          (Effect.fail("declined") as Effect.Effect<never>).pipe(Step.durable("s"))
        )
          .pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain("the step failed with declined")
        expect(reason.detail).toContain("Pass an `error` schema, or Effect.orDie")
      }).pipe(inEngine()))
  })

  describe("its limits", () => {
    test("a result above the limit stops the run, and nothing of it is final; with a higher limit the run goes on", () =>
      Effect.gen(function*() {
        const body = Effect.succeed("x".repeat(100)).pipe(Step.durable("big"))
        const reason = yield* Workflow.run("wf", body).pipe(
          inEngine({ limits: { value: 101 } }),
          stoppedBy("LimitExceeded")
        )
        expect(reason).toMatchObject({
          what: "the number of bytes in the outcome of step \"big\"",
          limit: 101,
          actual: 102
        })
        expect(reason.message).toContain("raise the limit in Engine.layerWith")
        expect(yield* historyOf("wf")).toEqual([])
        expect(yield* Workflow.run("wf", body).pipe(inEngine({ limits: { value: 102 } }))).toBe("x".repeat(100))
        expect(yield* stepsOf("wf")).toEqual(["0 big COMPLETED 2!"])
      }))

    test("bytes are counted, not characters", () =>
      Effect.gen(function*() {
        const body = Effect.succeed("é".repeat(10)).pipe(Step.durable("s"))
        const reason = yield* Workflow.run("wf", body).pipe(
          inEngine({ limits: { value: 21 } }),
          stoppedBy("LimitExceeded")
        )
        expect(reason.actual).toBe(22)
      }))

    test("a failure above the limit stops the run", () =>
      Effect.gen(function*() {
        const body = Effect.fail("x".repeat(100)).pipe(Step.durable("big", { error: Schema.String }), Effect.orDie)
        const reason = yield* Workflow.run("wf", body).pipe(
          inEngine({ limits: { value: 50 } }),
          stoppedBy("LimitExceeded")
        )
        expect(reason.actual).toBe(102)
      }))

    test("a history at the limit is fine, and one operation more stops the run", () =>
      Effect.gen(function*() {
        const body = (n: number) =>
          Effect.forEach(Array.from({ length: n }, (_, i) => i), () => stepOf("s"), { discard: true })
        yield* Workflow.run("fits", body(3))
        const reason = yield* Workflow.run("wf", body(4)).pipe(stoppedBy("LimitExceeded"))
        expect(reason).toMatchObject({ what: "the number of recorded operations", limit: 3, actual: 4 })
        expect(yield* recorded("wf")).toEqual(["0 s", "1 s", "2 s"])
      }).pipe(inEngine({ limits: { history: 3 } })))
  })

  describe("its id", () => {
    const refused: ReadonlyArray<readonly [what: string, id: string, says: string]> = [
      ["an empty id", "", "it is empty"],
      ["an id of 257 bytes", "x".repeat(257), "it has 257 bytes, and 256 are allowed"],
      ["an id of 129 characters with two bytes each", "é".repeat(129), "it has 258 bytes, and 256 are allowed"],
      ["an id with a NUL", "a\0b", "it contains a NUL or half a surrogate pair"],
      ["an id with half a surrogate pair", "a\uD83D", "it contains a NUL or half a surrogate pair"]
    ]
    for (const [what, id, says] of refused) {
      test(`${what} stops the run before the step runs`, () =>
        Effect.gen(function*() {
          const { add, entries } = ledger()
          const reason = yield* Workflow.run("wf", Effect.ignoreLogged(Effect.sandbox(stepOf(id, add)))).pipe(
            stoppedBy("Misplaced")
          )
          expect(reason.detail).toBe(`its step id cannot be used: ${says}`)
          expect(reason.operation).toBe(`Step.durable(${JSON.stringify(id)})`)
          expect(entries).toEqual([])
          expect(yield* stepsOf("wf")).toEqual([])
        }).pipe(inEngine()))
    }

    test("any other text is kept verbatim, and found again", () =>
      Effect.gen(function*() {
        const ids = [
          "x".repeat(256),
          "é".repeat(128),
          "👩‍👩‍👧‍👦",
          "\u202Ertl",
          "'; DROP TABLE steps; --",
          "a:b/c.0#1",
          "\n\t\r",
          " ",
          "\uFEFFbom",
          "e\u0301",
          "\u00e9",
          "~x",
          "%_\\"
        ]
        const ends = yield* livedTwice("wf", Effect.forEach(ids, (id) => stepOf(id)))
        expect(ends).toEqual([Exit.succeed(ids), Exit.succeed(ids)])
        expect((yield* historyOf("wf")).map((row) => row.stepId)).toEqual(ids)
      }).pipe(inEngine()))
  })

  describe("its death", () => {
    test("a defect stops the run out of band: the body is not told, and no step in a finalizer runs", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        let broken = true
        const body = Effect.gen(function*() {
          yield* stepOf("lock", add)
          yield* Effect.suspend(() => broken ? Effect.die(new Error("out of paper")) : add("print")).pipe(
            Step.durable("print"),
            Effect.catchAllCause(() => add("caught")),
            Effect.catchAllDefect(() => add("caught defect")),
            Effect.ensuring(stepOf("unlock", add)),
            Effect.onExit(() => stepOf("log", add))
          )
          return "done"
        })
        const reason = yield* Workflow.run("wf", body).pipe(stoppedBy("StepDied"))
        expect(reason).toMatchObject({
          workflowId: "wf",
          address: "1",
          stepId: "print",
          attempt: 1
        })
        expect(reason.detail).toContain("out of paper")
        expect(reason.message).toContain("the step runs again")
        expect(entries).toEqual(["lock"])
        expect(yield* stepsOf("wf")).toEqual(["0 lock COMPLETED 1!", "1 print FAILED 1"])
        expect((yield* attemptsOf("wf")).map(({ attempt, error, stepKey }) => [stepKey, attempt, error])).toEqual([
          ["wf:1", 1, expect.stringContaining("out of paper")]
        ])
        expect(yield* statusOf("wf")).toBe("STOPPED")

        broken = false
        expect(yield* Workflow.run("wf", body)).toBe("done")
        expect(entries).toEqual(["lock", "print", "unlock", "log"])
        expect(yield* stepsOf("wf")).toEqual([
          "0 lock COMPLETED 1!",
          "1 print COMPLETED 2!",
          "2 unlock COMPLETED 1!",
          "3 log COMPLETED 1!"
        ])
        expect(yield* rowOf("wf")).toMatchObject({
          status: "COMPLETED",
          outcome: "\"done\"",
          stopReason: null,
          owner: null
        })
      }).pipe(inEngine()))

    test("each death is an attempt of its own", () =>
      Effect.gen(function*() {
        const body = Effect.flatMap(Step.attempt, (n) => n < 4 ? Effect.die(`death ${n}`) : Effect.succeed(n)).pipe(
          Step.durable("s")
        )
        for (const attempt of [1, 2, 3]) {
          const reason = yield* Workflow.run("wf", body).pipe(stoppedBy("StepDied"))
          expect(reason.attempt).toBe(attempt)
          expect(reason.detail).toContain(`death ${attempt}`)
        }
        expect(yield* Workflow.run("wf", body)).toBe(4)
        expect((yield* attemptsOf("wf")).map((row) => row.attempt)).toEqual([1, 2, 3])
      }).pipe(inEngine()))

    test("an interruption from inside is a death", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const reason = yield* Workflow.run(
          "wf",
          Effect.interrupt.pipe(
            Step.durable("s"),
            Effect.catchAllCause(() => add("caught"))
          )
        ).pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain("it was interrupted from inside")
        expect(entries).toEqual([])
      }).pipe(inEngine()))

    test("a typed failure beside a defect is a death", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run(
          "wf",
          Effect.fail("declined").pipe(
            Effect.ensuring(Effect.die("no rollback")),
            Step.durable("s", { error: Schema.String }),
            Effect.ignore
          )
        ).pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain("no rollback")
        expect(yield* historyOf("wf")).toEqual([])
      }).pipe(inEngine()))

    test("a failure to release what the step acquired is a death", () =>
      Effect.gen(function*() {
        const reason = yield* Workflow.run(
          "wf",
          Effect.addFinalizer(() => Effect.die("cannot close")).pipe(Effect.as(1), Step.durable("s"))
        ).pipe(stoppedBy("StepDied"))
        expect(reason.detail).toContain("cannot close")
      }).pipe(inEngine()))

    test("whoever wants to handle a defect does so inside the step", () =>
      Effect.gen(function*() {
        const value = yield* Workflow.run(
          "wf",
          Effect.die("boom").pipe(
            Effect.catchAllDefect((defect) => Effect.succeed(`handled ${String(defect)}`)),
            Step.durable("s")
          )
        )
        expect(value).toBe("handled boom")
      }).pipe(inEngine()))

    test("a step that dies in one branch stops the others, and they run again after it is mended", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const other = gate()
        let broken = true
        const body = Branch.all([
          Effect.zipRight(other.begun, Effect.suspend(() => broken ? Effect.die("boom") : add("mended"))).pipe(
            Step.durable("dies")
          ),
          Effect.suspend(() => broken ? Effect.onInterrupt(other.pass, () => add("cut")) : add("again")).pipe(
            Step.durable("waits")
          )
        ], { concurrency: "unbounded", discard: true })
        yield* Workflow.run("wf", body).pipe(stoppedBy("StepDied"))
        expect(entries).toEqual(["cut"])
        broken = false
        yield* Workflow.run("wf", body)
        expect(entries.slice(1).sort()).toEqual(["again", "mended"])
        expect(yield* historyOf("wf")).toHaveLength(2)
      }).pipe(inEngine()))
  })

  describe("its inside", () => {
    test("Step.attempt is 1 at first", () =>
      Effect.gen(function*() {
        expect(yield* Workflow.run("wf", Step.attempt.pipe(Step.durable("s")))).toBe(1)
      }).pipe(inEngine()))

    test("Step.Current tells a step what it is", () =>
      Effect.gen(function*() {
        const seen = yield* Workflow.run(
          "wf",
          Branch.all([Effect.map(Step.Current, (current) => ({ ...current })).pipe(Step.durable("s"))])
        )
        expect(seen).toEqual([{
          workflowId: "wf",
          stepId: "s",
          stepKey: "wf:0.0",
          attempt: 1,
          epoch: 1,
          idempotencyKey: createHash("sha256").update("7:default2:wf1:03:0.0").digest("hex")
        }])
      }).pipe(inEngine()))

    test("its idempotency key is the same in each attempt, and its fence is higher after each takeover", () =>
      Effect.gen(function*() {
        const seen: Array<readonly [string, number]> = []
        const step = Effect.zip(Step.idempotencyKey, Step.fence).pipe(
          Effect.tap((both) => Effect.sync(() => void seen.push(both))),
          Effect.flatMap(() => seen.length === 1 ? Effect.die("once more") : Effect.void),
          Step.durable("s")
        )
        yield* Workflow.run("wf", step).pipe(stoppedBy("StepDied"))
        yield* Workflow.run("wf", step)
        yield* Workflow.run("other", Effect.zipRight(step, step))
        expect(seen.map(([, fence]) => fence)).toEqual([1, 2, 1, 1])
        const keys = seen.map(([key]) => key)
        expect(keys[0]).toMatch(/^[0-9a-f]{64}$/)
        expect(keys[1]).toBe(keys[0])
        expect(new Set(keys).size).toBe(3)
      }).pipe(inEngine()))

    test("a step within a step is part of the outer one", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const inner = Step.attempt.pipe(
          Effect.tap(() => Effect.addFinalizer(() => add("inner closed"))),
          Step.durable("inner")
        )
        const body = Effect.zipRight(
          Effect.zipWith(inner, Effect.zipLeft(Step.attempt, add("after inner")), (a, b) => a + b).pipe(
            Step.durable("outer")
          ),
          stepOf("next", add)
        )
        yield* livedTwice("wf", body)
        expect(yield* recorded("wf")).toEqual(["0 outer", "1 next"])
        expect(entries).toEqual(["inner closed", "after inner", "next"])
      }).pipe(inEngine()))

    test("a step within a step may fail with its own error, and be handled there", () =>
      Effect.gen(function*() {
        const inner = Effect.fail("no").pipe(Step.durable("inner", { error: Schema.String }))
        expect(yield* Workflow.run("wf", Effect.flip(inner).pipe(Step.durable("outer")))).toBe("no")
        expect(yield* recorded("wf")).toEqual(["0 outer"])
      }).pipe(inEngine()))

    test("each attempt has a Scope of its own, which closes when it ends", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = Effect.gen(function*() {
          const attempt = yield* Step.attempt
          yield* Effect.acquireRelease(add(`open ${attempt}`), () => add(`close ${attempt}`))
          yield* add(`use ${attempt}`)
          return yield* attempt === 1 ? Effect.die("boom") : Effect.succeed(attempt)
        }).pipe(Step.durable("s"))
        yield* Workflow.run("wf", body).pipe(stoppedBy("StepDied"))
        yield* Workflow.run("wf", Effect.zipLeft(body, add("body")))
        expect(entries).toEqual(["open 1", "use 1", "close 1", "open 2", "use 2", "close 2", "body"])
      }).pipe(inEngine()))

    test("FiberRefs that a step sets are set for the rest of the step, and not for the body", () =>
      Effect.gen(function*() {
        const ref = FiberRef.unsafeMake("outside")
        const seen = yield* Workflow.run(
          "wf",
          Effect.gen(function*() {
            yield* FiberRef.set(ref, "body")
            const inStep = yield* Effect.zipRight(
              Effect.flatMap(FiberRef.get(ref), (before) => FiberRef.set(ref, `${before}, step`)),
              FiberRef.get(ref)
            ).pipe(Step.durable("s"))
            return [inStep, yield* FiberRef.get(ref)]
          })
        )
        expect(seen).toEqual(["body, step", "body"])
      }).pipe(inEngine()))

    test("Effect's own concurrency, time and forks are at home in a step", () =>
      Effect.gen(function*() {
        const value = yield* Workflow.run(
          "wf",
          Effect.all([Effect.yieldNow(), Effect.promise(() => Promise.resolve(1)), Effect.succeed(2)], {
            concurrency: "unbounded"
          }).pipe(
            Effect.map(([, a, b]) => a + b),
            Effect.timeout("1 hour"),
            Effect.orDie,
            Effect.race(Effect.never),
            Effect.fork,
            Effect.flatMap(Fiber.join),
            Step.durable("s")
          )
        )
        expect(value).toBe(3)
      }).pipe(inEngine()))

    test("a durable operation in a fiber that outlived its step stops the run", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const stepEnded = Deferred.unsafeMake<void>(yield* Effect.fiberId)
        const reason = yield* Workflow.run(
          "wf",
          Effect.gen(function*() {
            yield* Deferred.await(stepEnded).pipe(
              Effect.zipRight(Effect.ignore(stepOf("late", add))),
              Effect.forkDaemon,
              Effect.zipRight(Effect.void),
              Step.durable("parent")
            )
            yield* Deferred.succeed(stepEnded, undefined)
            return yield* Effect.never.pipe(Step.durable("waits"))
          })
        ).pipe(stoppedBy("Misplaced"))
        expect(reason.operation).toBe("Step.durable(\"late\")")
        expect(reason.detail).toContain(
          "in a fiber that went on after step \"parent\" had ended. Wait for that fiber inside the step"
        )
        expect(entries).toEqual([])
      }).pipe(inEngine()))

    test("a step outside any run dies of a message that says where it belongs", () =>
      Effect.gen(function*() {
        const lost = stepOf("s") as Effect.Effect<string>
        const exit = yield* Effect.exit(lost)
        expect(String(exit)).toContain(
          "Step.durable(\\\"s\\\") was called outside a run. Call it in the body of a workflow, or wrap the program in Workflow.run"
        )
      }))
  })

  describe("its replay", () => {
    test("a fingerprint that no database keeps as it is stops the run before the step runs", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        for (const fingerprint of ["half a pair \ud800", "nul \0"]) {
          const reason = yield* Workflow.run(
            fingerprint.slice(0, 3),
            add("ran").pipe(Step.durable("s", { fingerprint }))
          )
            .pipe(stoppedBy("Misplaced"))
          expect(reason.detail).toBe(
            "its fingerprint cannot be used: it contains a NUL or half a surrogate pair"
          )
        }
        expect(entries).toEqual([])
      }).pipe(inEngine()))

    test("another fingerprint stops the run, and shows both", () =>
      Effect.gen(function*() {
        const body = (fingerprint: string | undefined) =>
          Effect.zipRight(
            Effect.succeed(1).pipe(Step.durable("s", fingerprint === undefined ? {} : { fingerprint })),
            Effect.die("end")
          )
        yield* Workflow.run("wf", body("v1")).pipe(stoppedBy("BodyDied"))
        const other = yield* Workflow.run("wf", body("v2")).pipe(stoppedBy("NonDeterminismError"))
        expect(other.message).toContain("> 0 step \"s\" fingerprint \"v1\"  0 step \"s\" fingerprint \"v2\"")
        const none = yield* Workflow.run("wf", body(undefined)).pipe(stoppedBy("NonDeterminismError"))
        expect(none.requested).toEqual({ address: "0", kind: "step", id: "s", fingerprint: null })
        yield* Workflow.run("wf", body("v1")).pipe(stoppedBy("BodyDied"))
      }).pipe(inEngine()))

    test("a fingerprint is compared with that of an attempt that died, too", () =>
      Effect.gen(function*() {
        const { add, entries } = ledger()
        const body = (id: string, fingerprint: string) =>
          Effect.zipRight(add(`${id} ${fingerprint}`), Effect.die("boom")).pipe(Step.durable(id, { fingerprint }))
        yield* Workflow.run("wf", body("s", "v1")).pipe(stoppedBy("StepDied"))
        const fingerprint = yield* Workflow.run("wf", body("s", "v2")).pipe(stoppedBy("NonDeterminismError"))
        expect(fingerprint).toMatchObject({ recorded: { fingerprint: "v1" }, requested: { fingerprint: "v2" } })
        const id = yield* Workflow.run("wf", body("t", "v1")).pipe(stoppedBy("NonDeterminismError"))
        expect(id).toMatchObject({ recorded: { id: "s" }, requested: { id: "t" } })
        expect(entries).toEqual(["s v1"])
      }).pipe(inEngine()))

    test("a record that its schema no longer decodes stops the run, and a schema that does lets it go on", () =>
      Effect.gen(function*() {
        const body = <A extends string | number, I extends string | number>(
          schema: Schema.Schema<A, I>,
          end: Effect.Effect<void>
        ) =>
          Effect.zipLeft(
            Effect.succeed("v1" as A).pipe(
              Step.durable("s", { success: schema as unknown as Schema.Schema<A, string> })
            ),
            end
          )
        yield* Workflow.run("wf", body(Schema.String, Effect.die("end"))).pipe(stoppedBy("BodyDied"))
        const reason = yield* Workflow.run(
          "wf",
          Effect.catchAllCause(body(Schema.Number, Effect.void), () => Effect.succeed(0))
        )
          .pipe(stoppedBy("RecordUndecodable"))
        expect(reason.record).toBe("wf:0")
        expect(reason.message).toContain("Expected number, actual \"v1\"")
        expect(reason.message).toContain("Schema.Union")
        expect(yield* Workflow.run("wf", body(Schema.Union(Schema.String, Schema.Number), Effect.void))).toBe("v1")
      }).pipe(inEngine()))

    test("a schema that throws stops its run as undecodable, which no body swallows, and no other run notices", () =>
      Effect.gen(function*() {
        const Throws = Schema.transform(Schema.String, Schema.String, {
          decode: () => {
            throw new Error("the schema threw")
          },
          encode: (text) => text
        })
        const bad = Branch.all([
          Effect.succeed("v1").pipe(Step.durable("s", { success: Throws }), Effect.catchAllCause(() => Effect.void)),
          Effect.void
        ], { concurrency: "unbounded", discard: true })
        const [reason, good] = yield* Effect.all([
          Workflow.run("bad", bad).pipe(stoppedBy("RecordUndecodable")),
          Workflow.run("good", Effect.zipRight(stepOf("a"), stepOf("b")))
        ], { concurrency: "unbounded" })
        expect(reason).toMatchObject({ record: "bad:0.0", detail: expect.stringContaining("the schema threw") })
        expect(good).toBe("b")
      }).pipe(inEngine()))

    test("a recorded failure that its schema no longer decodes stops the run, as does the lack of a schema", () =>
      Effect.gen(function*() {
        const fail = Effect.fail("declined" as never)
        const handled = <E>(self: Effect.Effect<never, E, Workflow.Run>, end: Effect.Effect<void>) =>
          Effect.zipRight(Effect.flip(self), end)
        yield* Workflow.run("wf", handled(fail.pipe(Step.durable("s", { error: Schema.String })), Effect.die("end")))
          .pipe(
            stoppedBy("BodyDied")
          )
        const other = yield* Workflow.run(
          "wf",
          handled(fail.pipe(Step.durable("s", { error: Schema.Number })), Effect.void)
        )
          .pipe(stoppedBy("RecordUndecodable"))
        expect(other.detail).toContain("Expected number, actual \"declined\"")
        const none = yield* Workflow.run("wf", handled(fail.pipe(Step.durable("s")), Effect.void)).pipe(
          stoppedBy("RecordUndecodable")
        )
        expect(none.detail).toBe("a failure is recorded, and the step has no error schema now")
        yield* Workflow.run("wf", handled(fail.pipe(Step.durable("s", { error: Schema.String })), Effect.void))
      }).pipe(inEngine()))
  })

  describe("its rows", () => {
    test("a step that takes its time is seen IN_PROGRESS", () =>
      Effect.gen(function*() {
        const { begun, open, pass } = gate()
        const fiber = yield* Effect.fork(Workflow.run(
          "wf",
          Branch.all([
            pass.pipe(Step.durable("slow")),
            Effect.zipRight(begun, Effect.void).pipe(Step.durable("quick"))
          ], { concurrency: "unbounded", discard: true })
        ))
        const rows = yield* eventually(stepsOf("wf"), (rows) => rows.length === 2)
        expect(rows).toEqual(["0.0 slow IN_PROGRESS 1", "1.0 quick COMPLETED 1!"])
        yield* open
        yield* Fiber.join(fiber)
        expect(yield* stepsOf("wf")).toEqual(["0.0 slow COMPLETED 1!", "1.0 quick COMPLETED 1!"])
      }).pipe(inEngine()))
  })
})
