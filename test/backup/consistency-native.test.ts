import { consistencySuite } from './consistency.js';

process.env['COFFERDAM_CORE'] = 'native';
consistencySuite();
