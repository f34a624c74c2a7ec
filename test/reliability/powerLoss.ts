/**
 * What a loss of power may leave of files, by a log of what a process did to them (`test/fixtures/syscalls.c`).
 *
 * A sync of a file keeps all that was written to it before; a sync of the folder keeps which names are in it. What came later is there,
 * or missing, or there in part: in sectors, in any order, with the length of the file before or after it.
 */
import { execFile } from "node:child_process"
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import Sqlite from "better-sqlite3"
import { Effect } from "effect"
import { contentOf, frameHeader, isCommit } from "./database.js"
import type { Dice } from "./dice.js"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** What the process under test enters into its ledger. */
export type Acknowledged =
  | { readonly what: "started"; readonly workflowId: string }
  | { readonly what: "sent"; readonly workflowId: string; readonly key: string }
  | { readonly what: "step"; readonly workflowId: string; readonly key: string; readonly output: unknown }
  | { readonly what: "done"; readonly workflowId: string; readonly outcome: string }

/** Files of the same name, one after the other, have other numbers. */
type Operation =
  | { readonly op: "create"; readonly file: number; readonly name: string }
  | { readonly op: "write"; readonly file: number; readonly at: number; readonly bytes: Buffer }
  | { readonly op: "truncate"; readonly file: number; readonly length: number }
  | { readonly op: "sync"; readonly file: number }
  | { readonly op: "syncFolder" }
  | { readonly op: "unlink"; readonly name: string }
  | { readonly op: "rename"; readonly name: string; readonly to: string }

/** A moment is the number of operations before it. */
export interface Recording {
  readonly operations: ReadonlyArray<Operation>
  readonly acknowledged: ReadonlyArray<{ readonly moment: number; readonly entry: Acknowledged }>
  /** The content of the database after each commit, the empty one first, and when its last write had been made. */
  readonly commits: ReadonlyArray<{ readonly moment: number; readonly content: string }>
}

const database = "durable.db"
const log = `${database}-wal`
const memory = `${database}-shm`
const ledger = "ledger"

// ---------------------------------------------------------------------------------------------------------------------
// the recording
// ---------------------------------------------------------------------------------------------------------------------

const run = promisify(execFile)

/** Compiles the library that records, and answers its path. */
export const recorder = Effect.promise(async () => {
  const library = `${root}node_modules/.cache/perdure/${process.pid}/syscalls.so`
  mkdirSync(dirname(library), { recursive: true })
  await run("cc", ["-shared", "-fPIC", "-O1", "-o", library, `${root}test/fixtures/syscalls.c`, "-ldl", "-lpthread"])
  return library
})

/** Runs the program in an empty folder, and reads what it did there. */
export const record = (options: {
  readonly library: string
  readonly program: string
  readonly folder: string
  readonly synchronous: "FULL" | "NORMAL"
  readonly seed: number
}): Effect.Effect<Recording> =>
  Effect.promise(async () => {
    const { folder, library, program, seed, synchronous } = options
    const [files, trace] = [join(folder, "files"), join(folder, "trace")]
    mkdirSync(files)
    await run(process.execPath, [program, files, synchronous, String(seed)], {
      env: { ...process.env, LD_PRELOAD: library, SYSCALLS_FOLDER: files, SYSCALLS_LOG: trace }
    })
    const recording = withCommits(join(folder, "replay"), parsed(readFileSync(trace)))
    rmSync(trace)
    rmSync(files, { recursive: true })
    return recording
  })

const parsed = (trace: Buffer): Omit<Recording, "commits"> => {
  const operations: Array<Operation> = []
  const acknowledged: Array<{ readonly moment: number; readonly entry: Acknowledged }> = []
  /** The system gives the number of a file that is gone to the next one. */
  const files = new Map<string, number>()
  let ledgerFile = -1
  for (let at = 0, count = 0; at < trace.length;) {
    const end = trace.indexOf(10, at)
    const [verb = "", one = "", two = "", three = ""] = trace.toString("utf8", at, end).split(" ")
    at = end + 1
    switch (verb) {
      case "open": {
        if (two === "1") {
          files.set(one, ++count)
          if (three === ledger) {
            ledgerFile = count
          } else {
            operations.push({ op: "create", file: count, name: three })
          }
        }
        break
      }
      case "write": {
        const bytes = trace.subarray(at, at + Number(three))
        at += bytes.length
        const file = files.get(one)!
        if (file === ledgerFile) {
          acknowledged.push({ moment: operations.length, entry: JSON.parse(bytes.toString()) })
        } else {
          operations.push({ op: "write", file, at: Number(two), bytes })
        }
        break
      }
      case "truncate": {
        operations.push({ op: "truncate", file: files.get(one)!, length: Number(two) })
        break
      }
      case "sync": {
        operations.push(one === "0" ? { op: "syncFolder" } : { op: "sync", file: files.get(one)! })
        break
      }
      case "unlink": {
        operations.push({ op: "unlink", name: one })
        break
      }
      case "rename": {
        operations.push({ op: "rename", name: one, to: two })
        break
      }
      default:
        throw new Error(`The log has a line of an unknown kind: ${verb}`)
    }
  }
  return { operations, acknowledged }
}

/** A commit is made with the last write of the frame that says so, whatever of it is on the disk. */
const withCommits = (folder: string, { acknowledged, operations }: Omit<Recording, "commits">): Recording => {
  const commits: Array<{ readonly moment: number; readonly content: string }> = [{
    moment: 0,
    content: "[[],[],[],[],[]]"
  }]
  const disk = new Disk()
  let isLast = false
  for (const [i, operation] of operations.entries()) {
    disk.apply(operation)
    if (operation.op !== "write" || disk.nameOf(operation.file) !== log) {
      continue
    }
    if (operation.bytes.length === frameHeader) {
      isLast = isCommit(operation.bytes)
    } else if (isLast) {
      isLast = false
      putFiles(folder, disk.now([database, log]))
      const bare = new Sqlite(join(folder, database))
      commits.push({ moment: i + 1, content: contentOf(bare) })
      bare.close()
    }
  }
  return { operations, acknowledged, commits }
}

// ---------------------------------------------------------------------------------------------------------------------
// the disk
// ---------------------------------------------------------------------------------------------------------------------

const sector = 512

type Change = Extract<Operation, { readonly op: "write" | "truncate" }>
type Entry = Extract<Operation, { readonly op: "create" | "unlink" | "rename" }>

/** The bytes of a file, in a buffer that grows. */
class Bytes {
  private buffer = Buffer.alloc(4_096)
  length = 0

  static of(other: Bytes): Bytes {
    const copy = new Bytes()
    copy.buffer = Buffer.from(other.buffer)
    copy.length = other.length
    return copy
  }

  write(at: number, bytes: Buffer): void {
    this.extend(Math.max(this.length, at + bytes.length))
    bytes.copy(this.buffer, at)
  }

  truncate(length: number): void {
    this.buffer.fill(0, Math.min(length, this.length), this.length)
    this.length = Math.min(length, this.length)
    this.extend(length)
  }

  apply(change: Change): void {
    change.op === "write" ? this.write(change.at, change.bytes) : this.truncate(change.length)
  }

  get content(): Buffer {
    return this.buffer.subarray(0, this.length)
  }

  private extend(length: number): void {
    if (length > this.buffer.length) {
      const larger = Buffer.alloc(2 * length)
      this.buffer.copy(larger, 0, 0, this.length)
      this.buffer = larger
    }
    this.length = length
  }
}

/** What is kept for sure, and what has been done since. */
class Disk {
  private readonly kept = new Map<number, Bytes>()
  private readonly changes = new Map<number, Array<Change>>()
  private readonly keptNames = new Map<string, number>()
  private readonly names = new Map<string, number>()
  private entries: Array<Entry> = []

  apply(operation: Operation): void {
    switch (operation.op) {
      case "create": {
        this.kept.set(operation.file, new Bytes())
        this.changes.set(operation.file, [])
        this.entries.push(operation)
        rename(this.names, operation)
        break
      }
      case "unlink":
      case "rename": {
        this.entries.push(operation)
        rename(this.names, operation)
        break
      }
      case "write":
      case "truncate": {
        this.changes.get(operation.file)!.push(operation)
        break
      }
      case "sync": {
        const file = this.kept.get(operation.file)!
        this.changes.get(operation.file)!.forEach((change) => file.apply(change))
        this.changes.set(operation.file, [])
        break
      }
      case "syncFolder": {
        this.entries.forEach((entry) => rename(this.keptNames, entry))
        this.entries = []
        break
      }
    }
  }

  nameOf(file: number): string | undefined {
    return [...this.names].find(([, other]) => other === file)?.[0]
  }

  /** The files as the process sees them. */
  now(wanted: ReadonlyArray<string>): Map<string, Buffer> {
    const files = new Map<string, Buffer>()
    for (const name of wanted) {
      const file = this.names.get(name)
      if (file !== undefined) {
        const bytes = Bytes.of(this.kept.get(file)!)
        this.changes.get(file)!.forEach((change) => bytes.apply(change))
        files.set(name, bytes.content)
      }
    }
    return files
  }

  /** The files as the power may leave them. */
  left(dice: Dice, tell: (what: string) => void): Map<string, Buffer> {
    const names = new Map(this.keptNames)
    const chance = dice.among([0, 0.5, 1])
    for (const entry of this.entries) {
      const isKept = dice.isBelow(chance)
      tell(`${entry.op} of ${entry.name} ${isKept ? "kept" : "lost"}`)
      if (isKept) {
        rename(names, entry)
      }
    }
    const files = new Map<string, Buffer>()
    for (const [name, file] of names) {
      files.set(name, name === memory ? dice.bytes(dice.below(200)) : this.leftOf(file, name, dice, tell))
    }
    return files
  }

  private leftOf(file: number, name: string, dice: Dice, tell: (what: string) => void): Buffer {
    const bytes = Bytes.of(this.kept.get(file)!)
    const changes = this.changes.get(file)!
    if (changes.length === 0) {
      return bytes.content
    }
    // In the order of writing up to a moment, or each sector for itself.
    const until = dice.isBelow(0.4) ? dice.below(changes.length + 1) : null
    const chance = dice.among([0, 0.05, 0.5, 0.95, 1])
    tell(
      `${name}: of ${changes.length} changes ${
        until === null ? `each sector with chance ${chance}` : `the first ${until}`
      }`
    )
    const whole = Bytes.of(bytes)
    for (const [i, change] of changes.entries()) {
      whole.apply(change)
      // The one at which the power goes is torn.
      const ofSector = until === null ? chance : i < until ? 1 : i === until ? 0.5 : 0
      if (change.op === "truncate") {
        if (dice.isBelow(ofSector)) {
          bytes.apply(change)
        }
        continue
      }
      for (let from = 0; from < change.bytes.length;) {
        const to = Math.min(change.bytes.length, from + sector - (change.at + from) % sector)
        if (dice.isBelow(ofSector)) {
          bytes.write(change.at + from, change.bytes.subarray(from, to))
        }
        from = to
      }
    }
    if (dice.isBelow(0.3) && whole.length > bytes.length) {
      // The length is there, and what should be in it is not: nothing, or what was on the disk before.
      const from = bytes.length
      bytes.truncate(whole.length)
      if (dice.isBelow(0.5)) {
        bytes.write(from, Buffer.alloc(whole.length - from, dice.bytes(sector)))
      }
      tell(`${name}: ${whole.length - from} bytes of length without content`)
    }
    return bytes.content
  }
}

const rename = (names: Map<string, number>, entry: Entry): void => {
  if (entry.op === "create") {
    names.set(entry.name, entry.file)
    return
  }
  const file = names.get(entry.name)
  names.delete(entry.name)
  if (entry.op === "rename" && file !== undefined) {
    names.set(entry.to, file)
  }
}

const putFiles = (folder: string, files: ReadonlyMap<string, Buffer>): void => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  for (const [name, bytes] of files) {
    writeFileSync(join(folder, name), bytes)
  }
}

/**
 * Puts into a folder what a loss of power at a moment may leave, and answers how the dice fell, for people.
 *
 * @param moment - how many operations were made before it
 */
export const leave = (
  { operations }: Recording,
  options: { readonly moment: number; readonly folder: string; readonly dice: Dice }
): ReadonlyArray<string> => {
  const disk = new Disk()
  for (const operation of operations.slice(0, options.moment)) {
    disk.apply(operation)
  }
  const story: Array<string> = []
  putFiles(options.folder, disk.left(options.dice, (what) => story.push(what)))
  return story
}

// ---------------------------------------------------------------------------------------------------------------------
// what is acknowledged
// ---------------------------------------------------------------------------------------------------------------------

/** Whether what was acknowledged is in the content of a database. */
const holds = (content: string, entry: Acknowledged): boolean => {
  // As the columns stand in the tables.
  const [runs, steps, , signals] = JSON.parse(content) as ReadonlyArray<ReadonlyArray<ReadonlyArray<unknown>>>
  const { workflowId } = entry
  switch (entry.what) {
    case "started":
      return runs!.some((row) => row[1] === workflowId)
    case "done":
      return runs!.some((row) =>
        row[1] === workflowId && row[5] === "COMPLETED" && row.at(-1) === JSON.stringify(entry.outcome)
      )
    case "step":
      return steps!.some((row) =>
        row[3] === entry.key && row[7] === "COMPLETED" && row.at(-2) === JSON.stringify(entry.output)
      )
    case "sent":
      return signals!.some((row) => row[1] === workflowId && row[2] === entry.key)
  }
}

/** With each acknowledgement, the commit that it is of, and whether the log was synced between its last write and that moment. */
export const grounds = ({ acknowledged, commits, operations }: Recording) => {
  const files = new Map<number, string>()
  for (const operation of operations) {
    if (operation.op === "create") {
      files.set(operation.file, operation.name)
    }
  }
  return acknowledged.map(({ entry, moment }) => {
    const commit = commits.findIndex(({ content }) => holds(content, entry))
    const between = operations.slice(commits[commit]?.moment ?? moment, moment)
    return {
      entry,
      moment,
      commit,
      isSynced: between.some((operation) => operation.op === "sync" && files.get(operation.file) === log)
    }
  })
}
