import { readFileSync, writeFileSync } from "node:fs"
import { SqlClient } from "@effect/sql"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { describe, expect, it, layer } from "@effect/vitest"
import { Chunk, Effect, Layer, Stream } from "effect"
import { type Errors, MemoryStepStore, PayloadCodec, SqliteStepStore, StepStore, StepStoreConformance } from "perdure"
import { digest } from "../src/internal/digest.js"
import { RecordsToo } from "../src/internal/interest.js"
import { completed, everything, newRun, patch, update } from "./suites/rows.js"
import { stores } from "./suites/stores.js"
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
      const forgetful = { ...store, history: () => Effect.succeed({ rows: [], more: false }) }
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
  const steps = (yield* store.history("run", 0, everything)).rows
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

  for (const name of ["", "a\0b", "\udc00", "x".repeat(257)]) {
    it.effect(`a codec is not called ${JSON.stringify(name.slice(0, 10))}`, () =>
      Effect.gen(function*() {
        const store = Layer.provide(MemoryStepStore.layer, withCodec(reversed(name)))
        const defect = yield* Effect.flip(Effect.catchAllDefect(Effect.provide(read, store), Effect.fail))
        expect(defect).toBeInstanceOf(TypeError)
        expect(String(defect)).toContain(`The name ${JSON.stringify(name)} of a payload codec cannot be used: `)
      }))
  }

  it.effect("what a codec makes of halves of surrogate pairs is not written", () =>
    Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const error = yield* Effect.flip(store.commit([newRun("run")]))
      expect(error).toMatchObject({ _tag: "StoreCorrupt", workflowId: "run" })
      expect(error.message).toContain("half a surrogate pair")
      expect(yield* store.runs(everything)).toEqual([])
    }).pipe(
      Effect.provide(Layer.provide(
        MemoryStepStore.layer,
        withCodec({ ...reversed("halving"), encode: (json) => Effect.succeed(`${json}\ud83d`) })
      ))
    ))

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
