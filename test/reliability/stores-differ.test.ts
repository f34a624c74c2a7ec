/**
 * Row `stores-differ`: the stores in memory and in a database answer as one to the same commands, and hold the same afterwards.
 *
 * There are two kinds of sequences. In a guided one most commands mean something: a run is written to in its epoch, at the end of its
 * history. In a wild one nothing fits, and the ids are any text that there is.
 */
import { inspect, isDeepStrictEqual } from "node:util"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert } from "@effect/vitest"
import { Cause, Context, Effect, Either, Exit, FastCheck as fc, Layer, Option, Scope } from "effect"
import { Errors, MemoryStepStore, SqliteStepStore, StepStore } from "perdure"
import { completed, everything, patch, update, workerInfo } from "../suites/rows.js"
import { temporaryFile } from "../support/stores.js"
import { row } from "./row.js"

type Store = StepStore.StepStore["Type"]

/** Opens a store that holds nothing yet: that of the nth sequence of commands, from 0. */
type OpenStore = (nth: number) => Effect.Effect<Store, unknown, Scope.Scope>

/** A kind of store: what is opened once for all sequences opens one for each. */
interface Kind {
  readonly name: string
  readonly open: Effect.Effect<OpenStore, unknown, Scope.Scope>
}

const storeOf = <E, R>(layer: Layer.Layer<StepStore.StepStore, E, R>) =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) => Context.get(context, StepStore.StepStore))

const namespaceOf = (nth: number) => `sequence-${nth}`

/** The first of them says what a guided command means: which epoch is the present one, say. */
const kinds: ReadonlyArray<Kind> = [
  {
    name: "memory",
    open: Effect.succeed((nth) => storeOf(MemoryStepStore.layerWith({ namespace: namespaceOf(nth) })))
  },
  {
    name: "sqlite",
    open: Effect.gen(function*() {
      const filename = yield* temporaryFile
      const application = yield* Layer.build(SqliteClient.layer({ filename: yield* temporaryFile }))
      const options = { synchronous: "NORMAL", pollInterval: "1000 days" } as const
      // Those who open one take turns: a file, a database in memory, and a client of the application's.
      return (nth) => {
        const namespace = namespaceOf(nth)
        switch (nth % 3) {
          case 0:
            return storeOf(SqliteStepStore.layer({ ...options, filename, namespace }))
          case 1:
            return storeOf(SqliteStepStore.layer({ ...options, filename: ":memory:", namespace }))
          default:
            return Effect.provide(storeOf(SqliteStepStore.layerClient({ ...options, namespace })), application)
        }
      }
    })
  }
]

// ---------------------------------------------------------------------------------------------------------------------
// commands
// ---------------------------------------------------------------------------------------------------------------------

/** The texts of one sequence: few, so that its commands meet. */
interface Words {
  readonly ids: ReadonlyArray<string>
  readonly names: ReadonlyArray<string>
  readonly workers: ReadonlyArray<string>
}

// Texts that sort in another order by their bytes than by JavaScript's characters are among them.
const familiar: Words = {
  ids: ["a", "b/1", "c\ue000", "c\u{1f600}", "'; DROP TABLE steps; --"],
  names: ["work", "play", "ﬁ é \u0301"],
  workers: ["ada", "bob", "eve\u{1f600}"]
}

const isWellFormed = (text: string) => Buffer.from(text).toString() === text && !text.includes("\0")

/** Any Unicode but NUL, quotes and SQL, up to 256 bytes. */
const hostile = fc.oneof(
  fc.string({ unit: "binary", minLength: 1, maxLength: 64 }),
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 16 }),
  fc.constantFrom("'", "\"", "';--", "%", "_", "\\", "null", "0", "\u{10ffff}", "\ue000", " ")
).filter((text) => isWellFormed(text) && Buffer.byteLength(text) <= 256)

const several = (length: number) => fc.uniqueArray(hostile, { minLength: length, maxLength: length })

const hostileWords: fc.Arbitrary<Words> = fc.record({ ids: several(3), names: several(2), workers: several(2) })

const childIds = ["~a:0", "~a:1", "~b/1:0"]
const places = ["0", "1", "2.0", "10", "2.é", "2.\ue000", "2.\u{1f600}", "3"]
const signalNames = ["go", "stop"]
const signalKeys = ["0", "1", "2", "~0", "~1"]

const place = fc.constantFrom(...places)
const id = fc.constantFrom(...familiar.ids)
const anyId = fc.constantFrom(...familiar.ids, ...childIds)
const time = fc.integer({ min: 0, max: 20 })
const maybe = <T>(arbitrary: fc.Arbitrary<T>, freq = 3) => fc.option(arbitrary, { nil: null, freq })

const text = fc.oneof(
  { weight: 20, arbitrary: fc.constantFrom("\"\"", "0", "null", "{\"a\":1}", "\"é \\u0000 \u{1f600}\"") },
  // One that is bound by itself.
  { weight: 1, arbitrary: fc.constant(JSON.stringify("x€".repeat(35_000))) }
)

// -- in a guided sequence

const insert: fc.Arbitrary<StepStore.RunInsert> = fc.record({
  name: fc.constantFrom(...familiar.names),
  version: maybe(fc.constantFrom("1", "2")),
  status: fc.constantFrom("PENDING", "RUNNING", "RUNNING"),
  owner: maybe(fc.constantFrom(...familiar.workers)),
  parent: maybe(id, 1),
  deadlineAt: maybe(time, 1),
  trace: maybe(fc.constant("{}"), 1),
  fingerprint: fc.constantFrom("one", "other"),
  payload: maybe(text),
  createdAt: time
})

const patches: fc.Arbitrary<StepStore.RunPatch> = fc.oneof(
  fc.record({
    status: fc.constantFrom("PENDING" as const, "RUNNING" as const),
    owner: maybe(fc.constantFrom(...familiar.workers)),
    updatedAt: time
  }).map((rest) => patch({ wakeAt: null, outcome: null, endedAt: null, ...rest })),
  fc.record({ wakeAt: maybe(time), updatedAt: time }).map((rest) =>
    patch({ status: "SUSPENDED", outcome: null, endedAt: null, ...rest })
  ),
  fc.record({ owner: maybe(fc.constantFrom(...familiar.workers), 1), updatedAt: time }).map((rest) =>
    patch({
      status: "STOPPED",
      stopReason: new Errors.BodyDied({ workflowId: "a", detail: "it died", unwinding: [] }),
      outcome: null,
      endedAt: null,
      ...rest
    })
  ),
  fc.record({
    status: fc.constantFrom("COMPLETED" as const, "FAILED" as const, "CANCELLED" as const),
    outcome: maybe(text),
    updatedAt: time,
    endedAt: time
  }).map(patch)
)

/** A step, by its place; its position is where the history ends, or another one. */
const steps = fc.record({
  place,
  how: fc.constantFrom(
    "COMPLETED" as const,
    "COMPLETED" as const,
    "FAILED" as const,
    "IN_PROGRESS" as const,
    "cut" as const
  ),
  /** How far from the end of the history; mostly there. */
  off: fc.oneof({ weight: 12, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: -2, max: 3 }) }),
  attempt: fc.integer({ min: 1, max: 3 }),
  updatedAt: time,
  askedAfter: fc.integer({ min: -1, max: 3 }),
  fingerprint: maybe(fc.constant("print"), 1),
  errorTag: maybe(fc.constant("StepTimeout"), 1),
  text: maybe(text)
})

const attempts = fc.record({
  place,
  attempt: fc.integer({ min: 1, max: 12 }),
  startedAt: time,
  endedAt: time,
  dueAt: maybe(time),
  errorTag: maybe(fc.constantFrom("OwnerDied", "Released")),
  error: maybe(text)
})

const signalOf = fc.record({
  /** A sender's own id, or a token that the run may have given away. */
  key: fc.constantFrom(...signalKeys),
  name: fc.constantFrom(...signalNames)
})

const own = fc.record({
  kind: fc.constant("own" as const),
  id: anyId,
  /** How far from the present epoch. */
  epoch: fc.oneof({ weight: 10, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constantFrom(-1, 1) }),
  inbox: maybe(fc.constantFrom(0, 0, 0, -1, 1), 1),
  generation: fc.oneof({ weight: 15, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constantFrom(-1, 1) }),
  insert: maybe(insert, 1),
  patch: maybe(patches, 1),
  next: maybe(fc.record({ payload: maybe(text), begunAt: time }), 0),
  reopen: fc.oneof(
    { weight: 8, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(place, { minLength: 1, maxLength: 2 }) }
  ),
  steps: fc.oneof(
    { weight: 30, arbitrary: fc.array(steps, { maxLength: 4 }) },
    // More than one statement writes.
    { weight: 1, arbitrary: fc.constant("many" as const) }
  ),
  attempts: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(attempts, { minLength: 1, maxLength: 2 }) }
  ),
  tokens: fc.oneof(
    { weight: 4, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(signalOf, { minLength: 1, maxLength: 2 }) }
  ),
  takes: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fc.record({ key: signalOf, place }), { minLength: 1, maxLength: 2 }) }
  ),
  gives: fc.oneof(
    { weight: 4, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(place, { minLength: 1, maxLength: 2 }) }
  ),
  children: fc.oneof(
    { weight: 5, arbitrary: fc.constant([]) },
    {
      weight: 1,
      arbitrary: fc.uniqueArray(fc.record({ workflowId: fc.constantFrom(...childIds), insert }), {
        minLength: 1,
        maxLength: 3,
        selector: (child) => child.workflowId
      })
    }
  ),
  tells: fc.oneof({ weight: 5, arbitrary: fc.constant([]) }, {
    weight: 1,
    arbitrary: fc.array(anyId, { minLength: 1, maxLength: 3 })
  })
})

const outside = fc.record({
  kind: fc.constant("outside" as const),
  id: anyId,
  cancelAt: maybe(time, 1),
  signal: signalOf,
  value: maybe(text),
  sentAt: time
})

type Update = typeof own extends fc.Arbitrary<infer Own>
  ? typeof outside extends fc.Arbitrary<infer Outside> ? Own | Outside : never
  : never

const guidedCommit = fc.record({
  do: fc.constant("commit" as const),
  updates: fc.uniqueArray(fc.oneof<Array<fc.Arbitrary<Update>>>(own, own, outside), {
    minLength: 1,
    maxLength: 4,
    selector: (update) => update.id
  })
})

// -- in a wild one

const some = <A>(arbitrary: fc.Arbitrary<A>, others: number): fc.Arbitrary<Array<A>> =>
  fc.oneof({ weight: others, arbitrary: fc.constant<Array<A>>([]) }, {
    weight: 1,
    arbitrary: fc.array(arbitrary, { maxLength: 2 })
  })

const wildCommit = ({ ids, names, workers }: Words) => {
  const id = fc.constantFrom(...ids)
  const owner = maybe(fc.constantFrom(...workers), 5)
  const small = fc.nat({ max: 3 })
  const text = maybe(fc.json({ maxDepth: 1 }), 5)
  const run = fc.record({
    name: fc.constantFrom(...names),
    version: maybe(hostile, 5),
    status: fc.constantFrom("PENDING" as const, "RUNNING" as const),
    owner,
    parent: maybe(id, 5),
    deadlineAt: maybe(small, 5),
    trace: maybe(hostile, 5),
    fingerprint: hostile,
    payload: text,
    createdAt: small
  })
  const change = fc.record({
    status: fc.constantFrom(...StepStore.RunStatus.literals),
    owner,
    stopReason: maybe(hostile.map((detail) => new Errors.BodyDied({ workflowId: "x", detail, unwinding: [] })), 5),
    wakeAt: maybe(small, 5),
    outcome: text,
    updatedAt: small,
    endedAt: maybe(small, 5)
  })
  const step = fc.record({
    stepKey: fc.constantFrom("0", "1", "1.0", ...ids),
    stepId: hostile,
    kind: fc.constant("step"),
    sequence: small,
    status: fc.constantFrom(...StepStore.StepStatus.literals),
    position: maybe(fc.nat({ max: 5 }), 5),
    attempt: small,
    epoch: small,
    final: fc.boolean(),
    startedAt: small,
    updatedAt: small,
    askedAfter: fc.integer({ min: -1, max: 1_000 }),
    fingerprint: maybe(hostile, 5),
    output: text,
    errorTag: maybe(hostile, 5),
    error: text
  }).map((step) => ({ ...step, final: step.final && (step.position !== null || step.sequence === 0) }))
  const attempt = fc.record({
    stepKey: fc.constantFrom("0", "1"),
    attempt: fc.nat({ max: 20 }),
    startedAt: small,
    endedAt: small,
    dueAt: maybe(small, 5),
    errorTag: maybe(hostile, 5),
    error: fc.json({ maxDepth: 1 })
  })
  const signalName = fc.constantFrom(...signalNames)
  const signal = fc.record({
    signalId: fc.constantFrom(...signalKeys),
    name: signalName,
    sentAt: small,
    value: text
  })
  const own = fc.record({
    workflowId: id,
    generation: fc.nat({ max: 1 }),
    epoch: fc.integer({ min: 1, max: 3 }),
    insert: maybe(run, 1),
    patch: maybe(change, 1),
    reopen: some(fc.constantFrom("0", "1"), 5),
    steps: fc.array(step, { maxLength: 4 }),
    attempts: some(attempt, 3),
    inbox: maybe(fc.nat({ max: 2 }), 1),
    next: maybe(
      fc.record({
        name: fc.constantFrom(...names),
        fingerprint: hostile,
        deadlineAt: maybe(small, 5),
        parent: maybe(id, 5),
        payload: text,
        begunAt: small
      }),
      1
    ),
    cancelAt: fc.constant(null),
    /** Of its own worker a run reserves tokens only. */
    signals: some(
      fc.record({
        signalId: fc.constant("~0"),
        name: signalName,
        sentAt: fc.constant(null),
        value: fc.constant(null)
      }),
      4
    ),
    takes: some(
      fc.record({ signalId: fc.constantFrom(...signalKeys), stepKey: fc.constantFrom("0", "1") }),
      4
    ),
    gives: some(fc.constantFrom("0", "1"), 4),
    children: some(fc.record({ workflowId: fc.constantFrom(...childIds), insert: run }), 4),
    tells: some(fc.constantFrom(...ids, ...childIds), 4)
  })
  const outside = fc.tuple(
    id,
    fc.oneof(fc.record({ cancelAt: small }), signal.map((signal) => ({ signals: [signal] })))
  ).map(([workflowId, rest]) => update(workflowId, { epoch: null, ...rest }))
  const withOwnTokens = (update: StepStore.RunUpdate): StepStore.RunUpdate => {
    const own = <Row extends { readonly signalId: string }>(row: Row): Row => ({
      ...row,
      signalId: signalIdOf(update.workflowId, row.signalId)
    })
    return { ...update, signals: update.signals.map(own), takes: update.takes.map(own) }
  }
  return fc.record({
    do: fc.constant("batch" as const),
    batch: fc.uniqueArray(
      fc.oneof<Array<fc.WeightedArbitrary<StepStore.RunUpdate>>>(
        { weight: 2, arbitrary: own },
        { weight: 1, arbitrary: outside }
      ).map(withOwnTokens),
      { maxLength: 3, selector: (update) => update.workflowId }
    )
  })
}

// -- in both

const otherCommands = ({ ids, names, workers }: Words) => {
  const id = fc.constantFrom(...ids, ...childIds)
  return fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant("claim" as const),
        worker: fc.constantFrom(...workers),
        names: maybe(fc.subarray([...names])),
        workflowId: maybe(id, 1),
        dead: fc.subarray([...workers], { maxLength: 2 }),
        limit: fc.nat({ max: 4 }),
        at: time
      })
    },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constantFrom("register" as const, "beat" as const, "leave" as const),
        worker: fc.constantFrom(...workers.slice(0, 2))
      })
    },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constant("read" as const),
        id,
        generation: fc.nat({ max: 2 }),
        after: maybe(fc.nat({ max: 4 })),
        key: maybe(place),
        limit: fc.integer({ min: 1, max: 4 }),
        bytes: maybe(fc.nat({ max: 100 })),
        names: fc.subarray([...names])
      })
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("look" as const) }) }
  )
}

const commandsOf = <C>(commit: fc.Arbitrary<C>, words: Words) =>
  fc.array(
    fc.oneof<Array<fc.WeightedArbitrary<C | OtherCommand>>>(
      { weight: 3, arbitrary: commit },
      { weight: 2, arbitrary: otherCommands(words) }
    ),
    { minLength: 5, maxLength: 25 }
  )

type OtherCommand = ReturnType<typeof otherCommands> extends fc.Arbitrary<infer C> ? C : never
type WildCommit = ReturnType<typeof wildCommit> extends fc.Arbitrary<infer C> ? C : never
type GuidedCommit = typeof guidedCommit extends fc.Arbitrary<infer C> ? C : never
type Command = GuidedCommit | WildCommit | OtherCommand

interface Sequence {
  readonly words: Words
  readonly commands: ReadonlyArray<Command>
}

const guidedSequence: fc.Arbitrary<Sequence> = fc.record({
  words: fc.constant(familiar),
  commands: commandsOf(guidedCommit, familiar)
})

const wildSequence: fc.Arbitrary<Sequence> = hostileWords.chain((words) =>
  fc.record({ words: fc.constant(words), commands: commandsOf(wildCommit(words), words) })
)

// ---------------------------------------------------------------------------------------------------------------------
// what a command means, by what is in the first store
// ---------------------------------------------------------------------------------------------------------------------

const keyOf = (workflowId: string, place: string) => `${workflowId}:${place}`

/** A token belongs to one run. */
const signalIdOf = (workflowId: string, key: string) => key.startsWith("~") ? `${key}:${workflowId}` : key

const toUpdate = (one: Update, first: Store): Effect.Effect<StepStore.RunUpdate, Errors.StoreError> =>
  Effect.gen(function*() {
    const run = Option.getOrNull(yield* first.run(one.id))
    if (one.kind === "outside") {
      const signalId = signalIdOf(one.id, one.signal.key)
      const { sentAt, signal: { name }, value } = one
      return update(one.id, {
        epoch: null,
        ...(one.cancelAt === null
          ? { signals: [{ signalId, name, sentAt, value }] }
          : { cancelAt: one.cancelAt })
      })
    }
    const generation = Math.max(0, (run?.generation ?? 0) + one.generation)
    const history = (yield* first.history(one.id, generation, everything)).rows
    let end = (history.at(-1)?.position ?? -1) + 1
    const many = Array.from({ length: 75 }, (_, i): StepStore.StepRow =>
      completed(one.id, end + i, {
        stepKey: keyOf(one.id, `4.${end + i}`)
      }))
    const rows = one.steps === "many"
      ? many
      : one.steps.map(({ how, off, place, text, ...rest }): StepStore.StepRow => {
        const final = how === "COMPLETED" || how === "FAILED"
        const status = how === "cut" ? "FAILED" : how
        return completed(one.id, 0, {
          ...rest,
          stepKey: keyOf(one.id, place),
          status,
          final,
          position: final ? Math.max(0, end++ + off) : null,
          epoch: run?.epoch ?? 1,
          output: status === "COMPLETED" ? text : null,
          error: status === "FAILED" ? text : null
        })
      })
    return update(one.id, {
      generation,
      epoch: Math.max(0, (run?.epoch ?? 1) + one.epoch),
      inbox: one.inbox === null ? null : Math.max(0, (run?.inbox ?? 0) + one.inbox),
      // A run that is not there is mostly created, and one that is there mostly is not.
      insert: run === null || one.epoch === -1 ? one.insert ?? freshRun : null,
      patch: one.patch,
      next: one.next === null || run === null
        ? null
        : {
          ...one.next,
          name: run.name,
          fingerprint: run.fingerprint,
          deadlineAt: run.deadlineAt,
          parent: run.parent
        },
      reopen: one.reopen.map((place) => keyOf(one.id, place)),
      steps: rows,
      attempts: one.attempts.map(({ place, ...rest }) => ({ ...rest, stepKey: keyOf(one.id, place) })),
      signals: one.tokens.map(({ key, name }) => ({
        signalId: signalIdOf(one.id, key.startsWith("~") ? key : `~${key}`),
        name,
        sentAt: null,
        value: null
      })),
      takes: one.takes.map(({ key: { key }, place }) => ({
        signalId: signalIdOf(one.id, key),
        stepKey: keyOf(one.id, place)
      })),
      gives: one.gives.map((place) => keyOf(one.id, place)),
      children: one.children.filter((child) => child.workflowId !== one.id),
      tells: one.tells
    })
  })

const freshRun: StepStore.RunInsert = {
  name: "work",
  version: null,
  status: "RUNNING",
  owner: "ada",
  parent: null,
  deadlineAt: null,
  trace: null,
  fingerprint: "one",
  payload: null,
  createdAt: 1
}

// ---------------------------------------------------------------------------------------------------------------------
// answers
// ---------------------------------------------------------------------------------------------------------------------

/** An error is known by its tag: each store says in its own words what is wrong. */
const tagOf = (error: Errors.StoreError) => error._tag

const named = <Row extends { readonly run: Either.Either<StepStore.RunRow, Errors.StoreError> }>(row: Row) => ({
  ...row,
  run: Either.mapLeft(row.run, tagOf)
})

const sorted = <A>(rows: ReadonlyArray<A>, keyOf: (row: A) => string = String) =>
  [...rows].sort((self, that) => keyOf(self) < keyOf(that) ? -1 : 1)

const byRun = <A extends { readonly workflowId: string }>(rows: ReadonlyArray<A>) =>
  sorted(rows, (row) => row.workflowId)

type Ask = (store: Store) => Effect.Effect<unknown, Errors.StoreError>

const recordsOf = (ids: ReadonlyArray<string>, generation: number, limit: StepStore.RecordsLimit): Ask => (store) =>
  Effect.map(
    store.records(ids.map((workflowId) => ({ workflowId, generation })), limit),
    (all) =>
      byRun(all).map((one) => ({
        ...one,
        records: Either.mapBoth(one.records, {
          onLeft: tagOf,
          // A row that has a place and is not final, which no engine writes, may stand anywhere among them.
          onRight: (records) => ({ ...records, unfinished: sorted(records.unfinished, (row) => row.stepKey) })
        })
      }))
  )

/** All that can be asked of a store; of the rows of runs that are there, each by itself. */
const questions = (
  { ids, names, workers }: Words,
  there: ReadonlyArray<StepStore.RunSummary>
): ReadonlyArray<Ask> => {
  const all = [...ids, ...childIds]
  const upTo = (generation: number) => Array.from({ length: generation + 1 }, (_, i) => i)
  return [
    ...all.map((id): Ask => (store) => store.run(id)),
    (store) => store.runs(everything),
    (store) => Effect.map(store.inboxes(all), byRun),
    (store) => Effect.map(store.ended(all), (ended) => byRun(ended).map(named)),
    ...workers.map((worker): Ask => (store) => Effect.map(store.owned(worker), sorted)),
    ...[names, ...names.map((name) => [name])].map((names): Ask => (store) => store.nextWake(names)),
    ...[[3, 0], [1_000, 0], [1_000, 1], [1_000, 2]].map(([steps, generation]) =>
      recordsOf(all, generation!, { steps: steps!, bytes: 1_000_000 })
    ),
    ...there.flatMap(({ generation, workflowId: id }): ReadonlyArray<Ask> => [
      (store) => store.mail(id, wantedOf(id)),
      (store) => store.token(signalIdOf(id, "~0")),
      ...upTo(generation).flatMap((generation): ReadonlyArray<Ask> => [
        (store) => store.history(id, generation, everything),
        (store) => store.unfinished(id, generation),
        (store) => store.attempts(id, generation),
        (store) => store.steps(id, generation, everything)
      ])
    ])
  ]
}

const wantedOf = (workflowId: string): ReadonlyArray<StepStore.Wanted> =>
  signalNames.flatMap((name) => [
    { name, token: null, limit: 10 },
    { name, token: null, limit: 1 },
    { name, token: signalIdOf(workflowId, "~0"), limit: 1 },
    { name, token: signalIdOf(workflowId, "~1"), limit: 1 }
  ])

/** A worker that is registered, with what ends that. */
type Registered = Map<string, Scope.CloseableScope>

/** Does the same to each store; answers what it has to say. */
const perform = (
  command: Exclude<OtherCommand, { readonly do: "look" }>,
  store: Store,
  registered: Registered
): Effect.Effect<unknown, Errors.StoreError> => {
  switch (command.do) {
    case "claim":
      return Effect.map(store.claim(command), (claimed) => claimed.map(named))
    case "register":
      return registered.has(command.worker) ? Effect.void : Effect.gen(function*() {
        const scope = yield* Scope.make()
        registered.set(command.worker, scope)
        yield* Scope.extend(store.register(workerInfo(command.worker)), scope)
      })
    case "beat":
      return registered.has(command.worker) ? store.beat(workerInfo(command.worker)) : Effect.void
    case "leave": {
      const scope = registered.get(command.worker)
      registered.delete(command.worker)
      return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
    }
    case "read": {
      const { after, bytes, generation, id, key, limit, names } = command
      return Effect.all([
        store.history(id, generation, bytes === null ? { after, limit } : { after, limit, bytes }),
        store.steps(id, generation, { after: key === null ? null : keyOf(id, key), limit }),
        store.runs({ after: after === null ? null : id, limit }),
        store.nextWake(names),
        recordsOf([id], generation, { steps: limit, bytes: bytes ?? 1_000_000 })(store)
      ])
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// sequences
// ---------------------------------------------------------------------------------------------------------------------

/** How often each answer was given, so that one sees what was tried. */
type Tally = Map<string, number>

/** What a store has to say; a death is never right. */
const answerOf = (call: Effect.Effect<unknown, Errors.StoreError>): Effect.Effect<unknown> =>
  Effect.matchCause(call, {
    onFailure: (cause) =>
      Option.match(Cause.failureOption(cause), {
        onNone: () => {
          throw new Error(`A store died: ${Cause.pretty(cause)}`)
        },
        onSome: (error) => error._tag
      }),
    onSuccess: (answer) => answer
  })

/** The answers of all stores to a sequence, which must be those of the first one. */
const compare = ({ commands, words }: Sequence, open: ReadonlyArray<OpenStore>, nth: number, tally: Tally) =>
  Effect.scoped(Effect.gen(function*() {
    const stores = yield* Effect.forEach(open, (store) => store(nth))
    const registered = stores.map((): Registered => new Map())
    yield* Effect.addFinalizer(() =>
      Effect.forEach(registered.flatMap((all) => [...all.values()]), (scope) => Scope.close(scope, Exit.void))
    )
    const [first] = stores

    const same = (what: () => string, ask: (store: Store, i: number) => Effect.Effect<unknown, Errors.StoreError>) =>
      Effect.gen(function*() {
        const [expected, ...others] = yield* Effect.forEach(stores, (store, i) => answerOf(ask(store, i)))
        others.forEach((answer, i) => {
          if (!isDeepStrictEqual(answer, expected)) {
            const shown = (value: unknown) => inspect(value, { depth: 8, maxStringLength: 200 })
            assert.fail(
              `sequence ${nth}, ${what()}: ${kinds[i + 1]!.name} answers ${shown(answer)}, and not ${shown(expected)}`
            )
          }
        })
        return expected
      })

    const look = (when: string) =>
      Effect.gen(function*() {
        const there = yield* first!.runs(everything)
        for (const [i, question] of questions(words, there).entries()) {
          yield* same(() => `${when}: question ${i}, there are ${inspect(there)}`, question)
        }
      })

    for (const [i, command] of commands.entries()) {
      if (command.do === "look") {
        yield* look(`before command ${i}`)
      } else if (command.do === "commit" || command.do === "batch") {
        const batch = command.do === "batch"
          ? command.batch
          : yield* Effect.forEach(command.updates, (update) => toUpdate(update, first!))
        const answer = yield* same(
          () => `command ${i}, commit ${inspect(batch, { depth: 6 })}`,
          (store) =>
            Effect.map(
              store.commit(batch),
              (answers) => answers.map((answer) => answer._tag === "Exists" ? named(answer) : answer)
            )
        )
        const tags = Array.isArray(answer) ? answer.map((one) => String(one._tag)) : [String(answer)]
        tags.forEach((tag) => tally.set(tag, (tally.get(tag) ?? 0) + 1))
      } else {
        yield* same(
          () => `command ${i}, ${inspect(command, { depth: 6 })}`,
          (store, i) => perform(command, store, registered[i]!)
        )
        yield* same(() => `who is dead after command ${i}`, (store) => Effect.map(store.dead, sorted))
      }
    }
    yield* look("at the end")
  }))

/** Answers how many sequences have been compared. */
const compareAll = (sequences: number, open: ReadonlyArray<OpenStore>, tally: Tally): Promise<number> => {
  let made = 0
  const property = fc.asyncProperty(
    fc.oneof(guidedSequence, wildSequence),
    (sequence) => Effect.runPromise(compare(sequence, open, made++, tally))
  )
  return fc.assert(property, { numRuns: sequences }).then(() => made)
}

row(
  {
    name: "stores-differ",
    title: "equal commands get equal answers from all stores, and leave equal histories",
    ci: 500,
    night: 50_000
  },
  4,
  (sequences) =>
    Effect.scoped(Effect.gen(function*() {
      const open = yield* Effect.forEach(kinds, (kind) => kind.open)
      const tally: Tally = new Map()
      const made = yield* Effect.promise(() => compareAll(sequences, open, tally))
      // Valid, fenced and refused ones were among them.
      for (const answer of ["Accepted", "Fenced", "Missed", "Ended", "Known", "Exists", "StoreRejected"]) {
        assert.isAbove(tally.get(answer) ?? 0, 0, `${answer} among ${inspect(tally)}`)
      }
      return made
    }))
)
