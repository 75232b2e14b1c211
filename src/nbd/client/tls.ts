import { readFile } from 'node:fs/promises';
import { isIP, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { CofferdamError, errnoOf, messageOf } from '../../runtime/errors.js';
import type { NbdUri } from '../uri.js';
import { violation } from './export-terms.js';

/**
 * Turns a connection whose server agreed to STARTTLS into an encrypted one. The server's certificate must be signed by
 * ca-cert.pem of the certificates' folder, or, without that file, by an authority that this system trusts, and be for
 * the host of the URI (`localhost` for a Unix socket). With client-cert.pem and client-key.pem the client proves who it
 * is, too.
 *
 * @throws CofferdamError CONNECTION_FAILED, PROTOCOL_ERROR
 */
export async function encrypted(socket: Socket, uri: NbdUri): Promise<TLSSocket> {
  // What came before encryption began could be from anyone, and must not be taken for what came after.
  if (socket.readableLength > 0) throw violation('bytes between its consent to TLS and the beginning of TLS');
  const certificates = await certificatesOf(uri);
  const host = uri.address.kind === 'tcp' && uri.address.host !== '' ? uri.address.host : 'localhost';
  return await new Promise((resolve, reject) => {
    const stream = connect({
      socket,
      minVersion: 'TLSv1.2',
      rejectUnauthorized: true,
      // An address is no server name, but the certificate must be for it all the same.
      ...(isIP(host) === 0 ? { servername: host } : { host }),
      ...certificates,
    });
    stream.once('secureConnect', () => resolve(stream));
    // They stay: an error of a stream to which nobody listens would end the process.
    stream.on('error', (cause: Error) => reject(failed(cause.message, cause)));
    stream.on('close', () => reject(failed('the connection was closed', socket.errored)));
  });
}

function failed(why: string, cause: unknown): CofferdamError {
  return new CofferdamError('CONNECTION_FAILED', `TLS was not established: ${why}`, { cause });
}

async function certificatesOf({ tlsCertificates }: NbdUri): Promise<ConnectionOptions> {
  if (tlsCertificates === undefined) return {};
  const [ca, cert, key] = await Promise.all(
    ['ca-cert.pem', 'client-cert.pem', 'client-key.pem'].map((name) => optional(join(tlsCertificates, name))),
  );
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  };
}

async function optional(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return undefined;
    throw new CofferdamError('CONNECTION_FAILED', `${path} cannot be read: ${messageOf(cause)}`, { cause });
  }
}
