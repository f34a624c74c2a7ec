/** What must hold of a run that was crashed, seen from outside the engine. */
import { assert } from "@effect/vitest"
import type { StepStore } from "perdure"
import type { End, Outside } from "./lives.js"
import { holds, type Trial, type Trials } from "./trials.js"

/** What is known of a run that has ended. */
export interface Life {
  readonly end: End
  readonly outside: Outside
  /** What happened in the latest life of the body. */
  readonly trace: ReadonlyArray<string>
}

export type Histories = ReadonlyArray<ReadonlyArray<StepStore.StepRow>>

/** What a person may rely on of a row. */
const record = ({ attempt, error, errorTag, kind, output, position, status, stepId, stepKey }: StepStore.StepRow) => ({
  attempt,
  error,
  errorTag,
  kind,
  output,
  position,
  status,
  stepId,
  stepKey
})

export const records = (rows: ReadonlyArray<StepStore.StepRow>) => rows.map(record)

const wasCut = (row: StepStore.AttemptRow) => row.errorTag === "OwnerDied" || row.errorTag === "Released"

// ---------------------------------------------------------------------------------------------------------------------
// what must hold
// ---------------------------------------------------------------------------------------------------------------------

/** What was recorded and acknowledged once stays as it was, and in its order. */
export const checkPrefixes = (
  histories: Histories,
  children: ReadonlyArray<StepStore.StepRow>,
  { outside }: Life
) => {
  for (const snapshot of outside.snapshots) {
    assert.isAtMost(snapshot.length, histories.length)
    snapshot.forEach((rows, generation) => {
      assert.deepStrictEqual(records(histories[generation]!.slice(0, rows.length)), records(rows))
    })
  }
  const all = new Map([...histories.flat(), ...children].map((row) => [row.stepKey, record(row)]))
  for (const [key, { row }] of outside.acknowledged) {
    assert.deepStrictEqual(all.get(key), record(row), key)
  }
  for (const rows of histories) {
    const positions = rows.map((row) => row.position!)
    assert.deepStrictEqual(positions, [...new Set(positions)].sort((a, b) => a - b))
    assert.lengthOf(new Set(rows.map((row) => row.stepKey)), rows.length)
  }
}

const labelOf = (generation: number, row: { readonly stepId: string }) => `${generation}/${row.stepId}`

/** Attempts are numbered from 1 without a gap, a schedule is stepped by those that failed, and each effect ran so often at most. */
export const checkAttempts = (
  body: Trial,
  histories: Histories,
  attempts: ReadonlyArray<ReadonlyArray<StepStore.AttemptRow>>,
  {
    outside
  }: Life
) => {
  const { deaths, world } = outside
  const tries = new Map<string, number>()
  histories.forEach((rows, generation) => {
    const before = new Map<string, Array<StepStore.AttemptRow>>()
    for (const row of attempts[generation]!) {
      before.set(row.stepKey, [...before.get(row.stepKey) ?? [], row])
    }
    const names = new Map(rows.map((row) => [row.stepKey, labelOf(generation, row)]))
    for (const row of rows.filter(({ kind }) => kind === "step")) {
      const ran = before.get(row.stepKey) ?? []
      assert.deepStrictEqual(ran.map(({ attempt }) => attempt), ran.map((_, i) => i + 1), row.stepKey)
      assert.strictEqual(row.attempt, row.errorTag === "StepInterrupted" ? ran.length : ran.length + 1, row.stepKey)
      const failed = ran.filter((attempt) => !wasCut(attempt)).length
      tries.set(labelOf(generation, row), failed + 1)
      const node = nodeAt(body, row.stepId)
      if (node?.op === "step" && (node.how === "gives up" || (node.how === "hangs" && row.status === "FAILED"))) {
        assert.strictEqual(failed, node.failures, row.stepKey)
      }
      if (node?.op === "step" && node.how === "once") {
        assert.isAtMost(world.startedOf(labelOf(generation, row)), 1, row.stepKey)
      }
    }
    for (const [key, ran] of before) {
      const label = names.get(key)
      if (label === undefined) {
        tries.set(key, ran.filter((attempt) => !wasCut(attempt)).length + 1)
      }
    }
  })
  for (const [label, started] of world.started) {
    const path = label.slice(label.indexOf("/") + 1)
    const node = nodeAt(body, path)
    const failures = node?.op === "step" && node.how !== "once" ? node.failures : 0
    // One that was cut for good has no row that tells how often it was tried.
    assert.isAtMost(started, (tries.get(label) ?? failures + 1) + deaths, label)
  }
}

/** What is found at a path of the tree, if the path is one. */
const nodeAt = (body: Trial, path: string): Trial | null => {
  const [first, ...rest] = path.split(".")
  if (first !== "0" || rest.some((part) => !/^\d+$/.test(part))) {
    return null
  }
  return rest.reduce<Trial | null>((node, part) => {
    const parts = node === null ? [] : "parts" in node ? node.parts : "body" in node ? [node.body] : []
    return parts[Number(part)] ?? null
  }, body)
}

/** What was done is undone, the latest first, if the run has failed or was cancelled, and else nothing is. */
export const checkCompensations = ({ body }: Trials, histories: Histories, { end, outside, trace }: Life) => {
  const generation = histories.length - 1
  const rows = histories[generation]!
  const undone = [...outside.world.undone]
  if (end._tag === "Succeeded") {
    assert.deepStrictEqual(undone, [])
    return
  }
  const steps = rows.filter((row) => {
    const node = row.kind === "step" ? nodeAt(body, row.stepId) : null
    return node?.op === "step" && node.undo && row.status === "COMPLETED"
  }).map((row) => labelOf(generation, row))
  const isStep = (label: string) => nodeAt(body, label.slice(label.indexOf("/") + 1))?.op === "step"
  assert.deepStrictEqual(undone.filter(isStep), steps.reverse())
  const others = undone.filter((label) => !isStep(label))
  const noted = (what: string) =>
    trace.filter((entry) => entry.startsWith(`${what} `)).map((entry) => entry.slice(what.length + 1).split(" @")[0]!)
  // Between the two something may have cut it.
  assert.includeMembers(noted("undoable"), others)
  assert.includeMembers(others, noted("registered"))
  const order = noted("undoable")
  assert.deepStrictEqual(others, [...others].sort((a, b) => order.lastIndexOf(b) - order.lastIndexOf(a)))
  assert.strictEqual(
    rows.filter((row) => row.kind === "compensation" && row.status === "COMPLETED").length,
    undone.length
  )
  for (const label of undone) {
    assert.strictEqual(outside.world.startedOf(`undo ${label} false`), 0)
  }
  // What a step in it did is undone after the whole, unless it was recorded too late for the body to be told.
  const told = (label: string) => trace.some((entry) => entry.startsWith(`${label}~`))
  for (const label of others) {
    const inner = undone.filter((other) => other.startsWith(`${label}.`) && isStep(other) && told(other))
    for (const other of inner) {
      assert.isBelow(undone.indexOf(label), undone.indexOf(other))
    }
  }
}

/** Each signal comes to the body once, as it was sent. */
export const checkSignals = ({ body }: Trials, life: Life) => {
  const taken = life.trace.filter((entry) => entry.startsWith("signal ")).map((entry) => entry.slice(7).split(" @")[0]!)
  assert.lengthOf(new Set(taken), taken.length)
  for (const name of new Set(taken.map((value) => value.split(" ")[0]!))) {
    const values = taken.filter((value) => value.startsWith(`${name} `))
    if (!holds(body, cuts) && life.end._tag !== "Cancelled") {
      const of = (all: ReadonlyArray<string>) => all.filter((value) => value.startsWith(`${name} `))
      assert.deepStrictEqual(values, of(life.outside.sent).filter((value) => values.includes(value)))
    }
  }
  assert.deepStrictEqual(life.trace.filter((entry) => /early|wrongly/.test(entry)), [])
  const times = life.trace.map((entry) => Number(entry.slice(entry.lastIndexOf("@") + 1)))
  assert.deepStrictEqual(times, [...times].sort((a, b) => a - b))
}

const cuts = (node: Trial) =>
  node.op === "race" || node.op === "raceAll" || node.op === "timeout" || node.op === "all" || node.op === "forEach"
