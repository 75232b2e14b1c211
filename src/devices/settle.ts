/**
 * Waits until every one of these has ended and then throws the first failure. With `Promise.all` a failure would be
 * answered while other parts of the same request are still on their way to a medium.
 */
export async function allSettled(parts: Iterable<Promise<void>>): Promise<void> {
  const outcomes = await Promise.allSettled(parts);
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed) throw failed.reason;
}
