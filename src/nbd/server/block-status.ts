import type { BlockDevice } from '../../devices/block-device.js';
import { GiB } from '../../runtime/sizes.js';
import type { MetaContext, StatusExtent } from './exports.js';
import { AllocationFlag, BASE_ALLOCATION, CommandFlag } from '../protocol.js';
import { statusChunk } from './reply.js';
import { has, type Request } from './request.js';

/** A longer range is answered in part, and the client asks for the rest: it may have any number of extents. */
const RANGE_BYTES = GiB;

/** The most extents in one reply for one context: 512 KiB of them. */
const MAX_EXTENTS = 65_536;

/** What an extent takes in a reply. */
const EXTENT_BYTES = 8;

/** The context that every export has: where there is data and where holes, which read as zeros. */
export function baseAllocation(device: BlockDevice): MetaContext {
  return {
    name: BASE_ALLOCATION,
    async describe(offsetBytes, lengthBytes) {
      const extents = await device.allocation(offsetBytes, lengthBytes);
      return extents.map((extent) => ({
        lengthBytes: extent.lengthBytes,
        flags: extent.kind === 'zero' ? AllocationFlag.Hole | AllocationFlag.Zero : 0,
      }));
    },
  };
}

/** The reply to a BLOCK_STATUS: a chunk for each context that was selected. */
export async function blockStatus(
  request: Request,
  contexts: ReadonlyMap<number, MetaContext>,
): Promise<Buffer[]> {
  const lengthBytes = Math.min(request.lengthBytes, RANGE_BYTES);
  const most = mostExtents(request);
  const chunks: Buffer[] = [];
  for (const [id, context] of contexts) {
    const extents = clipped(await context.describe(request.offsetBytes, lengthBytes), lengthBytes, most);
    chunks.push(statusChunk(request, id, extents, chunks.length === contexts.size - 1));
  }
  return chunks;
}

/** The most that the reply to a BLOCK_STATUS may have to hold for each context, in bytes. */
export function mostStatusBytes(request: Request): number {
  return EXTENT_BYTES * mostExtents(request);
}

/** No extent is empty, so there are no more of them than bytes. */
function mostExtents(request: Request): number {
  return has(request, CommandFlag.ReqOne) ? 1 : Math.min(MAX_EXTENTS, request.lengthBytes);
}

/** The first extents, and none of them beyond the range: with REQ_ONE that is a rule, and otherwise it does no harm. */
function clipped(extents: readonly StatusExtent[], lengthBytes: number, most: number): StatusExtent[] {
  const result: StatusExtent[] = [];
  let leftBytes = lengthBytes;
  for (const extent of extents) {
    const part = Math.min(extent.lengthBytes, leftBytes);
    const last = result.at(-1);
    if (last?.flags === extent.flags) last.lengthBytes += part;
    else if (result.length === most) break;
    else result.push({ lengthBytes: part, flags: extent.flags });
    leftBytes -= part;
    if (leftBytes === 0) break;
  }
  return result;
}
