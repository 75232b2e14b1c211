import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { createSecureContext, createServer, type TlsOptions } from 'node:tls';
import { CofferdamError, errnoOf, messageOf } from '../../runtime/errors.js';

/** TLS as a server offers it. */
export interface NbdServerTls {
  /** `required`: clients get nothing before they have upgraded. `optional`: they may upgrade. */
  mode: 'optional' | 'required';
  /**
   * Folder with server-cert.pem and server-key.pem. If it also has ca-cert.pem, only clients with a certificate that
   * this authority signed are let in.
   */
  certificates: string;
}

/** What is needed to upgrade connections. */
export type ServerCredentials = Pick<TlsOptions, 'cert' | 'key' | 'ca'>;

/** @throws CofferdamError BAD_ARGUMENT */
export async function loadServerCredentials(folder: string): Promise<ServerCredentials> {
  const read = (file: string): Promise<Buffer> => readFile(join(folder, file));
  try {
    const [cert, key] = await Promise.all([read('server-cert.pem'), read('server-key.pem')]);
    const ca = await read('ca-cert.pem').catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    });
    const credentials = { cert, key, ca };
    // Finds out what is wrong with them before a client does.
    createSecureContext(credentials);
    return credentials;
  } catch (error) {
    throw new CofferdamError(
      'BAD_ARGUMENT',
      `${folder}: TLS cannot be offered with these certificates: ${messageOf(error)}; ` +
        'put server-cert.pem and server-key.pem there, and ca-cert.pem to let in none but clients it has signed',
      { cause: error },
    );
  }
}

/**
 * Upgrades a connection to TLS, as its server. What it has received and not handed out belongs to the TLS handshake.
 *
 * @throws CofferdamError CONNECTION_LOST if the handshake fails, or the client has not shown the certificate it needs.
 */
export function upgradeToTls(stream: Duplex, credentials: ServerCredentials): Promise<Duplex> {
  const isClientVerified = credentials.ca !== undefined;
  return new Promise((resolve, reject) => {
    // It listens nowhere: only a server of this kind judges certificates of clients.
    const server = createServer({
      ...credentials,
      minVersion: 'TLSv1.2',
      requestCert: isClientVerified,
      rejectUnauthorized: isClientVerified,
    });
    server.once('secureConnection', (secured) => {
      secured.allowHalfOpen = true;
      // It is followed by `close`.
      secured.on('error', () => {});
      resolve(secured);
    });
    server.once('tlsClientError', (error) => {
      reject(
        new CofferdamError('CONNECTION_LOST', `the TLS handshake failed: ${error.message}`, { cause: error }),
      );
    });
    // A client that leaves in the middle of this wants nothing more; later it may still want its replies.
    stream.allowHalfOpen = false;
    server.emit('connection', stream);
  });
}
