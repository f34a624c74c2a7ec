/**
 * Durable execution for Effect applications.
 *
 * @since 0.1.0
 */

/**
 * @since 0.1.0
 */
export * as Branch from "./Branch.js"

/**
 * @since 0.1.0
 */
export * as Child from "./Child.js"

/**
 * @since 0.1.0
 */
export * as CrashSimulator from "./CrashSimulator.js"

/**
 * @since 0.1.0
 */
export * as Engine from "./Engine.js"

/**
 * @since 0.1.0
 */
export * as Errors from "./Errors.js"

/**
 * @since 0.1.0
 */
export * as MemoryStepStore from "./MemoryStepStore.js"

/**
 * @since 0.1.0
 */
export * as PayloadCodec from "./PayloadCodec.js"

/**
 * @since 0.1.0
 */
export * as Signal from "./Signal.js"

/**
 * @since 0.1.0
 */
export * as SqliteStepStore from "./SqliteStepStore.js"

/**
 * @since 0.1.0
 */
export * as Step from "./Step.js"

/**
 * @since 0.1.0
 */
export * as StepStore from "./StepStore.js"

/**
 * @since 0.1.0
 */
export * as StepStoreConformance from "./StepStoreConformance.js"

/**
 * @since 0.1.0
 */
export * as Workflow from "./Workflow.js"
