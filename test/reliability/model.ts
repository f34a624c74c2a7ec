/**
 * A model of runs: what may be recorded of one next, what must have been by now, and what becomes of it when it is asked for
 * something. It knows of no epoch, no journal and no store. `observed.ts` holds what is seen against it.
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

export interface Place {
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
export const toldOf = (child: Seen | undefined): string | null => {
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
export interface Position {
  readonly told: ReadonlyMap<string, Recorded>
  readonly decided: "COMPLETED" | "FAILED" | "CANCELLED" | null
  readonly outcome: string | null
  /** What is to be undone, the next first. */
  readonly undo: ReadonlyArray<string>
  /** What the body has asked for and was not told, and the time of the body when it asked. */
  readonly open: ReadonlyArray<Place>
  readonly asked: number
}

export const positionOf = ({ begunAt, program }: Run, recorded: ReadonlyArray<Recorded>): Position => {
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
export const allows = (
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
  // It is told to nobody if the body has ended meanwhile.
  if (next.kind === "cancel") {
    return seen.cancelled
  }
  // What was waited for when the run was cancelled may have come at the same moment, and is told to nobody.
  if (position.decided !== null && (position.decided !== "CANCELLED" || next.kind === "step")) {
    return false
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

/** What a run would have done by now, if nothing is in its way. */
export const overdue = (
  before: Run,
  run: Run,
  position: Position,
  { jumped, now, patience }: Course,
  child: (place: Place) => Seen | undefined
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
        return child(place) === undefined || toldOf(child(place)) !== null
    }
  }).map(({ address }) => address)
}

/** A stopped run goes on, to its end. */
export const cancelled = (run: Run): Run => ({
  ...run,
  cancelled: true,
  status: hasEnded(run) ? run.status : "RUNNING"
})

/** A run whose last step, which failed, is done again. */
const reopened = (run: Run): Run => {
  const failed = run.recorded.filter(({ kind }) => kind === "step").at(-1)!
  return {
    ...run,
    status: "RUNNING",
    recorded: run.recorded.filter((one) => one !== failed),
    may: { ...run.may, [failed.address]: run.ran[failed.address]! + 1 }
  }
}

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
      const undone = run.recorded.some(({ kind }) => kind === "compensation")
      return run.status === "CANCELLED" || (run.status === "FAILED" && undone)
        ? either("NothingToResume", run)
        : run.status === "FAILED"
        ? either("done", reopened(run))
        : [...either("done", run.status === "STOPPED" ? { ...run, status: "RUNNING" } : run), ...unheard]
    }
  }
}
