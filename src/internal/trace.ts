/** The trace that a run belongs to: recorded when it is started, so that its spans are in one trace through all of its lives. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Tracer from "effect/Tracer"

const Trace = Schema.parseJson(Schema.Struct({
  traceId: Schema.String,
  spanId: Schema.String,
  sampled: Schema.Boolean
}))

const encode = Schema.encodeSync(Trace)
const decode = Schema.decodeUnknownOption(Trace)

/** Where the caller is in its trace, as JSON text. */
export const currentTrace: Effect.Effect<string | null> = Effect.map(
  Effect.serviceOption(Tracer.ParentSpan),
  Option.match({ onNone: () => null, onSome: encode })
)

/** The context of a body whose spans continue a trace. */
export const inTrace = (trace: string | null, context: Context.Context<unknown>): Context.Context<unknown> =>
  trace === null ? context : Option.match(decode(trace), {
    onNone: () => context,
    onSome: (parent) => Context.add(context, Tracer.ParentSpan, Tracer.externalSpan(parent))
  })
