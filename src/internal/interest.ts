/** Which changes somebody wants to be told of. */
import * as Context from "effect/Context"
import { constTrue } from "effect/Function"

/**
 * Whether commits count that only add to the history of a run, and leave all rows of runs as they were. A listener to changes provides
 * it; an engine, which has no use for them, does without: they are nearly all that is committed.
 */
export class RecordsToo extends Context.Reference<RecordsToo>()("perdure/RecordsToo", { defaultValue: constTrue }) {}
