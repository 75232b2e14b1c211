/**
 * Seeds that once broke an invariant, in the product or, where it says so, in the simulator's own bookkeeping. They are
 * run again for ever. A seed decides its world through the order of draws in src/simulation/world/swarm.ts: a change there
 * makes another world of it, which does no harm and no good.
 */
export const pastFailures: readonly { seed: number; what: string }[] = [
  { seed: 36, what: 'simulator: a server vouched for a cut whose confirmation was still on its way' },
  {
    seed: 41,
    what: 'simulator: an image that is only in the cache of its disk was looked for on the medium',
  },
  { seed: 64, what: 'simulator: a coordinator that had crashed read half of its image' },
  {
    seed: 1370256956,
    what: 'simulator: errors had random names of leases in them, so no two runs were the same',
  },
  {
    seed: 4234174112,
    what: 'simulator: clocks that differ by a factor of five were thought good enough for leases',
  },
  { seed: 2303373496, what: 'an image whose superblock could not be read for a moment was said to be none' },
];
