import { formatNbdUri, parseNbdUri } from '../nbd/uri.js';
import type {
  CutConfirmation,
  CutRequest,
  CutTicket,
  ReleaseAnswer,
  ServerControl,
  ServerStatus,
} from '../servers/control.js';
import { CofferdamError } from '../runtime/errors.js';
import type { ControlClient } from './control-client.js';
import { clusterStatus, cutConfirmation, releaseAnswer, type ServerStatusBody } from './control-schema.js';
import { LEASE_MS } from './leases.js';
import { RemoteSource } from './remote-source.js';

/** A cut may wait for its lease, and the answer needs some time too. */
const MARGIN_MS = 5000;

/** A storage server of another process. */
export class RemoteServer implements ServerControl {
  readonly id: string;
  readonly sizeBytes: number;
  readonly identities: readonly string[];
  readonly #client: ControlClient;
  /** Folder with the certificates of a client, where exports are served with TLS. */
  readonly #tlsCertificates: string | undefined;
  /** What renews the tracking of changes since each epoch. */
  readonly #renewals = new Map<number, Disposable>();
  /** Epochs since which nobody wants changes any more, though the answer to their cut may still be under way. */
  readonly #stopped = new Set<number>();

  constructor(client: ControlClient, status: ServerStatusBody, tlsCertificates?: string) {
    this.#client = client;
    this.#tlsCertificates = tlsCertificates;
    this.id = status.id;
    this.sizeBytes = status.sizeBytes;
    // On another machine the same numbers mean other files.
    this.identities = client.address.kind === 'unix' ? status.identities : [];
  }

  async status(): Promise<ServerStatus> {
    const { servers } = await this.#client.get(clusterStatus, { method: 'GET', path: '/v1/status' });
    const found = servers.find(({ id }) => id === this.id);
    if (found) return found;
    throw new CofferdamError('UNKNOWN_DEVICE', `server ${this.id} is not served there any more`, {
      device: this.id,
    });
  }

  async cut(request: CutRequest): Promise<CutConfirmation> {
    const { epoch, source, tracking } = await this.#client.get(cutConfirmation, {
      method: 'POST',
      path: this.#path('cut'),
      body: request,
      patienceMs: request.leaseMs + MARGIN_MS,
    });
    if (request.changedSinceEpoch !== undefined) this.#stopRenewing(request.changedSinceEpoch);
    if (tracking !== null && !this.#stopped.has(epoch)) this.#renewTracking(epoch, tracking);
    return {
      epoch,
      source: new RemoteSource({
        client: this.#client,
        serverId: this.id,
        lease: source.lease,
        uri: this.#reachable(source.uri),
        selected: source.selected === null ? undefined : decodeWords(source.selected),
        sizeBytes: this.sizeBytes,
        blockSizeBytes: request.blockSizeBytes,
      }),
    };
  }

  async renew(ticket: CutTicket, leaseMs: number): Promise<void> {
    await this.#client.send({ method: 'POST', path: this.#path('renew'), body: { ...ticket, leaseMs } });
  }

  async release(ticket: CutTicket): Promise<ReleaseAnswer> {
    const { reason, ...answer } = await this.#client.get(releaseAnswer, {
      method: 'POST',
      path: this.#path('release'),
      body: ticket,
    });
    return reason === undefined ? answer : { ...answer, reason };
  }

  async stopTracking(epoch: number): Promise<void> {
    this.#stopped.add(epoch);
    this.#stopRenewing(epoch);
    await this.#client.send({ method: 'DELETE', path: this.#path(`tracking/${epoch}`) });
  }

  #path(call: string): string {
    return `/v1/servers/${encodeURIComponent(this.id)}/${call}`;
  }

  /** The server names itself as it is called on its own machine. */
  #reachable(uri: string): string {
    const parsed = parseNbdUri(uri);
    const { address } = this.#client;
    if (parsed.address.kind === 'tcp' && parsed.address.host === 'localhost' && address.kind === 'http') {
      parsed.address.host = address.host;
    }
    return formatNbdUri({ ...parsed, tlsCertificates: parsed.tls ? this.#tlsCertificates : undefined });
  }

  #renewTracking(epoch: number, lease: string): void {
    const renewal = this.#client.clock.setTimer(LEASE_MS / 3, () => {
      // Should it fail, the cut that collects the changes is told that they are not known.
      void this.#client.send({ method: 'POST', path: `/v1/tracking/${lease}/renew` }).catch(() => {});
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
