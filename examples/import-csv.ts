/**
 * Imports a CSV file into a table, and goes on where it stopped when it was killed:
 *
 *     npx tsx examples/import-csv.ts
 */
import { createHash } from "node:crypto"
import { fileURLToPath } from "node:url"
import { Args, Command, Options, ValidationError } from "@effect/cli"
import { FileSystem, Path, Terminal } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { SqlClient } from "@effect/sql"
import { SqliteClient } from "@effect/sql-sqlite-node"
import { parse } from "csv-parse/sync"
import { Console, Effect, Layer, Schedule, Schema } from "effect"
import { Engine, SqliteStepStore, Step, Workflow } from "perdure"

// ---------------------------------------------------------------------------------------------------------------------
// the application: a file of customers, and a table of them
// ---------------------------------------------------------------------------------------------------------------------

const Customer = Schema.Struct({
  customer_id: Schema.NonEmptyString,
  name: Schema.String,
  email: Schema.String,
  city: Schema.String,
  note: Schema.String
})

class FileUnreadable extends Schema.TaggedError<FileUnreadable>()("FileUnreadable", {
  file: Schema.String,
  problem: Schema.String
}) {
  override get message() {
    return `${this.file} cannot be imported: ${this.problem}`
  }
}

class FileChanged extends Schema.TaggedError<FileChanged>()("FileChanged", {
  file: Schema.String,
  id: Schema.String,
  detail: Schema.String
}) {
  override get message() {
    return `${this.file} is not the file that ${this.id} began with: go on with that file, or import this one under an --id of its own` +
      this.detail
  }
}

const digest = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 16)

const readCustomers = Effect.fn(function*(file: string) {
  const fs = yield* FileSystem.FileSystem
  const unreadable = (error: { readonly message: string }) => new FileUnreadable({ file, problem: error.message })
  const text = yield* Effect.mapError(fs.readFileString(file), unreadable)
  const records = yield* Effect.try({
    try: (): unknown => parse(text, { bom: true, columns: true }),
    catch: (error) => unreadable(error as Error)
  })
  const customers = yield* Effect.mapError(Schema.decodeUnknown(Schema.Array(Customer))(records), unreadable)
  return { customers, digest: digest(text) }
})

class Customers extends Effect.Service<Customers>()("examples/Customers", {
  effect: Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    // A step may be recorded only when its effect would survive a power cut as well.
    yield* sql`PRAGMA synchronous = FULL`
    yield* sql`CREATE TABLE IF NOT EXISTS customers (
      customer_id TEXT PRIMARY KEY, name TEXT, email TEXT, city TEXT, note TEXT,
      written INTEGER NOT NULL DEFAULT 1 -- how often this row was written: twice, if a kill came between it and its record
    )`
    return {
      /** Writes a customer. Written twice, it is there once: a step can run again, so its effect has to bear it. */
      upsert: (customer: typeof Customer.Type) =>
        sql`INSERT INTO customers ${sql.insert(customer)}
          ON CONFLICT (customer_id) DO UPDATE SET
            name = excluded.name, email = excluded.email, city = excluded.city, note = excluded.note,
            written = written + 1`.pipe(Effect.asVoid)
    }
  })
}) {}

// ---------------------------------------------------------------------------------------------------------------------
// the import
// ---------------------------------------------------------------------------------------------------------------------

/** What a person may look at while the import runs; nothing in the run depends on it. */
class Progress {
  /** Rows that are done, those of earlier processes among them. */
  done = 0
  /** Rows that this process wrote. */
  written = 0
  readonly total: number
  constructor(total: number) {
    this.total = total
  }
}

/**
 * One step for each row. The id holds the row's own key, and the fingerprint its content, so that a file that is not the one
 * the import began with is noticed, whatever was edited in the part that is done.
 */
const importAll = (customers: ReadonlyArray<typeof Customer.Type>, digest_: string, progress: Progress) =>
  Effect.gen(function*() {
    const table = yield* Customers
    for (const customer of customers) {
      yield* table.upsert(customer).pipe(
        Effect.tap(() => Effect.sync(() => progress.written++)),
        Effect.orDie,
        Step.durable(`row ${customer.customer_id}`, { fingerprint: digest(JSON.stringify(customer)) })
      )
      progress.done++
    }
    return { rows: customers.length, digest: digest_ }
  })

// ---------------------------------------------------------------------------------------------------------------------
// progress
// ---------------------------------------------------------------------------------------------------------------------

const bar = ({ done, total }: Progress, columns: number) => {
  const label = ` ${done}/${total}`
  const width = Math.max(10, Math.min(60, columns - label.length - 4))
  const filled = Math.floor(done / Math.max(1, total) * width)
  return `[${"#".repeat(filled)}${".".repeat(width - filled)}]${label}`
}

/** A bar that moves, on a terminal; elsewhere a line for each tenth. */
const showProgress = Effect.fn(function*(progress: Progress) {
  const terminal = yield* Terminal.Terminal
  const isTTY = yield* terminal.isTTY
  let shown = -1
  const show = Effect.gen(function*() {
    const tenth = Math.floor(progress.done / Math.max(1, progress.total) * 10)
    if (isTTY) {
      yield* terminal.display(`\r${bar(progress, yield* terminal.columns)}`)
    } else if (tenth !== shown) {
      shown = tenth
      yield* Console.log(`${progress.done}/${progress.total}`)
    }
  })
  yield* show.pipe(Effect.repeat(Schedule.spaced("50 millis")), Effect.ignore, Effect.forkScoped)
  yield* Effect.addFinalizer(() => Effect.ignore(Effect.andThen(show, isTTY ? Console.log("") : Effect.void)))
})

// ---------------------------------------------------------------------------------------------------------------------
// the command line
// ---------------------------------------------------------------------------------------------------------------------

const command = Command.make("import-csv", {
  file: Args.file({ name: "file", exists: "yes" }).pipe(
    Args.withDefault(fileURLToPath(new URL("import-csv/customers.csv", import.meta.url))),
    Args.withDescription("The file to import; the one that the example brings unless given")
  ),
  id: Options.text("id").pipe(
    Options.withDescription("The id of the import; made from the name of the file unless given"),
    Options.withDefault("")
  ),
  db: Options.file("db").pipe(
    Options.withDescription("Where the steps are recorded"),
    Options.withDefault("durable.db")
  ),
  into: Options.file("into").pipe(
    Options.withDescription("The database with the table of customers"),
    Options.withDefault("customers.db")
  )
}, (given) =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    const id = given.id === "" ? `import-csv/${path.basename(given.file)}` : given.id
    const { customers, digest } = yield* readCustomers(given.file)
    const progress = new Progress(customers.length)
    yield* Console.log(
      `Importing ${customers.length} rows as ${id}. Press Ctrl-C, or kill -9 ${process.pid}, and start it again.`
    )

    const imported = yield* Effect.scoped(Effect.zipRight(
      showProgress(progress),
      Workflow.run(id, importAll(customers, digest, progress))
    )).pipe(
      Effect.catchIf(
        (error) => error._tag === "RunStopped" && error.reason._tag === "NonDeterminismError",
        ({ message }) => new FileChanged({ file: given.file, id, detail: `\n${message}` })
      ),
      Effect.onInterrupt(() => Console.log(`Stopped after row ${progress.done}. The same command goes on from there.`))
    )
    if (imported.digest !== digest) {
      return yield* new FileChanged({ file: given.file, id, detail: "" })
    }
    yield* Console.log(
      `${imported.rows} rows are in ${given.into}: ${
        imported.rows - progress.written
      } were done before, ${progress.written} now`
    )
  }).pipe(Effect.provide([
    Engine.layer.pipe(Layer.provide(SqliteStepStore.layer({ filename: given.db }))),
    Customers.Default.pipe(Layer.provide(SqliteClient.layer({ filename: given.into })))
  ]))).pipe(
    Command.withDescription(
      "Imports customers from a CSV file; killed at any moment, it goes on at the row where it stopped"
    )
  )

Command.run(command, { name: "CSV import, a Perdure example", version: "0.1.0" })(process.argv).pipe(
  Effect.tapError((error) =>
    // The command line has printed its own.
    ValidationError.isValidationError(error) ? Effect.void : Console.error(error.message)
  ),
  Effect.tapDefect(Effect.logFatal),
  Effect.provide(NodeContext.layer),
  NodeRuntime.runMain({ disableErrorReporting: true })
)
