import { describe, expect, it } from "@effect/vitest"
import type { StepStore } from "perdure"
import { Mailbox } from "../src/internal/mailbox.js"

const signal = (signalId: string): StepStore.Signal => ({ signalId, name: "go", sentAt: 1, value: null })

/** A mailbox whose store answers when the test says so. */
const world = () => {
  const reads: Array<ReadonlyArray<StepStore.Wanted>> = []
  const given: Array<string> = []
  let quiet = 0
  const mailbox = new Mailbox(0, (wanted) => reads.push(wanted), () => quiet++)
  const wait = (stepKey: string, token: string | null = null) =>
    mailbox.wait({ name: "go", token, stepKey, give: ({ signalId }) => given.push(`${signalId} to ${stepKey}`) })
  const answer = (inbox: number, ...ids: ReadonlyArray<string>) =>
    mailbox.received({ inbox, cancelAt: null, signals: ids.map(signal) })
  return { mailbox, reads, given, wait, answer, quiet: () => quiet }
}

describe("Mailbox", () => {
  it("asks for as many as are waited for, beyond those on their way", () => {
    const { answer, given, reads, wait } = world()
    wait("0")
    wait("1")
    wait("2", "~token")
    answer(1, "a")
    expect(given).toEqual(["a to 0"])
    answer(1, "a")
    expect(reads).toEqual([
      [{ name: "go", token: null, limit: 1 }],
      [{ name: "go", token: null, limit: 2 }, { name: "go", token: "~token", limit: 2 }]
    ])
    expect(given).toEqual(["a to 0"])
  })

  it("gives a token's answer to its own wait, and nothing else", () => {
    const { answer, given, wait } = world()
    wait("0", "~token")
    wait("1")
    answer(2, "~other", "a", "~token")
    expect(given).toEqual(["~token to 0", "a to 1"])
  })

  it("gives to nobody who has stopped waiting", () => {
    const { answer, given, wait } = world()
    const stop = wait("0")
    wait("1")
    stop()
    answer(1, "a")
    expect(given).toEqual(["a to 1"])
  })

  it("is busy until it knows what there is, and says when it is quiet again", () => {
    const { answer, mailbox, quiet, reads, wait } = world()
    expect(mailbox.busy).toBe(false)
    wait("0")
    mailbox.look()
    answer(1)
    expect([mailbox.busy, quiet(), reads.length]).toEqual([true, 0, 2])
    answer(2)
    expect([mailbox.busy, quiet(), mailbox.seen]).toEqual([false, 1, 2])
    mailbox.returning()
    expect(mailbox.busy).toBe(true)
    mailbox.look()
    answer(2)
    expect([mailbox.busy, quiet()]).toEqual([true, 1])
    mailbox.returned("7")
    answer(2)
    expect([mailbox.busy, quiet()]).toEqual([false, 2])
  })

  it("gives a signal that has been given back to one, although the store has known it as taken before", () => {
    const { answer, given, mailbox, wait } = world()
    wait("0")
    answer(1, "a")
    wait("1")
    wait("2")
    // The store knows that 0 has taken it; its answer to the look that began before comes after 0 has given it back.
    mailbox.taken("a")
    mailbox.returning()
    mailbox.returned("0")
    answer(1, "a")
    answer(1, "a")
    expect(given).toEqual(["a to 0", "a to 1"])
  })

  it("keeps what others were given while one gives back", () => {
    const { answer, given, mailbox, wait } = world()
    wait("0")
    wait("1")
    answer(2, "a")
    answer(2, "a", "b")
    wait("2")
    mailbox.taken("a")
    mailbox.taken("b")
    mailbox.look()
    mailbox.returning()
    mailbox.returned("0")
    answer(2, "a", "b")
    expect(given).toEqual(["a to 0", "b to 1", "a to 2"])
  })
})
