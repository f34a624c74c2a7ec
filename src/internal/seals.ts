/**
 * What the digests beside the rows cover: all that a run goes by and that stays as it was written, and whose row it is, so that a
 * row that has got to another run, or to another generation of it, is not taken for one of theirs.
 */
import { digest } from "./digest.js"

/** Whose row it is. */
export interface Owner {
  readonly workflowId: string
  readonly generation: number
}

/** Of a run, and of its payload. */
export const payloadDigest = (
  { generation, workflowId }: Owner,
  run: {
    readonly name: string
    readonly fingerprint: string
    readonly begunAt: number
    readonly deadlineAt: number | null
    readonly parent: string | null
  },
  codec: string | null,
  stored: string | null
): string =>
  digest([workflowId, generation, run.name, run.fingerprint, run.begunAt, run.deadlineAt, run.parent, codec, stored])

const ended = new Set(["COMPLETED", "FAILED", "CANCELLED"])

/** The outcome of a run has a digest once there is one; the status, which says how to read it, is part of that digest. */
export const outcomeDigest = (status: string, codec: string | null, stored: string | null): string | null =>
  ended.has(status) ? digest([status, codec, stored]) : null

/** Covers everything a replay reads of a step. */
export const stepDigest = (
  { generation, workflowId }: Owner,
  step: {
    readonly stepKey: string
    readonly stepId: string
    readonly kind: string
    readonly status: string
    readonly position: number | null
    readonly updatedAt: number
    readonly askedAfter: number
    readonly fingerprint: string | null
    readonly codec: string | null
    readonly errorTag: string | null
    readonly output: string | null
    readonly error: string | null
  }
): string =>
  digest([
    workflowId,
    generation,
    step.stepKey,
    step.stepId,
    step.kind,
    step.status,
    step.position,
    step.updatedAt,
    step.askedAfter,
    step.fingerprint,
    step.codec,
    step.errorTag,
    step.output,
    step.error
  ])

export const signalDigest = (workflowId: string, row: {
  readonly signalId: string
  readonly name: string
  readonly codec: string | null
  readonly value: string | null
}): string => digest([workflowId, row.signalId, row.name, row.codec, row.value])

export const attemptDigest = ({ generation, workflowId }: Owner, row: {
  readonly stepKey: string
  readonly attempt: number
  readonly endedAt: number
  readonly dueAt: number | null
  readonly codec: string | null
  readonly errorTag: string | null
  readonly error: string | null
}): string =>
  digest([
    workflowId,
    generation,
    row.stepKey,
    row.attempt,
    row.endedAt,
    row.dueAt,
    row.codec,
    row.errorTag,
    row.error
  ])
