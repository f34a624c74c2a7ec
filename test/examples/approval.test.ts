import { join } from "node:path"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Data, Deferred, Effect, Fiber, Schedule } from "effect"
import { type Ended, folder, program, removeBundles } from "../fixtures/examples/commands.js"
import { done } from "../fixtures/examples/ledger.js"

const patience = 240_000
const approval = program("examples/approval.ts")

afterAll(removeBundles)

class NotYet extends Data.TaggedError("NotYet") {}

class ServerEnded extends Data.TaggedError("ServerEnded")<Ended> {}

/** Tries until something is there. */
const eventually = <A, E>(self: Effect.Effect<A | undefined, E>) =>
  self.pipe(
    Effect.flatMap((value) => value === undefined ? new NotYet() : Effect.succeed(value)),
    Effect.retry({
      schedule: Schedule.spaced("50 millis"),
      times: 1_000,
      while: (error: unknown) => error instanceof NotYet
    })
  )

/** A server in a process of its own, as soon as it listens. */
const serve = Effect.fn(function*(cwd: string, env: Record<string, string> = {}) {
  const listening = yield* Deferred.make<{ readonly url: string; readonly kill: (signal: NodeJS.Signals) => boolean }>()
  const fiber = yield* Effect.forkScoped(approval([], {
    cwd,
    env: { PORT: "0", ...env },
    watch: (stdout, child) => {
      const url = /Listening on (http:\S+\d)\./.exec(stdout)?.[1]
      if (url !== undefined) {
        Deferred.unsafeDone(listening, Effect.succeed({ url, kill: (signal) => child.kill(signal) }))
      }
    }
  }))
  const { kill, url } = yield* Effect.raceFirst(
    Deferred.await(listening),
    Effect.flatMap(Fiber.join(fiber), (ended) => new ServerEnded(ended))
  )
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
  const request = (path: string, init?: RequestInit) =>
    Effect.promise(async () => {
      const response = await fetch(`${url}${path}`, init)
      const text = await response.text()
      return { status: response.status, body: (text === "" ? null : JSON.parse(text)) as unknown }
    })
  const get = (path: string) => request(path)
  const post = (path: string, body: unknown) =>
    request(path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) })
  return {
    get,
    post,
    ended: Fiber.join(fiber),
    end: (signal: NodeJS.Signals) => Effect.zipRight(Effect.sync(() => kill(signal)), Fiber.join(fiber)),
    /** What an expense has ended with. */
    outcome: (id: string) =>
      eventually(Effect.map(get(`/expenses/${id}`), ({ body }) => (body as { readonly outcome?: string }).outcome))
  }
})

/** The token in the mail about an expense, once it has been sent. */
const mailed = (cwd: string, id: string, kills: number) =>
  eventually(Effect.sync(() => {
    const mail = done(join(cwd, "approval.log"), kills).find((what) => what.includes(`(${id})`))
    return /\/approvals\/(\S+)$/.exec(mail ?? "")?.[1]
  }))

describe.concurrent("the approval server", () => {
  it.scopedLive(
    "killed before it mails, while it waits and after the answer, it asks once and takes one answer",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        const e1 = { id: "e1", employee: "ada", cents: 4_200 }
        const e2 = { id: "e2", employee: "alan", cents: 100_000 }

        const first = yield* serve(cwd, { CRASH_AFTER: "1" })
        // Whether the answer comes before the process dies is not known.
        yield* Effect.exit(first.post("/expenses", e1))
        expect((yield* first.ended).code).toBe(137)

        const second = yield* serve(cwd)
        const token1 = yield* mailed(cwd, "e1", 0)
        expect((yield* second.end("SIGKILL")).code).toBe(137)

        const third = yield* serve(cwd)
        expect(yield* third.post("/expenses", e2)).toEqual({ status: 202, body: { id: "e2", see: "/expenses/e2" } })
        const token2 = yield* mailed(cwd, "e2", 1)
        expect((yield* third.get("/expenses/e1")).body).toMatchObject({ status: expect.stringMatching(/^[A-Z]+$/) })
        expect((yield* third.get("/expenses/e1")).body).not.toHaveProperty("outcome")

        const yes = { by: "grace", approved: true }
        expect((yield* third.post("/approvals/nobody-has-given-this-away", yes)).status).toBe(404)
        expect((yield* third.post(`/approvals/${token1}`, { by: "grace" })).status).toBe(400)
        expect((yield* third.post(`/approvals/${token1}`, "no JSON")).status).toBe(400)
        expect(yield* third.post(`/approvals/${token1}`, yes)).toEqual({ status: 204, body: null })
        expect((yield* third.post(`/approvals/${token1}`, { ...yes, approved: false })).status).toBe(409)
        expect((yield* third.post(`/approvals/${token2}`, { by: "grace", approved: false })).status).toBe(204)
        expect((yield* third.end("SIGKILL")).code).toBe(137)

        const fourth = yield* serve(cwd)
        expect(yield* fourth.outcome("e1")).toBe("approved")
        expect(yield* fourth.outcome("e2")).toBe("rejected")
        expect((yield* fourth.post(`/approvals/${token1}`, yes)).status).toBe(409)
        expect((yield* fourth.post("/expenses", e1)).status).toBe(202)
        expect((yield* fourth.post("/expenses", { ...e1, cents: 1 })).status).toBe(409)
        expect((yield* fourth.post("/expenses", { id: "" })).status).toBe(400)
        expect((yield* fourth.get("/expenses/e3")).status).toBe(404)

        // The second process was killed after one mail, the third after two.
        const mails = done(join(cwd, "approval.log"), 3)
        expect(mails).toHaveLength(4)
        expect(mails.filter((mail) => mail.endsWith("expense e1: approved"))).toHaveLength(1)
        expect(mails.filter((mail) => mail.endsWith("expense e2: rejected"))).toHaveLength(1)
        expect((yield* fourth.end("SIGTERM")).code).toBe(0)
      }),
    patience
  )

  it.scopedLive(
    "the time to answer goes on while no process lives, and then nobody has answered",
    () =>
      Effect.gen(function*() {
        const cwd = yield* folder
        const hasty = { APPROVE_WITHIN: "3 seconds" }
        const first = yield* serve(cwd, hasty)
        expect((yield* first.post("/expenses", { id: "e1", employee: "ada", cents: 4_200 })).status).toBe(202)
        const token = yield* mailed(cwd, "e1", 0)
        yield* eventually(Effect.map(
          first.get("/expenses/e1"),
          ({ body }) => ["PENDING", "RUNNING"].includes((body as { readonly status: string }).status) ? undefined : body
        ))
        expect((yield* first.end("SIGKILL")).code).toBe(137)

        const second = yield* serve(cwd, hasty)
        expect(yield* second.outcome("e1")).toBe("nobody answered")
        expect((yield* second.post(`/approvals/${token}`, { by: "grace", approved: true })).status).toBe(410)
        expect(done(join(cwd, "approval.log"), 1)).toHaveLength(2)
        const ended = yield* second.end("SIGINT")
        expect(ended.code, ended.stderr).toBe(0)
      }),
    patience
  )
})
