import { loadCore } from '#src/core/load';
import { Wire } from './wire.js';

// The same tests with a native thread between the client and the code that they are about, where there can be one.
Wire.path = (await loadCore()).serveConnection ? 'native' : 'javascript';
await import('./transmission.js');
