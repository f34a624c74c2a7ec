/** Trials that follow a script: what is done in them and when, drawn from the seed of the rows. */
import { Effect, FastCheck as fc } from "effect"
import { seed } from "./row.js"

/** The script of a trial: the same for the same number and seed. */
export const scriptOf = <Script>(scripts: fc.Arbitrary<Script>, trial: number): Script =>
  // Without a bias towards small values, which does not pay where each trial has a seed of its own.
  fc.sample(fc.noBias(scripts), { numRuns: 1, seed: (seed + trial) | 0 })[0]!

/** Says of what goes wrong in a trial how it can be repeated. */
export const inTrial = <A, E, R>(
  trial: number,
  script: unknown,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, never, R> =>
  Effect.catchAllCause(
    self,
    (cause) =>
      Effect.die(new Error(`trial ${trial} of FC_SEED=${seed}: ${JSON.stringify(script)}\n${cause.toString()}`))
  )
