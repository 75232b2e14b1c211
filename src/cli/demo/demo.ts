import { join } from 'node:path';
import { loadCore } from '../../core/load.js';
import { openDevice } from '../../devices/open.js';
import { CofferdamError, invariant } from '../../runtime/errors.js';
import { formatBytes, formatDuration } from '../../runtime/sizes.js';
import { openCluster, type Cluster } from '../../servers/cluster.js';
import { witnessRun, type WitnessRunOptions, type WitnessRunResult } from '../../witness/run.js';
import { describeVerdict } from '../../witness/verdict.js';
import type { NamedPath } from '../arguments.js';
import type { CommandContext } from '../command.js';
import { restoreImage, verifyImage } from '../image-jobs.js';
import { assertServedRight, inconsistency, judgeFiles } from '../judgement.js';
import { ProgressBars } from '../progress-bars.js';
import { count } from '../wording.js';
import { haveSameContent } from './compare.js';
import { prepareDisks, witnessArea, type Disk } from './disks.js';
import { checkFileSystem } from './file-system.js';
import type { DemoFolder } from './folder.js';
import type { DemoReport, RestoredDisk, RollingRun } from './report.js';
import { Story } from './story.js';

export interface DemoOptions {
  /** Disk images of the user; none: the demo makes its own. */
  images: readonly NamedPath[];
  seed: number;
}

const WRITERS = 8;

/** Without the closing cut a copy can turn out consistent by luck. */
const MOST_ATTEMPTS = 5;

/**
 * Backs real disks up under load, first right, then wrong, and tells what happens.
 *
 * @throws CofferdamError or Error as soon as something is not as promised
 */
export class Demo {
  readonly #options: DemoOptions;
  readonly #folder: DemoFolder;
  readonly #context: CommandContext;
  readonly #story: Story;

  constructor(options: DemoOptions, folder: DemoFolder, context: CommandContext) {
    this.#options = options;
    this.#folder = folder;
    this.#context = context;
    this.#story = new Story(context.output);
  }

  async run(): Promise<DemoReport> {
    const { seed } = this.#options;
    const core = await loadCore();
    this.#story.title('A crash-consistent copy of disks that are being written to');
    this.#story.say(`${core.name} core, seed ${seed}, folder ${this.#folder.path}`);

    const disks = await this.#makeDisks();
    await using cluster = await this.#startServers(disks);
    const snapshot = await this.#takeSnapshot(cluster, disks);
    await this.#verify(snapshot);
    const restored = await this.#restore(cluster, disks, snapshot);
    await this.#judge(snapshot, restored);
    const rolling = await this.#rollWithoutClosingCut(cluster, disks);
    return { seed, core: core.name, folder: this.#folder, disks, snapshot, restored, rolling };
  }

  async #makeDisks(): Promise<Disk[]> {
    const { images, seed } = this.#options;
    this.#story.step(
      images.length === 0 ? 'Make four disk images' : 'Copy your disk images; they are only read',
    );
    const disks = await prepareDisks(this.#folder.path, images, seed, this.#context.signal);
    for (const disk of disks) {
      const state = disk.fileSystem === 'clean' ? '; e2fsck finds it clean' : '';
      this.#story.say(`${disk.id}: ${formatBytes(disk.sizeBytes)}, ${disk.contents}${state}`);
    }
    return disks;
  }

  async #startServers(disks: readonly Disk[]): Promise<Cluster> {
    this.#story.step(`Start a storage server on each, and ${WRITERS} clients that write to all of them`);
    this.#story.say(
      'A client sends a write, waits until it succeeded, and sends the next to another disk: so each write depends on ' +
        'the one before. They write to the last 8 MiB of each disk, which no file system uses, and every sector says ' +
        'which write it comes from.',
    );
    return await openCluster({
      servers: disks.map(({ id, path }) => ({ id, device: { kind: 'file', path } })),
    });
  }

  async #takeSnapshot(cluster: Cluster, disks: readonly Disk[]): Promise<WitnessRunResult> {
    this.#story.step('Back up while they write, with strategy snapshot');
    this.#story.say(
      'All barriers go up together for an instant; after that, what a write would overwrite is saved first.',
    );
    const result = await this.#runUnderLoad(cluster, disks, {
      strategy: 'snapshot',
      seed: this.#options.seed,
      historyPath: this.#folder.file('history.jsonl'),
      beforeMs: 1000,
      afterMs: 500,
    });
    this.#tellBackup(result);
    return result;
  }

  async #verify({ backup }: WitnessRunResult): Promise<void> {
    this.#story.step('Verify the backup image');
    const report = await verifyImage(this.#imagePath, backup.generation, this.#context);
    if (!report.ok) {
      throw new CofferdamError(
        'BLOCK_CORRUPT',
        `${this.#imagePath}: the backup is damaged; run the demo again with --keep`,
      );
    }
    const bytes = report.generations
      .flatMap(({ devices }) => devices)
      .reduce((sum, { goodBytes }) => sum + goodBytes, 0);
    this.#story.good(`${formatBytes(bytes)} of devices read back, every block as its hash says`);
  }

  async #restore(
    cluster: Cluster,
    disks: readonly Disk[],
    { backup }: WitnessRunResult,
  ): Promise<RestoredDisk[]> {
    this.#story.step('Restore, and look at what came back');
    const { devices } = await restoreImage(
      this.#imagePath,
      { generation: backup.generation, targets: { directory: this.#folder.file('restored') } },
      this.#context,
    );
    const restored: RestoredDisk[] = [];
    for (const disk of disks) {
      const path = devices.find(({ id }) => id === disk.id)?.path;
      invariant(path !== undefined, `${disk.id} was not restored`);
      restored.push(await this.#inspect(cluster, disk, path));
    }
    return restored;
  }

  async #inspect(cluster: Cluster, disk: Disk, path: string): Promise<RestoredDisk> {
    const { signal } = this.#context;
    {
      await using copy = await openDevice(path, { readOnly: true });
      if (!(await haveSameContent(cluster.client(disk.id), copy, disk.contentBytes, signal))) {
        throw new Error(`${path} differs from ${disk.path} where nobody wrote`);
      }
    }
    const fileSystem = disk.fileSystem === 'clean' ? await checkFileSystem(path, signal) : 'not checked';
    if (fileSystem === 'not clean') throw new Error(`e2fsck -fn finds ${path} damaged`);
    const state = fileSystem === 'clean' ? '; e2fsck -fn finds it clean' : '';
    this.#story.good(`${disk.id}: ${formatBytes(disk.contentBytes)} compared, all the same${state}`);
    return { id: disk.id, path, fileSystem };
  }

  async #judge(snapshot: WitnessRunResult, restored: readonly RestoredDisk[]): Promise<void> {
    this.#story.step('Judge the restored disks by what the clients saw');
    const { verdict } = await judgeFiles(this.#folder.file('history.jsonl'), restored, this.#context.signal);
    this.#story.say(describeVerdict(verdict.group));
    const failure = inconsistency(verdict) ?? inconsistency(snapshot.verdict);
    if (failure) throw failure;
    this.#story.good('every write that the copy has comes with all the writes that it can depend on');
  }

  async #rollWithoutClosingCut(cluster: Cluster, disks: readonly Disk[]): Promise<RollingRun> {
    this.#story.step('Now wrong: one barrier after the other (strategy rolling, no closing cut)');
    let attempts = 0;
    let result: WitnessRunResult;
    do {
      result = await this.#runUnderLoad(cluster, disks, {
        strategy: 'rolling',
        closingCut: false,
        seed: this.#options.seed + attempts,
        beforeMs: 300,
        afterMs: 300,
      });
      attempts++;
      this.#tellBackup(result);
      if (result.verdict.group.consistent) this.#story.say('By luck, this copy is consistent.');
    } while (result.verdict.group.consistent && attempts < MOST_ATTEMPTS);
    this.#explain(result);
    return { ...result, attempts };
  }

  #explain({ verdict }: WitnessRunResult): void {
    const { group, devices } = verdict;
    if (group.consistent) return;
    this.#story.say(describeVerdict(group));
    const { included, excluded } = group.witness;
    const allAlone = [...devices.values()].every((device) => device.consistent);
    if (!included || !excluded || !allAlone) return;
    this.#story.bad('each disk alone is fine, but together they show a moment that never was:');
    this.#story.say(
      `  ${excluded.device} was copied and its barrier came down; then a client's write to it succeeded, and a write ` +
        `that was sent after that still made it into the copy of ${included.device}, whose turn came later.`,
    );
  }

  async #runUnderLoad(
    cluster: Cluster,
    disks: readonly Disk[],
    options: Omit<WitnessRunOptions, 'cluster' | 'to'>,
  ): Promise<WitnessRunResult> {
    const { output, signal } = this.#context;
    using bars = new ProgressBars(output.stderr);
    const result = await witnessRun({
      ...options,
      cluster,
      to: this.#imagePath,
      areas: disks.map(witnessArea),
      writers: WRITERS,
      signal,
      ...bars.options,
    });
    assertServedRight(result.workload);
    const { firstFailure } = result.workload;
    if (firstFailure !== undefined) throw new Error(`a request of a client failed: ${firstFailure}`);
    return result;
  }

  #tellBackup({ backup, workload }: WitnessRunResult): void {
    const { statistics, elapsedMs, cut } = backup;
    const parked = cut.servers.reduce((sum, server) => sum + server.parkedRequests, 0);
    this.#story.say(
      `${formatBytes(statistics.readBytes)} read and ${formatBytes(statistics.storedBytes)} stored in ${formatDuration(elapsedMs)}; ` +
        (backup.consistency === 'group'
          ? `all barriers came down within ${formatDuration(cut.group.stallMs)}`
          : `each barrier was up for up to ${formatDuration(cut.group.stallMs)}`),
    );
    this.#story.say(
      `${count(workload.writes, 'write')} by clients succeeded, ${workload.failedWrites} failed; ` +
        `${count(parked, 'write')} waited at a barrier`,
    );
  }

  get #imagePath(): string {
    return join(this.#folder.path, 'backup.cofferdam');
  }
}
