/**
 * Row `nth-call`: each call of the store fails once, or does what it should and says that it has failed; at night, each two of them.
 * What a run brings and leaves is what it brings and leaves undisturbed, and no effect was repeated but for a failure.
 */
import { SqliteClient } from "@effect/sql-sqlite-node"
import { assert } from "@effect/vitest"
import { Cause, Effect, Layer, Logger, LogLevel, type Scope } from "effect"
import { MemoryStepStore, SqliteStepStore, type StepStore } from "perdure"
import { disturbed, settled, undergone } from "../support/disturbed.js"
import type { Hiccup } from "../support/faults.js"
import type { Plan } from "../support/lives.js"
import { temporaryFile } from "../support/stores.js"
import type { StepTrial, Trial, Trials } from "../support/trials.js"
import { atNight, fixedRow, picked } from "./row.js"

// ---------------------------------------------------------------------------------------------------------------------
// what is disturbed
// ---------------------------------------------------------------------------------------------------------------------

interface Reference {
  readonly name: string
  readonly program: Trials
  /** Whether the order of outcomes decides what becomes of it: then histories may differ. */
  readonly races: boolean
  /** Ticks before each signal. */
  readonly delay: number
  readonly cancelAt: number | null
  readonly end: "Succeeded" | "Failed" | "Cancelled"
}

const step = (how: StepTrial["how"], undo = false): Trial => ({
  op: "step",
  how,
  turns: 1,
  failures: 1,
  schedule: "each minute",
  undo
})

const sequence = (...parts: ReadonlyArray<Trial>): Trial => ({ op: "sequence", parts })

/** Small ones, because the number of pairs grows with the square of that of calls. Together they use all that a body can. */
const references: ReadonlyArray<Reference> = [
  {
    name: "branches",
    program: {
      body: sequence(
        {
          op: "all",
          parts: [
            sequence(step("recovers", true), { op: "sleep", millis: 700 }),
            { op: "signal", name: null },
            { op: "child", fails: false, millis: 0, handle: false }
          ],
          concurrency: "unbounded"
        },
        { op: "undoable", body: { op: "token" } }
      ),
      generations: 1,
      end: "fails"
    },
    races: false,
    delay: 3,
    cancelAt: null,
    end: "Failed"
  },
  {
    name: "generations",
    program: { body: sequence(step("succeeds"), { op: "sleep", millis: 700 }), generations: 2, end: "succeeds" },
    races: false,
    delay: 0,
    cancelAt: null,
    end: "Succeeded"
  },
  {
    name: "races",
    program: {
      body: sequence(
        { op: "patched", id: "p" },
        { op: "race", parts: [step("succeeds"), { op: "sleep", millis: 86_400_000 }] },
        { op: "timeout", millis: 60_000, body: { op: "signal", name: "stop" } },
        { op: "raceAll", parts: [{ op: "child", fails: false, millis: 0, handle: true }, step("once")] },
        { op: "caught", body: step("fails") }
      ),
      generations: 1,
      end: "succeeds"
    },
    races: true,
    delay: 5,
    cancelAt: null,
    end: "Succeeded"
  },
  {
    name: "cancelled",
    program: {
      body: sequence(
        { op: "protected", body: step("succeeds", true) },
        { op: "undoable", body: { op: "bracket", body: step("succeeds") } },
        { op: "signal", name: "go" }
      ),
      generations: 1,
      end: "succeeds"
    },
    races: true,
    // Long after it has been cancelled.
    delay: 1_000_000,
    cancelAt: 500,
    end: "Cancelled"
  }
]

// ---------------------------------------------------------------------------------------------------------------------
// stores
// ---------------------------------------------------------------------------------------------------------------------

type OpenStore = (nth: number) => Layer.Layer<StepStore.StepStore, unknown>

interface Kind {
  readonly name: string
  /** What is opened once opens an empty store for each trial. */
  readonly open: Effect.Effect<OpenStore, unknown, Scope.Scope>
}

const namespaceOf = (nth: number) => `trial-${nth}`

const kinds: ReadonlyArray<Kind> = [
  { name: "memory", open: Effect.succeed((nth) => MemoryStepStore.layerWith({ namespace: namespaceOf(nth) })) },
  {
    name: "sqlite",
    open: Effect.gen(function*() {
      const client = yield* Layer.build(SqliteClient.layer({ filename: yield* temporaryFile }))
      const options = { synchronous: "NORMAL", pollInterval: "1000 days" } as const
      return (nth) =>
        Layer.provide(
          SqliteStepStore.layerClient({ ...options, namespace: namespaceOf(nth) }),
          Layer.succeedContext(client)
        )
    })
  }
]

// ---------------------------------------------------------------------------------------------------------------------
// trials
// ---------------------------------------------------------------------------------------------------------------------

/** What was said of a defect, by an engine or by a fiber that ended with one and nobody looked. */
const defects = () => {
  const found: Array<string> = []
  const listener = Logger.make<unknown, void>(({ cause, logLevel, message }) => {
    if (LogLevel.greaterThanEqual(logLevel, LogLevel.Error) || Cause.isDie(cause)) {
      found.push(`${logLevel.label} ${String(message)} ${Cause.pretty(cause)}`)
    }
  })
  const layer = Layer.merge(Logger.replace(Logger.defaultLogger, listener), Logger.minimumLogLevel(LogLevel.All))
  return { found, layer }
}

type Undergone = Effect.Effect.Success<ReturnType<typeof undergone>>

/** One trial; what the engines and their fibers say is listened to. */
const attempt = (
  reference: Reference,
  hiccups: ReadonlyArray<Hiccup>,
  store: Layer.Layer<StepStore.StepStore, unknown>,
  calm: Undergone | null
) =>
  Effect.gen(function*() {
    const { cancelAt, delay, end, program, races } = reference
    const plan: Plan = { lives: [{ crash: null, hiccups }], delays: [delay], cancelAt }
    const { found, layer } = defects()
    const ended = yield* (races || calm === null ? disturbed : undergone)(program, races, plan).pipe(
      Effect.provide(Layer.merge(store, layer))
    )
    assert.deepStrictEqual(found, [])
    assert.strictEqual(ended.life.end._tag, end)
    if (!races && calm !== null) {
      // Then a replay of it is one of that which was left undisturbed, too.
      assert.deepStrictEqual(settled(ended), settled(calm))
    }
    return ended
  })

interface Case {
  readonly kind: number
  readonly reference: Reference
  readonly hiccups: ReadonlyArray<Hiccup>
  readonly calm: Undergone
}

const both = [false, true]

/** Each call in both ways; at night each two of them in all four. */
const hiccupsOf = (calls: number): ReadonlyArray<ReadonlyArray<Hiccup>> => {
  const all = Array.from({ length: calls }, (_, i) => i + 1)
  const firsts = all.flatMap((nth) => both.map((written): Hiccup => ({ nth, written })))
  return atNight
    ? firsts.flatMap((first) => all.slice(first.nth).flatMap((nth) => both.map((written) => [first, { nth, written }])))
    : firsts.map((first) => [first])
}

fixedRow(
  {
    name: "nth-call",
    title: "whichever call of the store fails, or succeeds and reports failure, the run ends as if none had",
    ci: "all n × 2",
    night: "all pairs"
  },
  5,
  1,
  Effect.scoped(Effect.gen(function*() {
    const open = yield* Effect.forEach(kinds, (kind) => kind.open)
    let stores = 0
    const cases: Array<Case> = []
    for (const [kind, store] of open.entries()) {
      for (const reference of references) {
        const calm = yield* attempt(reference, [], store(stores++), null)
        const [calls] = calm.life.outside.calls
        cases.push(...hiccupsOf(calls!).map((hiccups) => ({ kind, reference, hiccups, calm })))
      }
    }
    const chosen = picked(cases)
    let happened = 0
    for (const [i, { calm, hiccups, kind, reference }] of chosen.entries()) {
      const { life } = yield* Effect.catchAllCause(
        attempt(reference, hiccups, open[kind]!(stores++), calm),
        (cause) =>
          Effect.die(
            new Error(
              `trial ${i}, ${reference.name} on ${kinds[kind]!.name}, failures ${JSON.stringify(hiccups)}: ${
                Cause.pretty(cause)
              }`
            )
          )
      )
      happened += life.outside.deaths >= hiccups.length ? 1 : 0
    }
    // Who comes first differs, and so the number of calls may, by one or two.
    assert.isAbove(happened, 0.9 * chosen.length, "trials in which the store failed")
    return chosen.length
  }))
)
