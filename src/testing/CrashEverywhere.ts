/**
 * Proves a workflow crash-proof: runs it again and again, with a crash at another place each time, and checks what comes out.
 *
 * @since 0.1.0
 */
import { inspect } from "node:util"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Engine from "../Engine.js"
import type { PayloadInvalid, StopReason, WorkflowIdInvalid } from "../Errors.js"
import type { Attendant } from "../internal/attendant.js"
import { nobody } from "../internal/attendant.js"
import { FaultPoints } from "../internal/faultPoints.js"
import { readAll } from "../internal/history.js"
import { canonical } from "../internal/json.js"
import { Observer } from "../internal/observer.js"
import { CurrentStep } from "../internal/run.js"
import { addressOf } from "../internal/sequencer.js"
import * as MemoryStepStore from "../MemoryStepStore.js"
import type { Page, RunRow, RunUpdate, StepRow } from "../StepStore.js"
import { StepStore } from "../StepStore.js"
import type { Workflow } from "../Workflow.js"
import { type Boundary, endWords, Lifeline, operationWords } from "./internal/boundary.js"
import { HopClock } from "./internal/hopClock.js"
import { allPages, passUntil, type Stage, type Store, withEngine } from "./internal/life.js"
import { type Recorded, type Replayed, replayRecorded } from "./internal/replaying.js"
import { Unrepeatable } from "./internal/unrepeatable.js"

// ---------------------------------------------------------------------------------------------------------------------
// models
// ---------------------------------------------------------------------------------------------------------------------

/**
 * How a workflow is crashed.
 *
 * @since 0.1.0
 * @category models
 */
export interface CrashOptions<E = never, R = Engine.Engine, E2 = never, R2 = Engine.Engine> {
  /**
   * The implementation: what `toLayer` has made, merged with the layers of its children if it has any, with the services that their steps
   * use provided or not. It is built anew for each life, as by a process that starts.
   */
  readonly layer: Layer.Layer<never, E, R>
  /** The id of the run. Unless given, the one derived from the idempotency key, or the name of the workflow. */
  readonly workflowId?: string
  /**
   * What somebody does while the run goes on: sends it signals, answers its tokens, cancels it. Begins anew with each crash that is
   * tried, once the run has been started, and survives the crash. `Effect.sleep` in it takes no time.
   */
  readonly during?: (workflowId: string) => Effect.Effect<unknown, E2, R2>
  /**
   * Reads what the workflow has done to the world of the test: the letters in a mailbox that is none, the rows of a table. A replay
   * must not change it.
   */
  readonly observe?: () => unknown
  /**
   * How often the effect of a step may begin, by step id, counting all attempts at one step of a run. Unless given, once, once more for
   * each failed attempt that its `retry` has followed, and once more if the crash came before its outcome was recorded.
   */
  readonly effects?: Readonly<Record<string, number>>
  /**
   * Whether the run has to end as it does without a crash. `true` unless given; `false` for a workflow whose outcome depends on a race,
   * or on the order in which parallel steps end.
   */
  readonly sameOutcome?: boolean
  /** Whether the body may wait for what no step contains, such as a promise. `false` unless given. */
  readonly waitsOutside?: boolean
  /** Options of the engine. */
  readonly engine?: Omit<Engine.Options, "housekeeping" | "slowPoll" | "heartbeat" | "missedBeats">
  /**
   * For how long, in the machine's time, work of which nothing is seen is waited for before time passes it by. 1 second unless given.
   */
  readonly patience?: Duration.DurationInput
}

/**
 * What has been tried.
 *
 * @since 0.1.0
 * @category models
 */
export interface CrashReport {
  /** How many crashes there were, each at another place, in a run of its own. */
  readonly crashes: number
  /** How the run ends, and its result or its error as JSON text. */
  readonly status: "COMPLETED" | "FAILED" | "CANCELLED"
  readonly outcome: string | null
  /** How often the effects of each step began in the run without a crash, by step id. */
  readonly effects: Readonly<Record<string, number>>
}

// ---------------------------------------------------------------------------------------------------------------------
// errors
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The workflow does not survive a crash, or a replay, as it should. The message says at which place of its life, why, and what to
 * change.
 *
 * @since 0.1.0
 * @category errors
 */
export class NotCrashProof extends Schema.TaggedError<NotCrashProof>()("NotCrashProof", {
  workflow: Schema.String,
  /**
   * `stopped`: the run cannot go on; `stuck`: it waits for ever; `lost`: an acknowledged record is gone; `replay`: a replay of the
   * history differs; `effects`: an effect began too often; `outcome`: the run ends otherwise; `outside`: the body waits for, or does,
   * what no step contains.
   */
  problem: Schema.Literal("stopped", "stuck", "lost", "replay", "effects", "outcome", "outside"),
  /** Where the crash came, in words; that there was none, if the problem shows without one. */
  boundary: Schema.String,
  detail: Schema.String,
  remedy: Schema.String
}) {
  override get message() {
    return `Workflow ${
      JSON.stringify(this.workflow)
    } is not crash-proof: ${this.boundary}, ${this.detail}\n${this.remedy}`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// testing
// ---------------------------------------------------------------------------------------------------------------------

type Ended = Extract<Replayed, { readonly _tag: "Ended" }>

type During = Effect.Effect.Success<OneTrial["during"]>

/** What one trial has come to. */
interface Trial {
  /** Where the crash came, in words; `null` if the run has ended before. */
  readonly reached: string | null
  readonly end: Ended
  readonly effects: ReadonlyMap<string, Effects>
}

/** The effects of one step of a run. */
interface Effects {
  readonly stepId: string
  readonly begun: number
}

/**
 * Runs a workflow once undisturbed, and then once for every place at which its process can die: before and after each commit to the
 * store, and at the start of each step. After the crash another process takes the run up. Each time it checks that
 *
 * - what was acknowledged is recorded, and the run ends as it does without a crash;
 * - a replay of the final history gives the same result, and begins nothing;
 * - no effect of a step begins more often than once, and once more where the crash cut it off.
 *
 * In each life `Date` and `Math.random` answer the body with other values, so that what depends on them shows; the steps get the true
 * ones. All of it happens in a store in memory and in a time of its own, in which a month takes a millisecond, so it needs no test clock
 * and any test runner will do.
 *
 * What it cannot see: an effect that the body has outside its steps at once, without waiting. Give `observe` what the fakes of the
 * test have noted, and that shows, too. A value read from `Date` that goes into a step and nowhere else shows in its `fingerprint` only.
 *
 * @param workflow - the definition
 * @param payload - what the run is started with
 * @param options - see {@link CrashOptions}
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Signal, Step, Workflow } from "perdure"
 * import { crashEverywhere } from "perdure/testing"
 *
 * const Approval = Signal.make("approval", Schema.String)
 * const Order = Workflow.make({ name: "order", payload: { id: Schema.String }, success: Schema.String })
 *
 * const OrderLive = Order.toLayer(({ id }) =>
 *   Effect.gen(function*() {
 *     yield* Effect.succeed(`reserve ${id}`).pipe(Step.durable("reserve"))
 *     const by = yield* Signal.next(Approval)
 *     yield* Effect.sleep("1 day")
 *     return yield* Effect.succeed(`${id} approved by ${by}`).pipe(Step.durable("ship"))
 *   })
 * )
 *
 * await Effect.runPromise(crashEverywhere(Order, { id: "7" }, {
 *   layer: OrderLive,
 *   during: (workflowId) => Signal.send(Approval, { workflowId, value: "Ada" })
 * }))
 * ```
 *
 * @since 0.1.0
 * @category testing
 */
export const crashEverywhere = <
  Name extends string,
  Payload extends Schema.Schema.Any,
  Success extends Schema.Schema.Any,
  Error extends Schema.Schema.All,
  Input,
  E,
  R,
  E2 = never,
  R2 = never
>(
  workflow: Workflow<Name, Payload, Success, Error, Input>,
  payload: Input,
  options: CrashOptions<E, R, E2, R2>
): Effect.Effect<
  CrashReport,
  NotCrashProof | WorkflowIdInvalid | PayloadInvalid | E | E2,
  Exclude<R | R2, Engine.Engine> | Schema.Schema.Context<Payload>
> =>
  Effect.gen(function*() {
    const crashing = new Crashing(workflow, payload, options as CrashOptions<unknown, unknown, unknown, unknown>)
    const undisturbed = yield* crashing.trial(null, null)
    let crashes = 0
    for (const at of ["before-commit", "after-commit", "step-started"] as const) {
      for (let nth = 1, more = true; more; nth++) {
        const { reached } = yield* crashing.trial({ at, nth }, undisturbed.end)
        more = reached !== null
        crashes += more ? 1 : 0
      }
    }
    const effects: Record<string, number> = {}
    for (const { begun, stepId } of undisturbed.effects.values()) {
      effects[stepId] = (effects[stepId] ?? 0) + begun
    }
    const { outcome, status } = undisturbed.end
    return { crashes, status, outcome, effects }
  }) as never

// ---------------------------------------------------------------------------------------------------------------------
// helpers
// ---------------------------------------------------------------------------------------------------------------------

type AnyOptions = CrashOptions<unknown, unknown, unknown, unknown>

/** A definition whose types do not matter. */
interface AnyWorkflow {
  readonly name: string
  readonly workflowId: (payload: never) => string
  readonly start: (payload: never, options: { readonly workflowId: string }) => Effect.Effect<string, unknown, unknown>
  readonly await: (workflowId: string) => Effect.Effect<unknown, unknown, unknown>
}

const withoutCrash = "even without a crash"

const shown = (value: unknown) =>
  inspect(value, { depth: null, maxArrayLength: null, maxStringLength: null, sorted: true, breakLength: 120 })

const sameEnd = (one: Ended, other: Ended) =>
  one.status === other.status && canonical(one.outcome) === canonical(other.outcome)

const keyOf = (workflowId: string, stepKey: string) => JSON.stringify([workflowId, stepKey])

const genericRemedy =
  "Read what changes (the time, a random number, a file) inside a step, or from Clock, DateTime and Random of Effect, " +
  "which a replay repeats"

class Crashing {
  private readonly workflow: AnyWorkflow
  private readonly payload: never
  private readonly options: AnyOptions
  private readonly workflowId: string
  private readonly patience: number

  constructor(workflow: unknown, payload: unknown, options: AnyOptions) {
    this.workflow = workflow as AnyWorkflow
    this.payload = payload as never
    this.options = options
    this.workflowId = options.workflowId ??
      Option.getOrElse(
        Option.liftThrowable(() => this.workflow.workflowId(this.payload))(),
        () => `${this.workflow.name}/crash-everywhere`
      )
    this.patience = Duration.toMillis(options.patience ?? "1 second")
  }

  /** Lets the run live, with a crash or without, until it has ended, and checks it. */
  trial(boundary: Boundary | null, undisturbed: Ended | null): Effect.Effect<Trial, unknown, unknown> {
    return Effect.flatMap(
      Effect.provide(StepStore, MemoryStepStore.layer),
      (store) => {
        const clock = new HopClock(0)
        return Effect.withClock(new OneTrial(this, store, clock, boundary, undisturbed).run, clock)
      }
    )
  }

  get parts() {
    const { options, patience, payload, workflow, workflowId } = this
    return { options, patience, payload, workflow, workflowId }
  }
}

/** One run, and what is known of it from outside. */
class OneTrial {
  private readonly parts: Crashing["parts"]
  private readonly real: Store
  private readonly stage: Stage
  private readonly boundary: Boundary | null
  private readonly undisturbed: Ended | null

  private readonly unrepeatable = new Unrepeatable()
  private readonly workers: Array<string> = []
  /** Final rows whose commit was acknowledged. */
  private readonly acknowledged = new Map<string, { readonly workflowId: string; readonly row: StepRow }>()
  /** Final rows that are on disk. */
  private readonly recorded = new Set<string>()
  /** Those that were when the crash came, if it has come. */
  private recordedBefore: ReadonlySet<string> | null = null
  /** The payloads of generations, which a store keeps of the latest only. */
  private readonly payloads = new Map<string, string | null>()
  private readonly effects = new Map<
    string,
    { stepId: string; workflowId: string; stepKey: string; begun: number; after: number }
  >()
  private reached: string | null = null

  constructor(crashing: Crashing, real: Store, clock: HopClock, boundary: Boundary | null, undisturbed: Ended | null) {
    this.parts = crashing.parts
    this.real = real
    this.boundary = boundary
    this.undisturbed = undisturbed
    this.stage = { clock, observer: new Observer(clock), patience: this.parts.patience }
  }

  readonly run: Effect.Effect<Trial, unknown, unknown> = Effect.suspend(() => this.lived)

  /** Whoever is outside has a client of their own, which no crash reaches. */
  private get lived(): Effect.Effect<Trial, unknown, unknown> {
    return Effect.flatMap(FaultPoints, (faults) =>
      withEngine(
        this.stage,
        {
          store: this.stage.observer.store(this.real),
          attendant: { ...nobody, clock: this.stage.observer.clock },
          faults,
          engine: {},
          layer: Layer.empty
        },
        this.livesAndIsChecked
      ))
  }

  private get livesAndIsChecked() {
    return Effect.gen(this, function*() {
      const during = yield* this.during
      const first = this.boundary === null ? null : yield* this.life(this.boundary, during)
      if (first === "Crashed") {
        this.recordedBefore = new Set(this.recorded)
      }
      if (first !== "Ended") {
        yield* this.life(null, during)
      }
      yield* during.stop
      const end = yield* this.end
      yield* this.checkAcknowledged
      yield* this.checkEffects
      yield* this.checkEnd(end)
      yield* this.checkWakes
      yield* this.checkReplays
      return { reached: this.reached, end, effects: this.effects }
    })
  }

  // -- lives

  /** What is done from outside, once the run has been started. */
  private get during() {
    return Effect.gen(this, function*() {
      const { options: { during }, workflowId } = this.parts
      const started = yield* Deferred.make<void>()
      const failed = yield* Deferred.make<never, unknown>()
      const work = during === undefined
        ? Effect.void
        : Effect.zipRight(Deferred.await(started), Effect.suspend(() => during(workflowId)))
      const fiber = yield* Effect.forkDaemon(Effect.catchAllCause(work, (cause) => Deferred.failCause(failed, cause)))
      const check = Effect.whenEffect(Deferred.await(failed), Deferred.isDone(failed))
      return {
        begin: Deferred.succeed(started, undefined),
        failed,
        /** Fails if it has failed. */
        check,
        stop: Effect.zipRight(Fiber.interrupt(fiber), check)
      }
    })
  }

  /** A process: it starts the run, or takes it up, until the run has ended or the process crashes. */
  private life(boundary: Boundary | null, during: During) {
    return Effect.gen(this, function*() {
      const { options, payload, workflow, workflowId } = this.parts
      const { observer } = this.stage
      this.unrepeatable.begin()
      const happened = yield* Deferred.make<unknown>()
      const line = new Lifeline(this.real, boundary, happened, {
        workers: this.workers,
        onCommit: (batch, told) => this.committed(batch, told)
      })
      const attendant: Attendant = {
        clock: observer.clock,
        step: observer.step,
        mayBegin: observer.mayBegin,
        attempt: (self) => Effect.zipRight(this.begins, self),
        body: (self, sequencer) => {
          this.unrepeatable.watch(sequencer)
          return observer.body(self, sequencer)
        }
      }
      const use = Effect.gen(this, function*() {
        const running = workflow.start(payload, { workflowId }).pipe(
          Effect.zipRight(during.begin),
          Effect.zipRight(workflow.await(workflowId)),
          Effect.exit,
          Effect.tap(() => Deferred.succeed(happened, undefined))
        )
        const fiber = yield* Effect.forkDaemon(running)
        const fallen = yield* Effect.forkDaemon(
          Effect.intoDeferred(Effect.exit(Deferred.await(during.failed)), happened)
        )
        const passed = yield* passUntil(this.stage, happened)
        yield* Fiber.interrupt(fallen)
        const end = yield* Fiber.poll(fiber)
        yield* Fiber.interruptFork(fiber)
        return {
          passed,
          end: Option.flatMap(end, Exit.match({ onFailure: () => Option.none(), onSuccess: Option.some }))
        }
      })
      const { end, passed } = yield* withEngine(
        this.stage,
        {
          store: observer.store(line.store),
          attendant,
          faults: line.faults,
          engine: options.engine ?? {},
          layer: options.layer
        },
        Effect.ensuring(
          use,
          Effect.sync(() => {
            this.unrepeatable.over = true
          })
        )
      )
      this.unrepeatable.over = false
      if (line.reached !== null) {
        this.reached = line.reached
        return "Crashed" as const
      }
      if (passed !== "Happened") {
        return yield* this.stuck(passed)
      }
      yield* during.check
      const exit = Option.getOrThrow(end)
      const error: unknown = Exit.isFailure(exit) ? Cause.squash(exit.cause) : null
      if (isStopped(error)) {
        return yield* this.stopped(error.reason)
      }
      if (Option.isNone(yield* Effect.orDie(this.real.run(workflowId)))) {
        // It could not even be started.
        return yield* exit
      }
      return "Ended" as const
    })
  }

  /** An effect of a step begins. */
  private readonly begins = Effect.flatMap(CurrentStep, ({ stepId, stepKey, workflowId }) =>
    Effect.sync(() => {
      const key = keyOf(workflowId, stepKey)
      const known = this.effects.get(key) ?? { stepId, workflowId, stepKey, begun: 0, after: 0 }
      this.effects.set(key, {
        ...known,
        begun: known.begun + 1,
        after: known.after + (this.recordedBefore === null ? 0 : 1)
      })
    }))

  private committed(batch: ReadonlyArray<RunUpdate>, told: boolean) {
    for (const { generation, insert, children, next, steps, workflowId } of batch) {
      if (insert !== null) {
        this.payloads.set(`${generation}:${workflowId}`, insert.payload)
      }
      for (const child of children) {
        this.payloads.set(`0:${child.workflowId}`, child.insert.payload)
      }
      if (next !== null) {
        this.payloads.set(`${generation + 1}:${workflowId}`, next.payload)
      }
      for (const row of steps.filter((row) => row.final)) {
        const key = keyOf(workflowId, row.stepKey)
        this.recorded.add(key)
        if (told) {
          this.acknowledged.set(key, { workflowId, row })
        }
      }
    }
  }

  // -- what is wrong

  private problem(problem: NotCrashProof["problem"], detail: string, remedy: string, boundary = this.reached) {
    return new NotCrashProof({
      workflow: this.parts.workflow.name,
      problem,
      boundary: boundary ?? withoutCrash,
      detail,
      remedy
    })
  }

  /** What the body has read and no replay can repeat, and what to do about it. */
  private get reads(): string | null {
    const reads = [...this.unrepeatable.reads]
    return reads.length === 0
      ? null
      : `The body calls ${reads.join(" and ")}, which answers differently in each life. ` +
        "For the time use DateTime.now or Clock of Effect; for chance, Random of Effect or Workflow.uuid; or read it inside a step"
  }

  private stopped(reason: StopReason) {
    return this.problem(
      "stopped",
      `the run stops: ${reason.message}`,
      this.reads ?? (reason._tag === "NonDeterminismError" ? genericRemedy : "Mend what it names")
    )
  }

  private stuck(passed: "Stuck" | "Endless") {
    return Effect.gen(this, function*() {
      const { name } = this.parts.workflow
      if (passed === "Endless") {
        return yield* this.problem("stuck", "the run goes on and on", "Let `during` cancel it, or send it what ends it")
      }
      const row = Option.getOrNull(yield* Effect.orDie(this.real.run(this.parts.workflowId)))
      if (row === null || row.epoch === 0) {
        return yield* this.problem(
          "stuck",
          "nobody takes the run up",
          `Give \`layer\` what toLayer of workflow ${JSON.stringify(name)} has made`
        )
      }
      const unfinished = yield* Effect.orDie(this.real.unfinished(row.workflowId, row.generation))
      const waits = unfinished.filter((row) => row.status === "IN_PROGRESS").map((row) =>
        `${operationWords({ kind: row.kind, id: row.stepId })} (${addressOf(row.stepKey)})`
      )
      return yield* this.problem(
        "stuck",
        `the run waits for ever${waits.length === 0 ? "" : `: under way is ${waits.join(", ")}`}`,
        "Let `during` send what it waits for, and let `layer` hold the layers of its children"
      )
    })
  }

  // -- checks

  /** How the run has ended. */
  private get end(): Effect.Effect<Ended, unknown> {
    return Effect.flatMap(Effect.flatten(this.real.run(this.parts.workflowId)), endedAs)
  }

  private readonly checkAcknowledged = Effect.suspend(() =>
    Effect.forEach(
      this.acknowledged.values(),
      ({ row, workflowId }) =>
        Effect.flatMap(this.historyOf(workflowId, generationOf(row.stepKey, workflowId)), (rows) => {
          const kept = rows.find(({ stepKey }) => stepKey === row.stepKey)
          return kept !== undefined && kept.output === row.output && kept.error === row.error &&
              kept.position === row.position
            ? Effect.void
            : this.problem(
              "lost",
              `the outcome of ${
                operationWords({ kind: row.kind, id: row.stepId })
              } (${row.stepKey}), which was acknowledged, is gone or another one`,
              "This is a defect of Perdure or of the store: please report it"
            )
        }),
      { discard: true }
    )
  )

  private checkEnd(end: Ended) {
    const { options: { sameOutcome = true } } = this.parts
    return this.undisturbed === null || !sameOutcome || sameEnd(end, this.undisturbed) ? Effect.void : this.problem(
      "outcome",
      `the run ends as ${endWords(end)}, and without it as ${endWords(this.undisturbed)}`,
      `${
        this.reads ?? genericRemedy
      }. If the outcome may depend on a race or on the order in which steps end, say sameOutcome: false`
    )
  }

  private readonly checkEffects = Effect.suspend(() =>
    Effect.forEach(
      this.effects,
      ([key, { after, begun, stepId, stepKey, workflowId }]) =>
        Effect.gen(this, function*() {
          const limit = this.parts.options.effects?.[stepId]
          const attempts = yield* this.real.attempts(workflowId, generationOf(stepKey, workflowId))
          const retried = attempts.filter((row) => row.stepKey === stepKey && row.dueAt !== null).length
          const cutOff = this.recordedBefore !== null && !this.recordedBefore.has(key)
          const allowed = limit ?? 1 + retried + (cutOff ? 1 : 0)
          const repeated = this.recordedBefore?.has(key) === true && after > 0
          if (begun > allowed || repeated) {
            return yield* this.problem(
              "effects",
              `the effect of step ${JSON.stringify(stepId)} (${stepKey}) has begun ${begun} times, ` +
                (repeated ? "although its outcome had been recorded" : `and ${allowed} are allowed`),
              "Between an effect and its record a crash can always come: give the step onInterrupted: \"fail\" if it must not begin " +
                "twice, or hand Step.idempotencyKey to the service, and allow it more in `effects`"
            )
          }
        }),
      { discard: true }
    )
  )

  private readonly checkWakes = Effect.suspend(() => {
    const wakes = [...this.unrepeatable.wakes]
    return wakes.length === 0 || this.parts.options.waitsOutside === true ? Effect.void : this.problem(
      "outside",
      `the body waits for something that no step contains, ${wakes.join(", and ")}: a promise, a timer, a server`,
      "A replay does it again. Wrap it in Step.durable; if it only reads what never changes, say waitsOutside: true"
    )
  })

  /** Every run in the store, the children too, is replayed. */
  private readonly checkReplays = Effect.gen(this, function*() {
    const runs = yield* allPages((page: Page<string>) => this.real.runs(page), (row) => row.workflowId)
    for (const { generation, workflowId } of runs) {
      const row = yield* Effect.flatten(this.real.run(workflowId))
      for (let past = 0; past <= generation; past++) {
        yield* this.checkReplay(row, past)
      }
    }
  })

  private checkReplay(row: RunRow, generation: number) {
    return Effect.gen(this, function*() {
      const { observe } = this.parts.options
      const { workflowId } = row
      const before = observe === undefined ? "" : shown(observe())
      this.unrepeatable.begin()
      const recorded: Recorded = {
        namespace: this.real.namespace,
        workflowId,
        workflow: row.name,
        version: row.version,
        generation,
        begunAt: row.begunAt,
        payload: this.payloads.get(`${generation}:${workflowId}`)!,
        fingerprint: row.fingerprint,
        history: yield* this.historyOf(workflowId, generation),
        unfinished: yield* this.real.unfinished(workflowId, generation),
        attempts: yield* this.real.attempts(workflowId, generation)
      }
      const replayed = yield* replayRecorded(recorded, {
        layer: this.parts.options.layer,
        patience: this.parts.patience,
        unrepeatable: this.unrepeatable
      })
      const difference = yield* this.differenceOf(replayed, row, generation)
      if (difference !== null) {
        return yield* this.problem(
          "replay",
          `a replay of the history of run ${JSON.stringify(workflowId)} differs: ${difference}`,
          this.reads ?? genericRemedy
        )
      }
      const after = observe === undefined ? "" : shown(observe())
      if (before !== after) {
        return yield* this.problem(
          "outside",
          `a replay of run ${
            JSON.stringify(workflowId)
          } has an effect, although no step of it ran: what is observed changes\nfrom ${before}\nto ${after}`,
          "The body does something outside its steps, and each replay does it again: wrap that in Step.durable"
        )
      }
    })
  }

  private differenceOf(replayed: Replayed, row: RunRow, generation: number): Effect.Effect<string | null> {
    const next = this.payloads.get(`${generation + 1}:${row.workflowId}`) ?? null
    return Effect.sync(() => {
      switch (replayed._tag) {
        case "Stopped":
          return `it stops: ${replayed.reason.message}`
        case "Began":
          return `it begins ${
            operationWords(replayed.operation)
          } (${replayed.operation.address}), of which nothing is recorded`
        case "Stuck":
          return "it waits for ever"
        case "Continued":
          return generation < row.generation && canonical(next) === canonical(replayed.payload)
            ? null
            : `it goes on in another generation, with ${replayed.payload}`
        case "Ended": {
          const { outcome, status } = row
          return generation === row.generation && replayed.status === status &&
              canonical(outcome) === canonical(replayed.outcome)
            ? null
            : `it ends as ${endWords(replayed)}, and recorded is ${endWords(row)}`
        }
      }
    })
  }

  private historyOf(workflowId: string, generation: number) {
    return readAll(this.real, { workflowId, generation }, identity)
  }
}

const isStopped = (error: unknown): error is { readonly reason: StopReason } =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === "RunStopped"

/** Of a run that has been awaited. */
const endedAs = ({ outcome, status }: RunRow): Effect.Effect<Ended> =>
  Effect.succeed({ _tag: "Ended", status: status as Ended["status"], outcome })

/** The generation that a key belongs to: `wf:0` the first, `wf:1#0` the second. */
const generationOf = (stepKey: string, workflowId: string): number =>
  Number(/^(\d+)#/.exec(stepKey.slice(workflowId.length + 1))?.[1] ?? 0)
