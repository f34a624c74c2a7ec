/**
 * An HTTP server on which expenses wait to be approved: until somebody answers, or for three days, whichever is first.
 *
 *     npx tsx examples/approval.ts
 *     curl -d '{"id":"e1","employee":"ada","cents":4200}' http://127.0.0.1:3000/expenses
 *     curl -d '{"by":"grace","approved":true}' http://127.0.0.1:3000/approvals/TOKEN    # the token is in the mail
 *     curl http://127.0.0.1:3000/expenses/e1
 *
 * Kill it while an expense waits, and start it again. For the impatient: APPROVE_WITHIN="20 seconds". PORT=0 takes any free port.
 */
import { createServer } from "node:http"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "@effect/platform"
import { NodeContext, NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Console, Duration, Effect, Layer, Option, Schema } from "effect"
import { Branch, Signal, Step, Workflow } from "perdure"
import { EngineLive } from "./support/engine.js"
import { Ledger } from "./support/ledger.js"

// ---------------------------------------------------------------------------------------------------------------------
// the workflow
// ---------------------------------------------------------------------------------------------------------------------

const Expense = Workflow.make({
  name: "expense",
  payload: { id: Schema.NonEmptyString, employee: Schema.NonEmptyString, cents: Schema.Int },
  success: Schema.Literal("approved", "rejected", "nobody answered"),
  idempotencyKey: ({ id }) => id
})

const Approval = Signal.make("approval", Schema.Struct({ by: Schema.NonEmptyString, approved: Schema.Boolean }))

/** What a body needs to know of its surroundings is read once, outside it. A change concerns expenses that wait already, too. */
const approveWithin = Config.duration("APPROVE_WITHIN").pipe(Config.withDefault(Duration.days(3)))

const ExpenseLive = Layer.unwrapEffect(
  Effect.map(approveWithin, (approveWithin) =>
    Expense.toLayer(({ cents, employee, id }) =>
      Effect.gen(function*() {
        const mail = yield* Ledger

        const { next, token } = yield* Signal.token(Approval)
        yield* mail.post(`mail to the boss: ${employee} asks for ${cents} cents (${id}), answer to /approvals/${token}`)
          .pipe(Step.durable("ask-the-boss"))

        const outcome = yield* next.pipe(
          Branch.timeout(approveWithin), // The run leaves memory here, until one of the two happens.
          Effect.map(({ approved }) => approved ? "approved" as const : "rejected" as const),
          Effect.catchTag("TimeoutException", () => Effect.succeed("nobody answered" as const))
        )
        yield* mail.post(`mail to ${employee}: expense ${id}: ${outcome}`).pipe(Step.durable("tell-the-employee"))
        return outcome
      })
    ))
)

// ---------------------------------------------------------------------------------------------------------------------
// the server
// ---------------------------------------------------------------------------------------------------------------------

const json = (status: number, body: unknown) => HttpServerResponse.unsafeJson(body, { status })

const problem = (status: number) => (error: { readonly message: string }) => json(status, { error: error.message })

const router = HttpRouter.empty.pipe(
  HttpRouter.post(
    "/expenses",
    Effect.gen(function*() {
      const expense = yield* HttpServerRequest.schemaBodyJson(Expense.payloadSchema)
      yield* Expense.start(expense)
      return json(202, { id: expense.id, see: `/expenses/${encodeURIComponent(expense.id)}` })
    }).pipe(
      Effect.catchTags({
        ParseError: problem(400),
        RequestError: problem(400),
        WorkflowIdInvalid: problem(400),
        PayloadInvalid: problem(400),
        WorkflowIdConflict: problem(409)
      })
    )
  ),
  HttpRouter.get(
    "/expenses/:id",
    Effect.gen(function*() {
      const { id } = yield* HttpRouter.schemaPathParams(Schema.Struct({ id: Schema.String }))
      return Option.match(yield* Expense.poll(`${Expense.name}/${id}`), {
        onNone: () => json(404, { error: `There is no expense ${id}` }),
        onSome: (state) =>
          state._tag === "COMPLETED"
            ? json(200, { id, status: state._tag, outcome: state.value })
            : json(200, { id, status: state._tag })
      })
    }).pipe(Effect.catchTag("ParseError", problem(400)))
  ),
  HttpRouter.post(
    "/approvals/:token",
    Effect.gen(function*() {
      const { token } = yield* HttpRouter.schemaPathParams(Schema.Struct({ token: Schema.String }))
      const value = yield* HttpServerRequest.schemaBodyJson(Approval.schema)
      yield* Signal.answer(Approval, { token, value })
      return HttpServerResponse.empty({ status: 204 })
    }).pipe(
      Effect.catchTags({
        ParseError: problem(400),
        RequestError: problem(400),
        // The value has been decoded, so it is the token that no run has given away.
        SignalInvalid: problem(404),
        WorkflowNotFound: problem(404),
        SignalNotWanted: (error) => problem(error.reason === "answered" ? 409 : 410)(error)
      })
    )
  ),
  // The database is locked, full or gone: the caller may try again.
  HttpRouter.catchAll(problem(503))
)

const ServerLive = Layer.unwrapEffect(
  Effect.map(Config.integer("PORT").pipe(Config.withDefault(3_000)), (port) =>
    HttpServer.serve(router).pipe(
      Layer.tap(() =>
        HttpServer.addressFormattedWith((address) =>
          Console.log(`Listening on ${address}. Ctrl-C ends it; kill -9 ${process.pid} kills it.`)
        )
      ),
      Layer.provide(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port }))
    ))
)

Layer.launch(ServerLive).pipe(
  Effect.provide(ExpenseLive.pipe(
    Layer.provideMerge(EngineLive),
    Layer.provide(Ledger.Default("approval.log")),
    Layer.provideMerge(NodeContext.layer)
  )),
  NodeRuntime.runMain
)
