import { TLSSocket } from 'node:tls';
import { loadCore } from '../../core/load.js';
import { NativeStream } from './native-stream.js';
import type { Negotiated } from './negotiated.js';

/**
 * Lets a native thread serve the connection, where it can: a core that has such threads, a device that lets them past, a
 * socket without TLS. Otherwise, or with COFFERDAM_NBD_PATH=javascript, everything stays as it is.
 */
export async function chooseDataPath(negotiated: Negotiated): Promise<Negotiated> {
  const { stream, export: opened, structuredReplies } = negotiated;
  const { nativePath: path, sizeBytes, capabilities } = opened.device;
  const { serveConnection: serve } = await loadCore();
  const isWanted = process.env['COFFERDAM_NBD_PATH'] !== 'javascript';
  if (!isWanted || !serve || !path || stream instanceof TLSSocket) return negotiated;
  const { readOnly } = capabilities;
  const options = { serve, path, sizeBytes, readOnly, structuredReplies };
  return { ...negotiated, stream: NativeStream.takeOver(stream, options) };
}
