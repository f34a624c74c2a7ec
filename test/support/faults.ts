/** Stores that fail when a test says so, and what is logged meanwhile. */
import { Effect, Layer, Logger, LogLevel, Stream } from "effect"
import { type Errors, StepStore } from "perdure"

type Store = StepStore.StepStore["Type"]

type Batch = ReadonlyArray<StepStore.RunUpdate>

/** What can be asked of a store. */
export type Method = Exclude<keyof Store, "interfaceVersion" | "target" | "namespace" | "sharedClient">

/** What is done instead of a call of any method. */
export type Around = <A, R>(
  method: Method,
  call: Effect.Effect<A, Errors.StoreError, R>
) => Effect.Effect<A, Errors.StoreError, R>

/** What is done instead of a call of the store; by default the call itself. */
export interface Faults {
  commit: (batch: Batch, call: ReturnType<Store["commit"]>) => ReturnType<Store["commit"]>
  claim: (options: StepStore.ClaimOptions, call: ReturnType<Store["claim"]>) => ReturnType<Store["claim"]>
  history: (after: number | null, call: ReturnType<Store["history"]>) => ReturnType<Store["history"]>
  register: (worker: StepStore.WorkerInfo, call: ReturnType<Store["register"]>) => ReturnType<Store["register"]>
  beat: (call: ReturnType<Store["beat"]>) => ReturnType<Store["beat"]>
  dead: (call: Store["dead"]) => Store["dead"]
  changes: (call: Store["changes"]) => Store["changes"]
  /** Inside of those above, around the call that they are given. */
  any: Around
}

const noFaults: Faults = {
  commit: (_, call) => call,
  claim: (_, call) => call,
  history: (_, call) => call,
  register: (_, call) => call,
  beat: (call) => call,
  dead: (call) => call,
  changes: (call) => call,
  any: (_, call) => call
}

/** A store with faults, which may be changed at any time. */
export const withoutFaults = (store: Store): { readonly store: Store; readonly faults: Faults } => {
  const faults = { ...noFaults }
  const around: Around = (method, call) => Effect.suspend(() => faults.any(method, call))
  return {
    faults,
    store: {
      ...store,
      commit: (batch) => Effect.suspend(() => faults.commit(batch, around("commit", store.commit(batch)))),
      claim: (options) => Effect.suspend(() => faults.claim(options, around("claim", store.claim(options)))),
      run: (workflowId) => around("run", store.run(workflowId)),
      owned: (worker) => around("owned", store.owned(worker)),
      ended: (workflowIds) => around("ended", store.ended(workflowIds)),
      inboxes: (workflowIds) => around("inboxes", store.inboxes(workflowIds)),
      mail: (workflowId, wanted) => around("mail", store.mail(workflowId, wanted)),
      token: (token) => around("token", store.token(token)),
      nextWake: (names) => around("nextWake", store.nextWake(names)),
      history: (workflowId, generation, page) =>
        Effect.suspend(() =>
          faults.history(page.after, around("history", store.history(workflowId, generation, page)))
        ),
      unfinished: (workflowId, generation) => around("unfinished", store.unfinished(workflowId, generation)),
      steps: (workflowId, generation, page) => around("steps", store.steps(workflowId, generation, page)),
      runs: (page) => around("runs", store.runs(page)),
      attempts: (workflowId, generation) => around("attempts", store.attempts(workflowId, generation)),
      records: (runs, limit) => around("records", store.records(runs, limit)),
      register: (worker) => Effect.suspend(() => faults.register(worker, around("register", store.register(worker)))),
      beat: (worker) => Effect.suspend(() => faults.beat(around("beat", store.beat(worker)))),
      dead: Effect.suspend(() => faults.dead(around("dead", store.dead))),
      changes: Stream.suspend(() => faults.changes(Stream.unwrap(around("changes", Effect.succeed(store.changes)))))
    }
  }
}

/** A store with these faults. */
export const faulty = (store: Store, faults: Partial<Faults>): Store => {
  const made = withoutFaults(store)
  Object.assign(made.faults, faults)
  return made.store
}

/** Lets an effect, and the engines in it, use the store in context with faults that may be changed at any time. */
export const withFaults = <A, E, R>(
  use: (faults: Faults) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | StepStore.StepStore> =>
  Effect.flatMap(StepStore.StepStore, (real) => {
    const { faults, store } = withoutFaults(real)
    return Effect.provideService(use(faults), StepStore.StepStore, store)
  })

/** One call of a store that fails: before it has done anything, or afterwards. */
export interface Hiccup {
  readonly nth: number
  /** It does what it should, and says that it has failed. */
  readonly written: boolean
}

/** Counts the calls of a store, and lets some of them fail. */
export class Hiccups {
  /** So many calls, from 1. */
  calls = 0

  private readonly hiccups: ReadonlyArray<Hiccup>
  private readonly error: (nth: number) => Errors.StoreError
  private readonly happened: () => void

  constructor(
    hiccups: ReadonlyArray<Hiccup>,
    error: (nth: number) => Errors.StoreError,
    happened: () => void = () => {}
  ) {
    this.hiccups = hiccups
    this.error = error
    this.happened = happened
  }

  readonly any: Around = (_, call) => {
    const nth = ++this.calls
    const hiccup = this.hiccups.find((one) => one.nth === nth)
    if (hiccup === undefined) {
      return call
    }
    this.happened()
    const failed = Effect.fail(this.error(nth))
    return hiccup.written ? Effect.zipRight(Effect.ignore(call), failed) : failed
  }
}

/** Fails so many times, if the batch is one that is meant, and counts. */
export const failCommits = (
  faults: Faults,
  options: {
    readonly error: Errors.StoreError
    readonly times: number
    readonly when: (update: StepStore.RunUpdate) => boolean
  }
) => {
  const count = { failed: 0, passed: 0 }
  faults.commit = (batch, call) => {
    if (!batch.some(options.when)) {
      return call
    }
    if (count.failed < options.times) {
      count.failed++
      return Effect.fail(options.error)
    }
    count.passed++
    return call
  }
  return count
}

/** Whether an update records the outcome of a step. */
export const records = (id: string) => (update: StepStore.RunUpdate) =>
  update.steps.some((row) => row.stepId === id && row.final)

/** Whether an update brings a run into a status. */
export const brings = (status: StepStore.RunStatus) => (update: StepStore.RunUpdate) => update.patch?.status === status

/** What is logged, with its level. */
export const logs = () => {
  const entries: Array<string> = []
  const layer = Layer.merge(
    Logger.add(Logger.make(({ logLevel, message }) => {
      entries.push(`${logLevel.label} ${[message].flat().map(String).join(" ")}`)
    })),
    Logger.minimumLogLevel(LogLevel.Debug)
  )
  return { entries, captured: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.provide(self, layer) }
}
