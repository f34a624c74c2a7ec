/** `npm run test:night -- --row NAME`: runs rows of the reliability table at their night counts. */
import { spawnSync } from "node:child_process"
import { parseArgs } from "node:util"

const usage = `Usage: npm run test:night -- [options]

  --row NAME    only this one; may be repeated. The names stand in the table that \`npm test\` prints
  --count N     so many trials, or seconds, in place of the night count
  --seed N      the seed of all that is random
  --help        this text
`

const options = {
  row: { type: "string", multiple: true },
  count: { type: "string" },
  seed: { type: "string" },
  help: { type: "boolean" }
}

const parse = () => {
  try {
    const { values } = parseArgs({ options })
    for (const name of ["count", "seed"]) {
      if (values[name] !== undefined && !/^\d+$/.test(values[name])) {
        throw new Error(`--${name} ${JSON.stringify(values[name])} is no whole number`)
      }
    }
    return values
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${usage}`)
    process.exit(2)
  }
}

const { count, help, row, seed } = parse()
if (help === true) {
  process.stdout.write(usage)
  process.exit(0)
}

const { status } = spawnSync(
  "npx",
  [
    "vitest",
    "run",
    "--config",
    "test/vitest.config.ts",
    ...(row === undefined ? [] : ["--testNamePattern", row.map((name) => `^\\[${name}\\]`).join("|")]),
    "test/reliability"
  ],
  {
    stdio: "inherit",
    env: {
      ...process.env,
      PERDURE_NIGHT: "1",
      ...(count === undefined ? {} : { PERDURE_COUNT: count }),
      ...(seed === undefined ? {} : { FC_SEED: seed })
    }
  }
)
process.exit(status ?? 1)
