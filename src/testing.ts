/**
 * What tests of workflows need.
 *
 * @since 0.1.0
 */

/**
 * @since 0.1.0
 */
export * as TestEngine from "./testing/TestEngine.js"
