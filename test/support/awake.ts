/** How long a thread was asleep: what blocks it can be told from a machine that is crowded. */
import { existsSync, readFileSync } from "node:fs"

const schedule = "/proc/self/schedstat"

/** For how long the main thread has been running, or ready to run; where the system does not tell, only the former. In milliseconds. */
const awake = (): number => {
  if (existsSync(schedule)) {
    const [ran = 0, waited = 0] = readFileSync(schedule, "utf8").split(" ").map(Number)
    return (ran + waited) / 1e6
  }
  const { system, user } = process.cpuUsage()
  return (system + user) / 1e3
}

/** For how long the main thread has been asleep, since some moment that is the same each time. In milliseconds. */
export const asleep = (): number => performance.now() - awake()
