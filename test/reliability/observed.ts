/**
 * What is seen of runs, held against the model. What is recorded of each is read like a word, letter by letter: each letter must be one
 * that the model allows there, and where an engine rests, there must be none that is overdue.
 */
import {
  allows,
  begin,
  cancelled,
  childOf,
  type Course,
  hasEnded,
  overdue,
  type Place,
  placesOf,
  type Position,
  positionOf,
  type Program,
  type Recorded,
  type Run,
  type Seen,
  toldOf
} from "./model.js"

/** Runs, by their ids. */
export type World = ReadonlyMap<string, Run>

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
    mail = next.kind === "signal" && position.decided === null ? mail.slice(1) : mail
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

/** Compares what is seen with what may be, and answers what is so now. Throws if it may not be so. */
const compare = (world: World, seen: ReadonlyMap<string, Seen>, course: Course): World => {
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

/** Compares what is seen with each of the worlds that there may be, and answers the first that it may be, as it is now. */
export const observe = (
  worlds: ReadonlyArray<World>,
  seen: ReadonlyMap<string, Seen>,
  course: Course
): World => {
  const problems: Array<string> = []
  for (const world of worlds) {
    try {
      return compare(world, seen, course)
    } catch (error) {
      problems.push((error as Error).message)
    }
  }
  throw new Error(problems.join("\nor "))
}
