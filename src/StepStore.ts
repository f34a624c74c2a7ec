/**
 * The store: the small interface behind which a database keeps runs and their histories.
 *
 * People who write workflows never meet it; they choose one of its layers (`SqliteStepStore`, `MemoryStepStore`). People who
 * write a store implement {@link Encoded}, which speaks of strings and numbers only, and lift it with {@link make}.
 *
 * @since 0.1.0
 */
import type { SqlClient } from "@effect/sql/SqlClient"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { StoreError } from "./Errors.js"
import { StopReason, StoreCorrupt } from "./Errors.js"
import { describe } from "./internal/describe.js"
import { Housekeeping } from "./internal/housekeeping.js"
import { RecordsToo } from "./internal/interest.js"
import { isWellFormed, nameProblem } from "./internal/names.js"
import { attemptDigest, outcomeDigest, payloadDigest, signalDigest, stepDigest } from "./internal/seals.js"
import { withoutTransaction } from "./internal/transaction.js"
import { identity, PayloadCodec, type PayloadCodecError, type PayloadCodecShape } from "./PayloadCodec.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Where a run stands.
 *
 * @since 0.1.0
 * @category models
 */
export const RunStatus = Schema.Literal(
  "PENDING",
  "RUNNING",
  "SUSPENDED",
  "STOPPED",
  "COMPLETED",
  "FAILED",
  "CANCELLED"
)

/**
 * @since 0.1.0
 * @category models
 */
export type RunStatus = typeof RunStatus.Type

/**
 * Where a step stands.
 *
 * @since 0.1.0
 * @category models
 */
export const StepStatus = Schema.Literal("IN_PROGRESS", "COMPLETED", "FAILED")

/**
 * @since 0.1.0
 * @category models
 */
export type StepStatus = typeof StepStatus.Type

/**
 * What a listing shows of a run. Times are epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunSummary {
  readonly workflowId: string
  readonly generation: number
  /** The name of the workflow. */
  readonly name: string
  readonly version: string | null
  readonly status: RunStatus
  /** The worker that drives the run, while one does. */
  readonly owner: string | null
  /** Grows with each claim; every write names the epoch it was made under. */
  readonly epoch: number
  /** When a SUSPENDED run goes on by itself; `null` if only something from outside wakes it. */
  readonly wakeAt: number | null
  /** The run that this one is a child of. */
  readonly parent: string | null
  readonly createdAt: number
  readonly updatedAt: number
  readonly endedAt: number | null
}

/**
 * A run as recorded.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunRow extends RunSummary {
  readonly stopReason: StopReason | null
  /** When the present generation began. */
  readonly begunAt: number
  /** When the run is cancelled, wherever it is then. */
  readonly deadlineAt: number | null
  /** When somebody asked for its cancellation. */
  readonly cancelAt: number | null
  /** Grows with everything that is sent to the run: a signal, the end of a child, a cancellation. */
  readonly inbox: number
  /** Where in a trace the run began, as JSON text. */
  readonly trace: string | null
  /** Tells whether two payloads are the same. */
  readonly fingerprint: string
  /** JSON text; `null` stands for no payload. */
  readonly payload: string | null
  /**
   * JSON text of the success of a COMPLETED run, of the typed error of a FAILED one, or of the reason of a CANCELLED one; `null`
   * stands for `undefined`.
   */
  readonly outcome: string | null
}

/**
 * What a listing shows of a step. Times are epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface StepSummary {
  readonly stepKey: string
  readonly stepId: string
  /** Which kind of durable operation: `step`. */
  readonly kind: string
  readonly sequence: number
  readonly status: StepStatus
  /** The place in the order of recording; `null` while the step has no outcome. */
  readonly position: number | null
  readonly attempt: number
  readonly epoch: number
  /** Whether this row answers a replay. */
  readonly final: boolean
  readonly startedAt: number
  readonly updatedAt: number
}

/**
 * A step as recorded.
 *
 * @since 0.1.0
 * @category models
 */
export interface StepRow extends StepSummary {
  /**
   * The position of the outcome that the run was handed last before this operation was asked for, -1 if none: what it may
   * depend on.
   */
  readonly askedAfter: number
  readonly fingerprint: string | null
  /** JSON text of the value; `null` stands for `undefined` in a COMPLETED row. */
  readonly output: string | null
  /**
   * Whose error it is: `null` for the step's own typed failure, or the tag of what Perdure has to say (`StepTimeout` and
   * `StepInterrupted` of a final row; of another one `OwnerDied` or `ProcessKilled` too). No error of a step sets it.
   */
  readonly errorTag: string | null
  /** JSON text: the failure of a final row, or what went wrong, for people, of another one. */
  readonly error: string | null
}

/**
 * An attempt that ended without an outcome. Times are epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface AttemptRow {
  readonly stepKey: string
  readonly attempt: number
  readonly startedAt: number
  readonly endedAt: number
  /** When the next attempt is due by the retry schedule; `null` if no schedule was asked, or it had no more to give. */
  readonly dueAt: number | null
  /**
   * `null` if `error` is the step's own typed failure. Else `StepTimeout`, `StepDied`, or that the attempt was cut off: `OwnerDied`
   * with its worker, or `Released` by one that gave the run back or stopped it.
   */
  readonly errorTag: string | null
  /** JSON text: the failure after which the step was tried again (`null` stands for `undefined`), or what went wrong, for people. */
  readonly error: string | null
}

/**
 * Creates a run, if there is none of this id.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunInsert {
  readonly name: string
  readonly version: string | null
  /** `RUNNING` if it is claimed as it is created, `PENDING` if not. */
  readonly status: RunStatus
  readonly owner: string | null
  readonly parent: string | null
  readonly deadlineAt: number | null
  readonly trace: string | null
  readonly fingerprint: string
  readonly payload: string | null
  readonly createdAt: number
}

/**
 * A run to be created beside an update of another one: its child.
 *
 * @since 0.1.0
 * @category models
 */
export interface ChildInsert {
  readonly workflowId: string
  readonly insert: RunInsert
}

/**
 * Something sent to a run. Times are epoch milliseconds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Signal {
  /** The sender's idempotency key, or a token of the run's own: the same is taken once. */
  readonly signalId: string
  readonly name: string
  /** `null` reserves the id: the run has given it away as a token, and nobody has answered it yet. */
  readonly sentAt: number | null
  /** JSON text; `null` stands for `undefined`. */
  readonly value: string | null
}

/**
 * A signal that answers an operation of its run, and no other from then on.
 *
 * @since 0.1.0
 * @category models
 */
export interface Take {
  readonly signalId: string
  readonly stepKey: string
}

/**
 * Signals that somebody waits for: those of a name that answer no token, or the one that answers a token.
 *
 * @since 0.1.0
 * @category models
 */
export interface Wanted {
  readonly name: string
  readonly token: string | null
  /** The first of them are enough. */
  readonly limit: number
}

/**
 * What waits to be noticed by a run.
 *
 * @since 0.1.0
 * @category models
 */
export interface Mail {
  /** The version of the inbox that this is. */
  readonly inbox: number
  readonly cancelAt: number | null
  /** Signals that are wanted, that were sent, and that no operation has taken; those of a name in the order of their arrival. */
  readonly signals: ReadonlyArray<Signal>
}

/**
 * Who has given a token away.
 *
 * @since 0.1.0
 * @category models
 */
export interface TokenOwner {
  readonly workflowId: string
  /** The name of the signal. */
  readonly name: string
}

/**
 * Which version the inbox of a run has.
 *
 * @since 0.1.0
 * @category models
 */
export interface Inbox {
  readonly workflowId: string
  readonly version: number
}

/**
 * What changes in the row of a run. The payload does only with the generation.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunPatch {
  readonly status: RunStatus
  readonly owner: string | null
  readonly stopReason: StopReason | null
  readonly wakeAt: number | null
  readonly outcome: string | null
  readonly updatedAt: number
  readonly endedAt: number | null
}

/**
 * Begins the next generation of a run, with a history of its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface NextGeneration {
  /** What stays as it was when the run was created: its digest is made anew, and covers that too. */
  readonly name: string
  readonly fingerprint: string
  readonly deadlineAt: number | null
  readonly parent: string | null
  readonly payload: string | null
  readonly begunAt: number
}

/**
 * The one shape of a write: an update of a run, under the epoch that the writer holds.
 *
 * An update of no epoch comes from outside, from whoever knows the id of the run: it holds `signals`, or `cancelAt`, and nothing else.
 * What it brings grows the version of the inbox, and makes a SUSPENDED run PENDING.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunUpdate {
  readonly workflowId: string
  readonly generation: number
  /** The update is refused unless the run is in this epoch; `null` comes from outside, and is refused by a run that has ended. */
  readonly epoch: number | null
  /** Given: the update is refused if something that this version of the inbox does not count has been sent to the run. */
  readonly inbox: number | null
  /** Given: create the run in `epoch`; one that exists already is answered with `Exists`, and nothing else is done. */
  readonly insert: RunInsert | null
  readonly patch: RunPatch | null
  /** Given: the run goes on in its next generation. */
  readonly next: NextGeneration | null
  /** From outside: when the cancellation of the run was asked for. The first request counts. A STOPPED run becomes PENDING. */
  readonly cancelAt: number | null
  /** Keys of final FAILED steps that no longer answer a replay, so that they run again. */
  readonly reopen: ReadonlyArray<string>
  /** Inserted, or put in place of a row of the same key that is not final. */
  readonly steps: ReadonlyArray<StepRow>
  readonly attempts: ReadonlyArray<AttemptRow>
  /** From outside: sent to the run. From its own worker: ids reserved for answers. */
  readonly signals: ReadonlyArray<Signal>
  readonly takes: ReadonlyArray<Take>
  /** Keys of operations that give back what they took. */
  readonly gives: ReadonlyArray<string>
  /** Children to create; one that exists already is left as it is. */
  readonly children: ReadonlyArray<ChildInsert>
  /** Runs to be told of this update: the version of their inbox grows, and a SUSPENDED one becomes PENDING. */
  readonly tells: ReadonlyArray<string>
}

/**
 * Names a life of a run.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunIdentity {
  readonly workflowId: string
  readonly generation: number
  readonly epoch: number
}

/**
 * Names a generation of a run.
 *
 * @since 0.1.0
 * @category models
 */
export interface RunGeneration {
  readonly workflowId: string
  readonly generation: number
}

/**
 * All that is recorded of a generation of a run: what `history`, `unfinished` and `attempts` answer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Records {
  readonly history: ReadonlyArray<StepRow>
  readonly unfinished: ReadonlyArray<StepRow>
  readonly attempts: ReadonlyArray<AttemptRow>
}

/**
 * What became of one update of a batch.
 *
 * @since 0.1.0
 * @category models
 */
export type CommitAnswer<Row = Either.Either<RunRow, StoreError>> =
  | { readonly _tag: "Accepted" }
  /** The run is in another epoch, or gone: nothing of this update was written. */
  | { readonly _tag: "Fenced" }
  /** Something has been sent to the run meanwhile: nothing of this update was written. */
  | { readonly _tag: "Missed" }
  /** From outside: the run has ended, and nothing was written. */
  | { readonly _tag: "Ended" }
  /** From outside: all of its signals were there before, and nothing was written. */
  | { readonly _tag: "Known" }
  /** The run to create is there already: nothing of this update was written. Its row, or why that cannot be read. */
  | { readonly _tag: "Exists"; readonly run: Row }

/**
 * Which runs to take over. PENDING and RUNNING ones are taken, if nobody owns them or their owner is in `dead`; and SUSPENDED ones
 * whose time has come.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClaimOptions {
  /** The new owner. */
  readonly worker: string
  /** Workflows that the worker can drive; `null` for any, together with a `workflowId`. */
  readonly names: ReadonlyArray<string> | null
  /** This run only. */
  readonly workflowId: string | null
  /** Owners known to be dead. */
  readonly dead: ReadonlyArray<string>
  readonly limit: number
  /** The time of the claim, in epoch milliseconds. */
  readonly at: number
}

/**
 * A run that was taken over. Where its row is damaged, `run` says so: damage to one run leaves the others alone.
 *
 * @since 0.1.0
 * @category models
 */
export interface Claimed {
  readonly workflowId: string
  readonly generation: number
  readonly epoch: number
  readonly run: Either.Either<RunRow, StoreError>
}

/**
 * The door of a store into transactions of the application, whose client it uses.
 *
 * @since 0.1.0
 * @category models
 */
export interface SharedClient {
  /**
   * Whether the caller is inside a transaction of that client. Whatever else it asks of the store would wait for the end of this
   * transaction.
   */
  readonly isHeld: Effect.Effect<boolean>
  /**
   * Creates a run as part of that transaction, and answers from what the transaction sees. Listeners to changes are told when the
   * transaction has ended. Fails with `StoreBusy` if the transaction has read what others have changed since: it must be begun anew.
   */
  readonly insert: (run: RunIdentity, row: RunInsert) => Effect.Effect<CommitAnswer, StoreError>
  /** Sends a signal as part of that transaction; the run is told when it has ended. */
  readonly send: (workflowId: string, signal: Signal) => Effect.Effect<CommitAnswer, StoreError>
  /** Whether this is that client. */
  readonly is: (client: SqlClient) => boolean
  /** Records a step in one transaction of that client with what an effect writes. */
  readonly transact: <R>(transaction: StepTransaction<R>) => Effect.Effect<TransactionEnd, StoreError, R>
}

/**
 * A transaction that ends with the record of a step.
 *
 * @since 0.1.0
 * @category models
 */
export interface StepTransaction<R> {
  /** Nothing is run unless the run is in this epoch. */
  readonly run: RunIdentity
  /** Answers the row to record, or `null` to roll back. All of it is done again if the database was busy at the commit. */
  readonly work: Effect.Effect<StepRow | null, never, R>
  /** Asked for at the commit: the position of the record, or `null` to roll back. */
  readonly position: () => number | null
  /** Called as soon as the row is durable, before anything else can happen. */
  readonly committed: (row: StepRow) => void
}

/**
 * What became of a transaction: `Fenced` if the run is in another epoch, or gone.
 *
 * @since 0.1.0
 * @category models
 */
export type TransactionEnd = "Committed" | "Fenced" | "RolledBack"

/**
 * @since 0.1.0
 * @category models
 */
export interface WorkerInfo {
  readonly id: string
  /** For people: where the worker runs. */
  readonly host: string
  readonly pid: number
  readonly startedAt: number
}

/**
 * How often a worker has beaten. What the number is does not matter, only whether it changes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Pulse {
  readonly id: string
  readonly beats: number
}

/**
 * Something happened to `runs`, and something was sent to those in `mail`; `null` if it is not known to which.
 *
 * @since 0.1.0
 * @category models
 */
export type Change = { readonly runs: ReadonlyArray<string>; readonly mail: ReadonlyArray<string> } | null

/**
 * A page of a listing: what comes after the given key, in its order.
 *
 * @since 0.1.0
 * @category models
 */
export interface Page<Key> {
  readonly after: Key | null
  readonly limit: number
}

/**
 * A page of a history: what comes after the given position.
 *
 * @since 0.1.0
 * @category models
 */
export interface HistoryPage extends Page<number> {
  /**
   * Given: the page ends with the record with which the stored outputs and errors come to so many bytes, or more. So it has one record
   * at least, if there is any.
   */
  readonly bytes?: number
}

/**
 * What a page has. How long it is says nothing of what comes after it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Paged<Row> {
  readonly rows: ReadonlyArray<Row>
  /** Whether there are others after the last of these. */
  readonly more: boolean
}

/**
 * How much may be recorded of a run that is read together with others.
 *
 * @since 0.1.0
 * @category models
 */
export interface RecordsLimit {
  /** The most steps, and the most attempts that ended without an outcome. */
  readonly steps: number
  /** The most bytes that their stored outputs and errors may come to. */
  readonly bytes: number
}

// ---------------------------------------------------------------------------------------------------------------------
// encoded models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The columns that stand beside a stored text.
 *
 * @since 0.1.0
 * @category encoded
 */
export interface Stamp {
  readonly codec: string | null
  readonly digest: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RunSummaryEncoded extends Omit<RunSummary, "status"> {
  readonly status: string
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RunRowEncoded extends RunSummaryEncoded {
  /** JSON text. */
  readonly stopReason: string | null
  readonly begunAt: number
  readonly deadlineAt: number | null
  readonly cancelAt: number | null
  readonly inbox: number
  readonly trace: string | null
  readonly fingerprint: string
  readonly payload: string | null
  readonly payloadCodec: string | null
  readonly payloadDigest: string | null
  readonly outcome: string | null
  readonly outcomeCodec: string | null
  readonly outcomeDigest: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface StepSummaryEncoded extends Omit<StepSummary, "status" | "final"> {
  readonly status: string
  readonly final: number
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface StepRowEncoded extends StepSummaryEncoded, Stamp {
  readonly askedAfter: number
  readonly fingerprint: string | null
  readonly errorTag: string | null
  readonly output: string | null
  readonly error: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface AttemptRowEncoded extends AttemptRow, Stamp {}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RecordsEncoded extends RunGeneration {
  readonly history: ReadonlyArray<StepRowEncoded>
  readonly unfinished: ReadonlyArray<StepRowEncoded>
  readonly attempts: ReadonlyArray<AttemptRowEncoded>
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface SignalEncoded extends Signal, Stamp {}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface MailEncoded extends Omit<Mail, "signals"> {
  readonly signals: ReadonlyArray<SignalEncoded>
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface NextGenerationEncoded extends NextGeneration {
  readonly payloadCodec: string | null
  readonly payloadDigest: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface ChildInsertEncoded {
  readonly workflowId: string
  readonly insert: RunInsertEncoded
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RunInsertEncoded extends Omit<RunInsert, "status"> {
  readonly status: string
  readonly payloadCodec: string | null
  readonly payloadDigest: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RunPatchEncoded extends Omit<RunPatch, "status" | "stopReason"> {
  readonly status: string
  readonly stopReason: string | null
  readonly outcomeCodec: string | null
  readonly outcomeDigest: string | null
}

/**
 * @since 0.1.0
 * @category encoded
 */
export interface RunUpdateEncoded
  extends Omit<RunUpdate, "insert" | "patch" | "next" | "steps" | "attempts" | "signals" | "children">
{
  readonly insert: RunInsertEncoded | null
  readonly patch: RunPatchEncoded | null
  readonly next: NextGenerationEncoded | null
  readonly steps: ReadonlyArray<StepRowEncoded>
  readonly attempts: ReadonlyArray<AttemptRowEncoded>
  readonly signals: ReadonlyArray<SignalEncoded>
  readonly children: ReadonlyArray<ChildInsertEncoded>
}

/**
 * The door of a store into transactions of the application; see {@link SharedClient}.
 *
 * @since 0.1.0
 * @category encoded
 */
export interface SharedClientEncoded {
  readonly isHeld: Effect.Effect<boolean>
  readonly insert: (
    run: RunIdentity,
    row: RunInsertEncoded
  ) => Effect.Effect<CommitAnswer<RunRowEncoded>, StoreError>
  readonly send: (
    workflowId: string,
    signal: SignalEncoded
  ) => Effect.Effect<CommitAnswer<RunRowEncoded>, StoreError>
  readonly is: (client: SqlClient) => boolean
  /**
   * Begins a transaction, fences it, runs the effect inside it, and writes the row that the answer of the effect makes. It is asked
   * for in the turn of the commit; `null` rolls back.
   */
  readonly transact: <R>(
    run: RunIdentity,
    work: Effect.Effect<() => Committing | null, StoreError, R>
  ) => Effect.Effect<TransactionEnd, StoreError, R>
}

/**
 * A record about to be committed.
 *
 * @since 0.1.0
 * @category encoded
 */
export interface Committing {
  readonly row: StepRowEncoded
  /** To be called in the turn of the commit, after it. */
  readonly committed: () => void
}

/**
 * What somebody who writes a store implements: the store in plain data.
 *
 * Each method is one transaction, durable when it returns; each may fail with a `StoreError` and must not die of what a
 * database does.
 *
 * @since 0.1.0
 * @category encoded
 */
export interface Encoded {
  /** For messages: which file or database this is. */
  readonly target: string
  /** Runs of other namespaces are invisible. */
  readonly namespace: string
  /** Given if the store uses a client of the application's. */
  readonly sharedClient: SharedClientEncoded | null
  /**
   * Applies a batch in one transaction, and answers for each update in turn. A run stands in a batch at most once. An
   * update that is not accepted leaves the others alone, and a child that is created is not there yet for them. What comes from
   * outside holds one signal or a `cancelAt`. A step that would overwrite a final row, and a signal that cannot be taken, fail the
   * batch with `StoreRejected`.
   */
  readonly commit: (
    batch: ReadonlyArray<RunUpdateEncoded>
  ) => Effect.Effect<ReadonlyArray<CommitAnswer<RunRowEncoded>>, StoreError>
  /** Makes the worker the owner of runs, each in a new epoch, and answers their rows as they are then, oldest first. */
  readonly claim: (options: ClaimOptions) => Effect.Effect<ReadonlyArray<RunRowEncoded>, StoreError>
  readonly run: (workflowId: string) => Effect.Effect<RunRowEncoded | null, StoreError>
  /** The ids of the PENDING and RUNNING runs that a worker owns. */
  readonly owned: (worker: string) => Effect.Effect<ReadonlyArray<string>, StoreError>
  /** The runs among these that have ended: COMPLETED, FAILED or CANCELLED. */
  readonly ended: (workflowIds: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<RunRowEncoded>, StoreError>
  /** The versions of the inboxes of these runs; there is none for a run that is gone. */
  readonly inboxes: (workflowIds: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Inbox>, StoreError>
  /** What waits to be noticed by a run; `null` if there is no such run. */
  readonly mail: (
    workflowId: string,
    wanted: ReadonlyArray<Wanted>
  ) => Effect.Effect<MailEncoded | null, StoreError>
  /** The run that has given this token away, and the name of the signal that it waits for. */
  readonly token: (token: string) => Effect.Effect<TokenOwner | null, StoreError>
  /** When the first SUSPENDED run of these workflows goes on by itself, in epoch milliseconds; `null` if none does. */
  readonly nextWake: (names: ReadonlyArray<string>) => Effect.Effect<number | null, StoreError>
  /** Final rows in the order of their positions. What is not in the page must not be loaded: a single row may have many MiB. */
  readonly history: (
    workflowId: string,
    generation: number,
    page: HistoryPage
  ) => Effect.Effect<Paged<StepRowEncoded>, StoreError>
  /** Rows that are not final, in the order of their keys. */
  readonly unfinished: (
    workflowId: string,
    generation: number
  ) => Effect.Effect<ReadonlyArray<StepRowEncoded>, StoreError>
  /** For people: all rows, without payloads, in the order of their keys. */
  readonly steps: (
    workflowId: string,
    generation: number,
    page: Page<string>
  ) => Effect.Effect<ReadonlyArray<StepSummaryEncoded>, StoreError>
  /** For people: runs, without payloads, in the order of their ids. */
  readonly runs: (page: Page<string>) => Effect.Effect<ReadonlyArray<RunSummaryEncoded>, StoreError>
  /** The attempts that ended without an outcome, by key and number. */
  readonly attempts: (
    workflowId: string,
    generation: number
  ) => Effect.Effect<ReadonlyArray<AttemptRowEncoded>, StoreError>
  /**
   * All that is recorded of runs, each named once, in any order. Those of which more is recorded than the limit allows for each run are
   * left out, and not loaded: they are read in pages.
   */
  readonly records: (
    runs: ReadonlyArray<RunGeneration>,
    limit: RecordsLimit
  ) => Effect.Effect<ReadonlyArray<RecordsEncoded>, StoreError>
  /** Shows that a worker lives, until the scope closes or the process ends. */
  readonly register: (worker: WorkerInfo) => Effect.Effect<void, StoreError, Scope.Scope>
  /**
   * Counts one beat of a worker, whose registration is put back if it is gone, and answers those of all workers, in the order of
   * their ids. The beat comes first: who sees the others has beaten itself.
   */
  readonly beat: (worker: WorkerInfo) => Effect.Effect<ReadonlyArray<Pulse>, StoreError>
  /**
   * Owners of PENDING and RUNNING runs that are known to be dead, or were never registered. Registered workers that are dead
   * and own no run are forgotten.
   */
  readonly dead: Effect.Effect<ReadonlyArray<string>, StoreError>
  /**
   * What this and other processes commit, as soon as it can be known. The first element is `null`, and says that nothing
   * will be missed from then on.
   */
  readonly changes: Stream.Stream<Change, StoreError>
}

// ---------------------------------------------------------------------------------------------------------------------
// tag
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The database that runs live in.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { SqliteStepStore, StepStore } from "perdure"
 *
 * // Which runs are in the database?
 * const program = Effect.gen(function*() {
 *   const store = yield* StepStore.StepStore
 *   const runs = yield* store.runs({ after: null, limit: 100 })
 *   for (const run of runs) {
 *     yield* Effect.log(`${run.workflowId} ${run.status}`)
 *   }
 * })
 *
 * export const main = program.pipe(Effect.provide(SqliteStepStore.layer({ filename: "durable.db" })))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export class StepStore extends Context.Tag("perdure/StepStore")<StepStore, {
  /** Grows when the interface changes incompatibly. */
  readonly interfaceVersion: 1
  readonly target: string
  readonly namespace: string
  /** Given if the store uses a client of the application's. */
  readonly sharedClient: SharedClient | null
  /** One transaction for all updates, durable when it returns; an answer for each, in order. */
  readonly commit: (batch: ReadonlyArray<RunUpdate>) => Effect.Effect<ReadonlyArray<CommitAnswer>, StoreError>
  /** Takes over runs that nobody owns or whose owner is dead; every earlier claim on them is dead from then on. */
  readonly claim: (options: ClaimOptions) => Effect.Effect<ReadonlyArray<Claimed>, StoreError>
  readonly run: (workflowId: string) => Effect.Effect<Option.Option<RunRow>, StoreError>
  /** The ids of the PENDING and RUNNING runs that a worker owns. */
  readonly owned: (worker: string) => Effect.Effect<ReadonlyArray<string>, StoreError>
  /** The runs among these that have ended; damage to one leaves the others readable. */
  readonly ended: (
    workflowIds: ReadonlyArray<string>
  ) => Effect.Effect<
    ReadonlyArray<{ readonly workflowId: string; readonly run: Either.Either<RunRow, StoreError> }>,
    StoreError
  >
  readonly inboxes: (workflowIds: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Inbox>, StoreError>
  /** What waits to be noticed by a run. */
  readonly mail: (
    workflowId: string,
    wanted: ReadonlyArray<Wanted>
  ) => Effect.Effect<Option.Option<Mail>, StoreError>
  /** Who has given a token away. */
  readonly token: (token: string) => Effect.Effect<Option.Option<TokenOwner>, StoreError>
  /** When the first SUSPENDED run of these workflows goes on by itself, in epoch milliseconds. */
  readonly nextWake: (names: ReadonlyArray<string>) => Effect.Effect<Option.Option<number>, StoreError>
  /** The outcomes of a run in the order of recording, a page at a time. */
  readonly history: (
    workflowId: string,
    generation: number,
    page: HistoryPage
  ) => Effect.Effect<Paged<StepRow>, StoreError>
  /** The rows that answer no replay: steps under way, and attempts that ended without an outcome. */
  readonly unfinished: (workflowId: string, generation: number) => Effect.Effect<ReadonlyArray<StepRow>, StoreError>
  readonly steps: (
    workflowId: string,
    generation: number,
    page: Page<string>
  ) => Effect.Effect<ReadonlyArray<StepSummary>, StoreError>
  readonly runs: (page: Page<string>) => Effect.Effect<ReadonlyArray<RunSummary>, StoreError>
  readonly attempts: (workflowId: string, generation: number) => Effect.Effect<ReadonlyArray<AttemptRow>, StoreError>
  /** All that is recorded of those among these runs that have no more than the limit; damage to one leaves the others readable. */
  readonly records: (
    runs: ReadonlyArray<RunGeneration>,
    limit: RecordsLimit
  ) => Effect.Effect<
    ReadonlyArray<{ readonly workflowId: string; readonly records: Either.Either<Records, StoreError> }>,
    StoreError
  >
  readonly register: (worker: WorkerInfo) => Effect.Effect<void, StoreError, Scope.Scope>
  /** Counts one beat of a worker, and answers those of all workers. */
  readonly beat: (worker: WorkerInfo) => Effect.Effect<ReadonlyArray<Pulse>, StoreError>
  readonly dead: Effect.Effect<ReadonlyArray<string>, StoreError>
  readonly changes: Stream.Stream<Change, StoreError>
}>() {}

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

const isRunStatus = Schema.is(RunStatus)
const isStepStatus = Schema.is(StepStatus)
const encodeStopReason = Schema.encodeSync(Schema.parseJson(StopReason))
const decodeStopReason = Schema.decodeUnknownOption(Schema.parseJson(StopReason))

const isOptional = (is: (value: unknown) => boolean) => (value: unknown) => value === null || is(value)

const isOptionalNumber = isOptional(Number.isSafeInteger)
const isOptionalText = isOptional(Predicate.isString)

// A damaged database may hold another type than its columns have, and reads it without a complaint.

const isWellTypedStep = (row: StepRowEncoded): boolean =>
  [row.stepKey, row.stepId, row.kind].every(Predicate.isString) &&
  [row.fingerprint, row.codec, row.errorTag, row.output, row.error].every(isOptionalText) &&
  [row.attempt, row.startedAt].every(Number.isSafeInteger)

const isWellTypedRun = (row: RunRowEncoded): boolean =>
  [row.generation, row.epoch, row.inbox, row.createdAt, row.begunAt, row.updatedAt].every(Number.isSafeInteger) &&
  [row.wakeAt, row.endedAt, row.deadlineAt, row.cancelAt].every(isOptionalNumber) &&
  [row.version, row.owner, row.parent, row.trace, row.stopReason, row.payloadCodec, row.outcomeCodec]
    .every(isOptionalText) &&
  // Bytes that are no text come back so, and nobody could ask for the runs of such an owner.
  row.owner?.includes("\ufffd") !== true

/**
 * Lifts a store in plain data into the typed service: here payloads pass through the {@link PayloadCodec}, digests are made
 * and verified, and the application's own transaction, if one surrounds the call, is kept out.
 *
 * @param encoded - the store in plain data
 * @since 0.1.0
 * @category constructors
 */
export const make = (encoded: Encoded): Effect.Effect<StepStore["Type"]> =>
  Effect.flatMap(PayloadCodec, (codec) => {
    const problem = nameProblem(codec.name)
    return problem === null
      ? Effect.succeed(lift(encoded, codec))
      : Effect.die(
        new TypeError(`The name ${JSON.stringify(codec.name)} of a payload codec cannot be used: ${problem}`)
      )
  })

/** What is known at once is an `Either`: with the identity codec, a page of rows costs no effect for each of them. */
type Opened<A> = Effect.Effect<A, StoreError>

const isAtHand = <A>(opened: Opened<A>): opened is Either.Either<A, StoreError> => Either.isEither(opened)

const openEach = <Row, A>(
  rows: ReadonlyArray<Row>,
  open: (row: Row, i: number) => Opened<A>
): Opened<ReadonlyArray<A>> => {
  const all: Array<A> = []
  for (let i = 0; i < rows.length; i++) {
    const opened = open(rows[i]!, i)
    if (!isAtHand(opened)) {
      return Effect.forEach(rows, open)
    }
    if (Either.isLeft(opened)) {
      return Either.left(opened.left)
    }
    all.push(opened.right)
  }
  return Either.right(all)
}

const lift = (encoded: Encoded, codec: PayloadCodecShape): StepStore["Type"] => {
  const plain = codec === identity

  const damaged = (workflowId: string, detail: string) =>
    new StoreCorrupt({ target: encoded.target, workflowId, detail })

  /** A codec that dies concerns the run at hand, like one that fails. */
  const coded = (workflowId: string, work: () => Effect.Effect<string, PayloadCodecError>) =>
    Effect.suspend(work).pipe(
      Effect.mapError((error) => error.message),
      Effect.catchAllDefect((defect) => Effect.fail(`the codec "${codec.name}" died: ${describe(Cause.die(defect))}`)),
      Effect.mapError((detail) => damaged(workflowId, detail))
    )

  const sealText = (workflowId: string, json: string): Effect.Effect<string, StoreError> =>
    Effect.filterOrFail(
      coded(workflowId, () => codec.encode(json)),
      isWellFormed,
      () =>
        damaged(workflowId, `the codec "${codec.name}" made a text with half a surrogate pair, which no database keeps`)
    )

  const seal = (workflowId: string, json: string | null): Effect.Effect<string | null, StoreError> =>
    json === null ? Effect.succeed(null) : sealText(workflowId, json)

  const open = (
    workflowId: string,
    stored: string | null,
    name: string | null
  ): Effect.Effect<string | null, StoreError> =>
    stored === null ? Effect.succeed(null) : coded(workflowId, () => codec.decode(stored, name ?? identity.name))

  /** Whether nothing has to be decoded. */
  const isOpen = (stored: string | null, name: string | null) => stored === null || (plain && name === identity.name)

  const nameFor = (text: string | null, other: string | null = null) =>
    text === null && other === null ? null : codec.name

  // -- towards the database
  //
  // Field by field: where a spread adds fields, V8 takes ten times the memory and up to 3 µs for each object.

  const sealStep = (
    owner: RunGeneration,
    step: StepRow,
    output: string | null,
    error: string | null
  ): StepRowEncoded => {
    const row: { -readonly [Field in keyof StepRowEncoded]: StepRowEncoded[Field] } = {
      stepKey: step.stepKey,
      stepId: step.stepId,
      kind: step.kind,
      sequence: step.sequence,
      status: step.status,
      position: step.position,
      attempt: step.attempt,
      epoch: step.epoch,
      final: step.final ? 1 : 0,
      startedAt: step.startedAt,
      updatedAt: step.updatedAt,
      askedAfter: step.askedAfter,
      fingerprint: step.fingerprint,
      codec: nameFor(output, error),
      digest: null,
      errorTag: step.errorTag,
      output,
      error
    }
    if (step.final) {
      row.digest = stepDigest(owner, row)
    }
    return row
  }

  const sealInsert = (owner: RunGeneration, insert: RunInsert, payload: string | null): RunInsertEncoded => {
    const payloadCodec = nameFor(payload)
    return {
      name: insert.name,
      version: insert.version,
      status: insert.status,
      owner: insert.owner,
      parent: insert.parent,
      deadlineAt: insert.deadlineAt,
      trace: insert.trace,
      fingerprint: insert.fingerprint,
      payload,
      payloadCodec,
      payloadDigest: payloadDigest(owner, { ...insert, begunAt: insert.createdAt }, payloadCodec, payload),
      createdAt: insert.createdAt
    }
  }

  const sealNext = (
    { generation, workflowId }: RunGeneration,
    next: NextGeneration,
    payload: string | null
  ): NextGenerationEncoded => {
    const payloadCodec = nameFor(payload)
    const owner = { workflowId, generation: generation + 1 }
    return { ...next, payload, payloadCodec, payloadDigest: payloadDigest(owner, next, payloadCodec, payload) }
  }

  const sealPatch = (patch: RunPatch, outcome: string | null): RunPatchEncoded => {
    const outcomeCodec = nameFor(outcome)
    return {
      status: patch.status,
      owner: patch.owner,
      stopReason: patch.stopReason === null ? null : encodeStopReason(patch.stopReason),
      wakeAt: patch.wakeAt,
      outcome,
      outcomeCodec,
      outcomeDigest: outcomeDigest(patch.status, outcomeCodec, outcome),
      updatedAt: patch.updatedAt,
      endedAt: patch.endedAt
    }
  }

  const sealSignal = (workflowId: string, signal: Signal, value: string | null): SignalEncoded => {
    const coded = { ...signal, value, codec: nameFor(value) }
    return { ...coded, digest: signalDigest(workflowId, coded) }
  }

  interface Sealed {
    readonly payload: string | null
    readonly outcome: string | null
    readonly next: string | null
    readonly steps: ReadonlyArray<StepRowEncoded>
    readonly attempts: ReadonlyArray<AttemptRowEncoded>
    readonly signals: ReadonlyArray<SignalEncoded>
    readonly children: ReadonlyArray<ChildInsertEncoded>
  }

  const toUpdate = (
    update: RunUpdate,
    { attempts, children, next, outcome, payload, signals, steps }: Sealed
  ): RunUpdateEncoded => {
    return {
      workflowId: update.workflowId,
      generation: update.generation,
      epoch: update.epoch,
      inbox: update.inbox,
      cancelAt: update.cancelAt,
      reopen: update.reopen,
      takes: update.takes,
      gives: update.gives,
      tells: update.tells,
      insert: update.insert === null ? null : sealInsert(update, update.insert, payload),
      next: update.next === null ? null : sealNext(update, update.next, next),
      patch: update.patch === null ? null : sealPatch(update.patch, outcome),
      steps,
      attempts,
      signals,
      children
    }
  }

  const attempt = (owner: RunGeneration, row: AttemptRow, error: string | null): AttemptRowEncoded => {
    const coded = { ...row, error, codec: nameFor(error) }
    return { ...coded, digest: attemptDigest(owner, coded) }
  }

  // The identity codec is the common one, and this is the hot path: no Effect for each update there.
  const sealPlain = (update: RunUpdate): RunUpdateEncoded =>
    toUpdate(update, {
      payload: update.insert?.payload ?? null,
      outcome: update.patch?.outcome ?? null,
      next: update.next?.payload ?? null,
      steps: update.steps.map((step) => sealStep(update, step, step.output, step.error)),
      attempts: update.attempts.map((row) => attempt(update, row, row.error)),
      signals: update.signals.map((signal) => sealSignal(update.workflowId, signal, signal.value)),
      children: update.children.map(({ insert, workflowId }) => ({
        workflowId,
        insert: sealInsert({ workflowId, generation: 0 }, insert, insert.payload)
      }))
    })

  const sealCoded = Effect.fnUntraced(function*(update: RunUpdate) {
    const id = update.workflowId
    return toUpdate(update, {
      payload: yield* seal(id, update.insert?.payload ?? null),
      outcome: yield* seal(id, update.patch?.outcome ?? null),
      next: yield* seal(id, update.next?.payload ?? null),
      steps: yield* Effect.forEach(
        update.steps,
        (step) =>
          Effect.zipWith(
            seal(id, step.output),
            seal(id, step.error),
            (output, error) => sealStep(update, step, output, error)
          )
      ),
      attempts: yield* Effect.forEach(
        update.attempts,
        (row) => Effect.map(seal(id, row.error), (error) => attempt(update, row, error))
      ),
      signals: yield* Effect.forEach(
        update.signals,
        (signal) => Effect.map(seal(id, signal.value), (value) => sealSignal(id, signal, value))
      ),
      children: yield* Effect.forEach(
        update.children,
        ({ insert, workflowId }) =>
          Effect.map(seal(id, insert.payload), (payload) => ({
            workflowId,
            insert: sealInsert({ workflowId, generation: 0 }, insert, payload)
          }))
      )
    })
  })

  const sealed = (batch: ReadonlyArray<RunUpdate>) =>
    plain
      ? Effect.suspend(() => encoded.commit(batch.map(sealPlain)))
      : Effect.flatMap(Effect.forEach(batch, sealCoded), encoded.commit)

  // -- from the database

  const openRunSummary = (row: RunSummaryEncoded): Opened<RunSummary> =>
    isRunStatus(row.status)
      ? Either.right({ ...row, status: row.status })
      : Either.left(damaged(row.workflowId, `its status is ${JSON.stringify(row.status)}`))

  /** @param workflowId - the run that was asked for: an index that is damaged may lead to another one */
  const openRun = (row: RunRowEncoded, workflowId: string): Opened<RunRow> => {
    const { outcomeCodec, payloadCodec, status } = row
    if (row.workflowId !== workflowId) {
      return Either.left(damaged(workflowId, `run ${JSON.stringify(row.workflowId)} is found in its place`))
    }
    if (!isRunStatus(status)) {
      return Either.left(damaged(workflowId, `its status is ${JSON.stringify(status)}`))
    }
    if (!isWellTypedRun(row)) {
      return Either.left(damaged(workflowId, "a column holds what no such column can"))
    }
    if (row.payloadDigest !== payloadDigest(row, row, payloadCodec, row.payload)) {
      return Either.left(damaged(workflowId, "its payload does not match its digest"))
    }
    if (row.outcomeDigest !== outcomeDigest(status, outcomeCodec, row.outcome)) {
      return Either.left(damaged(workflowId, "its outcome does not match its digest"))
    }
    const stopReason = row.stopReason === null ? null : Option.getOrUndefined(decodeStopReason(row.stopReason))
    if (stopReason === undefined) {
      return Either.left(damaged(workflowId, "its stop reason cannot be read"))
    }
    const opened = (payload: string | null, outcome: string | null): RunRow => ({
      workflowId,
      generation: row.generation,
      name: row.name,
      version: row.version,
      status,
      owner: row.owner,
      epoch: row.epoch,
      wakeAt: row.wakeAt,
      parent: row.parent,
      createdAt: row.createdAt,
      updatedAt: row.updatedAt,
      endedAt: row.endedAt,
      begunAt: row.begunAt,
      deadlineAt: row.deadlineAt,
      cancelAt: row.cancelAt,
      inbox: row.inbox,
      trace: row.trace,
      fingerprint: row.fingerprint,
      stopReason,
      payload,
      outcome
    })
    return isOpen(row.payload, payloadCodec) && isOpen(row.outcome, outcomeCodec)
      ? Either.right(opened(row.payload, row.outcome))
      : Effect.zipWith(
        open(workflowId, row.payload, payloadCodec),
        open(workflowId, row.outcome, outcomeCodec),
        opened
      )
  }

  /** What is wrong with one run is said of that run, and leaves the others alone. */
  const openApart = <A>(
    row: RunRowEncoded,
    workflowId: string,
    made: (run: Either.Either<RunRow, StoreError>) => A
  ): Opened<A> => {
    const run = openRun(row, workflowId)
    return isAtHand(run) ? Either.right(made(run)) : Effect.map(Effect.either(run), made)
  }

  const openStepSummary = (workflowId: string, row: StepSummaryEncoded): Opened<StepSummary> =>
    isStepStatus(row.status)
      ? Either.right({
        stepKey: row.stepKey,
        stepId: row.stepId,
        kind: row.kind,
        sequence: row.sequence,
        status: row.status,
        position: row.position,
        attempt: row.attempt,
        epoch: row.epoch,
        final: row.final === 1,
        startedAt: row.startedAt,
        updatedAt: row.updatedAt
      })
      : Either.left(wrongStatus(workflowId, row))

  const wrongStatus = (workflowId: string, row: StepSummaryEncoded) =>
    damaged(workflowId, `the status of ${row.stepKey} is ${JSON.stringify(row.status)}`)

  const openStep = (owner: RunGeneration, row: StepRowEncoded): Opened<StepRow> => {
    const { workflowId } = owner
    const { codec, error, output, status } = row
    if (!isStepStatus(status)) {
      return Either.left(wrongStatus(workflowId, row))
    }
    // What is not final has no digest; or, if it was final and was opened again, no position.
    const isDamaged = row.final === 1
      ? row.digest !== stepDigest(owner, row)
      : !isWellTypedStep(row) || (row.digest !== null && row.position !== null)
    if (isDamaged) {
      return Either.left(damaged(workflowId, `${row.stepKey} does not match its digest`))
    }
    const opened = (output: string | null, error: string | null): StepRow => ({
      stepKey: row.stepKey,
      stepId: row.stepId,
      kind: row.kind,
      sequence: row.sequence,
      status,
      position: row.position,
      attempt: row.attempt,
      epoch: row.epoch,
      final: row.final === 1,
      startedAt: row.startedAt,
      updatedAt: row.updatedAt,
      askedAfter: row.askedAfter,
      fingerprint: row.fingerprint,
      errorTag: row.errorTag,
      output,
      error
    })
    return isOpen(output, codec) && isOpen(error, codec)
      ? Either.right(opened(output, error))
      : Effect.zipWith(open(workflowId, output, codec), open(workflowId, error, codec), opened)
  }

  const openAttempt = (owner: RunGeneration, row: AttemptRowEncoded): Opened<AttemptRow> => {
    const { workflowId } = owner
    if (row.digest !== attemptDigest(owner, row)) {
      return Either.left(
        damaged(workflowId, `attempt ${row.attempt} of ${row.stepKey} does not match its digest`)
      )
    }
    const opened = (error: string | null): AttemptRow => ({
      stepKey: row.stepKey,
      attempt: row.attempt,
      startedAt: row.startedAt,
      endedAt: row.endedAt,
      dueAt: row.dueAt,
      errorTag: row.errorTag,
      error
    })
    return isOpen(row.error, row.codec)
      ? Either.right(opened(row.error))
      : Effect.map(open(workflowId, row.error, row.codec), opened)
  }

  const openRecords = (records: RecordsEncoded) =>
    Effect.all({
      history: openEach(records.history, (row) => openStep(records, row)),
      unfinished: openEach(records.unfinished, (row) => openStep(records, row)),
      attempts: openEach(records.attempts, (row) => openAttempt(records, row))
    })

  const openSignal = (workflowId: string, row: SignalEncoded): Opened<Signal> => {
    if (row.digest !== signalDigest(workflowId, row)) {
      return Either.left(
        damaged(workflowId, `the signal ${JSON.stringify(row.signalId)} does not match its digest`)
      )
    }
    const { codec, name, sentAt, signalId, value } = row
    const opened = (value: string | null): Signal => ({ signalId, name, sentAt, value })
    return isOpen(value, codec) ? Either.right(opened(value)) : Effect.map(open(workflowId, value, codec), opened)
  }

  const openMail = (workflowId: string, mail: MailEncoded): Effect.Effect<Mail, StoreError> =>
    Effect.map(openEach(mail.signals, (row) => openSignal(workflowId, row)), (signals) => ({
      inbox: mail.inbox,
      cancelAt: mail.cancelAt,
      signals
    }))

  /** The batch is written by now: what is wrong with a row that was there already must not fail the others. */
  const openAnswer = (answer: CommitAnswer<RunRowEncoded>, workflowId: string): Opened<CommitAnswer> =>
    answer._tag === "Exists"
      ? openApart(answer.run, workflowId, (run) => ({ _tag: "Exists", run }))
      : Either.right(answer)

  const isOpened = (answer: CommitAnswer<unknown>): answer is CommitAnswer<never> => answer._tag !== "Exists"

  const openAnswers = (
    batch: ReadonlyArray<RunUpdate>,
    answers: ReadonlyArray<CommitAnswer<RunRowEncoded>>
  ): Effect.Effect<ReadonlyArray<CommitAnswer>, StoreError> =>
    answers.every(isOpened)
      ? Effect.succeed(answers)
      : openEach(batch, ({ workflowId }, i) => openAnswer(answers[i]!, workflowId))

  const share = (client: SharedClientEncoded): SharedClient => ({
    isHeld: client.isHeld,
    insert: (run, row) =>
      seal(run.workflowId, row.payload).pipe(
        Effect.flatMap((payload) => client.insert(run, sealInsert(run, row, payload))),
        Effect.flatMap((answer) => openAnswer(answer, run.workflowId))
      ),
    send: (workflowId, signal) =>
      seal(workflowId, signal.value).pipe(
        Effect.flatMap((value) => client.send(workflowId, sealSignal(workflowId, signal, value))),
        Effect.flatMap((answer) => openAnswer(answer, workflowId))
      ),
    is: client.is,
    transact: ({ committed, position, run, work }) =>
      client.transact(
        run,
        Effect.flatMap(work, (row) => row === null ? rollBack : sealLast(run, row, position, committed))
      )
  })

  const rollBack = Effect.succeed(() => null)

  /** The digest covers the position, so the row is made when that is known. */
  const sealLast = (
    run: RunIdentity,
    row: StepRow,
    position: () => number | null,
    committed: (row: StepRow) => void
  ) =>
    Effect.zipWith(
      seal(run.workflowId, row.output),
      seal(run.workflowId, row.error),
      (output, error) => (): Committing | null => {
        const at = position()
        if (at === null) {
          return null
        }
        const last: StepRow = { ...row, position: at, final: true }
        return { row: sealStep(run, last, output, error), committed: () => committed(last) }
      }
    )

  const openAll = <Row, A>(
    rows: Effect.Effect<ReadonlyArray<Row>, StoreError>,
    each: (row: Row) => Opened<A>
  ): Effect.Effect<ReadonlyArray<A>, StoreError> =>
    withoutTransaction(Effect.flatMap(rows, (rows) => openEach(rows, each)))

  return {
    interfaceVersion: 1,
    target: encoded.target,
    namespace: encoded.namespace,
    sharedClient: encoded.sharedClient === null ? null : share(encoded.sharedClient),
    commit: (batch) => withoutTransaction(Effect.flatMap(sealed(batch), (answers) => openAnswers(batch, answers))),
    claim: (options) =>
      openAll(encoded.claim(options), (row) =>
        openApart(row, row.workflowId, (run): Claimed => ({
          workflowId: row.workflowId,
          generation: row.generation,
          epoch: row.epoch,
          run
        }))),
    run: (workflowId) =>
      withoutTransaction(Effect.flatMap(
        encoded.run(workflowId),
        (row) => row === null ? Effect.succeedNone : Effect.asSome(openRun(row, workflowId))
      )),
    owned: (worker) => withoutTransaction(encoded.owned(worker)),
    ended: (workflowIds) =>
      openAll(
        encoded.ended(workflowIds),
        (row) => openApart(row, row.workflowId, (run) => ({ workflowId: row.workflowId, run }))
      ),
    inboxes: (workflowIds) => withoutTransaction(encoded.inboxes(workflowIds)),
    mail: (workflowId, wanted) =>
      withoutTransaction(Effect.flatMap(
        encoded.mail(workflowId, wanted),
        (mail) => mail === null ? Effect.succeedNone : Effect.asSome(openMail(workflowId, mail))
      )),
    token: (token) => withoutTransaction(Effect.map(encoded.token(token), Option.fromNullable)),
    nextWake: (names) => withoutTransaction(Effect.map(encoded.nextWake(names), Option.fromNullable)),
    history: (workflowId, generation, page) =>
      withoutTransaction(Effect.flatMap(
        encoded.history(workflowId, generation, page),
        ({ more, rows }) =>
          Effect.map(
            openEach(rows, (row) => openStep({ workflowId, generation }, row)),
            (rows): Paged<StepRow> => ({ rows, more })
          )
      )),
    unfinished: (workflowId, generation) =>
      openAll(
        encoded.unfinished(workflowId, generation),
        (row) => openStep({ workflowId, generation }, row)
      ),
    steps: (workflowId, generation, page) =>
      openAll(encoded.steps(workflowId, generation, page), (row) => openStepSummary(workflowId, row)),
    runs: (page) => openAll(encoded.runs(page), openRunSummary),
    attempts: (workflowId, generation) =>
      openAll(
        encoded.attempts(workflowId, generation),
        (row) => openAttempt({ workflowId, generation }, row)
      ),
    records: (runs, limit) =>
      openAll(
        encoded.records(runs, limit),
        (row) => Effect.map(Effect.either(openRecords(row)), (records) => ({ workflowId: row.workflowId, records }))
      ),
    register: (worker) => withoutTransaction(encoded.register(worker)),
    beat: (worker) => withoutTransaction(encoded.beat(worker)),
    dead: withoutTransaction(encoded.dead),
    changes: Stream.unwrap(
      Effect.zipWith(
        Housekeeping,
        RecordsToo,
        (housekeeping, recordsToo) =>
          Stream.provideContext(
            encoded.changes,
            Context.add(Context.make(Housekeeping, housekeeping), RecordsToo, recordsToo)
          )
      )
    )
  }
}
