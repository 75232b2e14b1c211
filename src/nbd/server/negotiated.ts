import type { Duplex } from 'node:stream';
import type { MetaContext, NbdExport } from './exports.js';

/** What a server and a client agreed upon in the handshake; the transmission phase begins with it. */
export interface Negotiated {
  /** The connection, wrapped in TLS if that was agreed upon. Paused; requests may already be in its buffer. */
  stream: Duplex;
  export: NbdExport;
  structuredReplies: boolean;
  /** The contexts that BLOCK_STATUS answers for, by the number the client knows each under. */
  contexts: ReadonlyMap<number, MetaContext>;
}
