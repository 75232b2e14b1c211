import { INITIAL, type Contents } from '#src/witness/contents';
import type { History, Window, Write } from '#src/witness/history';

/**
 * The reference for the judge: the definition of crash consistency, carried out. It tries every instant of the window,
 * and at each of them every choice of which sectors of the writes in flight the power loss let through.
 *
 * @returns the instants at which a power loss could have left these contents, in steps of half an event.
 */
export function possibleInstants(history: History, contents: readonly Contents[], window: Window): number[] {
  const instants: number[] = [];
  for (let instant = window.from; instant <= window.to; instant += 0.5) {
    if (contents.every((content) => couldBeLeft(history, content, instant))) instants.push(instant);
  }
  return instants;
}

/** Sectors tear apart independently, so each can be looked at by itself. */
function couldBeLeft(history: History, { device, holds }: Contents, instant: number): boolean {
  const firstSector = (history.header.areas[device]?.areaOffsetBytes ?? NaN) / 512;
  return [...holds].every((held, index) => {
    const writes = writesOf(history, device, firstSector + index);
    return contentsAfterPowerLoss(writes, instant).has(held);
  });
}

/** The writes of a sector in the order in which they take effect. */
export function writesOf(history: History, device: number, sector: number): Write[] {
  return history.writes.filter(
    (write) =>
      write.device === device &&
      sector >= write.firstSector &&
      sector < write.firstSector + write.sectorCount,
  );
}

/** Everything that a sector can hold if the power is lost at `instant`. */
export function contentsAfterPowerLoss(writes: readonly Write[], instant: number): Set<number> {
  const sent = writes.filter((write) => write.invoke <= instant);
  const inFlight = sent.filter((write) => write.ack >= instant);
  const possible = new Set<number>();
  for (let choice = 0; choice < 2 ** inFlight.length; choice++) {
    const applied = sent.filter((write) => {
      const position = inFlight.indexOf(write);
      return position === -1 || (choice >> position) % 2 === 1;
    });
    possible.add(applied.at(-1)?.sequence ?? INITIAL);
  }
  return possible;
}
