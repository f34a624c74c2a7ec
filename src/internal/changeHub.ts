/** Tells whoever listens which runs were written to, without ever making the writer wait or forgetting a run. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Change, RunUpdateEncoded } from "../StepStore.js"

/** Above this many runs a listener is told "some", so that a slow one holds a bounded set. */
const maxRuns = 10_000

type Known = NonNullable<Change>

/** Which runs updates have changed, and to which they brought something. */
export const changesOf = (updates: ReadonlyArray<RunUpdateEncoded>): Known => {
  const told = updates.flatMap((update) => update.epoch === null ? [update.workflowId] : update.tells)
  return {
    runs: [
      ...updates.flatMap((update) => [update.workflowId, ...update.children.map((child) => child.workflowId)]),
      ...told
    ],
    mail: told
  }
}

/** What one listener has not been told yet. It starts with "some": what happened before it listened is unknown to it. */
class Listener {
  private runs = new Set<string>()
  private mail = new Set<string>()
  private some = true
  private readonly news = Effect.unsafeMakeLatch(true)

  tell(change: Known): void {
    for (const run of change.runs) {
      this.runs.add(run)
    }
    for (const run of change.mail) {
      this.mail.add(run)
    }
    this.some = this.some || this.runs.size > maxRuns
    this.wake()
  }

  tellSome(): void {
    this.some = true
    this.wake()
  }

  private wake(): void {
    if (this.some) {
      this.runs.clear()
      this.mail.clear()
    }
    this.news.unsafeOpen()
  }

  readonly next: Effect.Effect<Change> = Effect.zipRight(
    this.news.await,
    Effect.sync(() => {
      const change = this.some ? null : { runs: Array.from(this.runs), mail: Array.from(this.mail) }
      this.runs = new Set()
      this.mail = new Set()
      this.some = false
      this.news.unsafeClose()
      return change
    })
  )
}

export class ChangeHub {
  private readonly listeners = new Set<Listener>()

  /** Call it after the commit. */
  publish(change: Known): void {
    if (change.runs.length > 0) {
      for (const listener of this.listeners) {
        listener.tell(change)
      }
    }
  }

  /**
   * The changes from now on; the first element is `null`, and says that the listener is in place.
   *
   * @param watch - runs while somebody listens, and reports what others wrote by calling its argument
   */
  changes(watch: (report: () => void) => Effect.Effect<void, never, Scope.Scope>): Stream.Stream<Change> {
    return Stream.unwrapScoped(
      Effect.gen(this, function*() {
        const listener = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const listener = new Listener()
            this.listeners.add(listener)
            return listener
          }),
          (listener) => Effect.sync(() => this.listeners.delete(listener))
        )
        yield* watch(() => listener.tellSome())
        return Stream.repeatEffect(listener.next)
      })
    )
  }
}
