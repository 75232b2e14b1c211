import { z } from 'zod';
import { failures, type ControlContext, type ControlServer } from '../control-context.js';
import { snapshotRequest, snapshotStatus } from '../control-schema.js';

/** Snapshots that live until they are dropped. */
export function addSnapshotRoutes(routes: ControlServer, { snapshots }: ControlContext): void {
  routes.get(
    '/v1/snapshots',
    { schema: { summary: 'Live snapshots', response: { 200: z.array(snapshotStatus), ...failures } } },
    () => snapshots.list(),
  );
  routes.post(
    '/v1/snapshots',
    {
      schema: {
        summary: 'Cut servers at one instant and export each read-only as SERVER@NAME',
        body: snapshotRequest,
        response: { 201: snapshotStatus, ...failures },
      },
    },
    async ({ body }, reply) => reply.status(201).send(await snapshots.create(body)),
  );
  routes.delete(
    '/v1/snapshots/:name',
    {
      schema: {
        summary: 'End the exports of a snapshot and free its pre-images',
        params: z.object({ name: z.string() }),
        response: { 204: z.null(), ...failures },
      },
    },
    async ({ params }, reply) => {
      await snapshots.drop(params.name);
      return reply.status(204).send(null);
    },
  );
}
