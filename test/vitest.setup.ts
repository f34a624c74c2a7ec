import { FastCheck } from "effect"

// One seed for all properties of a run; the reporter prints it, and FC_SEED repeats it.
FastCheck.configureGlobal({
  seed: Number(process.env.FC_SEED),
  ...(process.env.FC_RUNS === undefined ? {} : { numRuns: Number(process.env.FC_RUNS) })
})
