/** The operations by which a body takes what is sent to its run. */
import { randomBytes } from "node:crypto"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { RecordUndecodable } from "../Errors.js"
import type { Signal } from "../StepStore.js"
import { fromText, toText } from "./json.js"
import { tokenMark } from "./mailbox.js"
import { durable } from "./operation.js"
import type { InStep } from "./place.js"
import { completed, cut, rowsOf, underWay } from "./row.js"
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
      const row = rowsOf({ kind, id: name, fingerprint: null }, begun)
      run.jot(row(underWay))
      run.rest(address, null)
      let given = false
      const give = ({ signalId, value }: Signal) => {
        given = true
        run.stir(address)
        const recorded = row(completed(value))
        run.household.fork(run.record(recorded, { takes: [{ signalId, stepKey: recorded.stepKey }] }))
      }
      const stop = run.mailbox.wait({ name, token, stepKey: run.keyOf(address), give })
      return (ended) => {
        stop()
        run.stir(address)
        // Its record, which nobody waits for any more, is on its way or written, and stays.
        if (!given) {
          run.jot(row(cut("the body stopped waiting for this signal")))
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
      run.household.fork(
        run.record(rowsOf({ kind: "token", id: name, fingerprint: null }, begun)(completed(toText(token))), {
          signals: [reserved]
        })
      )
      return (ended) => ended()
    },
    answer: (record) => Effect.succeed(String(fromText(record.output)))
  })
