import type { BackupResult } from '../backup/backup.js';
import { readClusterFile } from '../servers/cluster-config.js';
import { parseControlAddress } from '../servers/control-address.js';
import { ControlClient } from '../service/control-client.js';
import { backupCluster, backupProcess, type RemoteBackupOptions } from '../service/remote-backup.js';

/** Backs up the servers of the cluster that this file describes. */
export async function backupClusterFile(path: string, options: RemoteBackupOptions): Promise<BackupResult> {
  return await backupCluster(await readClusterFile(path), options);
}

/** Backs up what the process at this control address serves. */
export async function backupControl(address: string, options: RemoteBackupOptions): Promise<BackupResult> {
  const token = process.env['COFFERDAM_TOKEN'];
  await using client = new ControlClient({ address: parseControlAddress(address), token });
  return await backupProcess(client, options);
}
