import { readFileSync, writeFileSync } from "node:fs"
import { SqlClient } from "@effect/sql"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it, layer } from "@effect/vitest"
import { Chunk, Effect, Either, FastCheck, Layer, Stream } from "effect"
import { Errors, MemoryStepStore, PayloadCodec, SqliteStepStore, StepStore, StepStoreConformance } from "perdure"
import { digest } from "../src/internal/digest.js"
import { RecordsToo } from "../src/internal/interest.js"
import { completed, everything, newRun, patch, update } from "./suites/rows.js"
import { sqliteLayer, stores } from "./suites/stores.js"
import { temporaryFile } from "./support/stores.js"

describe.each(stores)("StepStore (%s)", (_, store) => {
  layer(store)((it) => {
    for (const { effect, name } of StepStoreConformance.cases) {
      it.effect(name, () => effect)
    }
  })
})

describe.each(stores)("changes (%s)", (_, store) => {
  it.scoped("an engine is told of all but what only adds to a history", () =>
    Effect.gen(function*() {
      const { changes, commit } = yield* StepStore.StepStore
      const pull = yield* Stream.toPull(Stream.provideService(changes, RecordsToo, false))
      const everything = yield* Stream.toPull(changes)
      yield* Effect.all([pull, everything])
      yield* commit([newRun("one"), newRun("two")])
      expect(Chunk.toArray(yield* pull)).toEqual([{ runs: ["one", "two"], mail: [] }])
      yield* everything
      yield* commit([update("one", { steps: [completed("one", 0)] })])
      yield* commit([
        update("one", { steps: [completed("one", 1)] }),
        update("two", { steps: [completed("two", 0)] })
      ])
      expect(Chunk.toArray(yield* everything)).toEqual([{ runs: ["one", "two"], mail: [] }])
      yield* commit([
        update("one", { steps: [completed("one", 2)] }),
        update("two", { steps: [completed("two", 1)], patch: patch() })
      ])
      expect(Chunk.toArray(yield* pull)).toEqual([{ runs: ["two"], mail: [] }])
    }).pipe(Effect.provide(store)))
})

describe("StepStoreConformance", () => {
  it.effect("accepts a store that now and then tells of changes without saying of which runs", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const vague = { ...store, changes: Stream.intersperse(store.changes, null) }
      const one = StepStoreConformance.cases.find((one) => one.name.startsWith("whoever listens is told"))!
      yield* Effect.provideService(one.effect, StepStore.StepStore, vague)
    }).pipe(Effect.provide(MemoryStepStore.layer)))

  it.effect("says what a store does wrong", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const forgetful = { ...store, history: () => Effect.succeed([]) }
      const one = StepStoreConformance.cases.find((one) => one.name.startsWith("an outcome takes the place"))!
      const failure = yield* Effect.flip(Effect.provideService(one.effect, StepStore.StepStore, forgetful))
      expect(String(failure)).toMatch(/the history then: expected \[.*final: true.*got \[\]/s)
    }).pipe(Effect.provide(MemoryStepStore.layer)))

  it.effect("says when a store accepts what it should reject", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const lenient: StepStore.StepStore["Type"] = {
        ...store,
        commit: (batch) =>
          Effect.catchTag(store.commit(batch), "StoreRejected", () => Effect.succeed([{ _tag: "Accepted" as const }]))
      }
      const one = StepStoreConformance.cases.find((one) => one.name.startsWith("a final record is never overwritten"))!
      const failure = yield* Effect.flip(Effect.provideService(one.effect, StepStore.StepStore, lenient))
      expect(String(failure)).toMatch(/one row: expected 'StoreRejected', got 'Success'/)
    }).pipe(Effect.provide(MemoryStepStore.layer)))
})

// ---------------------------------------------------------------------------------------------------------------------
// the same commands give the same answers
// ---------------------------------------------------------------------------------------------------------------------

type Command =
  | { readonly _tag: "Commit"; readonly batch: ReadonlyArray<StepStore.RunUpdate> }
  | { readonly _tag: "Claim"; readonly options: StepStore.ClaimOptions }
  | { readonly _tag: "Register"; readonly id: string }

const wellFormed = (text: string) => Buffer.from(text).toString() === text && !text.includes("\0")

/** Any Unicode but NUL, quotes and SQL, up to 256 bytes. */
const hostile = FastCheck.oneof(
  FastCheck.string({ unit: "binary", minLength: 1, maxLength: 64 }),
  FastCheck.string({ unit: "grapheme", minLength: 1, maxLength: 16 }),
  FastCheck.constantFrom("'", "\"", "';--", "%", "_", "\\", "null", "0", "\u{10ffff}", "\ue000", " ")
).filter((text) => wellFormed(text) && Buffer.byteLength(text) <= 256)

const children = ["~child/1", "~child/2"]

/** A token is random, so no two runs have the same. */
const withOwnTokens = (update: StepStore.RunUpdate): StepStore.RunUpdate => {
  const own = <Row extends { readonly signalId: string }>(row: Row): Row =>
    row.signalId === "~token" ? { ...row, signalId: `~token ${update.workflowId}` } : row
  return { ...update, signals: update.signals.map(own), takes: update.takes.map(own) }
}

/** Commands about a few runs, so that they meet. */
const commands = FastCheck.tuple(
  FastCheck.uniqueArray(hostile, { minLength: 3, maxLength: 3 }),
  FastCheck.uniqueArray(hostile, { minLength: 2, maxLength: 2 })
).chain(([ids, owners]) => {
  const id = FastCheck.constantFrom(...ids)
  const owner = FastCheck.option(FastCheck.constantFrom(...owners))
  const small = FastCheck.nat({ max: 3 })
  const text = FastCheck.option(FastCheck.json({ maxDepth: 1 }))
  const run = FastCheck.record({
    name: FastCheck.constantFrom(...owners),
    version: FastCheck.option(hostile),
    status: FastCheck.constantFrom<StepStore.RunStatus>("PENDING", "RUNNING"),
    owner,
    parent: FastCheck.option(id),
    deadlineAt: FastCheck.option(small),
    trace: FastCheck.option(hostile),
    fingerprint: hostile,
    payload: text,
    createdAt: small
  })
  const change = FastCheck.record({
    status: FastCheck.constantFrom(...StepStore.RunStatus.literals),
    owner,
    stopReason: FastCheck.option(
      hostile.map((detail) => new Errors.BodyDied({ workflowId: "x", detail, unwinding: [] }))
    ),
    wakeAt: FastCheck.option(small),
    outcome: text,
    updatedAt: small,
    endedAt: FastCheck.option(small)
  })
  const step = FastCheck.record({
    stepKey: FastCheck.constantFrom("0", "1", "1.0", ...ids),
    stepId: hostile,
    kind: FastCheck.constant("step"),
    sequence: small,
    status: FastCheck.constantFrom(...StepStore.StepStatus.literals),
    position: FastCheck.option(FastCheck.nat({ max: 5 })),
    attempt: small,
    epoch: small,
    final: FastCheck.boolean(),
    startedAt: small,
    updatedAt: small,
    askedAfter: FastCheck.integer({ min: -1, max: 1_000 }),
    fingerprint: FastCheck.option(hostile),
    output: text,
    errorTag: FastCheck.option(hostile),
    error: text
  }).map((step) => ({ ...step, final: step.final && (step.position !== null || step.sequence === 0) }))
  const attempt = FastCheck.record({
    stepKey: FastCheck.constantFrom("0", "1"),
    attempt: FastCheck.nat({ max: 20 }),
    startedAt: small,
    endedAt: small,
    dueAt: FastCheck.option(small),
    errorTag: FastCheck.option(hostile),
    error: FastCheck.json({ maxDepth: 1 })
  })
  /** Of its own worker a run reserves tokens only. */
  const reserved = FastCheck.record({
    signalId: FastCheck.constant("~token"),
    name: FastCheck.constantFrom("go", "stop"),
    sentAt: FastCheck.constant(null),
    value: FastCheck.constant(null)
  })
  const signal = FastCheck.record({
    signalId: FastCheck.constantFrom("key", "other", "~token"),
    name: FastCheck.constantFrom("go", "stop"),
    sentAt: FastCheck.constant(null),
    value: text
  })
  const some = <A>(arbitrary: FastCheck.Arbitrary<A>) =>
    FastCheck.oneof({ weight: 4, arbitrary: FastCheck.constant<Array<A>>([]) }, {
      weight: 1,
      arbitrary: FastCheck.array(arbitrary, { maxLength: 2 })
    })
  const rare = <A>(arbitrary: FastCheck.Arbitrary<A>) => FastCheck.option(arbitrary, { freq: 1 })
  const oneOf = FastCheck.record({
    workflowId: id,
    generation: FastCheck.nat({ max: 1 }),
    epoch: FastCheck.integer({ min: 1, max: 3 }),
    insert: rare(run),
    patch: rare(change),
    reopen: FastCheck.oneof({ weight: 5, arbitrary: FastCheck.constant<Array<string>>([]) }, {
      weight: 1,
      arbitrary: FastCheck.array(FastCheck.constantFrom("0", "1"), { maxLength: 2 })
    }),
    steps: FastCheck.array(step, { maxLength: 4 }),
    attempts: FastCheck.oneof({ weight: 3, arbitrary: FastCheck.constant<Array<StepStore.AttemptRow>>([]) }, {
      weight: 1,
      arbitrary: FastCheck.array(attempt, { maxLength: 2 })
    }),
    inbox: FastCheck.option(FastCheck.nat({ max: 2 }), { freq: 1 }),
    next: rare(FastCheck.record({
      name: FastCheck.constantFrom(...owners),
      fingerprint: hostile,
      deadlineAt: FastCheck.option(small),
      parent: FastCheck.option(id),
      payload: text,
      begunAt: small
    })),
    cancelAt: FastCheck.constant(null),
    signals: some(reserved),
    takes: some(FastCheck.record({
      signalId: FastCheck.constantFrom("key", "other", "~token"),
      stepKey: FastCheck.constantFrom("0", "1")
    })),
    gives: some(FastCheck.constantFrom("0", "1")),
    children: some(FastCheck.record({ workflowId: FastCheck.constantFrom(...children), insert: run })),
    tells: some(FastCheck.oneof(id, FastCheck.constantFrom(...children)))
  }).map(withOwnTokens)
  const fromOutside: FastCheck.Arbitrary<StepStore.RunUpdate> = FastCheck.tuple(
    id,
    FastCheck.oneof(
      FastCheck.record({ cancelAt: small }),
      FastCheck.tuple(signal, small).map(([signal, sentAt]) => ({ signals: [{ ...signal, sentAt }] }))
    )
  ).map(([workflowId, rest]) => withOwnTokens(update(workflowId, { epoch: null, ...rest })))
  const claim = FastCheck.record({
    worker: FastCheck.constantFrom(...owners),
    names: FastCheck.option(FastCheck.subarray(owners)),
    workflowId: FastCheck.option(id),
    dead: FastCheck.subarray(owners),
    limit: small,
    at: small
  })
  const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
    {
      weight: 8,
      arbitrary: FastCheck.uniqueArray(
        FastCheck.oneof({ weight: 2, arbitrary: oneOf }, { weight: 1, arbitrary: fromOutside }),
        {
          maxLength: 3,
          selector: (update) => update.workflowId
        }
      )
        .map((batch): Command => ({ _tag: "Commit", batch }))
    },
    { weight: 3, arbitrary: claim.map((options): Command => ({ _tag: "Claim", options })) },
    { weight: 1, arbitrary: FastCheck.constantFrom(...owners).map((id): Command => ({ _tag: "Register", id })) }
  )
  return FastCheck.tuple(FastCheck.constant(ids), FastCheck.array(command, { maxLength: 25 }))
})

const byId = (self: { readonly workflowId: string }, that: { readonly workflowId: string }) =>
  self.workflowId < that.workflowId ? -1 : 1

/** Another payload than that of its row damages a run; each store says so in its own words. */
const named = <Row extends { readonly run: Either.Either<StepStore.RunRow, Errors.StoreError> }>(row: Row) => ({
  ...row,
  run: Either.mapLeft(row.run, (error) => error._tag)
})

/** The answers to the commands, then everything that can be read; errors by their names. */
const transcript = (ids: ReadonlyArray<string>, commands: ReadonlyArray<Command>) =>
  Effect.scoped(Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const said: Array<unknown> = []
    const registered = new Set<string>()
    for (const command of commands) {
      if (command._tag === "Commit") {
        said.push(
          Either.mapBoth(yield* Effect.either(store.commit(command.batch)), {
            onLeft: (error) => error._tag,
            onRight: (answers) => answers.map((answer) => answer._tag === "Exists" ? named(answer) : answer)
          })
        )
      } else if (command._tag === "Claim") {
        said.push((yield* store.claim(command.options)).map(named))
      } else if (!registered.has(command.id)) {
        registered.add(command.id)
        yield* store.register({ id: command.id, host: "here", pid: 1, startedAt: 1 })
      } else {
        said.push(yield* store.beat({ id: command.id, host: "here", pid: 1, startedAt: 1 }))
      }
      said.push([...(yield* store.dead)].sort())
    }
    said.push(yield* store.runs(everything))
    said.push([...(yield* store.ended(ids))].sort(byId).map(named))
    said.push([...(yield* store.inboxes(ids))].sort(byId))
    said.push(yield* Effect.forEach(ids, (id) => store.token(`~token ${id}`)))
    said.push(yield* store.nextWake(ids))
    for (const worker of ids) {
      said.push([...(yield* store.owned(worker))].sort())
    }
    for (const id of [...ids, ...children]) {
      said.push(Either.mapLeft(yield* Effect.either(store.run(id)), (error) => error._tag))
      said.push(
        yield* store.mail(id, [
          { name: "go", token: null, limit: 2 },
          { name: "stop", token: null, limit: 1 },
          { name: "go", token: `~token ${id}`, limit: 1 }
        ])
      )
      for (const generation of [0, 1]) {
        said.push(yield* store.history(id, generation, everything))
        said.push(yield* store.unfinished(id, generation))
        said.push(yield* store.steps(id, generation, everything))
        said.push(yield* store.attempts(id, generation))
      }
    }
    return said
  }))

describe("stores agree", () => {
  const kinds = [["in memory", () => SqliteStepStore.layer({ filename: ":memory:" })], [
    "in a file",
    sqliteLayer
  ]] as const
  for (const [name, sqlite] of kinds) {
    it.effect.prop(
      `memory and SQLite (${name}) answer the same commands alike`,
      { given: commands },
      ({ given: [ids, commands] }) =>
        Effect.gen(function*() {
          const expected = yield* Effect.provide(transcript(ids, commands), Layer.fresh(MemoryStepStore.layer))
          const actual = yield* Effect.provide(transcript(ids, commands), Layer.fresh(sqlite()))
          expect(actual).toEqual(expected)
        })
    )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// what happens to a payload between the program and the database
// ---------------------------------------------------------------------------------------------------------------------

/** Stores payloads reversed; refuses to encode what contains "secret", and to decode what contains "broken". */
const reversed = (name: string): PayloadCodec.PayloadCodecShape => {
  const turn = (text: string, refused: string) =>
    text.includes(refused)
      ? Effect.fail(new PayloadCodec.PayloadCodecError({ codec: name, detail: `it contains ${refused}` }))
      : Effect.succeed([...text].reverse().join(""))
  return {
    name,
    encode: (json) => turn(json, "secret"),
    decode: (stored, codec) => codec === name ? turn(stored, "nekorb") : PayloadCodec.identity.decode(stored, codec)
  }
}

const withCodec = (codec: PayloadCodec.PayloadCodecShape) => Layer.succeed(PayloadCodec.PayloadCodec, codec)

const onClient = <A, E>(program: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.provide(program, SqliteClient.layer({ filename: ":memory:" }))

const withStore = (codec: PayloadCodec.PayloadCodecShape) =>
  Layer.fresh(Layer.provide(SqliteStepStore.layerClient(), withCodec(codec)))

const failing = (workflowId: string, position: number) =>
  completed(workflowId, position, { status: "FAILED", output: null, error: "\"no\"" })

const attempt = (workflowId: string, error: string) => ({
  stepKey: `${workflowId}:0`,
  attempt: 1,
  startedAt: 1,
  endedAt: 2,
  dueAt: null,
  errorTag: null,
  error
})

const signal = (value: string | null): StepStore.Signal => ({ signalId: "go/1", name: "go", sentAt: 1, value })

const wanted = [{ name: "go", token: null, limit: 1 }]

const written = Effect.gen(function*() {
  const store = yield* StepStore.StepStore
  yield* store.commit([newRun("run"), newRun("empty", { payload: null }), newRun("parent")])
  yield* store.commit([update("run", { epoch: null, signals: [signal("\"go\"")] })])
  yield* store.commit([update("empty", { epoch: null, signals: [signal(null)] })])
  yield* store.commit([
    update("parent", {
      next: {
        name: "work",
        fingerprint: "fingerprint",
        deadlineAt: null,
        parent: null,
        payload: "\"next\"",
        begunAt: 5
      },
      children: [{ workflowId: "~child", insert: newRun("~child", { payload: "\"child\"" }).insert! }]
    }),
    update("run", {
      steps: [completed("run", 0), failing("run", 1)],
      attempts: [attempt("run", "\"broken\"".replace("broken", "bent"))],
      patch: patch()
    })
  ])
})

const read = Effect.gen(function*() {
  const store = yield* StepStore.StepStore
  const run = yield* Effect.flatten(store.run("run"))
  const empty = yield* Effect.flatten(store.run("empty"))
  const steps = yield* store.history("run", 0, everything)
  const attempts = yield* store.attempts("run", 0)
  const parent = yield* Effect.flatten(store.run("parent"))
  const child = yield* Effect.flatten(store.run("~child"))
  const mail = yield* Effect.flatten(store.mail("run", wanted))
  const emptyMail = yield* Effect.flatten(store.mail("empty", wanted))
  return [
    run.payload,
    run.outcome,
    empty.payload,
    steps[0]!.output,
    steps[1]!.error,
    attempts[0]!.error,
    parent.payload,
    child.payload,
    mail.signals[0]!.value,
    emptyMail.signals[0]!.value
  ]
})

const texts = [
  "{\"a\":1}",
  "\"done\"",
  null,
  "{\"position\":0}",
  "\"no\"",
  "\"bent\"",
  "\"next\"",
  "\"child\"",
  "\"go\"",
  null
]

describe("payload codecs", () => {
  it.effect("a codec sees every payload on its way in and out", () =>
    onClient(Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const answers = yield* Effect.provide(Effect.zipRight(written, read), withStore(reversed("reversed")))
      expect(answers).toEqual(texts)
      const rows = yield* sql`SELECT codec, output FROM steps WHERE step_key = 'run:0'`
      expect(rows).toEqual([{ codec: "reversed", output: "}0:\"noitisop\"{" }])
      const payloads =
        yield* sql`SELECT payload_codec AS codec, payload FROM workflows WHERE workflow_id IN ('parent', '~child')`
      expect(payloads).toEqual([
        { codec: "reversed", payload: "\"txen\"" },
        { codec: "reversed", payload: "\"dlihc\"" }
      ])
      const values = yield* sql`SELECT codec, value FROM signals ORDER BY workflow_id`
      expect(values).toEqual([{ codec: null, value: null }, { codec: "reversed", value: "\"og\"" }])
    })))

  it.effect("a later codec reads what an earlier one wrote, and the identity says which one is missing", () =>
    onClient(Effect.gen(function*() {
      yield* Effect.provide(written, withStore(PayloadCodec.identity))
      expect(yield* Effect.provide(read, withStore(reversed("reversed")))).toEqual(texts)
      const sql = yield* SqlClient.SqlClient
      yield* sql`DELETE FROM workflows`
      yield* sql`DELETE FROM steps`
      yield* sql`DELETE FROM attempts`
      yield* sql`DELETE FROM signals`
      yield* Effect.provide(written, withStore(reversed("reversed")))
      const error = yield* Effect.flip(Effect.provide(read, withStore(PayloadCodec.identity)))
      expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run" })
      expect(error.message).toContain("the codec \"reversed\"")
    })))

  it.effect("what a codec cannot encode is not written", () =>
    onClient(
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const error = yield* Effect.flip(store.commit([newRun("run", { payload: "\"secret\"" })]))
        expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run" })
        expect(yield* store.runs(everything)).toEqual([])
        yield* store.commit([newRun("run")])
        const refused = yield* Effect.flip(
          store.commit([update("run", { epoch: null, signals: [signal("\"secret\"")] })])
        )
        expect(refused).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run" })
        expect((yield* Effect.flatten(store.mail("run", wanted))).signals).toEqual([])
      }).pipe(Effect.provide(withStore(reversed("reversed"))))
    ))

  it.effect("what a codec cannot decode is damage to that run", () =>
    onClient(
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        yield* store.commit([newRun("run", { payload: "\"broken\"" })])
        const error = yield* Effect.flip(store.run("run"))
        expect(error.message).toContain("it contains nekorb")
      }).pipe(Effect.provide(withStore(reversed("reversed"))))
    ))
})

describe("damage", () => {
  const damages: ReadonlyArray<
    readonly [
      name: string,
      statement: string,
      read: "run" | "history" | "next history" | "unfinished" | "attempts" | "steps" | "runs" | "mail"
    ]
  > = [
    ["a payload", "UPDATE workflows SET payload = '{}' WHERE workflow_id = 'run'", "run"],
    ["an outcome", "UPDATE workflows SET outcome = '{}' WHERE workflow_id = 'run'", "run"],
    ["the name of a workflow", "UPDATE workflows SET name = 'other' WHERE workflow_id = 'run'", "run"],
    ["the end of a run", "UPDATE workflows SET status = 'RUNNING' WHERE workflow_id = 'run'", "run"],
    ["a stop reason", "UPDATE workflows SET stop_reason = '{}' WHERE workflow_id = 'run'", "run"],
    ["the generation of a run", "UPDATE workflows SET generation = 1 WHERE workflow_id = 'run'", "run"],
    ["the beginning of a run", "UPDATE workflows SET begun_at = 7 WHERE workflow_id = 'run'", "run"],
    ["the deadline of a run", "UPDATE workflows SET deadline_at = 7 WHERE workflow_id = 'run'", "run"],
    ["the parent of a run", "UPDATE workflows SET parent = 'empty' WHERE workflow_id = 'run'", "run"],
    [
      "the id of a run",
      "DELETE FROM workflows WHERE workflow_id = 'run'; UPDATE workflows SET workflow_id = 'run' WHERE workflow_id = '~child'",
      "run"
    ],
    [
      "the type of a number of a run",
      "ALTER TABLE workflows RENAME TO strict; CREATE TABLE workflows AS SELECT * FROM strict; " +
      "UPDATE workflows SET ended_at = 0.5 WHERE workflow_id = 'run'",
      "run"
    ],
    [
      "the type of a text of a run",
      "ALTER TABLE workflows RENAME TO strict; CREATE TABLE workflows AS SELECT * FROM strict; " +
      "UPDATE workflows SET version = x'ff' WHERE workflow_id = 'run'",
      "run"
    ],
    ["the owner of a run", "UPDATE workflows SET owner = CAST(x'a0' AS TEXT) WHERE workflow_id = 'run'", "run"],
    [
      "the type of a number that every run has",
      "ALTER TABLE workflows RENAME TO strict; CREATE TABLE workflows AS SELECT * FROM strict; " +
      "UPDATE workflows SET inbox = NULL WHERE workflow_id = 'run'",
      "run"
    ],
    [
      "the type of a note on a step",
      "ALTER TABLE steps RENAME TO strict; CREATE TABLE steps AS SELECT * FROM strict; " +
      "UPDATE steps SET final = 0, position = NULL, fingerprint = x'ff' WHERE step_key = 'run:0'",
      "unfinished"
    ],
    ["when a step was recorded", "UPDATE steps SET updated_at = 7 WHERE step_key = 'run:0'", "history"],
    ["whether a step is final", "UPDATE steps SET final = 0 WHERE step_key = 'run:0'", "unfinished"],
    ["the generation of a step", "UPDATE steps SET generation = 1", "next history"],
    ["an output", "UPDATE steps SET output = '1' WHERE step_key = 'run:0'", "history"],
    ["an error", "UPDATE steps SET error = '1' WHERE step_key = 'run:1'", "history"],
    ["a position", "UPDATE steps SET position = 7 WHERE step_key = 'run:0'", "history"],
    ["the status of a step", "UPDATE steps SET status = 'FAILED' WHERE step_key = 'run:0'", "history"],
    ["an attempt", "UPDATE attempts SET error = '1'", "attempts"],
    ["a signal", "UPDATE signals SET value = '1' WHERE workflow_id = 'run'", "mail"],
    ["the name of a signal", "UPDATE signals SET name = 'stop' WHERE workflow_id = 'run'", "mail"],
    [
      "a status that there is not",
      "PRAGMA ignore_check_constraints = 1; UPDATE steps SET status = 'MAYBE' WHERE step_key = 'run:0'",
      "steps"
    ],
    [
      "a status of a run that there is not",
      "PRAGMA ignore_check_constraints = 1; UPDATE workflows SET status = 'MAYBE' WHERE workflow_id = 'run'",
      "runs"
    ],
    [
      "a status of a recorded outcome that there is not",
      "PRAGMA ignore_check_constraints = 1; UPDATE steps SET status = 'MAYBE' WHERE step_key = 'run:0'",
      "history"
    ],
    [
      "a status in the whole row of a run that there is not",
      "PRAGMA ignore_check_constraints = 1; UPDATE workflows SET status = 'MAYBE' WHERE workflow_id = 'run'",
      "run"
    ]
  ]
  for (const [name, statements, what] of damages) {
    it.effect(`${name} that was changed behind the store's back is StoreCorrupt for its run`, () =>
      onClient(
        Effect.gen(function*() {
          const store = yield* StepStore.StepStore
          const sql = yield* SqlClient.SqlClient
          yield* written
          for (const statement of statements.split("; ")) {
            yield* sql.unsafe(statement)
          }
          const reads: Record<typeof what, Effect.Effect<unknown, Errors.StoreError>> = {
            run: store.run("run"),
            history: store.history("run", 0, everything),
            "next history": store.history("run", 1, everything),
            unfinished: store.unfinished("run", 0),
            attempts: store.attempts("run", 0),
            steps: store.steps("run", 0, everything),
            runs: store.runs(everything),
            mail: store.mail("run", [...wanted, { name: "stop", token: null, limit: 1 }])
          }
          expect(yield* Effect.flip(reads[what])).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run" })
          expect(yield* Effect.flatten(store.run("empty"))).toMatchObject({ workflowId: "empty" })
        }).pipe(Effect.provide(withStore(PayloadCodec.identity)))
      ))
  }

  it("a text that has become bytes has another digest", () => {
    expect(new Set([["1"], [Buffer.from("1")], [null], ["null"]].map(digest)).size).toBe(4)
  })

  it.effect("the record of another run is StoreCorrupt for the run in whose place it stands", () =>
    onClient(
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const sql = yield* SqlClient.SqlClient
        yield* written
        yield* sql`DELETE FROM workflows WHERE workflow_id = 'parent'`
        yield* sql`UPDATE workflows SET workflow_id = 'parent' WHERE workflow_id = 'run'`
        yield* sql`UPDATE steps SET workflow_id = 'empty' WHERE workflow_id = 'run'`
        yield* sql`UPDATE attempts SET workflow_id = 'empty' WHERE workflow_id = 'run'`
        yield* sql`DELETE FROM signals WHERE workflow_id = 'empty'`
        yield* sql`UPDATE signals SET workflow_id = 'empty' WHERE workflow_id = 'run'`
        expect(yield* Effect.flip(store.run("parent"))).toMatchObject({ _tag: "StoreCorrupt", workflowId: "parent" })
        const reads: ReadonlyArray<Effect.Effect<unknown, Errors.StoreError>> = [
          store.history("empty", 0, everything),
          store.attempts("empty", 0),
          store.mail("empty", wanted)
        ]
        for (const read of reads) {
          expect(yield* Effect.flip(read)).toMatchObject({ _tag: "StoreCorrupt", workflowId: "empty" })
        }
      }).pipe(Effect.provide(withStore(PayloadCodec.identity)))
    ))

  it.scoped("the row of another run, to which a damaged index leads, is StoreCorrupt for the run that was asked for", () =>
    Effect.gen(function*() {
      const filename = yield* temporaryFile
      const inStore = <A, E>(use: (store: StepStore.StepStore["Type"]) => Effect.Effect<A, E>) =>
        Effect.provide(Effect.flatMap(StepStore.StepStore, use), SqliteStepStore.layer({ filename }))
      const ids = Array.from({ length: 6 }, (_, n) => `run-${n}`)
      yield* inStore((store) => store.commit(ids.map((id) => newRun(id))))
      // An entry of an index is its key and the number of the row. Out of order, this one is found in place of the next.
      const database = readFileSync(filename).toString("latin1")
      expect(database).toContain("defaultrun-1\u0002")
      writeFileSync(filename, database.replaceAll("defaultrun-1\u0002", "defaumtrun-1\u0002"), "latin1")
      yield* inStore((store) =>
        Effect.gen(function*() {
          expect(yield* Effect.flip(store.run("run-2"))).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run-2" })
          expect(yield* Effect.flatten(store.run("run-5"))).toMatchObject({ workflowId: "run-5" })
        })
      )
    }))

  it.effect("a note on a step that is not final is read as well as it can be", () =>
    onClient(
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const sql = yield* SqlClient.SqlClient
        yield* store.commit([newRun("run")])
        const retrying = completed("run", 0, {
          status: "FAILED",
          final: false,
          position: null,
          output: null,
          error: "\"no\""
        })
        yield* store.commit([update("run", { steps: [retrying] })])
        yield* sql`UPDATE steps SET codec = NULL`
        expect(yield* store.unfinished("run", 0)).toEqual([retrying])
      }).pipe(Effect.provide(withStore(PayloadCodec.identity)))
    ))

  it.effect("a damaged run that is claimed leaves the other runs of the claim alone", () =>
    onClient(
      Effect.gen(function*() {
        const store = yield* StepStore.StepStore
        const sql = yield* SqlClient.SqlClient
        yield* store.commit([newRun("a"), newRun("b")])
        yield* sql`UPDATE workflows SET payload = '{}' WHERE workflow_id = 'a'`
        const claimed = yield* store.claim({
          worker: "w",
          names: ["work"],
          workflowId: null,
          dead: [],
          limit: 9,
          at: 2
        })
        expect(claimed.map(({ epoch, run, workflowId }) => [workflowId, epoch, run._tag])).toEqual([
          ["a", 2, "Left"],
          ["b", 2, "Right"]
        ])
      }).pipe(Effect.provide(withStore(PayloadCodec.identity)))
    ))
})
