import type { StepStore } from "perdure"

/** An update that changes nothing yet. */
export const update = (workflowId: string, rest: Partial<StepStore.RunUpdate> = {}): StepStore.RunUpdate => ({
  workflowId,
  generation: 0,
  epoch: 1,
  insert: null,
  patch: null,
  reopen: [],
  steps: [],
  attempts: [],
  inbox: null,
  next: null,
  cancelAt: null,
  signals: [],
  takes: [],
  gives: [],
  children: [],
  tells: [],
  ...rest
})

/** Creates a run in epoch 1. */
export const newRun = (workflowId: string, rest: Partial<StepStore.RunInsert> = {}): StepStore.RunUpdate =>
  update(workflowId, {
    insert: {
      name: "work",
      version: null,
      status: "RUNNING",
      owner: null,
      parent: null,
      deadlineAt: null,
      trace: null,
      fingerprint: "fingerprint",
      payload: "{\"a\":1}",
      createdAt: 1,
      ...rest
    }
  })

export const patch = (rest: Partial<StepStore.RunPatch> = {}): StepStore.RunPatch => ({
  status: "COMPLETED",
  owner: null,
  stopReason: null,
  wakeAt: null,
  outcome: "\"done\"",
  updatedAt: 2,
  endedAt: 2,
  ...rest
})

export const completed = (
  workflowId: string,
  position: number,
  rest: Partial<StepStore.StepRow> = {}
): StepStore.StepRow => ({
  stepKey: `${workflowId}:${position}`,
  stepId: "step",
  kind: "step",
  sequence: position,
  status: "COMPLETED",
  position,
  attempt: 1,
  epoch: 1,
  final: true,
  startedAt: 1,
  updatedAt: 1,
  askedAfter: -1,
  fingerprint: null,
  output: `{"position":${position}}`,
  errorTag: null,
  error: null,
  ...rest
})

export const workerInfo = (id: string): StepStore.WorkerInfo => ({ id, host: "here", pid: process.pid, startedAt: 1 })

export const everything = { after: null, limit: 1_000_000 }
