/**
 * A map that mostly holds one entry at a time, and costs nothing then. A run asks for one operation after the other; a thousand at
 * once, in branches, are rarer.
 *
 * V8 gives a Map or a Set that was emptied a new table, and the old one names the new one. Once one of them is among the old
 * objects, it keeps all later tables, and what was in them when they were cleared, from being collected cheaply: a chain that costs
 * as much time as all else that a step does.
 */
export class Few<K extends string | object, V> {
  private key: K | null = null
  private value: V | null = null
  /** All of them, if there are or were several. */
  private several: Map<K, V> | null = null

  get size(): number {
    return this.several === null ? (this.key === null ? 0 : 1) : this.several.size
  }

  get(key: K): V | undefined {
    if (this.several !== null) {
      return this.several.get(key)
    }
    return this.key === key ? this.value as V : undefined
  }

  set(key: K, value: V): void {
    if (this.several !== null) {
      this.several.set(key, value)
    } else if (this.key === null || this.key === key) {
      this.key = key
      this.value = value
    } else {
      this.several = new Map([[this.key, this.value as V], [key, value]])
      this.key = null
      this.value = null
    }
  }

  delete(key: K): void {
    if (this.several !== null) {
      this.several.delete(key)
      if (this.several.size === 0) {
        this.several = null
      }
    } else if (this.key === key) {
      this.key = null
      this.value = null
    }
  }

  /** In the order in which they came. */
  values(): Array<V> {
    if (this.several !== null) {
      return [...this.several.values()]
    }
    return this.key === null ? [] : [this.value as V]
  }

  /** What is there, which is not there any more. */
  takeAll(): Array<V> {
    const all = this.values()
    this.several = null
    this.key = null
    this.value = null
    return all
  }
}
