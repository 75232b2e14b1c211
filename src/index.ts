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

export { Cluster, openCluster } from './servers/cluster.js';
export type { ClusterInput, DeviceInput } from './servers/cluster-config.js';
export { StorageServer, type StorageServerOptions } from './servers/server.js';
export type * from './servers/control.js';

export { backup, type BackupOptions, type BackupResult } from './backup/backup.js';
export type { DeviceProgress, ProgressListener } from './backup/progress.js';
