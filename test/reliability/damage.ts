/** Damage to single cells of a database, as a failing disk, an overwritten page or somebody's script leaves it. */
import type Sqlite from "better-sqlite3"
import { FastCheck as fc } from "effect"
import type { StepStore } from "perdure"
import { attemptDigest, outcomeDigest, payloadDigest, signalDigest, stepDigest } from "../../src/internal/seals.js"

type Cell = string | number | bigint | Buffer | null

/** What is done to a cell. */
export type Kind =
  /** One bit of it is another one. */
  | "flip"
  /** It ends too early; a number is 0. */
  | "truncate"
  /** It is of another type, or nothing. */
  | "type"
  /** It is JSON of another shape, with a digest that fits: other code has written it. */
  | "schema"
  /** It is another one of the words, or one of the numbers, that may stand there. */
  | "word"

export interface Damage {
  readonly table: string
  readonly column: string
  readonly kind: Kind
  /** Which of the rows, which bit, which length. */
  readonly choice: number
}

interface Table {
  readonly key: ReadonlyArray<string>
  readonly columns: ReadonlyArray<string>
  /** Columns with JSON text: who has written it under another schema has written its digest too. */
  readonly json: Readonly<Record<string, (row: never) => Readonly<Record<string, string | null>>>>
}

const words: Readonly<Record<string, ReadonlyArray<Cell>>> = {
  "workflows.status": ["PENDING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETED", "FAILED", "CANCELLED", "MAYBE"],
  "workflows.generation": [0, 1],
  "workflows.epoch": [0, 1, 9],
  "workflows.owner": ["nobody", ""],
  "workflows.wake_at": [0, 1],
  "workflows.deadline_at": [0, 1],
  "steps.status": ["IN_PROGRESS", "COMPLETED", "FAILED", "MAYBE"],
  "steps.kind": ["step", "sleep", "signal", "answer", "child", "patch", "token", "compensation"],
  "steps.final": [0, 1, 2],
  "steps.position": [0, 1, 2, 9],
  "steps.attempt": [0, 1, 2, 9],
  "steps.error_tag": ["StepTimeout", "StepInterrupted", "OwnerDied", "Released"],
  "attempts.attempt": [0, 1, 2, 9],
  "attempts.error_tag": ["StepTimeout", "StepDied", "OwnerDied", "Released"],
  "attempts.due_at": [0, 1],
  "signals.number": [0, 1, 9]
}

const otherShape = "{\"other\":[\"shape\"]}"

const workflowKey = ["namespace", "workflow_id"]

const tables: Readonly<Record<string, Table>> = {
  workflows: {
    key: workflowKey,
    columns: [
      ...workflowKey,
      "generation",
      "name",
      "version",
      "status",
      "owner",
      "epoch",
      "inbox",
      "wake_at",
      "deadline_at",
      "cancel_at",
      "parent",
      "created_at",
      "begun_at",
      "updated_at",
      "ended_at",
      "trace",
      "stop_reason",
      "fingerprint",
      "payload_codec",
      "payload_digest",
      "outcome_codec",
      "outcome_digest",
      "payload",
      "outcome"
    ],
    json: {
      payload: (row: StepStore.RunRowEncoded) => ({
        payload: otherShape,
        payload_digest: payloadDigest(row, row, row.payloadCodec, otherShape)
      }),
      outcome: (row: StepStore.RunRowEncoded) => ({
        outcome: otherShape,
        outcome_codec: "identity",
        outcome_digest: outcomeDigest(row.status, "identity", otherShape)
      }),
      stop_reason: () => ({ stop_reason: otherShape }),
      trace: () => ({ trace: otherShape })
    }
  },
  steps: {
    key: [...workflowKey, "generation", "step_key"],
    columns: [
      ...workflowKey,
      "generation",
      "step_key",
      "step_id",
      "kind",
      "sequence",
      "status",
      "position",
      "attempt",
      "epoch",
      "final",
      "started_at",
      "updated_at",
      "asked_after",
      "fingerprint",
      "codec",
      "digest",
      "error_tag",
      "output",
      "error"
    ],
    json: {
      output: (row: StepStore.RunGeneration & StepStore.StepRowEncoded) => ({
        output: otherShape,
        codec: "identity",
        digest: row.final === 1 ? stepDigest(row, { ...row, codec: "identity", output: otherShape }) : null
      }),
      error: (row: StepStore.RunGeneration & StepStore.StepRowEncoded) => ({
        error: otherShape,
        codec: "identity",
        digest: row.final === 1 ? stepDigest(row, { ...row, codec: "identity", error: otherShape }) : null
      })
    }
  },
  attempts: {
    key: [...workflowKey, "generation", "step_key", "attempt"],
    columns: [
      ...workflowKey,
      "generation",
      "step_key",
      "attempt",
      "started_at",
      "ended_at",
      "due_at",
      "codec",
      "digest",
      "error_tag",
      "error"
    ],
    json: {
      error: (row: StepStore.RunGeneration & StepStore.AttemptRowEncoded) => ({
        error: otherShape,
        digest: attemptDigest(row, { ...row, error: otherShape })
      })
    }
  },
  signals: {
    key: [...workflowKey, "signal_id"],
    columns: [...workflowKey, "signal_id", "name", "number", "sent_at", "taken_by", "codec", "digest", "value"],
    json: {
      value: (row: StepStore.RunGeneration & StepStore.SignalEncoded) => ({
        value: otherShape,
        digest: signalDigest(row.workflowId, { ...row, value: otherShape })
      })
    }
  }
}

const cells = Object.entries(tables).flatMap(([table, { columns, json }]) =>
  columns.flatMap((column) => {
    const kinds: ReadonlyArray<Kind> = [
      "flip",
      "truncate",
      "type",
      ...column in json ? ["schema" as const] : [],
      ...`${table}.${column}` in words ? ["word" as const] : []
    ]
    return kinds.map((kind) => ({ table, column, kind }))
  })
)

/** So much damage, of each kind to each column, in an order that the seed decides. */
export const damages = (count: number, seed: number): ReadonlyArray<Damage> => {
  const choices = fc.sample(fc.nat({ max: 1_000_000 }), { numRuns: count, seed })
  const order = fc.sample(fc.shuffledSubarray(cells, { minLength: cells.length }), {
    numRuns: Math.ceil(count / cells.length),
    seed
  }).flat()
  return choices.map((choice, i) => ({ ...order[i]!, choice }))
}

const flipped = (cell: Cell, choice: number): Cell => {
  if (typeof cell === "bigint") {
    return BigInt.asIntN(64, cell ^ (1n << BigInt(choice % 63)))
  }
  const bytes = Buffer.from(String(cell ?? " "))
  const at = choice % Math.max(1, bytes.length)
  bytes[at] = (bytes[at] ?? 0x20) ^ (1 << (choice % 8))
  return bytes
}

const ofAnotherType = (cell: Cell, choice: number): Cell => {
  const others: ReadonlyArray<Cell> = typeof cell === "bigint"
    ? ["twelve", Buffer.from([0xff, 0]), 0.5, null]
    : [12n, Buffer.from([0xff, 0]), 0.5, cell === null ? "" : null]
  return others[choice % others.length]!
}

const damaged = (cell: Cell, { choice, column, kind, table }: Damage): Cell => {
  switch (kind) {
    case "truncate":
      return typeof cell === "string" ? cell.slice(0, choice % Math.max(1, cell.length)) : 0n
    case "type":
      return ofAnotherType(cell, choice)
    case "word": {
      const others = words[`${table}.${column}`]!.filter((word) => String(word) !== String(cell))
      const word = others[choice % others.length]!
      return typeof word === "number" ? BigInt(word) : word
    }
    default:
      return flipped(cell, choice)
  }
}

const camel = (column: string) => column.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())

const asModel = (row: Readonly<Record<string, Cell>>) =>
  Object.fromEntries(
    Object.entries(row).map(([column, cell]) => [camel(column), typeof cell === "bigint" ? Number(cell) : cell])
  )

/**
 * Damages a run through somebody else's connection.
 *
 * @returns what has been done, in words; `null` if the run has no such row
 */
const damageOne = (database: Sqlite.Database, workflowId: string, damage: Damage): string | null => {
  const { choice, column, kind, table } = damage
  const { json, key } = tables[table]!
  const rows = database.prepare(`SELECT * FROM ${table} WHERE workflow_id = ? ORDER BY ${key.join(", ")}`)
    .safeIntegers().all(workflowId) as ReadonlyArray<Readonly<Record<string, Cell>>>
  const row = rows[choice % Math.max(1, rows.length)]
  if (row === undefined) {
    return null
  }
  const changes: Readonly<Record<string, Cell>> = kind === "schema"
    ? json[column]!(asModel(row) as never)
    : { [column]: damaged(row[column]!, damage) }
  for (const [name, cell] of Object.entries(changes)) {
    const isText = cell instanceof Buffer && kind === "flip"
    database.prepare(
      `UPDATE ${table} SET ${name} = ${isText ? "CAST(? AS TEXT)" : "?"} WHERE ${
        key.map((part) => `${part} = ?`).join(" AND ")
      }`
    ).run(cell, ...key.map((part) => row[part]))
  }
  return `${kind} ${choice} of ${table}.${column} at ${key.slice(2).map((part) => String(row[part])).join(" ")}: ${
    Object.entries(changes).map(([name, cell]) => `${name} = ${shown(cell)}`).join(", ")
  }`
}

const shown = (cell: Cell) =>
  cell instanceof Buffer
    ? JSON.stringify(cell.toString("latin1"))
    : typeof cell === "bigint"
    ? `${cell}`
    : JSON.stringify(cell)

/**
 * Damages runs. What the tables check is not checked meanwhile: a disk does not either.
 *
 * @returns what has been done to each, in words; `null` where the run has no such row
 */
export const damageAll = (
  database: Sqlite.Database,
  what: ReadonlyArray<readonly [workflowId: string, damage: Damage]>
): ReadonlyArray<string | null> => {
  const version = database.pragma("schema_version", { simple: true }) as number
  const schema = database.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").all() as ReadonlyArray<
    { readonly name: string; readonly sql: string }
  >
  const rewrite = (sql: (table: { readonly name: string; readonly sql: string }) => string, by: number) => {
    const put = database.prepare("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?")
    schema.filter(({ name }) => name in tables).forEach((table) => put.run(sql(table), table.name))
    database.pragma(`schema_version = ${version + by}`)
  }
  database.unsafeMode(true)
  database.pragma("writable_schema = ON")
  database.pragma("ignore_check_constraints = ON")
  return database.transaction(() => {
    rewrite(({ sql }) => sql.replace(/ (TEXT|INTEGER)( NOT NULL)?\b/g, "").replace(/STRICT(, )?/, ""), 1)
    const done = what.map(([workflowId, damage]) => {
      try {
        return damageOne(database, workflowId, damage)
      } catch (error) {
        // Another row has this key, or a key is nothing: the indexes do not allow that, whoever writes.
        if (
          /^SQLITE_CONSTRAINT_(UNIQUE|PRIMARYKEY|NOTNULL)$/.test(String((error as { readonly code?: unknown }).code))
        ) {
          return null
        }
        throw error
      }
    })
    rewrite(({ sql }) => sql, 2)
    return done
  }).immediate()
}
