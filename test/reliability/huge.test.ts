import { readdirSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert } from "@effect/vitest"
import { Effect, Exit, Layer, Option, Schema } from "effect"
import { Branch, Child, Engine, Errors, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"
import { everything } from "../suites/rows.js"
import { temporaryFile } from "../suites/stores.js"
import { bundle, launch } from "../support/bundle.js"
import { eventually } from "../support/harness.js"
import { stores } from "../support/stores.js"
import { dice } from "./dice.js"
import { repeatedRow, seed } from "./row.js"

const MiB = 1024 * 1024

// ---------------------------------------------------------------------------------------------------------------------
// values near a limit
// ---------------------------------------------------------------------------------------------------------------------

/** Characters, and how many bytes each has in JSON. */
const units = [["x", 1], ["é", 2], ["€", 3], ["\u{1f600}", 4], ["\n", 2], ["\u0001", 6]] as const

/** A text of such characters, which has so many bytes as JSON with its quotes. */
const textOf = (bytes: number, unit: number) => {
  const [character, each] = units[unit % units.length]!
  const room = bytes - 2
  return character.repeat(Math.floor(room / each)) + "x".repeat(room % each)
}

/** What the JSON of `{ text }` has besides. */
const around = "{\"text\":}".length

const Text = { text: Schema.String }

const Sent = Signal.make("sent", Schema.String)

const Echo = Workflow.make({ name: "echo", payload: Text, success: Schema.Number })

const Taker = Workflow.make({ name: "taker", payload: {}, success: Schema.String })

/** Gives its token away, and takes what it is answered with. */
const Asker = Workflow.make({ name: "asker", payload: {}, success: Schema.String })

const Again = Workflow.make({ name: "again", payload: Text, success: Schema.String })

interface Size {
  readonly bytes: number
  readonly unit: number
}

const Maker = Workflow.make({
  name: "maker",
  payload: { place: Schema.String, bytes: Schema.Number, unit: Schema.Number },
  success: Schema.String,
  error: Schema.String
})

type Body = (text: () => string, size: Size) => Effect.Effect<string, string, Workflow.Run>

/** Where a run may come to such a text. */
const places: Readonly<Record<string, Body>> = {
  "a result of a step": (text) => Effect.sync(text).pipe(Step.durable("make"), Effect.as("")),
  "a failure of a step": (text) =>
    Effect.suspend(() => Effect.fail(text())).pipe(
      Step.durable("make", { error: Schema.String }),
      Effect.orElseSucceed(() => "")
    ),
  "a failed attempt at a step": (text) =>
    Effect.flatMap(Step.attempt, (attempt) => attempt > 1 ? Effect.succeed("") : Effect.fail(text())).pipe(
      Step.durable("make", { error: Schema.String, retry: { times: 1 } })
    ),
  "a result of a body": (text) => Effect.sync(text),
  "a failure of a body": (text) => Effect.suspend(() => Effect.fail(text())),
  "a payload of a child": (_, { bytes, unit }) =>
    Effect.suspend(() => Child.execute(Echo, { text: textOf(bytes - around, unit) })).pipe(Effect.orDie, Effect.as("")),
  "a payload of a child that is started": (_, { bytes, unit }) =>
    Effect.suspend(() => Child.start(Echo, { text: textOf(bytes - around, unit) })).pipe(Effect.as(""))
}

const bodied = Layer.mergeAll(
  Echo.toLayer(({ text }) => Effect.succeed(text.length)),
  Taker.toLayer(() => Signal.next(Sent)),
  Asker.toLayer(() => Effect.flatMap(Signal.token(Sent), ({ next }) => next)),
  Again.toLayer(({ text }) => {
    const [bytes, unit] = text.split(" ").map(Number)
    return unit === undefined
      ? Effect.succeed("the next generation")
      : Effect.suspend(() => Again.continueAsNew({ text: textOf(bytes! - around, unit).replaceAll(" ", "x") }))
  }),
  Maker.toLayer(({ bytes, place, unit }) => places[place]!(() => textOf(bytes, unit), { bytes, unit }))
)

const inEngine = (limits: NonNullable<Engine.Options["limits"]>) =>
  Effect.provide(Layer.provideMerge(bodied, Engine.layerWith({ shutdownGrace: 0, limits })))

/** What is told; `done` if nothing is wrong. */
const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) {
    return "done"
  }
  const error = exit.cause._tag === "Fail" ? exit.cause.error : exit.cause
  return typeof error === "string"
    ? "done"
    : (error instanceof Errors.RunStopped ? error.reason : error as { readonly _tag: string })._tag
}

/** The texts that are recorded of a run. */
const textsOf = (workflowId: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const run = yield* Effect.flatten(store.run(workflowId))
    const { generation } = run
    const rows = [
      ...(yield* store.history(workflowId, generation, everything)).rows,
      ...yield* store.unfinished(workflowId, generation)
    ]
    const attempts = yield* store.attempts(workflowId, generation)
    const mail = yield* Effect.flatten(store.mail(workflowId, [{ name: "sent", token: null, limit: 10 }]))
    return [
      run.payload,
      run.outcome,
      ...rows.flatMap(({ error, output }) => [error, output]),
      ...attempts.map(({ error }) => error),
      ...mail.signals.map(({ value }) => value)
    ].map(String)
  })

/** A value of this size at every place, under this limit. */
const valueOf = (limit: number, { bytes, unit }: Size, transaction: boolean, said: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const fits = bytes <= limit
    const text = textOf(bytes, unit)
    assert.strictEqual(Buffer.byteLength(JSON.stringify(text)), bytes, said)
    const beginning = JSON.stringify(text).slice(1, 101)
    let trials = 0
    const check = (place: string, workflowId: string, exit: Exit.Exit<unknown, unknown>, refusal: string) =>
      Effect.gen(function*() {
        trials++
        assert.strictEqual(tagOf(exit), fits ? "done" : refusal, `${place}, ${said}`)
        const recorded = yield* textsOf(workflowId)
        const isTooMuch = fits
          ? (text: string) => Buffer.byteLength(text) > limit
          : (text: string) => text.includes(beginning)
        assert.isFalse(recorded.some(isTooMuch), `what is recorded of ${place}, ${said}`)
      })

    for (const place of Object.keys(places)) {
      const workflowId = `${place} ${bytes}`
      const exit = yield* Effect.exit(Maker.execute({ place, bytes, unit }, { workflowId }))
      yield* check(place, workflowId, exit, "LimitExceeded")
      if (place.startsWith("a payload of a child")) {
        assert.strictEqual(Option.isSome(yield* store.run(`~${workflowId}:0`)), fits, `${place}, ${said}`)
      }
    }

    const script = `script ${bytes}`
    yield* check(
      "a result of a script",
      script,
      yield* Effect.exit(Workflow.run(script, Effect.sync(() => text))),
      "LimitExceeded"
    )

    if (transaction) {
      const body = Effect.sync(() => text).pipe(Step.transaction("make"), Effect.asVoid)
      const exit = yield* Effect.exit(Workflow.run(`transaction ${bytes}`, body))
      yield* check("a result of a transaction", `transaction ${bytes}`, exit, "LimitExceeded")
    }

    const again = `again ${bytes}`
    const went = yield* Effect.exit(Again.execute({ text: `${bytes} ${unit}` }, { workflowId: again }))
    yield* check("a payload of the next generation", again, went, "Misplaced")

    const workflowId = `echo ${bytes}`
    const started = yield* Effect.exit(Echo.execute({ text: textOf(bytes - around, unit) }, { workflowId }))
    assert.strictEqual(tagOf(started), fits ? "done" : "PayloadInvalid", `a payload, ${said}`)
    assert.strictEqual(Option.isSome(yield* store.run(workflowId)), fits, `a run with a payload, ${said}`)

    const taker = yield* Taker.start(undefined, { workflowId: `taker ${bytes}` })
    const sent = yield* Effect.exit(Signal.send(Sent, { workflowId: taker, value: text }))
    yield* check("a signal", taker, sent, "SignalInvalid")
    const asker = yield* Asker.start(undefined, { workflowId: `asker ${bytes}` })
    const { rows: [record] } = yield* eventually(store.history(asker, 0, everything), ({ rows }) => rows.length > 0)
    const token = JSON.parse(record!.output!) as string
    const answered = yield* Effect.exit(Signal.answer(Sent, { token, value: text }))
    yield* check("an answer", asker, answered, "SignalInvalid")
    if (!fits) {
      // What was refused has left nothing that could be taken.
      yield* Signal.send(Sent, { workflowId: taker, value: "small" })
      yield* Signal.answer(Sent, { token, value: "small" })
    }
    for (const taken of [yield* Taker.await(taker), yield* Asker.await(asker)]) {
      assert.isTrue(taken === (fits ? text : "small"), `what is taken of a signal, ${said}`)
    }
    return trials + 3
  })

const values = (limit: number, unit: number, transaction: boolean, name: string) =>
  Effect.map(
    Effect.forEach([limit - 1, limit, limit + 1], (bytes) =>
      valueOf(
        limit,
        { bytes, unit },
        transaction,
        `${bytes} bytes of ${JSON.stringify(units[unit % units.length]![0])} where ${limit} are allowed (${name})`
      )),
    (trials) => trials.reduce((sum, one) => sum + one)
  ).pipe(inEngine({ value: limit }))

// ---------------------------------------------------------------------------------------------------------------------
// counts near a limit
// ---------------------------------------------------------------------------------------------------------------------

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)

/** Histories and reservations that are within a limit, at it and above it. */
const counts = (limit: number, name: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    for (const count of [limit - 1, limit, limit + 1]) {
      const said = `${count} where ${limit} are allowed (${name})`
      const expected = count > limit ? "LimitExceeded" : "done"
      const effects: Array<number> = []
      const steps = Effect.forEach(
        numbers(count),
        (i) => Effect.sync(() => void effects.push(i)).pipe(Step.durable("one")),
        { discard: true }
      )
      const history = `history ${limit} ${count}`
      const run = Workflow.run(history, steps)
      assert.strictEqual(
        tagOf(yield* Effect.exit(run.pipe(inEngine({ history: limit })))),
        expected,
        `records, ${said}`
      )
      const records = (yield* store.history(history, 0, everything)).rows
      assert.strictEqual(records.length, Math.min(count, limit), `records, ${said}`)
      // Where more are allowed it goes on; what is recorded is not done again, and at most the effect that was not recorded is.
      assert.strictEqual(tagOf(yield* Effect.exit(run.pipe(inEngine({})))), "done", `records, ${said}`)
      assert.deepStrictEqual([...new Set(effects)], numbers(count), `effects, ${said}`)
      assert.isAtMost(effects.length, count + (count > limit ? 1 : 0), `effects, ${said}`)

      const begun: Array<number> = []
      const branch = (i: number) => Effect.sync(() => void begun.push(i)).pipe(Step.durable("one"))
      const reservation = `reservation ${limit} ${count}`
      const branches = Workflow.run(reservation, Effect.asVoid(Branch.forEach(numbers(count), branch)))
      const reserved = yield* Effect.exit(branches.pipe(inEngine({ reservation: limit })))
      assert.strictEqual(tagOf(reserved), expected, `branches, ${said}`)
      assert.strictEqual(begun.length, count > limit ? 0 : count, `branches, ${said}`)
      assert.strictEqual((yield* store.steps(reservation, 0, everything)).length, begun.length, `branches, ${said}`)
    }
    return 6
  })

// ---------------------------------------------------------------------------------------------------------------------
// on a small heap
// ---------------------------------------------------------------------------------------------------------------------

/** What a program says that has so many MiB for what it allocates; one that needs more is killed by its own engine. */
const onHeap = (program: string, heap: number, args: ReadonlyArray<string>) =>
  Effect.scoped(Effect.gen(function*() {
    const { ended, line } = yield* launch(`--max-old-space-size=${heap}`, [program, ...args])
    const said = yield* line
    assert.strictEqual(yield* ended, 0)
    return said
  }))

/** Records so many steps with results of so many bytes, and replays them. */
const long = (program: string, options: {
  readonly count: number
  readonly bytes: number
  readonly heap: number
}) =>
  Effect.scoped(Effect.gen(function*() {
    const { bytes, count, heap } = options
    const filename = yield* temporaryFile
    const args = (what: string) => [what, filename, String(count), String(bytes)]
    const said = JSON.stringify(options)
    assert.strictEqual(yield* onHeap(program, heap, args("record")), `SUSPENDED ${count}`, said)
    assert.strictEqual(yield* onHeap(program, heap, args("replay")), `${count * (bytes - 2)} 0`, said)
    return 2
  }))

const refused = (program: string) =>
  Effect.scoped(Effect.gen(function*() {
    const filename = yield* temporaryFile
    const said = yield* onHeap(program, 1_000, ["refuse", filename, "0", String(100 * MiB)])
    assert.strictEqual(said, "LimitExceeded,PayloadInvalid,SignalInvalid,RunStopped 0")
    const folder = dirname(filename)
    const bytes = readdirSync(folder).map((file) => statSync(join(folder, file)).size)
    assert.isBelow(bytes.reduce((sum, one) => sum + one), MiB, "what was refused is in no file")
    return 4
  }))

// ---------------------------------------------------------------------------------------------------------------------
// the row
// ---------------------------------------------------------------------------------------------------------------------

const clientStore = Layer.orDie(
  SqliteStepStore.layerClient({ synchronous: "NORMAL" }).pipe(
    Layer.provide(SqliteClient.layer({ filename: ":memory:" }))
  )
)

/** The limits that are tried: the second is one above which a value is bound by itself. */
const limitsOf = (round: number) => {
  const drawn = dice(seed, round)
  return round === 0 ? [1_000, 70_000] : [600 + drawn.below(3_000), 600 + drawn.below(300_000)]
}

repeatedRow(
  {
    name: "huge",
    title: "what is above a limit is refused before it is written, and what is at the limit needs bounded memory",
    night: { seconds: 2 * 60 * 60 }
  },
  2,
  200,
  (round) =>
    Effect.gen(function*() {
      let trials = 0
      for (const [name, store] of [...stores, ["a client", clientStore] as const]) {
        trials += yield* Effect.gen(function*() {
          let done = yield* counts(round === 0 ? 100 : 2 + dice(seed, round).below(300), name)
          for (const [i, limit] of limitsOf(round).entries()) {
            done += yield* values(limit, 2 * round + i, name === "a client", name)
          }
          return done
        }).pipe(Effect.provide(store))
      }
      const program = yield* bundle("faults/huge")
      // 100 MB of results on 64 MiB.
      trials += yield* long(program, { count: 10_000, bytes: 10_000, heap: 64 })
      // Each at the limit: 256 MiB on 128.
      trials += yield* long(program, { count: 16, bytes: 16 * MiB, heap: 128 })
      trials += yield* long(program, { count: 1, bytes: 100 * MiB, heap: 800 })
      return trials + (yield* refused(program))
    })
)
