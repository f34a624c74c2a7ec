/**
 * Adds up what the packages that a project asks for ask for themselves: a child run for each of them, four at a time. Each child
 * leaves a line in fan-out.log. Kill it at any moment, and start it again:
 *
 *     npx tsx examples/fan-out.ts
 *     npx tsx examples/fan-out.ts path/to/another/project
 */
import { FileSystem, Path } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Array, Console, Effect, Either, Layer, Number, Schema } from "effect"
import { Branch, Child, Step, Workflow } from "perdure"
import { EngineLive } from "./support/engine.js"
import { Ledger } from "./support/ledger.js"

// ---------------------------------------------------------------------------------------------------------------------
// the project and its packages
// ---------------------------------------------------------------------------------------------------------------------

const names = Schema.optionalWith(Schema.Record({ key: Schema.String, value: Schema.String }), { default: () => ({}) })

const Manifest = Schema.parseJson(Schema.Struct({
  version: Schema.optionalWith(Schema.String, { default: () => "?" }),
  dependencies: names,
  devDependencies: names
}))

class NotInstalled extends Schema.TaggedError<NotInstalled>()("NotInstalled", { name: Schema.String }) {}

class Packages extends Effect.Service<Packages>()("examples/Packages", {
  effect: Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const read = Effect.fn(function*(...folder: ReadonlyArray<string>) {
      return yield* Schema.decode(Manifest)(yield* fs.readFileString(path.join(...folder, "package.json")))
    })
    return {
      /** What a project asks for. */
      asked: Effect.fn(function*(project: string) {
        const { dependencies, devDependencies } = yield* Effect.orDie(read(project))
        return Object.keys({ ...dependencies, ...devDependencies })
      }),
      /** What a package of it is, and how much that asks for. */
      installed: Effect.fn(function*(project: string, name: string) {
        const { dependencies, version } = yield* Effect.mapError(
          read(project, "node_modules", name),
          () => new NotInstalled({ name })
        )
        return { version, asks: Object.keys(dependencies).length }
      })
    }
  })
}) {}

// ---------------------------------------------------------------------------------------------------------------------
// the workflows
// ---------------------------------------------------------------------------------------------------------------------

const CountPackage = Workflow.make({
  name: "count-package",
  payload: { project: Schema.String, name: Schema.String },
  success: Schema.Int,
  error: NotInstalled
})

const CountPackageLive = CountPackage.toLayer(({ name, project }) =>
  Effect.gen(function*() {
    const packages = yield* Packages
    const ledger = yield* Ledger
    const { asks, version } = yield* packages.installed(project, name).pipe(
      Step.durable("read-manifest", { error: NotInstalled })
    )
    yield* ledger.post(`${name} ${version}: ${asks}`).pipe(Step.durable("note"))
    return asks
  })
)

const CountProject = Workflow.make({
  name: "count-project",
  payload: { project: Schema.String },
  success: Schema.Struct({ packages: Schema.Int, asked: Schema.Int, missing: Schema.Array(Schema.String) }),
  idempotencyKey: ({ project }) => project
})

const CountProjectLive = CountProject.toLayer(({ project }) =>
  Effect.gen(function*() {
    const packages = yield* Packages
    // The list is a step: after a restart the file could have another.
    const names = yield* packages.asked(project).pipe(Step.durable("list"))
    const counts = yield* Branch.forEach(
      names,
      (name) => Effect.either(Child.execute(CountPackage, { project, name })),
      { concurrency: 4 }
    )
    const found = Array.getRights(counts)
    return {
      packages: found.length,
      asked: Number.sumAll(found),
      missing: names.filter((_, i) => Either.isLeft(counts[i]!))
    }
  })
)

// ---------------------------------------------------------------------------------------------------------------------
// the program
// ---------------------------------------------------------------------------------------------------------------------

const program = Effect.gen(function*() {
  const path = yield* Path.Path
  const project = path.resolve(process.argv[2] ?? ".")
  yield* Console.log(`What the packages of ${project} ask for`)
  const { asked, missing, packages } = yield* CountProject.execute({ project })
  yield* Console.log(`${packages} packages ask for ${asked} others. Not installed: ${missing.join(", ") || "none"}.`)
})

program.pipe(
  Effect.provide(
    Layer.merge(CountProjectLive, CountPackageLive).pipe(
      Layer.provideMerge(EngineLive),
      Layer.provide(Packages.Default),
      Layer.provide(Ledger.Default("fan-out.log")),
      Layer.provideMerge(NodeContext.layer)
    )
  ),
  NodeRuntime.runMain
)
