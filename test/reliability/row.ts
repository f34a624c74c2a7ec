/**
 * A row of the reliability table: a fault, and what must hold under it. The same test runs with a small count in `npm test`, and
 * with a larger one in `npm run test:night -- --row NAME`. What each row did is printed as a table when all have ended.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { TestContext } from "vitest"

/** Fixed cases may be tried all again, so many times. */
export interface Rounds {
  readonly rounds: number
}

/** How often a row is tried: so many times, for so many seconds, or in as many ways as there are, of which a word says more. */
export type Count = number | { readonly seconds: number } | Rounds | "all" | `all ${string}`

export interface Row {
  /** By which the command line selects it. */
  readonly name: string
  /** What goes wrong, and what must hold: the title of the test. */
  readonly title: string
  /** How often it is tried in `npm test`. */
  readonly ci: Count
  /** How often it is tried at night. */
  readonly night: Count
}

/** What a row has done, as the reporter prints it. */
export interface Done {
  readonly name: string
  readonly trials: number
  readonly ci: string
  readonly night: string
  readonly failures: number
  readonly seed: number
}

declare module "vitest" {
  interface TaskMeta {
    reliability?: Done
  }
}

export const atNight = process.env.PERDURE_NIGHT !== undefined

/** Of all that is random in the rows. */
export const seed = Number(process.env.FC_SEED)

const shown = (count: Count): string =>
  typeof count === "object" ? "seconds" in count ? `${count.seconds} s` : `all × ${count.rounds}` : String(count)

/** How often a row is tried now; `PERDURE_COUNT` changes it at night. */
const countOf = ({ ci, night }: Row): Count => {
  const given = process.env.PERDURE_COUNT
  const count = atNight ? night : ci
  if (given === undefined || typeof count === "string") {
    return count
  }
  if (typeof count === "number") {
    return Number(given)
  }
  return "seconds" in count ? { seconds: Number(given) } : { rounds: Number(given) }
}

const define = <C extends Count, E>(
  row: Row,
  minutes: number,
  trials: (count: C) => Effect.Effect<number, E>,
  check: (done: number, count: C) => void
): void => {
  describe(`[${row.name}]`, () => {
    const count = countOf(row) as C
    it.live(
      `${row.title} (${shown(count)} of ${shown(row.night)})`,
      ({ task }: TestContext) => {
        const note = (trials: number, failures: number) => {
          task.meta.reliability = {
            name: row.name,
            trials,
            ci: shown(row.ci),
            night: shown(row.night),
            failures,
            seed
          }
        }
        // The first failure ends the row, and this is what the table says of it then.
        note(0, 1)
        return Effect.map(trials(count), (done) => {
          check(done, count)
          note(done, 0)
        })
      },
      // What ends it on a machine with much else to do must be a fault, and not the load.
      atNight ? 0 : minutes * 180_000
    )
  })
}

/**
 * A row of so many trials.
 *
 * @param minutes - how long it may take in `npm test`
 * @param trials - makes so many, and answers how many it has made; it fails with the first that does not hold
 */
export const row = <E>(
  row: Row & { readonly ci: number; readonly night: number },
  minutes: number,
  trials: (count: number) => Effect.Effect<number, E>
): void =>
  define<number, E>(row, minutes, trials, (done, count) => assert.isAtLeast(done, count, "trials that were made"))

/** A row that lasts for a time; it answers how many trials it has made in it. */
export const timedRow = <E>(
  row: Row & { readonly ci: { readonly seconds: number }; readonly night: { readonly seconds: number } },
  minutes: number,
  trials: (seconds: number) => Effect.Effect<number, E>
): void =>
  define<{ readonly seconds: number }, E>(
    row,
    minutes,
    ({ seconds }) => trials(seconds),
    (done) => assert.isAbove(done, 0, "trials that were made")
  )

/** Of all cases of a row those to be tried: all, or at night as many as `PERDURE_COUNT` says, at equal distances. */
export const picked = <A>(cases: ReadonlyArray<A>): ReadonlyArray<A> => {
  const count = Math.min(cases.length, Number(process.env.PERDURE_COUNT ?? cases.length))
  return Array.from({ length: count }, (_, i) => cases[Math.floor((i * cases.length) / count)]!)
}

/** A row of fixed cases, of which there are `atLeast` so many; it answers how many it has tried. */
export const fixedRow = <E>(
  row: Omit<Row, "ci" | "night"> & { readonly ci?: `all ${string}`; readonly night?: `all ${string}` },
  minutes: number,
  atLeast: number,
  trials: Effect.Effect<number, E>
): void =>
  define<"all", E>(
    { ci: "all", night: "all", ...row },
    minutes,
    () => trials,
    (done) => assert.isAtLeast(done, atLeast, "cases that were tried")
  )

/** A row of fixed cases, of which there are `atLeast` so many: all of them once, and again and again at night. */
export const repeatedRow = <E>(
  row: Omit<Row, "ci" | "night"> & { readonly night: Rounds | { readonly seconds: number } },
  minutes: number,
  atLeast: number,
  trials: (round: number) => Effect.Effect<number, E>
): void =>
  define<Rounds | { readonly seconds: number } | "all", E>(
    { ...row, ci: "all" },
    minutes,
    (count) =>
      Effect.gen(function*() {
        const until = typeof count === "object" && "seconds" in count ? performance.now() + 1_000 * count.seconds : 0
        const rounds = typeof count === "object" && "rounds" in count ? count.rounds : 1
        let done = 0
        for (let round = 0; round < rounds || performance.now() < until; round++) {
          done += yield* trials(round)
        }
        return done
      }),
    (done) => assert.isAtLeast(done, atLeast, "cases that were tried")
  )
