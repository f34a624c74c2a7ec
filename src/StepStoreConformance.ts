/**
 * What every store must do, as a list of cases, for people who write one.
 *
 * The cases need no test runner and no empty store: run each with the store provided, and report what fails. They may
 * share one store and run in any order; none of them waits for time to pass. The store has no payload codec: some of them count bytes.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import { changes } from "./internal/conformance/changes.js"
import { claims } from "./internal/conformance/claims.js"
import { commits } from "./internal/conformance/commits.js"
import { mail } from "./internal/conformance/mail.js"
import { reads } from "./internal/conformance/reads.js"
import { workers } from "./internal/conformance/workers.js"
import type { StepStore } from "./StepStore.js"

/**
 * @since 0.1.0
 * @category models
 */
export interface Case {
  /** A sentence about the store. */
  readonly name: string
  /** Fails, with a message for people, if the sentence is not true. */
  readonly effect: Effect.Effect<void, unknown, StepStore>
}

/**
 * The cases.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { MemoryStepStore, StepStoreConformance } from "perdure"
 *
 * // With a test runner, make each case a test.
 * export const program = Effect.forEach(StepStoreConformance.cases, (one) =>
 *   one.effect.pipe(
 *     Effect.provide(MemoryStepStore.layer),
 *     Effect.catchAll((failure) => Effect.logError(`${one.name}: ${failure}`))
 *   ))
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const cases: ReadonlyArray<Case> = Object.entries({
  ...commits,
  ...claims,
  ...reads,
  ...workers,
  ...changes,
  ...mail
}).map(([name, effect]) => ({ name, effect }))
