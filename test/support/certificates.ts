import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './loop-device.js';

export interface Certificates {
  /** Folders as `tls-certificates=` in URIs names them. */
  server: string;
  /** As `server`, without the authority: every client is let in. */
  openServer: string;
  client: string;
  /** As `client`, without a certificate of its own. */
  anonymousClient: string;
  /** A client that trusts the authority, and that another one has signed. */
  stranger: string;
}

/** Makes an authority, and certificates for a server at localhost and for clients. Needs openssl. */
export async function makeCertificates(parent: string): Promise<Certificates> {
  const folder = (name: string): string => join(parent, name);
  const certificates: Certificates = {
    server: folder('server'),
    openServer: folder('open-server'),
    client: folder('client'),
    anonymousClient: folder('anonymous-client'),
    stranger: folder('stranger'),
  };
  const authority = folder('authority');
  const otherAuthority = folder('other-authority');
  const folders = [...Object.values<string>({ ...certificates }), authority, otherAuthority];
  await Promise.all(folders.map((path) => mkdir(path)));
  await makeAuthority(authority);
  await makeAuthority(otherAuthority);
  await sign(authority, certificates.server, 'server');
  await sign(authority, certificates.openServer, 'server');
  await sign(authority, certificates.client, 'client');
  await sign(otherAuthority, certificates.stranger, 'client');
  for (const path of [
    certificates.server,
    certificates.client,
    certificates.anonymousClient,
    certificates.stranger,
  ]) {
    await copyFile(join(authority, 'ca-cert.pem'), join(path, 'ca-cert.pem'));
  }
  return certificates;
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

async function makeAuthority(folder: string): Promise<void> {
  const [key, certificate] = [join(folder, 'ca-key.pem'), join(folder, 'ca-cert.pem')];
  await run(
    'openssl',
    'req',
    '-x509',
    ...newKey,
    '-subj',
    '/CN=authority',
    '-keyout',
    key,
    '-out',
    certificate,
  );
}

async function sign(authority: string, folder: string, who: 'server' | 'client'): Promise<void> {
  const request = join(folder, 'request.pem');
  const name = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  await run(
    'openssl',
    'req',
    '-new',
    ...newKey,
    ...name,
    '-keyout',
    join(folder, `${who}-key.pem`),
    '-out',
    request,
  );
  const signer = [
    '-CA',
    join(authority, 'ca-cert.pem'),
    '-CAkey',
    join(authority, 'ca-key.pem'),
    '-CAcreateserial',
  ];
  const options = ['-copy_extensions', 'copy', '-out', join(folder, `${who}-cert.pem`)];
  await run('openssl', 'x509', '-req', '-in', request, ...signer, ...options);
}
