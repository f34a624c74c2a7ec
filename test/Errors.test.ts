import { describe, expect, it } from "@effect/vitest"
import { Schema } from "effect"
import { Errors } from "perdure"

const at = { target: "orders.db", detail: "disk I/O error" }
const operation = { address: "1.0", kind: "step", id: "charge", fingerprint: null }

/** Every error, with the words that say where it is and what to do. */
const catalogue: ReadonlyArray<readonly [Error, ReadonlyArray<string>]> = [
  [new Errors.StoreBusy(at), ["orders.db", "disk I/O error", "raise the store's \"busy\" option"]],
  [new Errors.StoreFull(at), ["orders.db", "disk I/O error", "free some space"]],
  [new Errors.StoreReadOnly(at), ["orders.db", "disk I/O error", "give this process write permission"]],
  [new Errors.StoreCorrupt({ ...at, workflowId: null }), ["orders.db", "disk I/O error", "restore it from a backup"]],
  [new Errors.StoreCorrupt({ ...at, workflowId: "wf" }), [
    "orders.db",
    "\"wf\"",
    "restore that record",
    "resume the run"
  ]],
  [new Errors.StoreUnavailable(at), ["orders.db", "disk I/O error", "check that the path exists"]],
  [
    new Errors.StoreSchemaMismatch({ target: "orders.db", found: 9, supported: 2, minCompatible: 7 }),
    ["orders.db", "version 9", "from version 7 on", "only version 2", "upgrade perdure"]
  ],
  [new Errors.StoreRejected(at), ["orders.db", "disk I/O error", "the write was undone"]],
  [new Errors.RunFenced({ workflowId: "wf", held: 3 }), ["\"wf\"", "epoch 3", "must stop"]],
  [new Errors.WorkflowIdInvalid({ workflowId: "~", problem: "it begins with ~" }), ["\"~\"", "it begins with ~"]],
  [
    new Errors.WorkflowIdConflict({ workflowId: "wf", existing: "a", requested: "a" }),
    ["\"wf\" of \"a\"", "another payload", "use another id"]
  ],
  [
    new Errors.WorkflowIdConflict({ workflowId: "wf", existing: "a", requested: "b" }),
    ["\"wf\"", "of \"a\"", "not of \"b\"", "use another id"]
  ],
  [new Errors.PayloadInvalid({ workflow: "a", problem: "name is missing" }), ["\"a\"", "name is missing"]],
  [new Errors.WorkflowNotFound({ workflowId: "wf" }), ["\"wf\"", "check the id"]],
  [new Errors.NothingToResume({ workflowId: "wf", why: "each was handled" }), ["\"wf\"", "each was handled"]],
  [new Errors.BodyDied({ workflowId: "wf", detail: "boom", unwinding: [] }), ["\"wf\"", "boom", "resume the run"]],
  [
    new Errors.BodyDied({ workflowId: "wf", detail: "boom", unwinding: [operation] }),
    ["\"wf\"", "boom", "1.0 step \"charge\"", "resume the run"]
  ],
  [
    new Errors.ProcessKilled({ workflowId: "wf", address: "1.0", stepId: "resize", attempts: 10 }),
    ["\"resize\"", "wf:1.0", "last 10 attempts", "resume the run"]
  ],
  [
    new Errors.StepTimeout({ workflowId: "wf", stepId: "charge", attempt: 2, millis: 500 }),
    ["\"charge\"", "\"wf\"", "Attempt 2", "500 ms", "\"timeout\"", "\"retry\""]
  ],
  [
    new Errors.StepInterrupted({ workflowId: "wf", stepId: "charge", attempt: 2 }),
    ["\"charge\"", "\"wf\"", "Attempt 2", "may have taken effect"]
  ],
  [
    new Errors.ChildCancelled({ workflowId: "~wf:0", workflow: "ship", reason: "cancelled" }),
    ["\"~wf:0\"", "\"ship\"", "was cancelled,", "start another child"]
  ],
  [
    new Errors.ChildCancelled({ workflowId: "~wf:0", workflow: "ship", reason: "deadline" }),
    ["\"~wf:0\"", "\"ship\"", "at its deadline,", "go on without it"]
  ],
  [
    new Errors.StepDied({ workflowId: "wf", address: "1.0", stepId: "charge", attempt: 2, detail: "boom" }),
    ["\"charge\"", "wf:1.0", "attempt 2", "boom", "resume the run"]
  ],
  [
    new Errors.NonDeterminismError({
      workflowId: "wf",
      recorded: { ...operation, fingerprint: "v1" },
      requested: null,
      agreed: []
    }),
    ["\"wf\"", "1.0 step \"charge\" fingerprint \"v1\"", "(nothing)", "Deploy code", "resume the run"]
  ],
  [
    new Errors.RecordUndecodable({ workflowId: "wf", record: "wf:1.0", detail: "Expected string" }),
    ["\"wf\"", "wf:1.0", "Expected string", "resume"]
  ],
  [
    new Errors.Misplaced({ workflowId: "wf", operation: "Step.durable(\"s\")", detail: "it was forked" }),
    ["\"wf\"", "Step.durable(\"s\")", "it was forked", "resume"]
  ],
  [
    new Errors.LimitExceeded({ workflowId: "wf", what: "the number of records", limit: 2, actual: 3 }),
    ["\"wf\"", "the number of records", "2", "3"]
  ],
  [new Errors.Deadlocked({ workflowId: "wf", afterMillis: 100 }), ["\"wf\"", "100 ms", "resume the run"]],
  [
    new Errors.CompensationDied({ workflowId: "wf", left: [{ address: "3.0", id: "book", detail: "Error: stuck" }] }),
    ["\"wf\"", "\"book\" (wf:3.0): Error: stuck", "resume the run"]
  ],
  [new Errors.RunCancelled({ workflowId: "wf", reason: "cancelled" }), ["\"wf\" was cancelled"]],
  [new Errors.RunCancelled({ workflowId: "wf", reason: "deadline" }), ["\"wf\" was cancelled: its deadline had come"]],
  [new Errors.SignalInvalid({ signal: "go", problem: "its value is too large" }), ["\"go\"", "its value is too large"]],
  [
    new Errors.SignalNotWanted({ workflowId: "wf", signal: "go", reason: "ended" }),
    ["\"go\"", "\"wf\"", "the run has ended"]
  ],
  [
    new Errors.SignalNotWanted({ workflowId: "wf", signal: "go", reason: "answered" }),
    ["\"go\"", "\"wf\"", "its token has been answered already"]
  ],
  [
    new Errors.RunStopped({ workflowId: "wf", reason: new Errors.Deadlocked({ workflowId: "wf", afterMillis: 1 }) }),
    ["\"wf\" is stopped", "although no step of it is under way"]
  ]
]

/** What is recorded, what is requested, and how the difference is shown beneath them. */
const differences: ReadonlyArray<
  readonly [recorded: Errors.Operation | null, requested: Errors.Operation | null, shown: ReadonlyArray<string>]
> = [
  [operation, { ...operation, id: "refund" }, [
    "> 1.0 step \"charge\"  1.0 step \"refund\"",
    "                              ^^^^^^^^",
    "New code goes behind Workflow.patched(\"…\")"
  ]],
  [operation, { ...operation, kind: "sleep", id: "nap" }, [
    "> 1.0 step \"charge\"  1.0 sleep \"nap\"",
    "                         ^^^^^",
    "New code goes behind Workflow.patched(\"…\")"
  ]],
  [operation, { ...operation, fingerprint: "v2" }, [
    "> 1.0 step \"charge\"  1.0 step \"charge\" fingerprint \"v2\"",
    "                                       ^^^^^^^^^^^^^^^^",
    "Only the fingerprint differs"
  ]],
  [{ ...operation, fingerprint: "v1" }, operation, [
    "> 1.0 step \"charge\" fingerprint \"v1\"  1.0 step \"charge\"",
    "                                                        ^",
    "Only the fingerprint differs"
  ]],
  [operation, { ...operation, address: "2" }, [
    "> 1.0 step \"charge\"  2 step \"charge\"",
    "                     ^",
    "The code does not ask for what is recorded"
  ]],
  [operation, null, [
    "> 1.0 step \"charge\"  (nothing)",
    "                     ^^^^^^^^^",
    "The code does not ask for what is recorded"
  ]],
  [null, operation, [
    "> (nothing)  1.0 step \"charge\"",
    "             ^^^^^^^^^^^^^^^^^",
    "New code goes behind Workflow.patched(\"…\")"
  ]],
  [{ ...operation, kind: "patch", id: "by-email" }, operation, [
    "> 1.0 patch \"by-email\"  1.0 step \"charge\"",
    "                            ^^^^",
    "Workflow.patched(\"by-email\") there or, once no run without the marker is left, Workflow.patchDone(\"by-email\")"
  ]],
  [{ ...operation, kind: "patch", id: "by-email" }, null, [
    "> 1.0 patch \"by-email\"  (nothing)",
    "                        ^^^^^^^^^",
    "Workflow.patchDone(\"by-email\")"
  ]]
]

describe("Errors", () => {
  it.each(differences)(
    "case %# of a mismatch marks the first difference, and says what to do",
    (recorded, requested, shown) => {
      const error = new Errors.NonDeterminismError({ workflowId: "wf", recorded, requested, agreed: [] })
      expect(error.message).toContain(shown.slice(0, 2).join("\n") + "\n")
      expect(error.message).toContain(shown[2])
    }
  )

  it.each(catalogue)("%o says where it is and what to do", (error, words) => {
    for (const word of words) {
      expect(error.message).toContain(word)
    }
  })

  it("every reason of a stop is read back as it was written", () => {
    const codec = Schema.parseJson(Errors.StopReason)
    for (const [error] of catalogue) {
      if (Schema.is(Errors.StopReason)(error)) {
        const read = Schema.decodeSync(codec)(Schema.encodeSync(codec)(error))
        expect(read).toEqual(error)
        expect(read.message).toBe(error.message)
      }
    }
    const reasons = catalogue.filter(([error]) => Schema.is(Errors.StopReason)(error)).map(([error]) => error.name)
    expect(new Set(reasons)).toEqual(new Set(Errors.StopReason.members.map((member) => member._tag)))
  })
})
