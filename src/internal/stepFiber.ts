/** The fiber that a step runs in: how it begins, how its death stops the run, and how it is cut. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberRefs from "effect/FiberRefs"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import { defaultScheduler } from "effect/Scheduler"
import * as Scope from "effect/Scope"
import { StepDied } from "../Errors.js"
import type { StepRow } from "../StepStore.js"
import type { LastRows } from "./activeRun.js"
import { forPeople } from "./attempts.js"
import { unwatched } from "./bodySupervisor.js"
import { describe } from "./describe.js"
import type { Begun } from "./operation.js"
import type { InStep } from "./place.js"
import { putAt, refsOf } from "./place.js"
import type { Encoded } from "./row.js"
import type { StepInfo } from "./run.js"
import { CurrentStep } from "./run.js"
import { TooLarge } from "./values.js"

/**
 * What a step can know of itself. The key for others costs a hash, which most steps do not ask for; it is a property of its own all the
 * same, so that a copy has it. One descriptor for all, because V8 makes a hidden class for each getter of an object literal.
 */
class Info implements StepInfo {
  readonly workflowId: string
  readonly stepId: string
  readonly stepKey: string
  readonly attempt: number
  readonly epoch: number
  declare readonly idempotencyKey: string
  readonly #begun: Begun

  constructor(begun: Begun, stepId: string, attempt: number) {
    const { address, branch: { run } } = begun
    this.workflowId = run.workflowId
    this.stepId = stepId
    this.stepKey = run.keyOf(address)
    this.attempt = attempt
    this.epoch = run.identity.epoch
    this.#begun = begun
    Object.defineProperty(this, "idempotencyKey", Info.#key)
  }

  static readonly #key: PropertyDescriptor & ThisType<Info> = {
    enumerable: true,
    get() {
      const { address, branch: { run } } = this.#begun
      return run.idempotencyKeyOf(address)
    }
  }
}

/** Once for both services, and without an entry object for each: copies of the body's services were a fifth of what a step allocates. */
const copyOf = <K, V>(map: ReadonlyMap<K, V>): Map<K, V> => {
  const copy = new Map<K, V>()
  map.forEach((value, key) => copy.set(key, value))
  return copy
}

/** What an attempt at a step has around it: what the body had, what it can know of itself, and a scope of its own. */
export const contextOf = (
  context: Context.Context<unknown>,
  begun: Begun,
  stepId: string,
  attempt: number,
  scope: Scope.Scope
): Context.Context<unknown> =>
  Context.unsafeMake(
    copyOf(context.unsafeMap).set(CurrentStep.key, new Info(begun, stepId, attempt)).set(Scope.Scope.key, scope)
  )

/**
 * The flags with which the fiber of a step begins. It is the engine's own, so nobody watches it, and no metric counts it (which costs
 * more than the fiber); and what it does before and after the effect of the step is not interrupted.
 */
const flagsOf = ({ status }: Begun): RuntimeFlags.RuntimeFlags =>
  RuntimeFlags.disable(
    RuntimeFlags.disable(unwatched(status.runtimeFlags), RuntimeFlags.RuntimeMetrics),
    RuntimeFlags.Interruption
  )

/**
 * Gives an effect the flags of the body that asked for the step. So marked is what can be cut of a step: its effect, and what comes
 * between two attempts. What it has ended with is recorded.
 */
export const restoreOf = (begun: Begun): Restore =>
  Effect.withRuntimeFlagsPatch(RuntimeFlags.diff(flagsOf(begun), unwatched(begun.status.runtimeFlags)))

export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

export const diedOf = (
  { address, branch: { run } }: Begun,
  stepId: string,
  attempt: number,
  cause: Cause.Cause<unknown>
): StepDied => new StepDied({ workflowId: run.workflowId, address, stepId, attempt, detail: describe(cause) })

/** Steps of which one runs at a time, and whose death does not end the run at once. */
export interface Turns {
  /** Begins when those before have died or are recorded. */
  readonly enter: (begin: () => void) => void
  readonly died: (address: string, id: string, detail: string, rows: LastRows) => void
  /** One of them is recorded: in this life, or in an earlier one. */
  readonly recorded: () => void
}

export interface StepWork {
  readonly begun: Begun
  /** The number of the first attempt that the fiber makes. */
  readonly attempt: number
  readonly stepKey: string
  readonly place: InStep
  /** Not interrupted but for what {@link restoreOf} marks. */
  readonly program: Effect.Effect<void, never, unknown>
  /** That of the first attempt. */
  readonly scope: Scope.Scope
  /** A row of the attempt under way. */
  readonly row: (outcome: Encoded) => StepRow
  /** Once the record is there, how the fiber ends does not matter. */
  readonly isRecorded: () => boolean
  /** Given: the step is one of those. */
  readonly turns: Turns | null
}

/**
 * Starts a step.
 *
 * @returns what stops it again, and calls back when it has let go
 */
export const runStep = ({ attempt, begun, isRecorded, place, program, row, scope, stepKey, turns }: StepWork) => {
  const { fiber } = begun
  const { run, stepId } = place
  const failed = (detail: string) => row({ status: "FAILED", output: null, errorTag: null, error: forPeople(detail) })

  let running: Fiber.RuntimeFiber<void> | null = Runtime.runFork(
    Runtime.make({
      context: contextOf(fiber.currentContext as Context.Context<unknown>, begun, stepId, attempt, scope),
      fiberRefs: FiberRefs.empty(),
      runtimeFlags: flagsOf(begun)
    }),
    run.household.attendant.step(program),
    // At once: a step that never waits needs no turn of a scheduler, and Effect's makes a queue for each fiber. But one that follows
    // upon the end of another would run within it.
    { scheduler: defaultScheduler, immediate: turns === null, updateRefs: putAt(place, refsOf(fiber)) }
  )
  run.began(running)

  const die = (cause: Cause.Cause<unknown>) => {
    const { attempt, error, startedAt, updatedAt, ...rest } = failed(describe(cause))
    const defect = Option.getOrNull(Cause.dieOption(cause))
    const rows: LastRows = {
      steps: [{ ...rest, attempt, error, startedAt, updatedAt }],
      attempts: [{ stepKey, attempt, startedAt, endedAt: updatedAt, dueAt: null, errorTag: "StepDied", error }]
    }
    if (turns !== null) {
      turns.died(begun.address, stepId, describe(cause), rows)
      return
    }
    run.stop(
      defect instanceof TooLarge
        ? run.exceeded(
          `the number of bytes in the outcome of step ${JSON.stringify(stepId)}`,
          defect.limit,
          defect.bytes
        )
        : diedOf(begun, stepId, attempt, cause),
      rows
    )
  }

  let cut: (() => void) | null = null
  running.addObserver((exit) => {
    // Who could cut the step has this function until its record is handed over, and a fiber is some kilobytes.
    running = null
    run.attemptEnded(stepKey)
    place.ended = true
    if (Exit.isFailure(exit) && !isRecorded()) {
      if (cut !== null) {
        run.jot(failed("cut: the body stopped waiting for this step"))
      } else if (!run.closed) {
        die(exit.cause)
      }
    }
    cut?.()
  })

  return (ended: () => void) => {
    cut = ended
    if (running === null) {
      ended()
    } else {
      running.unsafeInterruptAsFork(fiber.id())
    }
  }
}
