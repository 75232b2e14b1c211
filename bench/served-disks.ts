import type { TemporaryDirectory } from '../test/support/directory.js';

/** A disk image that is served and written to. */
export interface Disk {
  path: string;
  sizeBytes: number;
}

/** A system that serves disks over NBD and can back all of them up, as of one instant, while clients write. */
export interface ServingSystem {
  name: string;
  /** The ways in which it backs up. */
  ways: readonly string[];
  serve(disks: readonly Disk[], directory: TemporaryDirectory): Promise<ServedDisks>;
}

export interface ServedDisks extends AsyncDisposable {
  /** Of each disk. */
  uris: readonly string[];
  /** Makes a full backup of all disks; a target that has one is overwritten. */
  backUp(way: string): Promise<BackupTimes>;
}

export interface BackupTimes {
  elapsedMs: number;
  /** How long barriers were up, if the system says so. */
  stallMs?: number;
}
