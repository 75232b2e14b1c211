import type { CopyAssumptions } from './timed-copier.js';

/** What a plan takes for granted about the servers, the network and the clients. */
export interface Assumptions extends CopyAssumptions {
  /** Median round trip between any two machines, in ms; each way is half of it. */
  rttMs: number;
  /** 99th percentile over the median, of each message's way and of each write's time on the disk. At least 1. */
  tail: number;
  /** Median time of a write on its server's disk, in ms. */
  writeMs: number;
  /** How long each message, sent or received, keeps the coordinator busy, in ms. */
  messageMs: number;
  /** Clients of each server, with one write outstanding at a time. */
  clients: number;
  /** See {@link BackupOptions.maxStallMs}. */
  maxStallMs: number | undefined;
}
