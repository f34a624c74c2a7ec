/**
 * Keeps the application's own database transaction out of a store call.
 *
 * `@effect/sql` marks a transaction with one context tag for all clients: inside `a.withTransaction`, a query of client
 * `b` runs on `a`'s connection. A store call that saw the mark would write its rows into somebody else's transaction.
 */
import { TransactionConnection } from "@effect/sql/SqlClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/** Whether a transaction of some client surrounds the effect. */
export const inTransaction: Effect.Effect<boolean> = Effect.withFiberRuntime((fiber) =>
  Effect.succeed(fiber.currentContext.unsafeMap.has(TransactionConnection.key))
)

/**
 * Runs the effect as if no transaction surrounded it. Where none does, which is nearly always, that costs next to
 * nothing.
 */
export const withoutTransaction = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) =>
    fiber.currentContext.unsafeMap.has(TransactionConnection.key)
      ? Effect.mapInputContext(
        self,
        (context: Context.Context<R>) =>
          Context.omit(TransactionConnection)(context as Context.Context<R | TransactionConnection>) as Context.Context<
            R
          >
      )
      : self
  )
