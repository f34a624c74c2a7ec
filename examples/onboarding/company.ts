/** The outside world that the workflow changes: here a file, in which each side effect leaves one line. */
import { FileSystem } from "@effect/platform"
import { Config, Console, Duration, Effect, Random, Schema } from "effect"
import { Step } from "perdure"

export class LaptopOutOfStock extends Schema.TaggedError<LaptopOutOfStock>()("LaptopOutOfStock", {
  model: Schema.String
}) {
  override get message() {
    return `There is no ${this.model} in stock`
  }
}

/** The file in which anyone can see which side effects happened, and how often. */
export class EffectsFile extends Effect.Service<EffectsFile>()("examples/EffectsFile", {
  effect: Effect.fn(function*(path: string) {
    const fs = yield* FileSystem.FileSystem

    /** Appends `workflowId stepId attempt`; the line is on the disk when this returns. */
    const append = Effect.gen(function*() {
      const { attempt, stepId, workflowId } = yield* Step.Current
      const file = yield* fs.open(path, { flag: "a" })
      yield* file.writeAll(new TextEncoder().encode(`${workflowId} ${stepId} ${attempt}\n`))
      yield* file.sync
    }).pipe(
      Effect.scoped,
      // A PlatformError says nothing that the workflow could act on: let it stop the run, which can be resumed.
      Effect.orDie
    )
    return { append }
  })
}) {}

/** What a company does for a new employee. Only steps do it, so each of these may ask which step it runs in. */
export class Company extends Effect.Service<Company>()("examples/Company", {
  effect: Effect.gen(function*() {
    const effects = yield* EffectsFile
    const laptops = yield* Config.integer("LAPTOPS_IN_STOCK").pipe(Config.withDefault(1))
    /** So many times as long does everything take. */
    const slowness = yield* Config.number("SLOWNESS").pipe(Config.withDefault(1))

    /** Something that takes a while and has one side effect. */
    const work = Effect.fn(function*(what: string, takes: Duration.DurationInput) {
      const { attempt, stepId, stepKey } = yield* Step.Current
      yield* Effect.logDebug(`running ${stepId}, attempt ${attempt}`).pipe(Effect.annotateLogs({ stepKey }))
      yield* Console.log(`  ${what}${attempt === 1 ? "" : ` (attempt ${attempt})`}`)
      yield* Effect.sleep(Duration.times(takes, slowness))
      yield* effects.append
    })

    return {
      createRecord: Effect.fn(function*(employee: string) {
        yield* work(`creating the record of ${employee}`, "60 millis")
        return `emp-${yield* Random.nextIntBetween(1_000, 10_000)}`
      }),
      provisionLaptop: Effect.fn(function*(employeeId: string) {
        const model = "Framework 13"
        if (laptops < 1) {
          return yield* new LaptopOutOfStock({ model })
        }
        yield* work(`provisioning a laptop for ${employeeId}`, "180 millis")
        return `${model} #${yield* Random.nextIntBetween(100, 1_000)}`
      }),
      provisionAccess: Effect.fn(function*(employeeId: string) {
        yield* work(`provisioning access for ${employeeId}`, "120 millis")
        return `badge-${employeeId}`
      }),
      sendWelcomeEmail: Effect.fn(function*(employee: string, laptop: string) {
        yield* work(`sending the welcome email to ${employee}, who gets ${laptop}`, "40 millis")
      })
    }
  })
}) {}
