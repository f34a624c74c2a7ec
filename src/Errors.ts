/**
 * What can go wrong, as values: every error of Perdure that a caller can act on, and the reasons for which a run stops.
 *
 * Grouped by what the caller does next: wait or mend the store (`StoreError`), correct the call (`WorkflowIdInvalid`,
 * `WorkflowIdConflict`, `PayloadInvalid`, `WorkflowNotFound`, `NothingToResume`), or mend the program and resume the run
 * (`RunStopped`, whose `reason` says what to mend).
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

const shown = (id: string) => JSON.stringify(id)

// ---------------------------------------------------------------------------------------------------------------------
// the store
// ---------------------------------------------------------------------------------------------------------------------

const storeFields = {
  /** The file or database that was spoken to. */
  target: Schema.String,
  /** What the database said. */
  detail: Schema.String
}

/**
 * The database stayed locked by somebody else for longer than the store was willing to wait.
 *
 * Nothing was written. Try again later, or give the store's `busy` option more patience.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreBusy extends Schema.TaggedError<StoreBusy>()("StoreBusy", storeFields) {
  override get message() {
    return `${this.target} is locked by another writer (${this.detail}); find the process that holds the lock for so long, or raise the store's "busy" option`
  }
}

/**
 * There is no room left for the database.
 *
 * Nothing was written. Free space; runs that were released go on by themselves.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreFull extends Schema.TaggedError<StoreFull>()("StoreFull", storeFields) {
  override get message() {
    return `There is no room left to write to ${this.target} (${this.detail}); free some space, and what waits goes on by itself`
  }
}

/**
 * The database, its file or its folder cannot be written to.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreReadOnly extends Schema.TaggedError<StoreReadOnly>()("StoreReadOnly", storeFields) {
  override get message() {
    return `${this.target} cannot be written to (${this.detail}); give this process write permission on the file and on its folder`
  }
}

/**
 * What is stored is damaged: the file is no database, or a record does not match its digest.
 *
 * Damage to one record concerns one run, named by `workflowId`; the others go on. It is never served as an answer and never overwritten.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreCorrupt extends Schema.TaggedError<StoreCorrupt>()("StoreCorrupt", {
  ...storeFields,
  workflowId: Schema.NullOr(Schema.String)
}) {
  override get message() {
    return this.workflowId === null
      ? `${this.target} is damaged or is not a Perdure database (${this.detail}); restore it from a backup, or name another file`
      : `The record of run ${shown(this.workflowId)} in ${this.target} is damaged (${this.detail}); ` +
        "restore that record from a backup, then resume the run"
  }
}

/**
 * The database cannot be reached or opened.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreUnavailable extends Schema.TaggedError<StoreUnavailable>()("StoreUnavailable", storeFields) {
  override get message() {
    return `${this.target} cannot be reached (${this.detail}); check that the path exists and that this process may open it`
  }
}

/**
 * The database was written by a version of Perdure that this one cannot read, or was not migrated.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreSchemaMismatch extends Schema.TaggedError<StoreSchemaMismatch>()("StoreSchemaMismatch", {
  target: Schema.String,
  /** The version of the tables found. */
  found: Schema.Int,
  /** The version this library writes. */
  supported: Schema.Int,
  /** The oldest library version, as a schema number, that may use the tables found. */
  minCompatible: Schema.Int
}) {
  override get message() {
    return `The tables in ${this.target} have version ${this.found} and can be used from version ${this.minCompatible} on, but this library knows only version ${this.supported}; upgrade perdure`
  }
}

/**
 * The database was asked for something that it refuses for this run alone, such as a row that is too large for it or that
 * would overwrite a final record.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreRejected extends Schema.TaggedError<StoreRejected>()("StoreRejected", storeFields) {
  override get message() {
    return `${this.target} refused a write (${this.detail}); the write was undone, and the run that asked for it has to be mended before it is resumed`
  }
}

/**
 * Whatever a store can answer instead of doing what it was asked.
 *
 * @since 0.1.0
 * @category errors
 */
export const StoreError = Schema.Union(
  StoreBusy,
  StoreFull,
  StoreReadOnly,
  StoreCorrupt,
  StoreUnavailable,
  StoreSchemaMismatch,
  StoreRejected
)

/**
 * @since 0.1.0
 * @category errors
 */
export type StoreError = typeof StoreError.Type

// ---------------------------------------------------------------------------------------------------------------------
// the call
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A workflow id that cannot be used. Choose another one.
 *
 * @since 0.1.0
 * @category errors
 */
export class WorkflowIdInvalid extends Schema.TaggedError<WorkflowIdInvalid>()("WorkflowIdInvalid", {
  workflowId: Schema.String,
  problem: Schema.String
}) {
  override get message() {
    return `The workflow id ${shown(this.workflowId.slice(0, 64))} cannot be used: ${this.problem}`
  }
}

/**
 * A run of this id exists already, under another workflow or with another payload. Choose another id, or attach with the
 * payload that it was started with.
 *
 * @since 0.1.0
 * @category errors
 */
export class WorkflowIdConflict extends Schema.TaggedError<WorkflowIdConflict>()("WorkflowIdConflict", {
  workflowId: Schema.String,
  /** The name of the workflow that the id belongs to. */
  existing: Schema.String,
  /** The name of the workflow that was asked for. */
  requested: Schema.String
}) {
  override get message() {
    return this.existing === this.requested
      ? `A run ${shown(this.workflowId)} of ${shown(this.existing)} exists with another payload; ` +
        "use another id for this payload"
      : `The id ${shown(this.workflowId)} belongs to a run of ${shown(this.existing)}, ` +
        `not of ${shown(this.requested)}; use another id`
  }
}

/**
 * The payload given does not fit the workflow's payload schema, or is too large. Nothing was started.
 *
 * @since 0.1.0
 * @category errors
 */
export class PayloadInvalid extends Schema.TaggedError<PayloadInvalid>()("PayloadInvalid", {
  workflow: Schema.String,
  problem: Schema.String
}) {
  override get message() {
    return `The payload for workflow ${shown(this.workflow)} cannot be used: ${this.problem}`
  }
}

/**
 * No run has this id.
 *
 * @since 0.1.0
 * @category errors
 */
export class WorkflowNotFound extends Schema.TaggedError<WorkflowNotFound>()("WorkflowNotFound", {
  workflowId: Schema.String
}) {
  override get message() {
    return `There is no run ${shown(this.workflowId)} in this store; check the id, the database and the namespace`
  }
}

/**
 * The run has failed, and no step of it may run again: each failed step was followed by other operations, so the body had
 * already dealt with it.
 *
 * @since 0.1.0
 * @category errors
 */
export class NothingToResume extends Schema.TaggedError<NothingToResume>()("NothingToResume", {
  workflowId: Schema.String,
  why: Schema.String
}) {
  override get message() {
    return `Run ${shown(this.workflowId)} cannot be resumed: ${this.why}`
  }
}

/**
 * This worker has lost the run to another one, and must stop writing to it. It stays inside the engine.
 *
 * @since 0.1.0
 * @category errors
 */
export class RunFenced extends Schema.TaggedError<RunFenced>()("RunFenced", {
  workflowId: Schema.String,
  held: Schema.Int
}) {
  override get message() {
    return `Run ${shown(this.workflowId)} has moved on; this worker holds epoch ${this.held} of it and must stop`
  }
}

/**
 * What was sent does not fit the signal, or cannot be sent: its value, its idempotency key, or the token it answers. Nothing was sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class SignalInvalid extends Schema.TaggedError<SignalInvalid>()("SignalInvalid", {
  signal: Schema.String,
  problem: Schema.String
}) {
  override get message() {
    return `The signal ${shown(this.signal)} cannot be sent: ${this.problem}`
  }
}

/**
 * Nobody wants the signal any more: its run has ended, or its token has been answered. Nothing was sent.
 *
 * @since 0.1.0
 * @category errors
 */
export class SignalNotWanted extends Schema.TaggedError<SignalNotWanted>()("SignalNotWanted", {
  workflowId: Schema.String,
  signal: Schema.String,
  reason: Schema.Literal("ended", "answered")
}) {
  override get message() {
    const why = this.reason === "ended" ? "the run has ended" : "its token has been answered already"
    return `The signal ${shown(this.signal)} for run ${shown(this.workflowId)} was not sent: ${why}`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the step
// ---------------------------------------------------------------------------------------------------------------------

/**
 * An attempt at a step took longer than its `timeout`, and was interrupted. The step's `retry` may try again; else the body gets
 * this error, in life and in replay.
 *
 * @since 0.1.0
 * @category errors
 */
export class StepTimeout extends Schema.TaggedError<StepTimeout>()("StepTimeout", {
  workflowId: Schema.String,
  stepId: Schema.String,
  attempt: Schema.Int,
  /** The time that an attempt has. */
  millis: Schema.Number
}) {
  override get message() {
    return `Attempt ${this.attempt} at step ${shown(this.stepId)} of run ${shown(this.workflowId)} took longer than ` +
      `${this.millis} ms; raise the step's "timeout", or let its "retry" try again`
  }
}

/**
 * An attempt at a step with `onInterrupted: "fail"` was cut off: its process died, or gave the run up. Nobody knows whether its
 * effect took place, so it is not run again: look, and do what is missing.
 *
 * @since 0.1.0
 * @category errors
 */
export class StepInterrupted extends Schema.TaggedError<StepInterrupted>()("StepInterrupted", {
  workflowId: Schema.String,
  stepId: Schema.String,
  /** The attempt that was cut off. */
  attempt: Schema.Int
}) {
  override get message() {
    return `Attempt ${this.attempt} at step ${shown(this.stepId)} of run ${
      shown(this.workflowId)
    } was cut off, and may have ` +
      "taken effect; find out whether it has, and do what is missing in another step"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the child
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A child was cancelled, or its deadline has passed: it has no result and never will. Go on without it, or start another one.
 *
 * @since 0.1.0
 * @category errors
 */
export class ChildCancelled extends Schema.TaggedError<ChildCancelled>()("ChildCancelled", {
  /** The id of the child. */
  workflowId: Schema.String,
  /** The name of its workflow. */
  workflow: Schema.String,
  reason: Schema.Literal("cancelled", "deadline")
}) {
  override get message() {
    const why = this.reason === "cancelled" ? "was cancelled" : "was cancelled at its deadline"
    return `The child ${shown(this.workflowId)} of workflow ${shown(this.workflow)} ${why}, and has no result; ` +
      "go on without it, or start another child"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// why a run stops
// ---------------------------------------------------------------------------------------------------------------------

/**
 * One durable operation, as recorded or as requested.
 *
 * @since 0.1.0
 * @category models
 */
export const Operation = Schema.Struct({
  /** The address of the operation within its run. */
  address: Schema.String,
  kind: Schema.String,
  /** The step id. */
  id: Schema.String,
  fingerprint: Schema.NullOr(Schema.String)
})

/**
 * @since 0.1.0
 * @category models
 */
export type Operation = typeof Operation.Type

/** What an operation is compared by, as it is printed. */
const partsOf = ({ address, fingerprint, id, kind }: Operation): ReadonlyArray<string> => [
  address,
  kind,
  shown(id),
  ...(fingerprint === null ? [] : [`fingerprint ${shown(fingerprint)}`])
]

const printed = (operation: Operation | null) => operation === null ? "(nothing)" : partsOf(operation).join(" ")

/** Carets under the first part of the requested operation that is not as recorded; they come after it if it lacks that part. */
const difference = (recorded: Operation | null, requested: Operation | null): string => {
  if (recorded === null || requested === null) {
    return "^".repeat(printed(requested).length)
  }
  const before = partsOf(recorded)
  const now = partsOf(requested)
  const first = now.findIndex((part, i) => part !== before[i])
  const same = first === -1 ? now : now.slice(0, first)
  return " ".repeat(same.map((part) => `${part} `).join("").length) + "^".repeat(now[same.length]?.length ?? 1)
}

/** What most probably has to be mended. */
const hint = (recorded: Operation | null, requested: Operation | null): string => {
  if (recorded?.kind === "patch") {
    const id = shown(recorded.id)
    return `What is recorded is the marker of a change: let the code call Workflow.patched(${id}) there or, once no run ` +
      `without the marker is left, Workflow.patchDone(${id})`
  }
  if (recorded === null || recorded.address === requested?.address) {
    return recorded?.kind === requested?.kind && recorded?.id === requested?.id
      ? "Only the fingerprint differs: the input has changed since this was recorded"
      : "New code goes behind Workflow.patched(\"…\"), which is false where a run has recorded something else"
  }
  return "The code does not ask for what is recorded: runs that have it need it still. Leave it out only where " +
    "Workflow.patched(\"…\"), asked at that place, is true"
}

/**
 * The code asks for another operation than the one that is recorded. Nothing was overwritten.
 *
 * Deploy code that asks for what is recorded (the code that the run began with does), or give it back the input that it read
 * outside any step, then `resume` the run.
 *
 * @since 0.1.0
 * @category errors
 */
export class NonDeterminismError extends Schema.TaggedError<NonDeterminismError>()("NonDeterminismError", {
  workflowId: Schema.String,
  /** What is in the history at this place; `null` if nothing is. */
  recorded: Schema.NullOr(Operation),
  /** What the code asks for at this place; `null` if it asks for nothing. */
  requested: Schema.NullOr(Operation),
  /** The operations that were answered from the history just before, oldest first. */
  agreed: Schema.Array(Operation)
}) {
  override get message() {
    const rows: Array<readonly [string, string, string]> = [
      ["", "recorded", "requested"],
      ...this.agreed.map((operation) => ["", printed(operation), printed(operation)] as const),
      [">", printed(this.recorded), printed(this.requested)]
    ]
    const width = Math.max(...rows.map(([, recorded]) => recorded.length))
    return `Run ${shown(this.workflowId)} was recorded by other code than this:\n` +
      rows.map(([mark, recorded, requested]) => `${mark.padEnd(2)}${recorded.padEnd(width)}  ${requested}`).join("\n") +
      `\n${" ".repeat(2 + width + 2)}${difference(this.recorded, this.requested)}\n` +
      `${hint(this.recorded, this.requested)}.\n` +
      "Deploy code that asks for what is recorded, or give it back the input (a file, a setting) that it read then, and " +
      "resume the run"
  }
}

/**
 * The body ended with a defect.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class BodyDied extends Schema.TaggedError<BodyDied>()("BodyDied", {
  workflowId: Schema.String,
  detail: Schema.String,
  /** What its finalizers recorded while it unwound, at most the latest eight operations: the history of the run ends with them. */
  unwinding: Schema.Array(Operation)
}) {
  override get message() {
    const recorded = this.unwinding.map((operation) => `\n  ${printed(operation)}`).join("")
    return `The body of run ${shown(this.workflowId)} died: ${this.detail}\n` +
      (recorded === ""
        ? ""
        : `Recorded by its finalizers while it unwound, and to be asked for at the same place by the mended body:${recorded}\n`) +
      "Mend it, then resume the run"
  }
}

/**
 * A step ended with a defect, was interrupted from inside, or returned what cannot be recorded. `resume` runs it again.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class StepDied extends Schema.TaggedError<StepDied>()("StepDied", {
  workflowId: Schema.String,
  address: Schema.String,
  stepId: Schema.String,
  attempt: Schema.Int,
  detail: Schema.String
}) {
  override get message() {
    return `Step ${shown(this.stepId)} (${this.workflowId}:${this.address}, attempt ${this.attempt}) died: ` +
      `${this.detail}\nMend it, then resume the run: the step runs again`
  }
}

/**
 * The latest attempts at a step all ended with the death of the process that ran them. `resume` tries once more.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class ProcessKilled extends Schema.TaggedError<ProcessKilled>()("ProcessKilled", {
  workflowId: Schema.String,
  address: Schema.String,
  stepId: Schema.String,
  /** How many attempts ended so, one after the other. */
  attempts: Schema.Int
}) {
  override get message() {
    return `Step ${shown(this.stepId)} (${this.workflowId}:${this.address}) probably kills its process: ` +
      `the last ${this.attempts} attempts at it all ended with the process\n` +
      "Mend it, then resume the run: the step is tried once more"
  }
}

/**
 * A record cannot be decoded with the schema that the code has now.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class RecordUndecodable extends Schema.TaggedError<RecordUndecodable>()("RecordUndecodable", {
  workflowId: Schema.String,
  /** What was to be decoded: `payload`, or the address of a step. */
  record: Schema.String,
  detail: Schema.String
}) {
  override get message() {
    return `The record ${shown(this.record)} of run ${shown(this.workflowId)} does not fit the schema in the code: ` +
      `${this.detail}\nLet the schema accept the old form too (a Schema.Union), then resume the run`
  }
}

/**
 * Something was called where it cannot work. The message says what to write instead.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class Misplaced extends Schema.TaggedError<Misplaced>()("Misplaced", {
  workflowId: Schema.String,
  /** What was called, such as `Step.durable("charge")`. */
  operation: Schema.String,
  detail: Schema.String
}) {
  override get message() {
    return `${this.operation} in run ${
      shown(this.workflowId)
    } cannot be recorded: ${this.detail}\nMend it, then resume the run`
  }
}

/**
 * A value, a history, a reservation or a name is larger than allowed. Nothing of it was written.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class LimitExceeded extends Schema.TaggedError<LimitExceeded>()("LimitExceeded", {
  workflowId: Schema.String,
  what: Schema.String,
  limit: Schema.Number,
  actual: Schema.Number
}) {
  override get message() {
    return `Run ${shown(this.workflowId)} exceeds a limit: ${this.what} is ${this.actual}, ` +
      `and at most ${this.limit} is allowed. ` +
      "Make it smaller, or raise the limit in Engine.layerWith, then resume the run"
  }
}

/**
 * Nothing in the run can ever wake it: no step executes, and no durable operation is awaited.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class Deadlocked extends Schema.TaggedError<Deadlocked>()("Deadlocked", {
  workflowId: Schema.String,
  afterMillis: Schema.Int
}) {
  override get message() {
    return `The body of run ${shown(this.workflowId)} has waited for ${this.afterMillis} ms ` +
      "although no step of it is under way: " +
      "it waits for something that nothing recorded can bring. Wait inside a step, then resume the run"
  }
}

/**
 * What was to undo effects of the run died. The rest has been undone; `resume` undoes what is left.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export class CompensationDied extends Schema.TaggedError<CompensationDied>()("CompensationDied", {
  workflowId: Schema.String,
  /** What is left to undo, in the order in which that was tried. */
  left: Schema.Array(Schema.Struct({
    address: Schema.String,
    /** The step to be undone. */
    id: Schema.String,
    detail: Schema.String
  }))
}) {
  override get message() {
    return `The compensations of run ${shown(this.workflowId)} have not undone everything. Left to undo:` +
      this.left.map(({ address, detail, id }) => `\n  ${shown(id)} (${this.workflowId}:${address}): ${detail}`).join(
        ""
      ) +
      "\nMend them, then resume the run: they run again"
  }
}

/**
 * Why a run is STOPPED.
 *
 * @since 0.1.0
 * @category stop reasons
 */
export const StopReason = Schema.Union(
  BodyDied,
  StepDied,
  ProcessKilled,
  NonDeterminismError,
  RecordUndecodable,
  Misplaced,
  LimitExceeded,
  Deadlocked,
  CompensationDied,
  StoreCorrupt,
  StoreRejected
)

/**
 * @since 0.1.0
 * @category stop reasons
 */
export type StopReason = typeof StopReason.Type

/**
 * The run is STOPPED: something that is not its own typed error is wrong with it. Mend what `reason` names, then `resume` it.
 *
 * @since 0.1.0
 * @category errors
 */
export class RunStopped extends Schema.TaggedError<RunStopped>()("RunStopped", {
  workflowId: Schema.String,
  reason: StopReason
}) {
  override get message() {
    return `Run ${shown(this.workflowId)} is stopped. ${this.reason.message}`
  }
}

/**
 * The run was cancelled, by somebody or by its deadline. What it had done has been undone as far as its steps say how.
 *
 * @since 0.1.0
 * @category errors
 */
export class RunCancelled extends Schema.TaggedError<RunCancelled>()("RunCancelled", {
  workflowId: Schema.String,
  reason: Schema.Literal("cancelled", "deadline")
}) {
  override get message() {
    return `Run ${shown(this.workflowId)} was cancelled${this.reason === "deadline" ? ": its deadline had come" : ""}`
  }
}

/**
 * Whatever `start` can answer instead of starting a run.
 *
 * @since 0.1.0
 * @category errors
 */
export type StartError = WorkflowIdInvalid | WorkflowIdConflict | PayloadInvalid | StoreError
