import { timingSafeEqual } from 'node:crypto';
import { chmod } from 'node:fs/promises';
import swagger from '@fastify/swagger';
import fastify, { type FastifyInstance } from 'fastify';
import { jsonSchemaTransform } from 'fastify-type-provider-zod';
import { folderFault } from '../devices/folder.js';
import { removeDeadSocket } from '../nbd/server/listen.js';
import { realClock, type Clock } from '../runtime/clock.js';
import { CofferdamError } from '../runtime/errors.js';
import { formatControlAddress, type ControlAddress } from '../servers/control-address.js';
import { BackupJobs } from './backup-jobs.js';
import { refuseBodyOfNoUse, withZod, type ControlContext } from './control-context.js';
import { bodyOfError, httpStatusOf } from './error-body.js';
import { FaultTable } from './fault-table.js';
import { RemoteCuts } from './remote-cuts.js';
import { addBackupRoutes } from './routes/backups.js';
import { addClusterRoutes } from './routes/cluster.js';
import { addCutRoutes } from './routes/cuts.js';
import { addSnapshotRoutes } from './routes/snapshots.js';
import { addSourceRoutes } from './routes/sources.js';
import type { ClusterService } from './service.js';
import { Snapshots } from './snapshots.js';

export interface ControlApiOptions {
  service: ClusterService;
  listen: ControlAddress;
  /** Needed on TCP: who does not send it as a bearer token is refused. */
  token?: string | undefined;
  clock?: Clock | undefined;
}

/** Longer requests are refused. The longest has the blocks that were copied. */
const BODY_BYTES = 1024 * 1024;

/**
 * The control plane of one process: HTTP and JSON on a Unix socket, which only its owner may open, or on TCP with a token.
 * `GET /openapi.json` describes it.
 */
export class ControlApi implements AsyncDisposable {
  readonly address: ControlAddress;
  readonly #server: FastifyInstance;
  readonly #context: ControlContext;

  private constructor(address: ControlAddress, server: FastifyInstance, context: ControlContext) {
    this.address = address;
    this.#server = server;
    this.#context = context;
  }

  /** @throws CofferdamError BAD_CONFIG without a token on TCP; DEVICE_NOT_FOUND for a socket whose folder is not there; DEVICE_BUSY if someone else listens there; BAD_ARGUMENT. */
  static async listen({ service, listen, token, clock = realClock }: ControlApiOptions): Promise<ControlApi> {
    if (listen.kind === 'http' && token === undefined) {
      throw new CofferdamError(
        'BAD_CONFIG',
        `${formatControlAddress(listen)}: on TCP the control API needs a token`,
      );
    }
    const context: ControlContext = {
      service,
      cuts: new RemoteCuts(service, clock),
      snapshots: new Snapshots(service, clock),
      jobs: new BackupJobs(service, clock),
      faults: new FaultTable(service.cluster),
    };
    const server = await createServer(context, token);
    const address = await listenAt(server, listen);
    return new ControlApi(address, server, context);
  }

  get uri(): string {
    return formatControlAddress(this.address);
  }

  /** Takes faults away, cancels what runs, gives up all snapshots and cuts, and listens no more. The service stays open. */
  async close(): Promise<void> {
    const { jobs, snapshots, cuts, faults } = this.#context;
    faults.releaseAll();
    await jobs.close();
    await Promise.all([snapshots.close(), cuts.close()]);
    await this.#server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function createServer(context: ControlContext, token: string | undefined): Promise<FastifyInstance> {
  const server = fastify({
    bodyLimit: BODY_BYTES,
    // Streams of events last for as long as a backup; they must not hold up the end of the service.
    forceCloseConnections: true,
  });
  await server.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'cofferdam control API', version: '1' },
      ...(token === undefined
        ? {}
        : {
            components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
            security: [{ token: [] }],
          }),
    },
    transform: jsonSchemaTransform,
  });
  if (token !== undefined) requireToken(server, token);
  acceptEmptyJson(server);
  server.addHook('preValidation', refuseBodyOfNoUse);
  server.setErrorHandler(async (error, _request, reply) => {
    const failure = failureOf(error);
    await reply.status(httpStatusOf(failure.code)).send(bodyOfError(failure));
  });
  server.setNotFoundHandler(async ({ method, url }, reply) => {
    const failure = new CofferdamError(
      'CONTROL_FAILED',
      `there is no ${method} ${url}; GET /openapi.json tells what there is`,
    );
    await reply.status(404).send(bodyOfError(failure));
  });
  const typed = withZod(server);
  await typed.register(async (scope) => {
    const routes = withZod(scope);
    addClusterRoutes(routes, context);
    addCutRoutes(routes, context);
    addSourceRoutes(routes, context);
    addSnapshotRoutes(routes, context);
    addBackupRoutes(routes, context);
    routes.get('/openapi.json', { schema: { hide: true } }, () => server.swagger());
  });
  return server;
}

function requireToken(server: FastifyInstance, token: string): void {
  const expected = Buffer.from(`Bearer ${token}`);
  server.addHook('onRequest', async (request) => {
    const given = Buffer.from(request.headers.authorization ?? '');
    if (given.length === expected.length && timingSafeEqual(given, expected)) return;
    throw new CofferdamError(
      'FORBIDDEN',
      'the token is missing or wrong: commands take it from the cluster file or from COFFERDAM_TOKEN, others send it as "Authorization: Bearer TOKEN"',
    );
  });
}

function failureOf(error: unknown): CofferdamError {
  if (error instanceof CofferdamError) return error;
  const isClients =
    error instanceof Error &&
    'statusCode' in error &&
    Number(error.statusCode) >= 400 &&
    Number(error.statusCode) < 500;
  return isClients
    ? new CofferdamError('BAD_ARGUMENT', error.message)
    : new CofferdamError('CONTROL_FAILED', 'internal error', { cause: error });
}

async function listenAt(server: FastifyInstance, address: ControlAddress): Promise<ControlAddress> {
  try {
    if (address.kind === 'unix') {
      const fault = folderFault(address.path);
      if (fault) throw fault;
      await removeDeadSocket(address.path);
      await server.listen({ path: address.path });
      await chmod(address.path, 0o600);
      return address;
    }
    await server.listen({ host: address.host, port: address.port });
    const [bound] = server.addresses();
    return typeof bound === 'object' ? { ...address, port: bound.port } : address;
  } catch (error) {
    await server.close();
    if (error instanceof CofferdamError) throw error;
    const where = formatControlAddress(address);
    const why = error instanceof Error ? error.message : String(error);
    throw new CofferdamError('DEVICE_BUSY', `${where}: the control API cannot listen there: ${why}`, {
      cause: error,
    });
  }
}

/** Many clients say that all they send is JSON, also where they send nothing. */
function acceptEmptyJson(server: FastifyInstance): void {
  const parse = server.getDefaultJsonParser('error', 'error');
  server.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null);
    else void parse(request, body, done);
  });
}
