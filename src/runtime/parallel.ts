/**
 * Runs `action` on every item, at most `limit` at a time, taking items in order. When one fails no further items are
 * taken; the failure is thrown once those under way have settled, so nothing runs on behind the caller's back.
 */
export async function forEachParallel<T>(
  items: Iterable<T> | AsyncIterable<T>,
  limit: number,
  action: (item: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  try {
    for await (const item of items) {
      const run: Promise<void> = action(item)
        .catch((error: unknown) => void failures.push(error))
        .finally(() => running.delete(run));
      running.add(run);
      while (running.size >= limit) await Promise.race(running);
      if (failures.length > 0) break;
    }
  } finally {
    // Also when it is `items` that fails.
    await Promise.all(running);
  }
  if (failures.length > 0) throw failures[0];
}
