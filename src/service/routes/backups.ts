import { Readable } from 'node:stream';
import { z } from 'zod';
import { failures, type ControlContext, type ControlServer } from '../control-context.js';
import { backupRequest, jobStatus, type JobStatusBody } from '../control-schema.js';

const ofJob = z.object({ job: z.coerce.number().int() });

/** How the job stands, again and again: each time `event: status` and this as `data`. */
const jobEvents = {
  description: 'Events called status, with this as data',
  content: { 'text/event-stream': { schema: jobStatus } },
};

/** Backups that run in this process, and so read its devices directly. */
export function addBackupRoutes(routes: ControlServer, { jobs }: ControlContext): void {
  routes.get(
    '/v1/backups',
    { schema: { summary: 'Backup jobs', response: { 200: z.array(jobStatus), ...failures } } },
    () => jobs.list(),
  );
  routes.post(
    '/v1/backups',
    {
      schema: {
        summary: 'Start to back up devices of this process',
        body: backupRequest,
        response: { 202: jobStatus, ...failures },
      },
    },
    async ({ body }, reply) => reply.status(202).send(jobs.start(body)),
  );
  routes.get(
    '/v1/backups/:job',
    { schema: { summary: 'One job', params: ofJob, response: { 200: jobStatus, ...failures } } },
    ({ params }) => jobs.status(params.job),
  );
  routes.delete(
    '/v1/backups/:job',
    {
      schema: {
        summary: 'Cancel a job; answered when it has ended',
        params: ofJob,
        response: { 200: jobStatus, ...failures },
      },
    },
    ({ params }) => jobs.cancel(params.job),
  );
  routes.get<{ Params: z.infer<typeof ofJob>; Reply: Readable }>(
    '/v1/backups/:job/events',
    {
      schema: {
        summary: "The job's status after each change, as server-sent events; ends with the job",
        params: ofJob,
        response: { 200: jobEvents, ...failures },
      },
    },
    async ({ params }, reply) => {
      const gone = new AbortController();
      reply.raw.on('close', () => gone.abort());
      const statuses = jobs.watch(params.job, gone.signal);
      return reply
        .header('content-type', 'text/event-stream')
        .header('cache-control', 'no-store')
        .send(Readable.from(events(statuses)));
    },
  );
}

async function* events(statuses: AsyncIterable<JobStatusBody>): AsyncGenerator<string> {
  for await (const status of statuses) yield `event: status\ndata: ${JSON.stringify(status)}\n\n`;
}
