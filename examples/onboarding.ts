/**
 * Onboards an employee, and lets you kill it on the way.
 *
 *     npm start
 *     npm run onboarding -- --help
 */
import { Args, Command, Options, ValidationError } from "@effect/cli"
import { FileSystem } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Array, Console, Effect, Layer, Option, Schema } from "effect"
import { CrashSimulator, Engine, Errors, SqliteStepStore } from "perdure"
import { Company, EffectsFile, type LaptopOutOfStock } from "./onboarding/company.js"
import {
  printJson,
  printRuns,
  printStatus,
  printTimeline,
  reportOn,
  unfinishedRuns,
  withoutStack
} from "./onboarding/report.js"
import { Onboarding, OnboardingLive } from "./onboarding/workflow.js"

// ---------------------------------------------------------------------------------------------------------------------
// layers
// ---------------------------------------------------------------------------------------------------------------------

interface Files {
  readonly db: string
  readonly effects: string
}

/** The engine with the workflow, on the database. `status` and `list` do without: an engine would take over what it finds. */
const live = (files: Files, crash: Layer.Layer<never> = Layer.empty) =>
  OnboardingLive.pipe(
    Layer.provideMerge(Engine.layer),
    Layer.provide(crash),
    Layer.provideMerge(SqliteStepStore.layer({ filename: files.db })),
    Layer.provide(Company.Default),
    Layer.provide(EffectsFile.Default(files.effects))
  )

// ---------------------------------------------------------------------------------------------------------------------
// errors for people
// ---------------------------------------------------------------------------------------------------------------------

/** What a person is told instead of an outcome. */
class Refused extends Schema.TaggedError<Refused>()("Refused", { message: Schema.String }) {}

/** The command line that goes on from here, with the database in use. */
const next = (files: Files, command: string) =>
  `npm run onboarding -- ${command}` +
  (files.db === defaults.db ? "" : ` --db ${quoted(files.db)}`) +
  (files.effects === defaults.effects ? "" : ` --effects ${quoted(files.effects)}`)

const quoted = (id: string) => /^[\w./:-]+$/.test(id) ? id : JSON.stringify(id)

/** Says what to type next. */
const explain =
  (files: Files, id: string) => (error: Errors.RunStopped | Errors.WorkflowNotFound | LaptopOutOfStock) => {
    const resume = next(files, `resume ${quoted(id)}`)
    switch (error._tag) {
      case "LaptopOutOfStock":
        return new Refused({
          message: `${id}: FAILED. ${error.message}\n` +
            `When there is one again, what is recorded stays, and the rest runs: ${resume}`
        })
      case "RunStopped":
        return new Refused({ message: `${error.message}\n${resume}` })
      case "WorkflowNotFound":
        return new Refused({ message: `${error.message}. To see all runs: ${next(files, "list")}` })
    }
  }

// ---------------------------------------------------------------------------------------------------------------------
// commands
// ---------------------------------------------------------------------------------------------------------------------

const defaults = { db: "durable.db", effects: "effects.log", employee: "Ada Lovelace" }

const db = Options.file("db").pipe(
  Options.withDescription(`The database; ${defaults.db} unless given`),
  Options.optional
)
const effects = Options.file("effects").pipe(
  Options.withDescription(`The file in which each side effect leaves a line; ${defaults.effects} unless given`),
  Options.optional
)
const employee = Options.text("employee").pipe(
  Options.withDescription(`Whom to onboard; ${defaults.employee} unless given`),
  Options.optional
)
const id = Args.text({ name: "id" }).pipe(Args.withDescription("The id of the run, such as wf-123"))

/** Without a command: onboards the default employee, whose run has an id derived from the name. */
const root = Command.make("onboarding", { db, effects }, (given) => {
  const files = filesOf(given)
  return run(files, Onboarding.workflowId({ employee: defaults.employee }), Option.none(), "start").pipe(
    Effect.zipRight(
      Console.log(
        `\nNow kill one on the way:  ${next(files, "crash-after wf-1 2")}\n` +
          `and let it go on:         ${next(files, "resume wf-1")}`
      )
    ),
    Effect.provide(live(files))
  )
})

interface GivenFiles {
  readonly db: Option.Option<string>
  readonly effects: Option.Option<string>
}

const filesOf = (given: GivenFiles): Files => ({
  db: Option.getOrElse(given.db, () => defaults.db),
  effects: Option.getOrElse(given.effects, () => defaults.effects)
})

/** The files, whether they are named before the command or after it. */
const files = (given: GivenFiles) =>
  Effect.map(root, (before) =>
    filesOf({
      db: Option.orElse(given.db, () => before.db),
      effects: Option.orElse(given.effects, () => before.effects)
    }))

/** Starts a run or attaches to it, awaits its outcome, and shows how it went. */
const run = (files: Files, id: string, employee: Option.Option<string>, how: "start" | "resume") =>
  Effect.gen(function*() {
    const before = yield* Onboarding.poll(id)
    const payload = { employee: Option.getOrElse(employee, () => defaults.employee) }
    const start = Onboarding.start(payload, { workflowId: id })
    if (Option.isSome(before)) {
      // The payload of a run never changes, so attaching needs none; another one is refused.
      yield* how === "resume" ? Onboarding.resume(id) : Option.isSome(employee) ? start : Effect.void
      yield* Console.log(
        before.value._tag === "COMPLETED"
          ? `${id} is COMPLETED already: this is its record, and no step runs again`
          : `${id} is ${before.value._tag}: ${how === "start" ? "attaching to it" : "going on"}`
      )
    } else if (how === "resume") {
      yield* Onboarding.resume(id)
    } else {
      yield* Console.log(`${id}: starting`)
      yield* start
    }
    const outcome = yield* Onboarding.await(id)
    yield* Effect.flatMap(reportOn(id), Effect.transposeMapOption(printTimeline))
    yield* Console.log(`${outcome.employeeId} has ${outcome.laptop} and ${outcome.access}`)
  }).pipe(
    Effect.catchTag(
      "LaptopOutOfStock",
      "RunStopped",
      "WorkflowNotFound",
      (error) => Effect.fail(explain(files, id)(error))
    )
  )

const start = Command.make(
  "start",
  { id, employee, db, effects },
  (given) =>
    Effect.flatMap(files(given), (files) => Effect.provide(run(files, given.id, given.employee, "start"), live(files)))
).pipe(
  Command.withDescription("Starts a run, or attaches to the run of this id, and shows its outcome")
)

const resume = Command.make(
  "resume",
  { id, db, effects },
  (given) =>
    Effect.flatMap(files(given), (files) => Effect.provide(run(files, given.id, Option.none(), "resume"), live(files)))
).pipe(
  Command.withDescription("Lets a run go on that crashed, stopped or failed")
)

const crashAfter = Command.make("crash-after", {
  id,
  step: Args.integer({ name: "step" }).pipe(
    Args.withSchema(Schema.Number.pipe(Schema.positive({ message: () => "Steps are counted from 1" }))),
    Args.withDescription("Which of the steps that start is the last one, counted from 1")
  ),
  employee,
  db,
  effects
}, (given) =>
  Effect.gen(function*() {
    const where = yield* files(given)
    yield* Console.log(
      `When ${given.step} of its steps have been started, this process kills itself (kill -9).\n` +
        `To go on from there: ${next(where, `resume ${quoted(given.id)}`)}\n`
    )
    yield* Effect.gen(function*() {
      const others = Array.map(Array.filter(yield* unfinishedRuns(Onboarding.name), (run) => run !== given.id), quoted)
      if (others.length > 0) {
        yield* Console.log(
          `An engine takes over what is unfinished, so the steps of these runs count too: ${others.join(", ")}\n`
        )
      }
      const known = Option.isSome(yield* Onboarding.poll(given.id))
      yield* run(where, given.id, given.employee, known ? "resume" : "start")
      yield* Console.log(`No crash: the run ended before it had started ${given.step} steps`)
    }).pipe(Effect.provide(live(where, CrashSimulator.layer({ after: given.step }))))
  })).pipe(Command.withDescription("Runs, and dies of kill -9 right after the given number of steps have been started"))

/** Reading must not create a database where there is none. */
const reading = <A, E, R>(files: Files, self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    if (!(yield* fs.exists(files.db))) {
      return yield* new Refused({
        message: `There is no database ${files.db}. To start a run: ${next(files, "start wf-1")}`
      })
    }
    return yield* Effect.provide(self, SqliteStepStore.layer({ filename: files.db }))
  })

const status = Command.make("status", {
  id,
  json: Options.boolean("json").pipe(Options.withDescription("Prints JSON, for programs")),
  db
}, (given) =>
  Effect.gen(function*() {
    const where = yield* files({ db: given.db, effects: Option.none() })
    const report = yield* Effect.flatMap(
      reading(where, reportOn(given.id)),
      Option.match({
        onNone: () => Effect.fail(explain(where, given.id)(new Errors.WorkflowNotFound({ workflowId: given.id }))),
        onSome: Effect.succeed
      })
    )
    if (given.json) {
      return yield* printJson(report)
    }
    yield* printStatus(report)
    if (report.orphaned || ["PENDING", "STOPPED", "FAILED"].includes(report.status)) {
      yield* Console.log(`To go on: ${next(where, `resume ${quoted(given.id)}`)}`)
    }
  })).pipe(Command.withDescription("Shows how a run stands, step by step"))

const list = Command.make("list", { db }, (given) =>
  Effect.flatMap(
    files({ db: given.db, effects: Option.none() }),
    (where) => reading(where, printRuns)
  )).pipe(Command.withDescription("Shows all runs in the database"))

// ---------------------------------------------------------------------------------------------------------------------
// main
// ---------------------------------------------------------------------------------------------------------------------

const cli = Command.run(root.pipe(Command.withSubcommands([start, crashAfter, resume, status, list])), {
  name: "Onboarding, a Perdure example",
  version: "0.1.0"
})

cli(process.argv).pipe(
  Effect.tapError((error) =>
    // The command line has printed its own.
    ValidationError.isValidationError(error) ? Effect.void : Console.error(withoutStack(error.message))
  ),
  Effect.tapDefect(Effect.logFatal),
  Effect.provide(NodeContext.layer),
  NodeRuntime.runMain({ disableErrorReporting: true })
)
