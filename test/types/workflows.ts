// The lines that the compiler must refuse are refused by Effect's own diagnostics too.
// @effect-diagnostics missingEffectContext:off
// @effect-diagnostics missingEffectError:off
// @effect-diagnostics missingLayerContext:off
/** What a definition asks for and gives. Nothing here runs. */
import { DateTime, Effect, type Layer, type Option, Schema, type Scope } from "effect"
import { type Engine, type Errors, Step, Workflow } from "perdure"
import { type Codec, is, type Mailer } from "./is.js"

declare const Sealed: Schema.Schema<string, string, Codec>

declare const contextOf: <R>(self: Effect.Effect<unknown, unknown, R>) => R
declare const successOf: <A>(self: Effect.Effect<A, unknown, unknown>) => A
declare const errorOf: <E>(self: Effect.Effect<unknown, E, unknown>) => E

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { model: Schema.String }) {}

const gift = Schema.optionalWith(Schema.Boolean, { default: () => false })

const Order = Workflow.make({
  name: "order",
  payload: {
    item: Schema.String,
    at: Schema.Date,
    gift
  },
  success: Schema.Date,
  error: OutOfStock,
  idempotencyKey: ({ gift, item }) => `${item} ${gift}`,
  version: "1"
})

const executed = Order.execute({ item: "a", at: new Date() })
type Ended = OutOfStock | Errors.RunStopped | Errors.RunCancelled
is<Effect.Effect<Date, Ended | Errors.StartError, Engine.Engine>>()(executed)
const started = Order.start({ item: "a", at: new Date(), gift: true }, { workflowId: "id" })
is<Effect.Effect<string, Errors.StartError, Engine.Engine>>()(started)
const awaited = Order.await("id")
is<Effect.Effect<Date, Ended | Errors.WorkflowNotFound | Errors.StoreError, Engine.Engine>>()(awaited)
const polled = Order.poll("id")
is<Effect.Effect<Option.Option<Workflow.RunState<Date, OutOfStock>>, Errors.StoreError, Engine.Engine>>()(polled)
const resumed = Order.resume("id")
is<Effect.Effect<void, Errors.WorkflowNotFound | Errors.NothingToResume | Errors.StoreError, Engine.Engine>>()(resumed)
const cancelled = Order.cancel("id")
is<Effect.Effect<void, Errors.WorkflowNotFound | Errors.StoreError, Engine.Engine>>()(cancelled)
const continued = Order.continueAsNew({ item: "a", at: new Date() })
is<Effect.Effect<never, never, Workflow.Run>>()(continued)
export const deadlines = [
  Order.start({ item: "a", at: new Date() }, { deadline: "3 days" }),
  Order.start({ item: "a", at: new Date() }, { deadline: new Date() }),
  Order.start({ item: "a", at: new Date() }, { deadline: DateTime.unsafeNow() })
]
is<string>()(Order.workflowId({ item: "a", at: new Date() }))
is<"order">()(Order.name)

declare const body: Effect.Effect<Date, OutOfStock, Mailer | Workflow.Run | Scope.Scope>
const live = Order.toLayer((payload, workflowId) => {
  is<{ readonly item: string; readonly at: Date; readonly gift: boolean }>()(payload)
  is<string>()(workflowId)
  return body
})
is<Layer.Layer<never, never, Mailer | Engine.Engine>>()(live)

const Codecs = Workflow.make({ name: "codecs", payload: Sealed, success: Sealed, error: Sealed })
const codecsExecuted = Codecs.execute("a")
is<Engine.Engine | Codec>()(contextOf(codecsExecuted))
const codecsLive = Codecs.toLayer(Effect.succeed)
is<Layer.Layer<never, never, Codec | Engine.Engine>>()(codecsLive)

const Empty = Workflow.make({ name: "empty", payload: {} })
const emptyExecuted = Empty.execute()
is<void>()(successOf(emptyExecuted))
is<Errors.RunStopped | Errors.RunCancelled | Errors.StartError>()(errorOf(emptyExecuted))

declare const condition: boolean

export const refused = [
  // @ts-expect-error the payload lacks a field
  Order.execute({ item: "a" }),
  // @ts-expect-error the payload has a field too many
  Order.execute({ item: "a", at: new Date(), color: "red" }),
  // @ts-expect-error the body returns something else
  Order.toLayer(() => Effect.succeed("now")),
  // @ts-expect-error the body fails with something else
  Order.toLayer(() => Effect.fail("no")),
  // @ts-expect-error a body cannot fail without an error schema
  Empty.toLayer(() => Effect.fail("no")),
  // @ts-expect-error Step.Current is not known in a body
  Empty.toLayer(() => Effect.asVoid(Step.attempt)) satisfies Layer.Layer<never, never, Engine.Engine>,
  // @ts-expect-error the payload is stored as a Date
  Workflow.make({ name: "w", payload: { at: Schema.DateFromSelf } }),
  // @ts-expect-error the payload schema is stored as a Date
  Workflow.make({ name: "w", payload: Schema.DateFromSelf }),
  // @ts-expect-error the success is stored as a Date
  Workflow.make({ name: "w", payload: {}, success: Schema.DateFromSelf }),
  // @ts-expect-error one of two successes is stored as a Date
  Workflow.make({ name: "w", payload: {}, success: condition ? Schema.Date : Schema.DateFromSelf }),
  // @ts-expect-error the error is stored as bytes
  Workflow.make({ name: "w", payload: {}, error: Schema.Uint8ArrayFromSelf }),
  // @ts-expect-error an option that does not exist
  Workflow.make({ name: "w", payload: {}, suspendedRetrySchedule: 1 }),
  // @ts-expect-error no deadline
  Empty.execute(undefined, { workflowId: "id", deadline: "soon" }),
  // @ts-expect-error the payload of another workflow
  Order.continueAsNew({ item: 1 })
]

// ---------------------------------------------------------------------------------------------------------------------
// scripts
// ---------------------------------------------------------------------------------------------------------------------

type RunErrors =
  | Errors.RunStopped
  | Errors.WorkflowIdInvalid
  | Errors.WorkflowIdConflict
  | Errors.StoreError
declare const script: Effect.Effect<Date, OutOfStock, Mailer | Workflow.Run>

const run = Workflow.run("id", script, { success: Schema.Date, error: OutOfStock })
is<Effect.Effect<Date, OutOfStock | RunErrors, Engine.Engine | Mailer>>()(run)

const sealed = Workflow.run("id", Effect.succeed("a"), { success: Sealed })
is<Effect.Effect<string, RunErrors, Engine.Engine | Codec>>()(sealed)

export const scriptsRefused = [
  // @ts-expect-error a Date without a schema
  Workflow.run("id", Effect.succeed(new Date())),
  // @ts-expect-error an error without a schema
  Workflow.run("id", Effect.fail("no")),
  // @ts-expect-error a schema that stores a Date
  Workflow.run("id", Effect.succeed(new Date()), { success: Schema.DateFromSelf }),
  // @ts-expect-error an option that does not exist
  Workflow.run("id", Effect.void, { version: "1" }),
  // @ts-expect-error an option that does not exist, beside one that does
  Workflow.run("id", Effect.void, { success: Schema.Void, deadline: 1 })
]

const undone = Workflow.withCompensation(script, (value) => (is<Date>()(value), Effect.void))
is<Effect.Effect<Date, OutOfStock, Mailer | Workflow.Run>>()(undone)
export const undonePiped = script.pipe(Workflow.withCompensation((value) => (is<Date>()(value), Effect.void)))
is<Effect.Effect<boolean, never, Workflow.Run>>()(Workflow.patched("change"))
is<Effect.Effect<void, never, Workflow.Run>>()(Workflow.patchDone("change"))
