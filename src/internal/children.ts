/** The operations by which a body starts runs of other workflows, and waits for their ends. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FiberId from "effect/FiberId"
import * as Schema from "effect/Schema"
import type { PayloadInvalid, StoreError } from "../Errors.js"
import { ChildCancelled, RecordUndecodable } from "../Errors.js"
import type { ChildInsert, RunRow, StepRow } from "../StepStore.js"
import { type ActiveRun, endingOf } from "./activeRun.js"
import type { Ended } from "./awaited.js"
import type { Definition, PreparedPayload } from "./definition.js"
import { emptyUpdate } from "./journal.js"
import { fromText, toText } from "./json.js"
import type { Begun } from "./operation.js"
import { durable, placed } from "./operation.js"
import type { Branch, InStep } from "./place.js"
import { completed, cut, type Encoded, type Named, rowsOf, underWay } from "./row.js"
import { positionOf } from "./sequencer.js"
import { decode, TooLarge } from "./values.js"

/** Ids of children have at most this many bytes: each generation of children makes them longer. */
const maxChildIdBytes = 1_024

const inStep = (called: string, { name }: Definition) => (place: InStep) =>
  place.run.refuse(place.run.misplaced(
    called,
    `a child belongs to the body, and step ${
      JSON.stringify(place.stepId)
    } is recorded as a whole. Call it in the body, or use execute or start of workflow ${JSON.stringify(name)} here`
  ))

// ---------------------------------------------------------------------------------------------------------------------
// what is recorded
// ---------------------------------------------------------------------------------------------------------------------

interface Kind extends Named {
  readonly kind: "child" | "start" | "await"
  /** The name of the child's workflow. */
  readonly id: string
  readonly fingerprint: string
}

const childIdOf = ({ address, branch: { run } }: Begun) => `~${run.keyOf(address)}`

/** A child as it is created, with the operation that asks for it; `null` if its id is too long, and then the run stops. */
const insertOf = (
  begun: Begun,
  { name, version }: Definition,
  { fingerprint, text }: PreparedPayload
): ChildInsert | null => {
  const { run } = begun.branch
  const workflowId = childIdOf(begun)
  const bytes = Buffer.byteLength(workflowId)
  if (bytes > maxChildIdBytes) {
    run.stop(run.exceeded(`the number of bytes in the id of a child of workflow ${name}`, maxChildIdBytes, bytes))
    return null
  }
  const insert = {
    name,
    version,
    status: "PENDING",
    owner: null,
    parent: run.workflowId,
    deadlineAt: null,
    trace: run.identity.trace,
    fingerprint,
    payload: text,
    createdAt: run.now()
  } as const
  return { workflowId, insert }
}

// ---------------------------------------------------------------------------------------------------------------------
// waiting
// ---------------------------------------------------------------------------------------------------------------------

const childCancelled = ChildCancelled as unknown as Schema.Schema<unknown, unknown, unknown>

const encodeCancelled = Schema.encodeSync(Schema.parseJson(ChildCancelled))

/** What the record says of a child's end. */
const toldOf = (child: RunRow): Encoded => {
  switch (child.status) {
    case "COMPLETED":
      return completed(child.outcome)
    case "FAILED":
      return { ...underWay, status: "FAILED", error: child.outcome }
    default: {
      const { name: workflow, outcome, workflowId } = child
      const reason = fromText(outcome) === "deadline" ? "deadline" : "cancelled"
      const error = new ChildCancelled({ workflowId, workflow, reason })
      return { status: "FAILED", output: null, errorTag: error._tag, error: encodeCancelled(error) }
    }
  }
}

/**
 * Waits for the end of a child, and records it.
 *
 * @returns what stops the waiting; `false` if it was over already
 */
const waitFor = (begun: Begun, kind: Kind, childId: string): () => boolean => {
  const { address, branch: { run } } = begun
  let waiting = true
  const ended = (end: Ended) => {
    waiting = false
    run.stir(address)
    Either.match(end, {
      onLeft: (error) => run.finish(endingOf(Cause.fail(error))),
      onRight: (child) =>
        run.household.fork(
          run.record(rowsOf(kind, begun)(toldOf(child)))
        )
    })
  }
  // Only what the store has been asked about rests: the child may have ended before.
  const stop = run.children.wait(childId, { ended, unended: () => run.rest(address, null) })
  return () => {
    const stopped = waiting
    waiting = false
    stop()
    run.stir(address)
    return stopped
  }
}

const answerOf = ({ outcome }: Definition) => (record: StepRow, { run }: Branch) => {
  const refused = (detail: string) =>
    run.refuse(new RecordUndecodable({ workflowId: run.workflowId, record: record.stepKey, detail }))
  return record.status === "COMPLETED"
    ? Effect.catchAll(decode(record.output, outcome.success), refused)
    : Effect.matchEffect(decode(record.error, record.errorTag === null ? outcome.error : childCancelled), {
      onFailure: refused,
      onSuccess: Effect.fail
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// cancelling
// ---------------------------------------------------------------------------------------------------------------------

/** Asks for the cancellation of a child. One that has ended, or has been asked before, is left as it is. */
const cancel = (run: ActiveRun, childId: string): Effect.Effect<void, StoreError> =>
  Effect.suspend(() =>
    Effect.asVoid(run.household.journal.write({
      ...emptyUpdate({ workflowId: childId, generation: 0, epoch: null }),
      cancelAt: run.now()
    }))
  )

/**
 * The same, for a body that has stopped waiting: it goes on when the child is sure to be cancelled. If it may be about to die, its child
 * is left for the mended body, and cancelled at the end of one that has lived on.
 */
const letGo = (
  begun: Begun,
  kind: Kind,
  created: Effect.Effect<void>,
  ended: () => void
) => {
  const { run } = begun.branch
  const childId = childIdOf(begun)
  const row = rowsOf(kind, begun)(cut("the body stopped waiting for this child, which is cancelled"))
  if (run.unwinding.throwing) {
    run.children.doomed.set(childId, row)
    ended()
    return
  }
  run.household.fork(
    Effect.matchCause(Effect.zipRight(created, cancel(run, childId)), {
      onFailure: (cause) => run.finish(endingOf(cause)),
      onSuccess: () => {
        run.jot(row)
        ended()
      }
    })
  )
}

/** Cancels what a body that has ended, and not died, had stopped waiting for when it seemed to die. */
export const cancelDoomed = (run: ActiveRun): Effect.Effect<void, StoreError> =>
  Effect.suspend(() =>
    Effect.forEach(run.children.doomed.keys(), (childId) => cancel(run, childId), {
      concurrency: "unbounded",
      discard: true
    })
  )

/**
 * Cancels the children that a run has started and not waited for, because it is cancelled itself. Fails if the store cannot be used;
 * whoever tries again does no harm.
 */
export const cancelStarted = (run: ActiveRun): Effect.Effect<void, StoreError> => {
  const after = (position: number): Effect.Effect<void, StoreError> =>
    Effect.flatMap(run.household.readHistory(run.identity, position), ({ more, rows }) => {
      const last = rows.at(-1)
      return Effect.zipRight(
        Effect.forEach(
          rows.filter((row) => row.kind === "start"),
          (row) => cancel(run, String(fromText(row.output))),
          { concurrency: "unbounded", discard: true }
        ),
        more && last !== undefined ? after(positionOf(last)) : Effect.void
      )
    })
  return after(-1)
}

// ---------------------------------------------------------------------------------------------------------------------
// operations
// ---------------------------------------------------------------------------------------------------------------------

/** Encodes the payload where the operation may be recorded at all. What does not fit is a mistake in the body. */
const withPayload = <A, E>(
  called: string,
  definition: Definition,
  input: unknown,
  operation: (payload: PreparedPayload) => Effect.Effect<A, E, unknown>
): Effect.Effect<A, E, unknown> =>
  placed(called, {
    inStep: inStep(called, definition),
    inBranch: ({ run }) =>
      Effect.matchEffect(definition.prepare(input, run.household.limits.value), {
        onFailure: (error: PayloadInvalid | TooLarge) =>
          error instanceof TooLarge
            ? run.refuse(run.exceeded(`the number of bytes in the payload of ${called}`, error.limit, error.bytes))
            : Effect.die(error),
        onSuccess: operation
      })
  })

/** Starts a child and waits for its end. */
export const executeChild = (
  called: string,
  definition: Definition,
  input: unknown
): Effect.Effect<unknown, unknown, unknown> =>
  withPayload(called, definition, input, (payload) => {
    const kind: Kind = { kind: "child", id: definition.name, fingerprint: payload.fingerprint }
    return durable<unknown, unknown, unknown>({
      called,
      ...kind,
      problem: null,
      inStep: inStep(called, definition),
      begin: (begun) => {
        const { address, branch: { run } } = begun
        const child = insertOf(begun, definition, payload)
        if (child === null) {
          return (ended) => ended()
        }
        const created = Deferred.unsafeMake<void>(FiberId.none)
        let isCut = false
        let stop = () => true
        const wait = () => {
          Deferred.unsafeDone(created, Effect.void)
          if (!isCut) {
            stop = waitFor(begun, kind, child.workflowId)
          }
        }
        if (run.unfinished.get(address)?.status === "IN_PROGRESS") {
          wait()
        } else {
          const row = rowsOf(kind, begun)(underWay)
          run.household.fork(
            Effect.zipRight(run.writeThrough({ steps: [row], children: [child] }), Effect.sync(wait))
          )
        }
        return (ended) => {
          isCut = true
          if (stop()) {
            letGo(begun, kind, Deferred.await(created), ended)
          } else {
            ended()
          }
        }
      },
      abandoned: (begun, ended) => {
        if (begun.branch.run.unfinished.get(begun.address)?.status === "IN_PROGRESS") {
          letGo(begun, kind, Effect.void, ended)
        } else {
          ended()
        }
      },
      answer: answerOf(definition)
    })
  })

/** Starts a child, and answers its id. */
export const startChild = (
  called: string,
  definition: Definition,
  input: unknown
): Effect.Effect<string, never, unknown> =>
  withPayload(called, definition, input, (payload) => {
    const kind: Kind = { kind: "start", id: definition.name, fingerprint: payload.fingerprint }
    return durable<string, never, never>({
      called,
      ...kind,
      problem: null,
      inStep: inStep(called, definition),
      begin: (begun) => {
        const { run } = begun.branch
        const child = insertOf(begun, definition, payload)
        if (child !== null) {
          const row = rowsOf(kind, begun)(completed(toText(child.workflowId)))
          run.household.fork(run.record(row, { children: [child] }))
        }
        return (ended) => ended()
      },
      answer: (record) => Effect.succeed(String(fromText(record.output)))
    })
  })

/** Waits for the end of a child that was started before. */
export const awaitChild = (
  called: string,
  definition: Definition,
  child: { readonly workflowId: string; readonly parent: string }
): Effect.Effect<unknown, unknown, unknown> => {
  const kind: Kind = { kind: "await", id: definition.name, fingerprint: child.workflowId }
  return placed(called, {
    inStep: inStep(called, definition),
    inBranch: ({ run }) =>
      durable<unknown, unknown, unknown>({
        called,
        ...kind,
        problem: child.parent === run.workflowId
          ? null
          : `the child belongs to run ${JSON.stringify(child.parent)}, and its end is told to no other`,
        inStep: inStep(called, definition),
        begin: (begun) => {
          const row = rowsOf(kind, begun)
          run.jot(row(underWay))
          const stop = waitFor(begun, kind, child.workflowId)
          return (ended) => {
            if (stop()) {
              run.jot(row(cut("the body stopped waiting for this child, which goes on")))
            }
            ended()
          }
        },
        answer: answerOf(definition)
      })
  })
}
