/** The trace that a run belongs to: recorded when it is started, so that its spans are in one trace through all of its lives. */
import * as Context from "effect/Context"
import * as DefaultServices from "effect/DefaultServices"
import * as Effect from "effect/Effect"
import * as FiberRef from "effect/FiberRef"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Tracer from "effect/Tracer"

const Trace = Schema.parseJson(Schema.Struct({
  traceId: Schema.String,
  spanId: Schema.String,
  sampled: Schema.Boolean
}))

const decode = Schema.decodeUnknownOption(Trace)

const encode = ({ sampled, spanId, traceId }: Tracer.AnySpan): string => JSON.stringify({ traceId, spanId, sampled })

/** Where the caller is in its trace, as JSON text. */
export const currentTrace: Effect.Effect<string | null> = Effect.map(
  Effect.serviceOption(Tracer.ParentSpan),
  Option.match({ onNone: () => null, onSome: encode })
)

/** Effect's own tracer, whose spans nobody sees. */
const native = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** A span that is begun, and that nobody will see end: all that is wanted of it is which one it is. */
const freshTrace = (name: string): string =>
  encode(native.span(name, Option.none(), Context.empty(), [], 0n, "internal"))

/**
 * Does something in a span of its own, and tells it where in a trace that is. The span would cost as much as starting a run does
 * (15 µs), so none is made where nobody can see it: without a tracer but Effect's own, and outside any span.
 */
export const inSpan = <A, E, R>(
  name: string,
  self: (trace: string | null) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) =>
    Context.get(fiber.getFiberRef(DefaultServices.currentServices), Tracer.Tracer) === native &&
      fiber.getFiberRef(FiberRef.currentTracerEnabled) &&
      Option.isNone(Context.getOption(fiber.getFiberRef(FiberRef.currentContext), Tracer.ParentSpan))
      ? self(freshTrace(name))
      : Effect.withSpan(Effect.flatMap(currentTrace, self), name, { captureStackTrace: false })
  )

/** The context of a body whose spans continue a trace. */
export const inTrace = (trace: string | null, context: Context.Context<unknown>): Context.Context<unknown> =>
  Option.match(Option.flatMap(Option.fromNullable(trace), decode), {
    onNone: () => context,
    onSome: (parent) => Context.add(context, Tracer.ParentSpan, Tracer.externalSpan(parent))
  })
