/** The store as a process of the simulation reaches it: now and then something befalls a call, or its process. */
import { Effect, Stream } from "effect"
import { Errors, type StepStore } from "perdure"
import { turns } from "../../support/harness.js"
import type { Dice } from "../dice.js"
import type { Weather } from "./plan.js"
import type { Process } from "./process.js"

type Store = StepStore.StepStore["Type"]

const lost = new Errors.StoreUnavailable({ target: "the store", detail: "this process is gone" })

const mishaps: ReadonlyArray<Errors.StoreError> = [
  new Errors.StoreBusy({ target: "the store", detail: "somebody else is writing" }),
  new Errors.StoreUnavailable({ target: "the store", detail: "nobody answers" }),
  new Errors.StoreFull({ target: "the store", detail: "no room is left" })
]

export const isStoreError = (error: unknown) => mishaps.some((one) => error instanceof one.constructor)

/** What happens is written here, word for word the same each time that a seed is run. */
export class Log {
  readonly entries: Array<string> = []
  tick = 0

  add(entry: string): void {
    this.entries.push(`${this.tick} ${entry}`)
  }
}

const shown = (
  { attempts, epoch, generation, inbox, insert, next, patch, signals, steps, workflowId }: StepStore.RunUpdate
) =>
  [
    `${workflowId}#${generation}@${epoch}`,
    ...(insert === null ? [] : ["new"]),
    ...(next === null ? [] : ["next"]),
    ...(inbox === null ? [] : [`if ${inbox}`]),
    ...(patch === null ? [] : [patch.status]),
    ...steps.map((row) => `${row.stepKey} ${row.kind} ${row.stepId} ${row.status} ${row.position}`),
    ...attempts.map((row) => `${row.stepKey} attempt ${row.attempt} ${row.errorTag}`),
    ...(epoch === null ? signals.map(({ name }) => `signal ${name}`) : [])
  ].join(", ")

/** Which workers live. Of one that was killed somebody has to notice it. */
export class Liveness {
  /** Beats of the workers whose death nobody has noticed, and all that there ever were. */
  private readonly beats = new Map<string, number>()
  private readonly workers: Array<string> = []

  register(workerId: string): void {
    this.workers.push(workerId)
    this.beats.set(workerId, 0)
  }

  forget(workerId: string): void {
    this.beats.delete(workerId)
  }

  beat(workerId: string) {
    const beats = this.beats.get(workerId)
    if (beats !== undefined) {
      this.beats.set(workerId, beats + 1)
    }
    return Array.from(this.beats, ([id, beats]) => ({ id, beats }))
  }

  dead(): ReadonlyArray<string> {
    return this.workers.filter((id) => !this.beats.has(id))
  }
}

/** Where the stores of all processes are. */
export interface Surroundings {
  readonly real: Store
  readonly dice: Dice
  readonly log: Log
  readonly liveness: Liveness
  /** That of the moment. */
  readonly weather: () => Weather
  readonly kill: (process: Process) => void
  readonly claimed: (process: Process, claimed: ReadonlyArray<StepStore.Claimed>) => void
  /** An update that the store has accepted, whether its process is told so or not. */
  readonly accepted: (process: Process, update: StepStore.RunUpdate) => void
  /** One of whose acceptance its process is told. */
  readonly acknowledged: (update: StepStore.RunUpdate) => void
}

type Reach = <A, E, R>(
  what: () => string,
  call: Effect.Effect<A, E | Errors.StoreError, R>
) => Effect.Effect<A, E | Errors.StoreError, R>

/** A call reaches the store, unless something befalls it or its process. */
const reachOf = (process: Process, { dice, kill, log, weather }: Surroundings): Reach => (what, call) => {
  const alive = Effect.zipRight(process.awake, Effect.suspend(() => process.gone ? Effect.fail(lost) : Effect.void))
  const slowly = Effect.suspend(() => turns(dice.isBelow(weather().slow) ? 1 + dice.below(5) : 0))
  const note = (how: string) => log.add(`${process.name} ${what()}${how}`)
  const befallen = Effect.suspend(() => {
    const { failed, last, unsaid } = weather()
    const mishap = () => mishaps[dice.below(mishaps.length)]!
    if (dice.isBelow(last)) {
      const written = dice.isBelow(0.5)
      note(` is its last, ${written ? "performed" : "not performed"}`)
      return Effect.zipRight(
        written ? Effect.ignore(call) : Effect.void,
        Effect.zipRight(Effect.sync(() => kill(process)), Effect.fail(lost))
      )
    }
    if (dice.isBelow(unsaid)) {
      note(" is performed and fails")
      return Effect.zipRight(Effect.ignore(call), Effect.fail(mishap()))
    }
    if (dice.isBelow(failed)) {
      note(" fails")
      return Effect.fail(mishap())
    }
    note("")
    return call
  })
  return alive.pipe(
    Effect.zipRight(slowly),
    Effect.zipRight(alive),
    Effect.zipRight(befallen),
    Effect.zipLeft(slowly),
    Effect.zipLeft(alive)
  )
}

const each = (
  batch: ReadonlyArray<StepStore.RunUpdate>,
  answers: Effect.Effect.Success<ReturnType<Store["commit"]>>,
  accepted: (update: StepStore.RunUpdate) => void
): void => answers.forEach((answer, i) => answer._tag === "Accepted" && accepted(batch[i]!))

/** The store of a process. */
export const storeOf = (process: Process, surroundings: Surroundings): Store => {
  const { accepted, acknowledged, claimed, dice, liveness, log, real, weather } = surroundings
  const reached = reachOf(process, surroundings)
  const performed = (batch: ReadonlyArray<StepStore.RunUpdate>) =>
    Effect.tap(real.commit(batch), (answers) =>
      Effect.sync(() => {
        answers.forEach(({ _tag }) => log.add(`  ${_tag}`))
        each(batch, answers, (update) => accepted(process, update))
      }))
  return {
    ...real,
    commit: (batch) =>
      Effect.tap(
        reached(() => `commit ${batch.map(shown).join("; ")}`, performed(batch)),
        (answers) => Effect.sync(() => each(batch, answers, acknowledged))
      ),
    claim: (options) =>
      reached(
        () => `claim ${options.workflowId ?? "any"}`,
        Effect.tap(real.claim(options), (runs) => Effect.sync(() => claimed(process, runs)))
      ),
    run: (id) => reached(() => `run ${id}`, real.run(id)),
    owned: (worker) => reached(() => "owned", real.owned(worker)),
    ended: (ids) => reached(() => `ended ${ids.join()}`, real.ended(ids)),
    inboxes: (ids) => reached(() => `inboxes ${ids.join()}`, real.inboxes(ids)),
    mail: (id, wanted) => reached(() => `mail ${id}`, real.mail(id, wanted)),
    token: (token) => reached(() => "token", real.token(token)),
    nextWake: (names) => reached(() => "nextWake", real.nextWake(names)),
    history: (id, generation, page) => reached(() => `history ${id}`, real.history(id, generation, page)),
    unfinished: (id, generation) => reached(() => `unfinished ${id}`, real.unfinished(id, generation)),
    records: (runs, limit) => reached(() => "records", real.records(runs, limit)),
    attempts: (id, generation) => reached(() => `attempts ${id}`, real.attempts(id, generation)),
    changes: Stream.filter(
      real.changes,
      (change) => change === null || !dice.isBelow(weather().untold)
    ),
    register: (info) =>
      Effect.asVoid(Effect.acquireRelease(
        Effect.sync(() => {
          process.workerId = info.id
          liveness.register(info.id)
        }),
        () => Effect.sync(() => process.gone ? undefined : liveness.forget(info.id))
      )),
    beat: (info) => reached(() => "beat", Effect.sync(() => liveness.beat(info.id))),
    dead: reached(() => "dead", Effect.sync(() => liveness.dead()))
  }
}
