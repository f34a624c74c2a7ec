/** Random workflows, with all that a person may write in one, and the world outside in which they do something. */
import { Cause, Clock, Effect, FastCheck as fc, Ref, Schedule, Schema } from "effect"
import { Branch, Child, Signal, Step, Workflow } from "perdure"
import { placeOf } from "../../src/internal/place.js"

export type Concurrency = number | "unbounded" | undefined

export interface StepTrial {
  readonly op: "step"
  /**
   * - `recovers`: its first attempts fail, and the schedule has enough of them; `gives up`: it has not;
   * - `hangs`: each attempt exceeds its time, of which there are `failures + 1`;
   * - `dies`: at first; whoever looks after the runs resumes it;
   * - `once`: is not repeated when it was cut off.
   */
  readonly how: "succeeds" | "fails" | "recovers" | "gives up" | "hangs" | "dies" | "once"
  /** Turns of the event loop that it takes. */
  readonly turns: number
  readonly failures: number
  readonly schedule: keyof typeof schedules
  readonly undo: boolean
}

export type Trial =
  | StepTrial
  | { readonly op: "sleep"; readonly millis: number }
  /** The name is that of its place where nothing is shared. */
  | { readonly op: "signal"; readonly name: string | null }
  | { readonly op: "token" }
  /** A run of its own, which takes a step and rests. */
  | { readonly op: "child"; readonly fails: boolean; readonly millis: number; readonly handle: boolean }
  | { readonly op: "patched"; readonly id: string }
  | { readonly op: "count" }
  | { readonly op: "sequence"; readonly parts: ReadonlyArray<Trial> }
  | { readonly op: "all"; readonly parts: ReadonlyArray<Trial>; readonly concurrency: Concurrency }
  | { readonly op: "forEach"; readonly parts: ReadonlyArray<Trial>; readonly concurrency: Concurrency }
  | { readonly op: "race"; readonly parts: readonly [Trial, Trial] }
  | { readonly op: "raceAll"; readonly parts: ReadonlyArray<Trial> }
  | { readonly op: "timeout"; readonly millis: number; readonly body: Trial }
  | { readonly op: "protected"; readonly body: Trial }
  | { readonly op: "bracket"; readonly body: Trial }
  | { readonly op: "undoable"; readonly body: Trial }
  | { readonly op: "caught"; readonly body: Trial }

/** A workflow: its body is that of each of its generations. */
export interface Trials {
  readonly body: Trial
  readonly generations: number
  readonly end: "succeeds" | "fails"
}

// ---------------------------------------------------------------------------------------------------------------------
// generators
// ---------------------------------------------------------------------------------------------------------------------

const minute = 60_000
const day = 24 * 60 * minute

const schedules = {
  "at once": Schedule.forever,
  "each minute": Schedule.spaced("1 minute"),
  "each day": Schedule.spaced("1 day"),
  "slower and slower": Schedule.jittered(Schedule.exponential("400 millis"))
}

const concurrency = fc.constantFrom<Concurrency>(undefined, 2, 3, "unbounded")

const stepTrial = (shares: boolean): fc.Arbitrary<StepTrial> =>
  fc.record({
    op: fc.constant("step" as const),
    how: fc.constantFrom<StepTrial["how"]>(
      "succeeds",
      "succeeds",
      "succeeds",
      "succeeds",
      "fails",
      "recovers",
      "gives up",
      "hangs",
      "dies",
      // What becomes of it depends on the crashes.
      shares ? "once" : "succeeds"
    ),
    turns: fc.integer({ min: 0, max: 6 }),
    failures: fc.integer({ min: 1, max: 3 }),
    schedule: fc.constantFrom<keyof typeof schedules>(
      "at once",
      "each minute",
      "each day",
      "slower and slower"
    ),
    undo: fc.boolean()
  })

const trial = (depth: number, shares: boolean): fc.Arbitrary<Trial> => {
  const step = stepTrial(shares)
  const waits = fc.oneof<Array<fc.Arbitrary<Trial>>>(
    fc.record({ op: fc.constant("sleep" as const), millis: fc.constantFrom(1, 700, 1_500, minute, day, 3 * day) }),
    fc.record({
      op: fc.constant("signal" as const),
      name: shares ? fc.constantFrom("go", "stop") : fc.constant(null)
    }),
    fc.record({ op: fc.constant("token" as const) }),
    fc.record({
      op: fc.constant("child" as const),
      fails: fc.boolean(),
      millis: fc.constantFrom(0, 700, minute),
      handle: fc.boolean()
    })
  )
  const leaves: Array<fc.Arbitrary<Trial>> = [step, step, step, waits]
  if (shares) {
    leaves.push(fc.oneof<Array<fc.Arbitrary<Trial>>>(
      fc.record({ op: fc.constant("patched" as const), id: fc.constantFrom("p", "q") }),
      fc.record({ op: fc.constant("count" as const) })
    ))
  }
  if (depth === 0) {
    return fc.oneof(...leaves)
  }
  const body = trial(depth - 1, shares)
  const parts = fc.array(body, { minLength: 1, maxLength: 4 })
  const sequence = fc.record({ op: fc.constant("sequence" as const), parts })
  const nodes: Array<fc.Arbitrary<Trial>> = [
    sequence,
    sequence,
    fc.record({ op: fc.constant("all" as const), parts, concurrency }),
    fc.record({ op: fc.constant("forEach" as const), parts, concurrency }),
    fc.record({ op: fc.constantFrom("protected" as const, "bracket" as const, "undoable" as const), body })
  ]
  if (shares) {
    nodes.push(
      fc.record({ op: fc.constant("race" as const), parts: fc.tuple(body, body) }),
      fc.record({ op: fc.constant("raceAll" as const), parts }),
      fc.record({ op: fc.constant("timeout" as const), millis: fc.constantFrom(1, 1_500, minute, day), body }),
      fc.record({ op: fc.constant("caught" as const), body })
    )
  }
  return fc.oneof({ weight: 1, arbitrary: fc.oneof(...leaves) }, { weight: 4, arbitrary: fc.oneof(...nodes) })
}

/** @param shares - whether branches share state, signals and failures, and race, so that the order of outcomes decides */
export const trials = (shares: boolean): fc.Arbitrary<Trials> =>
  fc.record({
    body: trial(3, shares),
    generations: fc.constantFrom(1, 1, 1, 2, 3),
    end: fc.constantFrom("succeeds" as const, "fails" as const)
  })

// ---------------------------------------------------------------------------------------------------------------------
// the world outside
// ---------------------------------------------------------------------------------------------------------------------

/** What really happened, outside the engine's knowledge. */
export class World {
  /** How often each effect was started and came to its end, by its label. */
  readonly started = new Map<string, number>()
  readonly ended = new Map<string, number>()
  /** What was undone, in the order in which that began, each once. */
  readonly undone = new Set<string>()
  /** Tokens that were mailed, and have not been answered. */
  readonly tokens = new Set<string>()
  /** Effects under way that need nothing but their turn. */
  busy = 0
  /** What happened in the latest life of the body, in order. */
  trace: Array<string> = []
  /** Makes what an effect brings another thing each time. */
  readonly random: () => number

  constructor(random: () => number = Math.random) {
    this.random = random
  }

  startedOf(label: string): number {
    return this.started.get(label) ?? 0
  }

  private count(counts: Map<string, number>, label: string): number {
    const count = (counts.get(label) ?? 0) + 1
    counts.set(label, count)
    return count
  }

  /**
   * Takes some turns; answers how often this effect has come to its end by now.
   *
   * @param turns - turns of the event loop
   */
  effect(label: string, turns: number): Effect.Effect<number> {
    return Effect.suspend(() => {
      this.count(this.started, label)
      this.busy++
      return Effect.ensuring(pass(turns), Effect.sync(() => void this.busy--))
    }).pipe(Effect.map(() => this.count(this.ended, label)))
  }
}

/** Gives other fibers, promises and timers their turns. */
export const pass = (turns: number): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    let left = turns
    const next = () => {
      left-- <= 0 ? resume(Effect.void) : setImmediate(next)
    }
    next()
  })

// ---------------------------------------------------------------------------------------------------------------------
// bodies
// ---------------------------------------------------------------------------------------------------------------------

export const Trialled = Workflow.make({
  name: "trial",
  payload: { generation: Schema.Number },
  success: Schema.String,
  error: Schema.String
})

const Part = Workflow.make({
  name: "part",
  payload: { label: Schema.String, fails: Schema.Boolean, millis: Schema.Number },
  success: Schema.String,
  error: Schema.String
})

/** The workflow of the children, each in a world. */
export const partOf = (worldOf: (workflowId: string) => World) =>
  Part.toLayer(({ fails, label, millis }, workflowId) =>
    Effect.asVoid(worldOf(workflowId).effect(`${label} part`, 2)).pipe(
      Step.durable("part"),
      Effect.zipRight(Effect.sleep(millis)),
      Effect.zipRight(fails ? Effect.fail(`${label} part`) : Effect.succeed(`${label} part`))
    )
  )

export const signalOf = (name: string) => Signal.make(name, Schema.String)

/** The names of the signals that a generation may take, each as often as it may. */
export const signalsOf = (node: Trial, path = "0"): ReadonlyArray<string> => {
  if (node.op === "signal") {
    return [node.name ?? path]
  }
  return childrenOf(node).flatMap((part, i) => signalsOf(part, `${path}.${i}`))
}

const childrenOf = (node: Trial): ReadonlyArray<Trial> =>
  "parts" in node ? node.parts : "body" in node ? [node.body] : []

/** Whether something of this kind is in it. */
export const holds = (node: Trial, what: (node: Trial) => boolean): boolean =>
  what(node) || childrenOf(node).some((part) => holds(part, what))

type Body = Effect.Effect<unknown, string, Workflow.Run>

const asText = (error: string | { readonly _tag: string }) => typeof error === "string" ? error : error._tag

/** Whether the body is being ended because its run is to leave memory: what it does then is not what it has done. */
const hasToLeave = Effect.withFiberRuntime<boolean>((fiber) => {
  const place = placeOf(fiber)
  return Effect.succeed("run" in place && place.run.closed)
})

/** The body of a workflow in a world. */
export const bodyOf = (
  { body, end, generations }: Trials,
  shares: boolean,
  world: World
) =>
({ generation }: { readonly generation: number }): Effect.Effect<string, string, Workflow.Run> =>
  Effect.gen(function*() {
    const trace: Array<string> = []
    world.trace = trace
    const ref = yield* Ref.make(0)
    const note = (what: string) =>
      Effect.zipWith(Clock.currentTimeMillis, hasToLeave, (now, leaves) => {
        if (!leaves) {
          trace.push(`${what} @${now}`)
        }
      })

    const step = (node: StepTrial, path: string): Body => {
      const label = `${generation}/${path}`
      const { failures, how } = node
      const times = how === "recovers" ? failures + 1 : failures
      const retry = { times, schedule: schedules[node.schedule] }
      const undo = (value: string) =>
        Effect.zipRight(
          Effect.sync(() => world.undone.add(label)),
          Effect.asVoid(world.effect(`undo ${label} ${value.startsWith(label)}`, node.turns))
        )
      const options = { error: Schema.String, ...(node.undo ? { compensate: undo } : {}) }
      const value = Effect.sync(() => `${label}~${Math.floor(world.random() * 1e6)}`)
      const effect = Effect.flatMap(world.effect(label, node.turns), (ended): Effect.Effect<string, string> => {
        switch (how) {
          case "fails":
          case "gives up":
            return Effect.flatMap(value, Effect.fail)
          case "recovers":
            return ended <= failures ? Effect.flatMap(value, Effect.fail) : value
          case "dies":
            return ended === 1 ? Effect.dieMessage(`${label} dies`) : value
          case "hangs":
            // In an uninterruptible region nothing but this could be cut.
            return Effect.interruptible(Effect.never)
          default:
            return value
        }
      })
      const durable = (): Effect.Effect<string, string | { readonly _tag: string }, Workflow.Run> => {
        switch (how) {
          case "recovers":
          case "gives up":
            return Step.durable(effect, path, { ...options, retry })
          case "hangs":
            return Step.durable(effect, path, { ...options, retry, timeout: "1 minute" })
          case "once":
            return Step.durable(effect, path, { ...options, onInterrupted: "fail" })
          default:
            return Step.durable(effect, path, options)
        }
      }
      return durable().pipe(
        Effect.mapError(asText),
        Effect.tapBoth({ onFailure: (error) => note(`!${error}`), onSuccess: note }),
        Effect.onInterrupt(() => note(`cut ${label}`)),
        shares ? (self) => self : Effect.catchAll((error) => Effect.succeed(`!${error}`))
      )
    }

    const plain = (path: string, id: string) =>
      world.effect(`${generation}/${path} ${id}`, 1).pipe(
        Effect.as(`${generation}/${path} ${id}`),
        Step.durable(`${path} ${id}`),
        Effect.tap(note)
      )

    const run = (node: Trial, path: string): Body => {
      const label = `${generation}/${path}`
      const inside = (part: Trial, i = 0) => run(part, `${path}.${i}`)
      const bodies = (parts: ReadonlyArray<Trial>) => parts.map((part, i) => inside(part, i))
      switch (node.op) {
        case "step":
          return step(node, path)
        case "sleep":
          return Effect.gen(function*() {
            const before = yield* Clock.currentTimeMillis
            yield* Effect.sleep(node.millis)
            const slept = (yield* Clock.currentTimeMillis) - before
            yield* note(slept < node.millis ? `woken early: ${label}` : `slept ${label}`)
          })
        case "signal":
          return Signal.next(signalOf(node.name ?? path)).pipe(
            Effect.tap((value) => note(`signal ${value}`)),
            Effect.onInterrupt(() => note(`cut ${label}`))
          )
        case "token":
          return Effect.gen(function*() {
            const { next, token } = yield* Signal.token(signalOf("token"))
            yield* Effect.sync(() => world.tokens.add(token)).pipe(
              Effect.zipRight(world.effect(`${label} mail`, 1)),
              Effect.asVoid,
              Step.durable(`${path} mail`)
            )
            const answer = yield* next
            yield* note(answer === `answer ${token}` ? `answered ${label}` : `answered wrongly ${label}`)
          })
        case "child": {
          const payload = { label, fails: node.fails, millis: node.millis }
          const child = node.handle
            ? Effect.flatMap(Child.start(Part, payload), Child.await)
            : Child.execute(Part, payload)
          return child.pipe(
            Effect.mapError(asText),
            Effect.tapBoth({ onFailure: (error) => note(`!${error}`), onSuccess: note }),
            Effect.onInterrupt(() => note(`cut ${label}`)),
            shares ? (self) => self : Effect.catchAll((error) => Effect.succeed(`!${error}`))
          )
        }
        case "patched":
          return Effect.tap(Workflow.patched(node.id), (is) => note(`patched ${node.id} ${is}`))
        case "count":
          return Effect.flatMap(Ref.updateAndGet(ref, (n) => n + 1), (n) => note(`#${n}`))
        case "sequence":
          return Effect.forEach(node.parts, inside)
        case "all":
          return Branch.all(bodies(node.parts), { concurrency: node.concurrency })
        case "forEach":
          return Branch.forEach(node.parts, inside, { concurrency: node.concurrency })
        case "race":
          return Branch.race(inside(node.parts[0], 0), inside(node.parts[1], 1))
        case "raceAll":
          return Branch.raceAll(bodies(node.parts))
        case "timeout":
          return Branch.timeout(inside(node.body), node.millis).pipe(
            Effect.catchIf(Cause.isTimeoutException, () => Effect.as(note(`too long ${label}`), "too long"))
          )
        case "protected":
          return Effect.uninterruptible(inside(node.body))
        case "bracket":
          return Effect.acquireUseRelease(plain(path, "acquire"), () => inside(node.body), () => plain(path, "release"))
        case "undoable":
          return inside(node.body).pipe(
            Effect.tap(() => note(`undoable ${label}`)),
            Workflow.withCompensation(() =>
              Effect.zipRight(Effect.sync(() => world.undone.add(label)), world.effect(`undo ${label} true`, 1))
            ),
            Effect.tap(() => note(`registered ${label}`))
          )
        case "caught":
          return Effect.catchAll(inside(node.body), (error) => Effect.as(note(`caught ${error}`), `caught ${error}`))
      }
    }

    const value = yield* run(body, "0")
    if (generation + 1 < generations) {
      return yield* Trialled.continueAsNew({ generation: generation + 1 })
    }
    return end === "fails" ? yield* Effect.fail("the end") : JSON.stringify(value ?? null)
  })
