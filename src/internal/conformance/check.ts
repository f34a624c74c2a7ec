/** What the cases of the conformance suite are made of: rows, and ways to say what is wrong. */
import { inspect, isDeepStrictEqual } from "node:util"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type { StoreError } from "../../Errors.js"
import type {
  AttemptRow,
  ClaimOptions,
  CommitAnswer,
  RunInsert,
  RunPatch,
  RunUpdate,
  StepRow
} from "../../StepStore.js"
import { StepStore } from "../../StepStore.js"

/** Sentences about a store, each with the effect that fails if it is not true. */
export type Cases = Record<string, Effect.Effect<void, unknown, StepStore>>

/** The store did something else than it should. */
export class ConformanceFailure extends Data.TaggedError("ConformanceFailure")<{
  readonly what: string
  readonly expected: unknown
  readonly actual: unknown
}> {
  override get message() {
    return `${this.what}: expected ${inspect(this.expected, { depth: 6 })}, got ${inspect(this.actual, { depth: 6 })}`
  }
}

export const equal = (what: string, actual: unknown, expected: unknown): Effect.Effect<void, ConformanceFailure> =>
  isDeepStrictEqual(actual, expected) ? Effect.void : Effect.fail(new ConformanceFailure({ what, expected, actual }))

export const holds = (what: string, condition: boolean): Effect.Effect<void, ConformanceFailure> =>
  equal(what, condition, true)

export const accepted: CommitAnswer = { _tag: "Accepted" }
export const fenced: CommitAnswer = { _tag: "Fenced" }

export const rejects = <A, R>(what: string, effect: Effect.Effect<A, StoreError, R>) =>
  Effect.flatMap(
    Effect.either(effect),
    (result) =>
      equal(what, Either.match(result, { onLeft: (error) => error._tag, onRight: () => "Success" }), "StoreRejected")
  )

export const update = (workflowId: string, epoch: number | null, rest: Partial<RunUpdate>): RunUpdate => ({
  workflowId,
  generation: 0,
  epoch,
  insert: null,
  patch: null,
  reopen: [],
  steps: [],
  attempts: [],
  inbox: null,
  next: null,
  cancelAt: null,
  signals: [],
  takes: [],
  gives: [],
  children: [],
  tells: [],
  ...rest
})

export const insert = (rest: Partial<RunInsert> = {}): RunInsert => ({
  name: "conformance",
  version: null,
  status: "RUNNING",
  owner: "somebody",
  parent: null,
  deadlineAt: null,
  trace: null,
  fingerprint: "fingerprint",
  payload: "{\"a\":1}",
  createdAt: 1_000,
  ...rest
})

export const patch = (rest: Partial<RunPatch> = {}): RunPatch => ({
  status: "RUNNING",
  owner: "somebody",
  stopReason: null,
  wakeAt: null,
  outcome: null,
  updatedAt: 2_000,
  endedAt: null,
  ...rest
})

export const step = (stepKey: string, rest: Partial<StepRow> = {}): StepRow => ({
  stepKey,
  stepId: "step",
  kind: "step",
  sequence: 0,
  status: "IN_PROGRESS",
  position: null,
  attempt: 1,
  epoch: 1,
  final: false,
  startedAt: 1_000,
  updatedAt: 1_000,
  askedAfter: -1,
  fingerprint: null,
  errorTag: null,
  output: null,
  error: null,
  ...rest
})

export const completed = (stepKey: string, position: number, rest: Partial<StepRow> = {}): StepRow =>
  step(stepKey, { status: "COMPLETED", position, final: true, output: `{"of":${position}}`, ...rest })

export const failed = (stepKey: string, position: number): StepRow =>
  completed(stepKey, position, { status: "FAILED", output: null, error: "{\"_tag\":\"No\"}" })

export const attempt = (stepKey: string, number: number, rest: Partial<AttemptRow> = {}): AttemptRow => ({
  stepKey,
  attempt: number,
  startedAt: 1_000,
  endedAt: 1_500,
  dueAt: null,
  errorTag: null,
  error: "\"it broke\"",
  ...rest
})

export const claimOf = (workflow: string, rest: Partial<ClaimOptions> = {}): ClaimOptions => ({
  worker: "taker",
  names: [workflow],
  workflowId: null,
  dead: [],
  limit: 100,
  at: 3_000,
  ...rest
})

export const everything = { after: null, limit: 1_000_000 }

export const create = Effect.fnUntraced(function*(workflowId: string, rest: Partial<RunInsert> = {}) {
  const store = yield* StepStore
  yield* equal("creating a run", yield* store.commit([update(workflowId, 1, { insert: insert(rest) })]), [accepted])
})

export const keysOf = (rows: ReadonlyArray<{ readonly stepKey: string }>) => rows.map((row) => row.stepKey)

/** The final rows of a run, in the order of recording. */
export const historyOf = (workflowId: string, generation = 0) =>
  Effect.flatMap(
    StepStore,
    (store) => Effect.map(store.history(workflowId, generation, everything), ({ rows }) => rows)
  )

/** What is recorded of a run, to compare before and after. */
export const recordsOf = Effect.fnUntraced(function*(workflowId: string) {
  const store = yield* StepStore
  return {
    run: yield* store.run(workflowId),
    history: yield* historyOf(workflowId),
    unfinished: yield* store.unfinished(workflowId, 0),
    attempts: yield* store.attempts(workflowId, 0)
  }
})

export const rowOf = Effect.fnUntraced(function*(workflowId: string) {
  const store = yield* StepStore
  return Option.getOrThrow(yield* store.run(workflowId))
})

export const worker = (id: string) => ({ id, host: "here", pid: 1, startedAt: 1_000 })

/** The element at an index that is there. */
export const at = <A>(all: ReadonlyArray<A>, index: number): A => all[index] as A
