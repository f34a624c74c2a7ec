import { isDeepStrictEqual } from "node:util"
import { assert, describe, expect, it } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import { digest } from "../src/internal/digest.js"
import { canonical, fromText, problemOf, toText } from "../src/internal/json.js"

const roundTrip = (value: unknown) => fromText(toText(value))

/** What a value is once recorded: fields that are undefined are gone, -0 is 0, and every object is a plain one. */
const recordedForm = (value: unknown): unknown => {
  if (Array.isArray(value)) {
    return value.map(recordedForm)
  }
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value).filter(([, field]) => field !== undefined).map(([key, field]) => [key, recordedForm(field)])
    )
  }
  return Object.is(value, -0) ? 0 : value
}

/** Values that can be kept, with fields that are undefined. */
const { keepable } = fc.letrec<{ keepable: unknown }>((tie) => ({
  keepable: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.string({ unit: "binary" }),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("keepable")),
    fc.dictionary(fc.string({ unit: "binary" }), fc.oneof(tie("keepable"), fc.constant(undefined)))
  )
}))

const whatever = fc.anything({
  withBigInt: true,
  withBoxedValues: true,
  withDate: true,
  withMap: true,
  withNullPrototype: true,
  withObjectString: true,
  withSet: true,
  withSparseArray: true,
  withTypedArray: true
})

/** What stands in a value at a path such as `people[0]["full name"]`. */
const at = (value: unknown, path: string): unknown => {
  let found = value
  for (const [, field, index, key] of path.matchAll(/([A-Za-z_$][\w$]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]/g)) {
    found = Reflect.get(found as object, field ?? index ?? JSON.parse(key!))
  }
  return found
}

const nested = (depth: number): unknown => depth === 0 ? 1 : { next: nested(depth - 1) }

/** The same value with the keys of its objects in another order. */
const reversed = (value: unknown): unknown => {
  if (Array.isArray(value)) {
    return value.map(reversed)
  }
  return typeof value === "object" && value !== null
    ? Object.fromEntries(Object.entries(value).reverse().map(([key, field]) => [key, reversed(field)]))
    : value
}

describe("what cannot be kept as JSON", () => {
  class Person {
    readonly name = "Ada"
  }
  const cyclicObject: Record<string, unknown> = {}
  cyclicObject["me"] = { again: cyclicObject }
  const cyclicArray: Array<unknown> = []
  cyclicArray.push(cyclicArray)
  const cases: ReadonlyArray<readonly [what: string, value: unknown, problem: string]> = [
    ["an instance", new Person(), "the value itself is an instance of Person"],
    ["an instance in a field", { who: new Person() }, "who is an instance of Person"],
    ["an instance in an array", [1, [new Person()]], "[1][0] is an instance of Person"],
    ["an instance under an odd key", { "full name": [new Person()] }, "[\"full name\"][0] is an instance of Person"],
    ["an instance under an empty key", { a: { "": new Person() } }, "a[\"\"] is an instance of Person"],
    [
      "an instance without a constructor",
      Object.create({ constructor: 1 }),
      "the value itself is an instance of an unknown class"
    ],
    ["a date", new Date(0), "the value itself is an instance of Date"],
    ["a map", { $m_1: new Map() }, "$m_1 is an instance of Map"],
    ["a set", { "1m": new Set() }, "[\"1m\"] is an instance of Set"],
    ["an error", [new TypeError("no")], "[0] is an instance of TypeError"],
    ["a regular expression", /x/, "the value itself is an instance of RegExp"],
    ["a promise", Promise.resolve(1), "the value itself is an instance of Promise"],
    ["bytes", new Uint8Array(1), "the value itself is an instance of Uint8Array"],
    ["a boxed number", Object(1), "the value itself is an instance of Number"],
    ["NaN", Number.NaN, "the value itself is NaN"],
    ["Infinity", { n: [Infinity] }, "n[0] is Infinity"],
    ["-Infinity", { n: -Infinity }, "n is -Infinity"],
    ["undefined in an array", { list: [1, undefined] }, "list[1] is undefined, which an array cannot keep in JSON"],
    ["a hole", [1, , 3], "[1] is a hole, which an array cannot keep in JSON"],
    [
      "an array of holes",
      { a: Array.from({ length: 1 }, () => new Array(2)) },
      "a[0][0] is a hole, which an array cannot keep in JSON"
    ],
    ["a function", () => 1, "the value itself is a function"],
    ["a method", { toJSON: () => 1 }, "toJSON is a function"],
    ["a class", { C: Person }, "C is a function"],
    ["a symbol", [Symbol("s")], "[0] is a symbol"],
    ["a key that is a symbol", { a: { [Symbol("s")]: 1 } }, "a has a key that is a symbol"],
    ["a bigint", { n: 1n }, "n is a bigint"]
  ]
  for (const [what, value, problem] of cases) {
    it(`is ${what}: ${problem}`, () => {
      expect(problemOf(value)).toBe(problem)
    })
  }

  it("is what contains itself", () => {
    expect(problemOf(cyclicObject)).toMatch(/^me\.again\.me.* may contain itself/)
    expect(problemOf(cyclicArray)).toMatch(/^\[0\]\[0\].* may contain itself/)
  })

  it("is what is nested more than a thousand deep", () => {
    expect(problemOf(nested(1_001))).toBeNull()
    expect(roundTrip(nested(1_001))).toEqual(nested(1_001))
    expect(problemOf(nested(1_002))).toContain("is nested more than 1000 deep: it may contain itself")
  })

  it("is not something that merely stands at two places", () => {
    const shared = { n: 1 }
    expect(problemOf({ a: shared, b: [shared, shared] })).toBeNull()
  })

  it.prop("is named by its path", [whatever], ([value]) => {
    const problem = problemOf(value)
    if (problem !== null) {
      const path = problem.slice(0, problem.search(/ (is|has) /)).replace(/^the value itself/, "")
      // What stands at the path is refused by itself, too, or is what an array cannot keep.
      const found = at(value, path)
      assert.isTrue(found === undefined || problemOf(found) !== null, problem)
    }
  }, { fastCheck: { numRuns: 1_000 } })
})

describe("what can be kept as JSON", () => {
  it.prop("has no problem, and comes back as it was", [keepable], ([value]) => {
    assert.isNull(problemOf(value))
    assert.deepStrictEqual(roundTrip(value), recordedForm(value))
  }, { fastCheck: { numRuns: 1_000 } })

  it.prop("is whatever has no problem", [whatever], ([value]) => {
    if (problemOf(value) === null) {
      assert.deepStrictEqual(roundTrip(value), recordedForm(value))
    }
  }, { fastCheck: { numRuns: 1_000 } })

  it("is undefined alone, whose text is null", () => {
    expect(problemOf(undefined)).toBeNull()
    expect(toText(undefined)).toBeNull()
    expect(fromText(null)).toBeUndefined()
    expect(toText(null)).toBe("null")
    expect(fromText("null")).toBeNull()
  })

  it("is undefined in a field, which is dropped", () => {
    expect(problemOf({ a: undefined, b: { c: undefined } })).toBeNull()
    expect(toText({ a: undefined, b: { c: undefined } })).toBe("{\"b\":{}}")
  })

  it("is -0, which is kept as 0", () => {
    expect(problemOf([-0])).toBeNull()
    expect(toText([-0])).toBe("[0]")
    expect(Object.is(roundTrip(-0), 0)).toBe(true)
  })

  it("is an object without a prototype, and keys that mean something to JavaScript", () => {
    const odd = Object.assign(
      Object.create(null),
      JSON.parse("{\"__proto__\":{\"a\":1},\"constructor\":2,\"toString\":3}")
    )
    expect(problemOf(odd)).toBeNull()
    const back = roundTrip(odd) as object
    expect(Object.entries(back)).toEqual([["__proto__", { a: 1 }], ["constructor", 2], ["toString", 3]])
    expect(Object.getPrototypeOf(back)).toBe(Object.prototype)
  })

  it("is any text: half surrogate pairs, NULs, line separators", () => {
    for (const text of ["\uD83D", "a\0b", "\u2028\u2029", "\\\"", "👩‍👩‍👧‍👦", "\uFEFF"]) {
      expect(roundTrip({ [text]: text })).toEqual({ [text]: text })
    }
  })
})

describe("canonical JSON", () => {
  it("puts the keys of objects in order, and leaves arrays alone", () => {
    expect(canonical("{\"b\":[{\"z\":1,\"a\":2},3],\"a\":{\"d\":null,\"c\":\"x\"}}")).toBe(
      "{\"a\":{\"c\":\"x\",\"d\":null},\"b\":[{\"a\":2,\"z\":1},3]}"
    )
    expect(canonical("[3,1,2]")).toBe("[3,1,2]")
    expect(canonical("null")).toBe("null")
  })

  it("of nothing is empty, which no other text is", () => {
    expect(canonical(null)).toBe("")
  })

  it("keeps a key that means something to JavaScript", () => {
    expect(canonical("{\"b\":1,\"__proto__\":{\"y\":1,\"x\":2}}")).toBe("{\"__proto__\":{\"x\":2,\"y\":1},\"b\":1}")
  })

  it.prop("is the same whatever the order of keys", [keepable], ([value]) => {
    assert.strictEqual(canonical(toText(reversed(value))), canonical(toText(value)))
  })

  it.prop("means the same value", [keepable], ([value]) => {
    assert.deepStrictEqual(JSON.parse(canonical(toText(value))), recordedForm(value))
  })

  const few = fc.dictionary(fc.constantFrom("a", "b"), fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 1 }))
  it.prop("is the same for equal values alone", [few, few], ([a, b]) => {
    assert.strictEqual(canonical(toText(a)) === canonical(toText(b)), isDeepStrictEqual({ ...a }, { ...b }))
  }, { fastCheck: { numRuns: 300 } })
})

describe("a fingerprint", () => {
  it("is 16 hexadecimal digits", () => {
    expect(digest(["{\"a\":1}"])).toMatch(/^[0-9a-f]{16}$/)
  })

  it("changes with each part, and with the place where one part ends and the next begins", () => {
    const all: ReadonlyArray<ReadonlyArray<string | number | null>> = [
      [],
      [""],
      ["", ""],
      [null],
      ["-"],
      ["n:-"],
      ["ab", "c"],
      ["a", "bc"],
      ["abc"],
      ["abc", ""],
      ["1:a"],
      ["a"]
    ]
    expect(new Set(all.map(digest)).size).toBe(all.length)
  })

  it.prop("is the same whatever the order of keys", [keepable], ([value]) => {
    assert.strictEqual(digest([canonical(toText(reversed(value)))]), digest([canonical(toText(value))]))
  })
})
