/** Which failed steps of a FAILED run may run again. */
import type { StepRow } from "../StepStore.js"
import { addressOf } from "./sequencer.js"

/** The sequences of an address, from the root branch inwards. */
const sequencesOf = (address: string): ReadonlyArray<number> => address.split(".").map(Number)

/**
 * The keys of the failed steps that nothing followed: in their own branch neither an operation nor a branch, and after the
 * branch had been reserved, no operation in one around it. (A branch there may have been reserved beside it.) A failed step
 * that was followed had been dealt with by the body, and running it again would make the body go another way than the one
 * recorded.
 */
export const reopenable = (history: ReadonlyArray<StepRow>): ReadonlyArray<string> => {
  /** By branch, the highest sequence of an operation in it. */
  const operations = new Map<string, number>()
  /** By branch, the highest sequence of an operation or a branch in it. */
  const all = new Map<string, number>()
  for (const row of history) {
    const sequences = sequencesOf(addressOf(row.stepKey))
    sequences.forEach((sequence, depth) => note(all, branchOf(sequences, depth), sequence))
    note(operations, branchOf(sequences, sequences.length - 1), sequences.at(-1)!)
  }
  const followed = (sequences: ReadonlyArray<number>) =>
    sequences.some((sequence, depth) => {
      const highest = depth === sequences.length - 1 ? all : operations
      return (highest.get(branchOf(sequences, depth)) ?? -1) > sequence
    })
  return history
    .filter((row) => row.status === "FAILED" && !followed(sequencesOf(addressOf(row.stepKey))))
    .map((row) => row.stepKey)
}

const branchOf = (sequences: ReadonlyArray<number>, depth: number) => sequences.slice(0, depth).join(".")

const note = (highest: Map<string, number>, branch: string, sequence: number) =>
  highest.set(branch, Math.max(sequence, highest.get(branch) ?? -1))
