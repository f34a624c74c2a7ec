/** The durable sleep: what waits for a time, through any number of restarts. */
import * as Effect from "effect/Effect"
import type { Begun } from "./operation.js"
import { durable } from "./operation.js"
import { completed, cut, type Encoded, rowsOf, underWay } from "./row.js"

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

const begin = (due: number, begun: Begun) => {
  const { address, branch: { run } } = begun
  // For people: when it ends.
  const output = JSON.stringify(new Date(due).toISOString())
  const rowOf = rowsOf({ kind: "sleep", id: "sleep", fingerprint: null }, begun)
  const row = (encoded: Encoded) => rowOf({ ...encoded, output })
  run.jot(row(underWay))
  run.rest(address, due)
  let over = false
  const cancel = run.at(due, () => {
    over = true
    run.stir(address)
    run.household.fork(run.record(row(completed(output))))
  })
  return (ended: () => void) => {
    cancel()
    run.stir(address)
    // Its record, which nobody waits for any more, is on its way or written, and stays.
    if (!over) {
      run.jot(row(cut("the body stopped waiting for this sleep")))
    }
    ended()
  }
}
