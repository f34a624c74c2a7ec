/** The tags by which a program shows where it is, and the engine as the authoring modules see it. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type {
  NothingToResume,
  StartError,
  StopReason,
  StoreError,
  WorkflowIdConflict,
  WorkflowIdInvalid,
  WorkflowNotFound
} from "../Errors.js"
import { RecordUndecodable } from "../Errors.js"
import type { CommitAnswer, RunRow, Signal, TokenOwner } from "../StepStore.js"
import type { Attendant } from "./attendant.js"

/** What a body can know of its run. */
export interface RunInfo {
  readonly workflowId: string
  readonly workflow: string
  readonly generation: number
}

export class Run extends Context.Tag("perdure/Run")<Run, RunInfo>() {}

/** What a step can know of itself. */
export interface StepInfo {
  readonly workflowId: string
  readonly stepId: string
  readonly stepKey: string
  readonly attempt: number
  /** The fencing token of the run. */
  readonly epoch: number
  /** The same in all attempts and replays, and another one for each step of each run. */
  readonly idempotencyKey: string
}

/**
 * A service whose methods are meant to be steps may ask for it.
 *
 * @effect-leakable-service
 */
export class CurrentStep extends Context.Tag("perdure/Step/Current")<CurrentStep, StepInfo>() {}

/** A body, ready to be driven: it takes the recorded payload and answers with what is to be recorded. */
export interface Registration {
  readonly name: string
  readonly version: string | null
  readonly body: (payload: unknown, workflowId: string) => Effect.Effect<unknown, unknown, unknown>
  readonly payloadSchema: Schema.Schema<unknown, unknown, unknown>
  readonly outcome: OutcomeSchemas
}

/** How a run's outcome is encoded; without a schema it is plain JSON. */
export interface OutcomeSchemas {
  readonly success: Schema.Schema<unknown, unknown, unknown> | null
  readonly error: Schema.Schema<unknown, unknown, unknown> | null
}

export interface StartRequest {
  readonly workflowId: string
  readonly name: string
  readonly version: string | null
  /** JSON text. */
  readonly payload: string | null
  readonly fingerprint: string
  /** When the run is cancelled, in epoch milliseconds. */
  readonly deadlineAt: number | null
  /** Where the caller is in a trace, as JSON text. */
  readonly trace: string | null
}

/** Why a run was cancelled. */
export type CancelReason = "cancelled" | "deadline"

/** Why a CANCELLED run was cancelled. */
export const cancelReason = (row: { readonly outcome: string | null }): CancelReason =>
  row.outcome === JSON.stringify("deadline" satisfies CancelReason) ? "deadline" : "cancelled"

/** Why a STOPPED run is stopped. */
export const stopReason = (row: { readonly workflowId: string; readonly stopReason: StopReason | null }): StopReason =>
  row.stopReason ??
    new RecordUndecodable({ workflowId: row.workflowId, record: "stop_reason", detail: "no reason is recorded" })

/** How a run has ended, or that it cannot go on. */
export type RunEnd =
  | { readonly status: "COMPLETED"; readonly outcome: string | null }
  | { readonly status: "FAILED"; readonly outcome: string | null }
  | { readonly status: "CANCELLED"; readonly reason: CancelReason }
  | { readonly status: "STOPPED"; readonly reason: StopReason }

/** A run without a definition, as `Workflow.run` makes it. */
export interface ScriptRequest {
  readonly workflowId: string
  readonly body: Effect.Effect<unknown, unknown, unknown>
  readonly outcome: OutcomeSchemas
}

export class Engine extends Context.Tag("perdure/Engine")<Engine, {
  readonly register: (registration: Registration) => Effect.Effect<void, never, Scope.Scope>
  readonly start: (request: StartRequest) => Effect.Effect<string, StartError>
  /** Waits until the run has ended or has stopped. */
  readonly await: (workflowId: string, name: string) => Effect.Effect<RunEnd, WorkflowNotFound | StoreError>
  readonly poll: (workflowId: string, name: string) => Effect.Effect<Option.Option<RunRow>, StoreError>
  readonly resume: (
    workflowId: string,
    name: string
  ) => Effect.Effect<void, WorkflowNotFound | NothingToResume | StoreError>
  /** Asks for the cancellation of a run. */
  readonly cancel: (workflowId: string, name: string) => Effect.Effect<void, WorkflowNotFound | StoreError>
  /** Sends a signal; answers what became of it. */
  readonly send: (workflowId: string, signal: Signal) => Effect.Effect<CommitAnswer["_tag"], StoreError>
  /** Which run has given a token away. */
  readonly token: (token: string) => Effect.Effect<Option.Option<TokenOwner>, StoreError>
  readonly script: (
    request: ScriptRequest
  ) => Effect.Effect<RunEnd, WorkflowIdInvalid | WorkflowIdConflict | StoreError>
  /** The most bytes that an encoded value may have. */
  readonly maxValueBytes: number
  readonly attendant: Attendant
}>() {}
