// Runs worlds one after the other, in the package that it was copied into, until one breaks an invariant. Prints one JSON
// document: the number of worlds that were run and what was broken in the last of them.
// Usage: node simulate.mjs NUMBER-OF-WORLDS
import { loadCore } from '#src/core/load';
import { simulate } from '#src/simulation/world/simulation';
import { swarmConfig } from '#src/simulation/world/swarm';

const limit = Number(process.argv[2]);
const core = await loadCore();
let seed = 0;
/** @type {import('#src/simulation/world/simulation').Violation | undefined} */
let violation;

while (seed < limit && !violation) {
  seed++;
  violation = (await simulate(seed, swarmConfig(seed), core)).violations[0];
}
// A broken world may leave something behind that would keep the process alive.
process.stdout.write(JSON.stringify({ worlds: seed, violation }), () => process.exit());
