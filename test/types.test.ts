import { describe, expect, it } from "vitest"
import { diagnose } from "./support/compiler.js"

/** What is written, and what the compiler must say of it; `null` if it must accept it. */
type Case = readonly [what: string, text: string, says: string | RegExp | null]

const plain = "the result is not plain JSON: pass a `success` schema for it"
const canFail =
  "the effect can fail: pass an `error` schema to record the failure, or Effect.orDie to let it stop the run"
const encoded = "the encoded side of the schema is not plain JSON: use a schema that encodes to JSON"

/** What the compiler says of an option that there is not: the second is how Effect's own generic options do it. */
const absent = /does not exist in type|is not assignable to type 'never'/

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
    ]
  ],
  "the compiler says what to do where a result is not plain": [
    ["in a pipe", "value<Date>().pipe(Step.durable(\"s\"))", plain],
    ["data-first", "Step.durable(value<Date>(), \"s\")", plain],
    ["in the value form", "Step.make({ id: \"s\", execute: value<Date>() })", plain],
    ["in Workflow.run", "Workflow.run(\"w\", value<Map<string, string>>())", plain],
    ["in the middle of a pipe", "one.pipe(Effect.map(Option.some), Step.durable(\"s\"), Effect.map((a) => a))", plain],
    ["with other options given", "value<Date>().pipe(Step.durable(\"s\", { fingerprint: \"f\" }))", plain],
    ["with options of an unknown shape", "value<Date>().pipe(Step.durable(\"s\", {} as Step.Options))", plain],
    [
      "with a schema in one case only",
      "value<Date>().pipe(Step.durable(\"s\", condition ? { success: Schema.Date } : {}))",
      plain
    ],
    ["where it is of type object, which may be anything", "value<object>().pipe(Step.durable(\"s\"))", plain],
    ["where it is a class", "Effect.succeed(class A {}).pipe(Step.durable(\"s\"))", plain]
  ],
  "the compiler names both ways out where an effect can fail": [
    ["in a pipe", "order.pipe(Step.durable(\"s\"))", canFail],
    ["data-first", "Step.durable(order, \"s\")", canFail],
    ["in the value form", "Step.make({ id: \"s\", execute: order })", canFail],
    ["in Workflow.run", "Workflow.run(\"w\", order)", canFail],
    ["with a success schema", "order.pipe(Step.durable(\"s\", { success: Schema.Number }))", canFail]
  ],
  "the compiler says that a schema does not fit": [
    [
      "the result",
      "one.pipe(Step.durable(\"s\", { success: Schema.String }))",
      "the effect's result does not fit the `success` schema"
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
    ["JSON, in a workflow's error", "Workflow.make({ name: \"w\", payload: {}, error: Schema.DateFromSelf })", encoded]
  ],
  "an option that is not there is refused, and not ignored": [
    ["retry, alone", "one.pipe(Step.durable(\"s\", { retry: 1 }))", absent],
    ...["retry", "timeout", "compensate", "onInterrupted"].flatMap((option): ReadonlyArray<Case> => [
      [`${option}, in a pipe`, `one.pipe(Step.durable("s", { fingerprint: "f", ${option}: 1 }))`, absent],
      [`${option}, data-first`, `Step.durable(one, "s", { fingerprint: "f", ${option}: 1 })`, absent],
      [`${option}, in the value form`, `Step.make({ id: "s", execute: one, fingerprint: "f", ${option}: 1 })`, absent]
    ]),
    ["deadline, in Workflow.run", "Workflow.run(\"w\", one, { success: Schema.Number, deadline: 1 })", absent],
    ["deadline, in execute", "Workflow.make({ name: \"w\", payload: {} }).execute(undefined, { deadline: 1 })", absent],
    ["annotations, in Workflow.make", "Workflow.make({ name: \"w\", payload: {}, annotations: 1 })", absent],
    ["parkGrace, in Engine.layerWith", "Engine.layerWith({ parkGrace: \"1 second\" })", absent],
    ["parallel, in Branch.all", "Branch.all([one], { concurrency: 2, parallel: true })", absent]
  ]
}

const cases = Object.values(groups).flat()
const messages = new Map<string, string>()
const messageOf = (text: string) => {
  if (messages.size === 0) {
    diagnose(cases.map(([, text]) => text)).forEach((message, i) => messages.set(cases[i]![1], message))
  }
  return messages.get(text)!
}

for (const [group, cases] of Object.entries(groups)) {
  describe(group, () => {
    it.each(cases)("%s", (_, text, says) => {
      if (says === null) {
        expect(messageOf(text)).toBe("")
      } else {
        expect(messageOf(text)).toMatch(says)
      }
    })
  })
}
