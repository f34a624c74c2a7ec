/** A type is another one if the compiler takes them for identical; `any` is nothing but `any`. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false

/** `is<Expected>()(value)` compiles where the type of the value is the expected one. */
export const is =
  <Expected>() => <Actual>(_value: Actual, ..._: Same<Actual, Expected> extends true ? [] : [isNot: Expected]) => {}

/** A service that has nothing in common with others. */
export declare class Mailer {
  private readonly mailer: true
}

/** A service that a schema needs. */
export declare class Codec {
  private readonly codec: true
}
