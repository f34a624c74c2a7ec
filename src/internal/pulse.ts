/**
 * Who hangs: a worker whose process is there, and which does nothing. It holds its lock, so only its beats can tell.
 *
 * A worker counts, in its own beats, for how many of them that of each other one has not changed. No clocks are compared, and a
 * worker that was itself suspended has not counted meanwhile.
 */
import * as Effect from "effect/Effect"
import type { StoreError } from "../Errors.js"
import type { Pulse as Beats, StepStore, WorkerInfo } from "../StepStore.js"

interface Observed {
  readonly beats: number
  /** Own beats since then. */
  readonly missed: number
}

export class Pulse {
  private readonly store: StepStore["Type"]
  private readonly worker: WorkerInfo
  /** After so many beats without one of theirs, others are taken for dead. */
  private readonly missedBeats: number
  private observed: ReadonlyMap<string, Observed> = new Map()

  constructor(store: StepStore["Type"], worker: WorkerInfo, missedBeats: number) {
    this.store = store
    this.worker = worker
    this.missedBeats = missedBeats
  }

  /** Beats, counts, and answers who hangs. A beat that fails is no observation. */
  readonly beat: Effect.Effect<ReadonlyArray<string>, StoreError> = Effect.suspend(() => this.look(1))

  /** Whether a worker hangs at this moment. Who looks because of one run beats first, but does not count. */
  isHung(id: string | null): Effect.Effect<boolean, StoreError> {
    return Effect.suspend(() =>
      id !== null && this.hangs(id) ? Effect.map(this.look(0), (hung) => hung.includes(id)) : Effect.succeed(false)
    )
  }

  private look(counted: number): Effect.Effect<ReadonlyArray<string>, StoreError> {
    return Effect.map(this.store.beat(this.worker), (all) => {
      const others = all.filter(({ id }) => id !== this.worker.id)
      this.observed = new Map(others.map((one) => [one.id, this.observe(one, counted)]))
      return [...this.observed.keys()].filter((id) => this.hangs(id))
    })
  }

  private observe({ beats, id }: Beats, counted: number): Observed {
    const before = this.observed.get(id)
    return before?.beats === beats ? { beats, missed: before.missed + counted } : { beats, missed: 0 }
  }

  private hangs(id: string): boolean {
    const observed = this.observed.get(id)
    return observed !== undefined && observed.missed >= this.missedBeats
  }
}
