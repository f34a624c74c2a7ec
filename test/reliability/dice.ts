/** What is drawn from a seed, for each trial by itself: a trial is repeated without those before it. */

export interface Dice {
  /** From 0 up to 1, which it never is. */
  readonly fraction: () => number
  /** A whole number from 0 up to a limit, which it never is. */
  readonly below: (limit: number) => number
  /** Whether an event of this probability happens. */
  readonly isBelow: (probability: number) => boolean
  readonly among: <A>(choices: ReadonlyArray<A>) => A
  readonly bytes: (length: number) => Buffer
}

const golden = 0x9e3779b9

/** Spreads the bits of a number over all of its 32. */
const mixed = (number: number): number => {
  const once = Math.imul(number ^ (number >>> 16), 0x85ebca6b)
  const twice = Math.imul(once ^ (once >>> 13), 0xc2b2ae35)
  return (twice ^ (twice >>> 16)) >>> 0
}

export const dice = (seed: number, trial: number): Dice => {
  let state = mixed(mixed(seed) + Math.imul(trial + 1, golden))
  const fraction = () => {
    state = (state + golden) >>> 0
    return mixed(state) / 2 ** 32
  }
  const below = (limit: number) => Math.floor(fraction() * limit)
  return {
    fraction,
    below,
    isBelow: (probability) => fraction() < probability,
    among: (choices) => choices[below(choices.length)]!,
    bytes: (length) => Buffer.from(Uint8Array.from({ length }, () => below(256)))
  }
}
