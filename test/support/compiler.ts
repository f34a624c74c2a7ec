/** The compiler, as a person meets it: what it says of a few lines. */
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"

const root = join(dirname(fileURLToPath(import.meta.url)), "../..")

const prelude = `
import { Effect, Option, Schedule, Schema } from "effect"
import { Branch, Engine, Step, Workflow } from "perdure"
class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { model: Schema.String }) {}
class Fields {
  a = 1
}
class Method {
  a() {}
}
class Hidden {
  a = 1
  protected b = 2
}
declare const value: <A>() => Effect.Effect<A>
declare const one: Effect.Effect<number>
declare const order: Effect.Effect<number, OutOfStock>
declare const condition: boolean
export const used = [Effect, Option, Schedule, Schema, Branch, Engine, Step, Workflow, OutOfStock, Fields, Method, Hidden, value, one, order, condition]
export const result = `

/**
 * Compiles each text with the settings of the project, and answers with what the compiler says of it, each message with all that
 * stands under it.
 */
export const diagnose = (texts: ReadonlyArray<string>): ReadonlyArray<string> => {
  const config = ts.readConfigFile(join(root, "tsconfig.json"), (path) => ts.sys.readFile(path))
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root)
  const host = ts.createCompilerHost(options)
  const files = new Map(texts.map((text, i) => [join(root, "test/types", `snippet-${i}.ts`), prelude + text]))
  const { fileExists, getSourceFile, readFile } = host
  host.fileExists = (path) => files.has(path) || fileExists.call(host, path)
  host.readFile = (path) => files.get(path) ?? readFile.call(host, path)
  host.getSourceFile = (path, ...rest) => {
    const text = files.get(path)
    return text === undefined
      ? getSourceFile.call(host, path, ...rest)
      : ts.createSourceFile(path, text, ts.ScriptTarget.ES2022, true)
  }
  const program = ts.createProgram([...files.keys()], options, host)
  return [...files.keys()].map((path) =>
    ts.getPreEmitDiagnostics(program, program.getSourceFile(path))
      .map((diagnostic) => ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n"))
      .join("\n")
  )
}
