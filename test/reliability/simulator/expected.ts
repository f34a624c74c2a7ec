/** How a random workflow ends whose branches share nothing and do not race, whatever befalls it. */
import type { End } from "../../support/lives.js"
import type { StepTrial, Trial, Trials } from "../../support/trials.js"

const ofStep = (label: string, { how }: StepTrial): string => {
  switch (how) {
    case "fails":
    case "gives up":
      return `!${label}`
    case "hangs":
      return "!StepTimeout"
    default:
      return label
  }
}

const valueOf = (node: Trial, generation: number, path: string): unknown => {
  const label = `${generation}/${path}`
  switch (node.op) {
    case "step":
      return ofStep(label, node)
    case "signal":
      return path
    case "child":
      return node.fails ? `!${label} part` : `${label} part`
    case "sequence":
    case "all":
    case "forEach":
      return node.parts.map((part, i) => valueOf(part, generation, `${path}.${i}`))
    case "protected":
    case "bracket":
    case "undoable":
      return valueOf(node.body, generation, `${path}.0`)
    default:
      return null
  }
}

export const endsAs = ({ body, end, generations }: Trials): End =>
  end === "fails"
    ? { _tag: "Failed", error: "the end" }
    : { _tag: "Succeeded", value: JSON.stringify(valueOf(body, generations - 1, "0")) }

/** Without what is another thing each time: what effects bring, and the numbers of signals. */
export const withoutNonces = (end: End): End =>
  end._tag === "Succeeded"
    ? { ...end, value: end.value.replace(/~\d+/g, "").replace(/("[\d.]+) \d+"/g, "$1\"") }
    : end
