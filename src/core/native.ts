import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { CofferdamError, messageOf, type ErrorCode } from '../runtime/errors.js';
import {
  hashLengthBytes,
  type BlockGeometry,
  type CopyJob,
  type CopyResult,
  type Core,
  type HashAlgorithm,
  type JobEnd,
  type ConnectionJob,
  type NativeConnection,
  type NativePreImages,
  type NativeWatch,
  type RestoreJob,
  type ServeConnection,
  type WatchedSnapshot,
} from './core.js';

/** What the native core must say its interface is; `INTERFACE_VERSION` of native/src/lib.rs. */
const interfaceVersion = 5;

const buildDirectory = fileURLToPath(new URL('../../native/build/', import.meta.url));

/** A failure that the native core returned in place of a result. */
interface Failure {
  code: ErrorCode;
  message: string;
  offsetBytes?: number;
  lengthBytes?: number;
}

/** The functions of native/src/lib.rs. */
interface Binding {
  hash(algorithm: HashAlgorithm, bytes: Uint8Array, into: Uint8Array): null | Failure;
  isZero(bytes: Uint8Array): boolean;
  copy(job: object): CopyResult | Failure;
  restore(job: object): JobEnd | Failure;
  lock(fd: number, mode: 'shared' | 'exclusive'): 'locked' | 'busy' | 'unsupported' | Failure;
  blockGeometry(fd: number): BlockGeometry | Failure;
  zeroRange(
    fd: number,
    offsetBytes: number,
    lengthBytes: number,
    mayTrim: boolean,
  ): Promise<boolean | Failure>;
  discard(fd: number, offsetBytes: number, lengthBytes: number): Promise<boolean | Failure>;
  dataRanges(fd: number, offsetBytes: number, lengthBytes: number): Float64Array | Failure;
  readCached(fd: number, bytes: Uint8Array, places: Float64Array, done: Uint8Array): null | Failure;
  write(fd: number, bytes: Uint8Array[], places: Float64Array[]): Promise<null | Failure>;
  /** On Linux only. */
  serveConnection?: (
    job: Omit<ConnectionJob, 'watch'>,
    watch: WatchBinding | null,
    onEvent: Parameters<ServeConnection>[1],
  ) => NativeConnection | Failure;
  /** On Linux only. */
  NativeWatch?: new () => WatchBinding;
}

interface WatchBinding {
  begin(snapshot: WatchedSnapshot): PreImagesBinding | Failure;
}

interface PreImagesBinding {
  preserveNow(offsetBytes: number, lengthBytes: number): boolean | Failure;
  preserve(offsetBytes: number, lengthBytes: number): Promise<null | Failure>;
  restore(offsetBytes: number, into: Uint8Array): Promise<null | Failure>;
  free(firstBlock: number, blockCount: number): null | Failure;
  end(): void;
  close(): Promise<null | Failure>;
  readonly passed: number;
}

const functionNames: readonly (keyof Binding)[] = [
  'hash',
  'isZero',
  'copy',
  'restore',
  'lock',
  'blockGeometry',
  'zeroRange',
  'discard',
  'dataRanges',
  'readCached',
  'write',
];

/**
 * The native core, if it was built for this platform.
 *
 * @throws CofferdamError DEVICE_UNSUPPORTED saying why it cannot be used and what to do.
 */
export function loadNative(): Core {
  const binding = loadBinding();
  const { serveConnection: serve, NativeWatch: Watch } = binding;
  return {
    name: 'native',
    hash(algorithm, bytes) {
      const hash = new Uint8Array(hashLengthBytes[algorithm]);
      resultOf(binding.hash(algorithm, bytes, hash));
      return hash;
    },
    isZero: (bytes) => binding.isZero(bytes),
    copy: (job) => resultOf(binding.copy(copyArguments(job))),
    restore: (job) => resultOf(binding.restore(restoreArguments(job))),
    lock: (fd, mode) => resultOf(binding.lock(fd, mode)),
    blockGeometry: (fd) => resultOf(binding.blockGeometry(fd)),
    zeroRange: async (fd, offsetBytes, lengthBytes, mayTrim) =>
      resultOf(await binding.zeroRange(fd, offsetBytes, lengthBytes, mayTrim)),
    discard: async (fd, offsetBytes, lengthBytes) =>
      resultOf(await binding.discard(fd, offsetBytes, lengthBytes)),
    dataRanges: (fd, offsetBytes, lengthBytes) => resultOf(binding.dataRanges(fd, offsetBytes, lengthBytes)),
    readCached: (fd, { bytes, places }, done) => {
      resultOf(binding.readCached(fd, bytes, places, done));
    },
    write: async (fd, batches) => {
      const bytes = batches.map((batch) => batch.bytes);
      const places = batches.map((batch) => batch.places);
      resultOf(await binding.write(fd, bytes, places));
    },
    serveConnection:
      serve &&
      (({ watch, ...job }, onEvent) =>
        resultOf(serve(job, watch instanceof Watching ? watch.binding : null, onEvent))),
    newWatch: Watch && (() => new Watching(new Watch())),
  };
}

class Watching implements NativeWatch {
  constructor(readonly binding: WatchBinding) {}

  begin(snapshot: WatchedSnapshot): NativePreImages {
    const preImages = resultOf(this.binding.begin(snapshot));
    return {
      preserveNow: (offsetBytes, lengthBytes) => resultOf(preImages.preserveNow(offsetBytes, lengthBytes)),
      preserve: async (offsetBytes, lengthBytes) => {
        resultOf(await preImages.preserve(offsetBytes, lengthBytes));
      },
      restore: async (offsetBytes, into) => {
        resultOf(await preImages.restore(offsetBytes, into));
      },
      free: (firstBlock, blockCount) => {
        resultOf(preImages.free(firstBlock, blockCount));
      },
      end: () => preImages.end(),
      close: async () => {
        resultOf(await preImages.close());
      },
      get passed() {
        return preImages.passed;
      },
    };
  }
}

function copyArguments({ source, sink, ...job }: CopyJob): object {
  return {
    ...job,
    ...('fd' in source ? { sourceFd: source.fd } : { sourceBytes: source.bytes }),
    ...('fd' in sink ? { sinkFd: sink.fd } : { sinkBytes: sink.bytes }),
  };
}

function restoreArguments(job: RestoreJob): object {
  return { ...job };
}

/** The one place where a failure of the native core becomes an error. */
function resultOf<T>(answer: T | Failure): T {
  if (!isFailure(answer)) return answer;
  const { code, message, offsetBytes, lengthBytes } = answer;
  throw new CofferdamError(code, message, {
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(lengthBytes === undefined ? {} : { lengthBytes }),
  });
}

function isFailure(answer: unknown): answer is Failure {
  return typeof answer === 'object' && answer !== null && 'code' in answer;
}

function loadBinding(): Binding {
  const problems: string[] = [];
  for (const file of builtFiles()) {
    try {
      const binding: unknown = createRequire(import.meta.url)(file);
      const problem = problemOf(binding);
      if (problem === undefined) return binding as Binding; // Its names and its version were checked.
      problems.push(`${file} ${problem}`);
    } catch (error) {
      problems.push(messageOf(error));
    }
  }
  const why = problems.length === 0 ? `nothing was built in ${buildDirectory}` : problems.join('; ');
  throw new CofferdamError(
    'DEVICE_UNSUPPORTED',
    `the native core cannot be used: ${why}; install a Rust toolchain and run \`npm run build:native\``,
  );
}

/** Builds for this platform and processor; there may be one per C library. */
function builtFiles(): string[] {
  const prefix = `cofferdam.${process.platform}-${process.arch}`;
  try {
    const names = readdirSync(buildDirectory);
    return names
      .filter((name) => name.startsWith(prefix) && name.endsWith('.node'))
      .map((name) => buildDirectory + name);
  } catch {
    return [];
  }
}

function problemOf(binding: unknown): string | undefined {
  if (typeof binding !== 'object' || binding === null) return 'is not a module';
  const exported = new Map<string, unknown>(Object.entries(binding));
  if (exported.get('INTERFACE_VERSION') !== interfaceVersion) return 'was built from another version';
  const missing = functionNames.filter((name) => typeof exported.get(name) !== 'function');
  return missing.length === 0 ? undefined : `lacks ${missing.join(', ')}`;
}
