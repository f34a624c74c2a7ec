/** Everything has a limit, so that a mistake ends in an error and not in a full disk. */
export interface Limits {
  /** The most bytes that a value, once encoded, may have. */
  readonly value: number
  /** The most operations that a run may record. */
  readonly history: number
  /** The most branches that one call may reserve. */
  readonly reservation: number
  /** The most attempts at a step, one after the other, that may end with the death of their process. */
  readonly kills: number
}

export const defaultLimits: Limits = {
  value: 16 * 1024 * 1024,
  history: 1_000_000,
  reservation: 100_000,
  kills: 10
}
