/** A body, wrapped so that what it ends with is what is to be recorded. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import type { StopReason } from "../Errors.js"
import { BodyDied, RecordUndecodable } from "../Errors.js"
import type { ActiveRun, BodyEnd } from "./activeRun.js"
import { withBodyServices } from "./bodyServices.js"
import { Branch, inBranch } from "./place.js"
import type { OutcomeSchemas, Registration } from "./run.js"
import { Run } from "./run.js"
import { decode, encode, TooLarge, type Unrecordable } from "./values.js"

const broken = (reason: StopReason): BodyEnd => ({ _tag: "Broken", reason })

/** What a run's body is: an effect that answers with what is to be recorded, and where it runs. */
export interface Program {
  readonly effect: (run: ActiveRun) => Effect.Effect<BodyEnd, never, unknown>
  readonly runtime: Runtime.Runtime<unknown>
}

/** The program of a run of a definition: the payload recorded is decoded first. */
export const ofDefinition = (
  registration: Registration,
  payload: string | null,
  runtime: Runtime.Runtime<unknown>
): Program => ({
  runtime,
  effect: (run) =>
    Effect.matchEffect(decode(payload, registration.payloadSchema), {
      onFailure: (detail) =>
        Effect.succeed(broken(new RecordUndecodable({ workflowId: run.workflowId, record: "payload", detail }))),
      onSuccess: (value) =>
        recordable(Effect.suspend(() => registration.body(value, run.workflowId)), registration.outcome, run)
    })
})

/** The program of a run without a definition. */
export const ofScript = (
  body: Effect.Effect<unknown, unknown, unknown>,
  outcome: OutcomeSchemas,
  runtime: Runtime.Runtime<unknown>
): Program => ({ runtime, effect: (run) => recordable(body, outcome, run) })

const recordable = (
  body: Effect.Effect<unknown, unknown, unknown>,
  schemas: OutcomeSchemas,
  run: ActiveRun
): Effect.Effect<BodyEnd, never, unknown> =>
  Effect.matchCauseEffect(run.unwinding.watch(Effect.scoped(body)), {
    onFailure: (cause) => failed(cause, schemas, run),
    onSuccess: (value) =>
      Effect.match(encode(value, schemas.success, run.household.limits.value), {
        onFailure: (error) => broken(unrecordable("result", error, run)),
        onSuccess: (outcome): BodyEnd => ({ _tag: "Succeeded", outcome })
      })
  })

const failed = (
  cause: Cause.Cause<unknown>,
  schemas: OutcomeSchemas,
  run: ActiveRun
): Effect.Effect<BodyEnd, never, unknown> => {
  const failure = Cause.failureOption(cause)
  // Only the typed error fails a run; a defect beside it is a mistake that somebody has to mend first.
  if (Option.isNone(failure) || schemas.error === null || !Chunk.isEmpty(Cause.defects(cause))) {
    return Effect.succeed(broken(run.bodyDied(cause)))
  }
  return Effect.match(encode(failure.value, schemas.error, run.household.limits.value), {
    onFailure: (error) => broken(unrecordable("failure", error, run)),
    onSuccess: (outcome): BodyEnd => ({ _tag: "Failed", outcome })
  })
}

const unrecordable = (what: string, error: Unrecordable | TooLarge, run: ActiveRun): StopReason =>
  error instanceof TooLarge
    ? run.exceeded(`the number of bytes in the ${what} of the run`, error.limit, error.bytes)
    : new BodyDied({ workflowId: run.workflowId, detail: `its ${what} is ${error.message}`, unwinding: [] })

/** Starts a body, on the scheduler of its run and in its root branch. */
export const begin = (run: ActiveRun, program: Program): void => {
  const root = new Branch(run, "", null)
  const effect = withBodyServices(inBranch(program.effect(run), root, () => run.parked))
  const runtime = Runtime.make({
    runtimeFlags: program.runtime.runtimeFlags,
    fiberRefs: program.runtime.fiberRefs,
    context: Context.add(program.runtime.context, Run, {
      workflowId: run.workflowId,
      workflow: run.identity.name,
      generation: run.identity.generation
    })
  })
  run.begin(() => Runtime.runFork(runtime, effect, { scheduler: run.sequencer.scheduler, immediate: false }))
}
