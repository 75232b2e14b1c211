import type { FastifyInstance, FastifyRequest } from 'fastify';
import { serializerCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { CofferdamError } from '../runtime/errors.js';
import { inWords, issueInWords } from '../runtime/issue-wording.js';
import type { BackupJobs } from './backup-jobs.js';
import { errorBody } from './control-schema.js';
import type { FaultTable } from './fault-table.js';
import type { RemoteCuts } from './remote-cuts.js';
import type { ClusterService } from './service.js';
import type { Snapshots } from './snapshots.js';

/** What the routes of the control API work with. */
export interface ControlContext {
  service: ClusterService;
  cuts: RemoteCuts;
  snapshots: Snapshots;
  jobs: BackupJobs;
  faults: FaultTable;
}

/** Fastify whose schemas are zod's. */
export type ControlServer = ReturnType<typeof withZod>;

// eslint-disable-next-line typescript/explicit-module-boundary-types -- the type has six parameters that fastify infers
export function withZod(server: FastifyInstance) {
  server.setValidatorCompiler(validatorOf);
  server.setSerializerCompiler(serializerCompiler);
  return server.withTypeProvider<ZodTypeProvider>();
}

function validatorOf({
  schema,
  method,
  url,
}: Route): (data: unknown) => { value: unknown } | { error: Error } {
  return (data) => {
    const { success, data: value, error } = schema.safeParse(data, { error: inWords });
    if (success) return { value };
    const what = error.issues.map(issueInWords).join('; ');
    return { error: new CofferdamError('BAD_ARGUMENT', `${method} ${url}: ${what}`) };
  };
}

/** What fastify has a validator made for. */
interface Route {
  schema: z.ZodType;
  method: string;
  url: string;
}

const noFields = z.strictObject({}).nullish();

/**
 * Before a request is validated: fastify leaves out whatever is sent to a route that says nothing of a body.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export async function refuseBodyOfNoUse({
  body,
  is404,
  method,
  routeOptions,
}: FastifyRequest): Promise<void> {
  const { schema, url = '' } = routeOptions;
  if (is404 || schema?.body !== undefined) return;
  const answer = validatorOf({ schema: noFields, method, url })(body);
  if ('error' in answer) throw answer.error;
}

/** For the responses of every route. */
export const failures = { '4xx': errorBody, '5xx': errorBody };
