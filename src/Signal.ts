/**
 * Signals: what is sent to a run from outside, and what its body waits for.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import type { StoreError } from "./Errors.js"
import { SignalInvalid, SignalNotWanted, WorkflowNotFound } from "./Errors.js"
import type { EncodedCheck } from "./internal/jsonSafe.js"
import { tokenMark } from "./internal/mailbox.js"
import { freshId, nameProblem } from "./internal/names.js"
import { outsideBody } from "./internal/operation.js"
import type { Run } from "./internal/run.js"
import { Engine } from "./internal/run.js"
import { nextSignal, type SignalSpec, signalToken } from "./internal/signals.js"
import { encodeGiven } from "./internal/values.js"
import { wholeMillis } from "./internal/wholeMillis.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("perdure/Signal")

/**
 * @since 0.1.0
 * @category type ids
 */
export type TypeId = typeof TypeId

/**
 * A kind of signal: its name, and what it carries.
 *
 * @since 0.1.0
 * @category models
 */
export interface Signal<A, I = A, R = never> {
  readonly [TypeId]: TypeId
  readonly name: string
  readonly schema: Schema.Schema<A, I, R>
}

/**
 * What somebody outside needs in order to answer one question of a run, and the wait for that answer.
 *
 * @since 0.1.0
 * @category models
 */
export interface Token<A, R = never> {
  /** 22 characters that nobody guesses and that may stand in a URL. */
  readonly token: string
  /** Waits for the answer to this token. */
  readonly next: Effect.Effect<A, never, Run | R>
}

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Defines a signal.
 *
 * @param name - at most 256 bytes, not beginning with `~`; what the sender and the body call it
 * @param schema - what it carries; its encoded side must be plain JSON
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Signal } from "perdure"
 *
 * export const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String, approved: Schema.Boolean }))
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <A, I, R>(
  name: string,
  schema: Schema.Schema<A, I, R> & EncodedCheck<Schema.Schema<A, I, R>>
): Signal<A, I, R> => {
  const problem = name.startsWith(tokenMark) ? "names that begin with \"~\" are kept for the engine" : nameProblem(name)
  if (problem !== null) {
    throw new TypeError(`The signal name ${JSON.stringify(name)} cannot be used: ${problem}`)
  }
  return { [TypeId]: TypeId, name, schema }
}

// ---------------------------------------------------------------------------------------------------------------------
// in a body
// ---------------------------------------------------------------------------------------------------------------------

const specOf = <A, I, R>(signal: Signal<A, I, R>) => signal as unknown as SignalSpec

const shownName = <A, I, R>(signal: Signal<A, I, R>) => JSON.stringify(signal.name)

/**
 * Takes the next signal of this kind: the first that was sent and that nobody has taken, or else the next that will be. Signals wait
 * until they are taken, each is taken once, and who waits longest is served first. If the wait is cut (it has lost a race) just
 * when it is given a signal, that signal goes back to its place.
 *
 * While nothing else goes on, the run leaves memory, and comes back with the signal.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Branch, Signal, Step } from "perdure"
 *
 * const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String }))
 *
 * export const approved = Signal.next(Approval).pipe(
 *   Branch.timeout("3 days"),
 *   Effect.flatMap(({ by }) => Effect.succeed(`approved by ${by}`).pipe(Step.durable("note-approval"))),
 *   Effect.catchTag("TimeoutException", () => Effect.succeed("nobody answered"))
 * )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const next = <A, I, R>(signal: Signal<A, I, R>): Effect.Effect<A, never, Run | R> =>
  nextSignal(`Signal.next(${shownName(signal)})`, specOf(signal), null) as Effect.Effect<A, never, Run | R>

/**
 * Gives a token away, to be mailed, or to stand in the URL of a webhook: who has it can {@link answer} it once, from now on,
 * whether or not the body waits already. Nothing but that answer comes to its `next`.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Signal, Step } from "perdure"
 *
 * const Approval = Signal.make("approval", Schema.Boolean)
 *
 * export const asked = Effect.gen(function*() {
 *   const { next, token } = yield* Signal.token(Approval)
 *   yield* Effect.log(`https://example.com/approve/${token}`).pipe(Step.durable("mail-link"))
 *   return yield* next
 * })
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const token = <A, I, R>(signal: Signal<A, I, R>): Effect.Effect<Token<A, R>, never, Run> =>
  Effect.map(signalToken(`Signal.token(${shownName(signal)})`, specOf(signal)), (token) => ({
    token,
    next: nextSignal(`next of Signal.token(${shownName(signal)})`, specOf(signal), tokenMark + token) as Effect.Effect<
      A,
      never,
      Run | R
    >
  }))

// ---------------------------------------------------------------------------------------------------------------------
// from outside
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What sending a signal may end with.
 *
 * @since 0.1.0
 * @category models
 */
export type SendError = SignalInvalid | WorkflowNotFound | SignalNotWanted | StoreError

const deliver = (
  signal: SignalSpec,
  workflowId: string,
  value: unknown,
  signalId: string
): Effect.Effect<"Accepted" | "Known", SendError, Engine> =>
  Effect.gen(function*() {
    const engine = yield* Engine
    const text = yield* Effect.mapError(
      encodeGiven(value, signal.schema, engine.maxValueBytes),
      (error) => new SignalInvalid({ signal: signal.name, problem: `its value is ${error.message}` })
    )
    const sentAt = wholeMillis(yield* Effect.clock)
    const answer = yield* engine.send(workflowId, { signalId, name: signal.name, sentAt, value: text })
    switch (answer) {
      case "Accepted":
      case "Known":
        return answer
      case "Ended":
        return yield* new SignalNotWanted({ workflowId, signal: signal.name, reason: "ended" })
      default:
        return yield* new WorkflowNotFound({ workflowId })
    }
  }) as Effect.Effect<"Accepted" | "Known", SendError, Engine>

/**
 * Sends a signal to a run; it is recorded when this returns. The run need not wait for it yet.
 *
 * Inside a transaction of the `SqlClient` that the store shares (`layerClient`) it is part of that transaction.
 *
 * Fails with `SignalInvalid` if the value does not fit the schema, `WorkflowNotFound` if there is no such run, and `SignalNotWanted`
 * if the run has ended.
 *
 * @param options.workflowId - the run
 * @param options.value - what the signal carries
 * @param options.idempotencyKey - at most 256 bytes: of several sends of this signal to this run with one key, the first counts
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Signal } from "perdure"
 *
 * const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String }))
 *
 * export const approve = Signal.send(Approval, {
 *   workflowId: "order/1234",
 *   value: { by: "ada" },
 *   idempotencyKey: "click-77"
 * })
 * ```
 *
 * @since 0.1.0
 * @category sending
 */
export const send = <A, I, R>(
  signal: Signal<A, I, R>,
  options: { readonly workflowId: string; readonly value: A; readonly idempotencyKey?: string }
): Effect.Effect<void, SendError, Engine | R> => {
  const { idempotencyKey, value, workflowId } = options
  const problem = idempotencyKey === undefined ? null : nameProblem(idempotencyKey)
  return outsideBody(
    `Signal.send(${shownName(signal)})`,
    problem === null
      ? Effect.flatMap(
        idempotencyKey === undefined ? freshId : Effect.succeed(idempotencyKey),
        // The slash ends the name, whatever stands in it.
        (key) => Effect.asVoid(deliver(specOf(signal), workflowId, value, `${encodeURIComponent(signal.name)}/${key}`))
      )
      : new SignalInvalid({ signal: signal.name, problem: `its idempotency key cannot be used: ${problem}` })
  )
}

/**
 * Answers a token that a run has given away.
 *
 * Fails with `SignalInvalid` if the value does not fit the schema or no run has given this token away for this signal, and with
 * `SignalNotWanted` if the token has been answered before or the run has ended.
 *
 * @param options.token - as {@link token} gave it
 * @param options.value - what the signal carries
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Signal } from "perdure"
 *
 * const Approval = Signal.make("approval", Schema.Boolean)
 *
 * export const webhook = (token: string) => Signal.answer(Approval, { token, value: true })
 * ```
 *
 * @since 0.1.0
 * @category sending
 */
export const answer = <A, I, R>(
  signal: Signal<A, I, R>,
  options: { readonly token: string; readonly value: A }
): Effect.Effect<void, SendError, Engine | R> =>
  outsideBody(
    `Signal.answer(${shownName(signal)})`,
    Effect.gen(function*() {
      const engine = yield* Engine
      const { name } = signal
      const signalId = tokenMark + options.token
      const owner = yield* engine.token(signalId)
      if (Option.isNone(owner) || owner.value.name !== name) {
        return yield* new SignalInvalid({ signal: name, problem: "no run has given this token away for it" })
      }
      const { workflowId } = owner.value
      if ((yield* deliver(specOf(signal), workflowId, options.value, signalId)) === "Known") {
        return yield* new SignalNotWanted({ workflowId, signal: name, reason: "answered" })
      }
    })
  )
