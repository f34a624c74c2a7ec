/** Who follows what goes on in an engine: nobody, unless a test moves the clock, counts effects, or looks how far a history reaches. */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import { constant, constTrue, identity } from "effect/Function"
import type { Operation } from "../Errors.js"
import type { Sequencer } from "./sequencer.js"

export interface Attendant {
  /** The clock by which steps, and the engine on their behalf, sleep. */
  readonly clock: (clock: Clock.Clock) => Clock.Clock
  /** Follows the body of a run, which this sequencer drives. */
  readonly body: <A, E, R>(self: Effect.Effect<A, E, R>, sequencer: Sequencer) => Effect.Effect<A, E, R>
  /** Follows a step, and every fiber that it forks. */
  readonly step: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Follows the effect of a step, which runs in each attempt at it; `Step.Current` is in its context. */
  readonly attempt: (self: Effect.Effect<unknown, unknown, unknown>) => Effect.Effect<unknown, unknown, unknown>
  /** Whether an operation of which nothing is recorded may begin. One that may not waits. */
  readonly mayBegin: (operation: Operation) => boolean
}

export const nobody: Attendant = {
  clock: identity,
  body: identity,
  step: identity,
  attempt: identity,
  mayBegin: constTrue
}

export class Attending extends Context.Reference<Attending>()("perdure/Attending", {
  defaultValue: constant<Attendant>(nobody)
}) {}
