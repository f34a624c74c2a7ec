/** A body, wrapped so that what it ends with is what is to be recorded. */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberRefs from "effect/FiberRefs"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import * as Scope from "effect/Scope"
import type { StopReason } from "../Errors.js"
import { BodyDied, RecordUndecodable } from "../Errors.js"
import type { ActiveRun, BodyEnd } from "./activeRun.js"
import { endingOf } from "./activeRun.js"
import { withBodyServices } from "./bodyServices.js"
import { bodySupervisor, watched } from "./bodySupervisor.js"
import { cancelStarted } from "./children.js"
import { compensateAll, drained } from "./compensation.js"
import { LazyScope } from "./lazyScope.js"
import { Branch, putAt } from "./place.js"
import type { OutcomeSchemas, Registration } from "./run.js"
import { Run } from "./run.js"
import { inTrace } from "./trace.js"
import { decode, encode, follow, TooLarge, type Unrecordable } from "./values.js"

const broken = (reason: StopReason): BodyEnd => ({ _tag: "Broken", reason })

/** What a run's body is, what the end of the run is made of, and where both run. */
export interface Program {
  readonly effect: (run: ActiveRun) => Effect.Effect<unknown, unknown, unknown>
  readonly outcome: OutcomeSchemas
  readonly runtime: Runtime.Runtime<unknown>
  /** The program of the next generation. */
  readonly next: (payload: string | null) => Program
}

/** The program of a run of a definition: the payload recorded is decoded first. */
export const ofDefinition = (
  registration: Registration,
  payload: string | null,
  runtime: Runtime.Runtime<unknown>
): Program => ({
  runtime,
  outcome: registration.outcome,
  next: (payload) => ofDefinition(registration, payload, runtime),
  effect: (run) =>
    Effect.matchEffect(decode(payload, registration.payloadSchema), {
      onFailure: (detail) =>
        run.refuse(new RecordUndecodable({ workflowId: run.workflowId, record: "payload", detail })),
      onSuccess: (value) => Effect.suspend(() => registration.body(value, run.workflowId))
    })
})

/** The program of a run without a definition, which has one generation. */
export const ofScript = (
  body: Effect.Effect<unknown, unknown, unknown>,
  outcome: OutcomeSchemas,
  runtime: Runtime.Runtime<unknown>
): Program => {
  const program: Program = { runtime, outcome, effect: () => body, next: () => program }
  return program
}

/** Makes the end of the run of what the body has ended with: encodes it, and undoes what is to be undone. */
const conclude = (
  exit: Exit.Exit<unknown, unknown>,
  { outcome }: Program,
  run: ActiveRun,
  root: Branch
): Effect.Effect<BodyEnd, never, unknown> => {
  if (run.next !== null && (Exit.isSuccess(exit) || Chunk.isEmpty(Cause.defects(exit.cause)))) {
    return Effect.as(drained(run), { _tag: "Continued", payload: run.next.payload })
  }
  return Exit.match(exit, {
    onFailure: (cause) => failed(cause, outcome, run, root),
    onSuccess: (value) =>
      follow(encode(value, outcome.success, run.household.limits.value), {
        onFailure: (error) => Exit.succeed(broken(unrecordable("result", error, run))),
        onSuccess: (outcome): Exit.Exit<BodyEnd> => Exit.succeed({ _tag: "Succeeded", outcome })
      })
  })
}

const failed = (
  cause: Cause.Cause<unknown>,
  schemas: OutcomeSchemas,
  run: ActiveRun,
  root: Branch
): Effect.Effect<BodyEnd, never, unknown> => {
  // Only the typed error fails a run; a defect beside it is a mistake that somebody has to mend first.
  if (!Chunk.isEmpty(Cause.defects(cause))) {
    return Effect.succeed(broken(run.bodyDied(cause)))
  }
  if (run.cancellation.told !== null && Cause.isInterrupted(cause)) {
    return run.apart(cancelStarted(run)).pipe(
      Effect.catchAllCause((cause) => run.leaves(endingOf(cause))),
      Effect.zipRight(compensateAll(root, cause)),
      Effect.as({ _tag: "Cancelled", reason: run.cancellation.told })
    )
  }
  const failure = Cause.failureOption(cause)
  if (Option.isNone(failure) || schemas.error === null) {
    return Effect.succeed(broken(run.bodyDied(cause)))
  }
  return Effect.matchEffect(encode(failure.value, schemas.error, run.household.limits.value), {
    onFailure: (error) => Effect.succeed(broken(unrecordable("failure", error, run))),
    onSuccess: (outcome) => Effect.as(compensateAll(root, cause), { _tag: "Failed" as const, outcome })
  })
}

const unrecordable = (what: string, error: Unrecordable | TooLarge, run: ActiveRun): StopReason =>
  error instanceof TooLarge
    ? run.exceeded(`the number of bytes in the ${what} of the run`, error.limit, error.bytes)
    : new BodyDied({ workflowId: run.workflowId, detail: `its ${what} is ${error.message}`, unwinding: [] })

/**
 * What a body and its conclusion begin with. The services of a run ask the fiber where it is, so one set of them serves all runs of a
 * definition: made for each, they were three quarters of what a run held in memory.
 */
interface Ground {
  readonly refs: FiberRefs.FiberRefs
  /** Of a body: watched, and not interrupted before and after its effect. */
  readonly outer: RuntimeFlags.RuntimeFlags
  /** What marks its effect. */
  readonly restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

const grounds = new WeakMap<Runtime.Runtime<unknown>, Ground>()

const groundOf = (runtime: Runtime.Runtime<unknown>): Ground => {
  const known = grounds.get(runtime)
  if (known !== undefined) {
    return known
  }
  const inner = watched(runtime.runtimeFlags)
  const outer = RuntimeFlags.disable(inner, RuntimeFlags.Interruption)
  const ground: Ground = {
    refs: Runtime.runSync(runtime)(withBodyServices(Effect.supervised(Effect.getFiberRefs, bodySupervisor))),
    outer,
    restore: Effect.withRuntimeFlagsPatch(RuntimeFlags.diff(outer, inner))
  }
  grounds.set(runtime, ground)
  return ground
}

/** Starts a body, on the scheduler of its run and in its root branch. */
export const begin = (run: ActiveRun, program: Program): void => {
  const root = new Branch(run, "", null)
  const { runtimeFlags } = program.runtime
  const { outer, refs, restore } = groundOf(program.runtime)
  const context = Context.add(inTrace(run.identity.trace, program.runtime.context), Run, {
    workflowId: run.workflowId,
    workflow: run.identity.name,
    generation: run.identity.generation
  })
  const updateRefs = putAt(root, refs)
  const fork = <A, E>(
    self: Effect.Effect<A, E, unknown>,
    flags: RuntimeFlags.RuntimeFlags,
    context: Context.Context<unknown>
  ) => {
    const fiber = Runtime.runFork(
      Runtime.make({ runtimeFlags: flags, fiberRefs: FiberRefs.empty(), context }),
      run.household.attendant.body(self, run.sequencer),
      { scheduler: run.sequencer.scheduler, immediate: false, updateRefs }
    )
    root.enter(fiber)
    fiber.addObserver(() => root.leave())
    return fiber
  }
  const scope = new LazyScope()
  const asExit = { onFailure: Exit.failCause<unknown>, onSuccess: Exit.succeed<unknown> }
  run.begin(
    () =>
      fork(
        Effect.matchCauseEffect(restore(program.effect(run)), {
          onFailure: (cause) => scope.closed(Exit.failCause(cause), asExit),
          onSuccess: (value) => scope.closed(Exit.succeed(value), asExit)
        }),
        outer,
        Context.add(context, Scope.Scope, scope)
      ),
    (exit) => {
      const end = conclude(exit, program, run, root)
      return Exit.isExit(end) && Exit.isSuccess(end) ? end.value as BodyEnd : fork(end, runtimeFlags, context)
    }
  )
}
