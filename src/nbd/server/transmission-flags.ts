import type { BlockDevice } from '../../devices/block-device.js';
import { TransmissionFlag } from '../protocol.js';

/**
 * What a client is told that an export can do.
 *
 * - FLUSH and FUA are honoured by every device, FUA by a flush where there is nothing cheaper.
 * - FAST_ZERO goes with WRITE_ZEROES: where zeroing is no faster than writing, requests that insist on it are refused.
 * - DF means something only where replies are structured.
 * - CACHE reads, which every device can.
 */
export function transmissionFlags({ capabilities }: BlockDevice, structuredReplies: boolean): number {
  const always =
    TransmissionFlag.HasFlags |
    TransmissionFlag.SendFlush |
    TransmissionFlag.SendFua |
    TransmissionFlag.SendCache;
  const changing = capabilities.readOnly
    ? TransmissionFlag.ReadOnly
    : TransmissionFlag.SendWriteZeroes |
      TransmissionFlag.SendFastZero |
      (capabilities.trim ? TransmissionFlag.SendTrim : 0);
  return (
    always |
    changing |
    (structuredReplies ? TransmissionFlag.SendDf : 0) |
    (capabilities.multiConnection ? TransmissionFlag.CanMultiConn : 0)
  );
}
