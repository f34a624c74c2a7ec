/** What a row of simulations has of its own: what goes wrong, how far clocks are wrong, and what else must hold. */
import type { Duration, FastCheck as fc } from "effect"
import type { StepStore } from "perdure"
import type { Dice } from "../dice.js"
import type { Course } from "./checks.js"
import { type Plan, plans } from "./plan.js"
import type { Process } from "./process.js"

/** Looks on at one simulation. */
export interface Watch {
  /** The store has accepted an update; answers what is wrong with it. */
  readonly accepted: (process: Process, update: StepStore.RunUpdate) => ReadonlyArray<string>
  /** A run has ended; throws if something does not hold. */
  readonly ended: (course: Course) => void
}

export interface Kind {
  readonly plans: fc.Arbitrary<Plan>
  /** When it begins, in epoch milliseconds. */
  readonly beginsAt: number
  /** How often workers look by themselves, and beat. */
  readonly pace: { readonly slowPoll: Duration.DurationInput; readonly heartbeat: Duration.DurationInput }
  /** How fast a clock is after it has been set, in milliseconds. */
  readonly set: (skew: number, dice: Dice) => number
  /** Whether all clocks are right in the calm: then it is as late as any of them has shown, and more and more time passes at once. */
  readonly settles: boolean
  readonly watch: () => Watch
}

const minute = 60_000
const sizes = [1, 1_000, minute, 60 * minute]

/** Everything goes wrong, clocks by a few hours. */
export const anyFault: Kind = {
  plans,
  beginsAt: 0,
  pace: { slowPoll: "4 hours", heartbeat: "6 hours" },
  set: (skew, dice) => {
    const sign = dice.isBelow(0.5) ? 1 : -1
    return skew + sign * sizes[dice.below(sizes.length)]! * (1 + dice.below(3))
  },
  settles: false,
  watch: () => ({ accepted: () => [], ended: () => {} })
}
