import type { BlockDevice } from '../../devices/block-device.js';

/** A device that NBD clients may open by name. */
export interface NbdExport {
  /** Up to 4096 bytes of UTF-8; the empty name is the one that a client gets who names none. */
  readonly name: string;
  /** A line for people, shown when clients list the exports. */
  readonly description?: string | undefined;
  /** The server never closes it. */
  readonly device: BlockDevice;
  /** Metadata contexts beyond `base:allocation`, which every export has. */
  readonly contexts?: readonly MetaContext[] | undefined;
}

/**
 * What an NBD server exports. It is asked anew by every client that connects, so exports may come and go; who has opened
 * one keeps it until its device is closed.
 */
export interface ExportTable {
  /** All exports, in the order in which they are listed. */
  list(): readonly NbdExport[];
  find(name: string): NbdExport | undefined;
}

/** Something that a client may ask about ranges of an export (BLOCK_STATUS), such as which of its blocks changed. */
export interface MetaContext {
  /** `namespace:leaf`. */
  readonly name: string;
  /** Extents that cover the range from its start on, in order, without gaps; at least one, and they may end early. */
  describe(offsetBytes: number, lengthBytes: number): Promise<StatusExtent[]>;
}

export interface StatusExtent {
  lengthBytes: number;
  /** 32 bits whose meaning is the context's. */
  flags: number;
}
