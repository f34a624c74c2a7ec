// The lines that the compiler must refuse are refused by Effect's own diagnostics too.
// @effect-diagnostics missingEffectContext:off
// @effect-diagnostics missingEffectError:off
/** What children ask for and give. Nothing here runs. */
import { Effect, Schema } from "effect"
import { Child, type Errors, Workflow } from "perdure"
import { type Codec, is } from "./is.js"

declare const Sealed: Schema.Schema<string, string, Codec>

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { model: Schema.String }) {}

const gift = Schema.optionalWith(Schema.Boolean, { default: () => false })

const Order = Workflow.make({
  name: "order",
  payload: { item: Schema.String, gift },
  success: Schema.Date,
  error: OutOfStock
})
const Letter = Workflow.make({ name: "letter", payload: { text: Sealed }, success: Schema.Number })
const Reply = Workflow.make({ name: "reply", payload: Schema.String, success: Sealed })
const Empty = Workflow.make({ name: "empty", payload: {} })

is<Effect.Effect<Date, OutOfStock | Errors.ChildCancelled, Workflow.Run>>()(Child.execute(Order, { item: "a" }))
is<Effect.Effect<number, Errors.ChildCancelled, Workflow.Run | Codec>>()(Child.execute(Letter, { text: "a" }))
is<Effect.Effect<string, Errors.ChildCancelled, Workflow.Run | Codec>>()(Child.execute(Reply, "a"))
is<Effect.Effect<void, Errors.ChildCancelled, Workflow.Run>>()(Child.execute(Empty))

const started = Child.start(Order, { item: "a", gift: true })
is<Effect.Effect<Child.Handle<typeof Schema.Date, typeof OutOfStock>, never, Workflow.Run>>()(started)
const awaited = Effect.flatMap(started, Child.await)
is<Effect.Effect<Date, OutOfStock | Errors.ChildCancelled, Workflow.Run>>()(awaited)
is<Effect.Effect<Child.Handle<typeof Schema.Number, typeof Schema.Never>, never, Workflow.Run | Codec>>()(
  Child.start(Letter, { text: "a" })
)
const replied = Effect.flatMap(Child.start(Reply, "a"), Child.await)
is<Effect.Effect<string, Errors.ChildCancelled, Workflow.Run | Codec>>()(replied)
is<Effect.Effect<Child.Handle<typeof Schema.Void, typeof Schema.Never>, never, Workflow.Run>>()(Child.start(Empty))

export const refused = [
  // @ts-expect-error the payload is missing
  Child.execute(Order),
  // @ts-expect-error the payload lacks a field
  Child.execute(Order, { gift: true }),
  // @ts-expect-error the payload has a field too many
  Child.start(Order, { item: "a", color: "red" }),
  // @ts-expect-error the payload is of another type
  Child.start(Reply, 1),
  // @ts-expect-error a handle is awaited, not an id
  Child.await("~wf:0")
]
