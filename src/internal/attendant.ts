/** Who follows what goes on in an engine: nobody, unless a test moves the clock and has to know when the engine is at rest. */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import { constant, identity } from "effect/Function"
import type { Sequencer } from "./sequencer.js"

export interface Attendant {
  /** The clock by which steps, and the engine on their behalf, sleep. */
  readonly clock: (clock: Clock.Clock) => Clock.Clock
  /** Follows the body of a run, which this sequencer drives. */
  readonly body: <A, E, R>(self: Effect.Effect<A, E, R>, sequencer: Sequencer) => Effect.Effect<A, E, R>
  /** Follows a step, and every fiber that it forks. */
  readonly step: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export const nobody: Attendant = { clock: identity, body: identity, step: identity }

export class Attending extends Context.Reference<Attending>()("perdure/Attending", {
  defaultValue: constant<Attendant>(nobody)
}) {}
