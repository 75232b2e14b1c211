import { formatNbdUri, parseNbdUri } from '../nbd/uri.js';
import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from '../servers/control.js';
import type { ServerStatusBody } from './control-schema.js';
import type { RemoteProcess } from './cut-calls.js';
import { LEASE_MS } from './leases.js';
import { RemoteSource } from './remote-source.js';

/** What has to be known of a server before it is spoken to. */
export type RemoteServerTerms = Pick<ServerStatusBody, 'id' | 'sizeBytes' | 'identities'>;

/** A storage server of another process. */
export class RemoteServer implements ServerControl {
  readonly id: string;
  readonly sizeBytes: number;
  readonly identities: readonly string[];
  readonly #process: RemoteProcess;
  /** Folder with the certificates of a client, where exports are served with TLS. */
  readonly #tlsCertificates: string | undefined;
  /** What renews the tracking of changes since each epoch. */
  readonly #renewals = new Map<number, Disposable>();
  /** Epochs since which nobody wants changes any more, though the answer to their cut may still be under way. */
  readonly #stopped = new Set<number>();

  constructor(process: RemoteProcess, status: RemoteServerTerms, tlsCertificates?: string) {
    this.#process = process;
    this.#tlsCertificates = tlsCertificates;
    this.id = status.id;
    this.sizeBytes = status.sizeBytes;
    // On another machine the same numbers mean other files.
    this.identities = process.address.kind === 'unix' ? status.identities : [];
  }

  status(): Promise<ServerStatus> {
    return this.#process.calls.status(this.id);
  }

  async cut(request: CutRequest): Promise<CutConfirmation> {
    const { epoch, source, tracking } = await this.#process.calls.cut(this.id, request);
    if (request.changedSinceEpoch !== undefined) this.#stopRenewing(request.changedSinceEpoch);
    if (tracking !== null && !this.#stopped.has(epoch)) this.#renewTracking(epoch, tracking);
    return {
      epoch,
      source: new RemoteSource({
        process: this.#process,
        serverId: this.id,
        lease: source.lease,
        uri: this.#reachable(source.uri),
        selected: source.selected === null ? undefined : decodeWords(source.selected),
        sizeBytes: this.sizeBytes,
        blockSizeBytes: request.blockSizeBytes,
      }),
    };
  }

  renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    return this.#process.calls.renew(this.id, ticket, leaseMs);
  }

  release(ticket: CutTicket): Promise<ReleaseAnswer> {
    return this.#process.calls.release(this.id, ticket);
  }

  async stopTracking(epoch: number): Promise<void> {
    this.#stopped.add(epoch);
    this.#stopRenewing(epoch);
    await this.#process.calls.stopTracking(this.id, epoch);
  }

  /** The server names itself as it is called on its own machine. */
  #reachable(uri: string): string {
    const parsed = parseNbdUri(uri);
    const { address } = this.#process;
    if (parsed.address.kind === 'tcp' && parsed.address.host === 'localhost' && address.kind === 'http') {
      parsed.address.host = address.host;
    }
    return formatNbdUri({ ...parsed, tlsCertificates: parsed.tls ? this.#tlsCertificates : undefined });
  }

  #renewTracking(epoch: number, lease: string): void {
    const renewal = this.#process.clock.setTimer(LEASE_MS / 3, () => {
      // Should it fail, the cut that collects the changes is told that they are not known.
      void this.#process.calls.renewTracking(lease).catch(() => {});
      this.#renewTracking(epoch, lease);
    });
    this.#renewals.set(epoch, renewal);
  }

  #stopRenewing(epoch: number): void {
    this.#renewals.get(epoch)?.[Symbol.dispose]();
    this.#renewals.delete(epoch);
  }
}

function decodeWords(base64: string): Int32Array<SharedArrayBuffer> {
  const bytes = Buffer.from(base64, 'base64');
  const words = new Int32Array(new SharedArrayBuffer(bytes.length));
  for (let i = 0; i < words.length; i++) words[i] = bytes.readInt32LE(4 * i);
  return words;
}
