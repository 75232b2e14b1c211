import type { FastifyInstance } from 'fastify';
import { serializerCompiler, validatorCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod';
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
  server.setValidatorCompiler(validatorCompiler);
  server.setSerializerCompiler(serializerCompiler);
  return server.withTypeProvider<ZodTypeProvider>();
}

/** For the responses of every route. */
export const failures = { '4xx': errorBody, '5xx': errorBody };
