import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isNode, LineCounter, parseDocument, type Document } from 'yaml';
import { z } from 'zod';
import { deviceIdPattern, deviceIdRule } from '../devices/device-id.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { parseSize } from '../runtime/sizes.js';

/** A size in bytes, as a number or as text such as `64KiB`. */
const size = z.union([z.number(), z.string()]).transform((value, context) => {
  try {
    return parseSize(value, 'size');
  } catch (error) {
    context.addIssue({ code: 'custom', message: messageOf(error) });
    return z.NEVER;
  }
});

const file = z.strictObject({
  kind: z.literal('file'),
  /** A regular file or a block special file. */
  path: z.string().min(1),
  readOnly: z.boolean().default(false),
  /** Makes the file with this size when it does not exist. */
  create: size.optional(),
});

const memory = z.strictObject({ kind: z.literal('memory'), size });

/** A path stands for a device of kind `file`. */
const device: z.ZodType<DeviceConfig, DeviceInput> = z.lazy(() =>
  // Not a union with the plain path: of a union the message would only say that nothing fits.
  z.preprocess(
    (input: DeviceInput) => (typeof input === 'string' ? ({ kind: 'file', path: input } as const) : input),
    z.discriminatedUnion('kind', [file, memory, striped, mirrored]),
  ),
);

const striped = z.strictObject({
  kind: z.literal('striped'),
  stripe: size.default(64 * 1024),
  of: z.array(device).min(1),
});

const mirrored = z.strictObject({ kind: z.literal('mirrored'), of: z.array(device).min(1) });

const server = z.strictObject({
  /** Names the server, and its device in backups. */
  id: z.string().regex(deviceIdPattern, deviceIdRule),
  device,
  /** Keep acknowledged writes in memory until they are flushed, so that a power cut can lose them. */
  volatileCache: z.boolean().default(false),
  /** Put a fault injector in front of the device. It costs the copy core its direct way to the bytes. */
  faults: z.boolean().default(false),
  /** Limits on the pre-images of one snapshot. */
  preImages: z
    .strictObject({ memory: size.optional(), spill: size.optional(), directory: z.string().optional() })
    .default({}),
});

const cluster = z.strictObject({
  servers: z
    .array(server)
    .min(1)
    .superRefine((servers, context) => {
      const seen = new Set<string>();
      servers.forEach(({ id }, index) => {
        if (seen.has(id))
          context.addIssue({ code: 'custom', path: [index, 'id'], message: `two servers have the ID ${id}` });
        seen.add(id);
      });
    }),
});

export type DeviceConfig =
  | { kind: 'file'; path: string; readOnly: boolean; create?: number | undefined }
  | { kind: 'memory'; size: number }
  | { kind: 'striped'; stripe: number; of: DeviceConfig[] }
  | { kind: 'mirrored'; of: DeviceConfig[] };

/** A device as it is written in a configuration: a path, or an object with a `kind`. Sizes may be text. */
export type DeviceInput =
  | string
  | { kind: 'file'; path: string; readOnly?: boolean | undefined; create?: number | string | undefined }
  | { kind: 'memory'; size: number | string }
  | { kind: 'striped'; stripe?: number | string | undefined; of: readonly DeviceInput[] }
  | { kind: 'mirrored'; of: readonly DeviceInput[] };

/** A cluster as it is written, in YAML or as an object. */
export type ClusterInput = z.input<typeof cluster>;
/** A cluster after validation: defaults filled in, sizes in bytes. */
export type ClusterConfig = z.output<typeof cluster>;
export type ServerConfig = ClusterConfig['servers'][number];

/**
 * Validates a configuration given as an object.
 *
 * @throws CofferdamError BAD_CONFIG naming every field that is wrong
 */
export function parseClusterConfig(input: unknown): ClusterConfig {
  const result = cluster.safeParse(input);
  if (result.success) return result.data;
  throw badConfig('cluster configuration', result.error.issues, () => undefined);
}

/**
 * Reads a cluster from a YAML file. Relative paths in it are relative to the file.
 *
 * @throws CofferdamError BAD_CONFIG naming the line of everything that is wrong
 */
export async function readClusterFile(path: string): Promise<ClusterConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new CofferdamError('BAD_CONFIG', `${path} cannot be read: ${messageOf(cause)}`, { cause });
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const syntax = document.errors[0];
  if (syntax) throw new CofferdamError('BAD_CONFIG', `${path}: ${syntax.message}`);
  const result = cluster.safeParse(document.toJS());
  if (!result.success) {
    throw badConfig(path, result.error.issues, (fieldPath) => lineOf(document, lines, fieldPath));
  }
  const folder = dirname(resolve(path));
  return {
    servers: result.data.servers.map((entry) => ({ ...entry, device: atFolder(entry.device, folder) })),
  };
}

function badConfig(
  name: string,
  issues: readonly z.core.$ZodIssue[],
  line: (path: PropertyKey[]) => number | undefined,
): CofferdamError {
  const texts = issues.map((issue) => {
    const at = line(issue.path);
    const where = at === undefined ? '' : `line ${at}: `;
    return `${where}${issue.path.map(String).join('.') || 'the whole'}: ${issue.message}`;
  });
  return new CofferdamError('BAD_CONFIG', `${name}: ${texts.join('; ')}`);
}

/** The line of the deepest node on the path that exists. */
function lineOf(document: Document, lines: LineCounter, path: PropertyKey[]): number | undefined {
  for (let length = path.length; length >= 0; length--) {
    const node = length === 0 ? document.contents : document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return undefined;
}

function atFolder(config: DeviceConfig, folder: string): DeviceConfig {
  switch (config.kind) {
    case 'file':
      return { ...config, path: resolve(folder, config.path) };
    case 'memory':
      return config;
    case 'striped':
    case 'mirrored':
      return { ...config, of: config.of.map((child) => atFolder(child, folder)) };
  }
}
