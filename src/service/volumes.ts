import type { BlockDevice } from '../devices/block-device.js';
import { MirroredDevice } from '../devices/mirrored.js';
import { StripedDevice } from '../devices/striped.js';
import type { VolumeConfig } from '../servers/cluster-config.js';

/**
 * Puts a virtual disk together.
 *
 * @param openMember opens the device of a server; the volume owns what it answers.
 * @throws whatever opening a member throws; those that were opened before are closed again.
 */
export async function openVolume(
  config: VolumeConfig,
  openMember: (serverId: string) => Promise<BlockDevice>,
): Promise<BlockDevice> {
  const members: BlockDevice[] = [];
  try {
    for (const id of config.of) members.push(await openMember(id));
    return config.kind === 'striped'
      ? new StripedDevice(members, { stripeBytes: config.stripe })
      : new MirroredDevice(members);
  } catch (error) {
    await Promise.all(members.map((member) => member.close()));
    throw error;
  }
}
