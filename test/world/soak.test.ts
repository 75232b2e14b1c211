import { expect } from 'vitest';
import { describeFailure, formatReport } from '../soak/report.js';
import { soak } from '../soak/soak.js';
import { needs } from '../support/needs.js';
import { testSeed } from '../support/seed.js';

const minutes = Number(process.env['SOAK_MINUTES'] ?? (process.env['CI'] ? 2 : 0.2));

needs('fio', 'qemu-io', '/proc/self/environ')(
  'backups, clients and a cluster that is killed again and again: nothing is lost',
  async () => {
    const report = await soak({ minutes, seed: testSeed(), note: () => {} });
    expect(describeFailure(report)).toBe('');
    console.log(formatReport(report));
    const { backups, generations, clients } = report.counts;
    expect(backups.committed).toBeGreaterThan(0);
    expect(generations.judged).toBeGreaterThan(0);
    expect(generations.restored).toBeGreaterThan(0);
    expect(clients.verifiedReads).toBeGreaterThan(0);
  },
  minutes * 60_000 + 600_000,
);
