import { resolve } from 'node:path';
import { CofferdamError } from '../runtime/errors.js';
import { DEFAULT_PORT } from './protocol.js';

/** Where an NBD server listens. */
export type NbdAddress =
  | {
      kind: 'tcp';
      /** A name or an address; IPv6 without brackets. Empty: every interface, or this machine to connect to. */
      host: string;
      port: number;
    }
  | { kind: 'unix'; path: string };

/** An export of a server, or, where a server is to listen, its address alone. */
export interface NbdUri {
  address: NbdAddress;
  exportName: string;
  tls: boolean;
  /** Folder with ca-cert.pem, and client-cert.pem and client-key.pem or server-cert.pem and server-key.pem. */
  tlsCertificates?: string | undefined;
}

const schemes: Readonly<Record<string, { unix: boolean; tls: boolean }>> = {
  'nbd:': { unix: false, tls: false },
  'nbds:': { unix: false, tls: true },
  'nbd+unix:': { unix: true, tls: false },
  'nbds+unix:': { unix: true, tls: true },
};

/** Whether a text is meant to be an NBD URI. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(\+unix)?:/.test(text);
}

/**
 * Source: doc/uri.md of the NBD project. `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`; with `nbds` the
 * connection is upgraded to TLS, with certificates from the folder of `tls-certificates=DIR`.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function parseNbdUri(text: string): NbdUri {
  const refuse = (why: string): CofferdamError =>
    new CofferdamError(
      'BAD_ARGUMENT',
      `${text}: ${why}; write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH`,
    );
  if (!URL.canParse(text)) throw refuse('not an NBD URI');
  const url = new URL(text);
  const scheme = schemes[url.protocol];
  if (!scheme) throw refuse(`${url.protocol} is not a scheme of NBD`);
  const unknown = [...url.searchParams.keys()].find((key) => key !== 'socket' && key !== 'tls-certificates');
  if (unknown !== undefined) throw refuse(`the parameter ${unknown} is not known`);
  if (url.username !== '' || url.password !== '') throw refuse('NBD has no user names');
  const socket = url.searchParams.get('socket');
  const tlsCertificates = url.searchParams.get('tls-certificates') ?? undefined;
  const common = { exportName: exportNameOf(url, refuse), tls: scheme.tls, tlsCertificates };
  if (scheme.unix) {
    if (socket === null || socket === '') throw refuse('the parameter socket is missing');
    if (url.host !== '') throw refuse('a Unix socket has no host; write three slashes');
    return { address: { kind: 'unix', path: socket }, ...common };
  }
  if (socket !== null) throw refuse('only nbd+unix has a socket');
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return {
    address: { kind: 'tcp', host, port: url.port === '' ? DEFAULT_PORT : Number(url.port) },
    ...common,
  };
}

/**
 * Where a server is to listen: an NBD URI that names no export.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function parseListenUri(text: string): NbdUri {
  const uri = parseNbdUri(text);
  if (uri.exportName === '') return uri;
  throw new CofferdamError('BAD_ARGUMENT', `${text}: leave out the export's name; each export has its own`);
}

function exportNameOf(url: URL, refuse: (why: string) => CofferdamError): string {
  try {
    // One slash separates the name from the authority; further ones are part of it.
    return decodeURIComponent(url.pathname.replace(/^\//, ''));
  } catch {
    throw refuse('the export name has a broken %-escape');
  }
}

export function formatNbdUri({ address, exportName, tls, tlsCertificates }: NbdUri): string {
  const scheme = tls ? 'nbds' : 'nbd';
  const name = exportName.split('/').map(encodeURIComponent).join('/');
  const parameters = [
    ...(address.kind === 'unix' ? [`socket=${escapePath(address.path)}`] : []),
    ...(tlsCertificates === undefined ? [] : [`tls-certificates=${escapePath(tlsCertificates)}`]),
  ];
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  if (address.kind === 'unix') return `${scheme}+unix:///${name}${query}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const port = address.port === DEFAULT_PORT ? '' : `:${address.port}`;
  return `${scheme}://${host}${port}/${name}${query}`;
}

/** The same URI, with the paths in it relative to a folder. */
export function nbdUriAt(uri: NbdUri, folder: string): NbdUri {
  const { address, tlsCertificates } = uri;
  return {
    ...uri,
    address: address.kind === 'unix' ? { kind: 'unix', path: resolve(folder, address.path) } : address,
    tlsCertificates: tlsCertificates === undefined ? undefined : resolve(folder, tlsCertificates),
  };
}

/** Peers decode the value, but people read it: slashes stay. */
function escapePath(path: string): string {
  return encodeURIComponent(path).replaceAll('%2F', '/');
}
