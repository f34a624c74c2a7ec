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
import { encodeEngineError, EngineError, forPeople, type Past, pastOf } from "./attempts.js"
import { LazyScope } from "./lazyScope.js"
import { fingerprintProblem, nameProblem } from "./names.js"
import type { Begun, OperationSpec } from "./operation.js"
import { durable } from "./operation.js"
import type { Branch, InStep } from "./place.js"
import type { Retry } from "./retry.js"
import { stepper } from "./retry.js"
import { completed, type Encoded, rowOf, underWay } from "./row.js"
import type { Turns } from "./stepFiber.js"
import { contextOf, diedOf, type Restore, restoreOf, runStep } from "./stepFiber.js"
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
): Effect.Effect<unknown, unknown, unknown> => durable(new StepOperation(self, spec))

class StepOperation implements OperationSpec<unknown, unknown, unknown> {
  readonly kind: string
  readonly id: string
  readonly fingerprint: string | null
  private readonly self: Effect.Effect<unknown, unknown, unknown>
  private readonly spec: StepSpec

  constructor(self: Effect.Effect<unknown, unknown, unknown>, spec: StepSpec) {
    this.kind = spec.kind
    this.id = spec.id
    this.fingerprint = spec.fingerprint
    this.self = self
    this.spec = spec
  }

  get called(): string {
    return `Step.durable(${JSON.stringify(this.id)})`
  }

  get problem(): string | null {
    const idProblem = nameProblem(this.id)
    if (idProblem !== null) {
      return `its step id cannot be used: ${idProblem}`
    }
    const printProblem = this.fingerprint === null ? null : fingerprintProblem(this.fingerprint)
    return printProblem === null ? null : `its fingerprint cannot be used: ${printProblem}`
  }

  begin(begun: Begun) {
    const { self, spec } = this
    return spec.turns === null ? begin(self, spec, begun) : inTurn(spec.turns, () => begin(self, spec, begun))
  }

  recorded(record: StepRow, { run }: Branch, context: Context.Context<unknown>): void {
    const { spec } = this
    const { compensate, turns } = spec
    turns?.recorded()
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
  }

  answer(record: StepRow, branch: Branch) {
    return answer(record, this.spec, branch)
  }

  /** A step within a step is part of the outer one. */
  inStep() {
    return Effect.scoped(this.self)
  }
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

const begin = (self: Effect.Effect<unknown, unknown, unknown>, spec: StepSpec, begun: Begun) => {
  const running = new RunningStep(self, spec, begun)
  return runStep({
    begun,
    attempt: running.attempt,
    stepKey: running.stepKey,
    place: running.place,
    row: running.row,
    program: running.program(),
    scope: running.scope,
    isRecorded: constFalse,
    turns: spec.turns
  })
}

/** A step that runs. A class, because a thousand of them at once are common: its methods take no memory. */
class RunningStep {
  readonly stepKey: string
  readonly place: InStep
  /** That of the first attempt. */
  readonly scope = new LazyScope()
  private readonly self: Effect.Effect<unknown, unknown, unknown>
  private readonly spec: StepSpec
  private readonly begun: Begun
  private readonly run: ActiveRun
  private readonly past: Past
  private readonly restore: Restore
  /** The number of the attempt under way. */
  attempt: number
  startedAt: number

  constructor(self: Effect.Effect<unknown, unknown, unknown>, spec: StepSpec, begun: Begun) {
    const { address, branch: { run } } = begun
    this.self = run.household.attendant.attempt(self)
    this.spec = spec
    this.begun = begun
    this.run = run
    this.stepKey = run.keyOf(address)
    this.place = { _tag: "Step", run, stepId: spec.id, transaction: false, ended: false }
    this.past = pastOf(run.unfinished.get(address)?.attempt ?? 0, run.attemptsAt(address))
    this.restore = restoreOf(begun)
    this.attempt = this.past.last + 1
    this.startedAt = run.now()
  }

  /** A row of the attempt under way. */
  readonly row = (outcome: Encoded): StepRow => rowOf(this.spec, this.begun, this, outcome)

  /** All that the fiber of the step does. */
  program(): Effect.Effect<void, never, unknown> {
    const { past, run, spec } = this
    if (past.cutOff && spec.onInterrupted === "fail") {
      this.attempt = past.last
      return Effect.suspend(() =>
        this.settle(
          engineFailure(new StepInterrupted({ workflowId: run.workflowId, stepId: spec.id, attempt: past.last }))
        )
      )
    }
    const before = run.unfinished.get(this.begun.address)
    if (past.kills >= run.household.limits.kills && before?.errorTag !== "ProcessKilled") {
      return Effect.suspend(() => this.kills())
    }
    return past.dueAt === null ? this.work() : Effect.zipRight(this.restore(this.pause(past.dueAt)), this.work())
  }

  private work() {
    return this.spec.retry === null
      ? Effect.flatMap(this.attempted(this.scope), (outcome) => this.settle(outcome))
      : this.retried(this.spec.retry)
  }

  /** Records what the body is told. */
  private settle(outcome: Encoded): Effect.Effect<void> {
    this.run.attemptEnded(this.stepKey)
    this.place.ended = true
    return this.run.put(this.row(outcome))
  }

  /** It has killed its process too often. */
  private kills(): Effect.Effect<never> {
    const { begun: { address }, past, run, spec } = this
    this.attempt = past.last
    const reason = new ProcessKilled({
      workflowId: run.workflowId,
      address,
      stepId: spec.id,
      attempts: past.kills
    })
    run.stop(reason, {
      steps: [this.row({ status: "FAILED", output: null, errorTag: reason._tag, error: forPeople(reason.message) })]
    })
    return run.parked
  }

  // -- an attempt

  /** What the step ends with, as it is recorded; it dies if the step does. */
  private attempted(scope: LazyScope): Effect.Effect<Encoded, never, unknown> {
    return Effect.suspend(() => {
      const { timeout } = this.spec
      const marking = this.mark()
      const going = timeout === null ? this.untimed(scope) : this.timed(timeout)
      return marking === null ? going : Effect.zipRight(this.restore(marking), going)
    })
  }

  /** Marks that an attempt begins; answers what has to be waited for before it does. */
  private mark(): Effect.Effect<void> | null {
    const { run, spec, stepKey } = this
    const { faults } = run.household
    if (run.leaving) {
      return run.idling(run.parked)
    }
    this.startedAt = run.now()
    run.attemptBegan({ stepKey, attempt: this.attempt, startedAt: this.startedAt })
    const started = this.row(underWay)
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

  private untimed(scope: LazyScope): Effect.Effect<Encoded, never, unknown> {
    return Effect.matchCauseEffect(this.restore(this.self), {
      onFailure: (cause) => scope.closed(Exit.failCause(cause), this),
      onSuccess: (value) => scope.closed(Exit.succeed(value), this)
    })
  }

  private timed(millis: number): Effect.Effect<Encoded, never, unknown> {
    const { attempt, run: { household: { clock }, workflowId }, spec } = this
    return this.restore(Effect.raceFirst(
      Effect.matchCauseEffect(Effect.scoped(this.self), {
        onFailure: (cause) => this.onFailure(cause),
        onSuccess: (value) => this.onSuccess(value)
      }),
      Effect.as(
        sleepUntil(clock, clock.unsafeCurrentTimeMillis() + millis),
        engineFailure(new StepTimeout({ workflowId, stepId: spec.id, attempt, millis }))
      )
    ))
  }

  /** Encodes what an attempt has failed with. */
  readonly onFailure = (cause: Cause.Cause<unknown>) => encodeFailure(cause, this.spec, this.run.household.limits.value)

  /** Encodes the value of an attempt. */
  onSuccess(value: unknown) {
    return encodeSuccess(value, this.spec, this.run.household.limits.value)
  }

  // -- what follows it

  /** Between two attempts the run may leave memory. */
  private pause(dueAt: number): Effect.Effect<void> {
    return this.run.betweenAttempts(this.begun.address, dueAt, sleepUntil(this.run.household.clock, dueAt))
  }

  private retried(retry: Retry): Effect.Effect<void, never, unknown> {
    const { begun, past, run, spec, stepKey } = this
    const first = this.attempt
    const step = stepper(retry, run.household.clock, run.idempotencyKeyOf(begun.address))

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
          this.restore(decided),
          (dueAt) => dueAt === null ? orElse : Effect.zipRight(this.restore(waited(failed, endedAt, dueAt)), again)
        )
      })

    const waited = (failed: Encoded, endedAt: number, dueAt: number) =>
      Effect.suspend(() => {
        run.attemptEnded(stepKey)
        const { attempt, startedAt } = this
        const { error, errorTag } = failed
        return run.writeThrough({
          steps: [{ ...this.row(failed), status: "IN_PROGRESS" }],
          attempts: [{ stepKey, attempt, startedAt, endedAt, dueAt, errorTag, error }]
        })
      }).pipe(Effect.zipRight(this.pause(dueAt)))

    const again = Effect.suspend(() => {
      this.attempt++
      return loop
    })

    const loop: Effect.Effect<void, never, unknown> = Effect.suspend(() =>
      Effect.matchCauseEffect(this.attempt === first ? this.attempted(this.scope) : later(), {
        onFailure: (cause) =>
          retry.defects
            ? after(engineFailure(diedOf(begun, spec.id, this.attempt, cause)), Effect.failCause(cause))
            : Effect.failCause(cause),
        onSuccess: (outcome) =>
          outcome.status === "COMPLETED"
            ? this.settle(outcome)
            : after(outcome, Effect.suspend(() => this.settle(outcome)))
      })
    )

    /** The fiber began with what the first attempt needs. */
    const later = () => {
      const scope = new LazyScope()
      return Effect.mapInputContext(
        this.attempted(scope),
        (context: Context.Context<unknown>) => contextOf(context, begun, spec.id, this.attempt, scope)
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
