/** Random workflows, crashed at random: what must hold of each, seen from outside the engine. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck as fc, Layer, Logger, type Scope } from "effect"
import { MemoryStepStore, type StepStore } from "perdure"
import { disturbed, settled } from "./support/disturbed.js"
import { plans, undisturbed } from "./support/lives.js"
import { stores } from "./support/stores.js"
import { type StepTrial, trials } from "./support/trials.js"

/** The engines have a lot to say of their stores. */
const quiet = Logger.remove(Logger.defaultLogger)

/** A step that takes no time. */
const step = (how: StepTrial["how"]): StepTrial => ({
  op: "step",
  how,
  turns: 0,
  failures: 1,
  schedule: "at once",
  undo: false
})

const property = <T>(
  arbitrary: fc.Arbitrary<T>,
  layer: Layer.Layer<StepStore.StepStore>,
  numRuns: number,
  check: (value: T) => Effect.Effect<unknown, unknown, StepStore.StepStore | Scope.Scope>
) =>
  Effect.promise(() =>
    fc.assert(
      fc.asyncProperty(arbitrary, (value) =>
        Effect.runPromise(
          Effect.asVoid(Effect.scoped(check(value))).pipe(Effect.provide(Layer.merge(layer, quiet)))
        )),
      { numRuns: Number(process.env.FC_RUNS ?? numRuns) }
    )
  )

describe.each(stores)("a random workflow, crashed at random (%s)", (name, store) => {
  const [some, others] = name === "memory" ? [110, 80] : [30, 20]

  it.live(
    "loses nothing that was acknowledged, repeats no effect but for a death, and replays as it ended",
    () =>
      property(fc.tuple(trials(true), plans(true)), store, some, ([program, plan]) => disturbed(program, true, plan)),
    Number(process.env.FC_RUNS ?? 180) * 1_000
  )

  it.live(
    "ends as if undisturbed if its branches share nothing and do not race",
    () =>
      property(fc.tuple(trials(false), plans(false)), store, others, ([program, plan]) =>
        Effect.gen(function*() {
          const crashed = yield* disturbed(program, false, plan)
          const calm = yield* disturbed(program, false, undisturbed).pipe(Effect.provide(MemoryStepStore.layer))
          assert.deepStrictEqual(settled(crashed), settled(calm))
        })),
    Number(process.env.FC_RUNS ?? 180) * 1_000
  )

  // Random commands found this one. The body ends while a branch of it lives on that cannot be interrupted; the store's answers to
  // what the cancellation then asks were taken for a wake-up from outside.
  it.scopedLive("cancels a run of which a protected branch outlives the body", () =>
    disturbed(
      {
        body: {
          op: "raceAll",
          parts: [
            {
              op: "forEach",
              parts: [
                { op: "sequence", parts: [step("fails"), step("succeeds")] },
                { op: "protected", body: { ...step("succeeds"), turns: 1 } },
                { op: "raceAll", parts: [{ op: "token" }] }
              ],
              concurrency: 2
            },
            {
              op: "caught",
              body: {
                op: "sequence",
                parts: [{ op: "child", fails: false, millis: 0, handle: true }, { op: "signal", name: "go" }]
              }
            }
          ]
        },
        generations: 1,
        end: "succeeds"
      },
      true,
      { lives: [{ crash: { at: "commit", nth: 1, written: false }, hiccups: [] }], delays: [5], cancelAt: 0 }
    ).pipe(Effect.provide(Layer.merge(store, quiet))))
})
