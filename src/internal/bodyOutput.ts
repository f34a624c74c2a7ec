/**
 * What a run tells people. What its body logs and prints is silent in a replay, where it has been said before; a step, and
 * whatever is outside, is never silent.
 */
import type * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Logger from "effect/Logger"
import type { Place } from "./place.js"
import { placeIn, placeOf } from "./place.js"

const isSilent = (place: Place): boolean =>
  (place._tag === "Branch" || place._tag === "Unreserved") && place.run.replaying

export const bodyConsole = (real: Console.Console): Console.Console => {
  const spoken = (self: Effect.Effect<void>): Effect.Effect<void> =>
    Effect.withFiberRuntime((fiber) => isSilent(placeOf(fiber)) ? Effect.void : self)
  return {
    [Console.TypeId]: Console.TypeId,
    assert: (condition, ...args) => spoken(real.assert(condition, ...args)),
    clear: spoken(real.clear),
    count: (label) => spoken(real.count(label)),
    countReset: (label) => spoken(real.countReset(label)),
    debug: (...args) => spoken(real.debug(...args)),
    dir: (item, options) => spoken(real.dir(item, options)),
    dirxml: (...args) => spoken(real.dirxml(...args)),
    error: (...args) => spoken(real.error(...args)),
    group: (options) => spoken(real.group(options)),
    groupEnd: spoken(real.groupEnd),
    info: (...args) => spoken(real.info(...args)),
    log: (...args) => spoken(real.log(...args)),
    table: (data, properties) => spoken(real.table(data, properties)),
    time: (label) => spoken(real.time(label)),
    timeEnd: (label) => spoken(real.timeEnd(label)),
    timeLog: (label, ...args) => spoken(real.timeLog(label, ...args)),
    trace: (...args) => spoken(real.trace(...args)),
    warn: (...args) => spoken(real.warn(...args)),
    // Loggers print with it, and those of a run are silent themselves.
    unsafe: real.unsafe
  }
}

/**
 * A logger that knows where its messages come from: it says which run and step, gives real time in place of the run's own,
 * and is silent while a body is replayed.
 */
export const bodyLogger =
  (clock: Clock.Clock) => <A>(logger: Logger.Logger<unknown, A>): Logger.Logger<unknown, A | undefined> =>
    Logger.make((options) => {
      const place = placeIn(options.context)
      if (place._tag === "Outside") {
        return logger.log(options)
      }
      if (isSilent(place)) {
        return undefined
      }
      const { name, workflowId } = place.run.identity
      const ofRun = HashMap.set(HashMap.set(options.annotations, "workflowId", workflowId), "workflow", name)
      return logger.log({
        ...options,
        date: new Date(clock.unsafeCurrentTimeMillis()),
        annotations: place._tag === "Step" ? HashMap.set(ofRun, "step", place.stepId) : ofRun
      })
    })
