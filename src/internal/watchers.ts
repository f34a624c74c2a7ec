/** Who waits for something to happen to a run that lives elsewhere. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"

export class Watchers {
  private readonly byRun = new Map<string, Set<Deferred.Deferred<void>>>()

  /**
   * Looks at a run while watching it, and goes on with what the look answers. What happens between the look and the waiting
   * for it cannot be missed. The watch has ended before the next step is taken, so that who looks again and again holds one.
   *
   * @param look - is given what waits until something may have happened; answers what to do next
   */
  watching<A, E, E2>(
    workflowId: string,
    look: (happened: Effect.Effect<void>) => Effect.Effect<Effect.Effect<A, E>, E2>
  ): Effect.Effect<A, E | E2> {
    return Effect.suspend(() => {
      const deferred = Deferred.unsafeMake<void>(FiberId.none)
      const watching = this.byRun.get(workflowId) ?? new Set()
      watching.add(deferred)
      this.byRun.set(workflowId, watching)
      return Effect.ensuring(
        look(Deferred.await(deferred)),
        Effect.sync(() => {
          watching.delete(deferred)
          if (watching.size === 0 && this.byRun.get(workflowId) === watching) {
            this.byRun.delete(workflowId)
          }
        })
      )
    }).pipe(Effect.flatten)
  }

  notify(change: ReadonlyArray<string> | null): void {
    for (const workflowId of change === null ? this.byRun.keys() : change) {
      for (const deferred of this.byRun.get(workflowId) ?? []) {
        Deferred.unsafeDone(deferred, Effect.void)
      }
    }
  }
}
