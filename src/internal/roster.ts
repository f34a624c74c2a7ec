/** The runs that live in this process, and how runs come to live here: created, claimed, or found orphaned. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Runtime from "effect/Runtime"
import type { StoreError } from "../Errors.js"
import type { Claimed, RunPatch, RunRow, StepStore } from "../StepStore.js"
import type { Household, RunIdentity } from "./activeRun.js"
import type { Program } from "./body.js"
import { ofDefinition } from "./body.js"
import { emptyUpdate, engineClosed } from "./journal.js"
import { asReason, pendingPatch, Residency, stoppedPatch } from "./residency.js"
import type { Registration, StartRequest } from "./run.js"
import { Watchers } from "./watchers.js"
import { wholeMillis } from "./wholeMillis.js"

/** Runs taken over in one transaction. */
const claimSize = 100

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
  parks: true
})

/** A run of epoch 1, created just now. */
export const freshIdentity = (
  { deadlineAt, fingerprint, name, workflowId }: StartRequest,
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
  parks
})

export interface RosterOptions {
  readonly worker: string
  readonly store: StepStore["Type"]
  readonly household: Household
  readonly clock: Clock.Clock
  readonly fork: (effect: Effect.Effect<unknown>) => Fiber.RuntimeFiber<unknown>
}

export class Roster {
  readonly registered = new Map<string, Registered>()
  readonly residents = new Map<string, Residency>()
  readonly watchers = new Watchers()
  private readonly options: RosterOptions
  /** Runs on their way: owned by this worker in the store, perhaps, and not living here yet. */
  private readonly arriving = new Map<string, number>()
  /** Those of them to which something has been sent meanwhile. */
  private readonly toldOnTheWay = new Set<string>()
  /** How many claims are under way that may bring any run. */
  private claiming = 0
  /** Runs that could not be created for all one knows: if they were, they are this worker's, and nobody drives them. */
  private readonly doubtful = new Set<string>()
  private closed = false

  constructor(options: RosterOptions) {
    this.options = options
  }

  /** Fails once the engine's layer has been closed. */
  readonly whileOpen: Effect.Effect<void, StoreError> = Effect.suspend(() =>
    this.closed ? Effect.fail(engineClosed(this.options.store.target)) : Effect.void
  )

  /** Gives every run up, and tells those who wait. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.closed = true
    return Effect.zipRight(this.leave(() => true), Effect.sync(() => this.watchers.notify(null)))
  })

  /** Gives the runs chosen up, for others to take. */
  leave(chosen: (residency: Residency) => boolean): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.forEach([...this.residents.values()].filter(chosen), (residency) => residency.leave, {
        concurrency: "unbounded",
        discard: true
      })
    )
  }

  /**
   * Lets a run live here until it ends, stops or leaves; after an earlier life of it here, which may still be leaving. In an
   * engine that has closed meanwhile it leaves at once.
   */
  inhabit(identity: RunIdentity, fresh: boolean, program: Program): Residency {
    const { workflowId } = identity
    const before = this.residents.get(workflowId)
    const residency = new Residency(identity, this.options.store, this.options.household)
    this.residents.set(workflowId, residency)
    if (this.closed) {
      residency.giveUp()
    }
    if (this.toldOnTheWay.has(workflowId)) {
      residency.look(null)
    }
    this.options.fork(
      (before === undefined ? Effect.void : before.left).pipe(
        Effect.zipRight(residency.live(fresh, program)),
        Effect.ensuring(Effect.sync(() => {
          if (this.residents.get(workflowId) === residency) {
            this.residents.delete(workflowId)
          }
          this.watchers.notify([workflowId])
        }))
      )
    )
    return residency
  }

  /** Lets a run live here if its workflow is registered still; gives it back if not. */
  inhabitDefined(identity: RunIdentity, fresh: boolean, payload: string | null): Effect.Effect<void> {
    return Effect.suspend(() => {
      const registered = this.registered.get(identity.name)
      return registered === undefined
        ? this.patch(identity, pendingPatch(this.now()))
        : Effect.sync(() =>
          this.inhabit(identity, fresh, ofDefinition(registered.registration, payload, registered.runtime))
        )
    })
  }

  /** Whether a run lives here, and is not about to leave. */
  lives(workflowId: string): boolean {
    const residency = this.residents.get(workflowId)
    return residency !== undefined && !residency.leaving
  }

  /** Something has been sent to these runs. */
  tell(workflowIds: Iterable<string>): void {
    for (const workflowId of workflowIds) {
      this.residents.get(workflowId)?.look(null)
      if (this.arriving.has(workflowId)) {
        this.toldOnTheWay.add(workflowId)
      }
    }
  }

  /** Something may have been sent to the runs that are on their way. */
  tellArriving(): void {
    this.tell(this.arriving.keys())
  }

  /** Marks a run as on its way while an effect brings it here, so that it is not taken for an orphan. */
  arrive<A, E, R>(workflowId: string, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      this.arriving.set(workflowId, (this.arriving.get(workflowId) ?? 0) + 1)
      return Effect.ensuring(
        self,
        Effect.sync(() => {
          const others = this.arriving.get(workflowId)! - 1
          if (others === 0) {
            this.arriving.delete(workflowId)
            this.toldOnTheWay.delete(workflowId)
          } else {
            this.arriving.set(workflowId, others)
          }
        })
      )
    })
  }

  /** Creating the run failed: the store may have created it all the same. */
  doubt(workflowId: string): Effect.Effect<void> {
    return Effect.sync(() => this.doubtful.add(workflowId))
  }

  /** Takes up what has been created here although that seemed to fail, each on its own. */
  readonly doubts: Effect.Effect<ReadonlyArray<Effect.Effect<void, StoreError>>> = Effect.sync(() =>
    Array.from(
      this.doubtful,
      (workflowId) =>
        Effect.flatMap(this.options.store.run(workflowId), (row) =>
          Effect.zipRight(
            Option.isSome(row) ? this.adopt(row.value) : Effect.void,
            Effect.sync(() => this.doubtful.delete(workflowId))
          ))
    )
  )

  /** Takes a run up that is this worker's and does not live here, if that is so. */
  adopt(row: RunRow): Effect.Effect<void, StoreError> {
    return Effect.suspend(() => this.isElsewhere(row) ? Effect.void : this.claimOne(row))
  }

  // -- claiming

  /** Takes over what nobody or a dead worker owns, of the workflows registered here. */
  claimAll(dead: ReadonlyArray<string>): Effect.Effect<void, StoreError> {
    return Effect.suspend(() =>
      this.registered.size === 0 || this.closed
        ? Effect.void
        : this.claim([...this.registered.keys()], null, dead).pipe(
          Effect.flatMap((claimed) => claimed.length === claimSize ? this.claimAll(dead) : Effect.void)
        )
    )
  }

  /** Takes one run over, if nobody alive owns it. */
  claimOne(row: RunRow): Effect.Effect<void, StoreError> {
    return Effect.uninterruptible(
      Effect.flatMap(this.goneOwners(row), (dead) => this.claim([row.name], row.workflowId, dead))
    )
  }

  /** What is claimed and then interrupted before it lives here would be an orphan, unless the engine closes. */
  private claim(names: ReadonlyArray<string>, workflowId: string | null, dead: ReadonlyArray<string>) {
    return Effect.suspend(() => {
      this.claiming++
      return Effect.ensuring(
        Effect.tap(this.claimRows(names, workflowId, dead), Effect.forEach((claimed) => this.admit(claimed))),
        Effect.sync(() => this.claiming--)
      )
    })
  }

  /** Takes runs over without letting them live here yet. */
  claimRows(
    names: ReadonlyArray<string>,
    workflowId: string | null,
    dead: ReadonlyArray<string>
  ): Effect.Effect<ReadonlyArray<Claimed>, StoreError> {
    return this.options.store.claim({
      worker: this.options.worker,
      names,
      workflowId,
      dead,
      limit: claimSize,
      at: this.now()
    })
  }

  /** Workers that cannot drive the run: dead ones, and this one, if the store believes that the run is here and it is not. */
  goneOwners(row: RunRow): Effect.Effect<ReadonlyArray<string>, StoreError> {
    return Effect.map(this.options.store.dead, (dead) => this.orphaned(row) ? [...dead, this.options.worker] : dead)
  }

  private orphaned(row: RunRow): boolean {
    return row.owner === this.options.worker && this.claiming === 0 &&
      !this.arriving.has(row.workflowId) && !this.residents.has(row.workflowId)
  }

  /** Whether the store and this process agree on where the run is. An answer of the store that was lost makes them differ. */
  isElsewhere(row: RunRow): boolean {
    return !this.orphaned(row) || !this.registered.has(row.name)
  }

  private admit(claimed: Claimed): Effect.Effect<void> {
    return Either.match(claimed.run, {
      // The row is damaged: this run stops, and the others go on.
      onLeft: (error) => this.patch(claimed, stoppedPatch(this.now(), asReason(error))),
      onRight: (row) => this.inhabitDefined(identityOf(row), false, row.payload)
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
