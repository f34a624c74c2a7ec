/** Whether what has to be looked at again and again is looked at. A test that moves its own clock turns it off. */
import * as Context from "effect/Context"
import { constTrue } from "effect/Function"

/** An engine provides it to the changes that it listens to, for stores that have to poll. */
export class Housekeeping extends Context.Reference<Housekeeping>()("perdure/Housekeeping", {
  defaultValue: constTrue
}) {}
