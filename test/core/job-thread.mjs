// Runs one copy job on a thread of its own and posts how it ended, as the threads of the copy pool do.
import { parentPort, workerData } from 'node:worker_threads';
import { loadCore } from '../../dist/core/load.js';
import { errorToMessage } from '../../dist/runtime/error-message.js';

const core = await loadCore(workerData.core);
try {
  parentPort?.postMessage({ result: core.copy(workerData.job) });
} catch (error) {
  parentPort?.postMessage({ failed: errorToMessage(error) });
}
