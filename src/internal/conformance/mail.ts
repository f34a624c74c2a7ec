/** What is sent to runs: signals, cancellations, the ends of children, and when a run that sleeps goes on. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import type { CommitAnswer, RunPatch, RunUpdate, Signal, Wanted } from "../../StepStore.js"
import { StepStore } from "../../StepStore.js"
import { listen } from "./changes.js"
import {
  accepted,
  at,
  type Cases,
  claimOf,
  completed,
  create,
  equal,
  fenced,
  holds,
  insert,
  patch,
  recordsOf,
  rejects,
  rowOf,
  step,
  update
} from "./check.js"

const known: CommitAnswer = { _tag: "Known" }
const ended: CommitAnswer = { _tag: "Ended" }
const missed: CommitAnswer = { _tag: "Missed" }

const signal = (signalId: string, rest: Partial<Signal> = {}): Signal => ({
  signalId,
  name: "go",
  sentAt: 1_500,
  value: `"${signalId}"`,
  ...rest
})

const reserved = (signalId: string) => signal(signalId, { sentAt: null, value: null })

const asleep = (rest: Partial<RunPatch> = {}) => patch({ status: "SUSPENDED", owner: null, ...rest })

const over = patch({ status: "COMPLETED", owner: null, endedAt: 2_000 })

/** The answer to one update. */
const commit = Effect.fnUntraced(function*(update: RunUpdate) {
  const store = yield* StepStore
  return at(yield* store.commit([update]), 0)
})

const send = (workflowId: string, ...signals: ReadonlyArray<Signal>) =>
  Effect.forEach(signals, (signal) => commit(update(workflowId, null, { signals: [signal] })))

const change = (workflowId: string, rest: Partial<RunUpdate>) => commit(update(workflowId, 1, rest))

const cancel = (workflowId: string, cancelAt: number) => commit(update(workflowId, null, { cancelAt }))

const named = (name: string, limit = 100): Wanted => ({ name, token: null, limit })

const answering = (token: string): Wanted => ({ name: "go", token, limit: 1 })

const mailOf = Effect.fnUntraced(function*(workflowId: string, ...wanted: ReadonlyArray<Wanted>) {
  const store = yield* StepStore
  return Option.getOrThrow(yield* store.mail(workflowId, wanted))
})

const idsOf = (workflowId: string, ...wanted: ReadonlyArray<Wanted>) =>
  Effect.map(mailOf(workflowId, ...wanted), (mail) => mail.signals.map((signal) => signal.signalId))

/** Where a run stands, and what is in its way. */
const standingOf = (workflowId: string) =>
  Effect.map(rowOf(workflowId), ({ cancelAt, inbox, status, wakeAt }) => ({ status, wakeAt, cancelAt, inbox }))

export const mail: Cases = {
  // -- signals

  "signals wait in the order of their arrival, by name": Effect.gen(function*() {
    const id = "conformance-mail/order"
    yield* create(id)
    const answers = yield* send(id, signal("c"), signal("s", { name: "stop" }), signal("a"), signal("b"))
    yield* equal("the answers", answers, [accepted, accepted, accepted, accepted])
    const mail = yield* mailOf(id, named("go"))
    yield* equal("the mail", mail, { inbox: 4, cancelAt: null, signals: [signal("c"), signal("a"), signal("b")] })
    yield* equal("the first two", yield* idsOf(id, named("go", 2)), ["c", "a"])
    yield* equal("of both names", yield* idsOf(id, named("stop"), named("go", 1)), ["s", "c"])
    yield* equal("of another name", yield* idsOf(id, named("other")), [])
    yield* equal("of no name", yield* idsOf(id), [])
  }),

  "a signal keeps its value, or that it has none": Effect.gen(function*() {
    const id = "conformance-mail/values"
    yield* create(id)
    const signals = [signal("none", { value: null }), signal("some", { value: "{\"é\":\"😀'\"}" })]
    yield* send(id, ...signals)
    yield* equal("the signals", (yield* mailOf(id, named("go"))).signals, signals)
  }),

  "the same id is sent once": Effect.gen(function*() {
    const id = "conformance-mail/twice"
    yield* create(id)
    const answers = yield* send(id, signal("a"), signal("a", { value: "2" }), signal("a", { name: "stop" }))
    yield* equal("the answers", answers, [accepted, known, known])
    yield* equal("the mail", yield* mailOf(id, named("go"), named("stop")), {
      inbox: 1,
      cancelAt: null,
      signals: [signal("a")]
    })
    yield* create(`${id}/other`)
    yield* equal("to another run", yield* send(`${id}/other`, signal("a")), [accepted])
  }),

  "a run that has ended takes no signals, and says so": Effect.gen(function*() {
    const id = "conformance-mail/ended"
    yield* create(id)
    yield* send(id, signal("a"))
    yield* change(id, { patch: over })
    yield* equal("the answers", yield* send(id, signal("b"), signal("a")), [ended, known])
    yield* equal("its inbox", (yield* rowOf(id)).inbox, 1)
    yield* equal("to nobody", yield* send("conformance-mail/nobody", signal("a")), [fenced])
    const { mail } = yield* StepStore
    yield* equal("the mail of nobody", yield* mail("conformance-mail/nobody", [named("go")]), Option.none())
  }),

  "a signal is taken once, by a run's own worker": Effect.gen(function*() {
    const id = "conformance-mail/take"
    yield* create(id)
    yield* send(id, signal("a"), signal("b"))
    const takes = [{ signalId: "a", stepKey: `${id}:0` }]
    yield* equal("with an old epoch", yield* commit(update(id, 9, { takes })), fenced)
    const steps = [completed(`${id}:0`, 0)]
    yield* equal("the answer", yield* change(id, { takes, steps }), accepted)
    yield* equal("what is left", yield* idsOf(id, named("go")), ["b"])
    const twice = change(id, { takes, steps: [completed(`${id}:1`, 1)] })
    yield* rejects("taking it twice", twice)
    yield* rejects("taking what nobody has sent", change(id, { takes: [{ signalId: "c", stepKey: `${id}:1` }] }))
    const store = yield* StepStore
    yield* equal("the history", (yield* store.history(id, 0, { after: null, limit: 9 })).rows, steps)
    yield* equal("sent again", yield* send(id, signal("a")), [known])
  }),

  "what is given back waits at its old place": Effect.gen(function*() {
    const id = "conformance-mail/give"
    yield* create(id)
    yield* send(id, signal("a"), signal("b"), signal("c"))
    const [first, second] = [`${id}:0`, `${id}:1`]
    yield* change(id, { takes: [{ signalId: "a", stepKey: first }, { signalId: "b", stepKey: second }] })
    yield* change(id, { gives: [first, `${id}:7`] })
    yield* equal("what waits", yield* idsOf(id, named("go")), ["a", "c"])
    yield* change(id, { takes: [{ signalId: "a", stepKey: `${id}:2` }] })
    yield* change(id, { gives: [first] })
    yield* equal("when somebody else has taken it since", yield* idsOf(id, named("go")), ["c"])
    yield* change(id, { gives: [second], takes: [{ signalId: "b", stepKey: `${id}:3` }] })
    yield* equal("given back and taken at once", yield* idsOf(id, named("go")), ["c"])
  }),

  "a token is reserved, and answered once": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/token"
    const token = `~${id}`
    yield* create(id)
    yield* equal("before", yield* store.token(token), Option.none())
    yield* equal("the answer", yield* change(id, { signals: [reserved(token)] }), accepted)
    yield* equal("its owner", yield* store.token(token), Option.some({ workflowId: id, name: "go" }))
    yield* equal("the mail", yield* mailOf(id, answering(token)), { inbox: 0, cancelAt: null, signals: [] })
    yield* rejects("taking it before", change(id, { takes: [{ signalId: token, stepKey: `${id}:0` }] }))
    yield* equal("under another name", yield* send(id, signal(token, { name: "stop" })), [known])
    yield* equal("answered", yield* send(id, signal(token), signal(token, { value: "2" })), [accepted, known])
    yield* equal("the mail then", yield* mailOf(id, answering(token)), {
      inbox: 1,
      cancelAt: null,
      signals: [signal(token)]
    })
    yield* equal("by its name", yield* idsOf(id, named("go")), [])
    yield* change(id, { signals: [reserved(token)] })
    yield* equal("reserved again", yield* idsOf(id, answering(token)), [token])
    yield* change(id, { takes: [{ signalId: token, stepKey: `${id}:0` }] })
    yield* equal("taken", yield* idsOf(id, answering(token)), [])
  }),

  "a token that nobody has answered when its run ends stays unanswered": Effect.gen(function*() {
    const id = "conformance-mail/token-late"
    yield* create(id)
    yield* change(id, { signals: [reserved(`~${id}`)] })
    yield* change(id, { patch: over })
    const answers = yield* send(id, signal(`~${id}`), signal(`~${id}`, { name: "stop" }))
    yield* equal("the answers", answers, [ended, ended])
  }),

  // -- the inbox

  "whatever is sent grows the version of the inbox, and a run parks in the present one only": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/inbox"
    yield* create(id)
    yield* create(`${id}/other`)
    yield* send(id, signal("a"))
    const steps = [step(`${id}:0`)]
    yield* equal("too early", yield* change(id, { inbox: 0, patch: asleep(), steps }), missed)
    yield* equal("nothing was written", yield* store.unfinished(id, 0), [])
    yield* equal("in time", yield* change(id, { inbox: 1, patch: asleep({ wakeAt: 9_000 }), steps }), accepted)
    yield* equal("asleep", yield* standingOf(id), { status: "SUSPENDED", wakeAt: 9_000, cancelAt: null, inbox: 1 })
    const inboxes = yield* store.inboxes([id, "conformance-mail/nobody", `${id}/other`])
    yield* equal("the inboxes", [...inboxes].sort((self, that) => that.version - self.version), [
      { workflowId: id, version: 1 },
      { workflowId: `${id}/other`, version: 0 }
    ])
  }),

  "a signal wakes a run that sleeps": Effect.gen(function*() {
    const id = "conformance-mail/wake"
    yield* create(id)
    yield* change(id, { patch: asleep({ wakeAt: 9_000 }) })
    yield* send(id, signal("a"))
    yield* equal("the run", yield* standingOf(id), { status: "PENDING", wakeAt: null, cancelAt: null, inbox: 1 })
  }),

  "who is told wakes, and whoever does not sleep stays as it is": Effect.gen(function*() {
    const id = "conformance-mail/tell"
    for (const status of ["SUSPENDED", "STOPPED", "RUNNING", "COMPLETED"] as const) {
      yield* create(`${id}/${status}`)
      yield* change(`${id}/${status}`, { patch: patch({ status, owner: null }) })
    }
    yield* create(id)
    const told = ["SUSPENDED", "STOPPED", "RUNNING", "COMPLETED", "nobody"].map((status) => `${id}/${status}`)
    yield* equal("the answer", yield* change(id, { tells: told, patch: over }), accepted)
    for (
      const [before, status] of [
        ["SUSPENDED", "PENDING"],
        ["STOPPED", "STOPPED"],
        ["RUNNING", "RUNNING"],
        ["COMPLETED", "COMPLETED"]
      ] as const
    ) {
      const expected = { status, wakeAt: null, cancelAt: null, inbox: 1 }
      yield* equal(`the one that was ${before}`, yield* standingOf(`${id}/${before}`), expected)
    }
    yield* equal("the run itself", (yield* rowOf(id)).inbox, 0)
  }),

  // -- cancellation

  "a cancellation is asked for once": Effect.gen(function*() {
    const id = "conformance-mail/cancel"
    yield* create(id)
    yield* equal("the answers", [yield* cancel(id, 5), yield* cancel(id, 6)], [accepted, known])
    yield* equal("the run", yield* standingOf(id), { status: "RUNNING", wakeAt: null, cancelAt: 5, inbox: 1 })
    yield* equal("the mail", yield* mailOf(id), { inbox: 1, cancelAt: 5, signals: [] })
    yield* change(id, { patch: over })
    yield* equal("when it has ended", yield* cancel(id, 7), ended)
    yield* equal("of nobody", yield* cancel("conformance-mail/nobody", 7), fenced)
  }),

  "a cancellation wakes a run that sleeps or is stopped": Effect.gen(function*() {
    const id = "conformance-mail/cancel-wakes"
    for (const status of ["SUSPENDED", "STOPPED"] as const) {
      yield* create(`${id}/${status}`)
      yield* change(`${id}/${status}`, { patch: asleep({ status, wakeAt: 9_000 }) })
      yield* cancel(`${id}/${status}`, 5)
      const expected = { status: "PENDING", wakeAt: null, cancelAt: 5, inbox: 1 }
      yield* equal(`the one that was ${status}`, yield* standingOf(`${id}/${status}`), expected)
      yield* equal("its stop reason", (yield* rowOf(`${id}/${status}`)).stopReason, null)
    }
  }),

  // -- children

  "children are created with an update, and left as they are when they are there": Effect.gen(function*() {
    const id = "conformance-mail/children"
    const children = ["a", "b"].map((name) => ({
      workflowId: `~${id}/${name}`,
      insert: insert({ name, parent: id, status: "PENDING", owner: null, deadlineAt: 77, trace: "{}", payload: "1" })
    }))
    yield* create(id)
    yield* create(`~${id}/b`, { name: "before" })
    yield* equal("the answer", yield* change(id, { children, steps: [step(`${id}:0`)] }), accepted)
    const child = yield* rowOf(`~${id}/a`)
    yield* equal(
      "the child",
      [child.name, child.parent, child.status, child.epoch, child.generation, child.deadlineAt, child.trace],
      ["a", id, "PENDING", 0, 0, 77, "{}"]
    )
    yield* equal("its payload", child.payload, "1")
    yield* equal("the one that was there", (yield* rowOf(`~${id}/b`)).name, "before")
  }),

  "a child is not there yet for the other updates of its batch": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/children-of-batch"
    const child = `~${id}/child`
    yield* create(id)
    const created = update(id, 1, { children: [{ workflowId: child, insert: insert({ name: "child" }) }] })
    const sent = update(child, null, { signals: [signal("a")] })
    yield* equal("the answers to both", yield* store.commit([created, sent]), [accepted, fenced])
    const given = update(`${child}/2`, 4, { insert: insert({ name: "given" }) })
    const second = update(id, 1, { children: [{ workflowId: `${child}/2`, insert: insert({ name: "child" }) }] })
    yield* equal("the answers to one that is given too", yield* store.commit([second, given]), [accepted, accepted])
    yield* equal(
      "the names",
      [(yield* rowOf(child)).name, (yield* rowOf(`${child}/2`)).name],
      ["child", "given"]
    )
  }),

  "nothing of an update that is refused is written": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/refused"
    yield* create(id)
    yield* create(`${id}/told`)
    yield* send(id, signal("a"))
    const before = yield* recordsOf(id)
    const whole: Partial<RunUpdate> = {
      patch: asleep(),
      steps: [completed(`${id}:0`, 0)],
      signals: [reserved(`~${id}`)],
      takes: [{ signalId: "a", stepKey: `${id}:0` }],
      children: [{ workflowId: `~${id}/child`, insert: insert() }],
      tells: [`${id}/told`],
      next: {
        name: "conformance",
        fingerprint: "fingerprint",
        deadlineAt: null,
        parent: null,
        payload: "2",
        begunAt: 5
      }
    }
    yield* equal("of another epoch", yield* commit(update(id, 9, whole)), fenced)
    yield* equal("of another inbox", yield* change(id, { ...whole, inbox: 0 }), missed)
    yield* rejects("of another generation", change(id, { ...whole, generation: 3 }))
    yield* equal("the run", yield* recordsOf(id), before)
    yield* equal("the child", yield* store.run(`~${id}/child`), Option.none())
    yield* equal("who would be told", (yield* rowOf(`${id}/told`)).inbox, 0)
    yield* equal("the token", yield* store.token(`~${id}`), Option.none())
    yield* equal("the signal", yield* idsOf(id, named("go")), ["a"])
  }),

  // -- generations

  "a run goes on in its next generation": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/next"
    yield* create(id)
    yield* send(id, signal("a"))
    const next = {
      name: "conformance",
      fingerprint: "fingerprint",
      deadlineAt: null,
      parent: null,
      payload: "{\"b\":2}",
      begunAt: 5_000
    }
    yield* equal("the answer", yield* change(id, { next, steps: [completed(`${id}:0`, 0)] }), accepted)
    const run = yield* rowOf(id)
    yield* equal("the run", [run.generation, run.begunAt, run.payload, run.createdAt], [1, 5_000, "{\"b\":2}", 1_000])
    yield* equal("its new history", (yield* store.history(id, 1, { after: null, limit: 9 })).rows, [])
    yield* equal("its signals", yield* idsOf(id, named("go")), ["a"])
    yield* rejects("from the generation that is over", change(id, { next }))
    yield* equal("without a payload", yield* change(id, { generation: 1, next: { ...next, payload: null } }), accepted)
    yield* equal("the payload", (yield* rowOf(id)).payload, null)
  }),

  // -- sleep

  "a run that sleeps is claimed when its time has come, and not before": Effect.gen(function*() {
    const store = yield* StepStore
    const name = "conformance-mail-sleep"
    for (const [id, wakeAt] of [["late", 3_001], ["due", 3_000], ["early", 10], ["never", null]] as const) {
      yield* create(`${name}/${id}`, { name })
      yield* change(`${name}/${id}`, { patch: asleep({ wakeAt }) })
    }
    yield* create(`${name}/other`, { name: `${name}-other` })
    yield* change(`${name}/other`, { patch: asleep({ wakeAt: 1 }) })
    yield* equal("the first to wake", yield* store.nextWake([name]), Option.some(10))
    const first = yield* store.claim(claimOf(name, { limit: 1 }))
    yield* equal("one of them", first.map((claimed) => claimed.workflowId), [`${name}/early`])
    const row = yield* rowOf(`${name}/early`)
    yield* equal("the run", [row.status, row.wakeAt, row.owner, row.epoch], ["RUNNING", null, "taker", 2])
    yield* equal("the row that comes with it", at(first, 0).run, Either.right(row))
    const rest = yield* store.claim(claimOf(name))
    yield* equal("the others", rest.map((claimed) => claimed.workflowId), [`${name}/due`])
    yield* equal("the next", yield* store.nextWake([name]), Option.some(3_001))
    yield* equal("of both", yield* store.nextWake([name, `${name}-other`]), Option.some(1))
    yield* equal("of none", yield* store.nextWake([]), Option.none())
    const late = claimOf(name, { at: 3_001, names: null, workflowId: `${name}/late` })
    yield* equal("by its id", (yield* store.claim(late)).length, 1)
    yield* equal("when only one is left that no time wakes", yield* store.nextWake([name]), Option.none())
  }),

  "a claim that is not enough for all takes those that nobody drives first, then those that slept longest": Effect.gen(
    function*() {
      const store = yield* StepStore
      const name = "conformance-mail-claim"
      for (const [id, createdAt, wakeAt] of [["a", 1, 30], ["b", 2, 20], ["c", 3, 10]] as const) {
        yield* create(`${name}/${id}`, { name, createdAt })
        yield* change(`${name}/${id}`, { patch: asleep({ wakeAt }) })
      }
      yield* create(`${name}/open`, { name, createdAt: 9, owner: null, status: "PENDING" })
      const taken = yield* store.claim(claimOf(name, { limit: 3 }))
      yield* equal(
        "the runs",
        taken.map((claimed) => claimed.workflowId),
        ["b", "c", "open"].map((id) => `${name}/${id}`)
      )
    }
  ),

  // -- ends

  "the ends of runs are read together": Effect.gen(function*() {
    const store = yield* StepStore
    const id = "conformance-mail/ends"
    const statuses = ["COMPLETED", "FAILED", "CANCELLED", "STOPPED", "SUSPENDED", "RUNNING"] as const
    for (const status of statuses) {
      yield* create(`${id}/${status}`)
      yield* change(`${id}/${status}`, { patch: patch({ status, owner: null, outcome: "1" }) })
    }
    const ids = statuses.map((status) => `${id}/${status}`)
    const ends = yield* store.ended([...ids, `${id}/nobody`])
    yield* equal("the runs", ends.map((end) => end.workflowId).sort(), [ids[2], ids[0], ids[1]])
    for (const end of ends) {
      yield* equal("its row", end.run, Either.right(yield* rowOf(end.workflowId)))
    }
    yield* equal("of none", yield* store.ended([]), [])
  }),

  // -- changes

  "whoever listens is told to which runs something was sent": Effect.scoped(Effect.gen(function*() {
    const id = "conformance-mail/changes"
    yield* create(id)
    yield* create(`${id}/told`)
    const until = yield* listen((change) => change.mail)
    yield* change(id, { steps: [completed(`${id}:0`, 0)] })
    yield* send(id, signal("a"))
    yield* send(id, signal("a"))
    yield* equal("of a signal", yield* until(id), [id])
    yield* change(id, { tells: [`${id}/told`] })
    yield* equal("of an end", yield* until(`${id}/told`), [`${id}/told`])
    yield* cancel(id, 1)
    yield* equal("of a cancellation", yield* until(id), [id])
  })),

  "whoever listens is told of children, and of who is woken": Effect.scoped(Effect.gen(function*() {
    const id = "conformance-mail/changed"
    yield* create(id)
    yield* create(`${id}/told`)
    const until = yield* listen()
    const children = [{ workflowId: `~${id}`, insert: insert() }]
    yield* change(id, { children, tells: [`${id}/told`] })
    const told = yield* until(`${id}/told`)
    yield* holds("all of them", [id, `~${id}`, `${id}/told`].every((run) => told.includes(run)))
  }))
}
