/** The text of every statement, for a dialect and a table prefix. Values are always bound. */
import type * as StepStore from "../../StepStore.js"
import type { Dialect } from "./dialect.js"

export type Value = string | number | null

const runSummaryFields = [
  "workflowId",
  "generation",
  "name",
  "version",
  "status",
  "owner",
  "epoch",
  "wakeAt",
  "parent",
  "createdAt",
  "updatedAt",
  "endedAt"
] as const satisfies ReadonlyArray<keyof StepStore.RunSummaryEncoded>

/** Payloads come last, here as in the tables: a listing then does not read the pages that only they are on. */
const runFields = [
  ...runSummaryFields,
  "stopReason",
  "begunAt",
  "deadlineAt",
  "cancelAt",
  "inbox",
  "trace",
  "fingerprint",
  "payloadCodec",
  "payloadDigest",
  "outcomeCodec",
  "outcomeDigest",
  "payload",
  "outcome"
] as const satisfies ReadonlyArray<keyof StepStore.RunRowEncoded>

const patchFields = [
  "status",
  "owner",
  "stopReason",
  "wakeAt",
  "updatedAt",
  "endedAt",
  "outcomeCodec",
  "outcomeDigest",
  "outcome"
] as const satisfies ReadonlyArray<keyof StepStore.RunPatchEncoded>

const insertFields = [
  "name",
  "version",
  "status",
  "owner",
  "parent",
  "deadlineAt",
  "trace",
  "fingerprint",
  "payloadCodec",
  "payloadDigest",
  "payload"
] as const satisfies ReadonlyArray<keyof StepStore.RunInsertEncoded>

const stepSummaryFields = [
  "stepKey",
  "stepId",
  "kind",
  "sequence",
  "status",
  "position",
  "attempt",
  "epoch",
  "final",
  "startedAt",
  "updatedAt"
] as const satisfies ReadonlyArray<keyof StepStore.StepSummaryEncoded>

const stepFields = [
  ...stepSummaryFields,
  "askedAfter",
  "fingerprint",
  "codec",
  "digest",
  "errorTag",
  "output",
  "error"
] as const satisfies ReadonlyArray<keyof StepStore.StepRowEncoded>

const attemptFields = [
  "stepKey",
  "attempt",
  "startedAt",
  "endedAt",
  "dueAt",
  "codec",
  "digest",
  "errorTag",
  "error"
] as const satisfies ReadonlyArray<keyof StepStore.AttemptRowEncoded>

const signalFields = [
  "signalId",
  "name",
  "sentAt",
  "codec",
  "digest",
  "value"
] as const satisfies ReadonlyArray<keyof StepStore.SignalEncoded>

/** A row that belongs to a run. */
export interface Of<Row> {
  readonly workflowId: string
  readonly generation: number
  readonly row: Row
}

/** A run to be created, as its columns want it. */
interface NewRun extends Omit<StepStore.RunInsertEncoded, "createdAt"> {
  readonly epoch: number
  readonly createdAt: number
}

const column = (field: string) => field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

const columns = (fields: ReadonlyArray<string>) => fields.map(column).join(", ")

/** Rows come back under the names that the encoded models have. */
const selection = (fields: ReadonlyArray<string>) => fields.map((field) => `${column(field)} AS "${field}"`).join(", ")

const assignments = (fields: ReadonlyArray<string>, value: (column: string) => string) =>
  fields.map((field) => `${column(field)} = ${value(column(field))}`).join(", ")

const holes = (count: number) => `(${Array.from({ length: count }, () => "?").join(", ")})`

const rowsOfHoles = (rows: number, count: number) => Array.from({ length: rows }, () => holes(count)).join(", ")

/** A statement that writes so many rows with one execution. */
export interface Sized {
  readonly rows: number
  readonly sql: string
}

/** How rows of one kind are written. Few sizes, so that each statement is prepared once. */
export interface Many<Row> {
  readonly several: ReadonlyArray<Sized>
  /** The rows of the largest. */
  readonly most: number
  readonly single: Sized
  readonly bind: (values: Array<Value>, row: Row) => void
  /** Characters of payload in a row. */
  readonly weight: (row: Row) => number
}

const most = 64

const many = <Row>(
  sql: (rows: number) => string,
  bind: (values: Array<Value>, row: Row) => void,
  weight: (row: Row) => number
): Many<Row> => {
  const sized = (rows: number): Sized => ({ rows, sql: sql(rows) })
  return { several: [most, 8].map(sized), most, single: sized(1), bind, weight }
}

const length = (text: string | null) => text === null ? 0 : text.length

/**
 * What the stored texts of a row come to, in bytes. Neither SQLite nor Postgres reads a text for that, which may lie on thousands of
 * pages.
 */
const octets = (texts: ReadonlyArray<string>) => texts.map((text) => `coalesce(octet_length(${text}), 0)`).join(" + ")

/** The statuses of the runs that somebody drives or should. The index on them is found by this very text. */
const isOpen = "status IN ('PENDING', 'RUNNING')"

/** The runs that wait for a time. The index on them is found by this very text. */
const sleeps = "status = 'SUSPENDED' AND wake_at IS NOT NULL"

const hasEnded = "status IN ('COMPLETED', 'FAILED', 'CANCELLED')"

/**
 * Nobody is the empty text here: then "nobody, or one of these" is one list, and a search of the index for each of it.
 */
const ownerOrNobody = "coalesce(owner, '')"

export const make = (dialect: Dialect, prefix: string, namespace: string) => {
  const workflows = `${prefix}workflows`
  const steps = `${prefix}steps`
  const attempts = `${prefix}attempts`
  const signals = `${prefix}signals`
  const workers = `${prefix}workers`

  const stepColumns = ["namespace", "workflowId", "generation", ...stepFields]
  const intoSteps = `INSERT INTO ${steps} (${columns(stepColumns)})`
  // A final record stays as it is: 2 is against the constraint of that name, so that the whole statement is undone.
  const ontoOldStep = `ON CONFLICT (namespace, workflow_id, generation, step_key) DO UPDATE SET ${
    stepFields.slice(1)
      .map((field) =>
        field === "final"
          ? `final = CASE ${steps}.final WHEN 0 THEN excluded.final ELSE 2 END`
          : `${column(field)} = excluded.${column(field)}`
      )
      .join(", ")
  }`

  const bindStep = (values: Array<Value>, of: Of<StepStore.StepRowEncoded>) => {
    values.push(namespace, of.workflowId, of.generation)
    for (const field of stepFields) {
      values.push(of.row[field])
    }
  }

  const bindPatch = (values: Array<Value>, patch: StepStore.RunPatchEncoded) => {
    for (const field of patchFields) {
      values.push(patch[field])
    }
  }

  /** Inserts so many steps of one run, if the run is in the epoch given last: a transaction in one statement. */
  const fencedSteps = (rows: number) =>
    `${intoSteps} SELECT * FROM (VALUES ${rowsOfHoles(rows, stepColumns.length)}) WHERE EXISTS (` +
    `SELECT 1 FROM ${workflows} WHERE namespace = ? AND workflow_id = ? AND epoch = ?) ${ontoOldStep}`

  const insertColumns = [
    "namespace",
    "workflowId",
    "generation",
    "epoch",
    "createdAt",
    "begunAt",
    "updatedAt",
    ...insertFields
  ]
  const insertRuns = many<Of<NewRun>>(
    (rows) => `INSERT INTO ${workflows} (${columns(insertColumns)}) VALUES ${rowsOfHoles(rows, insertColumns.length)}`,
    (values, { generation, row, workflowId }) => {
      values.push(namespace, workflowId, generation, row.epoch, row.createdAt, row.createdAt, row.createdAt)
      for (const field of insertFields) {
        values.push(row[field])
      }
    },
    ({ row }) => length(row.payload)
  )

  const asked = `WITH asked (run, gen) AS (${dialect.pairs})`
  const isOfAsked = (table: string) =>
    `${table}.namespace = ? AND ${table}.workflow_id = asked.run AND ${table}.generation = asked.gen`
  /** Counts no further than it must: a run may have a million rows. */
  const hasFew = (table: string) =>
    `(SELECT count(*) FROM (SELECT 1 FROM ${table} WHERE ${isOfAsked(table)} LIMIT ? + 1) AS some) <= ?`
  /** Of no more rows than that: where there are more, the sum is not looked at. */
  const octetsOf = (table: string, texts: ReadonlyArray<string>) =>
    `(SELECT coalesce(sum(octets), 0) FROM (SELECT ${octets(texts)} AS octets FROM ${table} ` +
    `WHERE ${isOfAsked(table)} LIMIT ?) AS some)`
  const ofAsked = (table: string, fields: ReadonlyArray<string>, order: string) =>
    `${asked} SELECT workflow_id AS "workflowId", ${selection(fields)} FROM asked CROSS JOIN ${table} ` +
    `WHERE ${isOfAsked(table)} ORDER BY ${order}`

  const selectHistory = `SELECT ${selection(stepFields)} FROM ${steps}`
  const isAfter = "namespace = ? AND workflow_id = ? AND generation = ? AND final = 1 AND position > ?"
  const inOrder = "ORDER BY position LIMIT ?"
  const weighed = `(SELECT position, ${octets(["output", "error"])} AS octets FROM ${steps} WHERE ${isAfter} ` +
    `${inOrder}) AS weighed`

  return {
    namespace,
    begin: dialect.begin,
    commit: "COMMIT",
    rollback: "ROLLBACK",
    // Gone with the transaction that it was made in.
    mark: "SAVEPOINT perdure_step",
    unmark: "RELEASE perdure_step",

    // -- commit

    fencedSteps: [1, 2, 3].map(fencedSteps),
    runsBefore: `SELECT workflow_id AS "workflowId", epoch, inbox, ${hasEnded} AS "ended" FROM ${workflows} ` +
      `WHERE namespace = ? AND ${dialect.isAmong("workflow_id")}`,
    insertRuns,
    /** Changes nothing: one row if the run is in that epoch. */
    fence: `UPDATE ${workflows} SET epoch = epoch WHERE namespace = ? AND workflow_id = ? AND epoch = ?`,
    /** Takes the lock for writing. */
    touch: `UPDATE ${workflows} SET epoch = epoch WHERE namespace = ? AND workflow_id = ?`,
    /** One statement, so that a transaction of the application takes the lock for writing before it reads. */
    insertIfAbsent: `${insertRuns.single.sql} ON CONFLICT (namespace, workflow_id) DO NOTHING`,
    patchRuns: many<Of<StepStore.RunPatchEncoded>>(
      (rows) =>
        `WITH patch (space, id, ${columns(patchFields)}) AS (VALUES ${rowsOfHoles(rows, patchFields.length + 2)}) ` +
        `UPDATE ${workflows} SET ${assignments(patchFields, (name) => `patch.${name}`)} ` +
        `FROM patch WHERE namespace = patch.space AND workflow_id = patch.id`,
      (values, { row, workflowId }) => {
        values.push(namespace, workflowId)
        bindPatch(values, row)
      },
      ({ row }) => length(row.outcome)
    ),
    /** A transaction in one statement: changes one row if the run is in that epoch, and its inbox has that version if one is given. */
    patchRun: `UPDATE ${workflows} SET ${assignments(patchFields, () => "?")} ` +
      `WHERE namespace = ? AND workflow_id = ? AND epoch = ? AND inbox = coalesce(?, inbox)`,
    bindPatch,
    reopenStep: `UPDATE ${steps} SET final = 0, position = NULL WHERE namespace = ? AND workflow_id = ? ` +
      `AND generation = ? AND step_key = ? AND final = 1 AND status = 'FAILED'`,
    putSteps: many<Of<StepStore.StepRowEncoded>>(
      (rows) => `${intoSteps} VALUES ${rowsOfHoles(rows, stepColumns.length)} ${ontoOldStep}`,
      bindStep,
      ({ row }) => length(row.output) + length(row.error)
    ),
    insertAttempts: many<Of<StepStore.AttemptRowEncoded>>(
      (rows) =>
        `INSERT INTO ${attempts} (namespace, workflow_id, generation, ${columns(attemptFields)}) ` +
        `VALUES ${rowsOfHoles(rows, attemptFields.length + 3)}`,
      (values, { generation, row, workflowId }) => {
        values.push(namespace, workflowId, generation)
        for (const field of attemptFields) {
          values.push(row[field])
        }
      },
      ({ row }) => length(row.error)
    ),
    bindStep,
    nextGeneration:
      `UPDATE ${workflows} SET generation = generation + 1, begun_at = ?, updated_at = ?, payload_codec = ?, ` +
      `payload_digest = ?, payload = ? WHERE namespace = ? AND workflow_id = ? AND generation = ?`,

    // -- what is sent to runs

    /** Of no effect if the id is there already: the same is sent once. */
    insertSignal: `INSERT INTO ${signals} (namespace, workflow_id, ${columns(signalFields)}, number) ` +
      `VALUES (?, ?, ${signalFields.map(() => "?").join(", ")}, ?) ON CONFLICT (namespace, workflow_id, signal_id) ` +
      `DO UPDATE SET sent_at = excluded.sent_at, codec = excluded.codec, digest = excluded.digest, ` +
      `value = excluded.value, number = excluded.number ` +
      `WHERE ${signals}.sent_at IS NULL AND excluded.sent_at IS NOT NULL AND ${signals}.name = excluded.name`,
    bindSignal: (values: Array<Value>, workflowId: string, signal: StepStore.SignalEncoded, number: number | null) => {
      values.push(namespace, workflowId)
      for (const field of signalFields) {
        values.push(signal[field])
      }
      values.push(number)
    },
    sent: `SELECT 1 FROM ${signals} WHERE namespace = ? AND workflow_id = ? AND signal_id = ? AND sent_at IS NOT NULL`,
    takeSignal: `UPDATE ${signals} SET taken_by = ? WHERE namespace = ? AND workflow_id = ? AND signal_id = ? ` +
      `AND taken_by IS NULL AND sent_at IS NOT NULL`,
    giveBack: `UPDATE ${signals} SET taken_by = NULL WHERE namespace = ? AND workflow_id = ? ` +
      `AND ${dialect.isAmong("taken_by")}`,
    /** Who sleeps is woken: it has to look into its inbox. */
    tell: `UPDATE ${workflows} SET inbox = inbox + 1, ${awake("status = 'SUSPENDED'")} ` +
      `WHERE namespace = ? AND ${dialect.isAmong("workflow_id")}`,
    cancel: `UPDATE ${workflows} SET inbox = inbox + 1, cancel_at = ?, ` +
      `stop_reason = NULL, ${awake("status IN ('SUSPENDED', 'STOPPED')")} ` +
      `WHERE namespace = ? AND workflow_id = ? AND cancel_at IS NULL`,
    namedMail: `SELECT ${selection(signalFields)} FROM ${signals} WHERE namespace = ? AND workflow_id = ? ` +
      `AND name = ? AND ${waits} AND NOT ${isToken} ORDER BY number LIMIT ?`,
    tokenMail: `SELECT ${selection(signalFields)} FROM ${signals} WHERE namespace = ? AND workflow_id = ? ` +
      `AND name = ? AND ${waits} AND signal_id = ? LIMIT ?`,
    inbox: `SELECT inbox, cancel_at AS "cancelAt" FROM ${workflows} WHERE namespace = ? AND workflow_id = ?`,
    inboxes: `SELECT workflow_id AS "workflowId", inbox AS "version" FROM ${workflows} ` +
      `WHERE namespace = ? AND ${dialect.isAmong("workflow_id")}`,
    token: `SELECT workflow_id AS "workflowId", name FROM ${signals} ` +
      `WHERE namespace = ? AND signal_id = ? AND ${isToken}`,
    insertChildren: many<Of<NewRun>>(
      (rows) =>
        `${insertRuns.several.concat(insertRuns.single).find((sized) => sized.rows === rows)!.sql} ` +
        `ON CONFLICT (namespace, workflow_id) DO NOTHING`,
      insertRuns.bind,
      insertRuns.weight
    ),

    // -- claim

    claimable: claimable(workflows, dialect),
    claim: `UPDATE ${workflows} SET owner = ?, epoch = epoch + 1, status = 'RUNNING', wake_at = NULL, updated_at = ? ` +
      `WHERE namespace = ? AND workflow_id IN (${claimable(workflows, dialect)}) RETURNING ${selection(runFields)}`,
    /** How often {@link claimable} wants the namespace and the conditions: for those that nobody drives, and those that sleep. */
    bindClaimable: (options: StepStore.ClaimOptions): ReadonlyArray<Value> => {
      const { names, workflowId } = options
      const chosen = [
        names === null ? 1 : 0,
        JSON.stringify(names),
        workflowId === null ? 1 : 0,
        workflowId,
        options.limit
      ]
      return [
        namespace,
        JSON.stringify(["", ...options.dead]),
        ...chosen,
        namespace,
        options.at,
        ...chosen,
        options.limit
      ]
    },
    nextWake: `SELECT wake_at AS "wakeAt" FROM ${workflows} WHERE namespace = ? AND ${sleeps} ` +
      `AND ${dialect.isAmong("name")} ORDER BY wake_at LIMIT 1`,

    // -- reads

    run: `SELECT ${selection(runFields)} FROM ${workflows} WHERE namespace = ? AND workflow_id = ?`,
    runsAmong: `SELECT ${selection(runFields)} FROM ${workflows} ` +
      `WHERE namespace = ? AND ${dialect.isAmong("workflow_id")}`,
    owned: `SELECT workflow_id AS "workflowId" FROM ${workflows} WHERE namespace = ? AND ${isOpen} ` +
      `AND ${ownerOrNobody} = ?`,
    ended:
      `SELECT ${selection(runFields)} FROM ${workflows} WHERE namespace = ? AND ${dialect.isAmong("workflow_id")} ` +
      `AND ${hasEnded}`,
    runs: `SELECT ${selection(runSummaryFields)} FROM ${workflows} WHERE namespace = ? AND workflow_id > ? ` +
      `ORDER BY workflow_id LIMIT ?`,
    history: `${selectHistory} WHERE ${isAfter} ${inOrder}`,
    /** As `history`, if those records come to less than so many bytes; else none. */
    lightHistory: `${selectHistory} WHERE ${isAfter} AND (SELECT sum(octets) FROM ${weighed}) < ? ${inOrder}`,
    /** How many records come next, as far as is asked, and how many of them are enough to come to so many bytes. */
    share: `SELECT CAST(count(*) AS INTEGER) AS "count", ` +
      `CAST(count(CASE WHEN behind IS NULL OR behind < ? THEN 1 END) AS INTEGER) AS "share" ` +
      `FROM (SELECT sum(octets) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS behind ` +
      `FROM ${weighed}) AS summed`,
    unfinished: `SELECT ${selection(stepFields)} FROM ${steps} WHERE namespace = ? AND workflow_id = ? ` +
      `AND generation = ? AND final <> 1 ORDER BY step_key`,
    steps: `SELECT ${selection(stepSummaryFields)} FROM ${steps} WHERE namespace = ? AND workflow_id = ? ` +
      `AND generation = ? AND step_key > ? ORDER BY step_key LIMIT ?`,
    attempts: `SELECT ${selection(attemptFields)} FROM ${attempts} WHERE namespace = ? AND workflow_id = ? ` +
      `AND generation = ? ORDER BY step_key, attempt`,

    /** Of runs that are asked for, those of which little is recorded. */
    short: `${asked} SELECT run AS "workflowId", gen AS "generation" FROM asked ` +
      `WHERE ${hasFew(steps)} AND ${hasFew(attempts)} ` +
      `AND ${octetsOf(steps, ["output", "error"])} + ${octetsOf(attempts, ["error"])} <= ?`,
    stepsOfAsked: ofAsked(steps, stepFields, "position, step_key"),
    attemptsOfAsked: ofAsked(attempts, attemptFields, "step_key, attempt"),

    // -- workers

    insertWorker: `INSERT INTO ${workers} (namespace, id, host, pid, started_at, beats) VALUES (?, ?, ?, ?, ?, 0) ` +
      `ON CONFLICT (namespace, id) DO UPDATE SET host = excluded.host, pid = excluded.pid, ` +
      `started_at = excluded.started_at, beats = excluded.beats`,
    /** Puts the row back if it is gone. */
    beat: `INSERT INTO ${workers} (namespace, id, host, pid, started_at, beats) VALUES (?, ?, ?, ?, ?, 1) ` +
      `ON CONFLICT (namespace, id) DO UPDATE SET beats = ${workers}.beats + 1`,
    pulses: `SELECT id, beats FROM ${workers} WHERE namespace = ? ORDER BY id`,
    deleteWorkers: `DELETE FROM ${workers} WHERE namespace = ? AND ${dialect.isAmong("id")}`,
    workers: `SELECT id FROM ${workers} WHERE namespace = ?`,
    // From each owner to the next one in the index: as many steps as there are owners, however many runs they have.
    owners: `WITH RECURSIVE owners (id) AS (SELECT '' UNION ALL SELECT (SELECT ${ownerOrNobody} FROM ${workflows} ` +
      `WHERE namespace = ? AND ${isOpen} AND ${ownerOrNobody} > owners.id ORDER BY ${ownerOrNobody} LIMIT 1) ` +
      `FROM owners WHERE id IS NOT NULL) SELECT id FROM owners WHERE id > ''`
  }
}

export type Statements = ReturnType<typeof make>

/** Each half is in the order of an index, so that a claim costs what it takes and not what there is. */
const claimable = (workflows: string, dialect: Dialect) => {
  const chosen = `AND (? OR ${dialect.isAmong("name")}) AND (? OR workflow_id = ?)`
  return `SELECT workflow_id FROM (SELECT workflow_id FROM ${workflows} WHERE namespace = ? AND ${isOpen} ` +
    `AND ${dialect.isAmong(ownerOrNobody)} ${chosen} ORDER BY created_at, workflow_id LIMIT ?) ` +
    `UNION ALL SELECT workflow_id FROM (SELECT workflow_id FROM ${workflows} WHERE namespace = ? AND ${sleeps} ` +
    `AND wake_at <= ? ${chosen} ORDER BY wake_at, created_at, workflow_id LIMIT ?) LIMIT ?`
}

/** A run in one of these statuses is claimable from now on. */
const awake = (which: string) =>
  `wake_at = CASE WHEN ${which} THEN NULL ELSE wake_at END, status = CASE WHEN ${which} THEN 'PENDING' ELSE status END`

/** A signal that can be taken. The index on them is found by this very text. */
const waits = "taken_by IS NULL AND sent_at IS NOT NULL"

/** A signal whose id was given away before anybody sent it. The index on them is found by this very text. */
const isToken = "substr(signal_id, 1, 1) = '~'"

/** The tables, a list of statements for each version. Forward only: what is released is never edited. */
export const migrations = (dialect: Dialect, prefix: string): ReadonlyArray<ReadonlyArray<string>> => [
  [
    // Rows of one commit belong to many runs. In a table kept in the order of its key, each would land on a page of its
    // own together with its payload; here the rows are appended, and only short index entries are scattered.
    `CREATE TABLE ${prefix}workflows (
      namespace TEXT NOT NULL,
      workflow_id TEXT NOT NULL,
      generation INTEGER NOT NULL,
      name TEXT NOT NULL,
      version TEXT,
      status TEXT NOT NULL
        CHECK (status IN ('PENDING', 'RUNNING', 'SUSPENDED', 'STOPPED', 'COMPLETED', 'FAILED', 'CANCELLED')),
      owner TEXT,
      epoch INTEGER NOT NULL,
      inbox INTEGER NOT NULL DEFAULT 0,
      wake_at INTEGER,
      deadline_at INTEGER,
      cancel_at INTEGER,
      parent TEXT,
      created_at INTEGER NOT NULL,
      begun_at INTEGER NOT NULL,
      updated_at INTEGER NOT NULL,
      ended_at INTEGER,
      trace TEXT,
      stop_reason TEXT,
      fingerprint TEXT NOT NULL,
      payload_codec TEXT,
      payload_digest TEXT,
      outcome_codec TEXT,
      outcome_digest TEXT,
      payload TEXT,
      outcome TEXT,
      PRIMARY KEY (namespace, workflow_id)
    ) ${dialect.heap}`,
    `CREATE INDEX ${prefix}workflows_open ON ${prefix}workflows (namespace, ${ownerOrNobody}, created_at, workflow_id)
      WHERE ${isOpen}`,
    `CREATE INDEX ${prefix}workflows_asleep ON ${prefix}workflows (namespace, wake_at, created_at, workflow_id)
      WHERE ${sleeps}`,
    `CREATE TABLE ${prefix}steps (
      namespace TEXT NOT NULL,
      workflow_id TEXT NOT NULL,
      generation INTEGER NOT NULL,
      step_key TEXT NOT NULL,
      step_id TEXT NOT NULL,
      kind TEXT NOT NULL,
      sequence INTEGER NOT NULL,
      status TEXT NOT NULL CHECK (status IN ('IN_PROGRESS', 'COMPLETED', 'FAILED')),
      position INTEGER,
      attempt INTEGER NOT NULL,
      epoch INTEGER NOT NULL,
      final INTEGER NOT NULL CONSTRAINT "a final record is never overwritten" CHECK (final IN (0, 1)),
      started_at INTEGER NOT NULL,
      updated_at INTEGER NOT NULL,
      asked_after INTEGER NOT NULL,
      fingerprint TEXT,
      codec TEXT,
      digest TEXT,
      error_tag TEXT,
      output TEXT,
      error TEXT,
      PRIMARY KEY (namespace, workflow_id, generation, step_key),
      CONSTRAINT "a final record has a position" CHECK (final = 0 OR position IS NOT NULL)
    ) ${dialect.heap}`,
    // A history is read by position, and a page of it must not cost the whole run; that no two records share a
    // position comes for nothing.
    `CREATE UNIQUE INDEX ${prefix}steps_history ON ${prefix}steps (namespace, workflow_id, generation, position)
      WHERE final = 1`,
    `CREATE TABLE ${prefix}attempts (
      namespace TEXT NOT NULL,
      workflow_id TEXT NOT NULL,
      generation INTEGER NOT NULL,
      step_key TEXT NOT NULL,
      attempt INTEGER NOT NULL,
      started_at INTEGER NOT NULL,
      ended_at INTEGER NOT NULL,
      due_at INTEGER,
      codec TEXT,
      digest TEXT,
      error_tag TEXT,
      error TEXT,
      PRIMARY KEY (namespace, workflow_id, generation, step_key, attempt)
    ) ${dialect.keyed}`,
    `CREATE TABLE ${prefix}signals (
      namespace TEXT NOT NULL,
      workflow_id TEXT NOT NULL,
      signal_id TEXT NOT NULL,
      name TEXT NOT NULL,
      number INTEGER,
      sent_at INTEGER,
      taken_by TEXT,
      codec TEXT,
      digest TEXT,
      value TEXT,
      PRIMARY KEY (namespace, workflow_id, signal_id)
    ) ${dialect.heap}`,
    `CREATE INDEX ${prefix}signals_waiting ON ${prefix}signals (namespace, workflow_id, name, number)
      WHERE ${waits}`,
    `CREATE INDEX ${prefix}signals_tokens ON ${prefix}signals (namespace, signal_id) WHERE ${isToken}`,
    `CREATE TABLE ${prefix}workers (
      namespace TEXT NOT NULL,
      id TEXT NOT NULL,
      host TEXT NOT NULL,
      pid INTEGER NOT NULL,
      started_at INTEGER NOT NULL,
      beats INTEGER NOT NULL,
      PRIMARY KEY (namespace, id)
    ) ${dialect.keyed}`
  ]
]
