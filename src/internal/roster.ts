/** The runs that live in this process, and how runs come to live here: created, claimed, or found orphaned. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Runtime from "effect/Runtime"
import type { StoreError } from "../Errors.js"
import type { Claimed, Records, RunPatch, RunRow, StepStore } from "../StepStore.js"
import type { Household, RunIdentity } from "./activeRun.js"
import { Alarm } from "./alarm.js"
import type { Program } from "./body.js"
import { ofDefinition } from "./body.js"
import { emptyUpdate, engineClosed } from "./journal.js"
import type { Pulse } from "./pulse.js"
import { asReason, pendingPatch, Residency, stoppedPatch } from "./residency.js"
import type { Registration, RunEnd, StartRequest } from "./run.js"
import { turn } from "./scheduler.js"
import { Watchers } from "./watchers.js"
import { wholeMillis } from "./wholeMillis.js"

/** Runs taken over in one transaction. */
const claimSize = 100

/** Of a claimed run of which more is recorded, the history is read alone: a thousand may be claimed at a time. */
const readTogether = { steps: 100, bytes: 64 * 1024 }

const noReturn = () => {}

interface Registered {
  readonly registration: Registration
  readonly runtime: Runtime.Runtime<unknown>
}

export const identityOf = (row: RunRow): RunIdentity => ({
  workflowId: row.workflowId,
  name: row.name,
  generation: row.generation,
  epoch: row.epoch,
  begunAt: row.begunAt,
  deadlineAt: row.deadlineAt,
  cancelled: row.cancelAt !== null,
  inbox: row.inbox,
  parent: row.parent,
  fingerprint: row.fingerprint,
  trace: row.trace,
  parks: true
})

/** A run of epoch 1, created just now. */
export const freshIdentity = (
  { deadlineAt, fingerprint, name, trace, workflowId }: StartRequest,
  begunAt: number,
  parks: boolean
): RunIdentity => ({
  workflowId,
  name,
  generation: 0,
  epoch: 1,
  begunAt,
  deadlineAt,
  cancelled: false,
  inbox: 0,
  parent: null,
  fingerprint,
  trace,
  parks
})

export interface RosterOptions {
  readonly worker: string
  readonly store: StepStore["Type"]
  readonly pulse: Pulse
  /** The most runs of definitions that may live here. */
  readonly maxResidentRuns: number
  /** How long the steps in flight have when runs are to leave, in milliseconds. */
  readonly shutdownGrace: number
  readonly household: Household
  readonly clock: Clock.Clock
  readonly fork: (effect: Effect.Effect<unknown>) => Fiber.RuntimeFiber<unknown>
}

export class Roster {
  readonly registered = new Map<string, Registered>()
  readonly residents = new Map<string, Residency>()
  readonly watchers = new Watchers()
  private readonly alarm: Alarm
  private readonly options: RosterOptions
  /** Runs on their way: owned by this worker in the store, perhaps, and not living here yet. */
  private readonly arriving = new Map<string, number>()
  /** Those of them to which something has been sent meanwhile. */
  private readonly toldOnTheWay = new Set<string>()
  /** Runs to which something has been sent during claims, which may bring them. */
  private readonly toldInClaims = new Set<string>()
  /** During claims: something may have been sent to any run. */
  private toldAll = false
  /** How many claims are under way that may bring any run. */
  private claiming = 0
  /** Runs that have ended here for good since the last change was heard of. */
  private over = new Set<string>()
  /** Runs that could not be created for all one knows: if they were, they are this worker's, and nobody drives them. */
  private readonly doubtful = new Set<string>()
  private claimInDoubt = false
  /** Owners that were dead when the store was asked last. Nobody comes back from the dead: a new life has a new id. */
  private dead: ReadonlyArray<string> = []
  /** For runs of definitions; none in an engine that has closed. */
  private places: number
  /** Those that live here, and those kept for runs on their way. */
  private occupied = 0
  /** How often there was no room for a run, and how many of those times have been made up for since. */
  private refused = 0
  private servedUpTo = 0
  /** Of these times, the last at which there was a run, as opposed to a question whether there is one that was not asked. */
  private turnedAway = 0
  private refilling = false
  private closed = false

  constructor(options: RosterOptions) {
    this.options = options
    const { fork, household } = options
    this.alarm = new Alarm(household.after, () => this.now(), () => fork(quietly(this.claimAll([]))))
    this.places = options.maxResidentRuns
  }

  /** Fails once the engine's layer has been closed. */
  readonly whileOpen: Effect.Effect<void, StoreError> = Effect.suspend(() =>
    this.closed ? Effect.fail(engineClosed(this.options.store.target)) : Effect.void
  )

  /** Gives every run up, and tells those who wait. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.closed = true
    this.alarm.stop()
    this.places = 0
    return Effect.zipRight(this.leave(() => true), Effect.sync(() => this.watchers.notify(null)))
  })

  /** Gives the runs chosen up, for others to take, as soon as their steps in flight have ended or the grace is over. */
  leave(chosen: (residency: Residency) => boolean): Effect.Effect<void> {
    return Effect.suspend(() => {
      const leaving = [...this.residents.values()].filter(chosen)
      leaving.forEach((residency) => residency.drain())
      const left = Effect.forEach(leaving, (residency) => residency.left, { concurrency: "unbounded", discard: true })
      return Effect.interruptible(left).pipe(
        Effect.timeoutOption(this.options.shutdownGrace),
        Effect.zipRight(Effect.sync(() => leaving.forEach((residency) => residency.giveUp()))),
        Effect.zipRight(left)
      )
    })
  }

  // -- room

  /** How many more runs may live here. */
  private get room(): number {
    return this.places - this.occupied
  }

  /** There are runs, for all one knows, that could not be taken for want of room. */
  private get waiting(): boolean {
    return this.refused > this.servedUpTo
  }

  /** There are such runs indeed. */
  get crowded(): boolean {
    return this.turnedAway > this.servedUpTo
  }

  private refuse() {
    this.turnAway()
    this.vacate(0)
  }

  /** There was no room for a run. Those that rest make some. */
  private turnAway() {
    const { crowded } = this
    this.turnedAway = ++this.refused
    if (!crowded) {
      for (const residency of this.residents.values()) {
        residency.hurry()
      }
    }
  }

  /** Runs leave many at a time, and those that take their places should come many at a time: waits while more and more leave. */
  private readonly emptied: Effect.Effect<void> = Effect.suspend(() => {
    const { room } = this
    return Effect.flatMap(turn, () => room < this.room && this.room < claimSize ? this.emptied : Effect.void)
  })

  /** Places have become free: who has been waiting is taken at once. */
  private vacate(places: number) {
    this.occupied -= places
    if (this.waiting && this.room > 0 && !this.refilling) {
      this.refilling = true
      const rested = Effect.sync(() => {
        this.refilling = false
      })
      // Who left meanwhile has not been heard. A claim that failed is made again with the next one who leaves.
      const again = Effect.zipRight(rested, Effect.sync(() => this.vacate(0)))
      this.options.fork(
        Effect.ensuring(quietly(Effect.zipRight(Effect.zipRight(this.emptied, this.claimAll([])), again)), rested)
      )
    }
  }

  /** Creates a run: owned by this worker, if its workflow is registered here and there is room. Not to be interrupted. */
  create<A, E>(name: string, insert: (owned: boolean) => Effect.Effect<A, E>): Effect.Effect<A, E> {
    return Effect.suspend(() => {
      if (!this.registered.has(name)) {
        return insert(false)
      }
      if (this.room <= 0) {
        // Noted afterwards: a claim that is under way may have looked before the run was there.
        return finallySync(insert(false), () => this.refuse())
      }
      this.occupied++
      return finallySync(insert(true), () => this.vacate(1))
    })
  }

  // -- living here

  /**
   * Lets a run live here until it ends, stops or leaves; after an earlier life of it here, which may still be leaving. In an
   * engine that has closed meanwhile it leaves at once.
   */
  inhabit(
    identity: RunIdentity,
    fresh: boolean,
    program: Program,
    onLeft: () => void = noReturn,
    recorded: Records | null = null
  ): Residency {
    const { workflowId } = identity
    const before = this.residents.get(workflowId)
    // Its epoch is over. What it still tries to write is in vain, and must not be waited for.
    before?.giveUp()
    const residency = new Residency(identity, this.options.store, this.options.household)
    residency.foreseen = recorded
    this.residents.set(workflowId, residency)
    if (this.closed) {
      residency.giveUp()
    }
    if (this.toldAll || this.toldOnTheWay.has(workflowId) || this.toldInClaims.has(workflowId)) {
      residency.look(null)
    }
    const life = residency.live(fresh, program, (end) => {
      if (residency.endsForGood) {
        this.hasEnded(workflowId, end)
      }
      if (this.residents.get(workflowId) === residency) {
        this.residents.delete(workflowId)
      }
      this.watchers.notify([workflowId])
      onLeft()
    })
    this.options.fork(before === undefined ? life : Effect.zipRight(before.left, life))
    return residency
  }

  /** Lets a run live here if its workflow is registered still; gives it back if not. */
  inhabitDefined(
    identity: RunIdentity,
    fresh: boolean,
    payload: string | null,
    recorded: Records | null = null
  ): Effect.Effect<void> {
    return Effect.suspend(() => {
      const registered = this.registered.get(identity.name)
      return registered === undefined
        ? this.patch(identity, pendingPatch(this.now()))
        : Effect.sync(() => {
          this.occupied++
          this.inhabit(
            identity,
            fresh,
            ofDefinition(registered.registration, payload, registered.runtime),
            () => this.vacate(1),
            recorded
          )
        })
    })
  }

  /** A run was to end for good; a change that was heard of meanwhile was taken for that. */
  private hasEnded(workflowId: string, end: RunEnd | null) {
    if (end !== null && end.status !== "STOPPED") {
      this.over.add(workflowId)
    } else {
      this.options.fork(quietly(this.claimAll([])))
    }
  }

  /**
   * Those of a change's runs that it may have made claimable: all but those that live here and are not about to leave, and those that
   * have ended here for good.
   */
  strangers(workflowIds: ReadonlyArray<string>): ReadonlyArray<string> {
    return workflowIds.filter((workflowId) => !this.over.has(workflowId) && !this.lives(workflowId))
  }

  /** A change has been heard of. What has ended before is in it or was in an earlier one. */
  heard(): void {
    if (this.over.size > 0) {
      this.over = new Set()
    }
  }

  private lives(workflowId: string): boolean {
    const residency = this.residents.get(workflowId)
    return residency !== undefined && (residency.endsForGood || !residency.leaving)
  }

  /** Something has been sent to these runs. */
  tell(workflowIds: Iterable<string>): void {
    for (const workflowId of workflowIds) {
      this.residents.get(workflowId)?.look(null)
      if (this.arriving.has(workflowId)) {
        this.toldOnTheWay.add(workflowId)
      }
      if (this.claiming > 0) {
        this.toldInClaims.add(workflowId)
      }
    }
  }

  /** Something may have been sent to the runs that are on their way. */
  tellArriving(): void {
    this.tell(this.arriving.keys())
    this.toldAll = this.claiming > 0
  }

  /** Marks a run as on its way while an effect brings it here, so that it is not taken for an orphan. Not to be interrupted. */
  arrive<A, E, R>(workflowId: string, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      this.arriving.set(workflowId, (this.arriving.get(workflowId) ?? 0) + 1)
      return finallySync(self, () => {
        const others = this.arriving.get(workflowId)! - 1
        if (others === 0) {
          this.arriving.delete(workflowId)
          this.toldOnTheWay.delete(workflowId)
        } else {
          this.arriving.set(workflowId, others)
        }
      })
    })
  }

  /** Creating the run failed: the store may have created it all the same. */
  doubt(workflowId: string): void {
    this.doubtful.add(workflowId)
  }

  /** Takes up what came to be this worker's although that seemed to fail, each on its own. */
  readonly doubts: Effect.Effect<ReadonlyArray<Effect.Effect<void, StoreError>>, StoreError> = Effect.suspend(() =>
    Effect.map(this.doubtClaims, () =>
      Array.from(
        this.doubtful,
        (workflowId) =>
          Effect.flatMap(this.options.store.run(workflowId), (row) =>
            Effect.zipRight(
              Option.isSome(row) ? this.adopt(row.value) : Effect.void,
              Effect.sync(() => {
                // A claim that is under way might have brought it, and did not: the doubt remains.
                if (!Option.exists(row, (row) => this.misses(row))) {
                  this.doubtful.delete(workflowId)
                }
              })
            ))
      ))
  )

  /** Takes a run up that is this worker's and does not live here, if that is so. */
  adopt(row: RunRow): Effect.Effect<void, StoreError> {
    return Effect.suspend(() => this.isElsewhere(row) ? Effect.void : this.claimOne(row))
  }

  // -- claiming

  /**
   * Takes over what nobody or a dead worker owns, of the workflows registered here, as far as there is room.
   *
   * @param hung - workers that are taken for dead at this moment
   * @param more - the last claim brought as many as it might
   */
  claimAll(hung: ReadonlyArray<string>, more = false): Effect.Effect<void, StoreError> {
    return Effect.suspend(() => {
      if (this.registered.size === 0) {
        this.servedUpTo = this.refused
        return Effect.void
      }
      const limit = Math.min(claimSize, this.room)
      if (limit <= 0) {
        if (more) {
          this.turnAway()
        } else {
          this.refused++
        }
        return Effect.void
      }
      const served = this.refused
      return Effect.flatMap(
        this.claim([...this.registered.keys()], null, [...this.dead, ...hung], limit),
        (claimed) => {
          if (claimed.length === limit) {
            return this.claimAll(hung, true)
          }
          this.servedUpTo = Math.max(this.servedUpTo, served)
          return Effect.map(
            this.options.store.nextWake([...this.registered.keys()]),
            Option.map((at) => this.wakeAt(at))
          )
        }
      )
    })
  }

  /** A run that may live here goes on at this time, in epoch milliseconds; `null` if only something from outside wakes it. */
  wakeAt(at: number | null): void {
    if (at !== null && !this.closed) {
      this.alarm.setAt(at)
    }
  }

  /** Asks the store who has died, and takes over what they and nobody owns. */
  readonly recover: Effect.Effect<void, StoreError> = Effect.suspend(() =>
    Effect.zipRight(this.lookForDead, this.claimAll([]))
  )

  /** Takes one run over, if nobody alive owns it. Without room, it is left to whoever has some. */
  claimOne(row: RunRow): Effect.Effect<void, StoreError> {
    return Effect.uninterruptible(Effect.flatMap(this.goneOwners(row), (dead) => {
      if (this.room > 0) {
        return Effect.asVoid(this.claim([row.name], row.workflowId, dead, 1))
      }
      const given = this.orphaned(row)
        ? this.options.store.commit([{ ...emptyUpdate(row), patch: pendingPatch(this.now()) }])
        : Effect.void
      return Effect.zipRight(given, Effect.sync(() => this.refuse()))
    }))
  }

  /** What is claimed and then interrupted before it lives here would be an orphan, unless the engine closes. */
  private claim(names: ReadonlyArray<string>, workflowId: string | null, dead: ReadonlyArray<string>, limit: number) {
    return Effect.suspend(() => {
      this.claiming++
      this.occupied += limit
      return Effect.ensuring(
        Effect.tap(
          this.claimRows(names, workflowId, dead, limit),
          (claimed) =>
            Effect.flatMap(
              this.recordsOf(claimed),
              (records) =>
                Effect.forEach(claimed, (one) => this.admit(one, records.get(one.workflowId) ?? null), {
                  discard: true
                })
            )
        ),
        Effect.sync(() => {
          this.claimed()
          this.vacate(limit)
        })
      )
    })
  }

  /** A claim is over: what it brought lives here, and is told itself from now on. */
  private claimed() {
    this.claiming--
    if (this.claiming === 0) {
      this.toldAll = false
      this.toldInClaims.clear()
    }
  }

  /** Takes runs over without letting them live here yet. */
  claimRows(
    names: ReadonlyArray<string>,
    workflowId: string | null,
    dead: ReadonlyArray<string>,
    limit: number
  ): Effect.Effect<ReadonlyArray<Claimed>, StoreError> {
    const { store, worker } = this.options
    return Effect.tapErrorCause(
      store.claim({ worker, names, workflowId, dead, limit, at: this.now() }),
      () =>
        Effect.sync(() => {
          this.claimInDoubt = true
        })
    )
  }

  /** A claim has failed: the store may have made this worker the owner of runs all the same. */
  private readonly doubtClaims: Effect.Effect<void, StoreError> = Effect.suspend(() =>
    this.claimInDoubt
      ? Effect.map(this.options.store.owned(this.options.worker), (owned) => {
        this.claimInDoubt = false
        for (const workflowId of owned) {
          if (!this.residents.has(workflowId)) {
            this.doubtful.add(workflowId)
          }
        }
      })
      : Effect.void
  )

  private readonly lookForDead: Effect.Effect<ReadonlyArray<string>, StoreError> = Effect.suspend(() =>
    Effect.tap(this.options.store.dead, (dead) =>
      Effect.sync(() => {
        this.dead = dead
      }))
  )

  /**
   * Workers that cannot drive the run: dead ones, its owner if that one hangs, and this one, if the store believes that the run is
   * here and it is not.
   */
  goneOwners(row: RunRow): Effect.Effect<ReadonlyArray<string>, StoreError> {
    return Effect.zipWith(
      this.lookForDead,
      this.options.pulse.isHung(row.owner),
      (dead, hung) => hung || this.orphaned(row) ? [...dead, row.owner!] : dead
    )
  }

  private orphaned(row: RunRow): boolean {
    return this.misses(row) && this.claiming === 0 && !this.arriving.has(row.workflowId)
  }

  /** The run is this worker's for the store, and does not live here; it may be on its way. */
  private misses(row: RunRow): boolean {
    return row.owner === this.options.worker && !this.residents.has(row.workflowId)
  }

  /** Whether the store and this process agree on where the run is. An answer of the store that was lost makes them differ. */
  isElsewhere(row: RunRow): boolean {
    return !this.orphaned(row) || !this.registered.has(row.name)
  }

  /** What is recorded of the runs, read together. What cannot be read so each of them reads alone, and is told why it cannot. */
  private recordsOf(claimed: ReadonlyArray<Claimed>): Effect.Effect<ReadonlyMap<string, Records>> {
    const lived = claimed.filter(({ epoch }) => epoch > 1)
    return lived.length < 2
      ? Effect.succeed(new Map())
      : Effect.match(this.options.store.records(lived, readTogether), {
        onFailure: () => new Map(),
        onSuccess: (all) =>
          new Map(
            all.flatMap(({ records, workflowId }) =>
              Either.isRight(records) ? [[workflowId, records.right] as const] : []
            )
          )
      })
  }

  private admit(claimed: Claimed, recorded: Records | null): Effect.Effect<void> {
    return Either.match(claimed.run, {
      // The row is damaged: this run stops, and the others go on.
      onLeft: (error) => this.patch(claimed, stoppedPatch(this.now(), asReason(error))),
      // The first epoch of a run begins with its first life: nothing is recorded of it, whatever has been sent to it.
      onRight: (row) => this.inhabitDefined(identityOf(row), row.epoch === 1, row.payload, recorded)
    })
  }

  private patch(run: Pick<RunIdentity, "workflowId" | "generation" | "epoch">, patch: RunPatch): Effect.Effect<void> {
    return Effect.catchAll(
      this.options.store.commit([{ ...emptyUpdate(run), patch }]),
      (error) => Effect.logWarning(`Run ${JSON.stringify(run.workflowId)} could not be given back`, error.message)
    )
  }

  private now(): number {
    return wholeMillis(this.options.clock)
  }
}

/** As `Effect.ensuring`, for an effect that is not interrupted; a third of the cost. */
const finallySync = <A, E, R>(self: Effect.Effect<A, E, R>, then: () => void): Effect.Effect<A, E, R> =>
  Effect.matchCauseEffect(self, {
    onFailure: (cause) => {
      then()
      return Effect.failCause(cause)
    },
    onSuccess: (value) => {
      then()
      return Effect.succeed(value)
    }
  })

/** What cannot be asked of the store now is asked again at the next occasion. */
export const quietly = (self: Effect.Effect<void, StoreError>): Effect.Effect<void> =>
  Effect.withTracerEnabled(
    Effect.catchAllCause(self, (cause) => Effect.logDebug("the store could not be asked for runs", cause)),
    false
  )
