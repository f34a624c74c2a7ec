/** The workflow: a record, then laptop and access side by side, then the welcome email. */
import { Effect, Schema } from "effect"
import { Branch, Step, Workflow } from "perdure"
import { Company, LaptopOutOfStock } from "./company.js"

export const Onboarding = Workflow.make({
  name: "onboarding",
  payload: { employee: Schema.NonEmptyTrimmedString },
  success: Schema.Struct({ employeeId: Schema.String, laptop: Schema.String, access: Schema.String }),
  error: LaptopOutOfStock,
  idempotencyKey: ({ employee }) => employee.toLowerCase().replaceAll(/\s+/g, "-")
})

export const OnboardingLive = Onboarding.toLayer(({ employee }) =>
  Effect.gen(function*() {
    const company = yield* Company
    const employeeId = yield* company.createRecord(employee).pipe(Step.durable("create-record"))
    const { access, laptop } = yield* Branch.all({
      laptop: company.provisionLaptop(employeeId).pipe(Step.durable("provision-laptop", { error: LaptopOutOfStock })),
      access: company.provisionAccess(employeeId).pipe(Step.durable("provision-access"))
    }, { concurrency: "unbounded" })
    yield* company.sendWelcomeEmail(employee, laptop).pipe(Step.durable("welcome-email"))
    return { employeeId, laptop, access }
  })
)
