/**
 * Each call of the store fails, or does what it should and says that it has failed: first one call of a run and then two, in the
 * life of one engine, which has to bring the run to its end all the same.
 */
import { assert } from "@effect/vitest"
import { Effect, type Layer, Logger, LogLevel } from "effect"
import type { StepStore } from "perdure"
import { disturbed, settled } from "../support/disturbed.js"
import type { Hiccup } from "../support/faults.js"
import type { Plan } from "../support/lives.js"
import { stores } from "../support/stores.js"
import type { StepTrial, Trial, Trials } from "../support/trials.js"
import { dice } from "./dice.js"
import { row, seed } from "./row.js"
import { inTrial } from "./scripts.js"

// ---------------------------------------------------------------------------------------------------------------------
// the runs
// ---------------------------------------------------------------------------------------------------------------------

interface Reference {
  readonly name: string
  readonly program: Trials
  /** Whether branches race and share: then only the moments decide how it ends. */
  readonly shares: boolean
  readonly cancelAt: number | null
}

const step = (how: StepTrial["how"], more: Partial<StepTrial> = {}): Trial => ({
  op: "step",
  how,
  turns: 1,
  failures: 1,
  schedule: "each minute",
  undo: false,
  ...more
})

const sequence = (...parts: ReadonlyArray<Trial>): Trial => ({ op: "sequence", parts })
const all = (...parts: ReadonlyArray<Trial>): Trial => ({ op: "all", parts, concurrency: "unbounded" })
const sleep: Trial = { op: "sleep", millis: 86_400_000 }
const signal: Trial = { op: "signal", name: null }
const child = (fails: boolean, handle: boolean): Trial => ({ op: "child", fails, handle, millis: 700 })

const references: ReadonlyArray<Reference> = [
  {
    name: "two generations, which fail and are undone",
    program: {
      body: sequence(
        step("succeeds", { undo: true }),
        all(step("recovers"), signal),
        { op: "forEach", parts: [child(false, true), sleep], concurrency: 2 },
        { op: "undoable", body: step("gives up") }
      ),
      generations: 2,
      end: "fails"
    },
    shares: false,
    cancelAt: null
  },
  {
    name: "steps that die and hang, and finalizers",
    program: {
      body: sequence(
        { op: "bracket", body: step("dies") },
        { op: "token" },
        { op: "protected", body: sequence(step("hangs"), sleep) },
        step("recovers", { schedule: "slower and slower" })
      ),
      generations: 1,
      end: "succeeds"
    },
    shares: false,
    cancelAt: null
  },
  {
    name: "races, timeouts and patches",
    program: {
      body: sequence(
        { op: "race", parts: [step("succeeds", { turns: 4 }), sleep] },
        { op: "timeout", millis: 1_500, body: { op: "signal", name: "stop" } },
        { op: "patched", id: "p" },
        { op: "raceAll", parts: [child(false, false), step("once", { turns: 3 })] },
        { op: "caught", body: step("fails", { undo: true }) }
      ),
      generations: 2,
      end: "succeeds"
    },
    shares: true,
    cancelAt: null
  },
  {
    name: "one that is cancelled",
    program: {
      body: sequence(
        step("succeeds", { undo: true }),
        { op: "bracket", body: all(child(false, false), sequence(step("succeeds", { undo: true }), sleep)) }
      ),
      generations: 1,
      end: "succeeds"
    },
    shares: true,
    cancelAt: 40
  }
]

/** In one life that nothing ends, and in another one that finds what it left. */
const planOf = (hiccups: ReadonlyArray<Hiccup>, cancelAt: number | null): Plan => ({
  lives: [{ crash: null, hiccups }],
  delays: [0],
  cancelAt
})

// ---------------------------------------------------------------------------------------------------------------------
// what must hold
// ---------------------------------------------------------------------------------------------------------------------

/** Nobody dies of what the store says. */
const withoutErrors = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const errors: Array<string> = []
    const watched = Logger.replace(
      Logger.defaultLogger,
      Logger.make(({ cause, logLevel, message }) => {
        if (LogLevel.greaterThanEqual(logLevel, LogLevel.Error)) {
          errors.push(`${String(message)} ${String(cause)}`)
        }
      })
    )
    return Effect.tap(Effect.provide(self, watched), () => Effect.sync(() => assert.isEmpty(errors, errors.join("\n"))))
  })

interface Tried extends Reference {
  readonly store: string
  readonly layer: Layer.Layer<StepStore.StepStore, unknown>
  /** Calls of the store when nothing fails. */
  readonly calls: number
  readonly calm: ReturnType<typeof settled>
}

const undisturbed = (reference: Reference, store: string, layer: Layer.Layer<StepStore.StepStore, unknown>) =>
  Effect.map(
    Effect.provide(
      Effect.scoped(disturbed(reference.program, reference.shares, planOf([], reference.cancelAt))),
      layer
    ),
    (run): Tried => ({ ...reference, store, layer, calls: run.life.outside.calls[0]!, calm: settled(run) })
  )

const trial = ({ calm, cancelAt, layer, program, shares }: Tried, hiccups: ReadonlyArray<Hiccup>) =>
  Effect.gen(function*() {
    const run = yield* disturbed(program, shares, planOf(hiccups, cancelAt))
    if (!shares) {
      assert.deepStrictEqual(settled(run), calm)
    }
  }).pipe(withoutErrors, Effect.scoped, Effect.provide(layer))

/** Each call by itself, in both ways. */
const single = ({ calls }: Tried): ReadonlyArray<ReadonlyArray<Hiccup>> =>
  Array.from({ length: calls }, (_, i) => [false, true].map((written) => [{ nth: i + 1, written }])).flat()

/** A pair of them, of which the second is one that comes because the first has failed, or any that follows. */
const pairOf = ({ calls }: Tried, number: number): ReadonlyArray<Hiccup> => {
  const drawn = dice(seed, number)
  const first = 1 + drawn.below(calls)
  return [
    { nth: first, written: drawn.isBelow(0.5) },
    { nth: first + 1 + drawn.below(Math.max(1, calls - first)), written: drawn.isBelow(0.5) }
  ]
}

row(
  {
    name: "nth-call",
    title: "each call of the store fails, or succeeds and reports failure: nothing is lost, done twice, or left undone",
    ci: 400,
    night: 50_000
  },
  3,
  (count) =>
    Effect.gen(function*() {
      const tried = yield* Effect.forEach(
        stores,
        ([store, layer]) =>
          Effect.forEach(
            // The longest is tried where a trial takes the least.
            store === "memory" ? references : references.slice(1),
            (reference) => undisturbed(reference, store, layer)
          )
      )
      const runs = tried.flat()
      let done = 0
      for (const one of runs) {
        for (const hiccups of single(one)) {
          yield* inTrial(done, { store: one.store, run: one.name, hiccups }, trial(one, hiccups))
          done++
        }
      }
      for (; done < count; done++) {
        const one = runs[done % runs.length]!
        const hiccups = pairOf(one, done)
        yield* inTrial(done, { store: one.store, run: one.name, hiccups }, trial(one, hiccups))
      }
      return done
    })
)
