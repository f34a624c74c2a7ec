/**
 * Makes what no replay can repeat show itself: `Date` and `Math.random` answer differently in each life of a body, and what wakes a body
 * without the engine's doing is noted.
 *
 * A body runs in tasks of its own scheduler, each of them synchronous, so the two are exchanged around each task and nobody else sees
 * it. Code of installed packages gets the true answers: Effect itself asks `Date` when it makes a fiber.
 */
import { relative } from "node:path"
import { fileURLToPath } from "node:url"
import * as Either from "effect/Either"
import type { Operation } from "../../Errors.js"
import type { Sequencer } from "../../internal/sequencer.js"

/** A year, a month, some days, and another time of the day: each part of a date differs. */
const skewMillis = 401 * 86_400_000 + 7 * 3_600_000 + 13 * 60_000 + 17_119

/** The fractional part of the golden ratio: its multiples are spread evenly. */
const golden = 0.618_033_988_749_894_9

const here = fileURLToPath(import.meta.url)

/** Where in the user's code the caller of this module is; `null` if a package called. */
const callerPlace = (): string | null => {
  const lines = String(new Error().stack).split("\n").slice(1)
  const caller = lines.map((line) => /\(?((?:file:\/\/)?\/[^()]*?):(\d+):(\d+)\)?$/.exec(line.trim()))
    .find((match) => match !== null && !match[1]!.endsWith(here))
  if (caller === null || caller === undefined || caller[1]!.includes("/node_modules/")) {
    return null
  }
  const [, path = "", line, column] = caller
  return `${relative(process.cwd(), path.replace(/^file:\/\//, ""))}:${line}:${column}`
}

const nameOf = ({ address, id, kind }: Operation) =>
  kind === id ? `the ${kind} at ${address}` : `${kind} ${JSON.stringify(id)} (${address})`

export class Unrepeatable {
  /** What a body has read outside its steps, and where, each once. */
  readonly reads = new Set<string>()
  /** After which operation a body was woken by what no step contains. */
  readonly wakes = new Set<string>()
  /** Of a run of which nothing is left, nothing is noted. */
  over = false
  private life = 0
  private drawn = 0

  /** Another life begins, with other answers. */
  begin(): void {
    this.life++
    this.drawn = 0
  }

  private readonly watched = new WeakSet<Sequencer>()

  /** Follows the body of a run, which this sequencer drives, and which is about to begin. */
  watch(sequencer: Sequencer): void {
    // What undoes the effects of a body begins by itself.
    if (this.watched.has(sequencer)) {
      return
    }
    this.watched.add(sequencer)
    const { scheduler } = sequencer
    const schedule = scheduler.scheduleTask.bind(scheduler)
    const cause = sequencer.cause.bind(sequencer)
    const releaseAll = sequencer.releaseAll.bind(sequencer)
    let caused = 0
    let begun = false
    let released = false
    scheduler.scheduleTask = (task, priority) => {
      if (begun && caused === 0 && !released && !this.over) {
        const last = sequencer.agreed.at(-1)
        this.wakes.add(last === undefined ? "before its first operation" : `after ${nameOf(last)}`)
      }
      begun = true
      schedule(() => {
        caused++
        this.during(task)
        caused--
      }, priority)
    }
    sequencer.cause = (wake) => {
      caused++
      cause(wake)
      caused--
    }
    sequencer.releaseAll = () => {
      released = true
      releaseAll()
    }
  }

  private during(task: () => void) {
    const trueDate = globalThis.Date
    const trueRandom: unknown = Reflect.get(Math, "random")
    Reflect.set(globalThis, "Date", this.date(trueDate))
    Reflect.set(Math, "random", () => this.random(trueRandom as () => number))
    const ended = Either.try(task)
    Reflect.set(globalThis, "Date", trueDate)
    Reflect.set(Math, "random", trueRandom)
    Either.getOrThrow(ended)
  }

  private date(trueDate: DateConstructor): DateConstructor {
    const now = (called: string) => {
      const trueNow = (Reflect.get(trueDate, "now") as () => number)()
      const place = callerPlace()
      if (place === null) {
        return trueNow
      }
      this.reads.add(`${called} at ${place}`)
      return trueNow + this.life * skewMillis
    }
    return new Proxy(trueDate, {
      construct: (target, args: ReadonlyArray<unknown>, made) =>
        Reflect.construct(target, args.length === 0 ? [now("new Date()")] : args, made) as object,
      apply: (target) => new target(now("Date()")).toString(),
      get: (target, key) => key === "now" ? () => now("Date.now()") : Reflect.get(target, key) as unknown
    })
  }

  /** Spread evenly, and in every other life on the other side of the middle. */
  private random(trueRandom: () => number): number {
    const place = callerPlace()
    if (place === null) {
      return trueRandom()
    }
    this.reads.add(`Math.random() at ${place}`)
    const fraction = ++this.drawn * golden % 1
    return this.life % 2 === 0 ? fraction : 1 - fraction
  }
}
