import { writeSync } from "node:fs"
import type { Reporter, TestModule, Vitest } from "vitest/node"

/** Prints the seed of the properties, and `tests: N passed, N failed` as the last line of the run, for machines. */
export default class CountsReporter implements Reporter {
  onInit(vitest: Vitest) {
    vitest.logger.log(`fast-check seed: FC_SEED=${vitest.config.env.FC_SEED}`)
  }

  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandled: ReadonlyArray<unknown>) {
    let passed = 0
    let failed = unhandled.length
    for (const module of modules) {
      // A file or a suite that breaks outside its tests counts once, so that the line never looks green.
      failed += module.errors().length
      for (const suite of module.children.allSuites()) failed += suite.errors().length
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === "passed") passed++
        else if (state !== "skipped") failed++
      }
    }
    // The coverage report comes after this hook.
    process.once("exit", () => writeSync(1, `tests: ${passed} passed, ${failed} failed\n`))
  }
}
