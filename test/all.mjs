/**
 * `npm test`: all tests, then the rows of the reliability table. The rows run apart, because counting the branches that are taken makes
 * the engine several times slower, and what they add to that count depends on the seed. Arguments are passed on to one run of both.
 */
import { spawn } from "node:child_process"

const rows = "test/reliability/**"
const counts = /^tests: (\d+) passed, (\d+) failed$/gm

/** Both parts have one seed, so that one number repeats them. */
const env = { ...process.env, FC_SEED: process.env.FC_SEED ?? String(Date.now() % 2_147_483_647) }

const vitest = (...args) =>
  new Promise((resolve) => {
    const child = spawn("npx", ["vitest", "run", "--config", "test/vitest.config.ts", ...args], {
      stdio: ["inherit", "pipe", "inherit"],
      env
    })
    let out = ""
    child.stdout.on("data", (chunk) => {
      process.stdout.write(chunk)
      out = (out + chunk).slice(-10_000)
    })
    child.on("close", (code) => {
      const [, passed, failed] = [...out.matchAll(counts)].at(-1) ?? [null, 0, 1]
      resolve({ code: code ?? 1, passed: Number(passed), failed: Number(failed) })
    })
  })

const asked = process.argv.slice(2)
const parts = asked.length > 0
  ? [await vitest("--coverage", ...asked)]
  : [await vitest("--coverage", "--exclude", rows), await vitest("test/reliability")]

const sum = (of) => parts.reduce((total, part) => total + of(part), 0)
process.exitCode = Math.max(...parts.map(({ code }) => code))
if (parts.length > 1) {
  process.stdout.write(`tests: ${sum(({ passed }) => passed)} passed, ${sum(({ failed }) => failed)} failed\n`)
}
