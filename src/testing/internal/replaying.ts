/** Replays: a body runs over what is recorded of a generation of its run, and nothing begins that is not. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type { Operation, StopReason } from "../../Errors.js"
import type { Attendant } from "../../internal/attendant.js"
import { FaultPoints } from "../../internal/faultPoints.js"
import { emptyUpdate } from "../../internal/journal.js"
import { Observer } from "../../internal/observer.js"
import type { Engine } from "../../internal/run.js"
import * as MemoryStepStore from "../../MemoryStepStore.js"
import type { AttemptRow, RunUpdate, StepRow } from "../../StepStore.js"
import { StepStore } from "../../StepStore.js"
import { HopClock } from "./hopClock.js"
import { passUntil, type Stage, type Store, withEngine } from "./life.js"
import type { Unrepeatable } from "./unrepeatable.js"

/** What is recorded of one generation. */
export interface Recorded {
  readonly namespace: string
  readonly workflowId: string
  readonly workflow: string
  readonly version: string | null
  readonly generation: number
  readonly begunAt: number
  readonly payload: string | null
  readonly fingerprint: string
  readonly history: ReadonlyArray<StepRow>
  readonly unfinished: ReadonlyArray<StepRow>
  readonly attempts: ReadonlyArray<AttemptRow>
}

/** How a replay has ended. */
export type Replayed =
  | { readonly _tag: "Ended"; readonly status: "COMPLETED" | "FAILED" | "CANCELLED"; readonly outcome: string | null }
  | { readonly _tag: "Continued"; readonly payload: string | null }
  | { readonly _tag: "Stopped"; readonly reason: StopReason }
  /** It has come to the end of what is recorded, and would begin this. */
  | { readonly _tag: "Began"; readonly operation: Operation }
  /** It waits for what nothing recorded brings. */
  | { readonly _tag: "Stuck" }

/** What an update says of the end of a replay; `null` if nothing. */
const verdictOf = ({ next, patch }: RunUpdate): Replayed | null => {
  if (next !== null) {
    return { _tag: "Continued", payload: next.payload }
  }
  switch (patch?.status) {
    case "COMPLETED":
    case "FAILED":
    case "CANCELLED":
      return { _tag: "Ended", status: patch.status, outcome: patch.outcome }
    case "STOPPED":
      return patch.stopReason === null ? null : { _tag: "Stopped", reason: patch.stopReason }
    default:
      return null
  }
}

/** The recorded rows in a store of their own, of a run that anybody may claim. */
const seeded = (recorded: Recorded): Effect.Effect<Store> =>
  Effect.gen(function*() {
    const store = yield* StepStore
    const { attempts, generation, history, unfinished, workflowId } = recorded
    yield* store.commit([{
      // The first epoch is that of a run of which nothing is recorded.
      ...emptyUpdate({ workflowId, generation, epoch: 1 }),
      insert: {
        name: recorded.workflow,
        version: recorded.version,
        status: "PENDING",
        owner: null,
        parent: null,
        // What it has cancelled is recorded.
        deadlineAt: null,
        trace: null,
        fingerprint: recorded.fingerprint,
        payload: recorded.payload,
        createdAt: recorded.begunAt
      },
      steps: [...history, ...unfinished],
      attempts
    }])
    return store
  }).pipe(Effect.orDie, Effect.provide(MemoryStepStore.layerWith({ namespace: recorded.namespace })))

export interface ReplayOptions<E, R> {
  readonly layer: Layer.Layer<never, E, R>
  readonly patience: number
  readonly unrepeatable: Unrepeatable | null
}

export const replayRecorded = <E, R>(
  recorded: Recorded,
  { layer, patience, unrepeatable }: ReplayOptions<E, R>
): Effect.Effect<Replayed, E, Exclude<R, Engine>> =>
  Effect.gen(function*() {
    const verdict = yield* Deferred.make<Replayed>()
    const told = (replayed: Replayed) => Deferred.unsafeDone(verdict, Effect.succeed(replayed))
    const real = yield* seeded(recorded)
    const clock = new HopClock(Math.max(recorded.begunAt, ...recorded.history.map((row) => row.updatedAt)))
    const observer = new Observer(clock)
    const stage: Stage = { clock, observer, patience }
    const attendant: Attendant = {
      clock: observer.clock,
      step: observer.step,
      attempt: observer.attempt,
      body: (self, sequencer) => {
        unrepeatable?.watch(sequencer)
        return observer.body(self, sequencer)
      },
      mayBegin: (operation) => {
        told({ _tag: "Began", operation })
        return false
      }
    }
    const store: Store = {
      ...real,
      commit: (batch) =>
        Effect.zipRight(
          Effect.sync(() => {
            for (const update of batch) {
              const replayed = update.workflowId === recorded.workflowId ? verdictOf(update) : null
              if (replayed !== null) {
                told(replayed)
              }
            }
          }),
          real.commit(batch)
        )
    }
    const life = withEngine(stage, {
      layer,
      attendant,
      store: observer.store(store),
      faults: yield* FaultPoints,
      engine: { parkGrace: "100000 days" }
    }, passUntil(stage, verdict))
    const passed = yield* Effect.withClock(life, clock)
    return passed === "Happened" ? yield* Deferred.await(verdict) : { _tag: "Stuck" } as const
  })
