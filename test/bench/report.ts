/** Tables of plain text, and the same as JSON. */
import { writeFileSync } from "node:fs"
import { cpus } from "node:os"
import Database from "better-sqlite3"

/** One line of a table: what was measured, beside its floor if it has one. */
export interface Line {
  readonly workload: string
  readonly sync: string
  /** Runs x steps. */
  readonly size: string
  readonly value: number
  readonly unit: string
  readonly floor: number | null
  readonly ratio: number | null
  readonly target: string
  readonly met: boolean | null
  readonly rounds: number
}

/** Three digits that count; whole numbers above. */
const shown = (value: number | null): string => {
  if (value === null) {
    return "-"
  }
  const digits = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)))
  return value.toFixed(Number.isInteger(value) ? 0 : Math.max(0, 2 - digits))
}

/** Columns as wide as what is in them; numbers stand right. */
const aligned = (rows: ReadonlyArray<ReadonlyArray<string>>, right: ReadonlyArray<number>): string => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  const line = (row: ReadonlyArray<string>) =>
    row.map((cell, i) => right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)).join("  ").trimEnd()
  const [head, ...body] = rows
  return [head!, widths.map((width) => "-".repeat(width)), ...body].map(line).join("\n")
}

/** @param names - of the columns of value, floor and ratio */
export const table = (title: string, names: readonly [string, string, string], lines: ReadonlyArray<Line>): string =>
  `${title}\n\n${
    aligned([
      ["workload", "sync", "runs x steps", ...names, "unit", "rounds", "target", "met"],
      ...lines.map((line) => [
        line.workload,
        line.sync,
        line.size,
        shown(line.value),
        shown(line.floor),
        shown(line.ratio),
        line.unit,
        String(line.rounds),
        line.target,
        line.met === null ? "" : line.met ? "yes" : "NO"
      ])
    ], [2, 3, 4, 5, 7])
  }\n`

/** What the numbers were taken with. */
export const machine = (): string => {
  const database = new Database(":memory:")
  const { version } = database.prepare("SELECT sqlite_version() AS version").get() as { readonly version: string }
  database.close()
  const all = cpus()
  return `Node ${process.version}, SQLite ${version}, ${process.platform} ${process.arch}, ${all.length} x ${
    all[0]?.model ?? "unknown processor"
  }`
}

export const writeJson = (file: string, lines: ReadonlyArray<Line>): void =>
  writeFileSync(
    file,
    `${
      JSON.stringify(
        lines.map(({ floor, ratio, size, sync, unit, value, workload }) => ({
          workload,
          sync,
          size,
          value,
          unit,
          floor,
          ratio
        })),
        null,
        2
      )
    }\n`
  )
