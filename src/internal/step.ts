/** How a step runs: in a fiber of its own, on the ordinary scheduler, so that nothing it does is seen by the body but its outcome. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { defaultScheduler } from "effect/Scheduler"
import type * as Schema from "effect/Schema"
import type { StopReason } from "../Errors.js"
import { LimitExceeded, RecordUndecodable, StepDied } from "../Errors.js"
import type { StepRow, StepStatus } from "../StepStore.js"
import { describe } from "./describe.js"
import { fingerprintProblem, nameProblem } from "./names.js"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"
import type { Branch, InStep } from "./place.js"
import { putAt } from "./place.js"
import { CurrentStep } from "./run.js"
import { unwatched } from "./unwinding.js"
import { decode, encode, TooLarge, Unrecordable } from "./values.js"

export interface StepSpec {
  readonly id: string
  readonly fingerprint: string | null
  readonly success: Schema.Schema<unknown, unknown, unknown> | null
  readonly error: Schema.Schema<unknown, unknown, unknown> | null
}

/** What an effect ended with, ready to be recorded. */
export interface Encoded {
  readonly status: StepStatus
  readonly output: string | null
  readonly error: string | null
}

export const step = (
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: StepSpec
): Effect.Effect<unknown, unknown, unknown> => {
  const called = `Step.durable(${JSON.stringify(spec.id)})`
  const idProblem = nameProblem(spec.id)
  const printProblem = spec.fingerprint === null ? null : fingerprintProblem(spec.fingerprint)
  return durable<unknown, unknown, unknown>({
    called,
    kind: "step",
    id: spec.id,
    fingerprint: spec.fingerprint,
    begin: (begun) => begin(self, spec, begun),
    answer: (record, branch) => answer(record, spec, branch),
    // A step within a step is part of the outer one.
    inStep: () => Effect.scoped(self),
    problem: idProblem === null
      ? printProblem === null ? null : `its fingerprint cannot be used: ${printProblem}`
      : `its step id cannot be used: ${idProblem}`
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// running
// ---------------------------------------------------------------------------------------------------------------------

const begin = (
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: StepSpec,
  { address, askedAfter, branch, fiber, sequence, status }: Begun
) => {
  const run = branch.run
  const { faults } = run.household
  const attempt = (run.unfinished.get(address)?.attempt ?? 0) + 1
  const startedAt = run.now()
  const stepKey = run.keyOf(address)
  const row = (outcome: Encoded): StepRow => ({
    stepKey,
    stepId: spec.id,
    kind: "step",
    sequence,
    status: outcome.status,
    position: null,
    attempt,
    epoch: run.identity.epoch,
    final: false,
    startedAt,
    updatedAt: run.now(),
    askedAfter,
    fingerprint: spec.fingerprint,
    output: outcome.output,
    error: outcome.error
  })
  const place: InStep = { _tag: "Step", run, stepId: spec.id, transaction: false, ended: false }
  const started = row({ status: "IN_PROGRESS", output: null, error: null })

  const work = Effect.matchCauseEffect(Effect.scoped(self), {
    onFailure: (cause) => encodeFailure(cause, spec, run.household.limits.value),
    onSuccess: (value) => encodeSuccess(value, spec, run.household.limits.value)
  }).pipe(Effect.flatMap((outcome) => {
    place.ended = true
    return run.record(row(outcome))
  }))

  if (!faults.active) {
    run.jot(started)
  }
  const stepFiber = Runtime.runFork(
    Runtime.make({
      context: Context.add(fiber.currentContext as Context.Context<unknown>, CurrentStep, {
        workflowId: run.workflowId,
        stepId: spec.id,
        stepKey,
        attempt,
        epoch: run.identity.epoch,
        get idempotencyKey() {
          return run.idempotencyKeyOf(address)
        }
      }),
      fiberRefs: fiber.getFiberRefs(),
      runtimeFlags: unwatched(status.runtimeFlags)
    }),
    faults.active
      ? run.writeThrough(started).pipe(
        Effect.zipRight(faults.at("step-started", () => run.finish({ _tag: "Crashed" }))),
        Effect.zipRight(work)
      )
      : work,
    { scheduler: defaultScheduler, immediate: false, updateRefs: putAt(place) }
  )
  run.began(stepFiber)

  const die = (cause: Cause.Cause<unknown>) => {
    const detail = describe(cause)
    const dead = row({ status: "FAILED", output: null, error: forPeople(detail) })
    run.stop(reasonOf(cause, detail), {
      row: dead,
      attempt: { stepKey, attempt, startedAt, endedAt: dead.updatedAt, error: forPeople(detail) }
    })
  }

  const reasonOf = (cause: Cause.Cause<unknown>, detail: string): StopReason => {
    const defect = Option.getOrNull(Cause.dieOption(cause))
    return defect instanceof TooLarge
      ? new LimitExceeded({
        workflowId: run.workflowId,
        what: `the number of bytes in the outcome of step ${JSON.stringify(spec.id)}`,
        limit: defect.limit,
        actual: defect.bytes
      })
      : new StepDied({ workflowId: run.workflowId, address, stepId: spec.id, attempt, detail })
  }

  let cut: (() => void) | null = null
  stepFiber.addObserver((exit) => {
    place.ended = true
    if (Exit.isFailure(exit)) {
      if (cut !== null) {
        run.jot(
          row({ status: "FAILED", output: null, error: forPeople("cut: the body stopped waiting for this step") })
        )
      } else if (!run.closed) {
        die(exit.cause)
      }
    }
    cut?.()
  })

  return (ended: () => void) => {
    cut = ended
    if (stepFiber.unsafePoll() !== null) {
      ended()
    } else {
      stepFiber.unsafeInterruptAsFork(fiber.id())
    }
  }
}

export const forPeople = (detail: string) => JSON.stringify({ detail })

// ---------------------------------------------------------------------------------------------------------------------
// encoding
// ---------------------------------------------------------------------------------------------------------------------

export const encodeSuccess = (
  value: unknown,
  spec: StepSpec,
  maxBytes: number
): Effect.Effect<Encoded, never, unknown> =>
  Effect.match(encode(value, spec.success, maxBytes), {
    onFailure: dieOf("result", spec),
    onSuccess: (output): Effect.Effect<Encoded> => Effect.succeed({ status: "COMPLETED", output, error: null })
  }).pipe(Effect.flatten)

export const encodeFailure = (
  cause: Cause.Cause<unknown>,
  spec: StepSpec,
  maxBytes: number
): Effect.Effect<Encoded, never, unknown> => {
  const failure = Cause.failureOption(cause)
  if (Option.isNone(failure) || !Chunk.isEmpty(Cause.defects(cause))) {
    return Effect.failCause(cause as Cause.Cause<never>)
  }
  if (spec.error === null) {
    return Effect.die(
      new Unrecordable(
        `the step failed with ${
          String(failure.value)
        }, and has no error schema. Pass an \`error\` schema, or Effect.orDie to make it stop the run`
      )
    )
  }
  return Effect.match(encode(failure.value, spec.error, maxBytes), {
    onFailure: dieOf("failure", spec),
    onSuccess: (error): Effect.Effect<Encoded> => Effect.succeed({ status: "FAILED", output: null, error })
  }).pipe(Effect.flatten)
}

const dieOf = (what: string, spec: StepSpec) => (error: Unrecordable | TooLarge): Effect.Effect<never> =>
  Effect.die(
    error instanceof TooLarge
      ? error
      : new Unrecordable(`the ${what} of step ${JSON.stringify(spec.id)} is ${error.message}`)
  )

// ---------------------------------------------------------------------------------------------------------------------
// decoding
// ---------------------------------------------------------------------------------------------------------------------

export const answer = (record: StepRow, spec: StepSpec, { run }: Branch): Effect.Effect<unknown, unknown, unknown> => {
  const undecodable = (detail: string) =>
    run.refuse(new RecordUndecodable({ workflowId: run.workflowId, record: record.stepKey, detail }))
  if (record.status === "COMPLETED") {
    return Effect.catchAll(decode(record.output, spec.success), undecodable)
  }
  return spec.error === null
    ? undecodable("a failure is recorded, and the step has no error schema now")
    : Effect.matchEffect(decode(record.error, spec.error), { onFailure: undecodable, onSuccess: Effect.fail })
}
