/**
 * A store that lives in the memory of the process, for tests and for programs whose runs need not outlive them.
 *
 * It answers as the database stores do. Engines that share one layer instance are workers of one store; when the process
 * ends, everything is gone.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
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

/** By id, in the order of arrival. */
type Signals = HashMap.HashMap<string, KeptSignal>

/** Immutable, so that a batch that fails half-way leaves nothing behind. */
interface State {
  readonly runs: HashMap.HashMap<string, StepStore.RunRowEncoded>
  readonly records: HashMap.HashMap<string, Records>
  /** By run. */
  readonly signals: HashMap.HashMap<string, Signals>
}

const empty: State = { runs: HashMap.empty(), records: HashMap.empty(), signals: HashMap.empty() }

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

const isOpen = (run: StepStore.RunRowEncoded) => run.status === "PENDING" || run.status === "RUNNING"

const hasEnded = (run: StepStore.RunRowEncoded) =>
  run.status === "COMPLETED" || run.status === "FAILED" || run.status === "CANCELLED"

/** When a run goes on by itself. */
const wakesAt = (run: StepStore.RunRowEncoded) =>
  run.status === "SUSPENDED" && run.wakeAt !== null ? run.wakeAt : Number.POSITIVE_INFINITY

const signalsOf = (state: State, workflowId: string): Signals =>
  Option.getOrElse(HashMap.get(state.signals, workflowId), () => HashMap.empty<string, KeptSignal>())

/** Something has been sent to the run: it has to look, even if it sleeps. */
const told = (run: StepStore.RunRowEncoded) => ({
  ...run,
  inbox: run.inbox + 1,
  ...(run.status === "SUSPENDED" ? { status: "PENDING", wakeAt: null } : {})
})

/** The order of databases, which compare the bytes of the text. */
const byBytes: Order.Order<string> = Order.make((self, that) =>
  Buffer.compare(Buffer.from(self), Buffer.from(that)) as -1 | 0 | 1
)

const byKey = Order.mapInput(byBytes, (row: { readonly stepKey: string }) => row.stepKey)

const byAttempt = Order.combine(byKey, Order.mapInput(Order.number, (row: StepStore.AttemptRow) => row.attempt))

const byArrival = Order.mapInput(Order.number, (signal: KeptSignal) => signal.number)

const byId = Order.mapInput(byBytes, (row: StepStore.RunSummaryEncoded) => row.workflowId)

const byWorker = Order.mapInput(byBytes, (pulse: StepStore.Pulse) => pulse.id)

const byAge = Order.combine(Order.mapInput(Order.number, (row: StepStore.RunSummaryEncoded) => row.createdAt), byId)

const byWaking = Order.combine(Order.mapInput(Order.number, wakesAt), byAge)

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

const reopen = Effect.fnUntraced(function*(records: Records, stepKey: string) {
  const step = Option.getOrNull(HashMap.get(records.steps, stepKey))
  if (step === null || step.final === 0 || step.status !== "FAILED") {
    return yield* rejected(`${stepKey} cannot be opened again: it is no final FAILED record`)
  }
  invariant(step.position !== null, "a final record has a position")
  return {
    ...records,
    steps: HashMap.set(records.steps, stepKey, { ...step, final: 0, position: null }),
    history: RedBlackTree.removeFirst(records.history, step.position)
  }
})

const putStep = Effect.fnUntraced(function*(records: Records, step: StepStore.StepRowEncoded) {
  const old = HashMap.get(records.steps, step.stepKey)
  if (Option.exists(old, (row) => row.final === 1)) {
    return yield* rejected(`${step.stepKey}: a final record is never overwritten`)
  }
  const steps = HashMap.set(records.steps, step.stepKey, step)
  if (step.final === 0) {
    return { ...records, steps }
  }
  if (step.position === null || RedBlackTree.has(records.history, step.position)) {
    return yield* rejected(`${step.stepKey}: a final record has a position of its own`)
  }
  return { ...records, steps, history: RedBlackTree.insert(records.history, step.position, step.stepKey) }
})

const putAttempt = Effect.fnUntraced(function*(records: Records, row: StepStore.AttemptRowEncoded) {
  const key = `${row.attempt}:${row.stepKey}`
  if (HashMap.has(records.attempts, key)) {
    return yield* rejected(`attempt ${row.attempt} of ${row.stepKey} is recorded already`)
  }
  return { ...records, attempts: HashMap.set(records.attempts, key, row) }
})

const takeSignal = Effect.fnUntraced(function*(signals: Signals, { signalId, stepKey }: StepStore.Take) {
  const signal = Option.getOrNull(HashMap.get(signals, signalId))
  if (signal === null || signal.sentAt === null || signal.takenBy !== null) {
    return yield* rejected(
      `the signal ${JSON.stringify(signalId)} cannot be taken: it has been, or nobody has sent it`
    )
  }
  return HashMap.set(signals, signalId, { ...signal, takenBy: stepKey })
})

/** What an update of a run's own worker does with signals. */
const exchange = Effect.fnUntraced(function*(before: State, update: StepStore.RunUpdateEncoded) {
  const { gives, takes, workflowId } = update
  let signals = signalsOf(before, workflowId)
  for (const signal of update.signals) {
    if (!HashMap.has(signals, signal.signalId)) {
      signals = HashMap.set(signals, signal.signalId, { ...signal, number: 0, takenBy: null })
    }
  }
  signals = HashMap.map(
    signals,
    (signal) => signal.takenBy !== null && gives.includes(signal.takenBy) ? { ...signal, takenBy: null } : signal
  )
  for (const take of takes) {
    signals = yield* takeSignal(signals, take)
  }
  return { ...before, signals: HashMap.set(before.signals, workflowId, signals) }
})

/** What changes in the row of a run that goes on in its next generation. */
const nextOf = Effect.fnUntraced(
  function*(run: StepStore.RunRowEncoded, { generation, next }: StepStore.RunUpdateEncoded) {
    if (next === null) {
      return {}
    }
    if (run.generation !== generation) {
      return yield* rejected(`generation ${generation} of the run is not its present one`)
    }
    const { begunAt, payload, payloadCodec, payloadDigest } = next
    return { generation: generation + 1, begunAt, updatedAt: begunAt, payload, payloadCodec, payloadDigest }
  }
)

/** What is sent to a run from outside: a signal, or that it is to be cancelled. */
const deliver = (
  before: State,
  update: StepStore.RunUpdateEncoded,
  run: StepStore.RunRowEncoded
): readonly [State, StepStore.CommitAnswer<never>] => {
  const { cancelAt, workflowId } = update
  const [signal] = update.signals
  const put = (run: StepStore.RunRowEncoded) => HashMap.set(before.runs, workflowId, run)
  if (signal === undefined) {
    if (hasEnded(run) || run.cancelAt !== null) {
      return [before, { _tag: hasEnded(run) ? "Ended" : "Known" }]
    }
    const status = run.status === "STOPPED" ? "SUSPENDED" : run.status
    const runs = put({ ...told({ ...run, status }), cancelAt, stopReason: null })
    return [{ ...before, runs }, { _tag: "Accepted" }]
  }
  const signals = signalsOf(before, workflowId)
  const kept = Option.getOrNull(HashMap.get(signals, signal.signalId))
  const isSent = kept !== null && kept.sentAt !== null
  if (hasEnded(run)) {
    return [before, { _tag: isSent ? "Known" : "Ended" }]
  }
  if (isSent || (kept !== null && kept.name !== signal.name)) {
    return [before, { _tag: "Known" }]
  }
  const sent = HashMap.set(signals, signal.signalId, { ...signal, number: run.inbox + 1, takenBy: null })
  return [
    { ...before, runs: put(told(run)), signals: HashMap.set(before.signals, workflowId, sent) },
    { _tag: "Accepted" }
  ]
}

const make = (namespace: string): StepStore.Encoded => {
  const hub = new ChangeHub()
  const workers = new Map<string, number>()
  let state = empty

  const read = <A>(answer: (state: State) => A): Effect.Effect<A> => Effect.sync(() => answer(state))

  /** One update on top of a state: the next state, and the answer. */
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
    let runs = HashMap.set(before.runs, workflowId, { ...run, ...update.patch, ...(yield* nextOf(run, update)) })
    for (const child of update.children) {
      if (!HashMap.has(runs, child.workflowId)) {
        const identity = { workflowId: child.workflowId, generation: 0, epoch: 0 }
        runs = HashMap.set(runs, child.workflowId, toRun(identity, child.insert))
      }
    }
    const after: State = {
      ...(yield* exchange(before, update)),
      runs,
      records: HashMap.set(before.records, recordsKey(workflowId, generation), records)
    }
    return [after, { _tag: "Accepted" }] as const
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
        const tells = new Set(written.flatMap((update) => update.tells))
        state = {
          ...next,
          runs: Array.from(tells).reduce((runs, workflowId) => HashMap.modify(runs, workflowId, told), next.runs)
        }
        hub.committed(written)
        return answers
      }))
    })

  const claim = (options: StepStore.ClaimOptions) =>
    Effect.sync(() => {
      const names = options.names
      const dead = new Set(options.dead)
      const chosen = Array.from(HashMap.values(state.runs)).filter((run) =>
        (names === null || names.includes(run.name)) &&
        (options.workflowId === null || options.workflowId === run.workflowId)
      )
      const open = chosen.filter((run) => isOpen(run) && (run.owner === null || dead.has(run.owner)))
      const awake = chosen.filter((run) => wakesAt(run) <= options.at)
      const claimed = [...open.sort(byAge), ...awake.sort(byWaking)]
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
      state = {
        ...state,
        runs: claimed.reduce((runs, run) => HashMap.set(runs, run.workflowId, run), state.runs)
      }
      hub.publish({ runs: claimed.map((run) => run.workflowId), mail: [] })
      return claimed
    })

  const history = (state: State, workflowId: string, generation: number, page: StepStore.Page<number>) => {
    const { history, steps } = recordsOf(state, workflowId, generation)
    const rows: Array<StepStore.StepRowEncoded> = []
    for (const [, stepKey] of RedBlackTree.greaterThan(history, page.after ?? -1)) {
      if (rows.length >= page.limit) {
        break
      }
      rows.push(HashMap.unsafeGet(steps, stepKey))
    }
    return rows
  }

  return {
    target,
    namespace,
    sharedClient: null,
    commit,
    claim,
    run: (workflowId) => read((state) => runOf(state, workflowId)),
    owned: (worker) =>
      read((state) =>
        Array.from(HashMap.values(state.runs))
          .filter((run) => isOpen(run) && run.owner === worker)
          .map((run) => run.workflowId)
      ),
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
            Array.from(HashMap.values(signalsOf(state, workflowId)))
              .filter((signal) =>
                signal.sentAt !== null && signal.takenBy === null && signal.name === name &&
                (token === null ? !signal.signalId.startsWith("~") : signal.signalId === token)
              )
              .sort(byArrival)
              .slice(0, limit)
              .map(({ number: _, takenBy: __, ...signal }) => signal)
          )
        }
      }),
    token: (token) =>
      read((state) => {
        for (const [workflowId, signals] of state.signals) {
          const signal = Option.getOrNull(HashMap.get(signals, token))
          if (signal !== null) {
            return { workflowId, name: signal.name }
          }
        }
        return null
      }),
    nextWake: (names) =>
      read((state) => {
        const times = Array.from(HashMap.values(state.runs)).flatMap((run) =>
          Number.isFinite(wakesAt(run)) && names.includes(run.name) ? [wakesAt(run)] : []
        )
        return times.length === 0 ? null : times.reduce((least, time) => Math.min(least, time))
      }),
    history: (workflowId, generation, page) => read((state) => history(state, workflowId, generation, page)),
    unfinished: (workflowId, generation) =>
      read((state) =>
        Array.from(HashMap.values(recordsOf(state, workflowId, generation).steps))
          .filter((step) => step.final === 0)
          .sort(byKey)
      ),
    steps: (workflowId, generation, page) =>
      read((state) =>
        pageOf(HashMap.values(recordsOf(state, workflowId, generation).steps), byKey, (step) => step.stepKey, page)
          .map(toStepSummary)
      ),
    runs: (page) =>
      read((state) => pageOf(HashMap.values(state.runs), byId, (run) => run.workflowId, page).map(toRunSummary)),
    attempts: (workflowId, generation) =>
      read((state) => Array.from(HashMap.values(recordsOf(state, workflowId, generation).attempts)).sort(byAttempt)),
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
    dead: read((state) => {
      const owners = Array.from(HashMap.values(state.runs)).flatMap((run) =>
        isOpen(run) && run.owner !== null ? [run.owner] : []
      )
      return Array.from(new Set(owners)).filter((owner) => !workers.has(owner)).sort(byBytes)
    }),
    changes: hub.changes(() => Effect.void)
  }
}
