/** Short digests: of what is stored, to notice damage, and of payloads, to tell two of them apart. */
import { createHash } from "node:crypto"

/**
 * 64 bits of SHA-256 over the parts. The length of each part goes in too, so that moving a character from one part to the
 * next changes the digest.
 */
export const digest = (parts: ReadonlyArray<string | number | null>): string => hash(parts).toString("hex").slice(0, 16)

/** The first 128 bits, as four numbers. */
export const digestWords = (
  parts: ReadonlyArray<string | number | null>
): readonly [number, number, number, number] => {
  const bytes = hash(parts)
  return [bytes.readUInt32BE(0), bytes.readUInt32BE(4), bytes.readUInt32BE(8), bytes.readUInt32BE(12)]
}

const hash = (parts: ReadonlyArray<string | number | null>): Buffer => {
  let text = ""
  for (const part of parts) {
    const shown = part === null ? "-" : String(part)
    text += `${part === null ? "n" : shown.length}:${shown}`
  }
  return createHash("sha256").update(text).digest()
}
