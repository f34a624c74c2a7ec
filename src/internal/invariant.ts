/** What must hold. One helper, so that an assertion adds no branch to the code that makes it. */

/**
 * Dies with the message unless the condition holds: what fails here is a bug of ours, or the database was tampered
 * with.
 */
export function invariant(condition: boolean, message: string): asserts condition {
  if (!condition) {
    throw new Error(`Perdure's own invariant does not hold: ${message}`)
  }
}
