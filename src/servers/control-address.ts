import { resolve } from 'node:path';
import { CofferdamError } from '../runtime/errors.js';

/** Where the control API of a process listens. */
export type ControlAddress =
  | { kind: 'unix'; path: string }
  /** `host` is a name or an address, IPv6 without brackets. Needs a token. */
  | { kind: 'http'; host: string; port: number };

/**
 * A path, `unix:PATH`, or `http://HOST:PORT`.
 *
 * @throws CofferdamError BAD_ARGUMENT
 */
export function parseControlAddress(text: string): ControlAddress {
  if (!text.startsWith('http:')) {
    const path = text.replace(/^unix:(\/\/(?=\/))?/, '');
    if (path !== '' && !/^[a-z]+:/.test(path)) return { kind: 'unix', path };
    throw bad(text, 'neither a path nor an http URL');
  }
  if (!URL.canParse(text)) throw bad(text, 'not a URL');
  const url = new URL(text);
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '' || url.username !== '') {
    throw bad(text, 'an address has nothing after the port');
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return { kind: 'http', host, port: url.port === '' ? 80 : Number(url.port) };
}

export function formatControlAddress(address: ControlAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `http://${host}:${address.port}`;
}

/** The same address, with a path relative to a folder. */
export function controlAddressAt(address: ControlAddress, folder: string): ControlAddress {
  return address.kind === 'unix' ? { kind: 'unix', path: resolve(folder, address.path) } : address;
}

function bad(text: string, why: string): CofferdamError {
  return new CofferdamError('BAD_ARGUMENT', `${text}: ${why}; write PATH, unix:PATH or http://HOST:PORT`);
}
