/** The rows of a durable operation, as they are written. */
import type { StepRow } from "../StepStore.js"
import { forPeople } from "./attempts.js"
import type { Begun } from "./operation.js"

/** What an operation has come to, ready to be recorded. */
export type Encoded = Pick<StepRow, "status" | "output" | "errorTag" | "error">

/** What a replay compares. */
export interface Named {
  readonly kind: string
  readonly id: string
  readonly fingerprint: string | null
}

export const underWay: Encoded = { status: "IN_PROGRESS", output: null, errorTag: null, error: null }

export const completed = (output: string | null): Encoded => ({ ...underWay, status: "COMPLETED", output })

/** It has no outcome: the body has stopped waiting. */
export const cut = (detail: string): Encoded => ({ ...underWay, status: "FAILED", error: forPeople(`cut: ${detail}`) })

export const rowOf = (
  { fingerprint, id, kind }: Named,
  { address, askedAfter, branch: { run }, sequence }: Begun,
  { attempt, startedAt }: Pick<StepRow, "attempt" | "startedAt">,
  encoded: Encoded
): StepRow => ({
  stepKey: run.keyOf(address),
  stepId: id,
  kind,
  sequence,
  status: encoded.status,
  position: null,
  attempt,
  epoch: run.identity.epoch,
  final: false,
  startedAt,
  updatedAt: run.now(),
  askedAfter,
  fingerprint,
  output: encoded.output,
  errorTag: encoded.errorTag,
  error: encoded.error
})

/** The rows of an operation that has one attempt, which goes on through all lives of the run. */
export const rowsOf = (named: Named, begun: Begun) => {
  const { address, branch: { run } } = begun
  const startedAt = run.unfinished.get(address)?.startedAt ?? run.now()
  return (encoded: Encoded): StepRow => rowOf(named, begun, { attempt: 1, startedAt }, encoded)
}
