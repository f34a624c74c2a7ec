/** Texts that somebody may pass as an id or a name, or have in a payload. */
import { FastCheck as fc } from "effect"

/** Whether it can be UTF-8, and text of SQLite: no half surrogate pair, no NUL. */
export const isWellFormed = (text: string) => Buffer.from(text).toString() === text && !text.includes("\0")

/** What somebody has tried before. */
export const hostileTexts: ReadonlyArray<string> = [
  // of JavaScript
  "",
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "undefined",
  "null",
  "NaN",
  "[object Object]",
  "0",
  "-1",
  "1e999",
  "{{7*7}}",
  // of SQL
  "'",
  "\"",
  "';--",
  "'; DROP TABLE steps; --",
  "\" OR \"\"=\"",
  "x' OR 1=1 /*",
  "%",
  "_",
  "sqlite_",
  "?",
  "?1",
  ":name",
  "$1",
  "`",
  "\\",
  "\\'",
  // of JSON
  "{}",
  "[]",
  "{\"a\":",
  "\"quoted\"",
  "\\u0000",
  "$[0]",
  // of paths and addresses
  "/",
  "//",
  ".",
  "..",
  "../../etc/passwd",
  "C:\\con",
  "a/b",
  "a:0",
  "a:1.0",
  "a:0#1",
  "a#1",
  "1#0",
  "1.0",
  "#",
  ":",
  "~",
  "~a:0",
  "%2F",
  "%00",
  // of Unicode
  "\0",
  "a\0b",
  "a\0",
  "\ud800",
  "a\udc00b",
  "\udc00\ud800",
  "\ud83d\ude00",
  "\u{10ffff}",
  "\ue000",
  "\ufeffa",
  "\ufffd",
  "\uffff",
  "\u0085",
  "\u2028",
  "\u2029",
  "\u200b",
  "\u202egpj.exe",
  "\u0645\u0631\u062d\u0628\u0627",
  "e\u0301",
  "\u00e9",
  "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307",
  "\ud83d\udc68\u200d\ud83d\udc69\u200d\ud83d\udc67",
  "\u0130i\u0131",
  "stra\u00dfe",
  // of terminals and pages
  " ",
  "a ",
  " a",
  "a\n",
  "\t",
  "\r\n",
  "\x1b[31m",
  "\x7f",
  "<script>alert(1)</script>",
  "&lt;",
  "--help",
  // of a length
  "x".repeat(256),
  "x".repeat(257),
  "\u00e9".repeat(128),
  "\u00e9".repeat(129),
  "\u{1f600}".repeat(64),
  "\u{1f600}".repeat(65),
  "x".repeat(10_000)
]

/** Any text: all of Unicode, halves of surrogate pairs, NUL, and what somebody has tried before. */
export const anyText: fc.Arbitrary<string> = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...hostileTexts) },
  { weight: 2, arbitrary: fc.string({ unit: "binary", minLength: 1, maxLength: 64 }) },
  { weight: 1, arbitrary: fc.string({ unit: "grapheme", minLength: 1, maxLength: 32 }) },
  {
    weight: 1,
    arbitrary: fc.array(fc.nat({ max: 0xffff }), { minLength: 1, maxLength: 16 })
      .map((units) => String.fromCharCode(...units))
  },
  {
    weight: 1,
    arbitrary: fc.tuple(fc.constantFrom(...hostileTexts), fc.string({ unit: "binary-ascii", maxLength: 8 }))
      .map(([text, more]) => more + text)
  },
  { weight: 1, arbitrary: fc.integer({ min: 250, max: 260 }).map((length) => "~a\u00e9".repeat(90).slice(0, length)) }
)

/** Texts that somebody may take for this one: a person who reads it, or a layer that mends, cuts or folds it. */
export const lookalikes = (text: string): ReadonlyArray<string> => {
  const all = [
    text.normalize("NFC"),
    text.normalize("NFD"),
    text.normalize("NFKC"),
    text.trim(),
    text.toLowerCase(),
    text.toUpperCase(),
    text.split("\0")[0]!,
    Buffer.from(text).toString(),
    text.replaceAll("\\", ""),
    `${text} `,
    `${text}:0`,
    `\ufeff${text}`
  ]
  return [...new Set(all)].filter((other) => other !== text)
}
