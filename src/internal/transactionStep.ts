/** A step that is one database transaction: what its effect writes and its record are there together, or neither is. */
import { SqlClient } from "@effect/sql/SqlClient"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Misplaced } from "../Errors.js"
import type { SharedClient, StepRow } from "../StepStore.js"
import type { ActiveRun } from "./activeRun.js"
import { endingOf } from "./activeRun.js"
import { LazyScope } from "./lazyScope.js"
import { fingerprintProblem, nameProblem } from "./names.js"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"
import type { InStep } from "./place.js"
import { type Encoded, rowOf, underWay } from "./row.js"
import type { RecordedSpec } from "./step.js"
import { answer, encodeFailure, encodeSuccess } from "./step.js"
import { restoreOf, runStep } from "./stepFiber.js"

export interface TransactionSpec extends RecordedSpec {
  readonly fingerprint: string | null
  /** How long the effect may take, in milliseconds. */
  readonly timeout: number
}

export const transactionStep = (
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: TransactionSpec
): Effect.Effect<unknown, unknown, unknown> => {
  const called = `Step.transaction(${JSON.stringify(spec.id)})`
  const idProblem = nameProblem(spec.id)
  const printProblem = spec.fingerprint === null ? null : fingerprintProblem(spec.fingerprint)
  return durable<unknown, unknown, unknown>({
    called,
    // The record is that of any step: a step may become a transaction while runs are under way.
    kind: "step",
    id: spec.id,
    fingerprint: spec.fingerprint,
    begin: (begun) => begin(called, self, spec, begun),
    answer: (record, branch) => answer(record, spec, branch),
    inStep: (place) =>
      place.transaction
        ? Effect.scoped(self)
        : place.run.refuse(place.run.misplaced(
          called,
          `it was called inside step ${JSON.stringify(place.stepId)}, which is recorded apart from what this writes. ` +
            "Call it in the body, or make that step the transaction"
        )),
    problem: idProblem === null
      ? printProblem === null ? null : `its fingerprint cannot be used: ${printProblem}`
      : `its step id cannot be used: ${idProblem}`
  })
}

/** The effect took longer than it may; a defect of whoever wrote it. */
class TransactionTimeout extends Error {
  override readonly name = "TransactionTimeout"
}

/** The client of the store, if the effect uses the same. */
const clientFor = (
  called: string,
  run: ActiveRun,
  context: Context.Context<unknown>
): Effect.Effect<SharedClient, Misplaced> => {
  const client = run.household.sharedClient
  const refused = (detail: string) => Effect.fail(run.misplaced(called, detail))
  if (client === null) {
    return refused(
      "the store has a connection of its own, so what this writes and its record cannot be one transaction. Use a store that " +
        "shares the application's SqlClient: SqliteStepStore.layerClient"
    )
  }
  const used = Context.getOption(context, SqlClient)
  if (Option.isSome(used) && !client.is(used.value)) {
    return refused(
      "the SqlClient in its context is not the one of the store. Provide the same to both: to the layer of the workflow, and " +
        "to SqliteStepStore.layerClient"
    )
  }
  return Effect.succeed(client)
}

const begin = (
  called: string,
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: TransactionSpec,
  begun: Begun
) => {
  const { address, branch: { run }, fiber } = begun
  const { attendant, faults, limits } = run.household
  const context = fiber.currentContext as Context.Context<unknown>
  const attempt = (run.unfinished.get(address)?.attempt ?? 0) + 1
  const startedAt = run.now()
  const stepKey = run.keyOf(address)
  const named = { ...spec, kind: "step" }
  const row = (outcome: Encoded): StepRow => rowOf(named, begun, { attempt, startedAt }, outcome)
  const place: InStep = { _tag: "Step", run, stepId: spec.id, transaction: true, ended: false }

  const outcome = Effect.suspend(() => {
    place.ended = false
    return Effect.scoped(attendant.attempt(self))
  }).pipe(
    Effect.timeoutFailCause({
      duration: spec.timeout,
      onTimeout: () =>
        Cause.die(
          new TransactionTimeout(
            `${called} kept its transaction open for more than ${spec.timeout} ms, and nobody else can write to the database ` +
              "meanwhile. Do less in it, or allow it more by its option `timeout`"
          )
        )
    }),
    Effect.matchCauseEffect({
      onFailure: (cause) => encodeFailure(cause, spec, limits.value),
      onSuccess: (value) => encodeSuccess(value, spec, limits.value)
    }),
    Effect.map((outcome) => {
      place.ended = true
      return row(outcome)
    })
  )

  let recorded = false
  const transact = (client: SharedClient) => {
    let failed: StepRow | null = null
    return client.transact({
      run: run.identity,
      work: Effect.map(outcome, (row) => {
        failed = row.status === "FAILED" ? row : null
        return failed === null ? row : null
      }),
      position: () => run.takePosition(),
      committed: (row) => {
        recorded = true
        run.attemptEnded(stepKey)
        run.recorded(row)
      }
    }).pipe(
      Effect.matchCauseEffect({
        onFailure: (cause) =>
          Option.isSome(Cause.failureOption(cause))
            ? Effect.sync(() => run.finish(endingOf(cause)))
            : Effect.failCause(cause as Cause.Cause<never>),
        onSuccess: (end) => {
          if (end === "Fenced") {
            run.finish({ _tag: "Fenced" })
          }
          // What it wrote is rolled back; that it failed is the outcome of the step.
          if (failed === null) {
            return Effect.void
          }
          run.attemptEnded(stepKey)
          return run.record(failed)
        }
      })
    )
  }

  // Awaited, unlike that of another step: noted later, it would come after the record.
  const started = Effect.suspend(() => {
    if (run.leaving) {
      return run.idling(run.parked)
    }
    run.attemptBegan({ stepKey, attempt, startedAt })
    return run.writeThrough({
      steps: [row(underWay)],
      attempts: []
    })
  })
  return runStep({
    begun,
    attempt,
    stepKey,
    place,
    row,
    turns: null,
    isRecorded: () => recorded,
    scope: new LazyScope(),
    program: restoreOf(begun)(Effect.matchEffect(clientFor(called, run, context), {
      onFailure: (misplaced) => run.refuse(misplaced),
      onSuccess: (client) =>
        started.pipe(
          Effect.zipRight(faults.at("step-started", () => run.finish({ _tag: "Crashed" }))),
          Effect.zipRight(transact(client))
        )
    }))
  })
}
