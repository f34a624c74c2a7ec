/** Random bodies: what a person may write with steps, branches, and the things that branches share. */
import { Effect, FastCheck as fc, Queue, Ref, Schema } from "effect"
import { Branch, Step, Workflow } from "perdure"

export type Concurrency = number | "unbounded" | "inherit" | undefined

export type Program =
  | { readonly op: "step"; readonly id: string; readonly turns: number; readonly fails: boolean }
  | { readonly op: "count" }
  | { readonly op: "offer" }
  | { readonly op: "poll" }
  | { readonly op: "yield" }
  | { readonly op: "patched" | "patchDone"; readonly id: string }
  | { readonly op: "locked"; readonly body: Program }
  | { readonly op: "sequence"; readonly parts: ReadonlyArray<Program> }
  | {
    readonly op: "all"
    readonly parts: ReadonlyArray<Program>
    readonly concurrency: Concurrency
    readonly mode: "default" | "validate" | "either"
    readonly discard: boolean
  }
  | { readonly op: "forEach"; readonly parts: ReadonlyArray<Program>; readonly concurrency: Concurrency }
  | { readonly op: "reserve"; readonly parts: ReadonlyArray<Program>; readonly concurrency: Concurrency }
  | { readonly op: "race"; readonly parts: readonly [Program, Program] }
  | { readonly op: "raceAll"; readonly parts: ReadonlyArray<Program> }
  /** A consumer that waits for as many items as the producer beside it offers. */
  | { readonly op: "pipeline"; readonly items: number; readonly concurrency: Concurrency }
  | { readonly op: "protected"; readonly body: Program }

/** Without failures where order must not matter: the first failure cuts the others off. */
const steps = (shares: boolean) =>
  fc.record({
    op: fc.constant("step" as const),
    id: fc.constantFrom("a", "b", "c"),
    turns: fc.integer({ min: 0, max: 4 }),
    fails: shares ? fc.integer({ min: 0, max: 7 }).map((n) => n === 0) : fc.constant(false)
  })

const concurrency = fc.constantFrom<Concurrency>(undefined, 1, 2, 3, "unbounded", "inherit")

/** @param shares - whether branches share state and race, so that the order of outcomes decides what happens */
const programs = (depth: number, shares: boolean): fc.Arbitrary<Program> => {
  const step = steps(shares)
  const leaves: Array<fc.Arbitrary<Program>> = [step, step, step]
  if (shares) {
    leaves.push(fc.constantFrom<Program>({ op: "count" }, { op: "offer" }, { op: "poll" }, { op: "yield" }))
    leaves.push(fc.record({
      op: fc.constantFrom("patched" as const, "patched" as const, "patchDone" as const),
      id: fc.constantFrom("p", "q", "r", "s")
    }))
  }
  if (depth === 0) {
    return fc.oneof(...leaves)
  }
  const inner = programs(depth - 1, shares)
  const parts = fc.array(inner, { maxLength: 4 })
  const some = fc.array(inner, { minLength: 1, maxLength: 3 })
  const nodes: Array<fc.Arbitrary<Program>> = [
    fc.record({ op: fc.constant("sequence" as const), parts }),
    fc.record({
      op: fc.constant("all" as const),
      parts,
      concurrency,
      mode: fc.constantFrom("default" as const, "validate" as const, "either" as const),
      discard: fc.boolean()
    }),
    fc.record({ op: fc.constant("forEach" as const), parts, concurrency }),
    fc.record({ op: fc.constant("reserve" as const), parts, concurrency })
  ]
  if (shares) {
    nodes.push(
      fc.record({ op: fc.constant("race" as const), parts: fc.tuple(inner, inner) }),
      fc.record({ op: fc.constant("raceAll" as const), parts: some }),
      fc.record({ op: fc.constant("locked" as const), body: inner }),
      fc.record({ op: fc.constant("protected" as const), body: inner }),
      fc.record({
        op: fc.constant("pipeline" as const),
        items: fc.integer({ min: 1, max: 3 }),
        concurrency: fc.constant("unbounded" as const)
      })
    )
  }
  return fc.oneof(...leaves.slice(0, 1), ...nodes)
}

/** Bodies whose branches, nested three deep, share a `Ref`, a `Queue` and a `Semaphore`, and race. */
export const sharing = programs(3, true)

/** Bodies whose branches, nested three deep, share nothing. */
export const separate = programs(3, false)

/** What really ran, outside the engine's knowledge. */
export interface Ledger {
  started: number
}

/** Gives other fibers, promises and timers their turns, a number of times that nothing in the program decides. */
const turns = (n: number) =>
  Effect.async<void>((resume) => {
    let left = n + Math.floor(Math.random() * 3)
    const next = () => {
      left-- <= 0 ? resume(Effect.void) : setImmediate(next)
    }
    next()
  })

/** The body of a program. Its result tells everything that happened in it, in order. */
export const bodyOf = (program: Program, ledger: Ledger) =>
  Effect.gen(function*() {
    const trace: Array<string> = []
    const ref = yield* Ref.make(0)
    const queue = yield* Queue.unbounded<number>()
    const semaphore = yield* Effect.makeSemaphore(1)
    const note = (what: string) => Effect.sync(() => void trace.push(what))

    type Body = Effect.Effect<unknown, string, Workflow.Run>

    const run = (node: Program, holding = false): Body => {
      const inside = (part: Program) => run(part, holding)
      switch (node.op) {
        case "step":
          return Effect.suspend(() => {
            ledger.started++
            const result = `${node.id}${Math.floor(Math.random() * 1e6)}`
            return Effect.zipRight(turns(node.turns), node.fails ? Effect.fail(result) : Effect.succeed(result))
          }).pipe(
            Step.durable(node.id, { error: Schema.String }),
            Effect.tapBoth({
              onFailure: (error) => note(`!${error}`),
              onSuccess: (value) => note(value)
            }),
            Effect.onInterrupt(() => note(`cut ${node.id}`))
          )
        case "count":
          return Effect.flatMap(Ref.updateAndGet(ref, (n) => n + 1), (n) => note(`#${n}`))
        case "offer":
          return Effect.flatMap(Ref.get(ref), (n) => Queue.offer(queue, n))
        case "poll":
          return Effect.flatMap(Queue.poll(queue), (n) => note(`polled ${JSON.stringify(n)}`))
        case "yield":
          return Effect.yieldNow()
        case "patched":
          return Effect.flatMap(Workflow.patched(node.id), (is) => note(`patched ${node.id} ${is}`)).pipe(
            Effect.onInterrupt(() => note(`cut ${node.id}`))
          )
        case "patchDone":
          return Effect.zipRight(Workflow.patchDone(node.id), note(`done ${node.id}`))
        case "locked":
          // Whoever holds the only permit would wait for itself.
          return holding
            ? inside(node.body)
            : semaphore.withPermits(1)(Effect.zipRight(note("locked"), run(node.body, true)))
        case "protected":
          return Effect.uninterruptible(inside(node.body)).pipe(Effect.ensuring(note("protected")))
        case "sequence":
          return Effect.forEach(node.parts, inside)
        case "all":
          return Branch.all(node.parts.map(inside), {
            concurrency: node.concurrency,
            mode: node.mode,
            discard: node.discard
          }) as Body
        case "forEach":
          return Branch.forEach(node.parts, inside, { concurrency: node.concurrency })
        case "reserve":
          return Effect.flatMap(
            Branch.reserve(node.parts.map(inside)),
            (bound) => Effect.all(bound, { concurrency: node.concurrency })
          )
        case "race":
          return Branch.race(inside(node.parts[0]), inside(node.parts[1]))
        case "raceAll":
          return Branch.raceAll(node.parts.map(inside))
        case "pipeline":
          return Effect.flatMap(Queue.unbounded<number>(), (own) => {
            const items = Array.from({ length: node.items }, (_, i) => i)
            const piece = (id: string) => run({ op: "step", id, turns: 1, fails: false })
            return Branch.all([
              Effect.forEach(items, (i) => Effect.zipRight(piece("produce"), Queue.offer(own, i))),
              Effect.forEach(items, () =>
                Effect.flatMap(Queue.take(own), (i) => Effect.zipRight(note(`took ${i}`), piece("consume"))))
            ], { concurrency: node.concurrency })
          })
      }
    }
    const result = yield* Effect.either(run(program)).pipe(Effect.withConcurrency(2))
    return JSON.stringify({ result, trace, count: yield* Ref.get(ref) })
  })
