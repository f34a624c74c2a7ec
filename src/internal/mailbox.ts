/**
 * What is sent to a run: who of its body waits for it, and who gets it.
 *
 * The store is asked for what is wanted only, so a run may have any number of signals that nobody waits for yet.
 */
import type { Mail, Signal, Wanted } from "../StepStore.js"

/** An operation that waits for a signal. */
export interface Waiter {
  readonly name: string
  /** Given: it waits for the answer to this token only. */
  readonly token: string | null
  readonly stepKey: string
  readonly give: (signal: Signal) => void
}

export class Mailbox {
  /** The version of the inbox that has been looked into. */
  seen: number
  /** Oldest first. */
  private waiters: ReadonlyArray<Waiter> = []
  /** Signals given in this life, which the store may still show as waiting, and to whom. */
  private readonly given = new Map<string, string>()
  /** Of which of them the store knows since the inbox was read last, and of which it knew before. */
  private durable: Array<string> = []
  private known: Array<string> = []
  private looking = false
  private again = false
  /** How many signals are on their way back. */
  private givingBack = 0

  /** Reads the inbox, and hands it to {@link received}. */
  private readonly read: (wanted: ReadonlyArray<Wanted>) => void
  /** Nothing is under way any more. */
  private readonly onQuiet: () => void

  constructor(seen: number, read: (wanted: ReadonlyArray<Wanted>) => void, onQuiet: () => void) {
    this.seen = seen
    this.read = read
    this.onQuiet = onQuiet
  }

  /** What there is for those who wait is not known yet: the version of the inbox does not tell. */
  get busy(): boolean {
    return this.looking || this.givingBack > 0
  }

  /**
   * Waits for a signal.
   *
   * @returns what stops the waiting
   */
  wait(waiter: Waiter): () => void {
    this.waiters = [...this.waiters, waiter]
    this.look()
    return () => this.remove(waiter)
  }

  /** The store knows that a signal has been given. */
  taken(signalId: string): void {
    this.durable.push(signalId)
  }

  /** An operation gives back what it was given. */
  returning(): void {
    this.givingBack++
  }

  /** What an operation was given has been given back: it waits at its old place. */
  returned(stepKey: string): void {
    this.givingBack--
    for (const [signalId, taker] of this.given) {
      if (taker === stepKey) {
        this.given.delete(signalId)
        // The store knew of that taking, and knows nothing yet of one to come.
        this.durable = this.durable.filter((other) => other !== signalId)
        this.known = this.known.filter((other) => other !== signalId)
      }
    }
    this.look()
  }

  /** Something has been sent to the run, or somebody waits. */
  look(): void {
    if (this.looking) {
      this.again = true
      return
    }
    this.looking = true
    this.again = false
    this.known = this.durable
    this.durable = []
    this.read(this.wanted)
  }

  /** What the store has answered. */
  received(mail: Mail): void {
    this.looking = false
    this.seen = mail.inbox
    for (const signalId of this.known) {
      this.given.delete(signalId)
    }
    for (const waiter of this.waiters) {
      const signal = mail.signals.find((signal) => fits(waiter, signal) && !this.given.has(signal.signalId))
      if (signal !== undefined) {
        this.given.set(signal.signalId, waiter.stepKey)
        this.remove(waiter)
        waiter.give(signal)
      }
    }
    if (this.again) {
      this.look()
    }
    if (!this.busy) {
      this.onQuiet()
    }
  }

  /** As many of each name as there are waiters, beyond those that are on their way to others. */
  private get wanted(): ReadonlyArray<Wanted> {
    const wanted = new Map<string, Wanted>()
    for (const { name, token } of this.waiters) {
      const key = token ?? name
      wanted.set(key, { name, token, limit: (wanted.get(key)?.limit ?? this.given.size) + 1 })
    }
    return [...wanted.values()]
  }

  private remove(waiter: Waiter) {
    this.waiters = this.waiters.filter((other) => other !== waiter)
  }
}

const fits = (waiter: Waiter, signal: Signal) =>
  waiter.token === null ? signal.name === waiter.name && !isToken(signal.signalId) : signal.signalId === waiter.token

/** Ids that begin so were given away by the run before anybody sent them. */
export const tokenMark = "~"

export const isToken = (signalId: string) => signalId.startsWith(tokenMark)
