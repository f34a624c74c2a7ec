/** Runs without a definition: they live within the call that asked for them, and the next call takes them up. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type * as Runtime from "effect/Runtime"
import type { StoreError } from "../Errors.js"
import { WorkflowIdConflict } from "../Errors.js"
import type { RunRow, StepStore } from "../StepStore.js"
import { ofScript } from "./body.js"
import { endOf, type Residency } from "./residency.js"
import { freshIdentity, identityOf, type Roster } from "./roster.js"
import type { RunEnd, ScriptRequest, StartRequest } from "./run.js"
import { currentTrace } from "./trace.js"

/** The name of runs without a definition. */
export const scriptName = "~run"

export interface ScriptOptions {
  readonly roster: Roster
  readonly store: StepStore["Type"]
  /** Creates a run, owned by this worker; answers the row that was there already. */
  readonly insert: (request: StartRequest, createdAt: number) => Effect.Effect<RunRow | null, StoreError>
  readonly now: () => number
  /** Makes a run that has ended badly claimable again, if it can be. */
  readonly revive: (row: RunRow) => Effect.Effect<boolean, StoreError>
}

type Failure = WorkflowIdConflict | StoreError

export const makeScript =
  ({ insert, now, revive, roster, store }: ScriptOptions) => (request: ScriptRequest): Effect.Effect<RunEnd, Failure> =>
    Effect.flatMap(
      Effect.zip(Effect.runtime<never>(), currentTrace),
      ([caller, trace]) =>
        Effect.uninterruptibleMask((restore) => {
          const { workflowId } = request
          const program = ofScript(request.body, request.outcome, caller as Runtime.Runtime<unknown>)

          /** The run lives in the caller's call: when that is interrupted, the run leaves. */
          const stay = (residency: Residency): Effect.Effect<RunEnd, Failure> =>
            Effect.flatMap(
              Effect.onInterrupt(restore(Deferred.await(residency.ended)), () => residency.leave),
              Option.match({ onNone: () => attend, onSome: Effect.succeed })
            )

          /** Takes the run over, unless somebody alive has it. */
          const take = (row: RunRow): Effect.Effect<Option.Option<Residency>, StoreError> =>
            Effect.flatMap(roster.goneOwners(row), (dead) =>
              roster.arrive(
                workflowId,
                roster.claimRows([scriptName], workflowId, dead, 1).pipe(
                  Effect.flatMap((claimed) => Effect.forEach(claimed, ({ run }) => run)),
                  Effect.map(([mine]) =>
                    Option.map(
                      Option.fromNullable(mine),
                      (mine) => roster.inhabit({ ...identityOf(mine), parks: false }, false, program)
                    )
                  )
                )
              ))

          /** Awaits the outcome of a run that lives elsewhere, or takes it over where it does not. */
          const attend: Effect.Effect<RunEnd, Failure> = roster.watchers.watching(workflowId, (happened) => {
            const wait = Effect.as(restore(happened), Effect.suspend(() => attend))
            return roster.whileOpen.pipe(
              Effect.zipRight(Effect.flatten(store.run(workflowId))),
              Effect.catchTag("NoSuchElementException", Effect.die),
              Effect.flatMap((row): Effect.Effect<Effect.Effect<RunEnd, Failure>, StoreError> =>
                Option.match(endOf(row), {
                  onSome: (end) => Effect.succeed(Effect.succeed(end)),
                  onNone: () =>
                    roster.residents.has(workflowId)
                      ? wait
                      : Effect.flatMap(
                        take(row),
                        Option.match({ onNone: () => wait, onSome: (residency) => Effect.succeed(stay(residency)) })
                      )
                })
              )
            )
          })

          const attach = (row: RunRow): Effect.Effect<RunEnd, Failure> =>
            row.name === scriptName
              ? Effect.zipRight(revive(row), attend)
              : Effect.fail(new WorkflowIdConflict({ workflowId, existing: row.name, requested: scriptName }))

          const createdAt = now()
          const start: StartRequest = {
            workflowId,
            name: scriptName,
            version: null,
            payload: null,
            fingerprint: "",
            deadlineAt: null,
            trace
          }
          const created = () => roster.inhabit(freshIdentity(start, createdAt, false), true, program)
          return Effect.flatMap(
            roster.arrive(
              workflowId,
              Effect.map(
                insert(start, createdAt),
                (row) => row === null ? Either.left(created()) : Either.right(row)
              )
            ),
            Either.match({ onLeft: stay, onRight: attach })
          )
        })
    )
