import { z } from 'zod';
import { failures, type ControlContext, type ControlServer } from '../control-context.js';
import { copiedRequest } from '../control-schema.js';

const ofLease = z.object({ lease: z.uuid() });
const nothing = { 204: z.null(), ...failures };

/** What a coordinator in another process asks of the contents of a cut: the calls of CutSource. */
export function addSourceRoutes(routes: ControlServer, { cuts }: ControlContext): void {
  routes.get(
    '/v1/sources/:lease',
    {
      schema: {
        summary: 'Whether all that was read of the contents of a cut is as of the cut; renews its lease',
        params: ofLease,
        response: nothing,
      },
    },
    async ({ params }, reply) => {
      await cuts.assertIntact(params.lease);
      return reply.status(204).send(null);
    },
  );
  routes.post(
    '/v1/sources/:lease/copied',
    {
      schema: {
        summary: 'Tell which blocks need no pre-images any more; renews the lease',
        params: ofLease,
        body: copiedRequest,
        response: nothing,
      },
    },
    async ({ params, body }, reply) => {
      await cuts.markCopied(params.lease, body.ranges);
      return reply.status(204).send(null);
    },
  );
  routes.delete(
    '/v1/sources/:lease',
    { schema: { summary: 'Give the contents of a cut up', params: ofLease, response: nothing } },
    async ({ params }, reply) => {
      await cuts.closeSource(params.lease);
      return reply.status(204).send(null);
    },
  );
}
