/** Stores that fail when a test says so, and what is logged meanwhile. */
import { Effect, Layer, Logger, LogLevel } from "effect"
import { type Errors, StepStore } from "perdure"

type Store = StepStore.StepStore["Type"]

type Batch = ReadonlyArray<StepStore.RunUpdate>

/** What is done instead of a call of the store; by default the call itself. */
export interface Faults {
  commit: (batch: Batch, call: ReturnType<Store["commit"]>) => ReturnType<Store["commit"]>
  claim: (options: StepStore.ClaimOptions, call: ReturnType<Store["claim"]>) => ReturnType<Store["claim"]>
  history: (after: number | null, call: ReturnType<Store["history"]>) => ReturnType<Store["history"]>
  beat: (call: ReturnType<Store["beat"]>) => ReturnType<Store["beat"]>
  dead: (call: Store["dead"]) => Store["dead"]
  changes: (call: Store["changes"]) => Store["changes"]
}

/** Lets an effect, and the engines in it, use the store in context with faults that may be changed at any time. */
export const withFaults = <A, E, R>(
  use: (faults: Faults) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | StepStore.StepStore> =>
  Effect.flatMap(StepStore.StepStore, (store) => {
    const faults: Faults = {
      commit: (_, call) => call,
      claim: (_, call) => call,
      history: (_, call) => call,
      beat: (call) => call,
      dead: (call) => call,
      changes: (call) => call
    }
    return Effect.provideService(use(faults), StepStore.StepStore, {
      ...store,
      commit: (batch) => Effect.suspend(() => faults.commit(batch, store.commit(batch))),
      claim: (options) => Effect.suspend(() => faults.claim(options, store.claim(options))),
      history: (workflowId, generation, page) =>
        Effect.suspend(() => faults.history(page.after, store.history(workflowId, generation, page))),
      beat: (worker) => Effect.suspend(() => faults.beat(store.beat(worker))),
      dead: Effect.suspend(() => faults.dead(store.dead)),
      changes: faults.changes(store.changes)
    })
  })

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
