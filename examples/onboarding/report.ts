/** What a person, or a program, is told about a run: read from the store alone, without an engine that would drive it. */
import { Chunk, Console, Effect, Option, Schema, Stream } from "effect"
import { StepStore } from "perdure"

const pageSize = 500

const Report = Schema.Struct({
  workflowId: Schema.String,
  workflow: Schema.String,
  status: StepStore.RunStatus,
  /** Whether the process that drove the run has died: `resume` takes the run over. */
  orphaned: Schema.Boolean,
  /** Why a STOPPED run stopped. */
  reason: Schema.NullOr(Schema.String),
  startedAt: Schema.Number,
  endedAt: Schema.NullOr(Schema.Number),
  steps: Schema.Array(Schema.Struct({
    key: Schema.String,
    step: Schema.String,
    status: StepStore.StepStatus,
    attempt: Schema.Int,
    startedAt: Schema.Number,
    /** How long the last attempt took, in milliseconds; null while the step is under way. */
    took: Schema.NullOr(Schema.Number)
  }))
})

export type Report = typeof Report.Type

const pages = <A, E, R>(
  read: (page: StepStore.Page<string>) => Effect.Effect<ReadonlyArray<A>, E, R>,
  keyOf: (row: A) => string
) =>
  Stream.paginateChunkEffect<string | null, A, E, R>(
    null,
    (after) =>
      Effect.map(read({ after, limit: pageSize }), (rows) => [
        Chunk.unsafeFromArray(rows),
        Option.map(Option.filter(Option.fromNullable(rows.at(-1)), () => rows.length === pageSize), keyOf)
      ])
  ).pipe(Stream.runCollect, Effect.map(Chunk.toReadonlyArray))

/** The report on a run; none if there is no run of this id. */
export const reportOn = Effect.fn(function*(workflowId: string) {
  const store = yield* StepStore.StepStore
  const run = yield* store.run(workflowId)
  if (Option.isNone(run)) {
    return Option.none<Report>()
  }
  const { createdAt, endedAt, generation, name, owner, status, stopReason } = run.value
  const steps = yield* pages((page) => store.steps(workflowId, generation, page), (step) => step.stepKey)
  const dead = status === "RUNNING" ? yield* store.dead : []
  return Option.some<Report>({
    workflowId,
    workflow: name,
    status,
    orphaned: owner !== null && dead.includes(owner),
    reason: stopReason?.message ?? null,
    startedAt: createdAt,
    endedAt,
    steps: steps.map((step) => ({
      key: step.stepKey,
      step: step.stepId,
      status: step.status,
      attempt: step.attempt,
      startedAt: step.startedAt,
      took: step.status === "IN_PROGRESS" ? null : step.updatedAt - step.startedAt
    }))
  })
})

const allRuns = Effect.flatMap(
  StepStore.StepStore,
  (store) => pages((page) => store.runs(page), (run) => run.workflowId)
)

/** The ids of the runs that an engine with this workflow would drive. */
export const unfinishedRuns = (workflow: string) =>
  Effect.map(allRuns, (runs) =>
    runs
      .filter(({ name, status }) => name === workflow && (status === "PENDING" || status === "RUNNING"))
      .map((run) => run.workflowId))

// ---------------------------------------------------------------------------------------------------------------------
// printing
// ---------------------------------------------------------------------------------------------------------------------

const table = (header: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) => {
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  return [header, ...rows]
    .map((row) => `  ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  ")}`.trimEnd())
    .join("\n")
}

const millis = (took: number | null) => took === null ? "-" : `${took} ms`

const time = (at: number) => new Date(at).toISOString().slice(0, 19).replace("T", " ")

const standing = (report: Report) =>
  `${report.workflowId}: ${report.status}${report.orphaned ? ", but the process that ran it is gone" : ""}`

/** A stack trace helps whoever mends the code; `--json` has it. */
export const withoutStack = (text: string) =>
  text.split("\n").filter((line) => !/^\s+(at |\[cause\])|^\s*\}$/.test(line)).join("\n").replaceAll(" {\n", "\n")

export const printStatus = (report: Report) =>
  Console.log([
    standing(report),
    table(
      ["key", "step", "status", "attempt", "took"],
      report.steps.map((row) => [row.key, row.step, row.status, String(row.attempt), millis(row.took)])
    ),
    ...(report.reason === null ? [] : [withoutStack(report.reason)])
  ].join("\n"))

export const printJson = (report: Report) =>
  Effect.flatMap(Schema.encode(Schema.parseJson(Report, { space: 2 }))(report), Console.log)

const timelineWidth = 32

/** Where a moment stands on a scale from 0 to 1, on which the time when no step ran, as after a crash, has no length. */
const scale = (spans: ReadonlyArray<{ readonly from: number; readonly to: number }>) => {
  const sorted = Array.from(spans).sort((a, b) => a.from - b.from)
  const worked = (until: number) => {
    let end = -Infinity
    let sum = 0
    for (const { from, to } of sorted) {
      sum += Math.max(0, Math.min(to, until) - Math.max(from, end))
      end = Math.max(end, to)
    }
    return sum
  }
  const total = Math.max(1, worked(Infinity))
  return (at: number) => worked(at) / total
}

/** The last attempt of each step. */
export const printTimeline = (report: Report) => {
  const steps = report.steps
    .map((step) => ({ ...step, from: step.startedAt, to: step.startedAt + (step.took ?? 0) }))
    .sort((a, b) => a.from - b.from)
  const place = scale(steps)
  const bar = ({ from, to }: { readonly from: number; readonly to: number }) => {
    const first = Math.floor(place(from) * timelineWidth)
    return " ".repeat(first) + "#".repeat(Math.max(1, Math.ceil(place(to) * timelineWidth) - first))
  }
  const address = (key: string) => key.slice(report.workflowId.length + 1)
  return Console.log(
    `\n${standing(report)}\n` +
      table(
        ["at", "step", "timeline".padEnd(timelineWidth), "took", "attempt"],
        steps.map((step) => [address(step.key), step.step, bar(step), millis(step.took), String(step.attempt)])
      )
  )
}

export const printRuns = Effect.flatMap(allRuns, (runs) =>
  Console.log(
    table(
      ["run", "workflow", "status", "started (UTC)", "ended (UTC)"],
      runs.map((run) => [
        run.workflowId,
        run.name,
        run.status,
        time(run.createdAt),
        run.endedAt === null ? "-" : time(run.endedAt)
      ])
    )
  ))
