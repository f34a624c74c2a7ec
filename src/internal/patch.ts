/** Patch markers: by which changed code tells the runs that were under way from those that began with it. */
import * as Effect from "effect/Effect"
import * as Iterable from "effect/Iterable"
import type { StepRow } from "../StepStore.js"
import type { ActiveRun } from "./activeRun.js"
import { nameProblem } from "./names.js"
import type { Begun } from "./operation.js"
import { admitted, durable } from "./operation.js"
import type { Branch, InStep } from "./place.js"
import { completed, rowsOf } from "./row.js"
import type { Look } from "./sequencer.js"
import { addressOf, positionOf } from "./sequencer.js"

const kind = "patch"

/** What is recorded at the place where a branch is. */
type Found = "Marker" | "Other" | "Nothing"

interface Spec {
  readonly called: string
  readonly id: string
  /** What the first call of the id answers where its marker is not recorded; `null` records the marker. */
  readonly otherwise: (found: "Other" | "Nothing") => boolean | null
}

/** Whether this is the code that a run goes by here: false where it has recorded something else. */
export const patched = (id: string): Effect.Effect<boolean> =>
  ask({
    called: `Workflow.patched(${JSON.stringify(id)})`,
    id,
    otherwise: (found) => found === "Other" ? false : null
  })

/** Takes the sequence of the marker, where it is recorded. */
export const patchDone = (id: string): Effect.Effect<void> =>
  Effect.asVoid(ask({ called: `Workflow.patchDone(${JSON.stringify(id)})`, id, otherwise: () => true }))

const ask = (spec: Spec): Effect.Effect<boolean> =>
  admitted<boolean, never, never>({ ...spec, problem: problemOf(spec.id), inStep: inStep(spec) }, (branch) => {
    const known = branch.run.patches.get(spec.id)
    return typeof known === "boolean" ? Effect.succeed(known) : question(spec, branch)
  })

const problemOf = (id: string) => {
  const problem = nameProblem(id)
  return problem === null ? null : `its id cannot be used: ${problem}`
}

const inStep = ({ called }: Spec) => ({ run, stepId }: InStep): Effect.Effect<never> =>
  run.refuse(run.misplaced(
    called,
    `it belongs to the body, and step ${
      JSON.stringify(stepId)
    } is recorded as a whole. Call it in the body, before the step, and let the step use its answer`
  ))

/** Suspends always, also where the answer is at hand: how much of a history is loaded must not be seen by the body. */
const question = (spec: Spec, branch: Branch): Effect.Effect<boolean> => {
  const { run } = branch
  const { patches, sequencer } = run
  const lookup: { begun: boolean; found: Found | null } = { begun: false, found: null }
  return Effect.async<boolean>((resume) => {
    const known = (answer: boolean) => {
      patches.set(spec.id, answer)
      resume(Effect.succeed(answer))
    }
    const asked = {
      look: (): Look => {
        const before = patches.get(spec.id)
        if (before !== undefined) {
          return before === null ? "Held" : () => resume(Effect.succeed(before))
        }
        if (!lookup.begun) {
          lookup.begun = true
          find(spec.id, branch, (found) => {
            lookup.found = found
            sequencer.settle()
          })
        }
        const { found } = lookup
        if (found === null) {
          return "Unknown"
        }
        const answer = found === "Marker" ? null : spec.otherwise(found)
        return () => answer === null ? resume(marker(spec, run)) : known(answer)
      },
      release: () => resume(run.parked)
    }
    sequencer.inquire(asked)
    return Effect.sync(() => sequencer.withdraw(asked))
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// the marker
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Not interruptible, so that whatever follows it in its branch is recorded after it. Else an operation of a finalizer could stand
 * in the history behind a marker that was cut, and a replay would take it for what other code has recorded.
 */
const marker = (spec: Spec, { patches }: ActiveRun): Effect.Effect<boolean> =>
  Effect.uninterruptible(Effect.suspend(() => {
    patches.set(spec.id, null)
    return durable<boolean, never, never>({
      called: spec.called,
      kind,
      id: spec.id,
      fingerprint: null,
      problem: null,
      begin: (begun) => begin(spec.id, begun),
      answer: () =>
        Effect.sync(() => {
          patches.set(spec.id, true)
          return true
        }),
      inStep: inStep(spec)
    })
  }))

const begin = (id: string, begun: Begun) => {
  const { run } = begun.branch
  run.household.fork(run.record(rowsOf({ kind, id, fingerprint: null }, begun)(completed(null))))
  return (ended: () => void) => ended()
}

// ---------------------------------------------------------------------------------------------------------------------
// what is recorded
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Looks at everything that the store has of the run and the body has not been handed. Pages of the history that are read for this
 * alone are not kept: where a branch is far behind the others, they may be many.
 */
const find = (id: string, branch: Branch, then: (found: Found) => void): void => {
  const { run } = branch
  const { address } = branch
  const isMarker = (row: StepRow) => row.kind === kind && row.stepId === id && addressOf(row.stepKey) === address
  // Not this address alone. A branch that was reserved here has no record of its own, nor has what was cut before it began. And
  // where the branch had ended, nothing more can be recorded in it before what followed has been handed out.
  const isPassed = (row: StepRow) => branch.isBefore(addressOf(row.stepKey))
  const isUnderWay = (row: StepRow) => branch.leadsTo(addressOf(row.stepKey))
  /** The history first: a marker is recorded before all that follows it, which may be under way again. */
  const search = (rows: ReadonlyArray<StepRow>, more: boolean, last: number): void => {
    const row = rows.find(isPassed)
    if (row !== undefined) {
      then(isMarker(row) ? "Marker" : "Other")
    } else if (more) {
      run.household.readAfter(run, last, ({ more, rows }) => {
        if (!run.closed) {
          search(rows, more, rows.reduce((_, row) => positionOf(row), last))
        }
      })
    } else {
      then(Iterable.some(run.unfinished.values(), isUnderWay) ? "Other" : "Nothing")
    }
  }
  search(run.sequencer.upcoming, run.sequencer.more, run.sequencer.lastPosition)
}
