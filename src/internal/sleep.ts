/** The durable sleep: what waits for a time, through any number of restarts. */
import * as Effect from "effect/Effect"
import type { StepRow, StepStatus } from "../StepStore.js"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"

/** Dates end here; who sleeps longer sleeps for good. */
const endOfTime = 8_640_000_000_000_000

/**
 * Sleeps until a time, in epoch milliseconds. What a replay compares is that there is a sleep, not how long it is.
 *
 * @param called - how the caller wrote it, for messages
 * @param due - computed when the sleep is asked for, from what a replay has too: then it is the same after a restart
 */
export const sleepUntil = (called: string, due: number): Effect.Effect<void> =>
  durable<void, never, never>({
    called,
    kind: "sleep",
    id: "sleep",
    fingerprint: null,
    problem: Number.isNaN(due) ? "its date is not a valid one" : null,
    begin: (begun) => begin(Math.min(Math.ceil(due), endOfTime), begun),
    answer: () => Effect.void,
    inStep: (place) =>
      place.run.refuse(place.run.misplaced(
        called,
        `it is durable, and step ${JSON.stringify(place.stepId)} is recorded as a whole. Inside a step use Effect.sleep`
      ))
  })

const begin = (due: number, { address, askedAfter, branch, sequence }: Begun) => {
  const run = branch.run
  const startedAt = run.unfinished.get(address)?.startedAt ?? run.now()
  const row = (status: StepStatus): StepRow => ({
    stepKey: run.keyOf(address),
    stepId: "sleep",
    kind: "sleep",
    sequence,
    status,
    position: null,
    attempt: 1,
    epoch: run.identity.epoch,
    final: false,
    startedAt,
    updatedAt: run.now(),
    askedAfter,
    fingerprint: null,
    // For people: when it ends.
    output: JSON.stringify(new Date(due).toISOString()),
    errorTag: null,
    error: null
  })
  run.jot(row("IN_PROGRESS"))
  run.rest(address, due)
  let over = false
  const cancel = run.at(due, () => {
    over = true
    run.stir(address)
    run.household.fork(run.record(row("COMPLETED")))
  })
  return (ended: () => void) => {
    cancel()
    run.stir(address)
    // Its record, which nobody waits for any more, is on its way or written, and stays.
    if (!over) {
      run.jot({ ...row("FAILED"), error: JSON.stringify({ detail: "cut: the body stopped waiting for this sleep" }) })
    }
    ended()
  }
}
