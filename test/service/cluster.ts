import { ClusterService, ControlApi, ControlClient, type Clock } from 'cofferdam';
import { parseClusterConfig, type ClusterInput } from '#src/servers/cluster-config';
import { temporaryDirectory, type TemporaryDirectory } from '../support/directory.js';

/** A served cluster in this process, with its control plane and a client of that. */
export interface ServedCluster extends AsyncDisposable {
  readonly directory: TemporaryDirectory;
  readonly service: ClusterService;
  readonly api: ControlApi;
  readonly client: ControlClient;
  readonly socket: string;
  /** Ends it and starts it again, at the same places. */
  restart(): Promise<void>;
}

/** Serves servers on sockets in a directory of their own. */
export async function serveCluster(
  input: Pick<ClusterInput, 'servers' | 'volumes'>,
  clock?: Clock,
): Promise<ServedCluster> {
  const directory = temporaryDirectory();
  const config = parseClusterConfig({
    listen: `nbd+unix:///?socket=${directory.file('nbd')}`,
    control: directory.file('control'),
    ...input,
  });
  const start = async (): Promise<Pick<ServedCluster, 'service' | 'api'>> => {
    const service = await ClusterService.start(config, { clock });
    return { service, api: await ControlApi.listen({ service, listen: config.control, clock }) };
  };
  let running = await start();
  const stop = async (): Promise<void> => {
    await running.api.close();
    await running.service.close();
  };
  const client = new ControlClient({ address: config.control, clock });
  return {
    directory,
    get service() {
      return running.service;
    },
    get api() {
      return running.api;
    },
    client,
    socket: directory.file('control'),
    async restart() {
      await stop();
      running = await start();
    },
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await stop();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** A server on memory. */
export const memory = (id: string, size: number | string = '1MiB'): ClusterInput['servers'][number] => ({
  id,
  device: { kind: 'memory', size },
});
