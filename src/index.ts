/** The library. What is not exported here is not part of it. */
export { CofferdamError, errorCodes, isCofferdamError, type ErrorCode } from './runtime/errors.js';
export type { Clock } from './runtime/clock.js';

export type {
  BlockDevice,
  Capabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
} from './devices/block-device.js';
export { openDevice } from './devices/open.js';
export { MemoryDevice } from './devices/memory.js';
export { StripedDevice } from './devices/striped.js';
export { MirroredDevice } from './devices/mirrored.js';
export { FaultyDevice, type FaultHandle, type FaultRule } from './devices/faulty.js';
export { VolatileCacheDevice } from './devices/volatile-cache.js';
export { OverlayDevice, type OverlayOptions } from './devices/overlay.js';

export { NbdDevice, type NbdDeviceOptions } from './nbd/client/device.js';
export { NbdServer, type NbdServerOptions } from './nbd/server/server.js';
export type { ExportTable, MetaContext, NbdExport, StatusExtent } from './nbd/server/exports.js';
export type { NbdServerTls } from './nbd/server/tls.js';
export type { NbdAddress } from './nbd/uri.js';

export { Cluster, openCluster } from './servers/cluster.js';
export { readClusterFile, type ClusterConfig, type ClusterInput } from './servers/cluster-config.js';
export { parseControlAddress, type ControlAddress } from './servers/control-address.js';
export type { DeviceInput } from './servers/device-config.js';
export { StorageServer, type StorageServerOptions } from './servers/server.js';
export type * from './servers/control.js';

export { backup, type BackupOptions, type BackupResult } from './backup/backup.js';
export type { DeviceProgress, ProgressListener } from './backup/progress.js';
export type { BackupTimeline, BarrierSpan, CopySpan } from './backup/timeline.js';
export { CopyPool, type JobPool } from './backup/pool.js';
export { BackupImage, type CatalogEntry } from './backup/image/image.js';
export { openImage, type OpenImageOptions } from './backup/image/open.js';
export { GenerationDevice } from './backup/image/generation-device.js';
export type {
  Consistency,
  CopyStatistics,
  CutCertificate,
  DeviceRecord,
  GenerationRecord,
  ServerCertificate,
  Strategy,
} from './backup/image/record.js';
export { restore, type RestoreOptions, type RestoreResult } from './backup/restore.js';
export { verify, type VerifyOptions, type VerifyReport } from './backup/verify.js';
export type { BadRange } from './backup/bad-range.js';

export { ClusterService, type ServedExport, type ServiceOptions } from './service/service.js';
export { ControlApi, type ControlApiOptions } from './service/control-api.js';
export { ControlClient, type ControlClientOptions } from './service/control-client.js';
export type { CutCalls, RemoteProcess } from './service/cut-calls.js';
export { RemoteServer } from './service/remote-server.js';
export { backupCluster, backupProcess, type RemoteBackupOptions } from './service/remote-backup.js';

export { judgeCopy, type CopyVerdict } from './witness/judge.js';
export { describeVerdict, type Verdict } from './witness/verdict.js';
export { History } from './witness/history.js';
export { HistoryFile, readHistory } from './witness/history-file.js';
export { Workload, type WorkloadOptions } from './witness/workload.js';
export type { WorkloadStatistics } from './witness/statistics.js';
export { witnessRun, type WitnessRunOptions, type WitnessRunResult } from './witness/run.js';
