/**
 * The tracer that a run has: spans of its body carry real time, and those that end in a replay are not ended, so that nobody
 * exports again what was exported before.
 */
import type * as Clock from "effect/Clock"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import type { ActiveRun } from "./activeRun.js"
import { placeOf } from "./place.js"

const currentRun = (): ActiveRun | null =>
  Option.match(Fiber.getCurrentFiber(), {
    onNone: () => null,
    onSome: (fiber) => {
      const place = placeOf(fiber)
      return place._tag === "Branch" || place._tag === "Unreserved" ? place.run : null
    }
  })

/** The span itself, but for its end. */
const spanOf = (run: ActiveRun, span: Tracer.Span, clock: Clock.Clock): Tracer.Span =>
  Object.create(span, {
    end: {
      value: (_: bigint, exit: Parameters<Tracer.Span["end"]>[1]) => {
        if (!run.replaying) {
          span.end(clock.unsafeCurrentTimeNanos(), exit)
        }
      }
    }
  }) as Tracer.Span

export const bodyTracer = (real: Tracer.Tracer, clock: Clock.Clock): Tracer.Tracer =>
  Tracer.make({
    span: (name, parent, context, links, startTime, kind, options) => {
      const run = currentRun()
      return run === null
        ? real.span(name, parent, context, links, startTime, kind, options)
        : spanOf(
          run,
          real.span(name, parent, context, links, clock.unsafeCurrentTimeNanos(), kind, options),
          clock
        )
    },
    context: (f, fiber) => real.context(f, fiber)
  })
