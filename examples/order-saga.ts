/**
 * Two orders: stock is reserved, the card charged, the parcel shipped. The second cannot be shipped, so what was done for it is undone.
 * Kill it at any moment, and start it again:
 *
 *     npx tsx examples/order-saga.ts
 */
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Step, Workflow } from "perdure"
import { EngineLive } from "./support/engine.js"
import { Ledger } from "./support/ledger.js"

// ---------------------------------------------------------------------------------------------------------------------
// the shop: what an order changes in the world
// ---------------------------------------------------------------------------------------------------------------------

class NoCourier extends Schema.TaggedError<NoCourier>()("NoCourier", { city: Schema.String }) {
  override get message() {
    return `No courier goes to ${this.city}`
  }
}

class Shop extends Effect.Service<Shop>()("examples/Shop", {
  effect: Effect.gen(function*() {
    const ledger = yield* Ledger
    return {
      reserve: (item: string) => Effect.as(ledger.post(`reserve ${item}`), item),
      release: (item: string) => ledger.post(`release ${item}`),
      charge: (cents: number) => Effect.as(ledger.post(`charge ${cents}`), { cents }),
      refund: (payment: { readonly cents: number }) => ledger.post(`refund ${payment.cents}`),
      ship: Effect.fn(function*(item: string, city: string) {
        if (city === "Atlantis") {
          return yield* new NoCourier({ city })
        }
        yield* ledger.post(`ship ${item} to ${city}`)
        return `${item} is on its way to ${city}`
      })
    }
  })
}) {}

// ---------------------------------------------------------------------------------------------------------------------
// the workflow
// ---------------------------------------------------------------------------------------------------------------------

const Order = Workflow.make({
  name: "order",
  payload: { id: Schema.String, item: Schema.String, cents: Schema.Int, city: Schema.String },
  success: Schema.String,
  error: NoCourier,
  idempotencyKey: ({ id }) => id
})

const OrderLive = Order.toLayer(({ cents, city, item }) =>
  Effect.gen(function*() {
    const shop = yield* Shop
    yield* shop.reserve(item).pipe(Step.durable("reserve-stock", { compensate: (item) => shop.release(item) }))
    yield* shop.charge(cents).pipe(Step.durable("charge-card", { compensate: (payment) => shop.refund(payment) }))
    return yield* shop.ship(item, city).pipe(Step.durable("ship", { error: NoCourier }))
  })
)

// ---------------------------------------------------------------------------------------------------------------------
// the program
// ---------------------------------------------------------------------------------------------------------------------

const place = Effect.fn(function*(order: typeof Order.payloadSchema.Type) {
  yield* Console.log(`order ${order.id}`)
  yield* Order.execute(order).pipe(
    Effect.flatMap((shipped) => Console.log(`order ${order.id} COMPLETED: ${shipped}`)),
    Effect.catchTag(
      "NoCourier",
      ({ message }) => Console.log(`order ${order.id} FAILED, and all is undone: ${message}`)
    )
  )
})

const program = Effect.gen(function*() {
  yield* place({ id: "1001", item: "lamp", cents: 4_900, city: "Turku" })
  yield* place({ id: "1002", item: "trident", cents: 12_900, city: "Atlantis" })
})

program.pipe(
  Effect.provide(OrderLive.pipe(
    Layer.provideMerge(EngineLive),
    Layer.provide(Shop.Default),
    Layer.provide(Ledger.Default("order-saga.log")),
    Layer.provide(NodeContext.layer)
  )),
  NodeRuntime.runMain
)
