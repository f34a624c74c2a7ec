import { join } from "node:path"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Effect, Option, type Scope } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { everything, newRun } from "../suites/rows.js"
import { bundle } from "../support/bundle.js"
import { turns } from "../support/harness.js"
import { contentOf } from "./database.js"
import { type Dice, dice } from "./dice.js"
import { quickFolder } from "./folder.js"
import { type Acknowledged, grounds, leave, record, recorder, type Recording } from "./powerLoss.js"
import { row, seed } from "./row.js"

interface Recorded {
  readonly recording: Recording
  readonly acknowledged: ReturnType<typeof grounds>
  /** Which commit has left this content; the last one of equals. */
  readonly commitOf: ReadonlyMap<string, number>
}

/** Real work of the real driver, of which the parts differ by the seed. */
const recorded = (synchronous: "FULL" | "NORMAL", part: number): Effect.Effect<Recorded, never, Scope.Scope> =>
  Effect.gen(function*() {
    const [folder, program, library] = yield* Effect.all([quickFolder, bundle("faults/recorded"), recorder])
    const recording = yield* record({ library, program, folder, synchronous, seed: seed + part })
    const acknowledged = grounds(recording)
    assert.isAbove(acknowledged.length, 100)
    for (const { commit, entry } of acknowledged) {
      assert.isAbove(commit, 0, `there is a commit of ${JSON.stringify(entry).slice(0, 200)}`)
    }
    const commitOf = new Map(recording.commits.map(({ content }, i) => [content, i]))
    return { recording, acknowledged, commitOf }
  })

/** Whether the store shows what was acknowledged. */
const shows = (store: StepStore.StepStore["Type"], entry: Exclude<Acknowledged, { readonly what: "sent" }>) => {
  switch (entry.what) {
    case "started":
      return Effect.map(store.run(entry.workflowId), Option.isSome)
    case "done":
      return Effect.map(
        store.run(entry.workflowId),
        Option.exists((run) => run.status === "COMPLETED" && run.outcome === JSON.stringify(entry.outcome))
      )
    case "step":
      return Effect.map(
        store.history(entry.workflowId, 0, everything),
        ({ rows }) => rows.some((step) => step.stepKey === entry.key && step.output === JSON.stringify(entry.output))
      )
  }
}

/** Makes one trial, and answers how many of the acknowledgements before the moment are lost. */
const lost = ({ acknowledged, commitOf, recording }: Recorded, folder: string, drawn: Dice, name: string) =>
  Effect.scoped(Effect.gen(function*() {
    const moment = drawn.below(recording.operations.length + 1)
    const files = join(folder, "files")
    const story = leave(recording, { moment, folder: files, dice: drawn })
    const script = `${name}, FC_SEED=${seed}, power lost after ${moment} operations:\n${story.join("\n")}`
    const filename = join(files, "durable.db")
    return yield* Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const bare = yield* Effect.acquireRelease(
        Effect.sync(() => new Sqlite(filename)),
        (bare) => Effect.sync(() => bare.close())
      )
      assert.strictEqual(bare.pragma("integrity_check", { simple: true }), "ok", script)
      const commit = commitOf.get(contentOf(bare))
      assert.isDefined(commit, `is a prefix of the commits: ${script}`)
      const before = acknowledged.filter((each) => each.moment <= moment)
      const missing = before.filter((each) => each.commit > commit!)
      for (const { commit: of, entry } of before) {
        // A signal that was taken is not shown any more.
        if (entry.what !== "sent") {
          const what = JSON.stringify(entry).slice(0, 200)
          assert.strictEqual(yield* shows(store, entry), of <= commit!, `${what}: ${script}`)
        }
      }
      assert.deepStrictEqual(yield* store.commit([newRun("afterwards")]), [{ _tag: "Accepted" }], script)
      return { lost: missing.length, script }
    }).pipe(
      Effect.provide(SqliteStepStore.layer({ filename, synchronous: "NORMAL" })),
      Effect.catchAll((error) => Effect.die(new Error(`${error.message}: ${script}`)))
    )
  }))

/** Trials that share a recording. */
const each = 1_000

row(
  {
    name: "power-loss",
    title: "power lost at synchronous = FULL: what was acknowledged is there, and the state is a prefix of the commits",
    ci: 200,
    night: 20_000
  },
  2,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const folder = yield* quickFolder
      let done = 0
      for (let part = 0; done < count; part++) {
        const full = yield* recorded("FULL", part)
        for (const { entry, isSynced } of full.acknowledged) {
          assert.isTrue(isSynced, `a sync stands before the acknowledgement of ${JSON.stringify(entry).slice(0, 200)}`)
        }
        for (const until = Math.min(count, done + each); done < until; done++) {
          // The runner of the tests wants its turns too.
          yield* turns(1)
          const trial = yield* lost(full, folder, dice(seed, done), `trial ${done}`)
          assert.strictEqual(trial.lost, 0, trial.script)
        }
      }

      // The same machinery finds what is lost where it may be: otherwise nothing is shown by its finding nothing.
      const normal = yield* recorded("NORMAL", 0)
      assert.isTrue(normal.acknowledged.some(({ isSynced }) => !isSynced))
      let losses = 0
      for (let i = 0; i < 25; i++) {
        const trial = yield* lost(normal, folder, dice(seed, -2 - i), `trial ${i} of synchronous = NORMAL`)
        losses += Math.sign(trial.lost)
      }
      assert.isAbove(losses, 0, "trials of synchronous = NORMAL that lost what was acknowledged")
      return done
    }))
)
