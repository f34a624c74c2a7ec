import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { folder, program, removeBundles } from "../fixtures/examples/commands.js"
import { done } from "../fixtures/examples/ledger.js"

const patience = 240_000
const fanOut = program("examples/fan-out.ts")

afterAll(removeBundles)

/** A project with packages of which the nth asks for n others, one of them in a scope, and one that is not installed. */
const install = (project: string, count: number) => {
  const names = Array.from({ length: count }, (_, i) => i === 3 ? "@scope/p3" : `p${i}`)
  const write = (folder: string, manifest: Record<string, unknown>) => {
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, "package.json"), JSON.stringify(manifest))
  }
  const versions = (names: ReadonlyArray<string>) => Object.fromEntries(names.map((name) => [name, "^1.0.0"]))
  write(project, { dependencies: versions(names), devDependencies: versions(["missing"]) })
  names.forEach((name, n) =>
    write(join(project, "node_modules", name), { name, version: "1.2.3", dependencies: versions(names.slice(0, n)) })
  )
  return names
}

describe("the fan-out", () => {
  it.scopedLive(
    "killed at several moments, each child notes its package once, and the sum is that of all",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        const names = install(cwd, 20)
        const crashes = [
          ["step-started", 1],
          ["step-started", 7],
          ["before-commit", 6],
          ["after-commit", 11],
          ["step-started", 12]
        ] as const
        for (const [at, after] of crashes) {
          const { code, stderr } = yield* fanOut([], { cwd, env: { CRASH_AT: at, CRASH_AFTER: String(after) } })
          expect(code, stderr).toBe(137)
        }
        for (const start of ["last", "again"]) {
          const { code, stderr, stdout } = yield* fanOut([], { cwd })
          expect(code, `${start}\n${stderr}`).toBe(0)
          expect(stdout.trimEnd().split("\n").at(-1)).toBe(
            "20 packages ask for 190 others. Not installed: missing."
          )
          // Four at a time may be cut at once.
          const noted = done(join(cwd, "fan-out.log"), 4 * crashes.length)
          expect([...noted].sort()).toEqual(names.map((name, n) => `${name} 1.2.3: ${n}`).sort())
        }
      }),
    patience
  )
})
