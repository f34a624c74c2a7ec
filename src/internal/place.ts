/**
 * Where a fiber is: outside any run, in a branch of a run's body, or in a step.
 *
 * The only module that knows fiber refs. What decides is the id of the fiber in which a branch begins; the fork hook of the
 * ref only tells a fiber that was forked without a reservation apart from one that was handed a branch, which makes the
 * message better.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as FiberId from "effect/FiberId"
import * as FiberRef from "effect/FiberRef"
import * as FiberRefs from "effect/FiberRefs"
import type * as Scheduler from "effect/Scheduler"
import type { ActiveRun } from "./activeRun.js"

/** A branch that still asks for this many operations after its run has left goes on for ever. */
const maxCallsAfterwards = 100

/** One line of control in a run: counts its durable operations. */
export class Branch {
  readonly _tag = "Branch"
  private next = 0
  private fiberId: number | null = null
  private within = 0
  private calls = 0

  readonly run: ActiveRun
  /** What the addresses of this branch begin with: nothing in the root branch, `1.` in the branch of sequence 1. */
  readonly prefix: string
  private readonly parent: Branch | null
  /** The prefixes of the branches reserved together with this one that have not begun. */
  private readonly unbegun: Set<string>

  constructor(run: ActiveRun, prefix: string, parent: Branch | null, unbegun: Set<string> = new Set()) {
    this.run = run
    this.prefix = prefix
    this.parent = parent
    this.unbegun = unbegun.add(prefix)
  }

  /** For messages. */
  get name(): string {
    return this.parent === null ? "the root branch" : `branch ${this.prefix.slice(0, -1)}`
  }

  /**
   * What an operation of this branch is once the run has left memory. A body that catches even interruptions, and goes on
   * asking, is given up after a while.
   */
  get afterwards(): Effect.Effect<never> {
    return ++this.calls > maxCallsAfterwards ? this.run.dropped : this.run.parked
  }

  /** The address of the operation that is asked for next. */
  get address(): string {
    return `${this.prefix}${this.next}`
  }

  /** Whether an address is the next one of this branch, or within it, or a later one. */
  leadsTo(address: string): boolean {
    return address.startsWith(this.prefix) && sequenceIn(this.prefix, address) >= this.next
  }

  /**
   * Whether an address is reached only when this branch goes on or has ended: it is one of its own, or a later one of a branch
   * around it, or of a branch beside it that has not begun.
   */
  isBefore(address: string): boolean {
    return this.leadsTo(address) || (this.parent !== null &&
      (this.parent.isBefore(address) || this.isBeside(this.parent.prefix, address)))
  }

  private isBeside(prefix: string, address: string): boolean {
    return address.startsWith(prefix) && this.unbegun.has(`${prefix}${sequenceIn(prefix, address)}.`)
  }

  /** Takes sequences, and answers the first of them. */
  take(count: number): number {
    const first = this.next
    this.next += count
    return first
  }

  /**
   * Whether a fiber may take sequences of this branch: the one in which it runs, and, for finalizers of what a branch that
   * has ended left open, the one in which a branch around it runs.
   */
  ownedBy(fiberId: number): boolean {
    return this.fiberId === null
      ? this.parent !== null && this.parent.ownedBy(fiberId)
      : this.fiberId === fiberId
  }

  get running(): boolean {
    return this.fiberId !== null
  }

  enter(fiber: AnyFiber): void {
    this.fiberId = fiberNumber(fiber.id())
    this.unbegun.delete(this.prefix)
    this.run.entered(fiber, this.parent !== null && this.parent.within++ === 0)
  }

  leave(): void {
    this.fiberId = null
    this.run.exited(this.parent !== null && --this.parent.within === 0)
  }
}

/** The sequence with which an address goes on from the prefix of a branch. */
const sequenceIn = (prefix: string, address: string): number => Number.parseInt(address.slice(prefix.length))

/** The inside of a step. */
export interface InStep {
  readonly _tag: "Step"
  readonly run: ActiveRun
  readonly stepId: string
  /** Whether the step is a transaction: what is part of it is as well. */
  readonly transaction: boolean
  /** A fiber that goes on after the step has ended finds this set. */
  ended: boolean
}

export type Place =
  | { readonly _tag: "Outside" }
  | Branch
  /** A fiber that the body forked without a reservation. */
  | { readonly _tag: "Unreserved"; readonly run: ActiveRun; readonly from: Branch }
  | InStep

const outside: Place = { _tag: "Outside" }

const placeRef: FiberRef.FiberRef<Place> = FiberRef.unsafeMake(outside, {
  fork: (place): Place => place._tag === "Branch" ? { _tag: "Unreserved", run: place.run, from: place } : place,
  join: (parent) => parent
})

/** Whether what a fiber does next is seen by the scheduler of a run. */
export const runsOn = (fiber: AnyFiber, scheduler: Scheduler.Scheduler): boolean =>
  fiber.getFiberRef(FiberRef.currentScheduler) === scheduler

/** A fiber as Effect hands it to those who look at it. */
export type AnyFiber = Fiber.RuntimeFiber<unknown, unknown>

const fiberNumber = (id: FiberId.Runtime): number => id.id

/**
 * Where the fiber is. A branch is answered only to a fiber that may take its sequences.
 */
export const placeOf = (fiber: AnyFiber): Place => {
  const place = fiber.getFiberRef(placeRef)
  return place._tag === "Branch" && !place.ownedBy(fiberNumber(fiber.id()))
    ? { _tag: "Unreserved", run: place.run, from: place }
    : place
}

/** Where refs come from, whichever fiber asks. */
export const placeIn = (refs: FiberRefs.FiberRefs): Place => FiberRefs.getOrDefault(refs, placeRef)

/** The refs of a fiber. To ask it for them would copy them all, to bring its runtime flags up to date among them. */
export const refsOf = (fiber: AnyFiber): FiberRefs.FiberRefs =>
  (fiber as unknown as { readonly _fiberRefs: FiberRefs.FiberRefs })._fiberRefs

/** How Effect keeps what becomes of a ref in a fork. */
interface Forking {
  readonly fork: unknown
  readonly patch: (patch: unknown) => (value: unknown) => unknown
}

const forks = new WeakMap<Forking, (value: unknown) => unknown>()

const forkOf = (ref: Forking): (value: unknown) => unknown => {
  const known = forks.get(ref)
  if (known !== undefined) {
    return known
  }
  const fork = ref.patch(ref.fork)
  forks.set(ref, fork)
  return fork
}

/**
 * Puts a fiber that is about to begin in a place, with what it inherits. Effect's own fork of refs copies them twice and makes a
 * function for each of them, which was a quarter of what a step allocates: so a fiber is begun without refs, and gets them here.
 */
export const putAt =
  (place: Place, inherited: FiberRefs.FiberRefs) =>
  (own: FiberRefs.FiberRefs, fiberId: FiberId.Runtime): FiberRefs.FiberRefs => {
    const locals: FiberRefs.FiberRefs["locals"] = new Map()
    inherited.locals.forEach((stack, ref) => {
      const value: unknown = stack[0][1]
      const forked = forkOf(ref as unknown as Forking)(value)
      locals.set(ref, forked === value ? stack : [[fiberId, forked]])
    })
    own.locals.forEach((stack, ref) => locals.set(ref, stack))
    locals.set(placeRef, [[fiberId, place]])
    return FiberRefs.unsafeMake(locals)
  }

/**
 * Runs an effect as a branch, in whichever fiber it is started. The counting goes on where it stood if the effect is run
 * again after it has ended.
 *
 * @param branch - the branch
 * @param onTwice - what to do instead if the branch is running already, in another fiber
 */
export const inBranch = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  branch: Branch,
  onTwice: () => Effect.Effect<never>
): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.withFiberRuntime((fiber) => {
      if (branch.running) {
        return restore(onTwice())
      }
      const before = fiber.getFiberRef(placeRef)
      branch.enter(fiber)
      setPlace(fiber, branch)
      const leave = <A, E>(exit: Exit.Exit<A, E>) => {
        setPlace(fiber, before)
        branch.leave()
        return exit
      }
      // Nothing interrupts this fiber between the end of the effect and here.
      return Effect.matchCauseEffect(restore(self), {
        onFailure: (cause) => leave(Exit.failCause(cause)),
        onSuccess: (value) => leave(Exit.succeed(value))
      })
    })
  )

/** Effect's `locally` comes to a dozen operations for each of the many branches that a body may have. */
const setPlace = (fiber: AnyFiber, place: Place): void =>
  (fiber as unknown as { readonly setFiberRef: (ref: FiberRef.FiberRef<Place>, place: Place) => void })
    .setFiberRef(placeRef, place)
