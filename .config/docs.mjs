// Compiles and runs every example in the doc comments of `src`, then writes the API pages to `.docs/docs`.
//
// docgen checks the tags and writes the pages. The examples are compiled here, because docgen passes over those of classes
// and of interface members. Everything happens in `.docs`: docgen reads its configuration from the folder it runs in, and a
// database that an example opens begins empty there.
import { spawnSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { delimiter, join, relative } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const home = join(root, ".docs")
const bin = join(root, "node_modules", ".bin")

const write = (file, content) =>
  writeFileSync(join(home, file), typeof content === "string" ? content : JSON.stringify(content, null, 2) + "\n")

const run = (what, command, ...args) => {
  console.log(`${what}…`)
  const { error, signal, status } = spawnSync(join(bin, command), args, {
    cwd: home,
    env: { ...process.env, DOCGEN_RUN_EXAMPLES: "false", PATH: `${bin}${delimiter}${process.env.PATH}` },
    shell: process.platform === "win32",
    stdio: "inherit",
    // An example that never ends would hang the build.
    timeout: 180_000,
    killSignal: "SIGKILL"
  })
  if (status === 0) return
  console.error(`${what}: failed (${error?.message ?? signal ?? `exit code ${status}`})`)
  process.exit(1)
}

// ---------------------------------------------------------------------------------------------------------------------
// the examples: each becomes a file in which it stands on the same lines as in its source, so that errors name the place
// ---------------------------------------------------------------------------------------------------------------------

const sources = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
  .map((entry) => relative(join(root, "src"), join(entry.parentPath ?? entry.path, entry.name)))
  .sort()

const examples = []
const unfenced = []

for (const source of sources) {
  const lines = readFileSync(join(root, "src", source), "utf8").split(/\r?\n/)
  let inDoc = false
  let announced = 0
  let body = null
  for (const [index, line] of lines.entries()) {
    if (/^\s*\/\*\*/.test(line)) inDoc = true
    if (!inDoc) continue
    const text = line.replace(/^\s*\*(?!\/) ?/, "")
    if (body !== null) {
      if (/^\s*```/.test(text)) {
        examples.push({ name: `${source.replace(/\.ts$/, "").replaceAll(/[\\/]/g, "-")}.line-${body[0]}.ts`, body })
        body = null
      } else body.push(text)
    } else if (/^\s*```ts\s*$/.test(text)) {
      body = [index + 1]
      announced = 0
    } else if (/^@example\b/.test(text)) {
      if (announced > 0) unfenced.push(`src/${source}:${announced}`)
      announced = index + 1
    }
    if (line.includes("*/") && body === null) {
      if (announced > 0) unfenced.push(`src/${source}:${announced}`)
      announced = 0
      inDoc = false
    }
  }
  if (body !== null) unfenced.push(`src/${source}:${body[0]}`)
}

if (unfenced.length > 0) {
  console.error(`An @example needs a closed \`\`\`ts block, or nothing compiles it:\n  ${unfenced.join("\n  ")}`)
  process.exit(1)
}

rmSync(home, { recursive: true, force: true })
mkdirSync(join(home, "examples"), { recursive: true })
symlinkSync("../src", join(home, "src"), "dir")
write("package.json", { name: "perdure", type: "module", private: true, homepage: "." })
write("docgen.json", {
  exclude: ["src/internal/**", "src/testing/internal/**"],
  parseCompilerOptions: "../tsconfig.json"
})

if (examples.length > 0) {
  for (const { body: [line, ...code], name } of examples) {
    write(join("examples", name), "\n".repeat(line) + code.join("\n") + "\n")
  }
  write(join("examples", "tsconfig.json"), {
    extends: "../../tsconfig.json",
    compilerOptions: { noUnusedLocals: false },
    include: ["*.ts"]
  })
  write(
    join("examples", "all.mjs"),
    examples.map(({ name }) => `await import(${JSON.stringify(`./${name}`)})\n`).join("")
  )
  run(`Compiling ${examples.length} examples`, "tsc", "-p", "examples/tsconfig.json")
  run("Running the examples", "tsx", "--tsconfig", "examples/tsconfig.json", "examples/all.mjs")
}
run("Writing the pages", "docgen")
