import { describe, expect, it } from "@effect/vitest"
import {
  Clock,
  Console,
  DateTime,
  Duration,
  Effect,
  Exit,
  Fiber,
  HashMap,
  Layer,
  Logger,
  Option,
  Random,
  RuntimeFlags,
  RuntimeFlagsPatch,
  Schedule,
  Schema,
  TestClock,
  Tracer
} from "effect"
import { Branch, Step, StepStore, Workflow } from "perdure"
import { bodyLogger } from "../src/internal/bodyOutput.js"
import { bodySupervisor } from "../src/internal/bodySupervisor.js"
import {
  attemptsOf,
  gate,
  inEngine,
  ledger,
  livedTwice,
  openEngine,
  recorded,
  rowOf,
  statusOf,
  stepOf,
  stepsOf,
  stoppedBy,
  testOn,
  turns
} from "./support/harness.js"
import { stores } from "./support/stores.js"

const Job = Workflow.make({ name: "job", payload: {}, success: Schema.Unknown as Schema.Schema<string | number> })

type JobBody = Effect.Effect<string | number, never, Workflow.Run>

const live = (body: JobBody) => Job.toLayer(() => body)

const start = Job.start(undefined, { workflowId: "wf" })

/** Where hours pass, a look for dead workers every five seconds is in the way. */
const patient = { slowPoll: "1000 days" } as const

/** Lets a while pass on the test's clock, and what it wakes go on. */
const pass = (duration: Duration.DurationInput) =>
  Effect.zipRight(turns(30), Effect.zipRight(TestClock.adjust(duration), turns(30)))

const value = <A, E>(exit: Exit.Exit<A, E>) => Exit.getOrElse(exit, (cause) => expect.unreachable(String(cause)))

describe.each(stores)("Sleep (%s)", (_, store) => {
  const test = testOn(store)

  test("lasts through a restart, to the millisecond, and takes its address", () =>
    Effect.gen(function*() {
      const body = Effect.zipRight(stepOf("a"), Effect.zipRight(Effect.sleep("1 hour"), stepOf("b")))
      const first = yield* openEngine({ ...patient, workflows: [live(body)] })
      yield* first.run(start)
      yield* pass("20 minutes")
      expect(yield* stepsOf("wf")).toEqual(["0 a COMPLETED 1!", "1 sleep IN_PROGRESS 1"])
      expect(yield* first.close).toBe(0)
      expect(yield* statusOf("wf")).toBe("SUSPENDED")
      const second = yield* openEngine({ ...patient, workflows: [live(body)] })
      yield* pass(Duration.subtract("40 minutes", "1 millis"))
      expect(yield* recorded("wf")).toEqual(["0 a"])
      yield* pass("1 millis")
      expect(yield* second.run(Job.await("wf"))).toBe("b")
      expect(yield* recorded("wf")).toEqual(["0 a", "1 sleep", "2 b"])
      expect(yield* attemptsOf("wf")).toEqual([])
    }))

  test("shows people when it ends", () =>
    Effect.gen(function*() {
      yield* start
      yield* pass("1 minute")
      const store = yield* StepStore.StepStore
      const [row] = yield* store.unfinished("wf", 0)
      expect(row).toMatchObject({ kind: "sleep", status: "IN_PROGRESS", output: "\"1970-01-01T01:00:00.000Z\"" })
    }).pipe(inEngine({ workflows: [live(Effect.as(Effect.sleep("1 hour"), 1))] })))

  test("that should have ended while nobody was there ends at once", () =>
    Effect.gen(function*() {
      const body = Effect.zipRight(Effect.sleep("1 hour"), stepOf("b"))
      const first = yield* openEngine({ ...patient, workflows: [live(body)] })
      yield* first.run(start)
      yield* pass("1 minute")
      yield* first.close
      yield* pass("1 day")
      const second = yield* openEngine({ ...patient, workflows: [live(body)] })
      expect(yield* second.run(Job.await("wf"))).toBe("b")
    }))

  test("lasts longer than a timer of JavaScript can", () =>
    Effect.gen(function*() {
      yield* start
      yield* pass(Duration.subtract("30 days", "1 millis"))
      expect(yield* statusOf("wf")).toBe("SUSPENDED")
      yield* pass("1 millis")
      expect(yield* Job.await("wf")).toBe(1)
    }).pipe(inEngine({ ...patient, workflows: [live(Effect.as(Effect.sleep("30 days"), 1))] })))

  test("for good is no deadlock", () =>
    Effect.gen(function*() {
      yield* start
      yield* pass("1 day")
      expect(yield* statusOf("wf")).toBe("SUSPENDED")
    }).pipe(inEngine({ ...patient, workflows: [live(Effect.as(Effect.sleep(Duration.infinity), 1))] })))

  test("that is cut says so, and leaves no timer behind", () =>
    Effect.gen(function*() {
      const { open, pass: passes } = gate()
      const fiber = yield* Effect.fork(Workflow.run(
        "wf",
        Branch.race(Effect.as(Effect.sleep("1 hour"), "slept"), Effect.as(passes, "passed").pipe(Step.durable("step")))
      ))
      yield* turns(20)
      yield* open
      expect(yield* Fiber.join(fiber)).toBe("passed")
      yield* pass("2 hours")
      expect(yield* stepsOf("wf")).toEqual(["0.0 sleep FAILED 1", "1.0 step COMPLETED 1!"])
    }).pipe(inEngine(patient)))

  test("wins a race in every replay", () =>
    Effect.gen(function*() {
      const body = Branch.race(
        Effect.as(Effect.sleep("1 minute"), "slept"),
        Effect.as(Effect.never, "never").pipe(Step.durable("step"))
      )
      const fiber = yield* Effect.fork(livedTwice("wf", body))
      yield* pass("1 minute")
      expect((yield* Fiber.join(fiber)).map(value)).toEqual(["slept", "slept"])
    }).pipe(inEngine()))

  test("is what the delays of schedules are", () =>
    Effect.gen(function*() {
      const { add, entries } = ledger()
      const tries = add("try").pipe(
        Effect.zipRight(Effect.suspend(() => entries.length < 3 ? Effect.fail("no") : Effect.succeed("yes"))),
        Step.durable("try", { error: Schema.String }),
        Effect.retry(Schedule.exponential("1 minute"))
      )
      const fiber = yield* Effect.fork(livedTwice("wf", tries))
      yield* pass("1 minute")
      expect(entries).toHaveLength(2)
      yield* pass("2 minutes")
      expect((yield* Fiber.join(fiber)).map(value)).toEqual(["yes", "yes"])
      expect(yield* recorded("wf")).toEqual(["0 try", "1 sleep", "2 try", "3 sleep", "4 try"])
      expect(entries).toHaveLength(3)
    }).pipe(inEngine()))

  test("until a date waits for it, and not at all if it is past", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.fork(Workflow.run(
        "wf",
        Workflow.sleepUntil(new Date(60_000)).pipe(
          Effect.zipRight(Workflow.sleepUntil(DateTime.unsafeMake(120_000))),
          Effect.zipRight(Workflow.sleepUntil(new Date(0))),
          Effect.zipRight(Clock.currentTimeMillis)
        )
      ))
      yield* pass("1 minute")
      expect(yield* recorded("wf")).toEqual(["0 sleep"])
      yield* pass("1 minute")
      expect(yield* Fiber.join(fiber)).toBe(120_000)
    }).pipe(inEngine()))

  test("until no date at all, or in a step, stops the run", () =>
    Effect.gen(function*() {
      const invalid = yield* Workflow.run("invalid", Workflow.sleepUntil(new Date(Number.NaN))).pipe(
        stoppedBy("Misplaced")
      )
      expect(invalid.detail).toBe("its date is not a valid one")
      const inStep = yield* Workflow.run("step", Workflow.sleepUntil(new Date(0)).pipe(Step.durable("s"))).pipe(
        stoppedBy("Misplaced")
      )
      expect(inStep.detail).toContain("Inside a step use Effect.sleep")
    }).pipe(inEngine()))
})

describe.each(stores)("Time (%s)", (_, store) => {
  const test = testOn(store)

  test("of a body is that of the latest outcome, in every replay, whatever reads it", () =>
    Effect.gen(function*() {
      const reads = Effect.all({
        millis: Clock.currentTimeMillis,
        nanos: Clock.currentTimeNanos,
        date: Effect.map(DateTime.now, DateTime.toEpochMillis),
        unsafe: Effect.map(Effect.clock, (clock) => clock.unsafeCurrentTimeMillis()),
        unsafeNanos: Effect.map(Effect.clock, (clock) => clock.unsafeCurrentTimeNanos())
      })
      const at = (millis: number) => ({
        millis,
        nanos: BigInt(millis) * 1_000_000n,
        date: millis,
        unsafe: millis,
        unsafeNanos: BigInt(millis) * 1_000_000n
      })
      yield* TestClock.setTime(1_000)
      const body = Effect.gen(function*() {
        const atStart = yield* reads
        yield* Effect.sleep("2 seconds").pipe(Step.durable("works"))
        const afterStep = yield* reads
        yield* Effect.sleep("5 seconds")
        return [atStart, afterStep, yield* reads]
      })
      const fiber = yield* Effect.fork(livedTwice("wf", body))
      yield* pass("2 seconds")
      yield* pass("5 seconds")
      for (const life of yield* Fiber.join(fiber)) {
        expect(value(life)).toEqual([at(1_000), at(3_000), at(8_000)])
      }
    }).pipe(inEngine()))

  test("of a run never goes back, even if the clock does", () =>
    Effect.gen(function*() {
      const { begun, open, pass: passes } = gate()
      yield* TestClock.setTime(10_000)
      const lives = yield* Effect.fork(livedTwice(
        "wf",
        Effect.gen(function*() {
          const before = yield* Clock.currentTimeMillis
          yield* passes.pipe(Step.durable("meanwhile the clock is set back"))
          return [before, yield* Clock.currentTimeMillis]
        })
      ))
      yield* begun
      yield* TestClock.setTime(4_000)
      yield* open
      expect((yield* Fiber.join(lives)).map(value)).toEqual([[10_000, 10_000], [10_000, 10_000]])
    }).pipe(inEngine()))

  test("of a step is the real one", () =>
    Effect.gen(function*() {
      const body = Effect.gen(function*() {
        yield* stepOf("a")
        return yield* Effect.zipRight(Effect.sleep("1 minute"), Clock.currentTimeMillis).pipe(Step.durable("b"))
      })
      const fiber = yield* Effect.fork(Workflow.run("wf", body))
      yield* pass("1 minute")
      expect(yield* Fiber.join(fiber)).toBe(60_000)
    }).pipe(inEngine()))
})

describe.each(stores)("Random (%s)", (_, store) => {
  const test = testOn(store)

  const draws = Effect.all({
    next: Random.next,
    boolean: Random.nextBoolean,
    int: Random.nextInt,
    range: Random.nextRange(5, 6),
    between: Random.nextIntBetween(-3, 3),
    shuffled: Effect.map(Random.shuffle([1, 2, 3, 4, 5, 6, 7, 8]), (chunk) => [...chunk]),
    uuid: Workflow.uuid
  })

  test("gives the same in every replay, and to each run and branch its own", () =>
    Effect.gen(function*() {
      const body = Effect.gen(function*() {
        const first = yield* draws
        const branches = yield* Branch.all([draws, Effect.zipRight(stepOf("s"), draws)], { concurrency: "unbounded" })
        return [first, ...branches, yield* draws]
      })
      const [one, two] = yield* livedTwice("wf", body)
      expect(value(two)).toEqual(value(one))
      const [other] = yield* livedTwice("other", body)
      const uuids = [...value(one), ...value(other)].map(({ uuid }) => uuid)
      expect(new Set(uuids).size).toBe(8)
      for (const { between, range, shuffled, uuid } of value(one)) {
        expect(range).toBeGreaterThanOrEqual(5)
        expect(range).toBeLessThan(6)
        expect([-3, -2, -1, 0, 1, 2]).toContain(between)
        expect([...shuffled].sort()).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
        expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      }
    }).pipe(inEngine()))

  test("of a branch does not depend on what other branches draw, or on who is first", () =>
    Effect.gen(function*() {
      const drawsOf = (delays: ReadonlyArray<number>) =>
        Branch.forEach(delays, (turnsBefore, i) =>
          Effect.zipRight(turns(turnsBefore).pipe(Step.durable("s")), Effect.replicateEffect(Random.next, i + 1)), {
          concurrency: "unbounded"
        })
      const one = yield* Workflow.run("wf", drawsOf([1, 9, 4]))
      const store = yield* StepStore.StepStore
      expect((yield* store.history("wf", 0, { after: null, limit: 9 })).rows.map((row) =>
        row.stepKey
      )).toEqual([
        "wf:0.0",
        "wf:2.0",
        "wf:1.0"
      ])
      const namesake = yield* Workflow.run("wf", drawsOf([9, 1, 4]))
      expect(namesake).toEqual(one)
      expect(new Set(one.flat()).size).toBe(6)
    }).pipe(inEngine()))

  test("of a step is the real one", () =>
    Effect.gen(function*() {
      const drawn = yield* Workflow.run("wf", Effect.zip(Random.next, Random.next.pipe(Step.durable("s")))).pipe(
        Effect.withRandom(Random.fixed([0.25]))
      )
      expect(drawn[0]).not.toBe(0.25)
      expect(drawn[1]).toBe(0.25)
    }).pipe(inEngine()))

  test("shuffles fairly enough to reach every order", () =>
    Effect.gen(function*() {
      for (const id of ["a", "b", "c"]) {
        const shuffles = yield* Workflow.run(
          id,
          Effect.replicateEffect(Effect.map(Random.shuffle(["a", "b", "c"]), (chunk) => [...chunk].join("")), 200)
        )
        expect(new Set(shuffles).size).toBe(6)
      }
    }).pipe(inEngine()))
})

describe.each(stores)("What a run says (%s)", (_, store) => {
  const test = testOn(store)

  interface Said {
    readonly message: string
    readonly at: number
    readonly annotations: Record<string, unknown>
  }

  const listening = () => {
    const said: Array<Said> = []
    const logger = Logger.make<unknown, void>(({ annotations, date, message }) => {
      said.push({
        message: String(message),
        at: date.getTime(),
        annotations: Object.fromEntries(HashMap.toEntries(annotations))
      })
    })
    return { said, listen: Effect.provide(Logger.replace(Logger.defaultLogger, logger)) }
  }

  test("is logged once, in real time, with the run and the step", () =>
    Effect.gen(function*() {
      const { listen, said } = listening()
      const body = Effect.gen(function*() {
        yield* Effect.log("begins")
        yield* Effect.log("works").pipe(Step.durable("work"))
        yield* Effect.log("sleeps")
        yield* Effect.sleep("1 hour")
        yield* Effect.log("ends")
        return 1
      }).pipe(Effect.annotateLogs("mine", true))
      const first = yield* openEngine({ ...patient, workflows: [live(body)] }).pipe(listen)
      yield* TestClock.setTime(7_000)
      yield* first.run(start)
      yield* pass("1 minute")
      yield* first.close
      const second = yield* openEngine({ ...patient, workflows: [live(body)] }).pipe(listen)
      yield* pass("1 hour")
      expect(yield* second.run(Job.await("wf"))).toBe(1)
      const annotations = { mine: true, workflowId: "wf", workflow: "job" }
      expect(said.map(({ annotations, message }) => [message, annotations])).toEqual([
        ["begins", annotations],
        ["works", { ...annotations, step: "work" }],
        ["sleeps", annotations],
        ["ends", annotations]
      ])
      expect(said[0]!.at).toBe(7_000)
      expect(said[3]!.at).toBe(7_000 + 60 * 60 * 1_000)
    }))

  test("outside a run is logged as ever, whoever comes by the logger of a run", () =>
    Effect.gen(function*() {
      const said: Array<string> = []
      const logger = Logger.make<unknown, void>(({ annotations, message }) => {
        said.push(`${String(message)} ${HashMap.size(annotations)}`)
      })
      const ofRun = bodyLogger(yield* Effect.clock)(logger)
      yield* Effect.log("outside").pipe(Effect.provide(Logger.replace(Logger.defaultLogger, ofRun)))
      expect(said).toEqual(["outside 0"])
    }))

  /** Every way to print. */
  const prints: Record<Exclude<keyof Console.Console, Console.TypeId | "unsafe">, Effect.Effect<void>> = {
    assert: Console.assert(true),
    clear: Console.clear,
    count: Console.count("c"),
    countReset: Console.countReset("c"),
    debug: Console.debug("x"),
    dir: Console.dir({}),
    dirxml: Console.dirxml("x"),
    error: Console.error("x"),
    group: Effect.scoped(Console.group()),
    groupEnd: Effect.void,
    info: Console.info("x"),
    log: Console.log("x"),
    table: Console.table([]),
    time: Effect.scoped(Console.time("t")),
    timeEnd: Effect.void,
    timeLog: Console.timeLog("t"),
    trace: Console.trace("x"),
    warn: Console.warn("x")
  }

  /** A console that notes what is called. */
  const noting = () => {
    const called: Array<string> = []
    const note = (name: string) => Effect.sync(() => void called.push(name))
    return {
      called,
      console: Console.consoleWith((real) =>
        Effect.succeed<Console.Console>({
          [Console.TypeId]: Console.TypeId,
          assert: () => note("assert"),
          clear: note("clear"),
          count: () => note("count"),
          countReset: () => note("countReset"),
          debug: () => note("debug"),
          dir: () => note("dir"),
          dirxml: () => note("dirxml"),
          error: () => note("error"),
          group: () => note("group"),
          groupEnd: note("groupEnd"),
          info: () => note("info"),
          log: () => note("log"),
          table: () => note("table"),
          time: () => note("time"),
          timeEnd: () => note("timeEnd"),
          timeLog: () => note("timeLog"),
          trace: () => note("trace"),
          warn: () => note("warn"),
          unsafe: real.unsafe
        })
      )
    }
  }

  test("is printed once, in every way there is", () =>
    Effect.gen(function*() {
      const { called, console } = noting()
      const all = Effect.all(Object.values(prints), { discard: true })
      const body = Effect.zipRight(all, Effect.zipRight(stepOf("a"), Console.log("after")))
      yield* livedTwice("wf", body).pipe(Effect.withConsole(yield* console))
      expect([...called].sort()).toEqual([...Object.keys(prints), "log", "log"].sort())
      expect(called.slice(-2)).toEqual(["log", "log"])
    }).pipe(inEngine()))

  test("in a step is printed as often as the step runs", () =>
    Effect.gen(function*() {
      const { called, console } = noting()
      yield* livedTwice("wf", Console.log("in a step").pipe(Step.durable("a"))).pipe(Effect.withConsole(yield* console))
      expect(called).toEqual(["log"])
    }).pipe(inEngine()))

  test("in spans is exported once, in real time", () =>
    Effect.gen(function*() {
      const ended: Array<string> = []
      const tracer = Tracer.make({
        span: (name, parent, context, links, startTime, kind) => {
          let status: Tracer.SpanStatus = { _tag: "Started", startTime }
          return {
            _tag: "Span",
            name,
            spanId: name,
            traceId: "trace",
            parent,
            context,
            get status() {
              return status
            },
            attributes: new Map(),
            links,
            sampled: true,
            kind,
            attribute: () => {},
            event: () => {},
            addLinks: () => {},
            end: (endTime, exit) => {
              status = { _tag: "Ended", startTime, endTime, exit }
              ended.push(
                `${name} ${startTime / 1_000_000n}-${endTime / 1_000_000n} in ${
                  Option.match(parent, { onNone: () => "none", onSome: ({ spanId }) => spanId })
                }`
              )
            }
          }
        },
        context: (f) => f()
      })
      const body = Effect.gen(function*() {
        yield* Effect.sleep("1 second").pipe(Step.durable("s"), Effect.withSpan("around the step"))
        yield* Effect.void.pipe(Effect.withSpan("inside"), Step.durable("t"), Effect.withSpan("outside"))
      })
      const fiber = yield* Effect.fork(
        livedTwice("wf", Effect.zipRight(Effect.withSpan(body, "all"), stepOf("last"))).pipe(
          Effect.withTracer(tracer),
          Effect.withTracerTiming(true)
        )
      )
      yield* pass("1 second")
      yield* Fiber.join(fiber)
      expect(ended).toEqual([
        "around the step 0-1000 in all",
        "inside 1000-1000 in outside",
        "outside 1000-1000 in all",
        "all 0-1000 in none"
      ])
    }).pipe(inEngine()))

  test("in spans is one trace, that of whoever started the run, through restarts and generations", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.Span> = []
      const { span } = yield* Effect.tracer
      const tracer = Tracer.make({
        context: (f) => f(),
        span: (...args) => {
          const made = span(...args)
          spans.push(made)
          return made
        }
      })
      const Job = Workflow.make({ name: "job", payload: { n: Schema.Number } })
      const live = (broken: boolean) =>
        Job.toLayer(({ n }) =>
          stepOf("a").pipe(
            Effect.zipRight(broken ? Effect.die("no") : n === 2 ? Effect.void : Job.continueAsNew({ n: 2 })),
            Effect.withSpan(`body ${n}`)
          )
        ).pipe(Layer.provide(Layer.setTracer(tracer)))
      const first = yield* openEngine({ workflows: [live(true)] })
      yield* first.run(
        stoppedBy("BodyDied")(Job.execute({ n: 1 }, { workflowId: "wf" })).pipe(
          Effect.withSpan("request"),
          Effect.withTracer(tracer)
        )
      )
      yield* first.close
      const second = yield* openEngine({ workflows: [live(false)] })
      yield* second.run(Effect.zipRight(Job.resume("wf"), Job.await("wf")))
      yield* second.close
      const started = spans.find(({ name }) => name === "job.execute")!
      const bodies = spans.filter(({ name }) => name.startsWith("body"))
      expect(bodies.map(({ name }) => name)).toEqual(["body 1", "body 1", "body 2"])
      expect(new Set(bodies.map(({ traceId }) => traceId))).toEqual(new Set([started.traceId]))
      expect(new Set(bodies.map(({ parent }) => Option.getOrThrow(parent).spanId))).toEqual(new Set([started.spanId]))
      const alone = Workflow.run("script", Effect.withSpan(stepOf("a"), "no parent"))
      yield* alone.pipe(inEngine(), Effect.withTracer(tracer))
      expect(yield* rowOf("script")).toMatchObject({ trace: null })
    }))

  test("in spans is one trace where nobody listens, too", () =>
    Effect.gen(function*() {
      const Job = Workflow.make({ name: "job", payload: {} })
      const parents: Array<Tracer.AnySpan> = []
      const seen = Effect.map(Effect.currentParentSpan, (span) => void parents.push(span))
      const live = Job.toLayer(() => Effect.orDie(Effect.zipRight(Effect.withSpan(seen, "body"), seen)))
      const traceOf = (workflowId: string) =>
        Effect.map(rowOf(workflowId), ({ trace }): unknown => JSON.parse(trace ?? "{}"))
      yield* Effect.gen(function*() {
        yield* Job.execute(undefined, { workflowId: "alone" })
        const [body, outer] = parents
        expect(outer).toMatchObject({ _tag: "ExternalSpan", sampled: true })
        expect(body).toMatchObject({ name: "body", traceId: outer!.traceId })
        expect(yield* traceOf("alone")).toEqual({ traceId: outer!.traceId, spanId: outer!.spanId, sampled: true })
        yield* Job.start(undefined, { workflowId: "another" })
        yield* Job.await("another")
        expect(parents[2]!.traceId).not.toBe(outer!.traceId)
        const request = yield* Effect.withSpan(
          Effect.zipLeft(Effect.currentSpan, Job.execute(undefined, { workflowId: "within" })),
          "request"
        )
        expect(yield* traceOf("within")).toMatchObject({ traceId: request.traceId, sampled: true })
        yield* Effect.withTracerEnabled(Job.execute(undefined, { workflowId: "untraced" }), false)
        expect(yield* traceOf("untraced")).toMatchObject({ sampled: false })
      }).pipe(inEngine({ workflows: [live] }))
    }))
})

describe("The supervisor of a run", () => {
  it.effect("lets whatever has it outside a run die as it does without", () =>
    Effect.gen(function*() {
      const dying = Effect.exit(Effect.die("a defect"))
      const supervised = dying.pipe(
        Effect.withRuntimeFlagsPatch(RuntimeFlagsPatch.enable(RuntimeFlags.OpSupervision)),
        Effect.supervised(bodySupervisor)
      )
      expect(yield* supervised).toEqual(yield* dying)
    }))
})
