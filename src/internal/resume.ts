/** Which failed steps of a FAILED run may run again. */
import type { StepRow } from "../StepStore.js"
import { addressOf, positionOf } from "./sequencer.js"

/** The part of an address that leads to each branch on its way, and then the address itself. */
const pathOf = (address: string): ReadonlyArray<string> => {
  const parts = address.split(".")
  return parts.map((_, depth) => parts.slice(0, depth + 1).join("."))
}

const around = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf(".")))

/** What has to be known of a record; payloads, which may be many times as large, are not kept for this. */
export type Outline = Pick<StepRow, "stepKey" | "kind" | "status" | "position" | "askedAfter">

export const outlineOf = ({ askedAfter, kind, position, status, stepKey }: StepRow): Outline => ({
  stepKey,
  kind,
  status,
  position,
  askedAfter
})

/** The two lines of control in a branch that began last. */
interface Latest {
  readonly path: string
  readonly began: number
  readonly before: number
}

/**
 * The keys of the failed steps that nothing followed: neither in the branch of such a step nor in one around it has an
 * operation been asked for, or a branch begun, after the body was told of the failure. A failed step that was followed had been
 * dealt with by the body, and running it again would make the body go another way than the one recorded. What goes on in a
 * branch that was on its way already does not follow it. What has been undone is not done again.
 */
export const reopenable = (history: ReadonlyArray<Outline>): ReadonlyArray<string> => {
  if (history.some((row) => row.kind === "compensation")) {
    return []
  }
  /** By operation and branch: after which outcome it was asked for, or its first operation was. */
  const began = new Map<string, number>()
  for (const row of history) {
    for (const path of pathOf(addressOf(row.stepKey))) {
      began.set(path, Math.min(row.askedAfter, began.get(path) ?? row.askedAfter))
    }
  }
  const latest = new Map<string, Latest>()
  for (const [path, after] of began) {
    const known = latest.get(around(path)) ?? { path, began: -1, before: -1 }
    latest.set(
      around(path),
      after > known.began
        ? { path, began: after, before: known.began }
        : { ...known, before: Math.max(known.before, after) }
    )
  }
  const followed = (row: Outline) =>
    pathOf(addressOf(row.stepKey)).some((path) => {
      const last = latest.get(around(path))!
      return (last.path === path ? last.before : last.began) >= positionOf(row)
    })
  return history.filter((row) => row.status === "FAILED" && !followed(row)).map((row) => row.stepKey)
}
