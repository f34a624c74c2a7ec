/** When a step is tried again: an Effect schedule, stepped by what is recorded of the attempts, so that it can be rebuilt. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as ScheduleDecision from "effect/ScheduleDecision"
import * as ScheduleIntervals from "effect/ScheduleIntervals"

type Predicate = (error: unknown) => boolean | Effect.Effect<boolean, unknown, unknown>

/** As the step has them: what a schedule and a predicate take is checked where the step is written. */
export interface RetryOptions {
  readonly schedule?: Schedule.Schedule<unknown, unknown, unknown> | undefined
  readonly times?: number | undefined
  readonly while?: Predicate | undefined
  readonly until?: Predicate | undefined
  readonly defects?: boolean | undefined
}

export interface Retry {
  readonly schedule: Schedule.Schedule<unknown, unknown, unknown>
  /** Whether a failure may be followed by another attempt, whatever the schedule says. */
  readonly allows: (error: unknown) => Effect.Effect<boolean, never, unknown>
  readonly defects: boolean
}

const asked = (predicate: Predicate | undefined, error: unknown, without: boolean) =>
  Effect.suspend(() => {
    const answer = predicate === undefined ? without : predicate(error)
    return typeof answer === "boolean" ? Effect.succeed(answer) : Effect.orDie(answer)
  })

export const makeRetry = (options: RetryOptions): Retry => {
  const schedule = options.schedule ?? Schedule.forever
  return {
    schedule: options.times === undefined ? schedule : Schedule.intersect(schedule, Schedule.recurs(options.times)),
    allows: (error) =>
      Effect.zipWith(
        asked(options.while, error, true),
        asked(options.until, error, false),
        (goOn, stop) => goOn && !stop
      ),
    defects: options.defects ?? false
  }
}

/** A clock that stands, for a schedule that asks what time it is: the time that is recorded. */
const clockAt = (clock: Clock.Clock, millis: number): Clock.Clock => {
  const nanos = BigInt(millis) * 1_000_000n
  return {
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => millis,
    unsafeCurrentTimeNanos: () => nanos,
    currentTimeMillis: Effect.succeed(millis),
    currentTimeNanos: Effect.succeed(nanos),
    sleep: (duration) => clock.sleep(duration)
  }
}

/**
 * A schedule under way. It gets the recorded times and errors, and random numbers from a seed: those who step it through the
 * same attempts are told the same.
 *
 * @returns at each failed attempt, when the next one is due; `null` if there is to be none
 */
export const stepper = ({ schedule }: Retry, clock: Clock.Clock, seed: string) => {
  const random = Random.make(seed)
  let state: unknown = schedule.initial
  return (endedAt: number, error: unknown): Effect.Effect<number | null, never, unknown> =>
    Effect.suspend(() => schedule.step(endedAt, error, state)).pipe(
      Effect.withRandom(random),
      Effect.withClock(clockAt(clock, endedAt)),
      Effect.map(([next, , decision]) => {
        state = next
        return ScheduleDecision.isDone(decision)
          ? null
          : Math.min(
            Math.max(endedAt, Math.ceil(ScheduleIntervals.start(decision.intervals))),
            Number.MAX_SAFE_INTEGER
          )
      })
    )
}
