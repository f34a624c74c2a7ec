/**
 * The random numbers that a run has: in its body they come from its identity and are the same in every replay, and in each
 * branch others; in a step, and outside, they are the ordinary ones.
 *
 * Who knows the id of a run can compute them. A secret comes from a step.
 */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { PCGRandom } from "effect/Utils"
import { digestWords } from "./digest.js"
import { insteadOfForking } from "./operation.js"
import type { Branch } from "./place.js"
import { placeOf } from "./place.js"

const generators = new WeakMap<Branch, PCGRandom>()

/** The generator of a branch, seeded with 128 bits of a hash of where it is. */
const generatorOf = (branch: Branch): PCGRandom => {
  const known = generators.get(branch)
  if (known !== undefined) {
    return known
  }
  const { household, identity } = branch.run
  const [a, b, c, d] = digestWords([household.namespace, identity.workflowId, identity.generation, branch.prefix])
  const generator = new PCGRandom(a, b, c, d)
  generators.set(branch, generator)
  return generator
}

const draw = <A>(
  called: string,
  ofBranch: (generator: PCGRandom) => A,
  elsewhere: Effect.Effect<A>
): Effect.Effect<A> =>
  Effect.withFiberRuntime((fiber) => {
    const place = placeOf(fiber)
    switch (place._tag) {
      case "Branch":
        return Effect.sync(() => ofBranch(generatorOf(place)))
      case "Unreserved":
        return place.run.refuse(place.run.misplaced(
          called,
          `it was called in a fiber that was forked from ${place.from.name} without a reserved sequence, so what it draws would depend on timing. ${insteadOfForking}`
        ))
      default:
        return elsewhere
    }
  })

/** Fisher and Yates' shuffle, in the form of Durstenfeld. */
const shuffled = <A>(elements: Iterable<A>, generator: PCGRandom): Chunk.Chunk<A> => {
  const buffer = Array.from(elements)
  for (let n = buffer.length; n >= 2; n--) {
    const k = generator.integer(n)
    const last = buffer[n - 1]!
    buffer[n - 1] = buffer[k]!
    buffer[k] = last
  }
  return Chunk.unsafeFromArray(buffer)
}

export const bodyRandom = (real: Random.Random): Random.Random => ({
  [Random.RandomTypeId]: Random.RandomTypeId,
  next: draw("Random.next", (generator) => generator.number(), real.next),
  nextBoolean: draw("Random.nextBoolean", (generator) => generator.number() > 0.5, real.nextBoolean),
  nextInt: draw("Random.nextInt", (generator) => generator.integer(Number.MAX_SAFE_INTEGER), real.nextInt),
  nextRange: (min, max) =>
    draw("Random.nextRange", (generator) => (max - min) * generator.number() + min, real.nextRange(min, max)),
  nextIntBetween: (min, max) =>
    draw("Random.nextIntBetween", (generator) => generator.integer(max - min) + min, real.nextIntBetween(min, max)),
  shuffle: (elements) => draw("Random.shuffle", (generator) => shuffled(elements, generator), real.shuffle(elements))
})

const hex = (value: number) => value.toString(16).padStart(8, "0")

/** A UUID of version 4 (RFC 9562) from the random numbers at hand. */
export const uuid: Effect.Effect<string> = Effect.map(
  Effect.replicateEffect(Random.nextIntBetween(0, 0x1_0000_0000), 4),
  (words) => {
    const digits = words.map(hex).join("")
    const variant = (Number.parseInt(digits.charAt(16), 16) & 0x3 | 0x8).toString(16)
    return [
      digits.slice(0, 8),
      digits.slice(8, 12),
      `4${digits.slice(13, 16)}`,
      `${variant}${digits.slice(17, 20)}`,
      digits.slice(20)
    ].join("-")
  }
)
