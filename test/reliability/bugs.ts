/**
 * Ten bugs of the kind that this library must not have. They are put into its source as it is loaded, when the environment variable
 * `PERDURE_BUG` names one, by the test runner and by `test/support/bundle.ts`; so what is published knows nothing of them. The suite
 * must catch each: `test/reliability/bugs.test.ts` sees to that.
 */

/** A text of a file of `src`, found in it exactly once, and what stands in its place. */
export interface Edit {
  readonly file: string
  readonly text: string
  readonly instead: string
}

/** A test that fails. */
export interface Catch {
  readonly file: string
  /** Its whole name: the titles of its suites and its own. */
  readonly name: string
  /** A part of what it says then. */
  readonly says: string
}

export interface Bug {
  readonly name: string
  /** What is wrong. */
  readonly what: string
  /** Which promise of the library it breaks, and how. */
  readonly breaks: { readonly promise: number; readonly how: string }
  readonly edits: ReadonlyArray<Edit>
  /** Which tests notice it: some, that are quick, and not all. */
  readonly caughtBy: readonly [Catch, ...ReadonlyArray<Catch>]
}

export const bugs: ReadonlyArray<Bug> = [
  {
    name: "no-epoch-in-the-where",
    what: "A step is recorded whatever the epoch of its run is",
    breaks: { promise: 3, how: "a worker that has lost its run still writes to it" },
    edits: [{
      file: "internal/sql/statements.ts",
      text: "WHERE namespace = ? AND workflow_id = ? AND epoch = ?) $",
      instead: "WHERE namespace = ? AND workflow_id = ? AND ? IS NOT NULL) $"
    }],
    caughtBy: [{
      file: "test/promises.test.ts",
      name: "Promises (sqlite) > 3. One writer a run > " +
        "a worker that has lost its run cannot write to it, whatever it was about to write",
      says: "expected [ { stepKey: 'wf:0'"
    }]
  },
  {
    name: "normal-sync",
    what: "A commit does not wait for the disk unless it is asked to",
    breaks: { promise: 2, how: "a power cut takes back what was acknowledged" },
    edits: [{
      file: "SqliteStepStore.ts",
      text: "synchronous: \"FULL\" as const",
      instead: "synchronous: \"NORMAL\" as const"
    }],
    caughtBy: [{
      file: "test/hazards.test.ts",
      name: "hazard 1: a commit is not power-safe by default > " +
        "the store keeps it at 2 by default, on a new file and on an old one",
      says: "expected 1 to be 2"
    }]
  },
  {
    name: "deferred-begin",
    what: "A transaction takes the lock for writing when it first writes, which is after it has read",
    breaks: { promise: 8, how: "others who write can make it fail again and again, however long it waits" },
    edits: [{
      file: "internal/sql/dialect.ts",
      text: "begin: \"BEGIN IMMEDIATE\"",
      instead: "begin: \"BEGIN DEFERRED\""
    }],
    caughtBy: [{
      file: "test/hazards.test.ts",
      name: "hazard 2: transactions begin deferred > " +
        "the store holds the lock for writing from the first statement on, and reads behind it",
      says: "to be 'SQLITE_BUSY'"
    }]
  },
  {
    name: "acknowledgement-before-commit",
    what: "Whoever writes goes on before the commit begins; only a failure of it is told afterwards",
    breaks: { promise: 2, how: "what was acknowledged is lost if the process dies before the commit" },
    edits: [{
      file: "internal/journal.ts",
      text: `    return Effect.matchCauseEffect(this.commit(parts), {
      onSuccess: (answers) => tellAll(parts, (i) => Exit.succeed(answers[i]!)),
`,
      instead: `    const early = new Set(parts.filter(({ update }) => !isContested(update)))
    early.forEach((part) => tell(part, Exit.succeed({ _tag: "Accepted" })))
    return Effect.matchCauseEffect(this.commit(parts), {
      onSuccess: (answers) =>
        tellAll(
          parts.map((part, i) => early.has(part) && answers[i]!._tag === "Accepted" ? { ...part, entries: [] } : part),
          (i) => Exit.succeed(answers[i]!)
        ),
`
    }],
    caughtBy: [{
      file: "test/promises.test.ts",
      name: "Promises (sqlite) > 2. Nothing acknowledged is lost > " +
        "nothing goes on before what it rests on is written, however long that takes",
      says: "expected [ 'created', 'a', 'b'"
    }]
  },
  {
    name: "lost-notification",
    what: "Nobody looks into the inboxes by himself: a notification that gets lost is never made up for",
    breaks: { promise: 6, how: "a signal that has arrived does not wake its run" },
    edits: [{
      file: "internal/engine.ts",
      text: `{ discard: true })))),
      Effect.zipRight(quietly(lookAround))
`,
      instead: "{ discard: true }))))\n"
    }],
    caughtBy: [{
      file: "test/parking.test.ts",
      name: "No wake-up is lost (sqlite) > the slow poll finds a signal of which nobody was told",
      says: "what was awaited did not happen"
    }]
  },
  {
    name: "timer-by-another-clock",
    what: "A sleep ends by the clock of the process, and not by that of the engine",
    breaks: { promise: 7, how: "a timer fires early" },
    edits: [{
      file: "internal/activeRun.ts",
      text: "stop = callAt(this.household.after, () => this.now(), due, () => {",
      instead: "stop = callAt(this.household.after, () => Date.now(), due, () => {"
    }],
    caughtBy: [{
      file: "test/promises.test.ts",
      name: "Promises (sqlite) > 7. Timers never fire early > " +
        "and fire after any number of restarts; the time of the run never goes back",
      says: "expected [ { stepKey: 'wf:0'"
    }]
  },
  {
    name: "signal-taken-twice",
    what: "A signal is given to each who waits for one of its name, and may be taken when it has been taken before",
    breaks: { promise: 1, how: "one signal is the recorded outcome of two operations" },
    edits: [
      {
        file: "internal/mailbox.ts",
        text: "fits(waiter, signal) && !this.given.has(signal.signalId)",
        instead: "fits(waiter, signal)"
      },
      {
        file: "internal/sql/statements.ts",
        text: "`AND taken_by IS NULL AND sent_at IS NOT NULL`,\n    giveBack:",
        instead: "`AND sent_at IS NOT NULL`,\n    giveBack:"
      }
    ],
    caughtBy: [{
      file: "test/signals.test.ts",
      name:
        "Signal.next (sqlite) > gives to those who wait in several branches in the order in which they came to wait",
      says: "expected [ 'a', 'a', 'a' ] to deeply equal [ 'a', 'b', 'c' ]"
    }]
  },
  {
    name: "swallowed-busy",
    what: "A commit that never got the lock is taken for done",
    breaks: { promise: 2, how: "what was acknowledged was never written" },
    edits: [{
      file: "internal/sql/store.ts",
      text: "return alone === null ? commitAll(batch) : commitAlone(batch, alone)",
      instead: `return Effect.catchTag(alone === null ? commitAll(batch) : commitAlone(batch, alone), "StoreBusy", () =>
      Effect.succeed(batch.map(() => accepted)))`
    }],
    caughtBy: [{
      file: "test/SqliteStepStore.test.ts",
      name: "waiting for the lock > patience is an option, and ends with StoreBusy",
      says: "[{\"_tag\":\"Accepted\"}]"
    }]
  },
  {
    name: "digest-off",
    what: "The digest of a recorded step is not compared with what is read",
    breaks: { promise: 1, how: "a flipped bit is a wrong answer to a replay" },
    edits: [{
      file: "StepStore.ts",
      text: "? row.digest !== stepDigest(owner, row)",
      instead: "? row.digest === null"
    }],
    caughtBy: [{
      file: "test/StepStore.test.ts",
      name: "damage > an output that was changed behind the store's back is StoreCorrupt for its run",
      says: "\"output\":\"1\""
    }]
  },
  {
    name: "migration-not-read-back",
    what: "That the tables have been made is believed, and not looked at",
    breaks: { promise: 10, how: "a store without tables opens, and the caller is not told what is wrong" },
    edits: [{
      file: "internal/sql/sqlite.ts",
      text: "  yield* ensure(found.version === expected, () => mismatch(found))\n",
      instead: ""
    }],
    caughtBy: [{
      file: "test/SqliteStepStore.test.ts",
      name: "what is asserted when the layer is built > a migration that was reported and not made is refused",
      says: "\"interfaceVersion\""
    }]
  }
]

/** Puts the edits of a bug that concern a file, a path relative to `src`, into its text. */
export const seed = ({ edits, name }: Bug, file: string, source: string): string =>
  edits.filter((edit) => edit.file === file).reduce((edited, { instead, text }) => {
    const found = edited.split(text).length - 1
    if (found !== 1) {
      throw new Error(`The bug ${name} cannot be seeded: src/${file} contains ${JSON.stringify(text)} ${found} times`)
    }
    return edited.replace(text, () => instead)
  }, source)

/** The bug that the environment asks for. */
export const seededBug = (): Bug | null => {
  const name = process.env.PERDURE_BUG
  if (name === undefined) {
    return null
  }
  const bug = bugs.find((bug) => bug.name === name)
  if (bug === undefined) {
    throw new Error(`There is no bug ${JSON.stringify(name)}: they are ${bugs.map((bug) => bug.name).join(", ")}`)
  }
  return bug
}
