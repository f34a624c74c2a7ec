/** The types of branches are those of the Effect functions of the same names, and `Run`. Nothing here runs. */
import { type Cause, Effect, type Either, type Fiber, type Option } from "effect"
import { Branch, type Workflow } from "perdure"
import { is, type Mailer } from "./is.js"

declare const a: Effect.Effect<"a", "ea", Mailer>
declare const b: Effect.Effect<2>

type Run = Workflow.Run

const tuple = Branch.all([a, b])
is<Effect.Effect<["a", 2], "ea", Mailer | Run>>()(tuple)
const struct = Branch.all({ a, b }, { concurrency: "unbounded" })
is<Effect.Effect<{ a: "a"; b: 2 }, "ea", Mailer | Run>>()(struct)
const iterable = Branch.all(new Set([b]))
is<Effect.Effect<Array<2>, never, Run>>()(iterable)
const discarded = Branch.all([a, b], { discard: true })
is<Effect.Effect<void, "ea", Mailer | Run>>()(discarded)
const either = Branch.all([a, b], { mode: "either" })
is<Effect.Effect<[Either.Either<"a", "ea">, Either.Either<2>], never, Mailer | Run>>()(either)
const validate = Branch.all([a, b], { mode: "validate" })
is<Effect.Effect<["a", 2], [Option.Option<"ea">, Option.Option<never>], Mailer | Run>>()(validate)

const several = Branch.all({ a, b }, { concurrency: 2, discard: true, mode: "validate" })
is<Effect.Effect<void, { a: Option.Option<"ea">; b: Option.Option<never> }, Mailer | Run>>()(several)

const each = Branch.forEach([1, 2], (n, i) => Effect.as(a, n + i), { concurrency: 2 })
is<Effect.Effect<Array<number>, "ea", Mailer | Run>>()(each)
const eachDiscarded = Branch.forEach([1, 2], () => a, { discard: true })
is<Effect.Effect<void, "ea", Mailer | Run>>()(eachDiscarded)
const eachPiped = [1, 2].values()
const eachLast = Branch.forEach((_: number) => b)(eachPiped)
is<Effect.Effect<Array<2>, never, Run>>()(eachLast)

const race = Branch.race(a, b)
is<Effect.Effect<"a" | 2, "ea", Mailer | Run>>()(race)
const racePiped = a.pipe(Branch.race(b))
is<Effect.Effect<"a" | 2, "ea", Mailer | Run>>()(racePiped)
const raceAll = Branch.raceAll([a, b])
is<Effect.Effect<"a" | 2, "ea", Mailer | Run>>()(raceAll)

const timeout = Branch.timeout(a, "1 day")
is<Effect.Effect<"a", "ea" | Cause.TimeoutException, Mailer | Run>>()(timeout)
const timeoutPiped = b.pipe(Branch.timeout(1_000))
is<Effect.Effect<2, Cause.TimeoutException, Run>>()(timeoutPiped)
const forked = Branch.fork(a)
is<Effect.Effect<Fiber.RuntimeFiber<"a", "ea">, never, Mailer | Run>>()(forked)
const joined = Effect.flatMap(forked, Branch.join)
is<Effect.Effect<"a", "ea", Mailer | Run>>()(joined)

const reserved = Branch.reserve([a, b])
is<Effect.Effect<[typeof a, typeof b], never, Run>>()(reserved)
const reservedStruct = Branch.reserve({ a, b })
is<Effect.Effect<{ a: typeof a; b: typeof b }, never, Run>>()(reservedStruct)
const reservedSet = Branch.reserve(new Set([b]))
is<Effect.Effect<Array<typeof b>, never, Run>>()(reservedSet)

export const refused = [
  // @ts-expect-error an option that Effect.all does not have
  Branch.all([a], { parallel: true }),
  // @ts-expect-error an option that does not exist, beside one that does
  Branch.all([a], { concurrency: 2, parallel: true }),
  // @ts-expect-error an option that Effect.forEach does not have
  Branch.forEach([1], () => b, { concurrency: 2, mode: "either" }),
  // @ts-expect-error no effect
  Branch.all([1])
]
