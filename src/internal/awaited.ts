/**
 * The children that runs of this process wait for, and how their ends are found out.
 *
 * A thousand children that end one by one must not make their parent read a thousand rows each time: a change that names runs has
 * those looked at which somebody waits for, and no others.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Either from "effect/Either"
import * as Iterable from "effect/Iterable"
import type { StoreError } from "../Errors.js"
import type { RunRow, StepRow } from "../StepStore.js"
import { Few } from "./few.js"
import { turn } from "./scheduler.js"

/** Children looked at in one read: each row may hold as much as a value may. */
const lookedAtOnce = 100

/** A run that has ended: its row, or why that cannot be read. */
export type Ended = Either.Either<RunRow, StoreError>

/** A question for the store, whether a child has ended. */
interface Look {
  readonly childId: string
  /** `null` if it has not. */
  readonly told: (ended: Ended | null) => void
  readonly failed: (cause: Cause.Cause<StoreError>) => void
}

type Read = (
  workflowIds: ReadonlyArray<string>
) => Effect.Effect<ReadonlyArray<{ readonly workflowId: string; readonly run: Ended }>, StoreError>

/** Those of all runs of a process. */
export class Awaited {
  private readonly byChild = new Map<string, ReadonlyArray<Look>>()
  /** Asked for, and not read yet: who is asked for again meanwhile is read once, and the answer has what was news then. */
  private readonly queue = new Set<Look>()
  private reading = false

  private readonly read: Read
  private readonly fork: (effect: Effect.Effect<void>) => void

  constructor(read: Read, fork: (effect: Effect.Effect<void>) => void) {
    this.read = read
    this.fork = fork
  }

  add(look: Look): void {
    this.byChild.set(look.childId, [...this.byChild.get(look.childId) ?? [], look])
  }

  remove(look: Look): void {
    const others = [...this.byChild.get(look.childId) ?? []].filter((other) => other !== look)
    if (others.length === 0) {
      this.byChild.delete(look.childId)
    } else {
      this.byChild.set(look.childId, others)
    }
  }

  /** Something has happened to these runs. */
  changed(workflowIds: ReadonlyArray<string>): void {
    for (const workflowId of workflowIds) {
      this.ask(this.byChild.get(workflowId) ?? [])
    }
  }

  /** Looks at the children in the next turn of the event loop, together with what others ask until then. */
  ask(looks: Iterable<Look>): void {
    for (const look of looks) {
      this.queue.add(look)
    }
    if (this.queue.size > 0 && !this.reading) {
      this.reading = true
      this.fork(Effect.zipRight(turn, this.readAll))
    }
  }

  private readonly readAll: Effect.Effect<void> = Effect.suspend(() => {
    const looks = Array.from(Iterable.take(this.queue, lookedAtOnce))
    looks.forEach((look) => this.queue.delete(look))
    if (looks.length === 0) {
      this.reading = false
      return Effect.void
    }
    return Effect.zipRight(
      Effect.matchCause(this.read([...new Set(looks.map((look) => look.childId))]), {
        onFailure: (cause) => looks.forEach((look) => look.failed(cause)),
        onSuccess: (ended) => {
          const found = new Map(ended.map(({ run, workflowId }) => [workflowId, run]))
          for (const look of looks) {
            look.told(found.get(look.childId) ?? null)
          }
        }
      }),
      this.readAll
    )
  })
}

/** Those of one life of a run. */
export class AwaitedChildren {
  /**
   * Children that are to be cancelled when the body ends, unless it dies, with the rows that say so: they were waited for when a
   * defect was seen.
   */
  readonly doomed = new Map<string, StepRow>()
  /** The version of the inbox up to which the end of each child that is waited for has been noticed. */
  private seen: number
  private readonly waits = new Few<Look, Look>()
  private closed = false
  /** Each is looked at, so that what was sent until the inbox had the version `wanted` is noticed. */
  private looking = false
  private wanted: number
  private readonly then: Array<() => void> = []

  private readonly awaited: Awaited
  private readonly failed: (cause: Cause.Cause<StoreError>) => void

  constructor(seen: number, awaited: Awaited, failed: (cause: Cause.Cause<StoreError>) => void) {
    this.seen = seen
    this.wanted = seen
    this.awaited = awaited
    this.failed = failed
  }

  /**
   * Waits for the end of a child.
   *
   * @param on - called once with the end; `unended` as often as the child was looked at before that
   * @returns what stops the waiting
   */
  wait(childId: string, on: { readonly ended: (ended: Ended) => void; readonly unended: () => void }): () => void {
    const stop = () => {
      this.waits.delete(look)
      this.awaited.remove(look)
    }
    const look: Look = {
      childId,
      told: (ended) => {
        // It was asked for before the waiting stopped.
        if (this.waits.get(look) !== undefined) {
          if (ended === null) {
            on.unended()
          } else {
            stop()
            on.ended(ended)
          }
        }
      },
      failed: this.failed
    }
    if (!this.closed) {
      this.waits.set(look, look)
      this.awaited.add(look)
      this.awaited.ask([look])
    }
    return stop
  }

  /** Whether a child is waited for. */
  get any(): boolean {
    return this.waits.size > 0
  }

  /** Whether the end of a child may be among what was sent to the run until its inbox had this version. */
  isBehind(version: number): boolean {
    return this.waits.size > 0 && version > this.seen
  }

  /** Looks at each child that is waited for, because the end of one may not have been noticed, and then calls back. */
  look(version: number, then = () => {}): void {
    this.wanted = Math.max(this.wanted, version)
    this.then.push(then)
    if (!this.looking) {
      this.looking = true
      this.lookAtAll()
    }
  }

  private lookAtAll() {
    const version = this.wanted
    const waits = this.waits.values()
    let left = waits.length
    const told = () => {
      if (--left === 0) {
        this.seen = version
        this.lookedAtAll()
      }
    }
    this.awaited.ask(waits.map((wait) => ({
      childId: wait.childId,
      told: (ended) => {
        wait.told(ended)
        told()
      },
      failed: this.failed
    })))
  }

  private lookedAtAll() {
    if (this.isBehind(this.wanted)) {
      this.lookAtAll()
      return
    }
    this.looking = false
    for (const then of this.then.splice(0)) {
      then()
    }
  }

  /** The run leaves memory. */
  close(): void {
    this.closed = true
    for (const wait of this.waits.takeAll()) {
      this.awaited.remove(wait)
    }
  }
}
