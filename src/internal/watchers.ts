/** Who waits for something to happen to a run that lives elsewhere. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import type { Change } from "../StepStore.js"

export interface Watch {
  /** Something may have happened since the watch was set up. */
  readonly happened: Effect.Effect<void>
  readonly close: Effect.Effect<void>
}

export class Watchers {
  private readonly byRun = new Map<string, Set<Deferred.Deferred<void>>>()

  /** Sets up a watch. What is read after this and before waiting cannot be missed. */
  watch(workflowId: string): Watch {
    const deferred = Deferred.unsafeMake<void>(FiberId.none)
    const watching = this.byRun.get(workflowId) ?? new Set()
    watching.add(deferred)
    this.byRun.set(workflowId, watching)
    return {
      happened: Deferred.await(deferred),
      close: Effect.sync(() => {
        watching.delete(deferred)
        if (watching.size === 0 && this.byRun.get(workflowId) === watching) {
          this.byRun.delete(workflowId)
        }
      })
    }
  }

  notify(change: Change): void {
    for (const workflowId of change ?? this.byRun.keys()) {
      for (const deferred of this.byRun.get(workflowId) ?? []) {
        Deferred.unsafeDone(deferred, Effect.void)
      }
    }
  }
}
