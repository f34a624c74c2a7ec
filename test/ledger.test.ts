import { appendFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { entriesOf, openLedger } from "./support/ledger.js"
import { temporaryFile } from "./support/stores.js"

describe("the ledger of effects", () => {
  it.scoped("has what was entered in whole lines, and nothing of a line that is being written", () =>
    Effect.gen(function*() {
      const file = `${yield* temporaryFile}.ledger`
      assert.deepStrictEqual(entriesOf(file), [])
      const ledger = openLedger<{ readonly done: string }>(file)
      ledger.enter({ done: "a\nb" })
      ledger.enter({ done: "c" })
      ledger.close()
      appendFileSync(file, "{\"done\":\"d")
      assert.deepStrictEqual(entriesOf(file), [{ done: "a\nb" }, { done: "c" }])
    }))
})
