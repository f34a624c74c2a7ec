import { writeSync } from "node:fs"
import type { Reporter, TestModule, Vitest } from "vitest/node"
import type { Done } from "./reliability/row.js"

/** The rows of the reliability table that have been tried, as a table. */
const tableOf = (rows: ReadonlyArray<Done>): string => {
  const cells = [
    ["reliability", "trials", "ci", "night", "failures", "seed"],
    ...rows.map((
      { ci, failures, name, night, seed, trials }
    ) => [name, String(trials), ci, night, String(failures), String(seed)])
  ]
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((line) => line[column]!.length)))
  return cells.map((line) => line.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trimEnd()).join("\n")
}

/** Prints the seed of the properties, what the rows of the reliability table did, and `tests: N passed, N failed` as the last line of the run, for machines. */
export default class CountsReporter implements Reporter {
  onInit(vitest: Vitest) {
    vitest.logger.log(`fast-check seed: FC_SEED=${vitest.config.env.FC_SEED}`)
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandled: ReadonlyArray<unknown>) {
    let passed = 0
    let failed = unhandled.length
    const rows: Array<Done> = []
    for (const module of modules) {
      // A file or a suite that breaks outside its tests counts once, so that the line never looks green.
      failed += module.errors().length
      for (const suite of module.children.allSuites()) failed += suite.errors().length
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === "passed") passed++
        else if (state !== "skipped") failed++
        const { reliability } = test.meta()
        if (reliability !== undefined) rows.push(reliability)
      }
    }
    // The coverage report comes after this hook.
    if (process.env.PERDURE_NIGHT !== undefined && rows.length === 0) {
      process.exitCode = 1
      writeSync(2, "There is no row of that name\n")
    }
    const table = rows.length === 0 ? "" : `${tableOf(rows)}\n`
    process.once("exit", () => writeSync(1, `${table}tests: ${passed} passed, ${failed} failed\n`))
  }
}
