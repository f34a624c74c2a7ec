/** The runs that live in this process, and how runs come to live here: created, claimed, or found orphaned. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type * as Fiber from "effect/Fiber"
import type * as Runtime from "effect/Runtime"
import type { StoreError } from "../Errors.js"
import type { Claimed, RunRow, StepStore } from "../StepStore.js"
import type { Household, RunIdentity } from "./activeRun.js"
import type { Program } from "./body.js"
import { ofDefinition } from "./body.js"
import { emptyUpdate, engineClosed } from "./journal.js"
import { asReason, pendingPatch, Residency, stoppedPatch } from "./residency.js"
import type { Registration } from "./run.js"
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
  epoch: row.epoch
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
  /** How many runs are on their way: owned by this worker in the store, and not living here yet. */
  private arriving = 0
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

  /** Lets a run live here until it ends, stops or leaves. */
  inhabit(identity: RunIdentity, fresh: boolean, program: Program): Residency {
    const residency = new Residency(identity, this.options.store, this.options.household)
    this.residents.set(identity.workflowId, residency)
    this.options.fork(Effect.ensuring(
      residency.live(fresh, program),
      Effect.sync(() => {
        this.residents.delete(identity.workflowId)
        this.watchers.notify([identity.workflowId])
      })
    ))
    return residency
  }

  /** Lets a run of a registered workflow live here. */
  inhabitDefined(identity: RunIdentity, fresh: boolean, payload: string | null): void {
    const { registration, runtime } = this.registered.get(identity.name)!
    this.inhabit(identity, fresh, ofDefinition(registration, payload, runtime))
  }

  /** Marks a run as on its way while an effect brings it here, so that it is not taken for an orphan. */
  arrive<A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return Effect.suspend(() => {
      this.arriving++
      return Effect.ensuring(self, Effect.sync(() => this.arriving--))
    })
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
    return Effect.flatMap(this.goneOwners(row), (dead) => this.claim([row.name], row.workflowId, dead))
  }

  private claim(names: ReadonlyArray<string>, workflowId: string | null, dead: ReadonlyArray<string>) {
    return this.arrive(
      Effect.tap(this.claimRows(names, workflowId, dead), Effect.forEach((claimed) => this.admit(claimed)))
    )
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
    return row.owner === this.options.worker && this.arriving === 0 && !this.residents.has(row.workflowId)
  }

  /** Whether the store and this process agree on where the run is. An answer of the store that was lost makes them differ. */
  isElsewhere(row: RunRow): boolean {
    return !this.orphaned(row) || !this.registered.has(row.name)
  }

  private admit(claimed: Claimed): Effect.Effect<void> {
    return Either.match(claimed.run, {
      // The row is damaged: this run stops, and the others go on.
      onLeft: (error) => this.patch(claimed, stoppedPatch(this.now(), asReason(error))),
      onRight: (row) =>
        this.registered.has(row.name)
          ? Effect.sync(() => this.inhabitDefined(identityOf(row), false, row.payload))
          // Its layer has been closed in the meantime.
          : this.patch(claimed, pendingPatch(this.now()))
    })
  }

  private patch(claimed: Claimed, patch: ReturnType<typeof pendingPatch>): Effect.Effect<void> {
    return Effect.catchAll(
      this.options.store.commit([{ ...emptyUpdate(claimed), patch }]),
      (error) => Effect.logWarning(`Run ${JSON.stringify(claimed.workflowId)} could not be given back`, error.message)
    )
  }

  private now(): number {
    return wholeMillis(this.options.clock)
  }
}
