import { baseAllocation } from './block-status.js';
import type { MetaContext, NbdExport } from './exports.js';
import { invalid } from './option-data.js';

/** The contexts of an export that a client has selected, by the numbers it knows them under. */
export interface Selection {
  readonly export: NbdExport;
  readonly contexts: ReadonlyMap<number, MetaContext>;
}

/** All contexts that an export has. */
export function contextsOf({ device, contexts = [] }: NbdExport): MetaContext[] {
  return [baseAllocation(device), ...contexts];
}

/**
 * The contexts that a LIST_META_CONTEXT asks for. No query asks for all; a query that ends with a colon for all whose
 * names begin with it: `base:`, `qemu:` or `qemu:dirty-bitmap:`.
 *
 * @throws OptionRefused ERR_INVALID
 */
export function listedContexts(from: NbdExport, queries: readonly string[]): MetaContext[] {
  queries.forEach(checkQuery);
  const isMatch = (name: string, query: string): boolean =>
    query.endsWith(':') ? name.startsWith(query) : name === query;
  return contextsOf(from).filter(
    ({ name }) => queries.length === 0 || queries.some((query) => isMatch(name, query)),
  );
}

/**
 * The contexts that a SET_META_CONTEXT selects: those that it names in full. What is not known is passed over.
 *
 * @throws OptionRefused ERR_INVALID
 */
export function selectContexts(from: NbdExport, queries: readonly string[]): Selection {
  queries.forEach(checkQuery);
  const selected = contextsOf(from).filter(({ name }) => queries.includes(name));
  return { export: from, contexts: new Map(selected.map((context, index) => [index + 1, context])) };
}

function checkQuery(query: string): void {
  if (!/^[^:]+:/.test(query)) throw invalid('a query for contexts begins with a namespace and a colon');
}
