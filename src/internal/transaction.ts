/**
 * Keeps the application's own database transaction out of a store call.
 *
 * `@effect/sql` marks a transaction with one context tag for all clients: inside `a.withTransaction`, a query of client
 * `b` runs on `a`'s connection. A store call that saw the mark would write its rows into somebody else's transaction.
 */
import { TransactionConnection } from "@effect/sql/SqlClient"
import type { Connection } from "@effect/sql/SqlConnection"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

/** The connection of the transaction that surrounds the effect, whatever client it is of; none if none does. */
export const ambientConnection: Effect.Effect<Option.Option<Connection>> = Effect.withFiberRuntime((fiber) =>
  Effect.succeed(
    Option.map(Context.getOption(fiber.currentContext, TransactionConnection), ([connection]) => connection)
  )
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
