import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect } from 'vitest';
import { openCluster, witnessRun } from 'cofferdam';
import { temporaryDirectory } from '../support/directory.js';
import { needs } from '../support/needs.js';
import { runProcess } from '../support/process.js';

needs('mkfifo', 'head')('a history that can no longer be written ends the run with the reason', async () => {
  await using directory = temporaryDirectory();
  const historyPath = directory.file('history');
  await runProcess('mkfifo', [historyPath]);
  // A reader that goes away in the middle.
  const reader = spawn('head', ['-c', '100000', historyPath], { stdio: 'ignore' });
  const gone = once(reader, 'exit');
  await using cluster = await openCluster({
    servers: ['a', 'b'].map((id) => ({ id, device: { kind: 'memory', size: '1MiB' } })),
  });
  const to = directory.file('x.cofferdam');
  const run = witnessRun({ cluster, to, seed: 1, historyPath, beforeMs: 60_000, workers: 1 });
  await expect(run).rejects.toMatchObject({ code: 'DEVICE_IO' });
  await gone;
});
