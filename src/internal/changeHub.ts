/** Tells whoever listens which runs were written to, without ever making the writer wait or forgetting a run. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Change, RunUpdateEncoded } from "../StepStore.js"
import { RecordsToo } from "./interest.js"

/** Above this many runs a listener is told "some", so that a slow one holds a bounded set. */
const maxRuns = 10_000

type Known = NonNullable<Change>

/** Whether an update only adds to the history of its run. */
const isRecord = (update: RunUpdateEncoded): boolean =>
  update.epoch !== null && update.insert === null && update.patch === null && update.next === null &&
  update.children.length === 0 && update.tells.length === 0

/** What one listener has not been told yet. It starts with "some": what happened before it listened is unknown to it. */
class Listener {
  private runs = new Set<string>()
  private mail = new Set<string>()
  private some = true
  private readonly news = Effect.unsafeMakeLatch(true)
  private readonly recordsToo: boolean

  constructor(recordsToo: boolean) {
    this.recordsToo = recordsToo
  }

  /** Costs next to nothing where nothing is of interest: no array is built, and nobody wakes. */
  tellOf(updates: ReadonlyArray<RunUpdateEncoded>): void {
    let heard = false
    for (const update of updates) {
      if (this.recordsToo || !isRecord(update)) {
        heard = true
        this.note(update)
      }
    }
    if (heard) {
      this.wake()
    }
  }

  private note(update: RunUpdateEncoded): void {
    this.runs.add(update.workflowId)
    for (const child of update.children) {
      this.runs.add(child.workflowId)
    }
    if (update.epoch === null) {
      this.mail.add(update.workflowId)
    }
    for (const run of update.tells) {
      this.runs.add(run)
      this.mail.add(run)
    }
  }

  tell(change: Known): void {
    for (const run of change.runs) {
      this.runs.add(run)
    }
    for (const run of change.mail) {
      this.mail.add(run)
    }
    this.wake()
  }

  tellSome(): void {
    this.some = true
    this.wake()
  }

  private wake(): void {
    this.some = this.some || this.runs.size > maxRuns
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

  /** Call it after the commit, with what was accepted. */
  committed(updates: ReadonlyArray<RunUpdateEncoded>): void {
    for (const listener of this.listeners) {
      listener.tellOf(updates)
    }
  }

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
        const recordsToo = yield* RecordsToo
        const listener = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const listener = new Listener(recordsToo)
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
