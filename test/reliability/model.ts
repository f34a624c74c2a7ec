/**
 * A model of runs: what may be seen of them, and what must be, after something has been done to them or to their engine.
 *
 * It knows of no epoch, no journal and no store. It reads what is recorded of each run as a word, letter by letter: each letter must
 * be one that the program allows there, and where an engine rests, there must be none that is still due.
 */

/** An operation of a body. A step that takes a while is in flight for so many milliseconds. */
export type Op =
  | {
    readonly op: "step"
    readonly ends: "well" | "badly" | "dead at first"
    readonly takes: number
    readonly undo: boolean
  }
  | { readonly op: "sleep"; readonly millis: number }
  | { readonly op: "signal" }
  | { readonly op: "child"; readonly program: Program }

/** Stages, one after the other. Operations of the same stage are in branches beside each other; one alone is in the root. */
export type Program = ReadonlyArray<ReadonlyArray<Op>>

/** What is recorded: an outcome of an operation, a cancellation, or that a step is undone. */
export interface Recorded {
  readonly kind: string
  /** Of a compensation, that of the step. */
  readonly address: string
  readonly told: string
  readonly at: number
}

type Counts = Readonly<Record<string, number>>

/** What is seen of a run from outside. */
export interface Seen {
  readonly status: string
  readonly outcome: string | null
  readonly recorded: ReadonlyArray<Recorded>
  /** Signals that nobody has taken. */
  readonly mail: ReadonlyArray<string>
  readonly cancelled: boolean
  readonly begunAt: number
  /** How often each effect has begun, by the address of its step. */
  readonly ran: Counts
}

/** A run: what was seen of it last, and what was asked of it since. */
export interface Run extends Seen {
  readonly program: Program
  /** How often each effect may have begun at most, if nothing cuts it off. */
  readonly may: Counts
}

/** What happened to the engine since the last look. */
export interface Course {
  /** Something under way may have been cut off, and is done again. */
  readonly cut: boolean
  /** Nothing keeps the engine from doing what is due: it is up, and no write of it has failed lately. */
  readonly settled: boolean
  /** For so many milliseconds it has been so. */
  readonly patience: number
  readonly now: number
  /** The clock was set ahead: a timer that runs hears of it later. */
  readonly jumped: boolean
}

export const begin = (program: Program, begunAt: number): Run => ({
  program,
  begunAt,
  status: "RUNNING",
  outcome: null,
  recorded: [],
  mail: [],
  cancelled: false,
  ran: {},
  may: {}
})

export const hasEnded = ({ status }: Seen): boolean => ["COMPLETED", "FAILED", "CANCELLED"].includes(status)

interface Place {
  readonly address: string
  readonly stage: number
  readonly alone: boolean
  readonly op: Op
}

export const placesOf = (program: Program): ReadonlyArray<Place> => {
  let sequence = 0
  return program.flatMap((ops, stage) =>
    ops.map((op) => {
      const alone = ops.length === 1
      return { op, stage, alone, address: alone ? `${sequence++}` : `${sequence++}.0` }
    })
  )
}

export const childOf = (workflowId: string, { address }: Place): string => `~${workflowId}:${address}`

/** What a parent is told of its child; `null` before that has ended. */
const toldOf = (child: Seen | undefined): string | null => {
  switch (child?.status) {
    case "COMPLETED":
      return child.outcome
    case "FAILED":
      return `!${child.outcome}`
    case "CANCELLED":
      return "cancelled"
    default:
      return null
  }
}

/** Where a body is that has been told so much. */
interface Position {
  readonly told: ReadonlyMap<string, Recorded>
  readonly decided: "COMPLETED" | "FAILED" | "CANCELLED" | null
  readonly outcome: string | null
  /** What is to be undone, the next first. */
  readonly undo: ReadonlyArray<string>
  /** What the body has asked for and was not told, and the time of the body when it asked. */
  readonly open: ReadonlyArray<Place>
  readonly asked: number
}

const positionOf = ({ begunAt, program }: Run, recorded: ReadonlyArray<Recorded>): Position => {
  const places = placesOf(program)
  const told = new Map<string, Recorded>()
  let undo: ReadonlyArray<string> = []
  let decided: Position["decided"] = places.length === 0 ? "COMPLETED" : null
  let outcome: string | null = null
  for (const one of recorded) {
    const place = places.find(({ address }) => address === one.address)
    if (one.kind === "compensation") {
      undo = undo.filter((address) => address !== one.address)
    } else if (decided !== null) {
      continue // Told to nobody.
    } else if (one.kind === "cancel") {
      decided = "CANCELLED"
    } else if (place?.op.op === "step" && place.op.ends === "badly" && place.alone) {
      decided = "FAILED"
      outcome = one.told.slice(1)
    } else {
      told.set(one.address, one)
      undo = place?.op.op === "step" && place.op.undo && place.op.ends !== "badly" ? [one.address, ...undo] : undo
      decided = told.size === places.length ? "COMPLETED" : null
    }
  }
  const stage = places.find(({ address }) => !told.has(address))?.stage ?? Infinity
  const past = places.filter((place) => place.stage < stage).map(({ address }) => told.get(address)!)
  return {
    told,
    decided,
    outcome: decided === "COMPLETED" ? JSON.stringify(past.map(({ told }) => told)) : outcome,
    undo: decided === "COMPLETED" ? [] : undo,
    open: places.filter((place) => place.stage === stage && !told.has(place.address)),
    asked: Math.max(begunAt, ...past.map(({ at }) => at))
  }
}

/** Whether this may be recorded next, when this is what has been sent to the run and not been taken. */
const allows = (
  run: Run,
  position: Position,
  mail: ReadonlyArray<string>,
  seen: Seen,
  next: Recorded,
  toldBy: (place: Place) => string | null
): boolean => {
  if (next.kind === "compensation") {
    return (position.decided === "FAILED" || position.decided === "CANCELLED") && position.undo[0] === next.address
  }
  if (position.decided !== null) {
    return false
  }
  if (next.kind === "cancel") {
    return seen.cancelled
  }
  const place = position.open.find(({ address }) => address === next.address)
  if (place?.op.op !== next.kind) {
    return false
  }
  switch (place.op.op) {
    case "step": {
      const nth = Number(next.told.replace("!", ""))
      return next.told.startsWith("!") === (place.op.ends === "badly") && nth <= (seen.ran[next.address] ?? 0) &&
        nth > (place.op.ends === "dead at first" ? 1 : 0)
    }
    case "sleep":
      return next.at >= position.asked + place.op.millis
    case "signal":
      return next.told === mail[0]
    case "child":
      return next.told === toldBy(place)
  }
}

const effectOf = ({ address, kind }: Recorded): string => kind === "compensation" ? `undo ${address}` : address

const must = (holds: boolean, what: string): void => {
  if (!holds) {
    throw new Error(what)
  }
}

const same = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other)

/** Compares what is seen of a run with what may be, and answers where it is now. */
const follow = (
  run: Run,
  seen: Seen,
  { cut }: Course,
  toldBy: (place: Place) => string | null
): { readonly run: Run; readonly position: Position } => {
  const known = run.recorded.length
  must(same(seen.recorded.slice(0, known), run.recorded), `it had recorded ${JSON.stringify(run.recorded)}`)
  let { mail } = run
  for (let i = known; i < seen.recorded.length; i++) {
    const next = seen.recorded[i]!
    const position = positionOf(run, seen.recorded.slice(0, i))
    must(allows(run, position, mail, seen, next, toldBy), `it may not record ${JSON.stringify(next)}`)
    mail = next.kind === "signal" ? mail.slice(1) : mail
  }
  must(same(seen.mail, mail), `its mail is ${JSON.stringify(mail)}`)
  must(seen.cancelled === run.cancelled, run.cancelled ? "it is cancelled" : "nobody has cancelled it")

  const position = positionOf(run, seen.recorded)
  const { decided, open, outcome, told, undo } = position
  must(run.status === seen.status || !(hasEnded(run) || run.status === "STOPPED"), `it was ${run.status}`)
  must(!hasEnded(seen) || (decided === seen.status && undo.length === 0), "it may not end so")
  must(!hasEnded(seen) || outcome === seen.outcome, `its outcome is ${outcome}`)
  const dies = ({ address, op }: Place) => op.op === "step" && op.ends === "dead at first" && seen.ran[address] === 1
  must(seen.status !== "STOPPED" || (decided === null && open.some(dies)), "nothing has died")

  const done = new Map(run.recorded.map((one) => [effectOf(one), one]))
  const all = new Set(seen.recorded.map(effectOf))
  const may: Record<string, number> = {}
  for (const [effect, ran] of Object.entries(seen.ran)) {
    const most = done.has(effect) ? run.ran[effect]! : (run.may[effect] ?? 1) + (cut ? 1 : 0)
    must(ran <= most, `the effect ${effect} may have begun ${most} times`)
    const address = effect.replace("undo ", "")
    const reached = effect === address
      ? told.has(address) || open.some((place) => place.address === address)
      : undo[0] === address
    must(all.has(effect) || reached, `the effect ${effect} may not have begun`)
    may[effect] = all.has(effect) ? ran : cut || seen.status === "STOPPED" ? ran + 1 : most
  }
  seen.recorded.forEach((one) =>
    must(one.kind !== "compensation" || (seen.ran[effectOf(one)] ?? 0) > 0, "nothing was undone")
  )
  return { run: { ...seen, program: run.program, may }, position }
}

/** What a run would have done by now, if nothing is in its way. */
const overdue = (
  before: Run,
  run: Run,
  position: Position,
  { jumped, now, patience }: Course,
  childOf: (place: Place) => Seen | undefined
): ReadonlyArray<string> => {
  if (hasEnded(run) || run.status === "STOPPED") {
    return []
  }
  if (position.decided !== null || run.cancelled) {
    return ["its end"]
  }
  return position.open.filter((place) => {
    const { address, op } = place
    switch (op.op) {
      case "step":
        return op.takes === 0 ||
          (patience >= op.takes && run.ran[address] !== undefined && run.ran[address] === before.ran[address])
      case "sleep":
        return !jumped && now >= position.asked + op.millis
      case "signal":
        return run.mail.length > 0
      case "child":
        return childOf(place) === undefined || toldOf(childOf(place)) !== null
    }
  }).map(({ address }) => address)
}

/** A stopped run goes on, to its end. */
const cancelled = (run: Run): Run => ({ ...run, cancelled: true, status: hasEnded(run) ? run.status : "RUNNING" })

/** Runs, by their ids. */
export type World = ReadonlyMap<string, Run>

/** Compares what is seen with what may be, and answers what is so now. Throws if it may not be so. */
export const observe = (world: World, seen: ReadonlyMap<string, Seen>, course: Course): World => {
  const next = new Map<string, Run>()
  const visit = (id: string, known: Run, left: boolean): void => {
    const shown = seen.get(id)
    const child = (place: Place) => seen.get(childOf(id, place))
    if (shown === undefined) {
      throw new Error(`${id} is not there`)
    }
    const before = left && shown.cancelled ? cancelled(known) : known
    let parts: ReadonlyArray<readonly [Place, boolean]>
    try {
      const { position, run } = follow(before, shown, course, (place) => toldOf(child(place)))
      next.set(id, run)
      const missing = course.settled ? overdue(before, run, position, course, child) : []
      must(missing.length === 0, `${missing.join()} is overdue`)
      must(!course.settled || !left || hasEnded(run), "its parent is cancelled")
      parts = placesOf(run.program).filter((place) => child(place) !== undefined).map((place) => {
        const isOpen = position.open.some(({ address }) => address === place.address)
        must(isOpen || position.told.has(place.address), `it may not have begun its child ${place.address}`)
        return [place, isOpen && position.decided !== null]
      })
    } catch (error) {
      throw new Error(`${id} shows ${JSON.stringify(shown)}; ${(error as Error).message}`)
    }
    for (const [place, cut] of parts) {
      const of = childOf(id, place)
      visit(of, world.get(of) ?? begin((place.op as { readonly program: Program }).program, seen.get(of)!.begunAt), cut)
    }
  }
  for (const [id, run] of world) {
    if (!id.startsWith("~")) {
      visit(id, run, false)
    }
  }
  seen.forEach((_, id) => must(next.has(id), `${id} is there, and nobody has begun it`))
  return next
}

/** A run whose last step, which failed, is done again. */
const reopened = (run: Run, { address }: Recorded): Run => ({
  ...run,
  status: "RUNNING",
  recorded: run.recorded.slice(0, -1),
  may: { ...run.may, [address]: run.ran[address]! + 1 }
})

/** What is asked of an engine. */
export type Request =
  | { readonly do: "start"; readonly program: Program }
  | { readonly do: "cancel" | "resume" }
  | { readonly do: "send"; readonly value: string }

/** How a run may be after a request that was answered so; `null` is none. A request whose answer is lost may have been heard. */
export const asked = (
  run: Run | null,
  request: Request,
  answer: string,
  { settled, now }: { readonly settled: boolean; readonly now: number }
): ReadonlyArray<Run | null> => {
  const either = (right: string, heard: Run | null): ReadonlyArray<Run | null> =>
    answer === "lost" ? [run, heard] : answer === right ? [heard] : []
  if (run === null) {
    return request.do === "start" ? either("done", begin(request.program, now)) : either("WorkflowNotFound", null)
  }
  // Its end may be on its way.
  const unheard = settled || answer === "lost"
    ? []
    : request.do === "send"
    ? either("SignalNotWanted", run)
    : either("done", run)
  switch (request.do) {
    case "start":
      return either("done", run)
    case "send":
      return hasEnded(run)
        ? either("SignalNotWanted", run)
        : [...either("done", { ...run, mail: [...run.mail, request.value] }), ...unheard]
    case "cancel":
      return hasEnded(run)
        ? either("done", run)
        : [...either("done", cancelled(run)), ...unheard]
    case "resume": {
      const last = run.recorded.at(-1)
      return run.status === "CANCELLED" || (run.status === "FAILED" && last?.kind === "compensation")
        ? either("NothingToResume", run)
        : run.status === "FAILED"
        ? either("done", reopened(run, last!))
        : [...either("done", run.status === "STOPPED" ? { ...run, status: "RUNNING" } : run), ...unheard]
    }
  }
}
