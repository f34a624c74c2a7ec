/** Digests: of what is stored, to notice damage; of payloads, to tell two of them apart; and of the place of a step. */
import { createHash } from "node:crypto"

type Parts = ReadonlyArray<string | number | null>

/** SHA-256 over the parts. The length of each part goes in too, so that moving a character from one part to the next changes it. */
const hash = (parts: Parts): Buffer => {
  let text = ""
  for (const part of parts) {
    const shown = part === null ? "-" : String(part)
    text += `${part === null ? "n" : shown.length}:${shown}`
  }
  return createHash("sha256").update(text).digest()
}

/** In hexadecimal digits. */
export const fullDigest = (parts: Parts): string => hash(parts).toString("hex")

/** 64 bits of it. */
export const digest = (parts: Parts): string => fullDigest(parts).slice(0, 16)

/** 128 bits of it, as four numbers. */
export const digestWords = (parts: Parts): readonly [number, number, number, number] => {
  const bytes = hash(parts)
  return [bytes.readUInt32BE(0), bytes.readUInt32BE(4), bytes.readUInt32BE(8), bytes.readUInt32BE(12)]
}
