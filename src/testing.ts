/**
 * What tests of workflows need.
 *
 * @since 0.1.0
 */

export {
  /**
   * @since 0.1.0
   */
  crashEverywhere,
  /**
   * @since 0.1.0
   */
  type CrashOptions,
  /**
   * @since 0.1.0
   */
  type CrashReport,
  /**
   * @since 0.1.0
   */
  NotCrashProof
} from "./testing/CrashEverywhere.js"

/**
 * @since 0.1.0
 */
export * as TestEngine from "./testing/TestEngine.js"

/**
 * @since 0.1.0
 */
export * as History from "./testing/History.js"

export {
  /**
   * @since 0.1.0
   */
  replay,
  /**
   * @since 0.1.0
   */
  ReplayDiffers,
  /**
   * @since 0.1.0
   */
  type ReplayOptions,
  /**
   * @since 0.1.0
   */
  type ReplayReport
} from "./testing/Replay.js"

/**
 * @since 0.1.0
 */
export * as StepSpy from "./testing/StepSpy.js"
