import { backup, type BackupOptions, type BackupResult } from '../backup/backup.js';
import { CofferdamError } from '../runtime/errors.js';
import { formatControlAddress, type ControlAddress } from '../servers/control-address.js';
import type { ClusterConfig } from '../servers/cluster-config.js';
import { ControlClient } from './control-client.js';
import type { ServerStatusBody } from './control-schema.js';
import { RemoteServer } from './remote-server.js';

/** What may be chosen for the backup of a served cluster. The path of the image is an absolute one. */
export type RemoteBackupOptions = Omit<BackupOptions, 'servers' | 'to' | 'pool' | 'clock' | 'signal'> & {
  to: string;
  signal: AbortSignal;
};

/**
 * Backs up all devices that one process serves. The process does it, and so reads them directly.
 *
 * @throws CofferdamError as {@link backup}; CONNECTION_FAILED, CONNECTION_LOST, FORBIDDEN
 */
export async function backupProcess(
  client: ControlClient,
  { signal, onProgress, ...options }: RemoteBackupOptions,
  servers?: readonly string[],
): Promise<BackupResult> {
  const request = { ...options, ...(servers ? { servers: [...servers] } : {}) };
  return client.backup(request, { signal, onProgress });
}

/**
 * Backs up a cluster that is served, by one process or by several. Where it is one, that process does it; else this one
 * coordinates the cut and pulls the devices over NBD.
 *
 * @throws CofferdamError as {@link backup}; CONNECTION_FAILED, CONNECTION_LOST, FORBIDDEN; UNKNOWN_DEVICE if a server is
 * not served where the configuration says.
 */
export async function backupCluster(
  config: ClusterConfig,
  options: RemoteBackupOptions,
): Promise<BackupResult> {
  const clients = new Map<string, ControlClient>();
  try {
    const servers: RemoteServer[] = [];
    for (const { id, control = config.control, listen = config.listen } of config.servers) {
      const client = clientAt(clients, control, config.token);
      servers.push(new RemoteServer(client, await statusOf(client, id), listen.tlsCertificates));
    }
    const [only, ...others] = clients.values();
    if (only && others.length === 0) {
      return await backupProcess(
        only,
        options,
        servers.map(({ id }) => id),
      );
    }
    return await backup({ ...options, servers });
  } finally {
    await Promise.all([...clients.values()].map((client) => client.close()));
  }
}

function clientAt(
  clients: Map<string, ControlClient>,
  address: ControlAddress,
  token: string | undefined,
): ControlClient {
  const key = formatControlAddress(address);
  let client = clients.get(key);
  if (!client) clients.set(key, (client = new ControlClient({ address, token })));
  return client;
}

async function statusOf(client: ControlClient, id: string): Promise<ServerStatusBody> {
  const { servers } = await client.status();
  const status = servers.find((server) => server.id === id);
  if (status) return status;
  const where = formatControlAddress(client.address);
  throw new CofferdamError(
    'UNKNOWN_DEVICE',
    `server ${id} is not served by the process at ${where}; start it there`,
    {
      device: id,
    },
  );
}
