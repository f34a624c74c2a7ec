/**
 * Generates `customers.csv`, the same on every machine:
 *
 *     npx tsx examples/import-csv/generate.ts > examples/import-csv/customers.csv
 */
const given = [
  "Ada",
  "Grace",
  "Alan",
  "Edsger",
  "Barbara",
  "Donald",
  "Frances",
  "Tony",
  "Radia",
  "Niklaus",
  "Zoë",
  "José"
]
const family = [
  "Lovelace",
  "Hopper",
  "Turing",
  "Dijkstra",
  "Liskov",
  "Knuth",
  "Allen",
  "Hoare",
  "Perlman",
  "Wirth",
  "O'Neil"
]
const cities = ["London", "New York", "Zürich", "São Paulo", "Kraków", "Washington, D.C.", "Winston-Salem, NC", "東京"]
const notes = [
  "",
  "prefers email",
  "asked for the \"gold\" plan",
  "calls back, but never before ten",
  "two offices:\nTurku\nTampere",
  "discount: 5 %, then 3 %"
]

/** Numbers that look random and are not (Numerical Recipes' generator). */
let state = 42
const below = (limit: number) => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  return Math.floor(state / 2 ** 32 * limit)
}
const one = (from: ReadonlyArray<string>) => from[below(from.length)] ?? ""

const cell = (text: string) => /[",\n]/.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text
const line = (cells: ReadonlyArray<string>) => cells.map(cell).join(",") + "\n"

const rows = Array.from({ length: 3_000 }, (_, i) => {
  const [first, last, number] = [one(given), one(family), i + 1]
  return [
    `C-${String(number).padStart(5, "0")}`,
    `${first} ${last}`,
    `customer${number}@example.com`,
    one(cities),
    one(notes)
  ]
})

process.stdout.write([["customer_id", "name", "email", "city", "note"], ...rows].map(line).join(""))
