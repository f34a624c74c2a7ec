/** Workflows of which every released version has left runs in a database, each where it may be when its process goes. */
import { SqliteClient } from "@effect/sql-sqlite-node"
import Sqlite from "better-sqlite3"
import { Clock, Effect, Exit, Layer, Schedule, Schema } from "effect"
import { Branch, Child, Engine, Signal, SqliteStepStore, Step, StepStore, Workflow } from "perdure"

export class Refused extends Schema.TaggedError<Refused>()("Refused", { why: Schema.String, on: Schema.Date }) {}

const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String, on: Schema.Date }))
const Answer = Signal.make("answer", Schema.Number)

const payload = { n: Schema.Number, text: Schema.String }

const given = <Name extends string>(name: Name) => ({
  name,
  payload,
  idempotencyKey: ({ n }: { readonly n: number }) => String(n)
})

const oldText = "an old text, with \u{1f600} and '"

/** Effects that runs in this process have had. */
export const done: Array<string> = []

const does = <A>(id: string, value: A) => Effect.as(Effect.sync(() => void done.push(id)), value)

const Ended = Workflow.make({
  ...given("ended"),
  success: Schema.Struct({ n: Schema.Number, on: Schema.Date }),
  error: Refused
})

const Asleep = Workflow.make({ ...given("asleep"), success: Schema.String })

const Waiting = Workflow.make({ ...given("waiting"), success: Schema.Array(Schema.String), error: Refused })

const Asked = Workflow.make({ ...given("asked"), success: Schema.Number })

const Retried = Workflow.make({ ...given("retried"), success: Schema.String })

const Parent = Workflow.make({ ...given("parent"), success: Schema.String })

const Longer = Workflow.make({ name: "longer", payload, success: Schema.Number, idempotencyKey: () => "1" })

const Stuck = Workflow.make({ ...given("stuck"), success: Schema.String })

const Broken = Workflow.make({ ...given("broken"), success: Schema.String })

const Undone = Workflow.make({ ...given("undone"), success: Schema.String, error: Refused })

const Undoing = Workflow.make({ ...given("undoing"), success: Schema.String, error: Refused })

const Cancelled = Workflow.make({ ...given("cancelled"), success: Schema.String })

const Early = Workflow.make({ ...given("early"), success: Schema.Array(Schema.String) })

const Racing = Workflow.make({ ...given("racing"), success: Schema.String })

const Launching = Workflow.make({ ...given("launching"), success: Schema.Number })

const Unclaimed = Workflow.make({ ...given("unclaimed"), success: Schema.String })

const Transferring = Workflow.make({ ...given("transferring"), success: Schema.String })

const refused = (why: string) => new Refused({ why, on: new Date(0) })

const layers = (isOld: boolean) =>
  Layer.mergeAll(
    Ended.toLayer(({ n }) =>
      Effect.gen(function*() {
        yield* does("ended", n).pipe(Step.durable("one"))
        return n === 1
          ? { n, on: new Date(86_400_000) }
          : yield* new Refused({ why: `no ${n}`, on: new Date(86_400_000) })
      })
    ),
    Asleep.toLayer(({ text }) =>
      Effect.gen(function*() {
        const begun = yield* Clock.currentTimeMillis
        const before = yield* does("asleep before", text).pipe(Step.durable("before"))
        yield* Effect.sleep("10 seconds")
        const slept = (yield* Clock.currentTimeMillis) - begun >= 10_000
        return `${before} ${slept} ${yield* does("asleep after", "after").pipe(Step.durable("after"))}`
      })
    ),
    Waiting.toLayer(({ n, text }) =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        yield* Branch.all([
          does("waiting one", n).pipe(Step.durable("one"), Effect.map((n) => seen.push(`one ${n}`))),
          Effect.fail(refused(text)).pipe(
            Step.durable("two", { error: Refused, fingerprint: text }),
            Effect.catchTag("Refused", ({ on, why }) => Effect.sync(() => seen.push(`${why} ${on.getTime()}`)))
          ),
          Signal.next(Approval).pipe(Effect.map(({ by, on }) => seen.push(`${by} ${on.getTime()}`)))
        ], { concurrency: "unbounded" })
        const isNew = yield* Workflow.patched("second approval")
        const { by } = yield* Signal.next(Approval)
        return [...seen, String(isNew), by, yield* does("waiting last", "last").pipe(Step.durable("last"))]
      })
    ),
    Asked.toLayer(() =>
      Effect.gen(function*() {
        const { next, token } = yield* Signal.token(Answer)
        yield* does(`token ${token}`, token).pipe(Step.durable("mail"))
        return yield* next
      })
    ),
    Retried.toLayer(({ text }) =>
      Effect.flatMap(Step.attempt, (attempt) =>
        Effect.zipRight(
          does("retried", attempt),
          attempt < 2 ? Effect.fail(refused(text)) : Effect.succeed(`${text} ${attempt}`)
        )).pipe(
          Step.durable("tried", { error: Refused, retry: Schedule.spaced("10 seconds") }),
          Effect.orDie
        )
    ),
    Parent.toLayer(({ n, text }) =>
      Effect.map(Child.execute(Waiting, { n: n + 100, text }), (seen) => seen.join(", ")).pipe(Effect.orDie)
    ),
    Longer.toLayer(({ n }) =>
      Effect.zipRight(
        does(`longer ${n}`, n).pipe(Step.durable("one")),
        n < 3 ? Longer.continueAsNew({ n: n + 1, text: "" }) : Effect.as(Signal.next(Approval), n)
      )
    ),
    // The process goes while the step is under way.
    Stuck.toLayer(({ text }) =>
      Effect.flatMap(Step.attempt, (attempt) => isOld ? Effect.never : does("stuck", `${text} ${attempt}`)).pipe(
        Step.durable("stuck")
      )
    ),
    // The code of before has a defect, which is mended.
    Broken.toLayer(({ text }) =>
      Effect.zipRight(
        does("broken one", 1).pipe(Step.durable("one")),
        isOld ? Effect.die("not mended yet") : Effect.succeed(text)
      )
    ),
    Undone.toLayer(({ text }) =>
      Effect.zipRight(
        does("undone one", text).pipe(
          Step.durable("one", { compensate: () => Effect.asVoid(does("undone undo", "")) })
        ),
        Effect.zipRight(
          Signal.next(Approval),
          Effect.fail(refused(text)).pipe(Step.durable("two", { error: Refused }))
        )
      )
    ),
    // The process goes while the first of two steps is undone last.
    Undoing.toLayer(({ text }) =>
      does("undoing one", text).pipe(
        Step.durable("one", { compensate: () => isOld ? Effect.never : does("undoing undo one", "") }),
        Effect.zipRight(
          does("undoing two", text).pipe(Step.durable("two", { compensate: () => does("undoing undo two", "") }))
        ),
        Effect.zipRight(Effect.fail(refused(text)).pipe(Step.durable("three", { error: Refused })))
      )
    ),
    Cancelled.toLayer(({ text }) =>
      does("cancelled one", text).pipe(
        Step.durable("one", { compensate: () => does("cancelled undo", "") }),
        Effect.zipRight(Effect.as(Signal.next(Approval), ""))
      )
    ),
    // What was sent to it early waits for it.
    Early.toLayer(() =>
      Effect.zipRight(
        Effect.sleep("10 seconds"),
        Effect.zipWith(Signal.next(Approval), Signal.next(Approval), (one, two) => [one.by, two.by])
      )
    ),
    Racing.toLayer(({ text }) =>
      Effect.gen(function*() {
        const late = yield* Signal.next(Answer).pipe(
          Branch.timeout("10 millis"),
          Effect.match({ onFailure: () => "late", onSuccess: String })
        )
        const won = yield* Branch.race(
          Effect.map(Signal.next(Approval), ({ by }) => by),
          Effect.as(Effect.sleep("36500 days"), "nobody")
        )
        return yield* does("racing", `${text}: ${late}, ${won}`).pipe(Step.durable("last"))
      })
    ),
    Launching.toLayer(({ text }) =>
      Effect.gen(function*() {
        const handle = yield* Child.start(Ended, { n: 1, text })
        yield* Signal.next(Approval)
        return (yield* Effect.orDie(Child.await(handle))).n
      })
    ),
    isOld ? Layer.empty : Unclaimed.toLayer(({ text }) => does("unclaimed", text).pipe(Step.durable("one")))
  )

/** In a store that shares the client of the application. */
const transferring = Transferring.toLayer(({ text }) =>
  does("transferred", text).pipe(
    Step.transaction("transfer"),
    Effect.zipWith(Signal.next(Approval), (text, { by }) => `${text} ${by}`)
  )
)

/** A run without a definition. */
const script = (isOld: boolean) =>
  Workflow.run(
    "script",
    Effect.zipRight(
      does("script one", 1).pipe(Step.durable("one")),
      isOld ? Effect.never : does("script two", "it has gone on").pipe(Step.durable("two"))
    )
  )

const options = { shutdownGrace: "5 seconds", parkGrace: 0, slowPoll: "100 millis" } as const

const inEngine = (filename: string, isOld: boolean) =>
  Effect.provide(
    layers(isOld).pipe(
      Layer.provideMerge(Engine.layerWith({ ...options, shutdownGrace: 0 })),
      Layer.provideMerge(SqliteStepStore.layer({ filename, synchronous: "NORMAL" }))
    )
  )

const inEngineOfClient = (filename: string) =>
  Effect.provide(
    transferring.pipe(
      Layer.provideMerge(Engine.layerWith(options)),
      Layer.provideMerge(SqliteStepStore.layerClient({ synchronous: "NORMAL" })),
      Layer.provide(SqliteClient.layer({ filename }))
    )
  )

/** Where the runs are left. */
const left: Readonly<Record<string, StepStore.RunStatus>> = {
  "ended/1": "COMPLETED",
  "ended/2": "FAILED",
  "asleep/1": "SUSPENDED",
  "waiting/1": "SUSPENDED",
  "asked/1": "SUSPENDED",
  "retried/1": "SUSPENDED",
  "parent/1": "SUSPENDED",
  "~parent/1:0": "SUSPENDED",
  "longer/1": "SUSPENDED",
  "stuck/1": "RUNNING",
  "broken/1": "STOPPED",
  "undone/1": "SUSPENDED",
  "undone/2": "FAILED",
  "undoing/1": "RUNNING",
  "cancelled/1": "CANCELLED",
  "early/1": "SUSPENDED",
  "racing/1": "SUSPENDED",
  "launching/1": "SUSPENDED",
  "~launching/1:0": "COMPLETED",
  "unclaimed/1": "PENDING",
  "transferring/1": "SUSPENDED",
  script: "RUNNING"
}

/** Steps that are under way when the process goes. */
const underWay = ["stuck/1", "undoing/1"]

/** When it was approved, and by whom. */
const approve = (workflowId: string, by: string) =>
  Signal.send(Approval, { workflowId, value: { by, on: new Date(1_000) }, idempotencyKey: by })

/** Looks again and again, and lets others do something meanwhile. */
const until = <A, E, R>(look: Effect.Effect<A, E, R>, holds: (value: A) => boolean): Effect.Effect<A, E, R> =>
  Effect.flatMap(
    look,
    (value) => holds(value) ? Effect.succeed(value) : Effect.zipRight(Effect.sleep("10 millis"), until(look, holds))
  )

const arrived = (ids: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const runs = new Map((yield* store.runs({ after: null, limit: 100 })).map((run) => [run.workflowId, run.status]))
    return ids.every((id) => runs.get(id) === left[id])
  }).pipe((all) => until(all, (value) => value))

/** What this clock shows is past for whoever goes on with the runs. */
const longAgo = Effect.map(Effect.clock, (real): Clock.Clock => {
  const ago = real.unsafeCurrentTimeMillis() - Date.UTC(2025, 0, 1)
  return {
    ...real,
    unsafeCurrentTimeMillis: () => real.unsafeCurrentTimeMillis() - ago,
    unsafeCurrentTimeNanos: () => real.unsafeCurrentTimeNanos() - BigInt(ago) * 1_000_000n,
    currentTimeMillis: Effect.map(real.currentTimeMillis, (millis) => millis - ago),
    currentTimeNanos: Effect.map(real.currentTimeNanos, (nanos) => nanos - BigInt(ago) * 1_000_000n),
    sleep: (duration) => real.sleep(duration)
  }
})

/** Leaves runs in a new file, as a process that is gone at once does; the copy is what it has left. */
export const leaveRuns = (filename: string, copy: string) =>
  Effect.gen(function*() {
    yield* Effect.zipRight(
      Transferring.start({ n: 1, text: oldText }),
      arrived(["transferring/1"])
    ).pipe(inEngineOfClient(filename))

    yield* Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      const definitions = [
        Ended,
        Asleep,
        Waiting,
        Asked,
        Retried,
        Parent,
        Longer,
        Stuck,
        Broken,
        Undone,
        Undoing,
        Cancelled,
        Early,
        Racing,
        Launching,
        Unclaimed
      ]
      yield* Effect.forEach(definitions, (definition) => definition.start({ n: 1, text: oldText }))
      yield* Ended.start({ n: 2, text: "" })
      yield* Undone.start({ n: 2, text: oldText })
      yield* Effect.fork(script(true))
      yield* approve("early/1", "ada")
      yield* approve("early/1", "grace")
      yield* approve("undone/2", "ada")
      yield* until(store.history("cancelled/1", 0, { after: null, limit: 1 }), ({ rows }) => rows.length === 1)
      yield* Cancelled.cancel("cancelled/1")
      yield* arrived(Object.keys(left))
      yield* until(
        Effect.forEach(underWay, (id) => store.unfinished(id, 0)),
        (steps) => steps.every((rows) => rows.some((row) => row.status === "IN_PROGRESS"))
      )
      // Its first wait has timed out, and its race is under way.
      yield* until(store.unfinished("racing/1", 0), (rows) => rows.some((row) => row.stepId === "approval"))
      yield* until(store.history("script", 0, { after: null, limit: 1 }), ({ rows }) => rows.length === 1)
      yield* arrived(Object.keys(left))
      yield* Effect.sync(() => {
        const database = new Sqlite(filename)
        database.prepare("VACUUM INTO ?").run(copy)
        database.close()
        const copied = new Sqlite(copy)
        copied.pragma("journal_mode = WAL")
        copied.close()
      })
    }).pipe(inEngine(filename, true))
  }).pipe((self) => Effect.flatMap(longAgo, (clock) => Effect.withClock(self, clock)))

/** Everything that a store tells of its runs. */
export const readRuns = (filename: string) =>
  Effect.gen(function*() {
    const store = yield* StepStore.StepStore
    const all = { after: null, limit: 1_000 }
    const runs = yield* Effect.forEach(yield* store.runs(all), ({ generation, workflowId }) =>
      Effect.all({
        run: Effect.flatten(store.run(workflowId)),
        history: Effect.map(store.history(workflowId, generation, all), ({ rows }) => rows),
        unfinished: store.unfinished(workflowId, generation),
        attempts: store.attempts(workflowId, generation),
        mail: Effect.flatten(store.mail(workflowId, [{ name: "approval", token: null, limit: 9 }]))
      }))
    // As plain data: reasons why a run has stopped are classes.
    return JSON.parse(JSON.stringify(runs)) as ReadonlyArray<Record<string, unknown>>
  }).pipe(Effect.provide(SqliteStepStore.layer({ filename, synchronous: "NORMAL" })))

const said = (exit: Exit.Exit<unknown, unknown>): unknown =>
  JSON.parse(Exit.match(exit, {
    onSuccess: (value) => JSON.stringify(value),
    onFailure: (cause) => JSON.stringify(cause._tag === "Fail" ? cause.error : cause)
  }))

/** Goes on with the runs in a file, and answers what each of them has come to. */
export const goOn = (filename: string) =>
  Effect.gen(function*() {
    const ends = yield* Effect.gen(function*() {
      const store = yield* StepStore.StepStore
      for (const workflowId of ["waiting/1", "~parent/1:0"]) {
        yield* approve(workflowId, "ada")
        yield* approve(workflowId, "grace")
      }
      for (const workflowId of ["longer/1", "undone/1", "racing/1", "launching/1"]) {
        yield* approve(workflowId, "ada")
      }
      yield* Broken.resume("broken/1")
      const [token] = (yield* store.history("asked/1", 0, { after: null, limit: 1 })).rows
      yield* Signal.answer(Answer, { token: JSON.parse(token!.output!) as string, value: 42 })
      return yield* Effect.all({
        "ended/1": Effect.exit(Ended.await("ended/1")),
        "ended/2": Effect.exit(Ended.await("ended/2")),
        "asleep/1": Effect.exit(Asleep.await("asleep/1")),
        "waiting/1": Effect.exit(Waiting.await("waiting/1")),
        "asked/1": Effect.exit(Asked.await("asked/1")),
        "retried/1": Effect.exit(Retried.await("retried/1")),
        "parent/1": Effect.exit(Parent.await("parent/1")),
        "longer/1": Effect.exit(Longer.await("longer/1")),
        "stuck/1": Effect.exit(Stuck.await("stuck/1")),
        "broken/1": Effect.exit(Broken.await("broken/1")),
        "undone/1": Effect.exit(Undone.await("undone/1")),
        "undone/2": Effect.exit(Undone.await("undone/2")),
        "undoing/1": Effect.exit(Undoing.await("undoing/1")),
        "cancelled/1": Effect.exit(Cancelled.await("cancelled/1")),
        "early/1": Effect.exit(Early.await("early/1")),
        "racing/1": Effect.exit(Racing.await("racing/1")),
        "launching/1": Effect.exit(Launching.await("launching/1")),
        "unclaimed/1": Effect.exit(Unclaimed.await("unclaimed/1")),
        script: Effect.exit(script(false)),
        "a new one": Effect.exit(Ended.execute({ n: 1, text: "new" }, { workflowId: "new" }))
      })
    }).pipe(inEngine(filename, false))
    const transferred = yield* Effect.zipRight(
      approve("transferring/1", "ada"),
      Effect.exit(Transferring.await("transferring/1"))
    ).pipe(inEngineOfClient(filename))
    return Object.fromEntries(
      Object.entries({ ...ends, "transferring/1": transferred }).map(([id, end]) => [id, said(end)])
    )
  })
