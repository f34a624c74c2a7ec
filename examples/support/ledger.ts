/** The outside world of an example: a file in which each thing that is done leaves one line, for everybody to see. */
import { FileSystem } from "@effect/platform"
import { Console, Effect } from "effect"
import { Step } from "perdure"

/**
 * Does each thing once, as a payment API does that is given idempotency keys: a step runs again when its process died before it was
 * recorded, and what comes again under its key is noted as `again`, and not done.
 */
export class Ledger extends Effect.Service<Ledger>()("examples/Ledger", {
  effect: Effect.fn(function*(file: string) {
    const fs = yield* FileSystem.FileSystem
    const one = yield* Effect.makeSemaphore(1)

    const read = Effect.if(fs.exists(file), {
      onTrue: () => fs.readFileString(file),
      onFalse: () => Effect.succeed("")
    })

    /** The line is on the disk when this returns. */
    const append = Effect.fn(function*(line: string) {
      const handle = yield* fs.open(file, { flag: "a" })
      yield* handle.writeAll(new TextEncoder().encode(`${line}\n`))
      yield* handle.sync
    }, Effect.scoped)

    return {
      /** Does something in the name of the present step. */
      post: Effect.fn(
        function*(what: string) {
          const { workflowId } = yield* Step.Current
          const key = (yield* Step.idempotencyKey).slice(0, 16)
          const known = (yield* read).split("\n").some((line) => line.startsWith(key))
          yield* append(`${key} ${workflowId} ${known ? "again" : "did"} ${what}`)
          yield* Console.log(`  ${what}${known ? " (done before, and not again)" : ""}`)
        },
        one.withPermits(1),
        Effect.orDie
      ) // Nothing that a workflow could act on: it stops the run, which can be resumed.
    }
  })
}) {}
