/** Which failed steps of a FAILED run may run again. */
import type { StepRow } from "../StepStore.js"
import { addressOf } from "./sequencer.js"

/** The sequences of an address, from the root branch inwards. */
const sequencesOf = (address: string): ReadonlyArray<number> => address.split(".").map(Number)

/**
 * The keys of the failed steps that nothing followed: neither in their own branch nor, after the branch had been reserved, in
 * one around it. A failed step that was followed had been dealt with by the body, and running it again would make the body
 * go another way than the one recorded.
 */
export const reopenable = (history: ReadonlyArray<StepRow>): ReadonlyArray<string> => {
  /** By the prefix of a branch, the highest sequence recorded in it. */
  const last = new Map<string, number>()
  for (const row of history) {
    const sequences = sequencesOf(addressOf(row.stepKey))
    const prefix = sequences.slice(0, -1).join(".")
    const sequence = sequences.at(-1) ?? 0
    last.set(prefix, Math.max(sequence, last.get(prefix) ?? -1))
  }
  const followed = (sequences: ReadonlyArray<number>) =>
    sequences.some((sequence, depth) => (last.get(sequences.slice(0, depth).join(".")) ?? -1) > sequence)
  return history
    .filter((row) => row.status === "FAILED" && !followedByOthers(row, followed))
    .map((row) => row.stepKey)
}

const followedByOthers = (row: StepRow, followed: (sequences: ReadonlyArray<number>) => boolean) =>
  followed(sequencesOf(addressOf(row.stepKey)))
