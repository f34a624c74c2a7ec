import { beforeAll, describe, expect, it } from "vitest"
import { diagnose } from "./support/compiler.js"

/** What is written, and what the compiler must say of it; `null` if it must accept it. */
type Case = readonly [what: string, text: string, says: string | RegExp | null]

const plain = "the result is not plain JSON: pass a `success` schema for it"
const plainAlways =
  "the result is not plain JSON, and these options may be without a schema: pass a `success` schema in every case"
const canFail =
  "the effect can fail: pass an `error` schema to record the failure, or Effect.orDie to let it stop the run"
const canFailAlways =
  "the effect can fail, and these options may be without a schema: pass an `error` schema in every case, or Effect.orDie"
const differs = "the effect's result does not fit the `success` schema"
const encoded = "the encoded side of the schema is not plain JSON: use a schema that encodes to JSON"

/** What the compiler says of an option that there is not: in its own words where it can, in ours where the options are generic. */
const absent = (option: string) =>
  new RegExp(`'${option}' does not exist in type|"there is no such option"' is missing .* 'NoSuchOption<"${option}">'`)

const groups: Record<string, ReadonlyArray<Case>> = {
  "the compiler accepts": [
    ["a plain step", "one.pipe(Step.durable(\"s\"))", null],
    [
      "a step with all its options",
      "order.pipe(Step.durable(\"s\", { success: Schema.Number, error: OutOfStock, fingerprint: \"f\" }))",
      null
    ],
    [
      "the same, data-first",
      "Step.durable(order, \"s\", { success: Schema.Number, error: OutOfStock, fingerprint: \"f\" })",
      null
    ],
    [
      "the same, as a value",
      "Step.make({ id: \"s\", execute: order, success: Schema.Number, error: OutOfStock, fingerprint: \"f\" })",
      null
    ],
    ...[
      ["in a pipe", "order.pipe(Step.durable(\"s\", OPTIONS))"],
      ["data-first", "Step.durable(order, \"s\", OPTIONS)"]
    ].map(([form, text]): Case => [
      `a predicate of retries that knows the step's error, ${form}`,
      text!.replace(
        "OPTIONS",
        "{ error: OutOfStock, retry: { times: 3, while: (error) => error.model !== \"old\" } }"
      ),
      null
    ]),
    [
      "an effect of a ternary of which each side brings what the other has not",
      "(condition ? value<{ a: 1 }>() : Effect.fail(new OutOfStock({ model: \"m\" }))).pipe(Step.durable(\"s\", { error: OutOfStock }))",
      null
    ],
    ["an effect whose error was made a defect", "order.pipe(Effect.orDie, Step.durable(\"s\"))", null],
    [
      "an effect that a ternary chose",
      "(condition ? one : order).pipe(Step.durable(\"s\", { error: OutOfStock }))",
      null
    ],
    [
      "a payload with defaults, which a caller may leave out",
      "Workflow.make({ name: \"w\", payload: { a: Schema.optionalWith(Schema.Boolean, { default: () => false }) } }).execute({})",
      null
    ],
    [
      "schemas that a ternary chose, where each of them fits",
      "value<Date>().pipe(Step.durable(\"s\", { success: condition ? Schema.Date : Schema.DateFromNumber }))",
      null
    ],
    [
      "options that a ternary chose, where each of them will do",
      "one.pipe(Step.durable(\"s\", condition ? { success: Schema.Number } : { fingerprint: \"f\" }))",
      null
    ],
    [
      "a schema and a result of a type that is not known yet",
      "<A>(a: A, success: Schema.Schema<A, string>) => Effect.succeed(a).pipe(Step.durable(\"s\", { success }))",
      null
    ],
    // It cannot tell this from an interface. The value is refused when the step runs.
    [
      "an instance of a class that has nothing but fields",
      "Effect.succeed(new Fields()).pipe(Step.durable(\"s\"))",
      null
    ]
  ],
  "the compiler says what to do where a result is not plain": [
    ["in a pipe", "value<Date>().pipe(Step.durable(\"s\"))", plain],
    ["data-first", "Step.durable(value<Date>(), \"s\")", plain],
    ["in the value form", "Step.make({ id: \"s\", execute: value<Date>() })", plain],
    ["in Workflow.run", "Workflow.run(\"w\", value<Map<string, string>>())", plain],
    ["in the middle of a pipe", "one.pipe(Effect.map(Option.some), Step.durable(\"s\"), Effect.map((a) => a))", plain],
    ["with other options given", "value<Date>().pipe(Step.durable(\"s\", { fingerprint: \"f\" }))", plain],
    [
      "with options of an unknown shape",
      "value<Date>().pipe(Step.durable(\"s\", {} as Omit<Step.Options, \"compensate\">))",
      plainAlways
    ],
    [
      "with a schema in one case only",
      "value<Date>().pipe(Step.durable(\"s\", condition ? { success: Schema.Date } : {}))",
      plainAlways
    ],
    ["where it is of type object, which may be anything", "value<object>().pipe(Step.durable(\"s\"))", plain],
    ["where there is an object within", "value<{ a: object }>().pipe(Step.durable(\"s\"))", plain],
    ["where it is a class", "Effect.succeed(class A {}).pipe(Step.durable(\"s\"))", plain],
    ["where it is an instance with a method", "Effect.succeed(new Method()).pipe(Step.durable(\"s\"))", plain],
    ["where it is an instance with a private field", "Effect.succeed(new Hidden()).pipe(Step.durable(\"s\"))", plain],
    ["where such an instance is within", "Effect.succeed([{ a: new Hidden() }]).pipe(Step.durable(\"s\"))", plain]
  ],
  "the compiler names both ways out where an effect can fail": [
    ["in a pipe", "order.pipe(Step.durable(\"s\"))", canFail],
    ["data-first", "Step.durable(order, \"s\")", canFail],
    ["in the value form", "Step.make({ id: \"s\", execute: order })", canFail],
    ["in Workflow.run", "Workflow.run(\"w\", order)", canFail],
    ["with a success schema", "order.pipe(Step.durable(\"s\", { success: Schema.Number }))", canFail],
    [
      "with a schema in one case only",
      "order.pipe(Step.durable(\"s\", condition ? { error: OutOfStock } : {}))",
      canFailAlways
    ]
  ],
  "the compiler says that a schema does not fit": [
    [
      "the result",
      "one.pipe(Step.durable(\"s\", { success: Schema.String }))",
      differs
    ],
    [
      "the result, where it is one of two",
      "one.pipe(Step.durable(\"s\", { success: condition ? Schema.Number : Schema.String }))",
      differs
    ],
    [
      "the result, where it is given in one case only",
      "one.pipe(Step.durable(\"s\", condition ? { success: Schema.Date } : {}))",
      differs
    ],
    [
      "the failure",
      "order.pipe(Step.durable(\"s\", { error: Schema.String }))",
      "the effect's failure does not fit the `error` schema"
    ],
    ["JSON, in a step", "value<Date>().pipe(Step.durable(\"s\", { success: Schema.DateFromSelf }))", encoded],
    ["JSON, in an error", "Effect.fail(new Date()).pipe(Step.durable(\"s\", { error: Schema.DateFromSelf }))", encoded],
    ["JSON, in Workflow.run", "Workflow.run(\"w\", value<Date>(), { success: Schema.DateFromSelf })", encoded],
    ["JSON, in a payload", "Workflow.make({ name: \"w\", payload: { at: Schema.DateFromSelf } })", encoded],
    ["JSON, in a payload schema", "Workflow.make({ name: \"w\", payload: Schema.DateFromSelf })", encoded],
    [
      "JSON, in a workflow's success",
      "Workflow.make({ name: \"w\", payload: {}, success: Schema.DateFromSelf })",
      encoded
    ],
    [
      "JSON, in one of two successes of a workflow",
      "Workflow.make({ name: \"w\", payload: {}, success: condition ? Schema.Date : Schema.DateFromSelf })",
      encoded
    ],
    ["JSON, in a workflow's error", "Workflow.make({ name: \"w\", payload: {}, error: Schema.DateFromSelf })", encoded]
  ],
  "an option that is not there is refused, and not ignored": [
    ...["tags", "park"].flatMap((option): ReadonlyArray<Case> => [
      [`${option}, alone`, `one.pipe(Step.durable("s", { ${option}: 1 }))`, absent(option)],
      [`${option}, in a pipe`, `one.pipe(Step.durable("s", { fingerprint: "f", ${option}: 1 }))`, absent(option)],
      [`${option}, data-first`, `Step.durable(one, "s", { fingerprint: "f", ${option}: 1 })`, absent(option)],
      [`${option}, in the value form`, `Step.make({ id: "s", execute: one, ${option}: 1 })`, absent(option)]
    ]),
    [
      "one of type any",
      "one.pipe(Step.durable(\"s\", { fingerprint: \"f\", tags: 1 as any }))",
      absent("tags")
    ],
    [
      "one that is given in one case only",
      "one.pipe(Step.durable(\"s\", condition ? { fingerprint: \"f\" } : { tags: 1 }))",
      absent("tags")
    ],
    [
      "one of options that were put together before",
      "one.pipe(Step.durable(\"s\", {} as { fingerprint: string; tags?: number }))",
      absent("tags")
    ],
    ["deadline, alone, in Workflow.run", "Workflow.run(\"w\", one, { deadline: 1 })", absent("deadline")],
    [
      "deadline, in Workflow.run",
      "Workflow.run(\"w\", one, { success: Schema.Number, deadline: 1 })",
      absent("deadline")
    ],
    ...["execute", "start"].map((method): Case => [
      `priority, in ${method}`,
      `Workflow.make({ name: "w", payload: {} }).${method}(undefined, { workflowId: "w", priority: 1 })`,
      absent("priority")
    ]),
    [
      "anything, in toLayer",
      "Workflow.make({ name: \"w\", payload: {} }).toLayer(() => Effect.void, { concurrency: 1 })",
      "Expected 1 arguments, but got 2"
    ],
    [
      "annotations, in Workflow.make",
      "Workflow.make({ name: \"w\", payload: {}, annotations: 1 })",
      absent("annotations")
    ],
    [
      "parkAfter, in Engine.layerWith",
      "Engine.layerWith({ slowPoll: \"1 second\", parkAfter: \"1 second\" })",
      absent("parkAfter")
    ],
    ["a limit, in Engine.layerWith", "Engine.layerWith({ limits: { value: 1, waits: 1 } })", absent("waits")],
    // The words are those of Effect.all, whose type it has.
    [
      "parallel, in Branch.all",
      "Branch.all([one], { concurrency: 2, parallel: true })",
      "Type 'true' is not assignable to type 'never'"
    ],
    [
      "mode, in Branch.forEach",
      "Branch.forEach([1], () => one, { concurrency: 2, mode: \"either\" })",
      absent("mode")
    ],
    [
      "mode, in a piped Branch.forEach",
      "Effect.succeed([1]).pipe(Effect.flatMap(Branch.forEach(() => one, { concurrency: 2, mode: \"either\" })))",
      absent("mode")
    ]
  ]
}

/** One program for all of them: most of the time goes into the types of Effect, once. */
const messages = new Map<string, string>()

beforeAll(() => {
  const texts = Object.values(groups).flat().map(([, text]) => text)
  diagnose(texts).forEach((message, i) => messages.set(texts[i]!, message))
})

for (const [group, cases] of Object.entries(groups)) {
  describe(group, () => {
    it.each(cases)("%s", (_, text, says) => {
      if (says === null) {
        expect(messages.get(text)).toBe("")
      } else {
        expect(messages.get(text)).toMatch(says)
      }
    })
  })
}
