/** Tells whoever listens which runs were written to, without ever making the writer wait or forgetting a run. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Change } from "../StepStore.js"

/** Above this many runs a listener is told "some", so that a slow one holds a bounded set. */
const maxRuns = 10_000

/** What one listener has not been told yet. It starts with "some": what happened before it listened is unknown to it. */
class Listener {
  private runs = new Set<string>()
  private some = true
  private readonly news = Effect.unsafeMakeLatch(true)

  tell(runs: ReadonlyArray<string>): void {
    for (const run of runs) {
      this.runs.add(run)
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
    }
    this.news.unsafeOpen()
  }

  readonly next: Effect.Effect<Change> = Effect.zipRight(
    this.news.await,
    Effect.sync(() => {
      const change = this.some ? null : Array.from(this.runs)
      this.runs = new Set()
      this.some = false
      this.news.unsafeClose()
      return change
    })
  )
}

export class ChangeHub {
  private readonly listeners = new Set<Listener>()

  /** Call it after the commit, with the runs that were written to. */
  publish(runs: ReadonlyArray<string>): void {
    if (runs.length > 0) {
      for (const listener of this.listeners) {
        listener.tell(runs)
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
