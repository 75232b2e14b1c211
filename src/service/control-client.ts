import { Agent, request } from 'undici';
import type { z } from 'zod';
import type { BackupResult } from '../backup/backup.js';
import { cancellation } from '../backup/cancellation.js';
import type { ProgressListener } from '../backup/progress.js';
import type { BlockDevice } from '../devices/block-device.js';
import { NbdDevice } from '../nbd/client/device.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError, errnoOf, invariant, messageOf } from '../runtime/errors.js';
import { inWords, issueInWords } from '../runtime/issue-wording.js';
import { formatControlAddress, type ControlAddress } from '../servers/control-address.js';
import {
  clusterStatus,
  errorBody,
  jobStatus,
  type BackupRequestBody,
  type ClusterStatusBody,
  type JobStatusBody,
} from './control-schema.js';
import type { CutCalls, RemoteProcess } from './cut-calls.js';
import { errorOfBody } from './error-body.js';
import { HttpCutCalls } from './http-cut-calls.js';

/** How long an answer may take that needs no work, in ms. */
const PATIENCE_MS = 10_000;

/** A snapshot is gone with the run of its server, so waiting longer for it to come back is in vain. */
const SNAPSHOT_RECONNECT_MS = 2000;

export interface ControlClientOptions {
  address: ControlAddress;
  token?: string | undefined;
  clock?: Clock | undefined;
}

export interface ControlRequest {
  method: 'GET' | 'POST' | 'DELETE';
  path: string;
  body?: object;
  /** How long to wait for the answer, in ms. Default 10 s. */
  patienceMs?: number;
}

/** The other end of {@link ControlApi}: the control plane of one serving process. */
export class ControlClient implements RemoteProcess, AsyncDisposable {
  readonly address: ControlAddress;
  readonly clock: Clock;
  readonly calls: CutCalls = new HttpCutCalls(this);
  readonly #agent: Agent;
  readonly #origin: string;
  readonly #headers: Record<string, string>;

  constructor({ address, token, clock = realClock }: ControlClientOptions) {
    this.address = address;
    this.clock = clock;
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    this.#origin = address.kind === 'unix' ? 'http://localhost' : formatControlAddress(address);
    this.#agent = new Agent({
      // How long to wait is decided request by request; a stream of events may be silent for long.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: address.kind === 'unix' ? { socketPath: address.path } : {},
    });
  }

  openSnapshot(uri: string): Promise<BlockDevice> {
    return NbdDevice.open(uri, { clock: this.clock, reconnectMs: SNAPSHOT_RECONNECT_MS });
  }

  status(): Promise<ClusterStatusBody> {
    return this.get(clusterStatus, { method: 'GET', path: '/v1/status' });
  }

  /**
   * Backs up devices of the process, in the process.
   *
   * @throws CofferdamError what the backup throws there; CANCELLED; CONNECTION_LOST if the process went away, when
   * nobody knows how the backup ended.
   */
  async backup(
    options: BackupRequestBody,
    { signal, onProgress }: { signal: AbortSignal; onProgress?: ProgressListener | undefined },
  ): Promise<BackupResult> {
    const started = await this.get(jobStatus, { method: 'POST', path: '/v1/backups', body: options });
    const path = `/v1/backups/${started.job}`;
    const advice = `cofferdam list ${options.to} tells whether the backup was made`;
    const cancel = (): void => void this.send({ method: 'DELETE', path }).catch(() => {});
    signal.addEventListener('abort', cancel, { once: true });
    if (signal.aborted) cancel();
    try {
      for await (const status of this.#events(`${path}/events`, advice)) {
        onProgress?.(status.devices);
        if (status.state === 'failed') throw this.#failureOf(status, signal);
        // Made by the same program on the other side.
        if (status.result) return status.result as unknown as BackupResult;
      }
    } finally {
      signal.removeEventListener('abort', cancel);
    }
    throw this.#lost('the connection ended before the backup did', advice);
  }

  /** @throws CofferdamError what the other side answers; CONNECTION_FAILED, CONNECTION_LOST, PROTOCOL_ERROR */
  async get<T>(schema: z.ZodType<T>, what: ControlRequest): Promise<T> {
    const answer = await this.#exchange(what);
    const parsed = schema.safeParse(answer, { error: inWords });
    if (parsed.success) return parsed.data;
    const { method, path } = what;
    const faults = parsed.error.issues.map(issueInWords).join('; ');
    throw new CofferdamError('PROTOCOL_ERROR', `${this.#name}: the answer to ${method} ${path}: ${faults}`);
  }

  /** For what has no answer but that it was done. */
  async send(what: ControlRequest): Promise<void> {
    await this.#exchange(what);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #exchange({ method, path, body, patienceMs = PATIENCE_MS }: ControlRequest): Promise<unknown> {
    const late = new AbortController();
    using _ = this.clock.setTimer(patienceMs, () =>
      late.abort(new Error(`no answer within ${patienceMs} ms`)),
    );
    let statusCode: number;
    let text: string;
    try {
      const response = await request(this.#origin + path, {
        dispatcher: this.#agent,
        method,
        headers: { ...this.#headers, ...(body ? { 'content-type': 'application/json' } : {}) },
        ...(body ? { body: JSON.stringify(body) } : {}),
        signal: late.signal,
      });
      ({ statusCode } = response);
      text = await response.body.text();
    } catch (error) {
      throw this.#unreachable(late.signal.aborted ? late.signal.reason : error);
    }
    const answer = parseJson(text);
    if (statusCode < 300) return answer;
    const failure = errorBody.safeParse(answer);
    if (failure.success) throw errorOfBody(failure.data);
    throw new CofferdamError(
      'PROTOCOL_ERROR',
      `${this.#name}: ${method} ${path} was answered with ${statusCode}`,
    );
  }

  async *#events(path: string, advice: string): AsyncGenerator<JobStatusBody> {
    try {
      const { body, statusCode } = await request(this.#origin + path, {
        dispatcher: this.#agent,
        method: 'GET',
        headers: this.#headers,
      });
      if (statusCode !== 200) throw new Error(`answered with ${statusCode}`);
      let text = '';
      body.setEncoding('utf8');
      for await (const piece of body) {
        text += String(piece);
        const events = text.split('\n\n');
        text = events.pop() ?? '';
        for (const event of events) yield statusOf(event);
      }
    } catch (error) {
      throw error instanceof CofferdamError ? error : this.#unreachable(error, advice);
    }
  }

  #failureOf({ error }: JobStatusBody, signal: AbortSignal): CofferdamError {
    invariant(error !== null, 'a job that failed says why');
    return signal.aborted ? cancellation(signal) : errorOfBody(error);
  }

  #unreachable(error: unknown, advice?: string): CofferdamError {
    const errno = errnoOf(error) ?? '';
    if (['ECONNREFUSED', 'ENOENT', 'EACCES', 'ENOTFOUND', 'EHOSTUNREACH'].includes(errno)) {
      return new CofferdamError(
        'CONNECTION_FAILED',
        `${this.#name}: cannot be reached (${messageOf(error)}); is cofferdam serve running there?`,
        { cause: error },
      );
    }
    return this.#lost(messageOf(error), advice);
  }

  #lost(why: string, advice = 'see whether cofferdam serve still runs there'): CofferdamError {
    return new CofferdamError(
      'CONNECTION_LOST',
      `${this.#name}: ${why}; what was asked for may have been done or not: ${advice}`,
    );
  }

  get #name(): string {
    return formatControlAddress(this.address);
  }
}

function parseJson(text: string): unknown {
  if (text === '') return null;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The status in a server-sent event. */
function statusOf(event: string): JobStatusBody {
  const data = event
    .split('\n')
    .filter((line) => line.startsWith('data: '))
    .map((line) => line.slice('data: '.length));
  return jobStatus.parse(JSON.parse(data.join('\n')));
}
