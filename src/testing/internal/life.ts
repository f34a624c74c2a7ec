/** Lives of runs in engines over one store, whose time hops on where nothing else goes on. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as EngineModule from "../../Engine.js"
import type { Attendant } from "../../internal/attendant.js"
import { Attending } from "../../internal/attendant.js"
import { FaultPoints, type FaultPointsShape } from "../../internal/faultPoints.js"
import type { Observer } from "../../internal/observer.js"
import type { Engine } from "../../internal/run.js"
import { StepStore } from "../../StepStore.js"
import type { HopClock } from "./hopClock.js"

export type Store = StepStore["Type"]

/** Where lives pass. */
export interface Stage {
  readonly clock: HopClock
  readonly observer: Observer
  /** For how long, in milliseconds of the machine, work of which nothing is seen is waited for. */
  readonly patience: number
}

/** More hops than any run that ends needs. */
const maxHops = 20_000

/** Why time was let pass no longer. */
export type Passed =
  | "Happened"
  /** Nobody sleeps, and nothing goes on. */
  | "Stuck"
  /** It goes on and on. */
  | "Endless"

/**
 * Lets time pass until something has happened.
 *
 * @param at - done when it has: what goes on besides is not waited for then
 */
export const passUntil = <A, E>(stage: Stage, at: Deferred.Deferred<A, E>): Effect.Effect<Passed> =>
  Effect.gen(function*() {
    const { clock, observer, patience } = stage
    for (let hops = 0; hops < maxHops; hops++) {
      yield* Effect.raceFirst(observer.rest(patience), Effect.exit(Deferred.await(at)))
      if (yield* Deferred.isDone(at)) {
        return "Happened"
      }
      const due = clock.next
      if (!Number.isFinite(due)) {
        return "Stuck"
      }
      clock.hop(due)
    }
    return "Endless"
  })

/** Lets an effect end, and time pass meanwhile. */
const passing = <A, E, R>(stage: Stage, self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    const ended = yield* Deferred.make<A, E>()
    const fiber = yield* Effect.forkDaemon(Effect.intoDeferred(self, ended))
    // What is to be cut off is not waited for. The loser of a race is interrupted, which a finalizer as such is not.
    while ((yield* Effect.interruptible(passUntil({ ...stage, patience: 0 }, ended))) !== "Happened") {
      // It waits for what takes the machine's time.
      yield* Effect.yieldNow()
    }
    yield* Fiber.join(fiber)
    return yield* Deferred.await(ended)
  })

export interface LifeOptions<E, R> {
  readonly store: Store
  readonly attendant: Attendant
  readonly faults: FaultPointsShape
  readonly engine: Omit<EngineModule.Options, "housekeeping" | "slowPoll" | "heartbeat" | "missedBeats">
  /** The layers of the workflows; built anew for each life, as a process that starts does. */
  readonly layer: Layer.Layer<never, E, R>
}

/**
 * An engine for as long as an effect lasts. What it logs is for nobody: it loses its store on purpose.
 */
export const withEngine = <A, E, R, E2, R2>(
  stage: Stage,
  { attendant, engine, faults, layer, store }: LifeOptions<E2, R2>,
  use: Effect.Effect<A, E, R>
): Effect.Effect<A, E | E2, Exclude<R, Engine> | Exclude<R2, Engine>> => {
  const engineLayer = EngineModule.layerWith({ shutdownGrace: 0, ...engine, housekeeping: false }).pipe(
    Layer.orDie,
    Layer.provide(Layer.mergeAll(
      Layer.succeed(Attending, attendant),
      Layer.succeed(FaultPoints, faults),
      Layer.succeed(StepStore, store)
    ))
  )
  const all = Layer.provideMerge(layer, engineLayer)
  return Effect.acquireUseRelease(
    Scope.make(),
    (scope) => Effect.flatMap(Layer.buildWithScope(all, scope), (context) => Effect.provide(use, context)),
    (scope) => passing(stage, Scope.close(scope, Exit.void))
  ).pipe(Effect.locally(FiberRef.currentLoggers, HashSet.empty())) as never
}

/** All pages of a listing. */
export const allPages = <Row, Key, E>(
  read: (page: { readonly after: Key | null; readonly limit: number }) => Effect.Effect<ReadonlyArray<Row>, E>,
  keyOf: (row: Row) => Key
): Effect.Effect<ReadonlyArray<Row>, E> =>
  Effect.gen(function*() {
    const all: Array<Row> = []
    for (let after: Option.Option<Key> = Option.none(), more = true; more;) {
      const rows: ReadonlyArray<Row> = yield* read({ after: Option.getOrNull(after), limit: pageSize })
      all.push(...rows)
      after = Option.map(Option.fromNullable(rows.at(-1)), keyOf)
      more = rows.length === pageSize
    }
    return all
  })

const pageSize = 1_000
