import { CofferdamError } from '../runtime/errors.js';
import type { CutRequest, CutTicket, ReleaseAnswer, ServerStatus } from '../servers/control.js';
import type { ControlClient } from './control-client.js';
import { cutConfirmation, releaseAnswer, type CutConfirmationBody } from './control-schema.js';
import type { CutCalls } from './cut-calls.js';

/** A cut may wait for its lease, and the answer needs some time too. */
const MARGIN_MS = 5000;

/** The calls of a coordinator, over the control API. */
export class HttpCutCalls implements CutCalls {
  readonly #client: ControlClient;

  constructor(client: ControlClient) {
    this.#client = client;
  }

  async status(server: string): Promise<ServerStatus> {
    const { servers } = await this.#client.status();
    const found = servers.find(({ id }) => id === server);
    if (found) return found;
    throw new CofferdamError('UNKNOWN_DEVICE', `server ${server} is not served there any more`, {
      device: server,
    });
  }

  cut(server: string, request: CutRequest): Promise<CutConfirmationBody> {
    return this.#client.get(cutConfirmation, {
      method: 'POST',
      path: pathOf(server, 'cut'),
      body: request,
      patienceMs: request.leaseMs + MARGIN_MS,
    });
  }

  async renew(server: string, ticket: CutTicket, leaseMs: number): Promise<void> {
    await this.#client.send({ method: 'POST', path: pathOf(server, 'renew'), body: { ...ticket, leaseMs } });
  }

  async release(server: string, ticket: CutTicket): Promise<ReleaseAnswer> {
    const what = { method: 'POST', path: pathOf(server, 'release'), body: ticket } as const;
    const { reason, ...answer } = await this.#client.get(releaseAnswer, what);
    return reason === undefined ? answer : { ...answer, reason };
  }

  async stopTracking(server: string, epoch: number): Promise<void> {
    await this.#client.send({ method: 'DELETE', path: pathOf(server, `tracking/${epoch}`) });
  }

  async renewTracking(lease: string): Promise<void> {
    await this.#client.send({ method: 'POST', path: `/v1/tracking/${lease}/renew` });
  }

  async assertIntact(lease: string): Promise<void> {
    await this.#client.send({ method: 'GET', path: `/v1/sources/${lease}` });
  }

  async markCopied(lease: string, ranges: readonly [first: number, count: number][]): Promise<void> {
    await this.#client.send({ method: 'POST', path: `/v1/sources/${lease}/copied`, body: { ranges } });
  }

  async closeSource(lease: string): Promise<void> {
    await this.#client.send({ method: 'DELETE', path: `/v1/sources/${lease}` });
  }
}

function pathOf(server: string, call: string): string {
  return `/v1/servers/${encodeURIComponent(server)}/${call}`;
}
