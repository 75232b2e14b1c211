import type { NativePath, NativeSource } from '../devices/block-device.js';

/** Why requests go through JavaScript, one bit each. */
export const Shut = {
  /** The barrier is up, or what it parked is being let go. */
  Barrier: 1 << 0,
  /** JavaScript has to see every change: a tracker notes it, or a snapshot that native threads know nothing of preserves it. */
  Watched: 1 << 1,
  /** The server has no power, or is closed. */
  Down: 1 << 2,
  /** The client's view of the device is closed. */
  Closed: 1 << 3,
} as const;

/** The words of a lane; `native/src/nbd/connection.rs` has the same. */
const Word = { changesShut: 0, changesInside: 1, readsShut: 2, readsInside: 3, count: 4 } as const;

/**
 * How native threads take requests past JavaScript, and how JavaScript keeps them out (`native/src/gate.rs` is the other
 * side). A lane is the way of one view of the device; it has two words per kind of request, one that says that it is
 * shut, one that counts who is inside.
 *
 * Invariants:
 * 1. A native request touches the device only while it is counted, and only if it saw its way open after it was counted.
 *    One that sees it shut is handed over to JavaScript, and is counted no more.
 * 2. JavaScript shuts a way first and looks at the count after that. So once it has seen nobody inside a way that is
 *    shut, nobody touches the device that way until it is opened; who is counted for a moment after that turns back.
 * 3. Whoever leaves a way as the last one and finds it shut tells so, after leaving. So who waits for the count is woken.
 *
 * The steps of a native change, and what breaks when two of them change places (`proof/copier/tests/gate.rs`):
 *
 * 1. Be counted. 2. Look. Else a change reaches the device under a barrier: `wrong_with_a_look_before_the_count`.
 * 3. Copy-before-write for every live snapshot (`native/src/pre_images.rs`). 4. Change the device.
 * 5. Be counted no more. 6. Look, and wake. Else who waits sleeps for ever: `wrong_with_a_look_before_leaving`.
 *
 * The steps of a cut:
 *
 * 1. Shut the gate. 2. See nobody inside. Else `wrong_with_a_count_before_the_bit`.
 * 3. Fix the contents; a snapshot that native threads preserve themselves is what they look at from now on. Else "native
 *    threads learn of a snapshot before the gate is opened" in `test/servers/native-gate.test.ts`.
 * 4. Shut the gate for those who watch. 5. Begin what was parked. 6. Open it to all but them. With 4 after 5: "shut to native changes from the barrier on for as long as it is watched"; with 5 after 6: "opened only after
 *    what was parked was let go", both in `test/servers/native-gate.test.ts`.
 *
 * The steps of a power cut:
 *
 * 1. Shut the gate. 2. See nobody inside. 3. Cut the connections (`NativeConnection.cut`). 4. Open the gate. A request looks
 *    at 3 after it was let in, so none that was sent before reaches the device after 4; else "what was sent before a
 *    power cut does not reach the device after it" in `test/nbd/native-path.test.ts`.
 */
export class NativeGate {
  readonly #lanes = new Set<NativeLane>();
  readonly #waiters: (() => void)[] = [];
  #changesShut = 0;
  #readsShut = 0;

  /** Another way through, for native requests on this source. */
  addLane(source: NativeSource): NativeLane {
    const lane = new NativeLane(source, this.#changesShut, this.#readsShut, () => this.wake());
    this.#lanes.add(lane);
    return lane;
  }

  /** Shuts a lane for good; resolves when nobody is inside any more. */
  async closeLane(lane: NativeLane): Promise<void> {
    lane.shutChanges(Shut.Closed);
    lane.shutReads(Shut.Closed);
    await lane.idle(() => this.left());
    this.#lanes.delete(lane);
  }

  /** How many native changes are past JavaScript. Exact only while the gate is shut to them. */
  get changesInside(): number {
    let sum = 0;
    for (const lane of this.#lanes) sum += lane.changesInside;
    return sum;
  }

  /** @param reason a bit of {@link Shut}. */
  shutChanges(reason: number): void {
    this.#changesShut |= reason;
    for (const lane of this.#lanes) lane.shutChanges(reason);
  }

  openChanges(reason: number): void {
    this.#changesShut &= ~reason;
    for (const lane of this.#lanes) lane.openChanges(reason);
  }

  shutReads(reason: number): void {
    this.#readsShut |= reason;
    for (const lane of this.#lanes) lane.shutReads(reason);
  }

  openReads(reason: number): void {
    this.#readsShut &= ~reason;
    for (const lane of this.#lanes) lane.openReads(reason);
  }

  /** Resolves when a last one has left a way that is shut, or at the next {@link wake}. */
  left(): Promise<void> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** Resolves when nobody is inside. The gate is shut to both. */
  async idle(): Promise<void> {
    for (const lane of this.#lanes) await lane.idle(() => this.left());
  }

  /** Whoever waits is to look again. */
  wake(): void {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }
}

/** The way of one view of a device through the gate of its server. */
export class NativeLane implements NativePath {
  readonly fd: number;
  readonly watch: NativePath['watch'];
  readonly gate = new Int32Array(new SharedArrayBuffer(Word.count * Int32Array.BYTES_PER_ELEMENT));
  readonly left: () => void;

  constructor(source: NativeSource, changesShut: number, readsShut: number, left: () => void) {
    this.fd = source.fd;
    this.watch = source.watch;
    this.left = left;
    this.shutChanges(changesShut);
    this.shutReads(readsShut);
  }

  get changesInside(): number {
    return Atomics.load(this.gate, Word.changesInside);
  }

  shutChanges(reason: number): void {
    Atomics.or(this.gate, Word.changesShut, reason);
  }

  openChanges(reason: number): void {
    Atomics.and(this.gate, Word.changesShut, ~reason);
  }

  shutReads(reason: number): void {
    Atomics.or(this.gate, Word.readsShut, reason);
  }

  openReads(reason: number): void {
    Atomics.and(this.gate, Word.readsShut, ~reason);
  }

  async idle(left: () => Promise<void>): Promise<void> {
    while (this.changesInside > 0) await left();
    while (Atomics.load(this.gate, Word.readsInside) > 0) await left();
  }
}
