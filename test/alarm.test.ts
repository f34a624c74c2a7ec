import { describe, expect, it } from "@effect/vitest"
import { Alarm, callAt } from "../src/internal/alarm.js"

const hour = 60 * 60 * 1_000
const day = 24 * hour

/** A clock that is moved by hand, and timers that hold no more than those of the machine. */
const world = () => {
  const timers = new Set<{ readonly at: number; readonly callback: () => void }>()
  const it = {
    now: 0,
    timers,
    after: (millis: number, callback: () => void) => {
      expect(millis).toBeGreaterThan(0)
      expect(millis).toBeLessThan(2 ** 31)
      const timer = { at: it.now + millis, callback }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
    advance: (to: number) => {
      for (;;) {
        const [next] = [...timers].sort((self, that) => self.at - that.at)
        if (next === undefined || next.at > to) {
          it.now = to
          return
        }
        timers.delete(next)
        it.now = Math.max(it.now, next.at)
        next.callback()
      }
    }
  }
  return it
}

describe("callAt", () => {
  it("calls back at the time, however far away it is, and not before", () => {
    const w = world()
    let called = 0
    callAt(w.after, () => w.now, 100 * 365 * day, () => called++)
    w.advance(100 * 365 * day - 1)
    expect([called, w.timers.size]).toEqual([0, 1])
    w.advance(100 * 365 * day)
    expect([called, w.timers.size]).toEqual([1, 0])
  })

  it("calls back at once if the time is past", () => {
    const w = world()
    w.now = 5
    let called = 0
    callAt(w.after, () => w.now, 5, () => called++)
    expect(called).toBe(1)
  })

  it("waits on when the clock has been set back", () => {
    const w = world()
    let called = 0
    callAt(w.after, () => w.now - hour, hour, () => called++)
    w.advance(2 * hour - 1)
    expect(called).toBe(0)
    w.advance(2 * hour)
    expect(called).toBe(1)
  })

  it("does not call back when it was stopped, whichever of its timers runs", () => {
    const w = world()
    let called = 0
    const stop = callAt(w.after, () => w.now, 60 * day, () => called++)
    w.advance(30 * day)
    stop()
    w.advance(100 * day)
    expect([called, w.timers.size]).toEqual([0, 0])
  })
})

describe("Alarm", () => {
  it("rings at the first of its times, and then waits to be set anew", () => {
    const w = world()
    const rung: Array<number> = []
    const alarm = new Alarm(w.after, () => w.now, () => rung.push(w.now))
    alarm.setAt(3 * hour)
    alarm.setAt(hour)
    alarm.setAt(2 * hour)
    expect(w.timers.size).toBe(1)
    w.advance(4 * hour)
    expect(rung).toEqual([hour])
    alarm.setAt(5 * hour)
    alarm.setAt(4 * hour)
    expect(rung).toEqual([hour, 4 * hour])
    w.advance(6 * hour)
    expect(rung).toEqual([hour, 4 * hour])
  })

  it("rings no more once it was stopped, even if it is set afterwards", () => {
    const w = world()
    let rung = 0
    const alarm = new Alarm(w.after, () => w.now, () => rung++)
    alarm.setAt(hour)
    alarm.stop()
    alarm.setAt(2 * hour)
    alarm.setAt(0)
    w.advance(day)
    expect([rung, w.timers.size]).toEqual([0, 0])
  })
})
