/** How the history of a run is read: in pages, because it may be many times as large as memory. */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { StoreError } from "../Errors.js"
import type { Paged, RunGeneration, StepRow, StepStore } from "../StepStore.js"

type Store = StepStore["Type"]

/** So many records, or as many as come to so many bytes. With the last of them a page may have the bytes of one value more. */
const page = { limit: 1_000, bytes: 4 * 1024 * 1024 }

/** A page of the history of a run. */
export const readHistory = (
  store: Store,
  { generation, workflowId }: RunGeneration,
  after: number
): Effect.Effect<Paged<StepRow>, StoreError> => store.history(workflowId, generation, { after, ...page })

/**
 * The whole history of a run.
 *
 * @param keep - what of each record is kept
 */
export const readAll = <A>(
  store: Store,
  run: RunGeneration,
  keep: (row: StepRow) => A
): Effect.Effect<ReadonlyArray<A>, StoreError> =>
  Stream.runCollect(
    Stream.paginateChunkEffect(-1, (after) =>
      Effect.map(readHistory(store, run, after), ({ more, rows }) =>
        [
          Chunk.unsafeFromArray(rows.map(keep)),
          more ? Option.fromNullable(rows.at(-1)?.position) : Option.none<number>()
        ] as const))
  ).pipe(Effect.map(Chunk.toReadonlyArray))
