import { fileURLToPath } from "node:url"
import { defineConfig, type Plugin } from "vitest/config"
import { seed as seedBug, seededBug } from "./reliability/bugs.js"

const root = fileURLToPath(new URL("..", import.meta.url))

/** What the promises rest on: every branch of it is tested. */
const core = "src/{Step,Branch,Workflow,Engine,*StepStore,internal/**/*}.ts"

const seed = Number(process.env.FC_SEED ?? Date.now() % 2_147_483_647)
const runs = process.env.FC_RUNS

/** Puts a bug into the source as it is loaded, if the environment asks for one: `test/reliability/bugs.ts`. */
const bugs: Plugin = {
  name: "seeded-bugs",
  enforce: "pre",
  transform: (code, id) => {
    const bug = seededBug()
    return bug !== null && id.startsWith(`${root}src/`) ? seedBug(bug, id.slice(`${root}src/`.length), code) : null
  }
}

export default defineConfig({
  root,
  plugins: [bugs],
  resolve: {
    alias: [
      { find: /^perdure$/, replacement: `${root}src/index.ts` },
      { find: /^perdure\/(.*)$/, replacement: `${root}src/$1.ts` }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    setupFiles: ["test/vitest.setup.ts"],
    env: { FC_SEED: String(seed), ...(runs === undefined ? {} : { FC_RUNS: runs }) },
    allowOnly: false,
    pool: "forks",
    poolOptions: { forks: { minForks: 1, maxForks: 3 } },
    // Tests kill and start real processes.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    reporters: ["default", "./test/vitest.reporter.ts"],
    coverage: {
      provider: "v8",
      // Counts the branches of the source (`??`, `&&`, default values), not those that V8 happens to report.
      experimentalAstAwareRemapping: true,
      include: ["src/**/*.ts"],
      reportsDirectory: ".coverage",
      // A table of the files below 100 % with their uncovered lines, then the totals.
      reporter: [["text", { skipFull: true, maxCols: 160 }], "text-summary"],
      thresholds: {
        [core]: { branches: 100 },
        [`!${core}`]: { branches: 95 }
      }
    }
  }
})
