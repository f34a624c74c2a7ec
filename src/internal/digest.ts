/** Digests: of what is stored, to notice damage; of payloads, to tell two of them apart; and of the place of a step. */
import { hash } from "node:crypto"

/** Bytes are what damage makes of a text. */
type Parts = ReadonlyArray<string | number | null | Uint8Array>

/**
 * The length of each part goes in too, so that moving a character from one part to the next changes it; and whether it is bytes: one
 * flipped bit makes a text of the database into bytes that read the same.
 */
const textOf = (parts: Parts): string => {
  let text = ""
  for (const part of parts) {
    const shown = part === null ? "-" : String(part)
    text += `${part === null ? "n" : typeof part === "object" ? "b" : shown.length}:${shown}`
  }
  return text
}

/** SHA-256 over the parts, in hexadecimal digits. At once, as here, it takes 1 µs; with an object that is updated, 3 to 4. */
export const fullDigest = (parts: Parts): string => hash("sha256", textOf(parts))

/** 64 bits of it. */
export const digest = (parts: Parts): string => fullDigest(parts).slice(0, 16)

/** 128 bits of it, as four numbers. */
export const digestWords = (parts: Parts): readonly [number, number, number, number] => {
  const bytes = hash("sha256", textOf(parts), "buffer")
  return [bytes.readUInt32BE(0), bytes.readUInt32BE(4), bytes.readUInt32BE(8), bytes.readUInt32BE(12)]
}
