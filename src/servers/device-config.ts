import { resolve } from 'node:path';
import { z } from 'zod';
import { formatNbdUri, nbdUriAt, parseNbdUri } from '../nbd/uri.js';
import { messageOf } from '../runtime/errors.js';
import { parseSize } from '../runtime/sizes.js';

export type DeviceConfig =
  | { kind: 'file'; path: string; readOnly: boolean; create?: number | undefined }
  | { kind: 'memory'; size: number }
  | { kind: 'nbd'; uri: string }
  | { kind: 'striped'; stripe: number; of: DeviceConfig[] }
  | { kind: 'mirrored'; of: DeviceConfig[] };

/** A device as it is written in a configuration: a path, or an object with a `kind`. Sizes may be text. */
export type DeviceInput =
  | string
  | { kind: 'file'; path: string; readOnly?: boolean | undefined; create?: number | string | undefined }
  | { kind: 'memory'; size: number | string }
  | { kind: 'nbd'; uri: string }
  | { kind: 'striped'; stripe?: number | string | undefined; of: readonly DeviceInput[] }
  | { kind: 'mirrored'; of: readonly DeviceInput[] };

/** A size in bytes, as a number or as text such as `64KiB`. */
export const size = z.union([z.number(), z.string()]).transform((value, context) => {
  try {
    return parseSize(value, 'size');
  } catch (error) {
    // The path of the field comes before it, and names the size.
    context.addIssue({ code: 'custom', message: messageOf(error).replace(/^size: /, '') });
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

/** An export of an NBD server. */
const nbd = z.strictObject({
  kind: z.literal('nbd'),
  uri: z.string().superRefine((uri, context) => {
    try {
      parseNbdUri(uri);
    } catch (error) {
      context.addIssue({ code: 'custom', message: messageOf(error) });
    }
  }),
});

/** A path stands for a device of kind `file`. */
export const device: z.ZodType<DeviceConfig, DeviceInput> = z.lazy(() =>
  // Not a union with the plain path: of a union the message would only say that nothing fits.
  z.preprocess(
    (input: DeviceInput) => (typeof input === 'string' ? ({ kind: 'file', path: input } as const) : input),
    z.discriminatedUnion('kind', [file, memory, nbd, striped, mirrored]),
  ),
);

const striped = z.strictObject({
  kind: z.literal('striped'),
  stripe: size.default(64 * 1024),
  of: z.array(device).min(1),
});

const mirrored = z.strictObject({ kind: z.literal('mirrored'), of: z.array(device).min(1) });

/** The same device, with the paths in it relative to a folder. */
export function atFolder(config: DeviceConfig, folder: string): DeviceConfig {
  switch (config.kind) {
    case 'file':
      return { ...config, path: resolve(folder, config.path) };
    case 'memory':
      return config;
    case 'nbd':
      return { ...config, uri: formatNbdUri(nbdUriAt(parseNbdUri(config.uri), folder)) };
    case 'striped':
    case 'mirrored':
      return { ...config, of: config.of.map((child) => atFolder(child, folder)) };
  }
}
