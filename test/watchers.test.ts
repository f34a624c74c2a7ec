import { describe, expect, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { Watchers } from "../src/internal/watchers.js"

describe("Watchers", () => {
  it.effect("what happens between a look and the waiting for it is not missed", () =>
    Effect.gen(function*() {
      const watchers = new Watchers()
      const looked = yield* watchers.watching("wf", (happened) =>
        Effect.sync(() =>
          watchers.notify(["wf"])
        ).pipe(Effect.zipRight(happened), Effect.as(Effect.succeed("told"))))
      expect(looked).toBe("told")
    }))

  it.effect("everybody is told, or those who watch the run named", () =>
    Effect.gen(function*() {
      const watchers = new Watchers()
      const told: Array<string> = []
      const watch = (id: string) =>
        Effect.fork(watchers.watching(id, (happened) => Effect.as(happened, Effect.sync(() => void told.push(id)))))
      const fibers = yield* Effect.all([watch("a"), watch("a"), watch("b")])
      yield* Effect.yieldNow()
      watchers.notify(["a", "nobody"])
      yield* Fiber.joinAll(fibers.slice(0, 2))
      expect(told).toEqual(["a", "a"])
      watchers.notify(null)
      yield* Fiber.joinAll(fibers)
      expect(told).toEqual(["a", "a", "b"])
    }))

  it.effect("who looks again and again holds one watch at a time", () =>
    Effect.gen(function*() {
      const watchers = new Watchers()
      const look = (times: number): Effect.Effect<number> =>
        watchers.watching("wf", (happened) =>
          Effect.gen(function*() {
            expect(watchers["byRun"].get("wf")?.size).toBe(1)
            watchers.notify(["wf"])
            yield* happened
            return yield* Effect.succeed(times === 0 ? Effect.succeed(times) : look(times - 1))
          }))
      expect(yield* look(1_000)).toBe(0)
      expect(watchers["byRun"].size).toBe(0)
    }))
})
