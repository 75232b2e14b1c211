import type { BlockDevice } from '../devices/block-device.js';
import type { Clock } from '../runtime/clock.js';
import type { ControlAddress } from '../servers/control-address.js';
import type { CutRequest, CutTicket, ReleaseAnswer, ServerStatus } from '../servers/control.js';
import type { CutConfirmationBody } from './control-schema.js';

/**
 * What a coordinator asks of servers in another process, whatever carries the calls: each call of `ServerControl`, with
 * the server's ID, and of `CutSource`, with the lease under which the source is kept there.
 *
 * What `ServerControl` and `CutSource` say of errors holds here; besides, UNKNOWN_DEVICE for a server that is not there,
 * UNKNOWN_SNAPSHOT for a lease that has ended, and whatever carrying the call throws.
 */
export interface CutCalls {
  status(server: string): Promise<ServerStatus>;
  cut(server: string, request: CutRequest): Promise<CutConfirmationBody>;
  renew(server: string, ticket: CutTicket, leaseMs: number): Promise<void>;
  release(server: string, ticket: CutTicket): Promise<ReleaseAnswer>;
  stopTracking(server: string, epoch: number): Promise<void>;
  renewTracking(lease: string): Promise<void>;
  /** Succeeds only if everything read from the source so far is as of the cut; renews its lease. */
  assertIntact(lease: string): Promise<void>;
  /** Tells which blocks need no pre-images any more, as first block and number of blocks; renews the lease. */
  markCopied(lease: string, ranges: readonly [first: number, count: number][]): Promise<void>;
  closeSource(lease: string): Promise<void>;
}

/** Another process, as a coordinator reaches it. */
export interface RemoteProcess {
  readonly address: ControlAddress;
  readonly clock: Clock;
  readonly calls: CutCalls;
  /** Opens an export of a snapshot. Its connection may break; no snapshot comes back with another run of its server. */
  openSnapshot(uri: string): Promise<BlockDevice>;
}
