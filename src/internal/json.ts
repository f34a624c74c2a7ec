/** What can be kept as JSON and read back as the same value. */

/** Deeper than anything a person builds: what goes further contains itself. */
const maxDepth = 1_000

const where = (path: string) => path === "" ? "the value itself" : path

const inside = (path: string, key: string) =>
  /^[A-Za-z_$][\w$]*$/.test(key) ? `${path}${path === "" ? "" : "."}${key}` : `${path}[${JSON.stringify(key)}]`

const className = (value: object) => {
  const constructor: unknown = Reflect.get(value, "constructor")
  return typeof constructor === "function" ? constructor.name : "an unknown class"
}

const problemOfArray = (value: ReadonlyArray<unknown>, path: string, depth: number): string | null => {
  for (let i = 0; i < value.length; i++) {
    const at = `${path}[${i}]`
    const problem = value[i] === undefined
      ? `${at} is ${i in value ? "undefined" : "a hole"}, which an array cannot keep in JSON`
      : problemOf(value[i], at, depth + 1)
    if (problem !== null) {
      return problem
    }
  }
  return null
}

const problemOfObject = (value: object, path: string, depth: number): string | null => {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) {
    return `${where(path)} is an instance of ${className(value)}`
  }
  if (Object.getOwnPropertySymbols(value).length > 0) {
    return `${where(path)} has a key that is a symbol`
  }
  for (const key of Object.keys(value)) {
    const problem = problemOf(Reflect.get(value, key), inside(path, key), depth + 1)
    if (problem !== null) {
      return problem
    }
  }
  return null
}

/**
 * Says what keeps a value from being kept as JSON, and where; `null` if nothing does. `undefined` is allowed alone and in the
 * fields of an object, where JSON drops it.
 */
export const problemOf = (value: unknown, path = "", depth = 0): string | null => {
  switch (typeof value) {
    case "string":
    case "boolean":
    case "undefined":
      return null
    case "number":
      return Number.isFinite(value) ? null : `${where(path)} is ${value}`
    case "object": {
      if (value === null) {
        return null
      }
      if (depth > maxDepth) {
        return `${where(path)} is nested more than ${maxDepth} deep: it may contain itself`
      }
      return Array.isArray(value) ? problemOfArray(value, path, depth) : problemOfObject(value, path, depth)
    }
    default:
      return `${where(path)} is a ${typeof value}`
  }
}

/** JSON text of a value without problems; `null` stands for `undefined`. */
export const toText = (value: unknown): string | null => {
  const text: string | undefined = JSON.stringify(value)
  return text ?? null
}

/** The value of a JSON text that {@link toText} has made. */
export const fromText = (text: string | null): unknown => text === null ? undefined : JSON.parse(text)

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) {
    return value.map(sorted)
  }
  return typeof value === "object" && value !== null
    ? Object.fromEntries(
      Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1).map(([key, field]) => [key, sorted(field)])
    )
    : value
}

/** The JSON text of a value with the keys of its objects in order, so that equal values have equal texts. */
export const canonical = (text: string | null): string => JSON.stringify(sorted(fromText(text))) ?? ""
