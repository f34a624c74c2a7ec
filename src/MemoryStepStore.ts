/**
 * A store that lives in the memory of the process, for tests and for programs whose runs need not outlive them.
 *
 * It answers as the database stores do. Engines that share one layer instance are workers of one store; when the process
 * ends, everything is gone.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { constTrue } from "effect/Function"
import * as HashMap from "effect/HashMap"
import * as Iterable from "effect/Iterable"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Order from "effect/Order"
import * as RedBlackTree from "effect/RedBlackTree"
import { StoreRejected } from "./Errors.js"
import { ChangeHub } from "./internal/changeHub.js"
import { invariant } from "./internal/invariant.js"
import * as StepStore from "./StepStore.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Goes into `Step.idempotencyKey`; "default" unless given. */
  readonly namespace?: string
}

/** What is recorded of one generation of a run. */
interface Records {
  readonly steps: HashMap.HashMap<string, StepStore.StepRowEncoded>
  /** The keys of final rows, by position. */
  readonly history: RedBlackTree.RedBlackTree<number, string>
  readonly attempts: HashMap.HashMap<string, StepStore.AttemptRowEncoded>
}

interface KeptSignal extends StepStore.SignalEncoded {
  /** Its place in the order of arrival; of no use until it has been sent. */
  readonly number: number
  readonly takenBy: string | null
}

/** The signals of one run. */
interface Signals {
  readonly byId: HashMap.HashMap<string, KeptSignal>
  /** The ids of those that answer no token and can be taken, by name and in the order of their arrival. */
  readonly waiting: HashMap.HashMap<string, RedBlackTree.RedBlackTree<number, string>>
}

/** The ids of runs, in an order that their keys show. */
type Places = RedBlackTree.RedBlackTree<string, string>

/** Immutable, so that a batch that fails half-way leaves nothing behind. */
interface State {
  readonly runs: HashMap.HashMap<string, StepStore.RunRowEncoded>
  /** The runs that somebody drives or should, by owner, the oldest first. Nobody is the empty text. */
  readonly open: HashMap.HashMap<string, Places>
  /** The runs that wait for a time, the one that wakes first before the others. */
  readonly asleep: Places
  readonly records: HashMap.HashMap<string, Records>
  /** By run. */
  readonly signals: HashMap.HashMap<string, Signals>
  /** By id, the tokens that runs have given away. */
  readonly tokens: HashMap.HashMap<string, StepStore.TokenOwner>
}

const noRecords: Records = {
  steps: HashMap.empty(),
  history: RedBlackTree.empty(Order.number),
  attempts: HashMap.empty()
}

// ---------------------------------------------------------------------------------------------------------------------
// layers
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A store in memory.
 *
 * @param options - the namespace that goes into `Step.idempotencyKey`
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { MemoryStepStore, StepStore } from "perdure"
 *
 * export const program = Effect.flatMap(StepStore.StepStore, (store) => store.runs({ after: null, limit: 10 })).pipe(
 *   Effect.provide(MemoryStepStore.layerWith({ namespace: "tests" }))
 * )
 * ```
 * @since 0.1.0
 * @category layers
 */
export const layerWith = (options: Options): Layer.Layer<StepStore.StepStore> =>
  Layer.effect(StepStore.StepStore, Effect.suspend(() => StepStore.make(make(options.namespace ?? "default"))))

/**
 * A store in memory, in the namespace "default".
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { MemoryStepStore, StepStore } from "perdure"
 *
 * export const program = Effect.flatMap(StepStore.StepStore, (store) => store.runs({ after: null, limit: 10 })).pipe(
 *   Effect.provide(MemoryStepStore.layer)
 * )
 * ```
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<StepStore.StepStore> = layerWith({})

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

const target = "the store in memory"

const rejected = (detail: string) => new StoreRejected({ target, detail })

const recordsKey = (workflowId: string, generation: number) => `${generation}:${workflowId}`

const recordsOf = (state: State, workflowId: string, generation: number): Records =>
  Option.getOrElse(HashMap.get(state.records, recordsKey(workflowId, generation)), () => noRecords)

const runOf = (state: State, workflowId: string): StepStore.RunRowEncoded | null =>
  Option.getOrNull(HashMap.get(state.runs, workflowId))

/** Under whom a run is found that somebody drives or should. */
const ownerOf = (run: StepStore.RunRowEncoded): string | null =>
  run.status === "PENDING" || run.status === "RUNNING" ? run.owner ?? "" : null

const hasEnded = (run: StepStore.RunRowEncoded) =>
  run.status === "COMPLETED" || run.status === "FAILED" || run.status === "CANCELLED"

/** When a run goes on by itself. */
const wakesAt = (run: StepStore.RunRowEncoded) =>
  run.status === "SUSPENDED" && run.wakeAt !== null ? run.wakeAt : Number.POSITIVE_INFINITY

const noSignals: Signals = { byId: HashMap.empty(), waiting: HashMap.empty() }

const isAsleep = (run: StepStore.RunRowEncoded) => Number.isFinite(wakesAt(run))

const signalsOf = (state: State, workflowId: string): Signals =>
  Option.getOrElse(HashMap.get(state.signals, workflowId), () => noSignals)

const isToken = (signalId: string) => signalId.startsWith("~")

const canBeTaken = (signal: KeptSignal) => signal.sentAt !== null && signal.takenBy === null

/** Something has been sent to the run: it has to look, even if it sleeps. */
const told = (run: StepStore.RunRowEncoded) => ({
  ...run,
  inbox: run.inbox + 1,
  ...(run.status === "SUSPENDED" ? { status: "PENDING", wakeAt: null } : {})
})

/** From here on, the order of UTF-16 is not that of bytes. */
const high = /[\ud800-\uffff]/

/** The order of databases, which compare the bytes of the text. */
const byBytes: Order.Order<string> = Order.make((self, that) =>
  high.test(self) || high.test(that)
    ? Buffer.compare(Buffer.from(self), Buffer.from(that)) as -1 | 0 | 1
    : Order.string(self, that)
)

const byKey = Order.mapInput(byBytes, (row: { readonly stepKey: string }) => row.stepKey)

const byAttempt = Order.combine(byKey, Order.mapInput(Order.number, (row: StepStore.AttemptRow) => row.attempt))

const byId = Order.mapInput(byBytes, (row: { readonly workflowId: string }) => row.workflowId)

const byWorker = Order.mapInput(byBytes, (pulse: StepStore.Pulse) => pulse.id)

const byAge = Order.combine(Order.mapInput(Order.number, (run: StepStore.RunSummaryEncoded) => run.createdAt), byId)

const inOrder = (time: number) => String(time).padStart(16, "0")

/** The order of age, as text. */
const ageOf = (run: StepStore.RunRowEncoded) => inOrder(run.createdAt) + run.workflowId

/** The order of waking, as text. */
const wakingOf = (run: StepStore.RunRowEncoded) => inOrder(wakesAt(run)) + ageOf(run)

const empty: State = {
  runs: HashMap.empty(),
  open: HashMap.empty(),
  asleep: RedBlackTree.empty(byBytes),
  records: HashMap.empty(),
  signals: HashMap.empty(),
  tokens: HashMap.empty()
}

const nowhere: Places = RedBlackTree.empty(byBytes)

const openOf = (state: State, owner: string): Places => Option.getOrElse(HashMap.get(state.open, owner), () => nowhere)

/** Writes the row of a run, and finds it a place among the others. */
const putRun = (state: State, run: StepStore.RunRowEncoded): State => {
  const old = runOf(state, run.workflowId)
  const runs = HashMap.set(state.runs, run.workflowId, run)
  const owner = ownerOf(run)
  const awake = old !== null && isAsleep(old) ? RedBlackTree.removeFirst(state.asleep, wakingOf(old)) : state.asleep
  const asleep = isAsleep(run) ? RedBlackTree.insert(awake, wakingOf(run), run.workflowId) : awake
  const before = old === null ? null : ownerOf(old)
  if (before === owner) {
    return { ...state, runs, asleep }
  }
  const open = old === null || before === null ? state.open : withoutOpen(state, before, old)
  return {
    ...state,
    runs,
    asleep,
    open: owner === null
      ? open
      : HashMap.set(open, owner, RedBlackTree.insert(openOf(state, owner), ageOf(run), run.workflowId))
  }
}

const withoutOpen = (state: State, owner: string, run: StepStore.RunRowEncoded) => {
  const places = RedBlackTree.removeFirst(openOf(state, owner), ageOf(run))
  return RedBlackTree.size(places) === 0 ? HashMap.remove(state.open, owner) : HashMap.set(state.open, owner, places)
}

/** The rows of the runs in these places that are wanted, in their order, at most `limit` of them, until one is not due. */
const chosenOf = (
  state: State,
  places: Places,
  isWanted: (run: StepStore.RunRowEncoded) => boolean,
  limit: number,
  isDue: (run: StepStore.RunRowEncoded) => boolean = constTrue
): ReadonlyArray<StepStore.RunRowEncoded> => {
  const chosen: Array<StepStore.RunRowEncoded> = []
  for (const [, workflowId] of places) {
    const run = HashMap.unsafeGet(state.runs, workflowId)
    if (chosen.length === limit || !isDue(run)) {
      break
    }
    if (isWanted(run)) {
      chosen.push(run)
    }
  }
  return chosen
}

const putSignal = (signals: Signals, signal: KeptSignal): Signals => {
  const { name, number, signalId } = signal
  const byId = HashMap.set(signals.byId, signalId, signal)
  if (isToken(signalId)) {
    return { ...signals, byId }
  }
  const others = RedBlackTree.removeFirst(waitingOf(signals, name), number)
  const waiting = canBeTaken(signal) ? RedBlackTree.insert(others, number, signalId) : others
  return { byId, waiting: HashMap.set(signals.waiting, name, waiting) }
}

const waitingOf = (signals: Signals, name: string) =>
  Option.getOrElse(HashMap.get(signals.waiting, name), () => RedBlackTree.empty<number, string>(Order.number))

/** Writes a signal of a run, and remembers whose token it answers. */
const keepSignal = (state: State, workflowId: string, signal: KeptSignal): State => ({
  ...state,
  signals: HashMap.set(state.signals, workflowId, putSignal(signalsOf(state, workflowId), signal)),
  tokens: isToken(signal.signalId)
    ? HashMap.set(state.tokens, signal.signalId, { workflowId, name: signal.name })
    : state.tokens
})

/** What comes after the key, in order, at most `limit` of it. */
const pageOf = <Row>(
  rows: Iterable<Row>,
  order: Order.Order<Row>,
  keyOf: (row: Row) => string,
  page: StepStore.Page<string>
): ReadonlyArray<Row> =>
  Array.from(rows)
    .filter((row) => page.after === null || byBytes(keyOf(row), page.after) > 0)
    .sort(order)
    .slice(0, page.limit)

const toRunSummary = (run: StepStore.RunRowEncoded): StepStore.RunSummaryEncoded => ({
  workflowId: run.workflowId,
  generation: run.generation,
  name: run.name,
  version: run.version,
  status: run.status,
  owner: run.owner,
  epoch: run.epoch,
  wakeAt: run.wakeAt,
  parent: run.parent,
  createdAt: run.createdAt,
  updatedAt: run.updatedAt,
  endedAt: run.endedAt
})

const toStepSummary = (step: StepStore.StepRowEncoded): StepStore.StepSummaryEncoded => ({
  stepKey: step.stepKey,
  stepId: step.stepId,
  kind: step.kind,
  sequence: step.sequence,
  status: step.status,
  position: step.position,
  attempt: step.attempt,
  epoch: step.epoch,
  final: step.final,
  startedAt: step.startedAt,
  updatedAt: step.updatedAt
})

const toRun = (run: StepStore.RunIdentity, insert: StepStore.RunInsertEncoded): StepStore.RunRowEncoded => ({
  workflowId: run.workflowId,
  generation: run.generation,
  name: insert.name,
  version: insert.version,
  status: insert.status,
  owner: insert.owner,
  epoch: run.epoch,
  wakeAt: null,
  parent: insert.parent,
  createdAt: insert.createdAt,
  begunAt: insert.createdAt,
  updatedAt: insert.createdAt,
  endedAt: null,
  deadlineAt: insert.deadlineAt,
  cancelAt: null,
  inbox: 0,
  trace: insert.trace,
  stopReason: null,
  fingerprint: insert.fingerprint,
  payload: insert.payload,
  payloadCodec: insert.payloadCodec,
  payloadDigest: insert.payloadDigest,
  outcome: null,
  outcomeCodec: null,
  outcomeDigest: null
})

type Or<A> = Either.Either<A, StoreRejected>

/** What the stored texts of a row come to, in bytes. */
const bytesOf = ({ error, output }: { readonly error: string | null; readonly output?: string | null }) =>
  Buffer.byteLength(output ?? "") + Buffer.byteLength(error ?? "")

/** Whether more is recorded than that. */
const exceeds = ({ attempts, steps }: Records, limit: StepStore.RecordsLimit) =>
  HashMap.size(steps) > limit.steps || HashMap.size(attempts) > limit.steps ||
  HashMap.reduce(steps, 0, (sum, row) => sum + bytesOf(row)) +
        HashMap.reduce(attempts, 0, (sum, row) => sum + bytesOf(row)) > limit.bytes

const reopen = (records: Records, stepKey: string): Or<Records> => {
  const step = Option.getOrNull(HashMap.get(records.steps, stepKey))
  if (step === null || step.final === 0 || step.status !== "FAILED") {
    return Either.left(rejected(`${stepKey} cannot be opened again: it is no final FAILED record`))
  }
  invariant(step.position !== null, "a final record has a position")
  return Either.right({
    ...records,
    steps: HashMap.set(records.steps, stepKey, { ...step, final: 0, position: null }),
    history: RedBlackTree.removeFirst(records.history, step.position)
  })
}

const putStep = (records: Records, step: StepStore.StepRowEncoded): Or<Records> => {
  const old = HashMap.get(records.steps, step.stepKey)
  if (Option.exists(old, (row) => row.final === 1)) {
    return Either.left(rejected(`${step.stepKey}: a final record is never overwritten`))
  }
  const steps = HashMap.set(records.steps, step.stepKey, step)
  if (step.final === 0) {
    return Either.right({ ...records, steps })
  }
  if (step.position === null || RedBlackTree.has(records.history, step.position)) {
    return Either.left(rejected(`${step.stepKey}: a final record has a position of its own`))
  }
  const history = RedBlackTree.insert(records.history, step.position, step.stepKey)
  return Either.right({ ...records, steps, history })
}

const putAttempt = (records: Records, row: StepStore.AttemptRowEncoded): Or<Records> => {
  const key = `${row.attempt}:${row.stepKey}`
  return HashMap.has(records.attempts, key)
    ? Either.left(rejected(`attempt ${row.attempt} of ${row.stepKey} is recorded already`))
    : Either.right({ ...records, attempts: HashMap.set(records.attempts, key, row) })
}

const takeSignal = (state: State, workflowId: string, { signalId, stepKey }: StepStore.Take): Or<State> => {
  const signal = Option.getOrNull(HashMap.get(signalsOf(state, workflowId).byId, signalId))
  return signal === null || !canBeTaken(signal)
    ? Either.left(
      rejected(`the signal ${JSON.stringify(signalId)} cannot be taken: it has been, or nobody has sent it`)
    )
    : Either.right(keepSignal(state, workflowId, { ...signal, takenBy: stepKey }))
}

/** What an update of a run's own worker does with signals. */
const exchange = Effect.fnUntraced(function*(before: State, update: StepStore.RunUpdateEncoded) {
  const { workflowId } = update
  const gives = new Set(update.gives)
  let state = before
  for (const signal of update.signals) {
    if (!HashMap.has(signalsOf(state, workflowId).byId, signal.signalId)) {
      state = keepSignal(state, workflowId, { ...signal, number: 0, takenBy: null })
    }
  }
  for (const signal of gives.size === 0 ? [] : HashMap.values(signalsOf(state, workflowId).byId)) {
    if (signal.takenBy !== null && gives.has(signal.takenBy)) {
      state = keepSignal(state, workflowId, { ...signal, takenBy: null })
    }
  }
  for (const take of update.takes) {
    state = yield* takeSignal(state, workflowId, take)
  }
  return state
})

/** The first of the signals that somebody waits for. */
const wantedOf = (signals: Signals, { limit, name, token }: StepStore.Wanted): ReadonlyArray<KeptSignal> => {
  if (token === null) {
    return Array.from(
      Iterable.take(waitingOf(signals, name), limit),
      ([, signalId]) => HashMap.unsafeGet(signals.byId, signalId)
    )
  }
  const answer = HashMap.get(signals.byId, token)
  return Option.toArray(Option.filter(answer, (signal) => canBeTaken(signal) && signal.name === name))
}

/** What changes in the row of a run that goes on in its next generation. */
const nextOf = (
  run: StepStore.RunRowEncoded,
  { generation, next }: StepStore.RunUpdateEncoded
): Or<Partial<StepStore.RunRowEncoded>> => {
  if (next === null) {
    return Either.right({})
  }
  if (run.generation !== generation) {
    return Either.left(rejected(`generation ${generation} of the run is not its present one`))
  }
  const { begunAt, payload, payloadCodec, payloadDigest } = next
  return Either.right({
    generation: generation + 1,
    begunAt,
    updatedAt: begunAt,
    payload,
    payloadCodec,
    payloadDigest
  })
}

/** What is sent to a run from outside: a signal, or that it is to be cancelled. */
const deliver = (
  before: State,
  update: StepStore.RunUpdateEncoded,
  run: StepStore.RunRowEncoded
): readonly [State, StepStore.CommitAnswer<never>] => {
  const { cancelAt, workflowId } = update
  const [signal] = update.signals
  if (signal === undefined) {
    if (hasEnded(run) || run.cancelAt !== null) {
      return [before, { _tag: hasEnded(run) ? "Ended" : "Known" }]
    }
    const status = run.status === "STOPPED" ? "SUSPENDED" : run.status
    return [putRun(before, { ...told({ ...run, status }), cancelAt, stopReason: null }), { _tag: "Accepted" }]
  }
  const kept = Option.getOrNull(HashMap.get(signalsOf(before, workflowId).byId, signal.signalId))
  const isSent = kept !== null && kept.sentAt !== null
  if (hasEnded(run)) {
    return [before, { _tag: isSent ? "Known" : "Ended" }]
  }
  if (isSent || (kept !== null && kept.name !== signal.name)) {
    return [before, { _tag: "Known" }]
  }
  const sent = { ...signal, number: run.inbox + 1, takenBy: null }
  return [keepSignal(putRun(before, told(run)), workflowId, sent), { _tag: "Accepted" }]
}

const make = (namespace: string): StepStore.Encoded => {
  const hub = new ChangeHub()
  const workers = new Map<string, number>()
  let state = empty

  const read = <A>(answer: (state: State) => A): Effect.Effect<A> => Effect.sync(() => answer(state))

  /** One update on top of a state: the next state, and the answer. Children are created when all updates have been answered. */
  const apply = Effect.fnUntraced(function*(before: State, update: StepStore.RunUpdateEncoded) {
    const found = runOf(before, update.workflowId)
    if (update.insert !== null && found !== null) {
      return [before, { _tag: "Exists", run: found }] as const
    }
    if (update.epoch === null) {
      return found === null ? [before, { _tag: "Fenced" }] as const : deliver(before, update, found)
    }
    const { epoch, generation, workflowId } = update
    const run = update.insert === null ? found : toRun({ workflowId, generation, epoch }, update.insert)
    if (run === null || run.epoch !== epoch) {
      return [before, { _tag: "Fenced" }] as const
    }
    if (found !== null && update.inbox !== null && update.inbox !== found.inbox) {
      return [before, { _tag: "Missed" }] as const
    }
    let records = recordsOf(before, update.workflowId, update.generation)
    for (const stepKey of update.reopen) {
      records = yield* reopen(records, stepKey)
    }
    for (const step of update.steps) {
      records = yield* putStep(records, step)
    }
    for (const row of update.attempts) {
      records = yield* putAttempt(records, row)
    }
    const patched = putRun(before, { ...run, ...update.patch, ...(yield* nextOf(run, update)) })
    const after = yield* exchange(patched, update)
    return [
      { ...after, records: HashMap.set(after.records, recordsKey(workflowId, generation), records) },
      { _tag: "Accepted" }
    ] as const
  })

  /** Like a database's, a transaction here is one turn of the event loop: nobody sees or changes a state half-way. */
  const commit = (batch: ReadonlyArray<StepStore.RunUpdateEncoded>) =>
    Effect.suspend(() => {
      invariant(new Set(batch.map((update) => update.workflowId)).size === batch.length, "a run stands in a batch once")
      return Effect.runSyncExit(Effect.gen(function*() {
        const answers: Array<StepStore.CommitAnswer<StepStore.RunRowEncoded>> = []
        const written: Array<StepStore.RunUpdateEncoded> = []
        let next = state
        for (const update of batch) {
          const [after, answer] = yield* apply(next, update)
          if (answer._tag === "Accepted") {
            written.push(update)
          }
          next = after
          answers.push(answer)
        }
        for (const { insert, workflowId } of written.flatMap((update) => update.children)) {
          next = HashMap.has(next.runs, workflowId)
            ? next
            : putRun(next, toRun({ workflowId, generation: 0, epoch: 0 }, insert))
        }
        for (const workflowId of new Set(written.flatMap((update) => update.tells))) {
          const run = runOf(next, workflowId)
          next = run === null ? next : putRun(next, told(run))
        }
        state = next
        hub.committed(written)
        return answers
      }))
    })

  const claim = (options: StepStore.ClaimOptions) =>
    Effect.sync(() => {
      const { at, limit, names, workflowId } = options
      const isWanted = (run: StepStore.RunRowEncoded) =>
        (names === null || names.includes(run.name)) && (workflowId === null || workflowId === run.workflowId)
      const owners = Array.from(new Set(["", ...options.dead]))
      const open = owners.flatMap((owner) => chosenOf(state, openOf(state, owner), isWanted, limit))
      const awake = chosenOf(state, state.asleep, isWanted, limit, (run) => wakesAt(run) <= at)
      const claimed = [...open.sort(byAge), ...awake]
        .slice(0, options.limit)
        .sort(byAge)
        .map((run) => ({
          ...run,
          owner: options.worker,
          epoch: run.epoch + 1,
          status: "RUNNING",
          wakeAt: null,
          updatedAt: options.at
        }))
      state = claimed.reduce(putRun, state)
      hub.publish({ runs: claimed.map((run) => run.workflowId), mail: [] })
      return claimed
    })

  const history = (
    state: State,
    workflowId: string,
    generation: number,
    { after, bytes = Infinity, limit }: StepStore.HistoryPage
  ): StepStore.Paged<StepStore.StepRowEncoded> => {
    const { history, steps } = recordsOf(state, workflowId, generation)
    const rows: Array<StepStore.StepRowEncoded> = []
    let sum = 0
    for (const [, stepKey] of RedBlackTree.greaterThan(history, after ?? -1)) {
      if (rows.length >= limit || (rows.length > 0 && sum >= bytes)) {
        return { rows, more: true }
      }
      const row = HashMap.unsafeGet(steps, stepKey)
      rows.push(row)
      sum += bytesOf(row)
    }
    return { rows, more: false }
  }

  const unfinished = (state: State, workflowId: string, generation: number) =>
    Array.from(HashMap.values(recordsOf(state, workflowId, generation).steps))
      .filter((step) => step.final === 0)
      .sort(byKey)

  const attempts = (state: State, workflowId: string, generation: number) =>
    Array.from(HashMap.values(recordsOf(state, workflowId, generation).attempts)).sort(byAttempt)

  return {
    target,
    namespace,
    sharedClient: null,
    commit,
    claim,
    run: (workflowId) => read((state) => runOf(state, workflowId)),
    owned: (worker) => read((state) => Array.from(openOf(state, worker), ([, workflowId]) => workflowId)),
    ended: (workflowIds) =>
      read((state) =>
        workflowIds.flatMap((workflowId) => {
          const run = runOf(state, workflowId)
          return run !== null && hasEnded(run) ? [run] : []
        })
      ),
    inboxes: (workflowIds) =>
      read((state) =>
        workflowIds.flatMap((workflowId) => {
          const run = runOf(state, workflowId)
          return run === null ? [] : [{ workflowId, version: run.inbox }]
        })
      ),
    mail: (workflowId, wanted) =>
      read((state) => {
        const run = runOf(state, workflowId)
        return run === null ? null : {
          inbox: run.inbox,
          cancelAt: run.cancelAt,
          signals: wanted.flatMap(({ limit, name, token }) =>
            wantedOf(signalsOf(state, workflowId), { limit, name, token })
              .map(({ number: _, takenBy: __, ...signal }) => signal)
          )
        }
      }),
    token: (token) => read((state) => Option.getOrNull(HashMap.get(state.tokens, token))),
    nextWake: (names) =>
      read((state) => {
        const [first] = chosenOf(state, state.asleep, (run) => names.includes(run.name), 1)
        return first === undefined ? null : first.wakeAt
      }),
    history: (workflowId, generation, page) => read((state) => history(state, workflowId, generation, page)),
    unfinished: (workflowId, generation) => read((state) => unfinished(state, workflowId, generation)),
    steps: (workflowId, generation, page) =>
      read((state) =>
        pageOf(HashMap.values(recordsOf(state, workflowId, generation).steps), byKey, (step) => step.stepKey, page)
          .map(toStepSummary)
      ),
    runs: (page) =>
      read((state) => pageOf(HashMap.values(state.runs), byId, (run) => run.workflowId, page).map(toRunSummary)),
    attempts: (workflowId, generation) => read((state) => attempts(state, workflowId, generation)),
    records: (runs, limit) =>
      read((state) =>
        runs.flatMap(({ generation, workflowId }) =>
          exceeds(recordsOf(state, workflowId, generation), limit) ? [] : [{
            workflowId,
            generation,
            history: history(state, workflowId, generation, { after: null, limit: limit.steps }).rows,
            unfinished: unfinished(state, workflowId, generation),
            attempts: attempts(state, workflowId, generation)
          }]
        )
      ),
    register: (worker) =>
      Effect.asVoid(Effect.acquireRelease(
        Effect.sync(() => workers.set(worker.id, 0)),
        () => Effect.sync(() => workers.delete(worker.id))
      )),
    beat: (worker) =>
      Effect.sync(() => {
        workers.set(worker.id, (workers.get(worker.id) ?? 0) + 1)
        return Array.from(workers, ([id, beats]): StepStore.Pulse => ({ id, beats })).sort(byWorker)
      }),
    dead: read((state) =>
      Array.from(HashMap.keys(state.open))
        .filter((owner) => owner !== "" && !workers.has(owner))
        .sort(byBytes)
    ),
    changes: hub.changes(() => Effect.void)
  }
}
