/**
 * Runs tests of the suite over a source with a bug, and again with another one. Its argument is a list of trials as JSON, and its
 * last line what became of them. One test runner makes them all: it starts once, and reads again only what a bug has changed.
 */
import { createVitest } from "vitest/node"

const vitest = await createVitest("test", {
  config: "test/vitest.config.ts",
  watch: false,
  silent: true,
  reporters: [{}],
  testTimeout: 30_000
})

const attempt = async ({ bug, edited, files, pattern }) => {
  delete process.env.PERDURE_BUG
  if (bug !== null) {
    process.env.PERDURE_BUG = bug
  }
  edited.forEach((file) => vitest.invalidateFile(file))
  vitest.setGlobalTestNamePattern(pattern)
  const specifications = (await vitest.globTestSpecifications()).filter(({ moduleId }) => files.includes(moduleId))
  const { testModules, unhandledErrors } = await vitest.runTestSpecifications(specifications)
  edited.forEach((file) => vitest.invalidateFile(file))
  const modules = testModules.filter(({ moduleId }) => files.includes(moduleId))
  return {
    broken: [...unhandledErrors, ...modules.flatMap((module) => module.errors())].map(({ message }) => message),
    tests: modules.flatMap((module) => Array.from(module.children.allTests())).flatMap((test) => {
      const { errors = [], state } = test.result()
      return state === "skipped" ? [] : [[test.fullName, errors.map(({ message }) => message).join("\n")]]
    })
  }
}

const outcomes = []
for (const trial of JSON.parse(process.argv[2])) {
  outcomes.push(await attempt(trial))
}
await vitest.close()
// That tests have failed is what was asked for.
process.exitCode = 0
process.stdout.write(`\n${JSON.stringify(outcomes)}\n`)
