import type { Core } from '../../core/core.js';
import type { Random } from '../../runtime/random.js';
import type { Inconsistent } from '../../witness/verdict.js';
import type { Trace } from './trace.js';
import type { VirtualTime } from '../virtual-time.js';

/** What everything in a simulated world shares. */
export interface Surroundings {
  readonly time: VirtualTime;
  readonly random: Random;
  readonly trace: Trace;
  readonly core: Core;
  /** False once the world has calmed down: nothing goes wrong any more. */
  readonly hasFaults: boolean;
  /** Notes that an invariant was broken. */
  violated(invariant: string, what: string): void;
  /** Notes that one was broken, as the judge's verdict on `what` shows. */
  inconsistent(invariant: string, what: string, verdict: Inconsistent): void;
}
