/** Effect's own services as a run has them. Each asks where the fiber is, so that they are set once for the whole run. */
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"
import * as HashSet from "effect/HashSet"
import { bodyClock } from "./bodyClock.js"
import { bodyConsole, bodyLogger } from "./bodyOutput.js"
import { bodyRandom } from "./bodyRandom.js"
import { bodyTracer } from "./bodyTracer.js"

/** Gives a body the clock, the random numbers, the console, the loggers and the tracer of its run. */
export const withBodyServices = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.clockWith((clock) =>
    Effect.randomWith((random) =>
      Effect.consoleWith((console) =>
        Effect.tracerWith((tracer) =>
          self.pipe(
            Effect.withClock(bodyClock(clock)),
            Effect.withRandom(bodyRandom(random)),
            Effect.withConsole(bodyConsole(console)),
            Effect.withTracer(bodyTracer(tracer, clock)),
            Effect.locallyWith(FiberRef.currentLoggers, HashSet.map(bodyLogger(clock)))
          )
        )
      )
    )
  )
