/**
 * Histories as files: what is recorded of a run, to be committed beside its workflow, and replayed whenever the code changes.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { identity } from "effect/Function"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import type { StoreError } from "../Errors.js"
import { StopReason, WorkflowNotFound } from "../Errors.js"
import { fullDigest } from "../internal/digest.js"
import { readAll } from "../internal/history.js"
import { canonical } from "../internal/json.js"
import { RunStatus, StepStatus, StepStore } from "../StepStore.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

const text = Schema.NullOr(Schema.String)

/**
 * An operation as recorded; values are JSON text. The fields are those of `StepStore.StepRow`.
 *
 * @since 0.1.0
 * @category models
 */
export const Step = Schema.Struct({
  stepKey: Schema.String,
  stepId: Schema.String,
  kind: Schema.String,
  sequence: Schema.Int,
  status: StepStatus,
  position: Schema.NullOr(Schema.Int),
  attempt: Schema.Int,
  epoch: Schema.Int,
  final: Schema.Boolean,
  startedAt: Schema.Int,
  updatedAt: Schema.Int,
  askedAfter: Schema.Int,
  fingerprint: text,
  errorTag: text,
  output: text,
  error: text
})

/**
 * An attempt that ended without an outcome. The fields are those of `StepStore.AttemptRow`.
 *
 * @since 0.1.0
 * @category models
 */
export const Attempt = Schema.Struct({
  stepKey: Schema.String,
  attempt: Schema.Int,
  startedAt: Schema.Int,
  endedAt: Schema.Int,
  dueAt: Schema.NullOr(Schema.Int),
  errorTag: text,
  error: text
})

/**
 * What is recorded of a generation of a run.
 *
 * @since 0.1.0
 * @category models
 */
export const Generation = Schema.Struct({
  generation: Schema.Int,
  /** Absent where it is not known: a store keeps that of the present generation only. Without it a body cannot be replayed. */
  input: Schema.optionalWith(Schema.Struct({ payload: text, begunAt: Schema.Int }), { exact: true }),
  /** The outcomes, in the order of recording. */
  history: Schema.Array(Step),
  /** What answers no replay: operations under way, and those that were cut. */
  unfinished: Schema.Array(Step),
  attempts: Schema.Array(Attempt)
})

/**
 * What is recorded of a run, in all its generations. The ends of children are in it as the run was told of them, and so are the signals
 * that it has taken.
 *
 * @since 0.1.0
 * @category models
 */
export class History extends Schema.Class<History>("perdure/History")({
  namespace: Schema.String,
  workflowId: Schema.String,
  workflow: Schema.String,
  version: text,
  status: RunStatus,
  stopReason: Schema.NullOr(StopReason),
  fingerprint: Schema.String,
  outcome: text,
  generations: Schema.Array(Generation)
}) {}

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The text is no history, or somebody has changed it: export the run again, or take the file from version control.
 *
 * @since 0.1.0
 * @category errors
 */
export class HistoryDamaged extends Schema.TaggedError<HistoryDamaged>()("HistoryDamaged", { detail: Schema.String }) {
  override get message() {
    return `This is not a history as History.export has written it: ${this.detail}\n` +
      "Take the file from version control again, or export the run anew"
  }
}

/**
 * The history was written by a later version of Perdure. Update the library.
 *
 * @since 0.1.0
 * @category errors
 */
export class HistoryTooNew extends Schema.TaggedError<HistoryTooNew>()("HistoryTooNew", {
  found: Schema.Int,
  supported: Schema.Int
}) {
  override get message() {
    return `This history has format ${this.found}, and this version of Perdure reads up to ${this.supported}: update the library`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Reads what is recorded of a run.
 *
 * @param workflowId - the id of the run
 * @since 0.1.0
 * @category constructors
 */
export const read = (workflowId: string): Effect.Effect<History, WorkflowNotFound | StoreError, StepStore> =>
  Effect.gen(function*() {
    const store = yield* StepStore
    const row = yield* Effect.catchTag(
      Effect.flatten(store.run(workflowId)),
      "NoSuchElementException",
      () => new WorkflowNotFound({ workflowId })
    )
    const { begunAt, fingerprint, generation, name, outcome, payload, status, stopReason, version } = row
    const generations = yield* Effect.forEach(
      Array.from({ length: generation + 1 }, (_, number) => number),
      (number) =>
        Effect.all({
          history: readAll(store, { workflowId, generation: number }, identity),
          unfinished: store.unfinished(workflowId, number),
          attempts: store.attempts(workflowId, number)
        }).pipe(
          Effect.map((rows) => ({
            generation: number,
            ...(number === generation ? { input: { payload, begunAt } } : {}),
            ...rows
          }))
        )
    )
    const { namespace } = store
    return new History(
      { namespace, workflowId, workflow: name, version, status, stopReason, fingerprint, outcome, generations },
      true
    )
  })

// ---------------------------------------------------------------------------------------------------------------------
// conversions
// ---------------------------------------------------------------------------------------------------------------------

const format = "perdure/history"

/** The format that is written, and the latest that is read. */
const formatVersion = 1

const encodeHistory = Schema.encodeSync(History)
const decodeHistory = Schema.decodeUnknownEither(History)
const decodeHeader = Schema.decodeUnknownEither(
  Schema.parseJson(Schema.Struct({
    format: Schema.Literal(format),
    version: Schema.Int,
    digest: Schema.String,
    history: Schema.Unknown
  }))
)

const digestOf = (history: unknown) => fullDigest([canonical(JSON.stringify(history))])

/**
 * A history as JSON text, for a file.
 *
 * @param history - the history
 * @since 0.1.0
 * @category conversions
 */
export const encode = (history: History): string => {
  const encoded = encodeHistory(history)
  return `${JSON.stringify({ format, version: formatVersion, digest: digestOf(encoded), history: encoded }, null, 2)}\n`
}

const export_ = (workflowId: string): Effect.Effect<string, WorkflowNotFound | StoreError, StepStore> =>
  Effect.map(read(workflowId), encode)

const damaged = (error: ParseResult.ParseError) =>
  Either.left(new HistoryDamaged({ detail: ParseResult.TreeFormatter.formatErrorSync(error) }))

const import_ = (json: string): Effect.Effect<History, HistoryDamaged | HistoryTooNew> =>
  Effect.suspend((): Either.Either<History, HistoryDamaged | HistoryTooNew> => {
    const header = decodeHeader(json)
    if (Either.isLeft(header)) {
      return damaged(header.left)
    }
    const { digest, history, version } = header.right
    if (version > formatVersion) {
      return Either.left(new HistoryTooNew({ found: version, supported: formatVersion }))
    }
    return digestOf(history) === digest
      ? Either.orElse(decodeHistory(history), damaged)
      : Either.left(new HistoryDamaged({ detail: "its content does not match its digest" }))
  })

export {
  /**
   * All that is recorded of a run, as JSON text for a file that can be committed.
   *
   * @param workflowId - the id of the run
   * @example
   * ```ts
   * import { NodeContext } from "@effect/platform-node"
   * import { FileSystem } from "@effect/platform"
   * import { Effect, Layer } from "effect"
   * import { SqliteStepStore } from "perdure"
   * import { History } from "perdure/testing"
   *
   * export const save = Effect.gen(function*() {
   *   const fs = yield* FileSystem.FileSystem
   *   yield* fs.writeFileString("test/histories/onboarding.json", yield* History.export("onboarding/ada"))
   * }).pipe(
   *   Effect.provide(Layer.merge(NodeContext.layer, SqliteStepStore.layer({ filename: "durable.db" })))
   * )
   * ```
   *
   * @since 0.1.0
   * @category conversions
   */
  export_ as export,
  /**
   * Reads the text that `export` has made, and makes sure that nobody has changed it.
   *
   * @param json - the text
   * @example
   * ```ts
   * import { Effect } from "effect"
   * import { History } from "perdure/testing"
   *
   * export const load = (json: string) => Effect.map(History.import(json), (history) => history.status)
   * ```
   *
   * @since 0.1.0
   * @category conversions
   */
  import_ as import
}
