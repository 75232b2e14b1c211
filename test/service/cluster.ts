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
  const service = await ClusterService.start(config, { clock });
  const api = await ControlApi.listen({ service, listen: config.control, clock });
  const client = new ControlClient({ address: config.control, clock });
  return {
    directory,
    service,
    api,
    client,
    socket: directory.file('control'),
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await api.close();
      await service.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** A server on memory. */
export const memory = (id: string, size: number | string = '1MiB'): ClusterInput['servers'][number] => ({
  id,
  device: { kind: 'memory', size },
});
