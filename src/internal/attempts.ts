/** The attempts at a step: how each ended, and what those before a restart have to say to those after it. */
import * as Schema from "effect/Schema"
import { StepDied, StepInterrupted, StepTimeout } from "../Errors.js"
import type { AttemptRow } from "../StepStore.js"

/** An attempt that is under way. */
export interface Attempt {
  readonly stepKey: string
  readonly attempt: number
  readonly startedAt: number
}

/** How an attempt was cut off: with its worker, or by a worker that gave the run up and lives on. */
export type CutOff = "OwnerDied" | "Released"

const details: Record<CutOff, string> = {
  OwnerDied: "the process that ran this attempt died, or lost the run",
  Released: "this attempt was cut off: its run left the process"
}

export const forPeople = (detail: string) => JSON.stringify({ detail })

export const cutOff = (how: CutOff) => ({ errorTag: how, error: forPeople(details[how]) })

const wasCutOff = (row: AttemptRow) => row.errorTag === "OwnerDied" || row.errorTag === "Released"

/** What Perdure itself has to say of an attempt, as it is recorded. */
export const EngineError = Schema.Union(StepTimeout, StepInterrupted, StepDied)

export type EngineError = typeof EngineError.Type

export const encodeEngineError = Schema.encodeSync(Schema.parseJson(EngineError))

/** What the attempts before say to the next one. */
export interface Past {
  /** The number of the latest attempt, 0 if there was none. */
  readonly last: number
  /** The latest attempt was cut off, so nobody knows what it did. */
  readonly cutOff: boolean
  /** How many attempts, the latest among them, ended with their process one after the other. */
  readonly kills: number
  /** The attempts by which the retry schedule has been stepped, oldest first. */
  readonly retried: ReadonlyArray<AttemptRow & { readonly dueAt: number }>
  /** When the next attempt is due; `null` if at once. */
  readonly dueAt: number | null
}

/**
 * Reads the attempts at a step backwards from its latest one, whose number its row has. An attempt that ended otherwise than by
 * being cut off or tried again (a death, or the failure that the run was resumed from) begins the schedule anew.
 */
export const pastOf = (rowAttempt: number, attempts: ReadonlyArray<AttemptRow>): Past => {
  const latest = attempts.at(-1)
  const last = Math.max(rowAttempt, latest?.attempt ?? 0)
  const retried: Array<AttemptRow & { readonly dueAt: number }> = []
  let kills = 0
  let number = last
  for (const row of [...attempts].reverse()) {
    const { dueAt } = row
    if (row.attempt !== number || (dueAt === null && !wasCutOff(row))) {
      break
    }
    kills += row.errorTag === "OwnerDied" && kills === last - number ? 1 : 0
    number--
    if (dueAt !== null) {
      retried.unshift({ ...row, dueAt })
    }
  }
  const known = latest?.attempt === last ? latest : null
  return {
    last,
    cutOff: known !== null && wasCutOff(known),
    kills,
    retried,
    dueAt: known === null ? null : known.dueAt
  }
}
