/** How a step runs: in a fiber of its own, on the ordinary scheduler, so that nothing it does is seen by the body but its outcome. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { constFalse } from "effect/Function"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import { ProcessKilled, RecordUndecodable, StepInterrupted, StepTimeout } from "../Errors.js"
import type { StepRow } from "../StepStore.js"
import type { ActiveRun } from "./activeRun.js"
import { encodeEngineError, EngineError, forPeople, pastOf } from "./attempts.js"
import { LazyScope } from "./lazyScope.js"
import { fingerprintProblem, nameProblem } from "./names.js"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"
import type { Branch, InStep } from "./place.js"
import type { Retry } from "./retry.js"
import { stepper } from "./retry.js"
import { completed, type Encoded, rowOf, underWay } from "./row.js"
import type { Turns } from "./stepFiber.js"
import { contextOf, diedOf, restoreOf, runStep } from "./stepFiber.js"
import { decode, encode, follow, TooLarge, Unrecordable } from "./values.js"
import { sleepUntil } from "./waiting.js"

export interface StepSpec {
  readonly id: string
  readonly fingerprint: string | null
  readonly success: Schema.Schema<unknown, unknown, unknown> | null
  readonly error: Schema.Schema<unknown, unknown, unknown> | null
  readonly retry: Retry | null
  /** The milliseconds that an attempt has. */
  readonly timeout: number | null
  readonly onInterrupted: "rerun" | "fail"
  /** What a replay compares: a step, or what undoes one. */
  readonly kind: "step" | "compensation"
  /** What undoes it, given its value and why. */
  readonly compensate: Compensate | null
  readonly turns: Turns | null
}

export type Compensate = (value: unknown, cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, unknown>

/** What has to be known of a step to write and to read its record. */
export type RecordedSpec = Pick<StepSpec, "id" | "success" | "error">

export const step = (
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: StepSpec
): Effect.Effect<unknown, unknown, unknown> => {
  const called = `Step.durable(${JSON.stringify(spec.id)})`
  const idProblem = nameProblem(spec.id)
  const printProblem = spec.fingerprint === null ? null : fingerprintProblem(spec.fingerprint)
  return durable<unknown, unknown, unknown>({
    called,
    kind: spec.kind,
    id: spec.id,
    fingerprint: spec.fingerprint,
    begin: (begun) =>
      spec.turns === null ? begin(self, spec, begun) : inTurn(spec.turns, () => begin(self, spec, begun)),
    recorded: (record, { run }, context) => {
      const { compensate } = spec
      if (compensate !== null && record.status === "COMPLETED") {
        run.compensations.push({
          id: spec.id,
          context,
          effect: (cause) =>
            Effect.matchEffect(decode(record.output, spec.success), {
              onFailure: (detail) => run.refuse(undecodable(run, record.stepKey, detail)),
              onSuccess: (value) => compensate(value, cause)
            })
        })
      }
    },
    answer: (record, branch) => answer(record, spec, branch),
    // A step within a step is part of the outer one.
    inStep: () => Effect.scoped(self),
    problem: idProblem === null
      ? printProblem === null ? null : `its fingerprint cannot be used: ${printProblem}`
      : `its step id cannot be used: ${idProblem}`
  })
}

/** Begins when it is its turn. Nobody cuts what waits for that: the run ends with it, or leaves memory. */
const inTurn = (turns: Turns, begin: () => (ended: () => void) => void) => {
  let letGo = (ended: () => void) => ended()
  turns.enter(() => {
    letGo = begin()
  })
  return (ended: () => void) => letGo(ended)
}

// ---------------------------------------------------------------------------------------------------------------------
// running
// ---------------------------------------------------------------------------------------------------------------------

const begin = (
  self: Effect.Effect<unknown, unknown, unknown>,
  spec: StepSpec,
  begun: Begun
) => {
  const { address, branch: { run } } = begun
  const { clock, faults, limits } = run.household
  const stepKey = run.keyOf(address)
  const before = run.unfinished.get(address)
  const past = pastOf(before?.attempt ?? 0, run.attemptsAt(address))
  const first = past.last + 1
  let attempt = first
  let startedAt = run.now()
  const row = (outcome: Encoded): StepRow => rowOf(spec, begun, { attempt, startedAt }, outcome)
  const place: InStep = { _tag: "Step", run, stepId: spec.id, transaction: false, ended: false }
  const restore = restoreOf(begun)
  /** Records what the body is told. */
  const settle = (outcome: Encoded) => {
    run.attemptEnded(stepKey)
    place.ended = true
    return run.put(row(outcome))
  }

  // -- an attempt

  /** Marks that an attempt begins; answers what has to be waited for before it does. */
  const mark = (): Effect.Effect<void> | null => {
    if (run.leaving) {
      return run.idling(run.parked)
    }
    startedAt = run.now()
    run.attemptBegan({ stepKey, attempt, startedAt })
    const started = row(underWay)
    if (faults.active) {
      return Effect.zipRight(
        run.writeThrough({ steps: [started], attempts: [] }),
        faults.at("step-started", () => run.finish({ _tag: "Crashed" }))
      )
    }
    if (spec.onInterrupted === "fail" || run.cautious) {
      return run.writeThrough({ steps: [started], attempts: [] })
    }
    run.jot(started)
    return null
  }

  const { timeout } = spec
  const encodeExit = {
    onFailure: (cause: Cause.Cause<unknown>) => encodeFailure(cause, spec, limits.value),
    onSuccess: (value: unknown) => encodeSuccess(value, spec, limits.value)
  }
  const untimed = (scope: LazyScope): Effect.Effect<Encoded, never, unknown> =>
    Effect.matchCauseEffect(restore(self), {
      onFailure: (cause) => scope.closed(Exit.failCause(cause), encodeExit),
      onSuccess: (value) => scope.closed(Exit.succeed(value), encodeExit)
    })
  const timed = (millis: number): Effect.Effect<Encoded, never, unknown> =>
    Effect.suspend(() =>
      restore(Effect.raceFirst(
        Effect.matchCauseEffect(Effect.scoped(self), encodeExit),
        Effect.as(
          sleepUntil(clock, clock.unsafeCurrentTimeMillis() + millis),
          engineFailure(new StepTimeout({ workflowId: run.workflowId, stepId: spec.id, attempt, millis }))
        )
      ))
    )
  /** What the step ends with, as it is recorded; it dies if the step does. */
  const attempted = (scope: LazyScope): Effect.Effect<Encoded, never, unknown> =>
    Effect.suspend(() => {
      const marking = mark()
      const going = timeout === null ? untimed(scope) : timed(timeout)
      return marking === null ? going : Effect.zipRight(restore(marking), going)
    })

  // -- what follows it

  /** Between two attempts the run may leave memory. */
  const pause = (dueAt: number) => run.betweenAttempts(address, dueAt, sleepUntil(clock, dueAt))

  const retried = (retry: Retry): Effect.Effect<void, never, unknown> => {
    const step = stepper(retry, clock, run.idempotencyKeyOf(address))

    /** Tries again if the schedule has an attempt left. */
    const after = (failed: Encoded, orElse: Effect.Effect<void>) =>
      Effect.suspend(() => {
        const endedAt = run.now()
        const decided = Effect.matchEffect(decodeFailure(failed, spec), {
          onFailure: (detail) => run.refuse(undecodable(run, stepKey, detail)),
          onSuccess: (error) =>
            Effect.if(failed.errorTag === null ? retry.allows(error) : Effect.succeed(true), {
              onTrue: () => step(endedAt, error),
              onFalse: () => Effect.succeed(null)
            })
        })
        return Effect.flatMap(
          restore(decided),
          (dueAt) => dueAt === null ? orElse : Effect.zipRight(restore(waited(failed, endedAt, dueAt)), again)
        )
      })

    const waited = (failed: Encoded, endedAt: number, dueAt: number) =>
      Effect.suspend(() => {
        run.attemptEnded(stepKey)
        const ended = { ...row(failed), status: "IN_PROGRESS" as const }
        const { errorTag } = failed
        return run.writeThrough({
          steps: [ended],
          attempts: [{ stepKey, attempt, startedAt, endedAt, dueAt, errorTag, error: failed.error }]
        })
      }).pipe(Effect.zipRight(pause(dueAt)))

    const again = Effect.suspend(() => {
      attempt++
      return loop
    })

    const loop: Effect.Effect<void, never, unknown> = Effect.suspend(() =>
      Effect.matchCauseEffect(attempt === first ? attempted(scope) : later(), {
        onFailure: (cause) =>
          retry.defects
            ? after(engineFailure(diedOf(begun, spec.id, attempt, cause)), Effect.failCause(cause))
            : Effect.failCause(cause),
        onSuccess: (outcome) => outcome.status === "COMPLETED" ? settle(outcome) : after(outcome, settle(outcome))
      })
    )

    /** The fiber began with what the first attempt needs. */
    const later = () => {
      const scope = new LazyScope()
      return Effect.mapInputContext(
        attempted(scope),
        (context: Context.Context<unknown>) => contextOf(context, begun, spec.id, attempt, scope)
      )
    }

    /** The schedule goes on where the attempts before have left it. */
    return Effect.zipRight(
      Effect.forEach(past.retried, (row) =>
        Effect.matchEffect(decodeFailure(row, spec), {
          onFailure: (detail) => run.refuse(undecodable(run, stepKey, detail)),
          onSuccess: (error) => step(row.endedAt, error)
        }), { discard: true }),
      loop
    )
  }

  const scope = new LazyScope()

  const work = () => spec.retry === null ? Effect.flatMap(attempted(scope), settle) : retried(spec.retry)

  const program = (): Effect.Effect<void, never, unknown> => {
    if (past.cutOff && spec.onInterrupted === "fail") {
      attempt = past.last
      return Effect.suspend(() =>
        settle(
          engineFailure(new StepInterrupted({ workflowId: run.workflowId, stepId: spec.id, attempt: past.last }))
        )
      )
    }
    if (past.kills >= limits.kills && before?.errorTag !== "ProcessKilled") {
      return Effect.suspend(() => {
        attempt = past.last
        const { workflowId } = run
        const reason = new ProcessKilled({ workflowId, address, stepId: spec.id, attempts: past.kills })
        run.stop(reason, {
          steps: [row({ status: "FAILED", output: null, errorTag: reason._tag, error: forPeople(reason.message) })]
        })
        return run.parked
      })
    }
    return past.dueAt === null ? work() : Effect.zipRight(restore(pause(past.dueAt)), work())
  }

  return runStep({
    begun,
    attempt,
    stepKey,
    place,
    row,
    program: program(),
    scope,
    isRecorded: constFalse,
    turns: spec.turns
  })
}

/** What Perdure itself has to say of an attempt, in place of the step. */
const engineFailure = (error: EngineError): Encoded => ({
  status: "FAILED",
  output: null,
  errorTag: error._tag,
  error: encodeEngineError(error)
})

// ---------------------------------------------------------------------------------------------------------------------
// encoding
// ---------------------------------------------------------------------------------------------------------------------

export const encodeSuccess = (
  value: unknown,
  spec: RecordedSpec,
  maxBytes: number
): Effect.Effect<Encoded, never, unknown> =>
  follow(encode(value, spec.success, maxBytes), {
    onFailure: dieOf("result", spec),
    onSuccess: (output) => Exit.succeed(completed(output))
  })

export const encodeFailure = (
  cause: Cause.Cause<unknown>,
  spec: RecordedSpec,
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
  return follow(encode(failure.value, spec.error, maxBytes), {
    onFailure: dieOf("failure", spec),
    onSuccess: (error): Exit.Exit<Encoded> => Exit.succeed({ status: "FAILED", output: null, errorTag: null, error })
  })
}

const dieOf = (what: string, spec: RecordedSpec) => (error: Unrecordable | TooLarge): Effect.Effect<never> =>
  Effect.die(
    error instanceof TooLarge
      ? error
      : new Unrecordable(`the ${what} of step ${JSON.stringify(spec.id)} is ${error.message}`)
  )

// ---------------------------------------------------------------------------------------------------------------------
// decoding
// ---------------------------------------------------------------------------------------------------------------------

export const answer = (
  record: StepRow,
  spec: RecordedSpec,
  { run }: Branch
): Effect.Effect<unknown, unknown, unknown> => {
  const refused = (detail: string) => run.refuse(undecodable(run, record.stepKey, detail))
  return record.status === "COMPLETED"
    ? follow(decode(record.output, spec.success), { onFailure: refused, onSuccess: Exit.succeed })
    : Effect.matchEffect(decodeFailure(record, spec), { onFailure: refused, onSuccess: Effect.fail })
}

const undecodable = (run: ActiveRun, record: string, detail: string) =>
  new RecordUndecodable({ workflowId: run.workflowId, record, detail })

const engineSchema = EngineError as Schema.Schema<unknown, unknown, unknown>

/** The failure of a step, or what Perdure had to say in place of it: the tag beside it tells which. */
const decodeFailure = (
  record: { readonly errorTag: string | null; readonly error: string | null },
  spec: RecordedSpec
): Effect.Effect<unknown, string, unknown> => {
  if (record.errorTag !== null) {
    return decode(record.error, engineSchema)
  }
  return spec.error === null
    ? Effect.fail("a failure is recorded, and the step has no error schema now")
    : decode(record.error, spec.error)
}
