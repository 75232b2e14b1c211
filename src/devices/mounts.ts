import { readFile } from 'node:fs/promises';
import { partitionsOf } from './sysfs.js';

/** Where the file systems on a block device or its partitions are mounted, as far as this process can see. */
export async function mountPointsOf(device: string): Promise<string[]> {
  const devices = [device, ...(await partitionsOf(device))];
  const points: string[] = [];
  // proc(5): number, parent, major:minor, root, mount point, ...
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8').catch(() => '')).split('\n')) {
    const [, , mounted, , point] = line.split(' ');
    if (mounted !== undefined && point !== undefined && devices.includes(mounted))
      points.push(unescape(point));
  }
  return points;
}

/** The kernel writes blanks and backslashes as \ooo. */
function unescape(path: string): string {
  return path.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}
