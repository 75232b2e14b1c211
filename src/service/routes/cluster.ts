import { z } from 'zod';
import { freshSeed } from '../../runtime/random.js';
import type { FaultRule } from '../../devices/fault-rule.js';
import { failures, type ControlContext, type ControlServer } from '../control-context.js';
import {
  clusterStatus,
  faultRequest,
  faultStatus,
  powerCutAnswer,
  powerCutRequest,
  type ClusterStatusBody,
} from '../control-schema.js';

/** Status, faults and power cuts. */
export function addClusterRoutes(routes: ControlServer, context: ControlContext): void {
  const { service, faults } = context;
  routes.get(
    '/v1/status',
    { schema: { summary: 'What is served, and its state', response: { 200: clusterStatus, ...failures } } },
    () => statusOf(context),
  );
  routes.post(
    '/v1/power-cut',
    {
      schema: {
        summary: 'Cut the power of servers at one instant; answered when it is back',
        body: powerCutRequest,
        response: { 200: powerCutAnswer, ...failures },
      },
    },
    async ({ body }) => {
      const seed = body.seed ?? freshSeed();
      await service.powerCut(body.servers ?? service.cluster.servers.map(({ id }) => id), { seed });
      return { seed };
    },
  );
  routes.get(
    '/v1/faults',
    { schema: { summary: 'Injected faults', response: { 200: z.array(faultStatus), ...failures } } },
    () => faults.list(),
  );
  routes.post(
    '/v1/faults',
    {
      schema: { summary: 'Inject a fault', body: faultRequest, response: { 201: faultStatus, ...failures } },
    },
    async ({ body: { server, ...rule } }, reply) =>
      reply.status(201).send(faults.inject(server, rule as FaultRule)),
  );
  routes.delete(
    '/v1/faults/:fault',
    {
      schema: {
        summary: 'Take a fault away; what hangs on it goes on',
        params: z.object({ fault: z.coerce.number().int() }),
        response: { 200: faultStatus, ...failures },
      },
    },
    ({ params }) => faults.release(params.fault),
  );
}

async function statusOf({ service, snapshots, jobs }: ControlContext): Promise<ClusterStatusBody> {
  const servers = service.cluster.servers.map(async (server) => ({
    ...(await server.status()),
    sizeBytes: server.sizeBytes,
    identities: [...server.identities],
    uri: service.uriOf(server.id),
  }));
  return {
    servers: await Promise.all(servers),
    exports: [...service.exports],
    snapshots: await snapshots.list(),
    backups: jobs.list(),
  };
}
