import { describe, expect, test } from 'vitest';
import { DriftingClock, VirtualTime } from '#src/simulation/virtual-time';
import { sleep } from '#src/runtime/clock';

describe('virtual time', () => {
  test('lets events happen in the order of their times, and of their asking within one time', async () => {
    const time = new VirtualTime();
    const seen: string[] = [];
    for (const [name, delayMs] of [
      ['d', 20],
      ['b', 10],
      ['c', 10],
      ['a', 0],
    ] as const) {
      time.setTimer(delayMs, () => seen.push(`${name}@${time.nowMs()}`));
    }
    await time.run(sleep(time, 30));
    expect(seen).toEqual(['a@0', 'b@10', 'c@10', 'd@20']);
    expect(time.nowMs()).toBe(30);
  });

  test('does not pass while promises go on', async () => {
    const time = new VirtualTime();
    const seen: string[] = [];
    const chain = async (): Promise<void> => {
      await sleep(time, 1);
      for (let i = 0; i < 1000; i++) await Promise.resolve();
      seen.push(`the chain ended at ${time.nowMs()}`);
    };
    time.setTimer(1.5, () => seen.push('the next event'));
    await time.run(Promise.all([chain(), sleep(time, 2)]));
    expect(seen).toEqual(['the chain ended at 1', 'the next event']);
  });

  test('forgets a timer that was disposed of', async () => {
    const time = new VirtualTime();
    const timer = time.setTimer(1, () => expect.unreachable());
    timer[Symbol.dispose]();
    await time.run(sleep(time, 2));
    expect(time.nowMs()).toBe(2);
  });

  test('keeps thousands of timers in order', async () => {
    const time = new VirtualTime();
    let lastMs = 0;
    for (let i = 0; i < 5000; i++) {
      time.setTimer((i * 7919) % 1009, () => {
        expect(time.nowMs()).toBeGreaterThanOrEqual(lastMs);
        lastMs = time.nowMs();
      });
    }
    await time.run(sleep(time, 2000));
    expect(time.events).toBe(5001);
    expect(lastMs).toBe(1008);
  });

  test('tells of a run in which nothing can happen any more', async () => {
    const time = new VirtualTime();
    await expect(time.run(new Promise(() => {}))).rejects.toMatchObject({ code: 'SIMULATION_FAILED' });
  });

  test('tells of a run that comes to no end', async () => {
    const time = new VirtualTime();
    const again = (): void => void time.setTimer(1, again);
    again();
    await expect(time.run(new Promise(() => {}), 1000)).rejects.toMatchObject({ code: 'SIMULATION_FAILED' });
    expect(time.events).toBe(1000);
  });

  test('a clock that drifts goes at its own rate', async () => {
    const time = new VirtualTime();
    const fast = new DriftingClock(time, 1.25);
    await time.run(sleep(fast, 100));
    expect(time.nowMs()).toBe(80);
    expect(fast.nowMs()).toBe(100);
  });

  test('a clock that drifts can be set right, and does not jump', async () => {
    const time = new VirtualTime();
    const fast = new DriftingClock(time, 1.25);
    await time.run(sleep(fast, 100));
    fast.runTrue();
    expect(fast.nowMs()).toBe(100);
    await time.run(sleep(fast, 100));
    expect([time.nowMs(), fast.nowMs()]).toEqual([180, 200]);
  });
});
