/**
 * Workflows: named definitions, their implementations, and what one can ask of their runs.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Simplify } from "effect/Types"
import type {
  NothingToResume,
  StartError,
  StopReason,
  StoreError,
  WorkflowIdConflict,
  WorkflowNotFound
} from "./Errors.js"
import { PayloadInvalid, RecordUndecodable, RunCancelled, RunStopped, WorkflowIdInvalid } from "./Errors.js"
import { uuid as randomUuid } from "./internal/bodyRandom.js"
import { compensated } from "./internal/compensated.js"
import { continueAsNew } from "./internal/continueAsNew.js"
import { type HasInternals, Internals, makeDefinition } from "./internal/definition.js"
import type {
  EncodedCheck,
  ErrorOut,
  OptionsCheck,
  OutcomeOptions,
  SchemaR,
  SelfCheck,
  SuccessOut
} from "./internal/jsonSafe.js"
import { freshId, nameProblem, workflowIdProblem } from "./internal/names.js"
import { outsideBody } from "./internal/operation.js"
import { patchDone as donePatching, patched as isPatched } from "./internal/patch.js"
import type { CurrentStep, OutcomeSchemas, RunEnd, StartRequest } from "./internal/run.js"
import { cancelReason, Engine, Run as CurrentRun, stopReason } from "./internal/run.js"
import { sleepUntil as durableSleep } from "./internal/sleep.js"
import { inSpan } from "./internal/trace.js"
import { decode, TooLarge } from "./internal/values.js"
import { wholeMillis } from "./internal/wholeMillis.js"
import type { RunRow } from "./StepStore.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("perdure/Workflow")

/**
 * @since 0.1.0
 * @category type ids
 */
export type TypeId = typeof TypeId

/**
 * The run whose body this is: proof, in the type of an effect, that it needs to be inside a run.
 *
 * @since 0.1.0
 * @category tags
 */
export const Run = CurrentRun

/**
 * @since 0.1.0
 * @category tags
 */
export type Run = CurrentRun

/**
 * How a run stands, tagged by its status.
 *
 * @since 0.1.0
 * @category models
 */
export type RunState<S, E> =
  /** No worker has taken it yet, or the last one has given it back. */
  | { readonly _tag: "PENDING" }
  | { readonly _tag: "RUNNING" }
  | { readonly _tag: "SUSPENDED" }
  | { readonly _tag: "CANCELLED"; readonly reason: "cancelled" | "deadline" }
  /** Something is to be mended before it can be resumed. */
  | { readonly _tag: "STOPPED"; readonly reason: StopReason }
  | { readonly _tag: "COMPLETED"; readonly value: S }
  | { readonly _tag: "FAILED"; readonly error: E }

/**
 * The schema of a payload that was given as fields, or as a schema.
 *
 * @since 0.1.0
 * @category models
 */
export type PayloadSchema<Payload> = Payload extends Schema.Schema.Any ? Payload
  : Payload extends Schema.Struct.Fields ? Schema.Struct<Payload>
  : never

/**
 * What a caller gives as payload: fields with a default may be left out, and nothing is given where there are no fields.
 *
 * @since 0.1.0
 * @category models
 */
export type PayloadInput<Payload> = Payload extends Schema.Schema.Any ? Schema.Schema.Type<Payload>
  : Payload extends Schema.Struct.Fields
    ? [keyof Payload] extends [never] ? void : Simplify<Schema.Struct.Constructor<Payload>>
  : never

/**
 * @since 0.1.0
 * @category models
 */
export interface StartOptions {
  /** The id of the run, instead of the one derived from the idempotency key: at most 256 bytes, not beginning with `~`. */
  readonly workflowId?: string
  /**
   * When the run is cancelled if it has not ended: a date, or the time it may take from now on. Of a run that is there already it
   * changes nothing.
   */
  readonly deadline?: Date | DateTime.DateTime | Duration.DurationInput
}

/**
 * A workflow definition: a value that names a workflow, says what goes in and comes out, and can be asked to start runs and
 * to tell about them.
 *
 * @since 0.1.0
 * @category models
 */
export interface Workflow<
  Name extends string,
  Payload extends Schema.Schema.Any,
  Success extends Schema.Schema.Any,
  Error extends Schema.Schema.All,
  Input = Schema.Schema.Type<Payload>
> {
  readonly [TypeId]: TypeId
  readonly name: Name
  readonly version: string | undefined
  readonly payloadSchema: Payload
  readonly successSchema: Success
  readonly errorSchema: Error

  /** The id of the run that this payload belongs to. Throws where the definition has no `idempotencyKey`. */
  readonly workflowId: (payload: Input) => string

  /** Starts a run, or attaches to the one of the same id, and awaits its outcome. */
  readonly execute: (payload: Input, options?: StartOptions) => Effect.Effect<
    Schema.Schema.Type<Success>,
    Schema.Schema.Type<Error> | RunStopped | RunCancelled | StartError,
    Engine | Schema.Schema.Context<Payload> | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
  >

  /**
   * Starts a run, or attaches to the one of the same id, and answers with its id once it is recorded. Inside a transaction of the
   * `SqlClient` that the store shares (`layerClient`) it is part of that transaction: the run begins after the commit.
   */
  readonly start: (payload: Input, options?: StartOptions) => Effect.Effect<
    string,
    StartError,
    Engine | Schema.Schema.Context<Payload>
  >

  /** How the run stands; none if there is no run of this id and workflow. */
  readonly poll: (workflowId: string) => Effect.Effect<
    Option.Option<RunState<Schema.Schema.Type<Success>, Schema.Schema.Type<Error>>>,
    StoreError,
    Engine | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
  >

  /** Awaits the outcome of a run. */
  readonly await: (workflowId: string) => Effect.Effect<
    Schema.Schema.Type<Success>,
    Schema.Schema.Type<Error> | RunStopped | RunCancelled | WorkflowNotFound | StoreError,
    Engine | Schema.Schema.Context<Success> | Schema.Schema.Context<Error>
  >

  /**
   * Lets a run go on. A STOPPED one runs the step that died again, or replays the mended code; of a FAILED one the failed steps
   * that nothing followed run again. A run that is alive or COMPLETED is left as it is.
   */
  readonly resume: (workflowId: string) => Effect.Effect<void, WorkflowNotFound | NothingToResume | StoreError, Engine>

  /**
   * Cancels a run, wherever it is: what it is doing is interrupted, its finalizers run, and what its steps have done is undone by their
   * compensations. Answers once that has been asked for durably; `await` tells when it is done. Of a run that has ended it changes
   * nothing. A STOPPED run goes on, to be undone.
   */
  readonly cancel: (workflowId: string) => Effect.Effect<void, WorkflowNotFound | StoreError, Engine>

  /**
   * Ends the present generation of the run and begins the next one with another payload and an empty history, under the same id. For
   * bodies that go on for long: a history should not. Only in the root branch of a run of this very definition. The finalizers of the
   * body run, compensations do not, and signals that were not taken wait for the next generation. It does not return.
   */
  readonly continueAsNew: (payload: Input) => Effect.Effect<never, never, CurrentRun | Schema.Schema.Context<Payload>>

  /** A layer that makes the engine drive runs of this workflow with this body. */
  readonly toLayer: <R>(
    body: (
      payload: Schema.Schema.Type<Payload>,
      workflowId: string
    ) => Effect.Effect<Schema.Schema.Type<Success>, Schema.Schema.Type<Error>, R>
  ) => Layer.Layer<
    never,
    never,
    | Engine
    | Exclude<R, Run | Scope.Scope>
    | Schema.Schema.Context<Payload>
    | Schema.Schema.Context<Success>
    | Schema.Schema.Context<Error>
  >
}

type AnySchema = Schema.Schema<unknown, unknown, unknown>

// ---------------------------------------------------------------------------------------------------------------------
// constructors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Defines a workflow. The options are those of Effect's own workflow package, and `version`.
 *
 * @param options.name - at most 256 bytes; recorded on each run, and how workers know which runs they can drive
 * @param options.payload - struct fields or a schema
 * @param options.success - the schema of the result; `Schema.Void` unless given
 * @param options.error - the schema of the typed error; only this error makes a run FAILED. `Schema.Never` unless given
 * @param options.idempotencyKey - derives the run's id, `name/key`, from the payload; without it each start is a run of its own
 * @param options.version - at most 256 bytes; recorded on each run, for people
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * const Greeting = Workflow.make({
 *   name: "greeting",
 *   payload: { name: Schema.String },
 *   success: Schema.String,
 *   idempotencyKey: ({ name }) => name
 * })
 *
 * export const GreetingLive = Greeting.toLayer(({ name }) =>
 *   Effect.succeed(`Hello, ${name}`).pipe(Step.durable("greet"))
 * )
 *
 * export const program = Greeting.execute({ name: "Ada" })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <
  const Name extends string,
  Payload extends Schema.Struct.Fields | Schema.Schema.Any,
  Success extends Schema.Schema.Any = typeof Schema.Void,
  Error extends Schema.Schema.All = typeof Schema.Never
>(
  options: {
    readonly name: Name
    readonly payload: Payload & EncodedCheck<PayloadSchema<Payload>>
    readonly success?: Success & EncodedCheck<Success>
    readonly error?: Error & EncodedCheck<Error>
    readonly idempotencyKey?: (payload: Schema.Schema.Type<PayloadSchema<Payload>>) => string
    readonly version?: string
  }
): Workflow<Name, PayloadSchema<Payload>, Success, Error, PayloadInput<Payload>> => {
  const name = options.name
  const problem = name.startsWith("~") ? "names that begin with \"~\" are kept for the engine" : nameProblem(name)
  if (problem !== null) {
    throw new TypeError(`The workflow name ${JSON.stringify(name)} cannot be used: ${problem}`)
  }
  const versionProblem = options.version === undefined ? null : nameProblem(options.version)
  if (versionProblem !== null) {
    throw new TypeError(
      `The version ${JSON.stringify(options.version)} of workflow ${
        JSON.stringify(name)
      } cannot be used: ${versionProblem}`
    )
  }
  const hasFields = !Schema.isSchema(options.payload)
  const payloadSchema: AnySchema = (hasFields
    ? Schema.Struct(options.payload as Schema.Struct.Fields)
    : options.payload) as AnySchema
  const outcome: OutcomeSchemas = {
    success: (options.success ?? Schema.Void) as AnySchema,
    error: (options.error ?? Schema.Never) as AnySchema
  }

  const definition = makeDefinition({ name, version: options.version ?? null, outcome, payloadSchema, hasFields })

  const derivedId = (payload: unknown): string | null =>
    options.idempotencyKey === undefined ? null : `${name}/${options.idempotencyKey(payload as never)}`

  const encodePayload = (input: unknown, maxBytes: number) =>
    Effect.mapError(
      definition.prepare(input, maxBytes),
      (error) =>
        error instanceof TooLarge ? new PayloadInvalid({ workflow: name, problem: `it is ${error.message}` }) : error
    )

  const prepare = Effect.fnUntraced(function*(
    input: unknown,
    { deadline, workflowId: given }: StartOptions,
    trace: string | null
  ) {
    const engine = yield* Engine
    const { fingerprint, text, value } = yield* encodePayload(input, engine.maxValueBytes)
    const workflowId = given ?? derivedId(value) ?? `${name}/${yield* freshId}`
    const problem = workflowIdProblem(workflowId)
    if (problem !== null) {
      return yield* new WorkflowIdInvalid({ workflowId, problem })
    }
    const at = deadline === undefined ? null : deadlineAt(deadline, yield* Effect.clock)
    if (Number.isNaN(at)) {
      return yield* new PayloadInvalid({ workflow: name, problem: "its deadline is not a valid date" })
    }
    const request: StartRequest = {
      workflowId,
      name,
      version: definition.version,
      payload: text,
      fingerprint,
      deadlineAt: at !== null && at <= endOfTime ? at : null,
      trace
    }
    return { engine, request }
  })

  const start = (input: unknown, startOptions: StartOptions = {}) =>
    inSpan(`${name}.start`, (trace) =>
      outsideBody(
        `Workflow ${JSON.stringify(name)} start`,
        Effect.flatMap(prepare(input, startOptions, trace), ({ engine, request }) => engine.start(request)),
        insteadOfStarting("Child.start")
      ))

  const execute = (input: unknown, startOptions: StartOptions = {}) =>
    inSpan(`${name}.execute`, (trace) =>
      outsideBody(
        `Workflow ${JSON.stringify(name)} execute`,
        Effect.flatMap(prepare(input, startOptions, trace), ({ engine, request }) =>
          Effect.flatMap(engine.start(request), (workflowId) =>
            Effect.flatMap(
              Effect.catchTag(engine.await(workflowId, name), "WorkflowNotFound", Effect.die),
              (end) => told(workflowId, end, outcome)
            ))),
        insteadOfStarting("Child.execute")
      ))

  const await_ = (workflowId: string) =>
    outsideBody(
      `Workflow ${JSON.stringify(name)} await`,
      Effect.flatMap(Engine, (engine) =>
        Effect.flatMap(engine.await(workflowId, name), (end) => told(workflowId, end, outcome)))
    )

  const self: Workflow<Name, Schema.Schema.Any, Schema.Schema.Any, Schema.Schema.All, unknown> & HasInternals = {
    [TypeId]: TypeId,
    [Internals]: definition,
    name,
    version: options.version,
    payloadSchema: payloadSchema as Schema.Schema.Any,
    successSchema: outcome.success as Schema.Schema.Any,
    errorSchema: outcome.error as Schema.Schema.All,
    workflowId: (input) => {
      const id = derivedId(definition.construct(input))
      if (id === null) {
        throw new TypeError(
          `Workflow ${JSON.stringify(name)} has no idempotencyKey, so an id cannot be derived from a payload`
        )
      }
      return id
    },
    start,
    execute,
    await: await_,
    poll: (workflowId) =>
      outsideBody(
        `Workflow ${JSON.stringify(name)} poll`,
        Effect.flatMap(Engine, (engine) =>
          Effect.flatMap(
            engine.poll(workflowId, name),
            Option.match({
              onNone: () => Effect.succeedNone,
              onSome: (row) => Effect.asSome(stateOf(row, outcome))
            })
          ))
      ),
    resume: (workflowId) =>
      outsideBody(
        `Workflow ${JSON.stringify(name)} resume`,
        Effect.flatMap(Engine, (engine) => engine.resume(workflowId, name))
      ),
    cancel: (workflowId) =>
      outsideBody(
        `Workflow ${JSON.stringify(name)} cancel`,
        Effect.flatMap(Engine, (engine) => engine.cancel(workflowId, name))
      ),
    continueAsNew: (input) =>
      continueAsNew(
        `Workflow ${JSON.stringify(name)} continueAsNew`,
        name,
        (maxBytes) => Effect.map(encodePayload(input, maxBytes), ({ text }) => text)
      ),
    toLayer: (body) =>
      Layer.scopedDiscard(Effect.flatMap(Engine, (engine) =>
        engine.register({
          name,
          version: definition.version,
          body: (payload, workflowId) => body(payload as never, workflowId),
          payloadSchema,
          outcome
        }))) as never
  }
  return self as never
}

// ---------------------------------------------------------------------------------------------------------------------
// scripts
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Makes any effect with steps resumable, without a definition: run it again under the same id, and it goes on where it
 * stopped.
 *
 * It runs in a fiber of the caller's, with the caller's context; interrupting the call gives the run up until the next call.
 * While the run lives in another process, the call waits for its outcome, and takes over if that process dies. A COMPLETED
 * run answers with its record. A FAILED or STOPPED one goes on; if no step of a FAILED one may run again, the call answers with
 * the recorded failure.
 *
 * @param workflowId - at most 256 bytes, not beginning with `~`
 * @param options - `success` and `error` schemas for the outcome, by the rules of `Step.durable`
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * const importFile = (name: string) => Effect.succeed(name.length)
 *
 * // Killed at the 27th file, the next call goes on with the 27th.
 * export const program = Workflow.run(
 *   "import-2026-11-23",
 *   Effect.forEach(
 *     Array.from({ length: 40 }, (_, i) => `part-${i}.csv`),
 *     (file) => importFile(file).pipe(Step.durable(`import ${file}`))
 *   )
 * )
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const run = <A, E, R, const O extends OutcomeOptions = {}>(
  workflowId: string,
  effect: Effect.Effect<A, E, R> & SelfCheck<A, E, O>,
  options?: O & OptionsCheck<O, keyof OutcomeOptions>
): Effect.Effect<
  SuccessOut<A, O>,
  ErrorOut<E, O> | RunStopped | WorkflowIdInvalid | WorkflowIdConflict | StoreError,
  Engine | Exclude<R, Run> | SchemaR<O>
> => {
  const outcome: OutcomeSchemas = {
    success: (options?.success as AnySchema | undefined) ?? null,
    error: (options?.error as AnySchema | undefined) ?? null
  }
  const problem = workflowIdProblem(workflowId)
  return outsideBody(
    "Workflow.run",
    problem === null
      ? Effect.flatMap(Engine, (engine) =>
        Effect.flatMap(
          engine.script({ workflowId, body: effect, outcome }),
          // Nobody can ask for that yet.
          (end) => end.status === "CANCELLED" ? Effect.die(cancelled(workflowId, end)) : told(workflowId, end, outcome)
        ))
      : Effect.fail(new WorkflowIdInvalid({ workflowId, problem }))
  ) as never
}

// ---------------------------------------------------------------------------------------------------------------------
// in a body
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Sleeps until a date, through any number of restarts; not at all if it is past. `Effect.sleep`, `Effect.delay` and the delays of
 * schedules are as durable in a body; this one takes a date.
 *
 * A date that is not valid, and a call inside a step, stop the run.
 *
 * @param when - the date, by the clock of the process that drives the run
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * export const greetings = (birthday: Date) =>
 *   Workflow.sleepUntil(birthday).pipe(
 *     Effect.zipRight(Effect.log("Happy birthday").pipe(Step.durable("congratulate")))
 *   )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const sleepUntil = (when: Date | DateTime.DateTime): Effect.Effect<void, never, CurrentRun> =>
  durableSleep("Workflow.sleepUntil", DateTime.isDateTime(when) ? DateTime.toEpochMillis(when) : when.getTime())

/**
 * A UUID of version 4 that is the same in every replay. It comes from the `Random` of the body, so who knows the id of the run
 * can compute it: a secret comes from a step.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * declare const createOrder: (id: string) => Effect.Effect<void>
 *
 * export const order = Workflow.uuid.pipe(
 *   Effect.flatMap((id) => createOrder(id).pipe(Step.durable("create-order")))
 * )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const uuid: Effect.Effect<string, never, CurrentRun> = randomUuid

/**
 * Undoes an effect of the body if the run fails with its typed error or is cancelled: the way of several steps together, of a child, or
 * of what is no step. For one step, its option `compensate` does the same.
 *
 * What undoes runs as a step of its own, after those of everything later. It must not fail: let it retry what may fail, and
 * `Effect.orDie` what then remains, which stops the run.
 *
 * @param compensate - given the value of the effect, and why it is undone
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * export const trip = Effect.all([
 *   Effect.succeed("flight 12").pipe(Step.durable("book-flight")),
 *   Effect.succeed("room 7").pipe(Step.durable("book-room"))
 * ]).pipe(
 *   Workflow.withCompensation(([flight, room]) => Effect.log(`gave back ${flight} and ${room}`))
 * )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const withCompensation: {
  <A, R2>(
    compensate: (value: A, cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, R2>
  ): <E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E, R | Exclude<R2, CurrentStep | Scope.Scope> | CurrentRun>
  <A, E, R, R2>(
    self: Effect.Effect<A, E, R>,
    compensate: (value: A, cause: Cause.Cause<unknown>) => Effect.Effect<unknown, never, R2>
  ): Effect.Effect<A, E, R | Exclude<R2, CurrentStep | Scope.Scope> | CurrentRun>
} = dual(2, compensated)

/**
 * Whether a run goes by the new code, so that code may change while runs of it are under way: false where the run has recorded
 * another operation at this place or behind it, by code without this call; else true, and a marker is recorded, which takes a
 * sequence. The answer is that of the first call with this id in the run, wherever the others stand.
 *
 * The first call waits for the run to come to rest, as a step does. Where branches share state, call it before them: within
 * them it may change their order. An id that is not valid, and a call inside a step, stop the run.
 *
 * @param id - names the change: at most 256 bytes, and not used for another change of this workflow
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * const byLetter = Effect.log("printed and posted").pipe(Step.durable("post-letter"))
 * const byEmail = Effect.log("sent").pipe(Step.durable("send-email"))
 *
 * // Runs that have posted the letter, or are about to, stay with it; the others send an e-mail.
 * export const welcome = Workflow.patched("welcome-by-email").pipe(
 *   Effect.flatMap((isNew) => isNew ? byEmail : byLetter)
 * )
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const patched = (id: string): Effect.Effect<boolean, never, CurrentRun> => isPatched(id)

/**
 * Takes the place of {@link patched} once no run is left that goes by the old code: where the marker is recorded it takes its
 * sequence, elsewhere it takes none and records nothing. When no run with the marker is left either, it can go.
 *
 * Only the first call with this id in the run looks, and none does after `patched` of this id; after it, `patched` of this id is
 * true. An id that is not valid, and a call inside a step, stop the run.
 *
 * @param id - the id that `patched` was called with
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Step, Workflow } from "perdure"
 *
 * const byEmail = Effect.log("sent").pipe(Step.durable("send-email"))
 *
 * export const welcome = Workflow.patchDone("welcome-by-email").pipe(Effect.zipRight(byEmail))
 * ```
 *
 * @since 0.1.0
 * @category body
 */
export const patchDone = (id: string): Effect.Effect<void, never, CurrentRun> => donePatching(id)

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

/** When a deadline is, in epoch milliseconds. */
const deadlineAt = (deadline: NonNullable<StartOptions["deadline"]>, clock: Clock.Clock): number => {
  if (deadline instanceof Date) {
    return deadline.getTime()
  }
  return DateTime.isDateTime(deadline)
    ? DateTime.toEpochMillis(deadline)
    : wholeMillis(clock) + Math.ceil(Duration.toMillis(deadline))
}

/** Dates end here; a later deadline never comes. */
const endOfTime = 8_640_000_000_000_000

const insteadOfStarting = (child: string) =>
  `it was called in the body, where a replay would call it again. Use ${child}, or wrap it in Step.durable`

const undecodable = (workflowId: string) => (detail: string) =>
  new RecordUndecodable({ workflowId, record: "outcome", detail })

const cancelled = (workflowId: string, { reason }: Pick<RunCancelled, "reason">) =>
  new RunCancelled({ workflowId, reason })

/** What a run has ended with, as the caller gets it. */
const told = (workflowId: string, end: RunEnd, schemas: OutcomeSchemas): Effect.Effect<unknown, unknown, unknown> => {
  switch (end.status) {
    case "STOPPED":
      return Effect.fail(new RunStopped({ workflowId, reason: end.reason }))
    case "CANCELLED":
      return Effect.fail(cancelled(workflowId, end))
    case "COMPLETED":
      return stopIf(workflowId, decode(end.outcome, schemas.success))
    case "FAILED":
      return Effect.flatMap(stopIf(workflowId, decode(end.outcome, schemas.error)), Effect.fail)
  }
}

const stopIf = <A>(workflowId: string, decoded: Effect.Effect<A, string, unknown>) =>
  Effect.mapError(decoded, (detail) => new RunStopped({ workflowId, reason: undecodable(workflowId)(detail) }))

const stateOf = (row: RunRow, schemas: OutcomeSchemas): Effect.Effect<RunState<unknown, unknown>, never, unknown> => {
  const decoded = <S extends RunState<unknown, unknown>>(schema: AnySchema | null, state: (value: unknown) => S) =>
    Effect.match(decode(row.outcome, schema), {
      onFailure: (detail): RunState<unknown, unknown> => ({
        _tag: "STOPPED",
        reason: undecodable(row.workflowId)(detail)
      }),
      onSuccess: state
    })
  switch (row.status) {
    case "COMPLETED":
      return decoded(schemas.success, (value) => ({ _tag: "COMPLETED", value }))
    case "FAILED":
      return decoded(schemas.error, (error) => ({ _tag: "FAILED", error }))
    case "STOPPED":
      return Effect.succeed({ _tag: "STOPPED", reason: stopReason(row) })
    case "CANCELLED":
      return Effect.succeed({ _tag: "CANCELLED", reason: cancelReason(row) })
    default:
      return Effect.succeed({ _tag: row.status })
  }
}
