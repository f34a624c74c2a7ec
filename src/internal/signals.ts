/** The operations by which a body takes what is sent to its run. */
import { randomBytes } from "node:crypto"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { RecordUndecodable } from "../Errors.js"
import type { Signal, StepRow, StepStatus } from "../StepStore.js"
import { fromText, toText } from "./json.js"
import { tokenMark } from "./mailbox.js"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"
import type { InStep } from "./place.js"
import { decode } from "./values.js"

export interface SignalSpec {
  readonly name: string
  readonly schema: Schema.Schema<unknown, unknown, unknown>
}

const inStep = (called: string) => (place: InStep) =>
  place.run.refuse(place.run.misplaced(
    called,
    `it is durable, and step ${JSON.stringify(place.stepId)} is recorded as a whole. Call it in the body`
  ))

const rowOf = (kind: string, name: string, { address, askedAfter, branch: { run }, sequence }: Begun) => {
  const startedAt = run.unfinished.get(address)?.startedAt ?? run.now()
  return (status: StepStatus, output: string | null): StepRow => ({
    stepKey: run.keyOf(address),
    stepId: name,
    kind,
    sequence,
    status,
    position: null,
    attempt: 1,
    epoch: run.identity.epoch,
    final: false,
    startedAt,
    updatedAt: run.now(),
    askedAfter,
    fingerprint: null,
    output,
    errorTag: null,
    error: null
  })
}

/**
 * Waits for a signal.
 *
 * @param token - given: for the answer to it, and nothing else
 */
export const nextSignal = (
  called: string,
  { name, schema }: SignalSpec,
  token: string | null
): Effect.Effect<unknown, never, unknown> => {
  const kind = token === null ? "signal" : "answer"
  return durable<unknown, never, unknown>({
    called,
    kind,
    id: name,
    fingerprint: null,
    problem: null,
    inStep: inStep(called),
    begin: (begun) => {
      const { address, branch: { run } } = begun
      const row = rowOf(kind, name, begun)
      run.jot(row("IN_PROGRESS", null))
      run.rest(address, null)
      let given = false
      const give = ({ signalId, value }: Signal) => {
        given = true
        run.stir(address)
        const recorded = row("COMPLETED", value)
        run.household.fork(run.record(recorded, { takes: [{ signalId, stepKey: recorded.stepKey }] }))
      }
      const stop = run.mailbox.wait({ name, token, stepKey: run.keyOf(address), give })
      return (ended) => {
        stop()
        run.stir(address)
        // Its record, which nobody waits for any more, is on its way or written, and stays.
        if (!given) {
          run.jot({
            ...row("FAILED", null),
            error: JSON.stringify({ detail: "cut: the body stopped waiting for this signal" })
          })
        }
        ended()
      }
    },
    voided: (record, { run }) => {
      const { stepKey } = record
      run.mailbox.returning()
      run.household.fork(Effect.zipRight(
        run.writeThrough({ gives: [stepKey] }),
        Effect.sync(() => run.mailbox.returned(stepKey))
      ))
    },
    answer: (record, { run }) =>
      Effect.catchAll(
        decode(record.output, schema),
        (detail) => run.refuse(new RecordUndecodable({ workflowId: run.workflowId, record: record.stepKey, detail }))
      )
  })
}

/** Bytes in a token: nobody guesses 128 bits. */
const tokenBytes = 16

/** Gives a token away, which whoever has it can answer once, from now on. */
export const signalToken = (called: string, { name }: SignalSpec): Effect.Effect<string> =>
  durable<string, never, never>({
    called,
    kind: "token",
    id: name,
    fingerprint: null,
    problem: null,
    inStep: inStep(called),
    begin: (begun) => {
      const { run } = begun.branch
      const token = randomBytes(tokenBytes).toString("base64url")
      const reserved: Signal = { signalId: tokenMark + token, name, sentAt: null, value: null }
      run.household.fork(run.record(rowOf("token", name, begun)("COMPLETED", toText(token)), { signals: [reserved] }))
      return (ended) => ended()
    },
    answer: (record) => Effect.succeed(String(fromText(record.output)))
  })
