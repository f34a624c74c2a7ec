import { assert } from "@effect/vitest"
import { Effect, Exit, Layer, Option, ParseResult, Schedule, Schema } from "effect"
import { Branch, Engine, Errors, PayloadCodec, Signal, Step, StepStore, Workflow } from "perdure"
import { stores } from "../support/stores.js"
import { fixedRow } from "./row.js"

type Body = Effect.Effect<unknown, unknown, Workflow.Run>

/** What a run of this body must end with: the reason for which it stops, or its own typed error. */
interface Poison {
  readonly what: string
  readonly body: Body
  readonly ends: Errors.StopReason["_tag"] | { readonly failure: string }
}

// ---------------------------------------------------------------------------------------------------------------------
// poisonous values
// ---------------------------------------------------------------------------------------------------------------------

const explode = (): never => {
  throw new Error("boom")
}

const cyclic = () => {
  const value: Record<string, unknown> = {}
  value.self = value
  return value
}

/** Whatever is done with it throws. */
const mine = () =>
  new Proxy({}, {
    get: explode,
    has: explode,
    ownKeys: explode,
    getPrototypeOf: explode,
    getOwnPropertyDescriptor: explode
  })

const deep = (levels: number) => {
  let value: unknown = 1
  for (let level = 0; level < levels; level++) {
    value = [value]
  }
  return value
}

const overflow = (n: number): number => overflow(n + 1) + 1

class Whatever {
  toJSON() {
    return explode()
  }
}

/** Results that cannot be recorded, of a step without a schema. */
const results: ReadonlyArray<readonly [what: string, value: () => unknown]> = [
  ["that contains itself", cyclic],
  ["that is a bigint", () => 1n],
  ["that is NaN", () => Number.NaN],
  ["that is infinite", () => [Number.POSITIVE_INFINITY]],
  ["with a getter that throws", () => Object.defineProperty({}, "it", { get: explode, enumerable: true })],
  ["that is a proxy which throws", mine],
  ["with a toJSON that throws", () => ({ toJSON: explode })],
  ["that is an instance with a toJSON that throws", () => new Whatever()],
  ["that is a symbol", () => Symbol("poison")],
  ["that is a function", () => explode],
  ["that is a date", () => new Date(0)],
  ["that is a map", () => new Map()],
  ["with a key that is a symbol", () => ({ [Symbol("poison")]: 1 })],
  ["that is an array with a hole", () => Array.from({ length: 2 }).fill(1, 1)],

  ["that is an array with a gap", () => [1, , 2]],
  ["that is nested too deep", () => deep(5_000)],
  ["that is nested much too deep", () => deep(1_000_000)],
  ["that is bytes", () => new Uint8Array(3)]
]

/** What is thrown in a step, or in a body. */
const thrown: ReadonlyArray<readonly [what: string, value: () => unknown]> = [
  ["undefined", () => undefined],
  ["null", () => null],
  ["a text", () => "boom"],
  ["a symbol", () => Symbol("boom")],
  ["an object without a prototype", () => Object.create(null) as unknown],
  ["an object that contains itself", cyclic],
  // Effect itself looks with `in` at what is thrown, and no fiber survives it if that throws.
  ["a proxy that throws", () => new Proxy({}, { get: explode, ownKeys: explode, getOwnPropertyDescriptor: explode })],
  ["an error whose message throws", () => Object.defineProperty(new Error(), "message", { get: explode })],
  ["an error whose stack is no text", () => Object.assign(new Error("boom"), { stack: Symbol("stack") })],
  ["an error that causes itself", () => {
    const error: Error & { cause?: unknown } = new Error("boom")
    error.cause = error
    return error
  }],
  ["an object whose toString throws", () => ({ toString: explode })],
  ["a function", () => explode]
]

// ---------------------------------------------------------------------------------------------------------------------
// poisonous schemas
// ---------------------------------------------------------------------------------------------------------------------

/** A text with a schema that does something else on one of its sides. */
const schemaThat = (sides: {
  readonly decode?: () => Effect.Effect<string, ParseResult.ParseIssue>
  readonly encode?: () => Effect.Effect<string, ParseResult.ParseIssue>
}): Schema.Schema<string, string> =>
  Schema.transformOrFail(Schema.String, Schema.String, {
    strict: true,
    decode: (text) => sides.decode === undefined ? Effect.succeed(text) : sides.decode(),
    encode: (text) => sides.encode === undefined ? Effect.succeed(text) : sides.encode()
  })

const refuses = () => ParseResult.fail(new ParseResult.Type(Schema.String.ast, "poison", "no"))

const sides: ReadonlyArray<readonly [what: string, side: () => Effect.Effect<string, ParseResult.ParseIssue>]> = [
  ["throws", explode],
  ["dies", () => Effect.die(new Error("boom"))],
  ["dies later", () => Effect.zipRight(Effect.yieldNow(), Effect.die("boom"))],
  ["refuses it", refuses],
  ["is interrupted", () => Effect.interrupt],
  ["has a promise that is rejected", () => Effect.promise(() => Promise.reject(new Error("boom")))]
]

const step = (self: Effect.Effect<unknown, unknown>, options: object = {}): Body =>
  Step.durable(self as Effect.Effect<string>, "poisonous", options as { readonly success?: Schema.Schema<string> })

const text = Effect.succeed("text")

// ---------------------------------------------------------------------------------------------------------------------
// the kinds
// ---------------------------------------------------------------------------------------------------------------------

const poisons: ReadonlyArray<Poison> = [
  ...results.map(([what, value]): Poison => ({
    what: `a step has a result ${what}`,
    body: step(Effect.sync(value)),
    ends: "StepDied"
  })),
  ...thrown.flatMap(([what, value]): ReadonlyArray<Poison> => [
    {
      what: `a step throws ${what}`,
      body: step(Effect.suspend((): Effect.Effect<never> => {
        throw value()
      })),
      ends: "StepDied"
    },
    { what: `a step dies of ${what}`, body: step(Effect.suspend(() => Effect.die(value()))), ends: "StepDied" },
    {
      what: `a promise in a step is rejected with ${what}`,
      body: step(Effect.promise(() => Promise.reject(value()))),
      ends: "StepDied"
    },
    {
      what: `a body throws ${what}`,
      body: Effect.zipRight(
        step(text),
        Effect.suspend((): Effect.Effect<never> => {
          throw value()
        })
      ),
      ends: "BodyDied"
    },
    {
      what: `a body dies of ${what} in a branch`,
      body: Branch.all([step(text), Effect.suspend(() => Effect.die(value()))], { concurrency: "unbounded" }),
      ends: "BodyDied"
    },
    {
      what: `a step without a schema for it fails with ${what}`,
      body: step(Effect.suspend(() => Effect.fail(value()))),
      ends: "StepDied"
    }
  ]),
  ...sides.flatMap(([what, side]): ReadonlyArray<Poison> => [
    {
      what: `encoding the result of a step ${what}`,
      body: step(text, { success: schemaThat({ encode: side }) }),
      ends: "StepDied"
    },
    {
      what: `decoding the result of a step ${what}`,
      body: step(text, { success: schemaThat({ decode: side }) }),
      ends: what === "is interrupted" ? "BodyDied" : "RecordUndecodable"
    },
    {
      what: `encoding the failure of a step ${what}`,
      body: step(Effect.fail("no"), { error: schemaThat({ encode: side }) }),
      ends: "StepDied"
    },
    {
      what: `decoding the failure of a step ${what}`,
      body: step(Effect.fail("no"), { error: schemaThat({ decode: side }) }),
      ends: what === "is interrupted" ? "BodyDied" : "RecordUndecodable"
    }
  ]),
  {
    what: "a step fails with another error than its schema has",
    body: step(Effect.fail(1), { error: Schema.String }),
    ends: "StepDied"
  },
  { what: "a step overflows the stack", body: step(Effect.sync(() => overflow(0))), ends: "StepDied" },
  { what: "a body overflows the stack", body: Effect.sync(() => overflow(0)), ends: "BodyDied" },
  { what: "a step interrupts itself", body: step(Effect.interrupt), ends: "StepDied" },
  { what: "a body interrupts itself", body: Effect.interrupt, ends: "BodyDied" },
  {
    what: "a step never ends, and has a timeout",
    body: step(Effect.never, { timeout: "10 millis" }),
    ends: { failure: "StepTimeout" }
  },
  { what: "a body never ends", body: Effect.never, ends: "Deadlocked" },
  {
    what: "a step has a result above the limit",
    body: step(Effect.sync(() => "x".repeat(200_000))),
    ends: "LimitExceeded"
  },
  { what: "a body has a result above the limit", body: Effect.sync(() => "x".repeat(200_000)), ends: "LimitExceeded" },
  {
    what: "a step has a failure above the limit",
    body: step(Effect.sync(() => "x".repeat(200_000)).pipe(Effect.flip), { error: Schema.String }),
    ends: "LimitExceeded"
  },
  {
    what: "a body has a result that its schema does not describe",
    body: Effect.succeed(Symbol("poison")),
    ends: "BodyDied"
  },
  {
    what: "a body fails with what its schema does not describe",
    body: Effect.fail(Symbol("poison")),
    ends: "BodyDied"
  },
  {
    what: "the condition of a retry throws",
    body: step(Effect.fail("no"), { error: Schema.String, retry: { times: 3, while: explode } }),
    ends: "StepDied"
  },
  {
    what: "the schedule of a retry throws",
    body: step(Effect.fail("no"), {
      error: Schema.String,
      retry: Schedule.recurs(3).pipe(Schedule.map(explode))
    }),
    ends: "StepDied"
  },
  {
    what: "a compensation dies",
    body: Effect.zipRight(
      Step.durable(text, "undone", { compensate: explode }),
      step(Effect.fail("no"), { error: Schema.String })
    ),
    ends: "CompensationDied"
  },
  { what: "a step has no name", body: Step.durable(text, ""), ends: "Misplaced" },
  { what: "a step has half a surrogate pair in its name", body: Step.durable(text, "a\ud800"), ends: "Misplaced" },
  { what: "a codec refuses a result", body: step(Effect.succeed("refused by the codec")), ends: "StoreCorrupt" },
  { what: "a codec dies of a result", body: step(Effect.succeed("deadly for the codec")), ends: "StoreCorrupt" }
]

/** A codec to which some texts are poison. */
const picky: PayloadCodec.PayloadCodecShape = {
  name: "picky",
  encode: (json) =>
    json.includes("deadly for the codec")
      ? Effect.die(new Error("boom"))
      : json.includes("refused by the codec")
      ? Effect.fail(new PayloadCodec.PayloadCodecError({ codec: "picky", detail: "no" }))
      : Effect.succeed(json),
  decode: (stored) => Effect.succeed(stored)
}

// ---------------------------------------------------------------------------------------------------------------------
// payloads that are poison before there is a run
// ---------------------------------------------------------------------------------------------------------------------

const Fed = Workflow.make({
  name: "fed",
  payload: { text: Schema.Unknown as Schema.Schema<unknown, string> },
  success: Schema.String
})

/** Workflows whose payloads cannot be encoded. */
const unencodable = sides.filter(([what]) => what !== "is interrupted").map(([what, encode], i) =>
  [
    what,
    Workflow.make({
      name: `unencodable-${i}`,
      payload: { text: schemaThat({ encode }) },
      success: Schema.String
    })
  ] as const
)

const Anything = Signal.make("anything", Schema.Unknown as Schema.Schema<unknown, string>)

const Undecodable = Workflow.make({
  name: "undecodable",
  payload: { text: schemaThat({ decode: explode }) },
  success: Schema.String
})

const Go = Signal.make("go", Schema.String)

const Healthy = Workflow.make({
  name: "healthy",
  payload: { n: Schema.Number },
  success: Schema.String,
  idempotencyKey: ({ n }) => String(n)
})

const HealthyLive = Healthy.toLayer(({ n }) =>
  Effect.gen(function*() {
    const before = yield* Effect.succeed(`before ${n}`).pipe(Step.durable("before"))
    const go = yield* Signal.next(Go)
    return `${before}, ${go}`
  })
)

const tagOf = (exit: Exit.Exit<unknown, unknown>): unknown => {
  if (Exit.isSuccess(exit)) {
    return `success ${String(exit.value)}`
  }
  if (exit.cause._tag !== "Fail") {
    return `a cause that is no typed error: ${exit.cause._tag}`
  }
  const { error } = exit.cause
  return error instanceof Errors.RunStopped
    ? error.reason._tag
    : { failure: (error as { readonly _tag?: unknown } | null)?._tag ?? error }
}

const trials = (store: Layer.Layer<StepStore.StepStore>) => {
  const definitions = poisons.map((poison, i) => ({
    poison,
    definition: Workflow.make({
      name: `poison-${i}`,
      payload: {},
      success: Schema.String,
      error: Schema.Union(Schema.String, Errors.StepTimeout),
      idempotencyKey: () => "1"
    })
  }))
  const layers = [
    HealthyLive,
    Fed.toLayer(() => Effect.succeed("fed")),
    Undecodable.toLayer(() => Effect.succeed("decoded")),
    ...definitions.map(({ definition, poison }) => definition.toLayer(() => poison.body as never))
  ] as ReadonlyArray<Layer.Layer<never, never, Engine.Engine>>
  return Effect.gen(function*() {
    yield* Effect.forEach([1, 2], (n) => Healthy.start({ n }))

    const surprises: Array<string> = []
    const expected = (what: string, is: unknown, should: unknown) => {
      surprises.push(...JSON.stringify(is) === JSON.stringify(should) ? [] : [`${what}: ${JSON.stringify(is)}`])
    }
    const stored = yield* StepStore.StepStore
    for (const { definition, poison: { body: _, ends, what } } of definitions) {
      const end = yield* Effect.timeoutOption(Effect.exit(definition.execute()), "3 seconds")
      expected(what, Option.getOrUndefined(Option.map(end, tagOf)), ends)
      const row = yield* Effect.flatten(stored.run(`${definition.name}/1`))
      expected(what, [row.status, row.owner], [typeof ends === "string" ? "STOPPED" : "FAILED", null])
    }
    for (const [what, value] of results) {
      expected(`a payload ${what}`, tagOf(yield* Effect.exit(Fed.execute({ text: value() }))), {
        failure: "PayloadInvalid"
      })
      const sent = Signal.send(Anything, { workflowId: "healthy/1", value: value() })
      expected(`a signal ${what}`, tagOf(yield* Effect.exit(sent)), { failure: "SignalInvalid" })
    }
    for (const [what, definition] of unencodable) {
      expected(`encoding a payload ${what}`, tagOf(yield* Effect.exit(definition.start({ text: "a" }))), {
        failure: "PayloadInvalid"
      })
    }
    expected(
      "a payload that cannot be read",
      tagOf(yield* Effect.exit(Undecodable.execute({ text: "a" }))),
      "RecordUndecodable"
    )

    // The others were there all the time, and the worker is still.
    yield* Effect.forEach([1, 2], (n) => Signal.send(Go, { workflowId: `healthy/${n}`, value: "go" }))
    for (const n of [1, 2]) {
      expected("a healthy run", yield* Healthy.await(`healthy/${n}`), `before ${n}, go`)
    }
    assert.deepStrictEqual(surprises, [])
    return poisons.length + 2 * results.length + unencodable.length + 1
  }).pipe(
    Effect.provide(
      Layer.mergeAll(Layer.empty, ...layers).pipe(
        Layer.provideMerge(Engine.layerWith({
          limits: { value: 100_000 },
          deadlockAfter: "200 millis",
          parkGrace: 0,
          shutdownGrace: 0
        })),
        Layer.provideMerge(store),
        Layer.provide(Layer.succeed(PayloadCodec.PayloadCodec, picky))
      )
    )
  )
}

fixedRow(
  {
    name: "poison",
    title: "a poisonous value, schema, step or body fails or stops its run with a typed error, and nothing else"
  },
  3,
  60,
  Effect.map(Effect.forEach(stores, ([, store]) => trials(store)), (done) => done.reduce((a, b) => a + b))
)
