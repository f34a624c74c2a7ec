/** The engine of an example: on `durable.db`, in the folder where it is started. */
import { Config, Effect, Layer, Option } from "effect"
import { CrashSimulator, Engine, SqliteStepStore } from "perdure"

const crash = Config.all({
  after: Config.option(Config.integer("CRASH_AFTER")),
  at: Config.literal("step-started", "before-commit", "after-commit")("CRASH_AT").pipe(
    Config.withDefault("step-started")
  )
})

/** `CRASH_AFTER=2` kills the process (kill -9) right after the second step has been started; `CRASH_AT` names another moment. */
export const EngineLive = Layer.unwrapEffect(
  Effect.map(crash, ({ after, at }) =>
    Engine.layer.pipe(
      Layer.provide(Option.match(after, {
        onNone: () => Layer.empty,
        onSome: (after) => CrashSimulator.layer({ after, at })
      })),
      Layer.provide(SqliteStepStore.layer({ filename: "durable.db" }))
    ))
)
