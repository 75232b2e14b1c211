import type { WriteOptions } from '../../devices/block-device.js';
import { isCofferdamError, messageOf, type ErrorCode } from '../../runtime/errors.js';
import { InterceptedDevice } from './intercepted-device.js';
import type { Machine } from './machine.js';
import type { Network } from './network.js';
import type { StorageNode } from './storage-node.js';
import type { Surroundings } from './surroundings.js';

export interface ClientDeviceOptions {
  network: Network;
  /** The machine of the clients. */
  machine: Machine;
  node: StorageNode;
  /** A write is answered only when it is durable. So no crash may lose what was acknowledged. */
  isDurable: boolean;
  /** The only errors that the troubles of this world explain. */
  mayFailWith: readonly ErrorCode[];
}

/** A server's device as clients on another machine have it. Checked here: no request fails without a trouble to explain it. */
export class ClientDevice extends InterceptedDevice {
  readonly #options: ClientDeviceOptions;
  readonly #send: (operation: string, request: () => Promise<void>) => Promise<void>;

  constructor(world: Surroundings, options: ClientDeviceOptions) {
    const { network, machine, node, mayFailWith } = options;
    const send = async <T>(operation: string, request: () => Promise<T>): Promise<T> => {
      try {
        const label = `${operation} of ${node.id}`;
        return await network.call(machine.present, node.machine, label, request, { isConnected: true });
      } catch (error) {
        const isExplained = isCofferdamError(error) && mayFailWith.includes(error.code);
        if (!isExplained) world.violated('clients', `${operation} of ${node.id} failed: ${messageOf(error)}`);
        throw error;
      }
    };
    super(() => node.server.client, send);
    this.#options = options;
    this.#send = send;
  }

  override async write(offsetBytes: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    const { node, isDurable } = this.#options;
    await this.#send('write', async () => {
      const { client } = node.server;
      await client.write(offsetBytes, bytes, options);
      if (isDurable && options.fua !== true) await client.flush();
    });
  }
}
