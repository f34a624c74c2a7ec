/**
 * Looks where a parcel is, again and again, and tells the customer of each change, until it is delivered. After every few looks the
 * run continues as new, so that its history stays short however long the parcel takes. Kill it at any moment, and start it again:
 *
 *     npx tsx examples/poller.ts
 *
 * The carrier's answer is the file parcel.txt: `echo delivered > parcel.txt` ends it early. LOOK_EVERY="1 hour" is a more patient customer.
 */
import { FileSystem } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Duration, Effect, Layer, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { EngineLive } from "./support/engine.js"
import { Ledger } from "./support/ledger.js"

// ---------------------------------------------------------------------------------------------------------------------
// the carrier
// ---------------------------------------------------------------------------------------------------------------------

const stations = ["announced", "packed", "in Stockholm", "delivered"]

class Carrier extends Effect.Service<Carrier>()("examples/Carrier", {
  effect: Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const file = "parcel.txt"
    const pace = yield* Config.duration("CARRIER_PACE").pipe(Config.withDefault(Duration.seconds(2)))

    const read = Effect.map(fs.readFileString(file), (text) => text.trim())
    const status = Effect.if(fs.exists(file), { onTrue: () => read, onFalse: () => Effect.succeed("announced") })
    return {
      status: Effect.orDie(status),
      /** Takes the parcel from station to station, from where it is. */
      drive: Effect.gen(function*() {
        for (const station of stations.slice(stations.indexOf(yield* status) + 1)) {
          yield* Effect.sleep(pace)
          // Renamed into its place, so that nobody reads half of it.
          yield* fs.writeFileString(`${file}.new`, station)
          yield* fs.rename(`${file}.new`, file)
        }
      })
    }
  })
}) {}

// ---------------------------------------------------------------------------------------------------------------------
// the workflow
// ---------------------------------------------------------------------------------------------------------------------

/** How often one generation of the run looks. */
const looks = 5

const lookEvery = Config.duration("LOOK_EVERY").pipe(Config.withDefault(Duration.millis(300)))

const Parcel = Workflow.make({
  name: "parcel",
  payload: {
    parcel: Schema.String,
    // What one generation hands to the next.
    seen: Schema.Array(Schema.String),
    generation: Schema.Int
  },
  success: Schema.Struct({ seen: Schema.Array(Schema.String), generations: Schema.Int }),
  idempotencyKey: ({ parcel }) => parcel
})

const ParcelLive = Layer.unwrapEffect(
  Effect.map(lookEvery, (lookEvery) =>
    Parcel.toLayer(({ generation, parcel, seen }) =>
      Effect.gen(function*() {
        const carrier = yield* Carrier
        const mail = yield* Ledger
        for (let look = 0; look < looks; look++) {
          const status = yield* carrier.status.pipe(Step.durable("look"))
          if (status !== seen.at(-1)) {
            yield* mail.post(`mail: your parcel is ${status}`).pipe(Step.durable("tell-the-customer"))
            seen = [...seen, status]
          }
          if (status === "delivered") {
            return { seen, generations: generation }
          }
          yield* Effect.sleep(lookEvery)
        }
        return yield* Parcel.continueAsNew({ parcel, seen, generation: generation + 1 })
      })
    ))
)

// ---------------------------------------------------------------------------------------------------------------------
// the program
// ---------------------------------------------------------------------------------------------------------------------

const program = Effect.gen(function*() {
  const carrier = yield* Carrier
  yield* Effect.fork(carrier.drive)
  yield* Console.log("Where is parcel 77?")
  const { generations, seen } = yield* Parcel.execute({ parcel: "77", seen: [], generation: 1 })
  yield* Console.log(`Parcel 77 was ${seen.join(", ")}. That took ${generations} generations of the run.`)
})

program.pipe(
  Effect.provide(ParcelLive.pipe(
    Layer.provideMerge(EngineLive),
    Layer.provideMerge(Carrier.Default),
    Layer.provide(Ledger.Default("poller.log")),
    Layer.provide(NodeContext.layer)
  )),
  NodeRuntime.runMain
)
