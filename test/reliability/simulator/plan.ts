/** What a seed brings: the runs, the workers, and what goes wrong. */
import { type Duration, FastCheck as fc } from "effect"
import { type Trials, trials } from "../../support/trials.js"

/** What goes wrong, and its probability. */
export interface Weather {
  /** Of the calls of the store: some are slow, fail, are performed and reported as failed, or are the last of their process. */
  readonly slow: number
  readonly failed: number
  readonly unsaid: number
  readonly last: number
  /** Of what changes: it is not told. */
  readonly untold: number
  /** Of the turns: a process is killed, hangs, or closes, or its clock jumps. */
  readonly killed: number
  readonly hung: number
  readonly closed: number
  readonly jumps: number
}

export const calm: Weather = {
  slow: 0,
  failed: 0,
  unsaid: 0,
  last: 0,
  untold: 0,
  killed: 0,
  hung: 0,
  closed: 0,
  jumps: 0
}

export interface RunPlan {
  readonly program: Trials
  /** Whether its branches share state, signals and failures, and race: then only the moments decide how it ends. */
  readonly shares: boolean
  readonly startAt: number
  /** Turns before each signal, used again from the start when there are more. */
  readonly delays: ReadonlyArray<number>
  readonly cancelAt: number | null
}

export interface Plan {
  readonly weather: Weather
  readonly workers: number
  /** Turns that the storm lasts. */
  readonly storm: number
  readonly room: number
  readonly grace: Duration.DurationInput
  readonly runs: ReadonlyArray<RunPlan>
}

const often = (most: number) => fc.constantFrom(0, most / 4, most)

export const plans: fc.Arbitrary<Plan> = fc.record({
  weather: fc.record({
    slow: often(0.3),
    failed: often(0.04),
    unsaid: often(0.04),
    last: often(0.02),
    untold: often(0.2),
    killed: often(0.008),
    hung: often(0.008),
    closed: often(0.006),
    jumps: often(0.01)
  }),
  workers: fc.integer({ min: 1, max: 4 }),
  storm: fc.integer({ min: 50, max: 400 }),
  room: fc.constantFrom(1, 2, 1_000),
  grace: fc.constantFrom<Duration.DurationInput>(0, "1 second", "5 minutes"),
  runs: fc.array(
    fc.boolean().chain((shares) =>
      fc.record({
        program: trials(shares),
        shares: fc.constant(shares),
        startAt: fc.integer({ min: 0, max: 60 }),
        delays: fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 4 }),
        cancelAt: fc.option(fc.integer({ min: 1, max: 300 }), { freq: 5, nil: null })
      })
    ),
    { minLength: 1, maxLength: 4 }
  )
})
