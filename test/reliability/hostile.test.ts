import { readdirSync } from "node:fs"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import { Cause, type Context, Effect, Exit, FastCheck as fc, Layer, Option, Schema } from "effect"
import {
  Child,
  Engine,
  Errors,
  MemoryStepStore,
  PayloadCodec,
  Signal,
  SqliteStepStore,
  Step,
  StepStore,
  Workflow
} from "perdure"
import { everything, newRun } from "../suites/rows.js"
import { quickFolder } from "./folder.js"
import { row, seed } from "./row.js"
import { anyText, hostileTexts, isWellFormed, lookalikes } from "./texts.js"

// ---------------------------------------------------------------------------------------------------------------------
// where a text may come in
// ---------------------------------------------------------------------------------------------------------------------

type Services = Engine.Engine | StepStore.StepStore

type Given = Effect.Effect<unknown, unknown, Services>

/** What is to come of a text: it is there as it was given, or it is refused with such an error. */
interface Entry {
  /** Gives the text in, and answers it as it is stored and shown. */
  readonly give: (text: string, trial: number) => Given
  readonly accepts: (text: string) => boolean
  /** The error with which others are refused. */
  readonly refusal: string
}

const always = { accepts: () => true, refusal: "nothing is" }

const isName = (text: string) => text !== "" && Buffer.byteLength(text) <= 256 && isWellFormed(text)

const isOwnName = (text: string) => isName(text) && !text.startsWith("~")

/** Definitions are refused where they are made. */
const typeError = <A>(make: () => A) =>
  Effect.try({
    try: make,
    catch: (error) => ({ _tag: error instanceof TypeError ? "TypeError" : "another", message: String(error) })
  })

type Body = Effect.Effect<unknown, unknown, Workflow.Run>

/** The bodies of runs of this process, which are given with each of them. */
const bodies: Array<{ readonly text: string; readonly body: Body }> = []

const unknown = Schema.Unknown as Schema.Schema<unknown, string>

const Bodied = Workflow.make({
  name: "bodied",
  payload: { body: Schema.Number, text: Schema.String },
  success: unknown,
  error: unknown
})

const Echo = Workflow.make({
  name: "echoing",
  payload: { text: Schema.String },
  success: Schema.String,
  idempotencyKey: ({ text }) => text
})

/** Has a child, whose id derives from its own. */
const Nested = Workflow.make({
  name: "nested",
  payload: { text: Schema.String },
  success: Schema.String,
  error: Schema.Unknown as Schema.Schema<unknown, string>
})

/** Rests until somebody wakes it. */
const Resting = Workflow.make({ name: "resting", payload: { text: Schema.String }, success: Schema.String })

const Told = Signal.make("told", Schema.String)

const bodied = Layer.mergeAll(
  Bodied.toLayer(({ body, text }) => {
    const given = bodies[body]!
    assert.strictEqual(text, given.text, "the text in the payload")
    return given.body as Effect.Effect<unknown, unknown, Workflow.Run>
  }),
  Echo.toLayer(({ text }, workflowId) => Effect.as(Effect.succeed(workflowId).pipe(Step.durable("echo")), text)),
  Nested.toLayer(({ text }) => Child.execute(Echo, { text })),
  Resting.toLayer(() => Signal.next(Told))
)

/** The final records of a run, of which each way to read them says the same. */
const recordsOf = (workflowId: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const history = (yield* store.history(workflowId, 0, everything)).rows
    const steps = yield* store.steps(workflowId, 0, everything)
    const names = (rows: ReadonlyArray<StepStore.StepSummary>) => rows.map(({ stepId, stepKey }) => [stepKey, stepId])
    assert.sameDeepMembers(names(steps), names(history), "what the listing and the history of the run say")
    const [loaded] = yield* store.records([{ workflowId, generation: 0 }], { steps: 100, bytes: 1_000_000 })
    assert.strictEqual(loaded!.workflowId, workflowId)
    assert.isTrue(loaded!.records._tag === "Right")
    return history
  })

/** What is recorded first of a run that has this body, and what it has ended with. */
const lived = (text: string, body: Body, during: (workflowId: string) => Given = () => Effect.void) =>
  Effect.gen(function*() {
    const workflowId = yield* Bodied.start({ body: bodies.push({ body, text }) - 1, text })
    yield* during(workflowId)
    const value = yield* Bodied.await(workflowId)
    const [record] = yield* recordsOf(workflowId)
    return { value, record }
  })

const idOf = (text: string, body: Body, during?: (workflowId: string) => Given) =>
  Effect.map(lived(text, body, during), ({ record }) => record?.stepId)

const step = (id: string, options: { readonly fingerprint?: string } = {}) =>
  Effect.succeed("done").pipe(Step.durable(id, options))

/** Another one in each trial with a text. */
const someLike = (text: string, trial: number): ReadonlyArray<string> => {
  const all = lookalikes(text)
  return [all[trial % all.length]!]
}

/** Workflows of one name cannot be registered at once. */
const oneAtATime = Effect.unsafeMakeSemaphore(1).withPermits(1)

const entries: Readonly<Record<string, Entry>> = {
  "the name of a workflow": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const definition = yield* typeError(() => Workflow.make({ name: text, payload: {} }))
        const store = yield* StepStore.StepStore
        const workflowId = yield* definition.start(undefined, { workflowId: `named ${trial}` })
        const claim = (names: ReadonlyArray<string>) =>
          store.claim({ worker: "claimant", names, workflowId, dead: [], limit: 1, at: 1 })
        assert.deepStrictEqual(yield* claim(lookalikes(text)), [], "by the names of others")
        assert.strictEqual((yield* claim([text])).length, 1, "by its name")
        return (yield* Effect.flatten(store.run(workflowId))).name
      }),
    accepts: isOwnName,
    refusal: "TypeError"
  },
  "the version of a workflow": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const definition = yield* typeError(() => Workflow.make({ name: "nobody's", payload: {}, version: text }))
        const workflowId = yield* definition.start(undefined, { workflowId: `version ${trial}` })
        const store = yield* StepStore.StepStore
        return (yield* Effect.flatten(store.run(workflowId))).version
      }),
    accepts: isName,
    refusal: "TypeError"
  },
  "the id of a run, of its child, and of runs that look like them": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        for (const id of [text, ...someLike(text, trial).filter(isOwnName)]) {
          assert.strictEqual(yield* Nested.execute({ text: id }, { workflowId: id }), id)
          const child = yield* Effect.flatten(store.run(`~${id}:0`))
          assert.deepStrictEqual([child.parent, child.name], [id, "echoing"])
          for (const [workflowId, output] of [[id, id], [child.workflowId, child.workflowId]] as const) {
            const records = yield* recordsOf(workflowId)
            assert.deepStrictEqual(
              records.map((record) => [record.stepKey, record.output]),
              [[`${workflowId}:0`, JSON.stringify(output)]]
            )
          }
        }
        return (yield* Effect.flatten(store.run(text))).workflowId
      }),
    accepts: isOwnName,
    refusal: "WorkflowIdInvalid"
  },
  "the id of a run without a definition": {
    give: (text, trial) => {
      const id = `${text}#${trial}`
      return Workflow.run(id, Effect.map(Workflow.Run, ({ workflowId }) => workflowId)).pipe(
        Effect.map((workflowId) => workflowId.slice(0, text.length))
      )
    },
    accepts: (text) => isOwnName(`${text}#0000`),
    refusal: "WorkflowIdInvalid"
  },
  "an id of which there is no run": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const id = `${trial}/${text}`
        const others = someLike(id, trial).filter(isName)
        for (const workflowId of others) {
          yield* Resting.start({ text }, { workflowId })
        }
        assert.isTrue(Option.isNone(yield* Resting.poll(id)), "poll")
        assert.isTrue(Option.isNone(yield* store.run(id)), "run")
        assert.deepStrictEqual(yield* store.inboxes([id]), [], "inboxes")
        assert.deepStrictEqual((yield* store.history(id, 0, everything)).rows, [], "history")
        for (
          const ask of [
            Resting.await(id),
            Resting.cancel(id),
            Resting.resume(id),
            Signal.send(Told, { workflowId: id, value: "for another" })
          ] as ReadonlyArray<Given>
        ) {
          assert.strictEqual(tagOf(yield* Effect.exit(ask)), "WorkflowNotFound")
        }
        for (const workflowId of others) {
          yield* Signal.send(Told, { workflowId, value: workflowId })
          assert.strictEqual(yield* Resting.await(workflowId), workflowId)
        }
        return text
      }),
    ...always
  },
  "the idempotency key of a run": {
    give: (text) => Effect.map(Echo.start({ text }), (workflowId) => workflowId.slice("echoing/".length)),
    accepts: (text) => isName(`echoing/${text}`),
    refusal: "WorkflowIdInvalid"
  },
  "a payload, told from others that look like it": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const workflowId = `payload ${trial}`
        assert.strictEqual(yield* Echo.execute({ text }, { workflowId }), text)
        for (const other of someLike(text, trial)) {
          const exit = yield* Effect.exit(Echo.start({ text: other }, { workflowId }))
          assert.strictEqual(tagOf(exit), "WorkflowIdConflict", JSON.stringify(other))
        }
        return yield* Echo.execute({ text }, { workflowId })
      }),
    ...always
  },
  "the id of a step": {
    give: (text) => idOf(text, step(text)),
    accepts: isName,
    refusal: "Misplaced"
  },
  "the id of a step that is undone": {
    give: (text) =>
      Effect.gen(function*() {
        const body = Effect.zipRight(
          Effect.succeed(text).pipe(Step.durable(text, { compensate: () => Effect.void })),
          Effect.fail(text)
        )
        const exit = yield* Effect.exit(lived(text, body))
        return yield* Exit.isFailure(exit) ? Effect.flip(exit) : Effect.dieMessage("it has not failed")
      }).pipe(Effect.flatMap((error) => typeof error === "string" ? Effect.succeed(error) : Effect.fail(error))),
    accepts: isName,
    refusal: "Misplaced"
  },
  "a fingerprint": {
    give: (text) => Effect.map(lived(text, step("step", { fingerprint: text })), ({ record }) => record?.fingerprint),
    accepts: isWellFormed,
    refusal: "Misplaced"
  },
  "the id of a patch": {
    give: (text) => idOf(text, Workflow.patched(text)),
    accepts: isName,
    refusal: "Misplaced"
  },
  "the id of a patch that is done": {
    give: (text) => Effect.map(lived(text, Effect.as(Workflow.patchDone(text), text)), ({ value }) => value),
    accepts: isName,
    refusal: "Misplaced"
  },
  "the name of a signal": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const signal = yield* typeError(() => Signal.make(text, Schema.String))
        const others = someLike(text, trial).filter(isOwnName)
        const body = Signal.next(signal)
        const { record, value } = yield* lived(text, body, (workflowId) =>
          Effect.zipRight(
            Effect.forEach(
              others,
              (other) => Signal.send(Signal.make(other, Schema.String), { workflowId, value: "another signal" })
            ),
            Signal.send(signal, { workflowId, value: text })
          ))
        assert.strictEqual(value, text)
        return record?.stepId
      }),
    accepts: isOwnName,
    refusal: "TypeError"
  },
  "the idempotency key of a signal": {
    give: (text, trial) => {
      const others = someLike(text, trial).filter(isName)
      const body = Effect.forEach([text, ...others], () => Signal.next(Told))
      const during = (workflowId: string) =>
        Effect.gen(function*() {
          const send = (idempotencyKey: string, value: string) =>
            Signal.send(Told, { workflowId, value, idempotencyKey })
          yield* send(text, text)
          // It is the first one again.
          yield* Effect.catchTag(send(text, "again"), "SignalNotWanted", () => Effect.void)
          yield* Effect.forEach(others, (other) => send(other, other))
        })
      return Effect.map(lived(text, body, during), ({ value }) => {
        const [first, ...rest] = value as ReadonlyArray<string>
        assert.deepStrictEqual(rest, others)
        return first
      })
    },
    accepts: isName,
    refusal: "SignalInvalid"
  },
  "a token that nobody has given away": {
    give: (text) => Signal.answer(Told, { token: text, value: "" }),
    accepts: () => false,
    refusal: "SignalInvalid"
  },
  "a text, and a key, in a result": {
    give: (text) =>
      Effect.gen(function*() {
        const result = Object.fromEntries([[text, text], ["a", text]])
        const { value } = yield* lived(text, Effect.sync(() => result).pipe(Step.durable("step")))
        assert.deepStrictEqual(Object.entries(value as object), Object.entries(result))
        return (value as Record<string, string>)["a"]
      }),
    ...always
  },
  "a text that a step, and its run, fail with": {
    give: (text) => Effect.flip(lived(text, Effect.fail(text).pipe(Step.durable("step", { error: Schema.String })))),
    ...always
  },
  "what a step dies of": {
    give: (text) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(lived(text, Effect.die(`<${text}>`).pipe(Step.durable("step"))))
        assert.instanceOf(error, Errors.RunStopped)
        const { reason } = error as Errors.RunStopped
        assert.strictEqual(reason._tag, "StepDied")
        const { detail } = reason as Errors.StepDied
        return detail.includes(`<${text}>`) || text.length > 7_000 && detail.includes(text.slice(0, 1_000))
          ? text
          : detail
      }),
    ...always
  },
  "who has claimed a run": {
    give: (text, trial) =>
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const workflowId = `claimed ${trial}`
        // Nobody is the empty text.
        const owner = `${text}!`
        yield* store.commit([newRun(workflowId, { name: "nobody's", owner })])
        const claim = (dead: ReadonlyArray<string>) =>
          store.claim({ worker: "claimant", names: null, workflowId, dead, limit: 1, at: 1 })
        assert.deepStrictEqual(yield* claim(lookalikes(owner)), [], "of others who are dead")
        assert.include(yield* store.owned(owner), workflowId)
        const [claimed] = yield* claim([owner])
        return claimed?.workflowId === workflowId ? text : claimed
      }),
    ...always
  }
}

/** Costs a search for work, or a database, each: only the list comes in here, and no more of the others than a few. */
const dear: Readonly<Record<string, Entry>> = {
  "the name of a workflow that is registered": {
    give: (text, trial) =>
      oneAtATime(Effect.gen(function*() {
        const definition = yield* typeError(() => Workflow.make({ name: text, payload: {}, success: Schema.String }))
        const workflowId = yield* definition.start(undefined, { workflowId: `registered ${trial}` })
        assert.strictEqual((yield* Effect.flatten(definition.poll(workflowId)))._tag, "PENDING")
        return yield* Effect.scoped(
          Effect.zipRight(Layer.build(definition.toLayer(() => Effect.succeed(text))), definition.await(workflowId))
        )
      })),
    accepts: isOwnName,
    refusal: "TypeError"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// what a store is opened with
// ---------------------------------------------------------------------------------------------------------------------

type Opening = StepStore.StepStore["Type"]

const opening = (
  options: Partial<SqliteStepStore.Options>,
  use: (store: Opening) => Given,
  codec: PayloadCodec.PayloadCodecShape = PayloadCodec.identity
): Given =>
  Effect.flatMap(StepStore.StepStore, use).pipe(
    Effect.provide(Layer.provide(
      SqliteStepStore.layer({ filename: ":memory:", ...options }),
      Layer.succeed(PayloadCodec.PayloadCodec, codec)
    ))
  )

/** A run that has a text as its payload. */
const kept = (text: string) => (store: Opening): Given =>
  Effect.gen(function*() {
    yield* store.commit([newRun("run", { payload: JSON.stringify(text) })])
    return JSON.parse((yield* Effect.flatten(store.run("run"))).payload!) as unknown
  })

const openings: Readonly<Record<string, Entry>> = {
  "a namespace": {
    give: (namespace) => opening({ namespace }, kept(namespace)),
    accepts: isName,
    refusal: "StoreUnavailable"
  },
  "a table prefix": {
    give: (tablePrefix) => opening({ tablePrefix }, kept(tablePrefix)),
    accepts: (text) => /^([A-Za-z_]\w{0,31})?$/.test(text) && !/^sqlite_/i.test(text),
    refusal: "StoreUnavailable"
  },
  "the name of a codec": {
    give: (name) =>
      opening({}, kept(name), {
        name,
        encode: (json) => Effect.succeed(`~${json}`),
        decode: (stored, by) => by === name ? Effect.succeed(stored.slice(1)) : Effect.dieMessage(`made by ${by}`)
      }),
    accepts: isName,
    refusal: "TypeError"
  },
  "what a codec makes of a payload": {
    give: (text) =>
      opening({}, kept(text), {
        name: "codec",
        encode: (json) => Effect.succeed(text + json),
        decode: (stored) => Effect.succeed(stored.slice(text.length))
      }),
    accepts: (text) => isWellFormed(text.replaceAll("\0", "")),
    refusal: "StoreCorrupt"
  },
  "the name of a file": {
    give: (text) =>
      Effect.scoped(Effect.gen(function*() {
        const folder = yield* quickFolder
        const name = fileName(text)
        const files = yield* opening({ filename: `${folder}/${name}` }, () => Effect.sync(() => readdirSync(folder)))
        return (files as ReadonlyArray<string>).every((file) => file.startsWith(name)) ? text : files
      })),
    accepts: (text) => {
      const name = fileName(text)
      return isName(name) && Buffer.byteLength(name) < 240 && name === name.trimEnd() && !/^\.{1,2}$/.test(name)
    },
    refusal: "StoreUnavailable"
  }
}

/** Without the slashes, which lead elsewhere. */
const fileName = (text: string) => text.replaceAll("/", "")

// ---------------------------------------------------------------------------------------------------------------------
// the trials
// ---------------------------------------------------------------------------------------------------------------------

/** What somebody is told who is refused; each error can be shown. */
const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) {
    return `nothing, but is answered ${JSON.stringify(exit.value)}`
  }
  const error = Cause.squash(exit.cause) as { readonly _tag?: unknown; readonly message?: unknown }
  if (exit.cause._tag === "Die" && error instanceof TypeError) {
    return "TypeError"
  }
  if (exit.cause._tag !== "Fail") {
    return Cause.pretty(exit.cause)
  }
  assert.isString(error.message)
  return String((error instanceof Errors.RunStopped ? error.reason : error)._tag)
}

/** What is wrong with what has come of a text. */
const verdict = (entry: Entry, text: string, exit: Exit.Exit<unknown, unknown>): string | null => {
  if (entry.accepts(text)) {
    return Exit.isSuccess(exit) && exit.value === text
      ? null
      : `it is not as it was given, but ${
        Exit.isSuccess(exit) ? JSON.stringify(exit.value) : Cause.pretty(exit.cause, { renderErrorCause: true })
      }`
  }
  const told = tagOf(exit)
  return told === entry.refusal ? null : `it is not refused with ${entry.refusal}, but told ${told}`
}

interface Trial {
  readonly number: number
  readonly where: string
  readonly text: string
}

/** The list at every place, and then whatever there is. */
const trialsOf = (count: number): ReadonlyArray<Trial> => {
  const cheap = Object.keys(entries)
  const others = [...Object.keys(dear), ...Object.keys(openings)]
  const listed = [...cheap, ...others].flatMap((where) => hostileTexts.map((text) => [where, text] as const))
  const where = fc.oneof(
    { weight: 50, arbitrary: fc.constantFrom(...cheap) },
    { weight: 1, arbitrary: fc.constantFrom(...others) }
  )
  const drawn = fc.sample(fc.tuple(where, anyText), { numRuns: Math.max(count - listed.length, 1), seed })
  return [...listed, ...drawn].slice(0, count).map(([where, text], number) => ({ number, where, text }))
}

/** Every run that a store has, page by page, but for those whose ids are drawn. */
const listing = Effect.gen(function*() {
  const store = yield* StepStore.StepStore
  const ids: Array<string> = []
  for (let after: string | null = null;;) {
    const page: ReadonlyArray<StepStore.RunSummary> = yield* store.runs({ after, limit: 100 })
    ids.push(...page.map(({ workflowId }) => workflowId))
    if (page.length < 100) {
      return ids.filter((id) => !id.startsWith("bodied/")).sort()
    }
    after = page.at(-1)!.workflowId
  }
})

/** A store of its own for each of so many trials: a long night does not make them slower. */
const trialsInAStore = 2_000

const withEngine = (store: Layer.Layer<StepStore.StepStore, Errors.StoreError>) =>
  Layer.build(
    bodied.pipe(
      Layer.provideMerge(Engine.layerWith({ shutdownGrace: 0, maxResidentRuns: 10_000 })),
      Layer.provideMerge(store)
    )
  )

const tried = (trials: ReadonlyArray<Trial>) =>
  Effect.scoped(Effect.gen(function*() {
    const filename = join(yield* quickFolder, "durable.db")
    const contexts: ReadonlyArray<readonly [string, Context.Context<Services>]> = [
      ["memory", yield* withEngine(MemoryStepStore.layer)],
      ["SQLite", yield* withEngine(SqliteStepStore.layer({ filename, synchronous: "NORMAL" }))]
    ]
    for (const [name, context] of contexts) {
      yield* Effect.forEach(trials, ({ number, text, where }) =>
        Effect.gen(function*() {
          const entry = entries[where] ?? dear[where] ?? (name === "SQLite" ? openings[where] : undefined)
          if (entry !== undefined) {
            const exit = yield* Effect.exit(Effect.provide(Effect.suspend(() => entry.give(text, number)), context))
            assert.isNull(
              verdict(entry, text, exit),
              `trial ${number}, FC_SEED=${seed}: ${JSON.stringify(text).slice(0, 300)} as ${where} (${name})`
            )
          }
        }), { concurrency: 50, discard: true })
    }
    const [inMemory, inFile] = yield* Effect.forEach(contexts, ([, context]) => Effect.provide(listing, context))
    assert.deepStrictEqual(inFile, inMemory, "runs of the two stores")
  }))

row(
  {
    name: "hostile",
    title: "any text is stored and shown as it is, or refused with a typed error, wherever it comes in",
    ci: 5_000,
    night: 200_000
  },
  2,
  (count) => {
    const trials = trialsOf(count)
    return Effect.gen(function*() {
      for (let from = 0; from < trials.length; from += trialsInAStore) {
        bodies.length = 0
        yield* tried(trials.slice(from, from + trialsInAStore))
      }
      return trials.length
    })
  }
)
