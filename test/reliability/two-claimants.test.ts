/**
 * Workers that claim one run, at the same moment or in an order that is drawn: it has one writer an epoch.
 *
 * In most trials processes ask the store: they claim, write and give back, in rounds that begin together. The checker knows what each
 * was answered, and what is in the tables. In the others whole engines are after one run.
 */
import { truncateSync, writeFileSync } from "node:fs"
import { assert } from "@effect/vitest"
import Sqlite from "better-sqlite3"
import { Effect, FastCheck as fc } from "effect"
import { SqliteStepStore, StepStore } from "perdure"
import { payloadDigest } from "../../src/internal/seals.js"
import type { Act, Answer, Line, Write } from "../fixtures/faults/claimant.js"
import { newRun } from "../suites/rows.js"
import { bundle, launch, type Program } from "../support/bundle.js"
import { entriesOf } from "../support/ledger.js"
import { temporaryFile } from "../support/stores.js"
import { row } from "./row.js"
import { inTrial, scriptOf } from "./scripts.js"

const names = Array.from({ length: 16 }, (_, i) => `claimant-${i}`)

/** How many of them have an engine. */
const engined = 6

// ---------------------------------------------------------------------------------------------------------------------
// scripts
// ---------------------------------------------------------------------------------------------------------------------

interface Part {
  readonly what: "claim" | "claim, write" | "write" | "write, claim, write" | "write, release"
  readonly how: Write
  /** Whom the claim takes for dead: the owner, or all who have been that. */
  readonly dead: "owner" | "owners"
}

interface Round {
  /** How they are let go: when somebody else gives the lock back, at a moment, as they are told, or each after the one before. */
  readonly start: "lock" | "moment" | "at once" | "in turn"
  readonly who: ReadonlyArray<number>
  /** By the number of the process. */
  readonly parts: ReadonlyArray<Part>
}

type Script =
  | { readonly on: "store"; readonly owned: boolean; readonly rounds: ReadonlyArray<Round> }
  | {
    readonly on: "engines"
    readonly found: "absent" | "pending" | "orphaned" | "due"
    readonly epoch: number
    /** For how long nobody can write after the run is there to be seen, in milliseconds. */
    readonly hold: number
    readonly who: ReadonlyArray<number>
  }

const among = (count: number) => fc.shuffledSubarray([...names.keys()].slice(0, count), { minLength: 2 })

const part: fc.Arbitrary<Part> = fc.record({
  what: fc.constantFrom("claim", "claim", "claim, write", "write", "write, claim, write", "write, release"),
  how: fc.constantFrom("alone", "with the run", "with another"),
  dead: fc.constantFrom("owner", "owners")
})

const round: fc.Arbitrary<Round> = fc.record({
  start: fc.constantFrom("lock", "lock", "moment", "at once", "in turn"),
  who: among(names.length),
  parts: fc.array(part, { minLength: names.length, maxLength: names.length })
})

const scripts: fc.Arbitrary<Script> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      on: fc.constant("store" as const),
      owned: fc.boolean(),
      rounds: fc.array(round, { minLength: 1, maxLength: 3 })
    })
  },
  {
    weight: 1,
    arbitrary: fc.record({
      on: fc.constant("engines" as const),
      found: fc.constantFrom("absent" as const, "pending" as const, "orphaned" as const, "due" as const),
      epoch: fc.integer({ min: 1, max: 5 }),
      hold: fc.integer({ min: 0, max: 150 }),
      who: among(engined)
    })
  }
)

// ---------------------------------------------------------------------------------------------------------------------
// processes
// ---------------------------------------------------------------------------------------------------------------------

interface Stage {
  readonly programs: ReadonlyArray<Program>
  readonly store: StepStore.StepStore["Type"]
  /** Connections of the checker's own. */
  readonly claims: Sqlite.Database
  readonly engines: Sqlite.Database
  readonly ledger: string
}

const connection = (file: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new Sqlite(file, { timeout: 10_000 })),
    (database) => Effect.sync(() => database.close())
  )

const tell = (program: Program, line: Line) => program.tell(JSON.stringify(line))

const isTrying = (program: Program) => Effect.map(program.line, (line) => assert.strictEqual(line, "trying"))

const answerOf = (program: Program) => Effect.map(program.line, (line): unknown => JSON.parse(line))

const all = <A>(programs: ReadonlyArray<Program>, use: (program: Program) => Effect.Effect<A>) =>
  Effect.forEach(programs, use, { concurrency: "unbounded" })

/** Tells each process its line, and answers what they say, in the same order. */
const together = Effect.fnUntraced(function*(
  programs: ReadonlyArray<Program>,
  lineOf: (index: number) => Line,
  held: Sqlite.Database | null
) {
  held?.exec("BEGIN IMMEDIATE")
  yield* Effect.forEach(programs, (program, i) => tell(program, lineOf(i)))
  yield* all(programs, isTrying)
  held?.exec("COMMIT")
  return yield* all(programs, answerOf)
})

const inTurn = (programs: ReadonlyArray<Program>, lineOf: (index: number) => Line) =>
  Effect.forEach(
    programs,
    (program, i) => Effect.zipRight(tell(program, lineOf(i)), Effect.zipRight(isTrying(program), answerOf(program)))
  )

// ---------------------------------------------------------------------------------------------------------------------
// trials on the store
// ---------------------------------------------------------------------------------------------------------------------

/** What the checker knows of a run. */
class Claimed {
  epoch = 1
  /** The owner of each epoch, unless it gave the run back. */
  readonly owners: Map<number, string | null>
  /** The latest epoch that each process has won, unless it gave that back. */
  readonly held = new Map<string, number>()
  /** Writes that were accepted, with their epochs. */
  readonly accepted = new Map<string, number>()
  private tags = 0

  constructor(owner: string | null) {
    this.owners = new Map([[1, owner]])
  }

  get owner(): string | null {
    return this.owners.get(this.epoch)!
  }

  /** What a process does in a round. One that has never had the run claims it. */
  actsOf(name: string, { dead, how, what }: Part): ReadonlyArray<Act> {
    const held = this.held.get(name)
    const owners = dead === "owner" ? [this.owner] : [...this.owners.values()]
    const claim: Act = { act: "claim", dead: [...owners, "nobody"].filter((owner) => owner !== null) }
    const write = (epoch: number | null): Act => ({ act: "write", how, epoch, tag: `${name}.${this.tags++}` })
    switch (what) {
      case "claim":
        return [claim]
      case "claim, write":
        return [claim, write(null)]
      case "write":
        return held === undefined ? [claim] : [write(held)]
      case "write, claim, write":
        return held === undefined ? [claim, write(null)] : [write(held), claim, write(null)]
      case "write, release":
        return held === undefined ? [claim] : [write(held), { act: "release", epoch: held }]
    }
  }
}

interface Told {
  readonly name: string
  readonly acts: ReadonlyArray<Act>
  readonly answers: ReadonlyArray<Answer>
}

/** Compares what the processes were answered in a round with what was known before it, and what is in the tables. */
const checkRound = (run: Claimed, told: ReadonlyArray<Told>, claims: Sqlite.Database, workflowId: string): void => {
  const began = run.epoch
  const wins: Array<{ readonly name: string; readonly epoch: number; readonly dead: ReadonlyArray<string> }> = []
  const commits: Array<{ readonly tag: string | null; readonly epoch: number; readonly accepted: boolean }> = []
  for (const { acts, answers, name } of told) {
    answers.forEach((answer, i) => {
      const act = acts[i]!
      if (answer !== null && "claimed" in answer) {
        assert.strictEqual(act.act, "claim")
        wins.push({ name, epoch: answer.claimed, dead: act.act === "claim" ? act.dead : [] })
      } else if (answer !== null) {
        commits.push(answer)
      }
    })
  }
  wins.sort((a, b) => a.epoch - b.epoch)
  const releases = commits.filter(({ accepted, tag }) => tag === null && accepted)

  assert.deepStrictEqual(wins.map(({ epoch }) => epoch), wins.map((_, i) => began + 1 + i), "an epoch for each owner")
  // Each could have it when the round began.
  const claimed = told.some(({ acts }) => acts.some(({ act }) => act === "claim"))
  assert.strictEqual(wins.length > 0, claimed, "somebody gets it")
  for (const { epoch } of releases) {
    run.held.delete(run.owners.get(epoch)!)
    run.owners.set(epoch, null)
  }
  for (const { dead, epoch, name } of wins) {
    const before = run.owners.get(epoch - 1)!
    assert.isTrue(
      before === null || dead.includes(before),
      `${name} took it from ${before}, whom it did not take for dead`
    )
    run.owners.set(epoch, name)
    run.held.set(name, epoch)
  }
  run.epoch = began + wins.length

  for (const { accepted, epoch, tag } of commits) {
    assert.isTrue(!accepted || epoch >= began, `${tag} was accepted under the epoch ${epoch}, in ${began}`)
    assert.isTrue(accepted || epoch < run.epoch, `${tag} was refused in its own epoch ${epoch}`)
    if (accepted && tag !== null) {
      run.accepted.set(tag, epoch)
    }
  }

  assert.deepStrictEqual(
    claims.prepare("SELECT epoch, owner FROM workflows WHERE workflow_id = ?").get(workflowId),
    { epoch: run.epoch, owner: run.owner }
  )
  // Rows are appended: where an epoch has begun, nothing under an older one comes any more.
  const rows = claims.prepare("SELECT step_key, epoch FROM steps WHERE workflow_id = ? ORDER BY rowid").all(
    workflowId
  ) as ReadonlyArray<{ readonly step_key: string; readonly epoch: number }>
  const epochs = rows.map(({ epoch }) => epoch)
  assert.deepStrictEqual(epochs, [...epochs].sort((a, b) => a - b), "epochs of rows in the order of writing")
  assert.deepStrictEqual(
    Object.fromEntries(rows.map(({ epoch, step_key }) => [step_key, epoch])),
    Object.fromEntries([...run.accepted].map(([tag, epoch]) => [`${workflowId}:${tag}`, epoch]))
  )
}

/** How long a process may take to have read its line, in milliseconds. */
const notice = 8

const onStore = Effect.fnUntraced(function*(
  { claims, programs, store }: Stage,
  workflowId: string,
  script: Script & { readonly on: "store" }
) {
  const owner = script.owned ? "nobody" : null
  yield* store.commit([newRun(workflowId, { owner, status: script.owned ? "RUNNING" : "PENDING" })])
  const run = new Claimed(owner)
  const play = Effect.fnUntraced(
    function*(start: Round["start"], who: ReadonlyArray<number>, acts: (index: number) => ReadonlyArray<Act>) {
      const chosen = who.map((index) => programs[index]!)
      const all = who.map(acts)
      const at = start === "moment" ? performance.timeOrigin + performance.now() + notice : null
      const lineOf = (i: number): Line => ({ do: "acts", run: workflowId, at, acts: all[i]! })
      const answers = start === "in turn"
        ? yield* inTurn(chosen, lineOf)
        : yield* together(chosen, lineOf, start === "lock" ? claims : null)
      const told = who.map((index, i) => ({
        name: names[index]!,
        acts: all[i]!,
        answers: answers[i] as ReadonlyArray<Answer>
      }))
      checkRound(run, told, claims, workflowId)
    }
  )
  for (const { parts, start, who } of script.rounds) {
    yield* play(start, who, (index) => run.actsOf(names[index]!, parts[index]!))
  }
  // Whoever has had it writes once more: only the owner is heard.
  const { parts } = script.rounds[0]!
  const held = [...names.keys()].filter((index) => run.held.has(names[index]!))
  yield* play("at once", held, (index) => run.actsOf(names[index]!, { ...parts[index]!, what: "write" }))
})

// ---------------------------------------------------------------------------------------------------------------------
// trials with engines
// ---------------------------------------------------------------------------------------------------------------------

const leftAs = {
  pending: { status: "PENDING", owner: null },
  orphaned: { status: "RUNNING", owner: "nobody" },
  due: { status: "SUSPENDED", owner: null, wake_at: 1 }
}

/** The columns of a run that its digest covers. */
interface Template {
  readonly generation: number
  readonly name: string
  readonly fingerprint: string
  readonly begun_at: number
  readonly deadline_at: number | null
  readonly parent: string | null
  readonly payload: string | null
  readonly payload_codec: string | null
}

/** Puts a run into the table that others have left. */
const plant = (engines: Sqlite.Database, workflowId: string, columns: Record<string, unknown>): void => {
  const template = engines.prepare("SELECT * FROM workflows WHERE workflow_id = 'template'").get() as Template
  const { begun_at: begunAt, deadline_at: deadlineAt, fingerprint, name, parent, payload, payload_codec: codec } =
    template
  const values = {
    ...template,
    workflow_id: workflowId,
    payload_digest: payloadDigest(
      { workflowId, generation: template.generation },
      { name, fingerprint, begunAt, deadlineAt, parent },
      codec,
      payload
    ),
    outcome: null,
    outcome_digest: null,
    outcome_codec: null,
    ended_at: null,
    ...columns
  }
  const fields = Object.keys(values)
  engines.prepare(`INSERT INTO workflows (${fields.join()}) VALUES (${fields.map((field) => `@${field}`).join()})`).run(
    values
  )
}

const withEngines = Effect.fnUntraced(function*(
  { engines, ledger, programs }: Stage,
  workflowId: string,
  { epoch, found, hold, who }: Script & { readonly on: "engines" }
) {
  const chosen = who.map((index) => programs[index]!)
  engines.exec("BEGIN IMMEDIATE")
  if (found !== "absent") {
    plant(engines, workflowId, { epoch, ...leftAs[found] })
    // Now they see it, and none of them can have it before the lock is given back.
    engines.exec("COMMIT; BEGIN IMMEDIATE")
  }
  yield* Effect.forEach(chosen, (program) => tell(program, { do: "execute", run: workflowId }))
  yield* all(chosen, isTrying)
  yield* Effect.sleep(hold)
  engines.exec("COMMIT")
  const answers = yield* all(chosen, answerOf)

  const run = engines.prepare("SELECT status, epoch, outcome FROM workflows WHERE workflow_id = ?").get(workflowId) as {
    readonly status: string
    readonly epoch: number
    readonly outcome: string
  }
  assert.strictEqual(run.status, "COMPLETED")
  assert.strictEqual(run.epoch, found === "absent" ? 1 : epoch + 1)
  assert.deepStrictEqual(answers, answers.map((): unknown => JSON.parse(run.outcome)))
  const [name] = (JSON.parse(run.outcome) as string).split(",")
  const keys = [0, 1, 2].map((sequence) => `${workflowId}:${sequence}`)
  assert.deepStrictEqual(
    entriesOf<unknown>(ledger),
    keys.map((stepKey) => ({ stepKey, epoch: run.epoch, attempt: 1, name }))
  )
  truncateSync(ledger)
  assert.deepStrictEqual(
    engines.prepare("SELECT step_key, epoch, attempt, final, output FROM steps WHERE workflow_id = ? ORDER BY position")
      .all(workflowId),
    keys.map((step_key) => ({ step_key, epoch: run.epoch, attempt: 1, final: 1, output: JSON.stringify(name) }))
  )
})

row(
  {
    name: "two-claimants",
    title: "processes that claim one run at the same moment: one writer an epoch",
    ci: 200,
    night: 20_000
  },
  3,
  (count) =>
    Effect.scoped(Effect.gen(function*() {
      const [claims, engines] = yield* Effect.all([temporaryFile, temporaryFile])
      const ledger = `${engines}.ledger`
      yield* Effect.sync(() => writeFileSync(ledger, ""))
      yield* Effect.gen(function*() {
        const program = yield* bundle("faults/claimant")
        const programs = yield* Effect.forEach(names, (name, i) =>
          launch(program, [claims, i < engined ? engines : "", name]))
        yield* all(programs, (program) =>
          Effect.map(program.line, (line) => assert.strictEqual(line, "ready")))
        const stage: Stage = {
          programs,
          store: yield* StepStore.StepStore,
          claims: yield* connection(claims),
          engines: yield* connection(engines),
          ledger
        }
        yield* together([programs[0]!], () => ({ do: "execute", run: "template" }), null)
        yield* Effect.sync(() => truncateSync(ledger))
        yield* Effect.forEach(Array.from({ length: count }, (_, trial) => trial), (trial) => {
          const script = scriptOf(scripts, trial)
          const id = `run-${trial}`
          return inTrial(
            trial,
            script,
            script.on === "store" ? onStore(stage, id, script) : withEngines(stage, id, script)
          )
        }, { discard: true })
      }).pipe(Effect.provide(SqliteStepStore.layer({ filename: claims, synchronous: "NORMAL" })))
      return count
    }))
)
