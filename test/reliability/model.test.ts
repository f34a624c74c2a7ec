/**
 * Scripts of what is done to runs and to their engine: starts, signals, cancellations, crashes, failing writes, jumps of the clock.
 * After each act, what is seen of the runs must be what the model of them allows.
 *
 * A script that fails is made as short as it may be, and printed with its seed. It belongs into the list below then, under a name
 * that says what it shows.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FastCheck as fc } from "effect"
import { stores } from "../support/stores.js"
import type { Op, Program } from "./model.js"
import { type Act, follow, type Script } from "./modelled.js"
import { row, seed } from "./row.js"

const second = 1_000
const minute = 60 * second
const hour = 60 * minute

// ---------------------------------------------------------------------------------------------------------------------
// named scripts
// ---------------------------------------------------------------------------------------------------------------------

const step: Op = { op: "step", ends: "well", takes: 0, undo: false }
const undone: Op = { ...step, undo: true }
const slow: Op = { ...step, takes: minute }
const bad: Op = { ...step, ends: "badly" }
const mortal: Op = { ...step, ends: "dead at first" }
const signal: Op = { op: "signal" }
const childOf = (...program: Program): Op => ({ op: "child", program })

const start: Act = { do: "start", run: 0 }
const send: Act = { do: "send", run: 0, value: "a" }
const cancel: Act = { do: "cancel", run: 0 }
const resume: Act = { do: "resume", run: 0 }
const crash: Act = { do: "crash" }
const close: Act = { do: "close" }
const restart: Act = { do: "restart" }
const advance = (millis: number): Act => ({ do: "advance", millis })
const fault = (nth: number, written: boolean, dies: boolean): Act => ({ do: "fault", nth, written, dies })

const named: ReadonlyArray<readonly [name: string, program: Program, ...acts: ReadonlyArray<Act>]> = [
  ["a signal that was sent before a crash is taken after it", [[slow], [signal]], start, send, crash, restart],
  [
    "a signal that is taken as the process dies is taken once",
    [[signal], [signal]],
    start,
    fault(2, true, true),
    send,
    restart
  ],
  ["signals in several branches are taken once each", [[signal, signal, step]], start, send],
  [
    "a cancellation between a signal and a crash undoes what was done",
    [[undone], [signal], [undone], [slow]],
    start,
    send,
    cancel,
    crash,
    restart
  ],
  [
    "a cancellation that is written as the process dies is not lost",
    [[undone], [signal]],
    start,
    fault(1, true, true),
    cancel,
    restart
  ],
  [
    "the cancellation of a parent reaches its child in a later life",
    [[childOf([signal, step])]],
    start,
    crash,
    restart,
    cancel
  ],
  [
    "the cancellation of a parent ends its stopped child",
    [[{ op: "sleep", millis: 1 }, childOf([mortal])]],
    start,
    cancel
  ],
  ["a child that was begun before a crash is not begun again", [[childOf([step, slow])]], start, crash, restart],
  ["a child is resumed, and its parent is told of its end", [[childOf([mortal])]], start, { do: "resume", run: 1 }],
  ["steps are undone in the reverse order of recording", [[undone, undone, signal], [bad]], start, send],
  [
    "nothing is undone before the record of what was undone before it",
    [[signal, undone, undone]],
    start,
    advance(7 * hour),
    fault(4, false, false),
    cancel
  ],
  [
    "a child that ends at the moment at which its parent is cancelled is told to nobody",
    [[childOf()]],
    fault(5, false, false),
    start,
    cancel
  ],
  [
    "a cancellation that comes beside the last signal of a body comes too late",
    [[signal]],
    start,
    advance(minute),
    fault(3, false, false),
    send,
    cancel
  ],
  ["steps of an earlier life are undone too", [[undone], [{ op: "sleep", millis: 1 }], [bad]], start, crash],
  [
    "a sleep that ends while no engine lives is not begun anew",
    [[{ op: "sleep", millis: hour }]],
    start,
    close,
    advance(hour),
    restart
  ],
  [
    "a run that parked in a later life is woken when its sleep is over",
    [[{ op: "sleep", millis: hour }]],
    start,
    crash,
    restart,
    advance(2 * second),
    advance(hour)
  ],
  ["a sleep lasts though the clock is set back", [[{ op: "sleep", millis: minute }]], start, {
    do: "skew",
    millis: -hour
  }, advance(minute)],
  ["a failed step is done again when its run is resumed", [[bad]], start, resume, resume],
  ["a failure that was handled is not taken back", [[bad, step], [bad]], start, resume],
  ["a run whose creation was written and denied is found", [[step]], fault(1, true, false), start],
  ["a run whose creation was not written is not there", [[step]], fault(1, false, false), start],
  [
    "a run whose claim was written and denied is found",
    [[signal]],
    start,
    advance(7 * hour),
    fault(3, true, false),
    start,
    send
  ],
  ["a signal that was denied is not there", [[signal]], start, fault(1, false, false), send]
]

describe("Named scripts of the model", () => {
  for (const store of ["memory", "sqlite"] as const) {
    it.live.each(named)(
      `${store}: %s`,
      ([, program, ...acts]) =>
        Effect.map(followed({ store, programs: [program], acts }), (faults) =>
          assert.strictEqual(
            faults,
            acts.filter((act) => act.do === "fault").length,
            "faults that were met"
          ))
    )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// scripts that are drawn
// ---------------------------------------------------------------------------------------------------------------------

interface Stored extends Script {
  readonly store: "memory" | "sqlite"
}

const followed = ({ store, ...script }: Stored) => Effect.provide(follow(script), new Map(stores).get(store)!)

const opOf = (depth: number): fc.Arbitrary<Op> =>
  fc.oneof<Array<fc.WeightedArbitrary<Op>>>(
    {
      weight: 6,
      arbitrary: fc.record({
        op: fc.constant("step" as const),
        ends: fc.constantFrom<"well" | "badly" | "dead at first">(
          "well",
          "well",
          "well",
          "well",
          "badly",
          "dead at first"
        ),
        takes: fc.constantFrom(0, 0, 0, minute),
        undo: fc.boolean()
      })
    },
    {
      weight: 2,
      arbitrary: fc.record({ op: fc.constant("sleep" as const), millis: fc.constantFrom(1, second, 10 * minute, hour) })
    },
    { weight: 3, arbitrary: fc.constant(signal) },
    ...(depth === 0
      ? []
      : [{ weight: 2, arbitrary: fc.record({ op: fc.constant("child" as const), program: programOf(depth - 1) }) }])
  )

const programOf = (depth: number): fc.Arbitrary<Program> =>
  fc.array(
    fc.oneof(
      { weight: 3, arbitrary: fc.tuple(opOf(depth)) },
      { weight: 1, arbitrary: fc.array(opOf(depth), { minLength: 2, maxLength: 3 }) }
    ),
    { maxLength: 4, size: "max" }
  )

const run = fc.nat({ max: 4 })

const failing = fc.record({
  do: fc.constant("fault" as const),
  nth: fc.integer({ min: 1, max: 5 }),
  written: fc.boolean(),
  dies: fc.boolean()
})

const act = fc.oneof<Array<fc.WeightedArbitrary<Act>>>(
  { weight: 3, arbitrary: fc.record({ do: fc.constant("start" as const), run }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("send" as const), run, value: fc.constantFrom("a", "b", "c") }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom<"cancel" | "resume">("cancel", "resume", "resume"), run }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("advance" as const),
      millis: fc.constantFrom(1, 2 * second, minute, 10 * minute, hour, 7 * hour)
    })
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom<"crash" | "close">("crash", "close") }) },
  { weight: 4, arbitrary: fc.constant(restart) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("skew" as const),
      millis: fc.constantFrom(-hour, -minute, -1, 1, minute, hour)
    })
  },
  { weight: 4, arbitrary: failing }
)

const scripts: fc.Arbitrary<Stored> = fc.record({
  // A file for each script takes its time.
  store: fc.oneof(
    { weight: 9, arbitrary: fc.constant("memory" as const) },
    { weight: 1, arbitrary: fc.constant("sqlite" as const) }
  ),
  programs: fc.array(programOf(1), { minLength: 1, maxLength: 3, size: "max" }),
  acts: fc.tuple(fc.array(failing, { maxLength: 1 }), fc.array(act, { maxLength: 20, size: "max" })).map((
    [first, acts]
  ) => [...first, start, ...acts])
})

row(
  {
    name: "model",
    title:
      "runs that are signalled, cancelled and resumed while the engine crashes, its writes fail and its clock jumps are where a " +
      "model of them may be",
    ci: 500,
    night: 20_000
  },
  3,
  (count) =>
    Effect.promise(async () => {
      const property = fc.asyncProperty(scripts, (script) => Effect.runPromise(Effect.asVoid(followed(script))))
      await fc.assert(property, { numRuns: count, seed })
      return count
    })
)
