import { readFile } from "node:fs/promises"
import { describe, expect, it, vi } from "@effect/vitest"
import {
  Cause,
  Clock,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Queue,
  Schedule,
  Schema,
  TestClock,
  TestContext
} from "effect"
import { Branch, Child, Engine, Errors, MemoryStepStore, PayloadCodec, Signal, Step, Workflow } from "perdure"
import { TestEngine } from "perdure/testing"

const hour = 60 * 60 * 1_000
const day = 24 * hour

/** What happened, and when. */
const diary = () => {
  const entries: Array<string> = []
  const note = (entry: string) =>
    Effect.clockWith((clock) => Effect.map(clock.currentTimeMillis, (at) => void entries.push(`${at} ${entry}`)))
  return { entries, note }
}

const inTest = <E>(...workflows: ReadonlyArray<Layer.Layer<never, E, Engine.Engine>>) =>
  Layer.provideMerge(Layer.mergeAll(Layer.empty, ...workflows), TestEngine.layer)

class Unreachable extends Schema.TaggedError<Unreachable>()("Unreachable", {}) {}

const dies = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(self), (exit) => Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "it succeeded")

describe("TestEngine.advance", () => {
  const Approval = Signal.make("approval", Schema.Struct({ by: Schema.String }))
  const Purchase = Workflow.make({
    name: "purchase",
    payload: { item: Schema.String },
    success: Schema.String,
    idempotencyKey: ({ item }) => item
  })

  const purchases = (note: (entry: string) => Effect.Effect<void>) =>
    Purchase.toLayer(({ item }) =>
      Effect.gen(function*() {
        yield* note(`${item} asked`).pipe(Step.durable("ask"))
        const approved = yield* Signal.next(Approval).pipe(
          Branch.timeout("3 days"),
          Effect.map(({ by }) => `approved by ${by}`),
          Effect.catchTag("TimeoutException", () => Effect.succeed("nobody answered"))
        )
        yield* note(`${item} ${approved}`).pipe(Step.durable("note"))
        yield* Effect.sleep("1 day")
        yield* Effect.gen(function*() {
          const attempt = yield* Step.attempt
          yield* note(`${item} order ${attempt}`)
          return attempt < 5 ? yield* new Unreachable() : attempt
        }).pipe(
          Step.durable("order", { error: Unreachable, retry: Schedule.exponential("1 day") }),
          Effect.orDie
        )
        yield* Effect.sleep("2 days")
        return approved
      })
    )

  it.effect("takes parents along whose children sleep", () => {
    const { entries, note } = diary()
    const Parcel = Workflow.make({ name: "parcel", payload: { days: Schema.Number }, success: Schema.Number })
    const Delivery = Workflow.make({ name: "delivery", payload: {}, success: Schema.Number })
    const parcels = Parcel.toLayer(({ days }) =>
      Effect.sleep(days * day).pipe(
        Effect.zipRight(note(`parcel ${days}`).pipe(Step.durable("arrive"))),
        Effect.as(days)
      )
    )
    const deliveries = Delivery.toLayer(() =>
      Branch.forEach([3, 1, 2], (days) => Effect.orDie(Child.execute(Parcel, { days })), {
        concurrency: "unbounded"
      }).pipe(
        Effect.map((all) => all.reduce((sum, days) => sum + days, 0)),
        Effect.tap(() => note("delivered").pipe(Step.durable("close")))
      )
    )
    return Effect.gen(function*() {
      const delivery = yield* Effect.fork(Delivery.execute())
      yield* TestEngine.advance("30 days")
      expect(yield* Fiber.join(delivery)).toBe(6)
      expect(entries).toEqual([
        `${day} parcel 1`,
        `${2 * day} parcel 2`,
        `${3 * day} parcel 3`,
        `${3 * day} delivered`
      ])
    }).pipe(Effect.provide(inTest(parcels, deliveries)))
  })

  it.effect("takes sleeps, backoffs and approval timeouts through 30 days, in milliseconds", () => {
    const { entries, note } = diary()
    return Effect.gen(function*() {
      const desk = yield* Effect.fork(Purchase.execute({ item: "desk" }))
      const lamp = yield* Effect.fork(Purchase.execute({ item: "lamp" }))
      const began = performance.now()
      yield* TestEngine.advance("1 day")
      yield* Signal.send(Approval, { workflowId: "purchase/lamp", value: { by: "Ada" } })
      yield* TestEngine.advance("29 days")
      expect(performance.now() - began).toBeLessThan(10_000)
      expect(yield* Fiber.join(desk)).toBe("nobody answered")
      expect(yield* Fiber.join(lamp)).toBe("approved by Ada")
      expect(yield* Clock.currentTimeMillis).toBe(30 * day)
      // Of two runs that are due at one moment, either may be first.
      expect(entries.sort((a, b) => Number.parseInt(a) - Number.parseInt(b) || a.localeCompare(b))).toEqual([
        [0, "desk asked"],
        [0, "lamp asked"],
        [1, "lamp approved by Ada"],
        [2, "lamp order 1"],
        [3, "desk nobody answered"],
        [3, "lamp order 2"],
        [4, "desk order 1"],
        [5, "desk order 2"],
        [5, "lamp order 3"],
        [7, "desk order 3"],
        [9, "lamp order 4"],
        [11, "desk order 4"],
        [17, "lamp order 5"],
        [19, "desk order 5"]
      ].map(([days, what]) => `${Number(days) * day} ${what}`))
    }).pipe(Effect.provide(inTest(purchases(note))))
  })

  it.effect("hops a handful of times where nothing is due", () =>
    Effect.gen(function*() {
      let looks = 0
      const clock = yield* TestClock.testClock()
      const counting = new Proxy(clock, {
        get: (target, key) => {
          looks += key === "sleeps" ? 1 : 0
          return Reflect.get(target, key, target) as unknown
        }
      })
      yield* TestEngine.advance("30 days").pipe(Effect.provide(TestEngine.layer), Effect.withClock(counting))
      expect(looks).toBeLessThan(5)
      expect(yield* Clock.currentTimeMillis).toBe(30 * day)
    }))

  it.effect("wakes 200 runs in the order in which they are due, each at its time", () => {
    const { entries, note } = diary()
    const Nap = Workflow.make({ name: "nap", payload: { n: Schema.Int }, idempotencyKey: ({ n }) => `${n}` })
    const due = (n: number) => ((n * 7_919) % 200) * 97_003 + 1
    const naps = Nap.toLayer(({ n }) =>
      Effect.gen(function*() {
        yield* Effect.sleep(due(n))
        yield* note(`${n}`).pipe(Step.durable("wake"))
        yield* Effect.sleep(due(n))
        yield* note(`${n} again`).pipe(Step.durable("wake-again"))
      })
    )
    const all = Array.from({ length: 200 }, (_, n) => n)
    return Effect.gen(function*() {
      yield* Effect.forEach(all, (n) => Nap.start({ n }))
      yield* TestEngine.advance("30 days")
      const expected = all.flatMap((n) => [[due(n), `${n}`] as const, [2 * due(n), `${n} again`] as const])
      expect(entries.map((entry) => Number(entry.split(" ")[0]))).toEqual(
        expected.map(([at]) => at).sort((a, b) => a - b)
      )
      expect(new Set(entries)).toEqual(new Set(expected.map(([at, what]) => `${at} ${what}`)))
    }).pipe(Effect.provide(inTest(naps)))
  })

  it.effect("waits for what steps do outside the process, however they do it", () => {
    const { entries, note } = diary()
    const read = Effect.promise(() => readFile("package.json", "utf8"))
    const pause = Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 30)))
    const ways: Record<string, Effect.Effect<unknown, never>> = {
      alone: read,
      slow: pause,
      busy: Effect.replicateEffect(Effect.yieldNow(), 5_000),
      "against the clock": Effect.orDie(Effect.timeout(Effect.zipRight(pause, read), "5 seconds")),
      "side by side": Effect.all([pause, Effect.sleep("1 second"), read], { concurrency: "unbounded" }),
      "in a fiber of its own": Effect.flatMap(Effect.forkDaemon(pause), Fiber.join),
      "beside a heartbeat": Effect.zipRight(Effect.fork(Effect.forever(Effect.sleep("1 minute"))), pause),
      "with a heartbeat beside it": Effect.gen(function*() {
        const work = yield* Effect.fork(pause)
        yield* Effect.fork(Effect.forever(Effect.sleep("1 minute")))
        yield* Fiber.join(work)
      }),
      "through a queue": Effect.flatMap(
        Queue.unbounded<number>(),
        (queue) =>
          Effect.zipRight(Effect.sync(() => void setTimeout(() => queue.unsafeOffer(1), 30)), Queue.take(queue))
      )
    }
    const body = Effect.forEach(Object.entries(ways), ([id, way]) =>
      Effect.zipRight(
        Effect.asVoid(way).pipe(Step.durable(id)),
        Effect.zipRight(note(id).pipe(Step.durable("note")), Effect.sleep("1 hour"))
      ), { discard: true })
    return Effect.gen(function*() {
      const run = yield* Effect.fork(Workflow.run("io", body))
      yield* TestEngine.advance("1 day")
      yield* Fiber.join(run)
      // One of them sleeps for a second.
      const late = (i: number) => i >= Object.keys(ways).indexOf("side by side") ? 1_000 : 0
      expect(entries).toEqual(Object.keys(ways).map((id, i) => `${i * hour + late(i)} ${id}`))
    }).pipe(Effect.provide(TestEngine.layer))
  })

  it.effect("moves on at once where everything in a step sleeps", () => {
    const { entries, note } = diary()
    const naps = (concurrency: number | "unbounded") =>
      Effect.forEach([1, 2, 3], (hours) => Effect.sleep(hours * hour), { concurrency, discard: true })
    const body = Effect.gen(function*() {
      yield* naps("unbounded").pipe(Step.durable("side by side"))
      yield* note("side by side").pipe(Step.durable("first"))
      yield* naps(2).pipe(Effect.timeoutOption("4 hours"), Effect.asVoid, Step.durable("two at a time"))
      yield* note("two at a time").pipe(Step.durable("second"))
      yield* Effect.sleep("1 day").pipe(Step.durable("too long", { timeout: "1 hour" }), Effect.ignore)
      yield* note("too long").pipe(Step.durable("third"))
    })
    return Effect.gen(function*() {
      const run = yield* Effect.fork(Workflow.run("naps", body))
      const began = performance.now()
      yield* TestEngine.advance("1 day", { patience: "30 seconds" })
      expect(performance.now() - began).toBeLessThan(10_000)
      yield* Fiber.join(run)
      expect(entries).toEqual([`${3 * hour} side by side`, `${7 * hour} two at a time`, `${8 * hour} too long`])
    }).pipe(Effect.provide(TestEngine.layer))
  })

  it.effect("waits for what a body awaits outside a step, and for a codec that takes its time", () => {
    const pause = Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 30)))
    const codec = Layer.succeed(PayloadCodec.PayloadCodec, {
      name: "slow",
      encode: (json) => Effect.as(pause, json),
      decode: (stored) => Effect.as(pause, stored)
    })
    return Effect.gen(function*() {
      const run = yield* Effect.fork(Workflow.run(
        "foreign",
        Effect.zipRight(pause, Effect.succeed(1).pipe(Step.durable("after")))
      ))
      yield* TestEngine.advance("1 day")
      expect(yield* Fiber.join(run)).toBe(1)
    }).pipe(Effect.provide(Layer.provide(TestEngine.layer, codec)))
  })

  it.effect("replays parked runs without running again what is recorded", () => {
    const { entries, note } = diary()
    let lives = 0
    const Slow = Workflow.make({ name: "slow", payload: {}, success: Schema.Int })
    const live = Slow.toLayer(() =>
      Effect.gen(function*() {
        lives++
        yield* note("before").pipe(Step.durable("before"))
        yield* Effect.sleep("1 hour")
        yield* note("after").pipe(Step.durable("after"))
        return lives
      })
    )
    return Effect.gen(function*() {
      const run = yield* Effect.fork(Slow.execute())
      yield* TestEngine.advance("2 hours")
      expect(yield* Fiber.join(run)).toBe(2)
      expect(entries).toEqual(["0 before", `${hour} after`])
    }).pipe(Effect.provide(inTest(live)))
  })

  it.effect("lets a poller that continues as new look every hour for 30 days", () => {
    const { entries, note } = diary()
    const Poller = Workflow.make({ name: "poller", payload: { looks: Schema.Int }, success: Schema.Int })
    const live = Poller.toLayer(({ looks }) =>
      Effect.gen(function*() {
        if (looks === 720) {
          return looks
        }
        yield* note("look").pipe(Step.durable("look"))
        yield* Effect.sleep("1 hour")
        return yield* Poller.continueAsNew({ looks: looks + 1 })
      })
    )
    return Effect.gen(function*() {
      const run = yield* Effect.fork(Poller.execute({ looks: 0 }))
      yield* TestEngine.advance("30 days")
      expect(yield* Fiber.join(run)).toBe(720)
      expect(entries).toEqual(Array.from({ length: 720 }, (_, i) => `${i * hour} look`))
    }).pipe(Effect.provide(inTest(live)))
  })

  it.effect("cancels and meets deadlines on the way", () => {
    const { entries, note } = diary()
    const Long = Workflow.make({ name: "long", payload: { id: Schema.String }, idempotencyKey: ({ id }) => id })
    const live = Long.toLayer(({ id }) =>
      Effect.zipRight(
        Effect.void.pipe(Step.durable("take", { compensate: () => note(`${id} given back`) })),
        Effect.sleep("20 days")
      )
    )
    return Effect.gen(function*() {
      const one = yield* Effect.fork(Effect.flip(Long.execute({ id: "one" })))
      const other = yield* Effect.fork(Effect.flip(Long.execute({ id: "other" }, { deadline: "10 days" })))
      yield* TestEngine.advance("5 days")
      yield* Long.cancel("long/one")
      yield* TestEngine.advance("25 days")
      expect(yield* Fiber.join(one)).toMatchObject({ _tag: "RunCancelled", reason: "cancelled" })
      expect(yield* Fiber.join(other)).toMatchObject({ _tag: "RunCancelled", reason: "deadline" })
      expect(entries).toEqual([`${5 * day} one given back`, `${10 * day} other given back`])
    }).pipe(Effect.provide(inTest(live)))
  })

  it.effect.prop(
    "nothing is early, and nothing late",
    {
      runs: Schema.Array(
        Schema.Array(Schema.Struct({
          sleep: Schema.Int.pipe(Schema.between(1, 20 * hour)),
          failures: Schema.Int.pipe(Schema.between(0, 3)),
          backoff: Schema.Int.pipe(Schema.between(1, 4 * hour))
        })).pipe(Schema.maxItems(4))
      ).pipe(Schema.maxItems(5))
    },
    ({ runs }) => {
      const { entries, note } = diary()
      const body = (plan: typeof runs[number], name: number) =>
        Effect.forEach(plan, ({ backoff, failures, sleep }, i) =>
          Effect.zipRight(
            Effect.sleep(sleep),
            Effect.flatMap(Step.attempt, (attempt) =>
              Effect.zipRight(
                note(`${name}.${i}.${attempt}`),
                attempt <= failures ? Effect.fail(new Unreachable()) : Effect.void
              )).pipe(
                Step.durable("try", { error: Unreachable, retry: Schedule.spaced(backoff) }),
                Effect.orDie
              )
          ), { discard: true })
      const expected = runs.flatMap((plan, name) => {
        let at = 0
        return plan.flatMap(({ backoff, failures, sleep }, i) => {
          at += sleep
          return Array.from({ length: failures + 1 }, (_, attempt) => {
            at += attempt === 0 ? 0 : backoff
            return [at, `${at} ${name}.${i}.${attempt + 1}`] as const
          })
        })
      }).sort(([a], [b]) => a - b)
      const Plan = Workflow.make({
        name: "plan",
        payload: { name: Schema.Int },
        idempotencyKey: ({ name }) => `${name}`
      })
      const live = Plan.toLayer(({ name }) => body(runs[name]!, name))
      return Effect.gen(function*() {
        yield* Effect.forEach(runs, (_, name) => Plan.start({ name }))
        yield* TestEngine.advance("10 days")
        expect(entries.map((entry) => Number.parseInt(entry))).toEqual(expected.map(([at]) => at))
        expect(new Set(entries)).toEqual(new Set(expected.map(([, entry]) => entry)))
        const times = yield* Effect.forEach(runs, (_, name) => Effect.flatMap(Plan.poll(`plan/${name}`), Effect.orDie))
        expect(times.every(({ _tag }) => _tag === "COMPLETED")).toBe(true)
      }).pipe(Effect.provide(inTest(live)))
    },
    { fastCheck: { numRuns: 25 } }
  )

  it.effect("does not wait for ever for a step or a body that nothing ends, and waits once", () => {
    const { entries, note } = diary()
    return Effect.gen(function*() {
      const open = yield* Deferred.make<void>()
      const waits = yield* Effect.fork(Workflow.run("waits", Deferred.await(open).pipe(Step.durable("wait"))))
      const stuck = yield* Effect.fork(Effect.exit(Workflow.run("stuck", Effect.never)))
      yield* Effect.fork(Effect.forever(Effect.zipRight(Effect.sleep("1 minute"), note("tick"))))
      const began = performance.now()
      yield* TestEngine.advance("1 hour", { patience: "500 millis" })
      expect(performance.now() - began).toBeLessThan(10_000)
      expect(entries).toHaveLength(60)
      expect(Exit.isFailure(yield* Fiber.join(stuck))).toBe(true)
      expect(Option.isNone(yield* Fiber.poll(waits))).toBe(true)
      yield* Deferred.succeed(open, undefined)
      yield* TestEngine.advance(0)
      expect(Option.isSome(yield* Fiber.poll(waits))).toBe(true)
      expect(yield* Clock.currentTimeMillis).toBe(hour)
    }).pipe(Effect.provide(TestEngine.layer))
  })

  it.effect("lets what is due at one moment happen at that moment", () => {
    const { entries, note } = diary()
    return Effect.gen(function*() {
      yield* Effect.forEach(
        [1, 2, 3],
        (n) =>
          Effect.fork(
            Workflow.run(`run-${n}`, Effect.zipRight(Effect.sleep("1 hour"), note(`${n}`).pipe(Step.durable("note"))))
          )
      )
      yield* TestEngine.advance(0)
      expect(entries).toEqual([])
      yield* TestEngine.advance("1 hour")
      expect(entries).toEqual([1, 2, 3].map((n) => `${hour} ${n}`))
    }).pipe(Effect.provide(TestEngine.layer))
  })

  it.effect("shows what a run stopped of", () =>
    Effect.gen(function*() {
      const run = yield* Effect.fork(Effect.flip(Workflow.run(
        "dies",
        Effect.zipRight(Effect.sleep("1 day"), Effect.dieMessage("out of paper").pipe(Step.durable("print")))
      )))
      yield* TestEngine.advance("2 days")
      const stopped = yield* Fiber.join(run)
      expect(stopped).toBeInstanceOf(Errors.RunStopped)
      expect(String(stopped)).toContain("out of paper")
    }).pipe(Effect.provide(TestEngine.layer)))
})

describe("TestEngine.layer", () => {
  it.effect("moves any test clock, however that keeps its time", () =>
    Effect.gen(function*() {
      const clock = yield* TestClock.testClock()
      const plain: TestClock.TestClock = {
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis(),
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        currentTimeMillis: clock.currentTimeMillis,
        currentTimeNanos: clock.currentTimeNanos,
        sleep: (duration) => clock.sleep(duration),
        adjust: (duration) => clock.adjust(duration),
        adjustWith: (duration) => clock.adjustWith(duration),
        save: clock.save,
        setTime: (time) => clock.setTime(time),
        sleeps: clock.sleeps
      }
      yield* Effect.gen(function*() {
        const run = yield* Effect.fork(Workflow.run("sleeps", Effect.as(Effect.sleep("1 day"), "awake")))
        yield* TestEngine.advance("1 day")
        expect(yield* Fiber.join(run)).toBe("awake")
      }).pipe(Effect.provide(TestEngine.layer), Effect.withClock(plain))
    }))

  it.live("says what to do where there is no test clock", () =>
    Effect.gen(function*() {
      expect(yield* dies(Effect.provide(TestEngine.advance("1 day"), TestEngine.layer)))
        .toContain("TestEngine.layer: there is no test clock. Run the test with it.effect")
      const production = Layer.provide(Engine.layer, MemoryStepStore.layer)
      expect(yield* dies(Effect.provide(TestEngine.advance("1 day"), production)))
        .toContain("TestEngine.advance: there is no test clock")
    }))

  it.effect("says so of an engine that is not for tests, and of a clock that is not its own", () =>
    Effect.gen(function*() {
      const production = Layer.provide(Engine.layerWith({ housekeeping: false }), MemoryStepStore.layer)
      expect(yield* dies(Effect.provide(TestEngine.advance("1 day"), production)))
        .toContain("Provide TestEngine.layer in place of Engine.layer")
      expect(
        yield* dies(
          TestEngine.advance("1 day").pipe(
            Effect.provide(TestContext.TestContext),
            Effect.provide(TestEngine.layer)
          )
        )
      ).toContain("is not the one with which TestEngine.layer was built")
    }))

  it.effect("gives steps in flight the grace that they are to have when it closes, and moves the clock for it", () => {
    const { entries, note } = diary()
    const run = (grace: number) =>
      Effect.gen(function*() {
        yield* Effect.fork(Workflow.run(
          "closes",
          Effect.sleep("3 seconds").pipe(Effect.zipRight(note("done")), Step.durable("nap"))
        ))
        yield* TestEngine.advance(0)
      }).pipe(Effect.provide(TestEngine.layerWith({ shutdownGrace: grace, namespace: "tests" })))
    return Effect.gen(function*() {
      yield* run(1_000)
      expect(entries).toEqual([])
      yield* run(10_000)
      expect(entries).toEqual(["4000 done"])
    })
  })

  it.effect("closes although a step sleeps where nothing interrupts it", () => {
    const { entries, note } = diary()
    return Effect.gen(function*() {
      const begun = yield* Deferred.make<void>()
      yield* Effect.gen(function*() {
        yield* Effect.fork(Workflow.run(
          "closes",
          Effect.sleep("3 seconds").pipe(Effect.zipRight(note("done")), Effect.uninterruptible, Step.durable("nap"))
        ))
        yield* TestEngine.advance(0)
      }).pipe(Effect.provide(TestEngine.layer))
      yield* Effect.gen(function*() {
        yield* Effect.fork(Workflow.run(
          "writes",
          Deferred.succeed(begun, undefined).pipe(
            Effect.zipRight(Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 50)))),
            Effect.zipRight(note("written")),
            Effect.uninterruptible,
            Step.durable("write")
          )
        ))
        yield* Deferred.await(begun)
      }).pipe(Effect.provide(TestEngine.layer))
      expect(entries).toEqual(["3000 done", "3000 written"])
    })
  })

  it.effect("shows what the engine has to say, which it.effect would hide: that it gives up a body that does not end", () =>
    Effect.gen(function*() {
      const log = vi.spyOn(console, "log").mockImplementation(() => {})
      yield* Effect.gen(function*() {
        yield* Effect.fork(Workflow.run("endless", Effect.uninterruptible(Effect.never)))
        yield* TestEngine.advance(0, { patience: 10 })
      }).pipe(Effect.provide(TestEngine.layer))
      const said = log.mock.calls.join()
      log.mockRestore()
      expect(said).toContain("would not end and was dropped")
    }))

  it.effect("waits for what a body releases when its run leaves memory", () => {
    const { entries, note } = diary()
    const Holder = Workflow.make({ name: "holder", payload: {} })
    const live = Holder.toLayer(() =>
      Effect.gen(function*() {
        yield* Effect.addFinalizer(() =>
          Effect.zipRight(
            Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 30))),
            Effect.sync(() => void entries.push("released"))
          )
        )
        yield* Effect.sleep("1 hour")
        yield* note("awake").pipe(Step.durable("note"))
      })
    )
    return Effect.gen(function*() {
      yield* Holder.start()
      yield* TestEngine.advance("2 seconds")
      expect(entries).toEqual(["released"])
      yield* TestEngine.advance("1 hour")
      expect(entries).toEqual(["released", `${hour} awake`, "released"])
    }).pipe(Effect.provide(inTest(live)))
  })
})
