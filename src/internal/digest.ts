/** Short digests: of what is stored, to notice damage, and of payloads, to tell two of them apart. */
import { createHash } from "node:crypto"

/**
 * 64 bits of SHA-256 over the parts. The length of each part goes in too, so that moving a character from one part to the
 * next changes the digest.
 */
export const digest = (parts: ReadonlyArray<string | number | null>): string => {
  let text = ""
  for (const part of parts) {
    const shown = part === null ? "-" : String(part)
    text += `${part === null ? "n" : shown.length}:${shown}`
  }
  return createHash("sha256").update(text).digest("hex").slice(0, 16)
}
