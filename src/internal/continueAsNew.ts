/** The end of a generation of a run, from which the next one begins. */
import * as Effect from "effect/Effect"
import type { PayloadInvalid } from "../Errors.js"
import { placed } from "./operation.js"

/**
 * @param called - how the caller wrote it, for messages
 * @param name - the workflow whose payload it is
 * @param encode - the payload as JSON text
 */
export const continueAsNew = (
  called: string,
  name: string,
  encode: (maxBytes: number) => Effect.Effect<string | null, PayloadInvalid, unknown>
): Effect.Effect<never, never, unknown> =>
  placed(called, {
    inStep: ({ run, stepId }) =>
      run.refuse(run.misplaced(
        called,
        `a step is recorded as a whole, and step ${JSON.stringify(stepId)} would never be. Call it in the body`
      )),
    inBranch: ({ prefix, run }) => {
      if (run.identity.name !== name) {
        return run.refuse(run.misplaced(
          called,
          `this is a run of ${JSON.stringify(run.identity.name)}, and a run goes on as one of its own workflow`
        ))
      }
      return prefix === ""
        ? Effect.matchEffect(encode(run.household.limits.value), {
          onFailure: (error) => run.refuse(run.misplaced(called, error.message)),
          onSuccess: (payload) => run.continueAsNew(payload)
        })
        : run.refuse(run.misplaced(
          called,
          "it was called in a branch, and the others go on. Let the branches end first, and call it in the root branch"
        ))
    }
  })
