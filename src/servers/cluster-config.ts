import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isNode, LineCounter, parseDocument, type Document } from 'yaml';
import { z } from 'zod';
import { deviceIdPattern, deviceIdRule } from '../devices/device-id.js';
import { CofferdamError, messageOf } from '../runtime/errors.js';
import { inWords, issueInWords } from '../runtime/issue-wording.js';
import { nbdUriAt, parseListenUri, type NbdUri } from '../nbd/uri.js';
import { controlAddressAt, parseControlAddress, type ControlAddress } from './control-address.js';
import { atFolder, device, size } from './device-config.js';

/** Makes text into something with a parser that throws CofferdamErrors. */
function parsed<T>(parse: (text: string) => T): z.ZodType<T, string> {
  return z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: messageOf(error) });
      return z.NEVER;
    }
  });
}

const id = z.string().regex(deviceIdPattern, deviceIdRule);

/** Where devices are exported: an NBD URI without the name of an export. */
const listen = parsed(parseListenUri);
/** Where a process can be controlled: a path, or http://HOST:PORT. */
const control = parsed(parseControlAddress);

const server = z.strictObject({
  /** Names the server, its export, and its device in backups. */
  id,
  device,
  /** Keep acknowledged writes in memory until they are flushed, so that a power cut can lose them. */
  volatileCache: z.boolean().default(false),
  /** Put a fault injector in front of the device. It costs the copy core its direct way to the bytes. */
  faults: z.boolean().default(false),
  /** Limits on the pre-images of one snapshot. */
  preImages: z
    .strictObject({ memory: size.optional(), spill: size.optional(), directory: z.string().optional() })
    .default({}),
  /** For a server that runs in a process of its own. */
  listen: listen.optional(),
  control: control.optional(),
});

/** A virtual disk across servers. */
const volumeCommon = {
  /** Names its export. */
  id,
  /** IDs of servers. */
  of: z.array(z.string()).min(1),
  listen: listen.optional(),
};
const volume = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('striped'), stripe: size.default(64 * 1024), ...volumeCommon }),
  z.strictObject({ kind: z.literal('mirrored'), ...volumeCommon }),
]);

const cluster = z
  .strictObject({
    /** Where devices are exported that say nothing else. */
    listen: listen.default(() => parseListenUri('nbd+unix:///?socket=cofferdam.sock')),
    /** Where the process is controlled that serves all servers that say nothing else. */
    control: control.default({ kind: 'unix', path: 'cofferdam-control.sock' }),
    /** What a client of the control API has to know where it listens on TCP. */
    token: z.string().min(16, 'a token has at least 16 characters').optional(),
    servers: z.array(server).min(1),
    volumes: z.array(volume).default([]),
  })
  .superRefine((config, context) => {
    const refuse = (path: PropertyKey[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    checkIds(config, refuse);
    checkVolumes(config, refuse);
    checkAddresses(config, refuse);
  });

type Refuse = (path: PropertyKey[], message: string) => void;

function checkIds({ servers, volumes }: ClusterConfig, refuse: Refuse): void {
  const seen = new Set<string>();
  for (const [field, entries] of Object.entries({ servers, volumes })) {
    for (const [index, entry] of entries.entries()) {
      if (seen.has(entry.id)) refuse([field, index, 'id'], `the ID ${entry.id} is used twice`);
      seen.add(entry.id);
    }
  }
}

function checkVolumes({ servers, volumes }: ClusterConfig, refuse: Refuse): void {
  const known = new Set(servers.map((entry) => entry.id));
  for (const [index, { of }] of volumes.entries()) {
    for (const [place, member] of of.entries()) {
      if (!known.has(member)) refuse(['volumes', index, 'of', place], `there is no server ${member}`);
      if (of.indexOf(member) < place) refuse(['volumes', index, 'of', place], `${member} is in it twice`);
    }
  }
}

function checkAddresses(
  { listen: common, control: main, token, servers, volumes }: ClusterConfig,
  refuse: Refuse,
): void {
  const listens = new Map<string, NbdUri>();
  const checkListen = (path: PropertyKey[], uri: NbdUri): void => {
    const key = JSON.stringify(uri.address);
    const other = listens.get(key);
    if (other && (other.tls !== uri.tls || other.tlsCertificates !== uri.tlsCertificates)) {
      refuse(path, 'the same address is listed with other settings of TLS');
    }
    listens.set(key, uri);
  };
  const checkControl = (path: PropertyKey[], address: ControlAddress): void => {
    if (address.kind === 'http' && token === undefined) {
      refuse(path, 'on TCP the control API needs a token; set token');
    }
  };
  checkListen(['listen'], common);
  checkControl(['control'], main);
  for (const [field, entries] of Object.entries({ servers, volumes })) {
    for (const [index, entry] of entries.entries()) {
      if (entry.listen) checkListen([field, index, 'listen'], entry.listen);
      if ('control' in entry && entry.control) checkControl([field, index, 'control'], entry.control);
    }
  }
}

/** A cluster as it is written, in YAML or as an object. */
export type ClusterInput = z.input<typeof cluster>;
/** A cluster after validation: defaults filled in, sizes in bytes. */
export type ClusterConfig = z.output<typeof cluster>;
export type ServerConfig = ClusterConfig['servers'][number];
export type VolumeConfig = ClusterConfig['volumes'][number];

/**
 * Validates a configuration given as an object.
 *
 * @throws CofferdamError BAD_CONFIG naming every field that is wrong
 */
export function parseClusterConfig(input: unknown): ClusterConfig {
  const result = cluster.safeParse(input, { error: inWords });
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
  const result = cluster.safeParse(document.toJS(), { error: inWords });
  if (!result.success) {
    throw badConfig(path, result.error.issues, (fieldPath) => lineOf(document, lines, fieldPath));
  }
  return atFolderOf(path, result.data);
}

function atFolderOf(path: string, config: ClusterConfig): ClusterConfig {
  const folder = dirname(resolve(path));
  const listenAt = <T extends { listen?: NbdUri | undefined }>(entry: T): T =>
    entry.listen ? { ...entry, listen: nbdUriAt(entry.listen, folder) } : entry;
  return {
    ...config,
    listen: nbdUriAt(config.listen, folder),
    control: controlAddressAt(config.control, folder),
    servers: config.servers.map((entry) => ({
      ...listenAt(entry),
      device: atFolder(entry.device, folder),
      preImages: preImagesAt(entry.preImages, folder),
      control: entry.control && controlAddressAt(entry.control, folder),
    })),
    volumes: config.volumes.map(listenAt),
  };
}

function preImagesAt<T extends { directory?: string | undefined }>(preImages: T, folder: string): T {
  const { directory } = preImages;
  return directory === undefined ? preImages : { ...preImages, directory: resolve(folder, directory) };
}

function badConfig(
  name: string,
  issues: readonly z.core.$ZodIssue[],
  line: (path: PropertyKey[]) => number | undefined,
): CofferdamError {
  const texts = issues.map((issue) => {
    const at = line(issue.path);
    const where = at === undefined ? '' : `line ${at}: `;
    return `${where}${issueInWords(issue)}`;
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
