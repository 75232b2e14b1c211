import { BlockState, hashLengthBytes, type CopyJob } from '../core/core.js';
import { CofferdamError, invariant, isCofferdamError, messageOf } from '../runtime/errors.js';
import { forEachParallel } from '../runtime/parallel.js';
import { MiB } from '../runtime/sizes.js';
import type { CutSource } from '../servers/control.js';
import { throwIfCancelled } from './cancellation.js';
import type { CopyContext, DeviceCopy } from './copy-context.js';
import { newLeafBlocks, type LeafBlocks } from './image/block-map.js';
import { LEAF_BLOCKS } from './image/map-shape.js';

/** The most that passes through a sink without a descriptor at a time. */
const BUFFER_BYTES = 4 * MiB;

/** The most that is read through a device in one piece, and how many pieces of a leaf are under way at once. */
const PIECE_BYTES = MiB;
const PIECES_AT_ONCE = 4;

/**
 * The copy of the blocks under one leaf of the block map. The core reads a native source directly and reports the blocks
 * that copy-before-write preserved; those, and all blocks of a source without a descriptor, are read through the
 * source's device.
 */
export class LeafCopy {
  readonly #device: DeviceCopy;
  readonly #context: CopyContext;
  readonly #source: CutSource;
  readonly #firstBlock: number;
  readonly #blocks: LeafBlocks;

  constructor(device: DeviceCopy, leafIndex: number) {
    this.#device = device;
    this.#context = device.context;
    this.#source = device.source;
    this.#firstBlock = leafIndex * LEAF_BLOCKS;
    const blockCount = Math.ceil(this.#source.device.sizeBytes / this.#context.blockSizeBytes);
    this.#blocks = newLeafBlocks(
      Math.min(LEAF_BLOCKS, blockCount - this.#firstBlock),
      this.#context.algorithm,
    );
  }

  async copy(): Promise<LeafBlocks> {
    const { native } = this.#source;
    const { states } = this.#blocks;
    const step = this.#blocksAtOnce();
    for (let from = 0; from < states.length; from += step) {
      const to = Math.min(states.length, from + step);
      if (native) {
        await this.#run(from, to, { fd: native.fd });
        // What is newer than the cut on the device is taken from its pre-images.
        await this.#pull(from, to, (i) => states[i] === BlockState.Preserved);
      } else {
        await this.#pull(from, to, (i) => this.#isSelected(i));
      }
    }
    this.#count();
    return this.#blocks;
  }

  /** A whole leaf with a native source and sink; pieces where bytes pass through a buffer or the rate is limited. */
  #blocksAtOnce(): number {
    const { blockSizeBytes, pacer, writer } = this.#context;
    let bytes = Infinity;
    if (!this.#source.native || writer.sinkFd === undefined) bytes = BUFFER_BYTES;
    // A quarter of a second's worth keeps the flow even.
    if (pacer.bytesPerSecond !== undefined) bytes = Math.min(bytes, pacer.bytesPerSecond / 4);
    return Math.max(1, Math.floor(Math.min(bytes, LEAF_BLOCKS * blockSizeBytes) / blockSizeBytes));
  }

  #isSelected(index: number): boolean {
    const { selected } = this.#source;
    if (!selected) return true;
    const block = this.#firstBlock + index;
    return ((selected[Math.floor(block / 32)] ?? 0) & (1 << (block & 31))) !== 0;
  }

  /** Copies those of blocks [from, to) of this leaf that are wanted through the source's device. */
  async #pull(from: number, to: number, isWanted: (index: number) => boolean): Promise<void> {
    const most = Math.max(1, Math.floor(PIECE_BYTES / this.#context.blockSizeBytes));
    // What clients overwrite lies scattered, a block here and there: one after the other would be mostly waiting.
    await forEachParallel([...runs(from, to, most, isWanted)], PIECES_AT_ONCE, async ([start, end]) => {
      throwIfCancelled(this.#device.signal);
      const bytes = await this.#read(start, end);
      // The content as of the cut is in our hands, so its pre-images can go.
      this.#source.markCopied(this.#firstBlock + start, end - start);
      if (bytes) await this.#run(start, end, { bytes });
      else this.#blocks.states.fill(BlockState.Zero, start, end);
    });
  }

  /** The content of blocks [from, to) of this leaf, or undefined where the allocation map says that it is all zeros. */
  async #read(from: number, to: number): Promise<Uint8Array | undefined> {
    const { device, native } = this.#source;
    const { offsetBytes, lengthBytes } = this.#byteRange(from, to);
    try {
      // Where the core has been there are no holes left, only blocks that were overwritten.
      const extents = native ? [] : await device.allocation(offsetBytes, lengthBytes);
      if (!native && extents.every((extent) => extent.kind === 'zero')) {
        await this.#source.assertIntact();
        Atomics.add(this.#device.counters, 0, BigInt(lengthBytes));
        return undefined;
      }
      const bytes = new Uint8Array(new SharedArrayBuffer(lengthBytes));
      await device.read(offsetBytes, bytes);
      return bytes;
    } catch (error) {
      if (isCutLost(error)) throw error;
      // The export of a source that is not as of the cut any more only says that it cannot be read.
      await this.#source.assertIntact().catch((why: unknown) => {
        if (isCutLost(why)) throw why;
      });
      throw new CofferdamError(
        'SOURCE_READ_FAILED',
        `device ${this.#device.id}: reading ${lengthBytes} bytes at ${offsetBytes} failed: ${messageOf(error)}`,
        { device: this.#device.id, offsetBytes, lengthBytes, cause: error },
      );
    }
  }

  /** Runs the core over blocks [from, to) of this leaf. */
  async #run(from: number, to: number, source: CopyJob['source']): Promise<void> {
    const { pool, writer, algorithm, blockSizeBytes } = this.#context;
    const { native, device } = this.#source;
    const direct = 'fd' in source ? native : undefined;
    const hashBytes = hashLengthBytes[algorithm];
    const sink =
      writer.sinkFd === undefined
        ? { bytes: new Uint8Array(new SharedArrayBuffer((to - from) * blockSizeBytes)) }
        : { fd: writer.sinkFd };
    const result = await pool.copy(
      { device: this.#device.id, target: writer.imageName },
      {
        source,
        deviceSizeBytes: device.sizeBytes,
        blockSizeBytes,
        firstBlock: this.#firstBlock + from,
        blockCount: to - from,
        algorithm,
        selected: direct && this.#source.selected,
        preserved: direct?.marks?.preserved,
        copied: direct?.marks?.copied,
        barrier: direct?.barrier,
        sink,
        cursor: writer.cursor,
        capacityBytes: Math.min(writer.capacityBytes, Number.MAX_SAFE_INTEGER),
        cancel: this.#device.cancel,
        progress: this.#device.counters,
        states: this.#blocks.states.subarray(from, to),
        offsets: this.#blocks.offsets.subarray(from, to),
        hashes: this.#blocks.hashes.subarray(from * hashBytes, to * hashBytes),
      },
    );
    if (result.end === 'barrier-lost') await this.#source.assertIntact();
    throwIfCancelled(this.#device.signal);
    invariant(result.end === 'done', `a copy job ended as ${result.end} for no reason that the caller knows`);
    if ('bytes' in sink && result.storedBytes > 0) {
      const base = await writer.appendData(sink.bytes.subarray(0, result.storedBytes));
      for (let i = from; i < to; i++) {
        if (this.#blocks.states[i] === BlockState.Stored)
          this.#blocks.offsets[i] = base + (this.#blocks.offsets[i] ?? 0);
      }
    }
    await this.#device.payForReads();
  }

  #byteRange(from: number, to: number): { offsetBytes: number; lengthBytes: number } {
    const { blockSizeBytes } = this.#context;
    const offsetBytes = (this.#firstBlock + from) * blockSizeBytes;
    const endBytes = Math.min((this.#firstBlock + to) * blockSizeBytes, this.#source.device.sizeBytes);
    return { offsetBytes, lengthBytes: endBytes - offsetBytes };
  }

  #count(): void {
    const { statistics } = this.#context;
    this.#blocks.states.forEach((state, i) => {
      const { lengthBytes } = this.#byteRange(i, i + 1);
      if (state === BlockState.Stored) statistics.storedBytes += lengthBytes;
      if (state === BlockState.Zero) statistics.zeroBytes += lengthBytes;
    });
  }
}

/** Whether the contents are not those of the cut any more. */
function isCutLost(error: unknown): error is CofferdamError {
  return isCofferdamError(error, 'SNAPSHOT_BROKEN') || isCofferdamError(error, 'CUT_VOID');
}

/** The runs [start, end) within [from, to) in which `belongs` holds, each as long as it can be, but for `most`. */
function* runs(
  from: number,
  to: number,
  most: number,
  belongs: (index: number) => boolean,
): Generator<[number, number]> {
  let start = from;
  while (start < to) {
    if (!belongs(start)) {
      start++;
      continue;
    }
    let end = start + 1;
    while (end < to && end - start < most && belongs(end)) end++;
    yield [start, end];
    start = end;
  }
}
