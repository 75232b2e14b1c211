import { z } from 'zod';
import type { CutRequest } from '../../servers/control.js';
import { failures, type ControlContext, type ControlServer } from '../control-context.js';
import { cutConfirmation, cutRequest, releaseAnswer, renewRequest, ticket } from '../control-schema.js';

const ofServer = z.object({ id: z.string() });
const ofLease = z.object({ lease: z.uuid() });
const nothing = { 204: z.null(), ...failures };

/** What a coordinator in another process asks of a server: the calls of ServerControl. */
export function addCutRoutes(routes: ControlServer, { cuts }: ControlContext): void {
  routes.post(
    '/v1/servers/:id/cut',
    {
      schema: {
        summary: 'Raise the barrier, drain, fix the contents and export them',
        params: ofServer,
        body: cutRequest,
        response: { 200: cutConfirmation, ...failures },
      },
    },
    ({ params, body }) => cuts.cut(params.id, body as CutRequest),
  );
  routes.post(
    '/v1/servers/:id/renew',
    { schema: { summary: 'Keep the barrier up', params: ofServer, body: renewRequest, response: nothing } },
    async ({ params, body }, reply) => {
      await cuts.renew(params.id, body, body.leaseMs);
      return reply.status(204).send(null);
    },
  );
  routes.post(
    '/v1/servers/:id/release',
    {
      schema: {
        summary: 'Lower the barrier, and tell whether it was held without a break',
        params: ofServer,
        body: ticket,
        response: { 200: releaseAnswer, ...failures },
      },
    },
    ({ params, body }) => cuts.release(params.id, body),
  );
  routes.delete(
    '/v1/servers/:id/tracking/:epoch',
    {
      schema: {
        summary: 'Stop noting changes since a cut',
        params: ofServer.extend({ epoch: z.coerce.number().int() }),
        response: nothing,
      },
    },
    async ({ params }, reply) => {
      await cuts.stopTracking(params.id, params.epoch);
      return reply.status(204).send(null);
    },
  );
  routes.post(
    '/v1/tracking/:lease/renew',
    { schema: { summary: 'Keep noting changes', params: ofLease, response: nothing } },
    async ({ params }, reply) => {
      await cuts.renewTracking(params.lease);
      return reply.status(204).send(null);
    },
  );
}
