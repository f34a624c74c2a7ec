/**
 * Histories that were recorded once must replay for ever. `PERDURE_RECORD=1` writes those of this version that are not there yet.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "@effect/vitest"
import { Effect } from "effect"
import { History, replay } from "perdure/testing"
import { cases, idOf, record } from "./support/corpus.js"

const folder = fileURLToPath(new URL("fixtures/histories", import.meta.url))
const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }

const fileOf = (version: string, name: string) => join(folder, version, `${name}.json`)

/** What a format is: the names of the fields, and what is in those that do not hang on the moment or on chance. */
const shapeOf = (json: string): unknown =>
  JSON.parse(json, (key, value: unknown) => {
    const isTime = /(At|after)$/.test(key) && typeof value === "number"
    const text = typeof value === "string" ? value.replace(/^"~?[\w-]{22}"$/, "(token)") : value
    return isTime || key === "digest" ? `(${key})` : text
  })

describe("the corpus of histories", () => {
  it.effect.each([...cases.keys()])("%s is recorded as it was by this version", (name) =>
    Effect.gen(function*() {
      const file = fileOf(version, name)
      const now = History.encode(yield* record(name))
      if (process.env.PERDURE_RECORD !== undefined && !existsSync(file)) {
        mkdirSync(dirname(file), { recursive: true })
        writeFileSync(file, now)
      }
      expect(
        shapeOf(now),
        `the format of what is recorded has changed since ${version}: runs that are under way have the old one. Keep reading it, ` +
          "raise the version of the package, and record a corpus of the new version beside the old one (PERDURE_RECORD=1)"
      ).toEqual(shapeOf(readFileSync(file, "utf8")))
    }))

  const files = readdirSync(folder).flatMap((version) =>
    readdirSync(join(folder, version)).map((file) => [version, file.replace(/\.json$/, "")] as const)
  )

  it("has a history of every feature", () => {
    expect(files.filter(([of]) => of === version).map(([, name]) => name).sort()).toEqual([...cases.keys()].sort())
  })

  it.effect.each(files)("%s %s replays", ([version, name]) =>
    Effect.gen(function*() {
      const history = yield* History.import(readFileSync(fileOf(version, name), "utf8"))
      expect(history.workflowId).toBe(idOf(name))
      const { layer, workflow } = cases.get(name)!
      const { next, operations } = yield* replay(workflow, history, { layer })
      expect(operations).toBeGreaterThan(0)
      expect(next).toEqual(
        name === "unfinished" ? { address: "1", kind: "signal", id: "approval", fingerprint: null } : null
      )
    }))
})
