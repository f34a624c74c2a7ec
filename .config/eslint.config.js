import { dirname } from "node:path"
import { fileURLToPath } from "node:url"
import * as effect from "@effect/eslint-plugin"
import sortImports from "eslint-plugin-simple-import-sort"
import tseslint from "typescript-eslint"

const root = dirname(dirname(fileURLToPath(import.meta.url)))

// ---------------------------------------------------------------------------------------------------------------------
// what src may import: one way, from the faces down to the ground
// ---------------------------------------------------------------------------------------------------------------------

const faces = "/(cli|dashboard|testing)/"
const engines = "/(Engine|Child|Client)\\.js$"
const authors = "/(Workflow|Signal|Branch|Step)\\.js$"
const stores = "/(Memory|Sqlite|Postgres)StepStore\\.js$"

/** `no-restricted-imports` of one layer. The last matching block wins, so each repeats what holds everywhere in src. */
const imports = (...above) => ({
  "no-restricted-imports": ["error", {
    paths: [
      { name: "node:timers", message: "Use Effect.sleep, so that TestClock controls it." },
      { name: "node:timers/promises", message: "Use Effect.sleep, so that TestClock controls it." },
      { name: "node:crypto", importNames: ["randomUUID"], message: "Draw from Random, so that a seed controls it." }
    ],
    patterns: [
      {
        regex: "^(effect|@effect/[^/]+)$",
        message: "Import the module, as in `import * as Effect from \"effect/Effect\"`."
      },
      { regex: "^perdure(/|$)|/index\\.js$|/(test|examples)/", message: "Import the module of src that has it." },
      ...above.map((regex) => ({
        regex,
        message: "This module stands above; imports run one way (.config/eslint.config.js)."
      }))
    ]
  }]
})

// ---------------------------------------------------------------------------------------------------------------------
// what src may not contain
// ---------------------------------------------------------------------------------------------------------------------

const clock = "Use Clock, so that TestClock controls it."
const random = "Use Random, so that a seed controls it."
const sleep = "Use Effect.sleep, so that TestClock controls it."
const any = "Write a type, or `unknown`; `any` belongs in the constraint of a type parameter."
const value = ":matches(VariableDeclarator > Identifier, PropertyDefinition, TSPropertySignature, " +
  ":matches(:function, TSDeclareFunction), :matches(:function, TSDeclareFunction) > :matches(Identifier, RestElement))"

const impure = {
  "no-console": "error",
  "no-restricted-globals": [
    "error",
    { name: "setTimeout", message: sleep },
    { name: "setInterval", message: sleep },
    { name: "setImmediate", message: "Only internal/scheduler.ts may yield to the event loop by itself." },
    { name: "performance", message: clock }
  ],
  "no-restricted-properties": [
    "error",
    { object: "Date", property: "now", message: clock },
    { object: "Math", property: "random", message: random },
    { object: "process", property: "hrtime", message: clock },
    { object: "globalThis", property: "setTimeout", message: sleep },
    { object: "globalThis", property: "setInterval", message: sleep },
    { object: "globalThis", property: "setImmediate", message: sleep },
    { property: "randomUUID", message: random }
  ],
  "no-restricted-syntax": [
    "error",
    { selector: ":function[async=true]", message: "Write an Effect (Effect.gen, Effect.fn)." },
    { selector: "TryStatement", message: "Use Effect.try, or Either.try where nothing is effectful." },
    { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: clock },
    { selector: "CallExpression[callee.name='Date']", message: clock },
    { selector: "TSAsExpression > TSAnyKeyword", message: any },
    { selector: "TSTypeAssertion", message: "Write `as`." },
    { selector: `${value} > TSTypeAnnotation > TSAnyKeyword`, message: any }
  ]
}

export default tseslint.config(
  { ignores: ["node_modules/", "dist/", "docs/", "coverage/", ".*/", "!.config/"] },
  {
    basePath: root,
    files: ["**/*.ts", "**/*.js", "**/*.mjs"],
    languageOptions: { parser: tseslint.parser, sourceType: "module", ecmaVersion: 2022 },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    plugins: { "@typescript-eslint": tseslint.plugin, "@effect": effect, "simple-import-sort": sortImports },
    rules: {
      "@effect/dprint": ["error", {
        config: {
          indentWidth: 2,
          lineWidth: 120,
          semiColons: "asi",
          quoteStyle: "alwaysDouble",
          trailingCommas: "never",
          operatorPosition: "maintain",
          "arrowFunction.useParentheses": "force",
          // simple-import-sort sorts; two sorters would undo each other.
          "module.sortImportDeclarations": "maintain",
          "module.sortExportDeclarations": "maintain",
          "importDeclaration.sortNamedImports": "maintain",
          "exportDeclaration.sortNamedExports": "maintain"
        }
      }],
      // One group without blank lines: packages, then what is near.
      "simple-import-sort/imports": ["error", { groups: [["^\\u0000", "^node:", "^@?\\w", "^", "^\\."]] }],
      "@typescript-eslint/array-type": ["error", { default: "generic", readonly: "generic" }],
      "@typescript-eslint/ban-ts-comment": ["error", { "ts-expect-error": "allow-with-description" }],
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-import-type-side-effects": "error",
      "@typescript-eslint/no-unused-vars": ["error", {
        argsIgnorePattern: "^_",
        varsIgnorePattern: "^_",
        caughtErrorsIgnorePattern: "^_"
      }],
      "@typescript-eslint/prefer-as-const": "error",
      "no-constant-binary-expression": "error",
      "no-debugger": "error",
      "no-dupe-else-if": "error",
      "no-self-compare": "error",
      "no-template-curly-in-string": "error",
      "no-useless-rename": "error",
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      eqeqeq: "error"
    }
  },
  {
    basePath: root,
    files: ["src/**/*.ts"],
    // `!` is allowed: with noUncheckedIndexedAccess it marks an index that was checked, and a branch that cannot happen is no better.
    rules: { ...impure, ...imports() }
  },
  {
    basePath: root,
    files: ["src/internal/scheduler.ts"],
    rules: {
      "no-restricted-globals": [
        "error",
        ...impure["no-restricted-globals"].filter((g) => g.name !== "setImmediate")
      ]
    }
  },
  { basePath: root, files: ["src/{Engine,Child,Client}.ts"], rules: imports(faces) },
  {
    basePath: root,
    files: ["src/internal/**/*.ts", "src/{Workflow,Signal,Branch,Step}.ts"],
    rules: imports(faces, engines)
  },
  { basePath: root, files: ["src/*StepStore.ts"], rules: imports(faces, engines, authors) },
  {
    basePath: root,
    files: ["src/{StepStore,PayloadCodec,Errors}.ts"],
    rules: imports(faces, engines, authors, stores)
  },
  {
    basePath: root,
    files: ["test/**/*.ts"],
    rules: {
      "no-restricted-syntax": ["error", {
        selector: "MemberExpression[object.name=/^(it|test|describe)$/][property.name=/^(only|skip|todo)$/]",
        message: "Every test runs (`runIf` and `skipIf` take a reason that a machine can read)."
      }]
    }
  },
  {
    basePath: root,
    files: ["examples/**/*.ts"],
    rules: {
      "no-restricted-imports": ["error", {
        patterns: [{ regex: "/src/|^perdure/internal/", message: "An example imports what a user can: \"perdure\"." }]
      }]
    }
  }
)
