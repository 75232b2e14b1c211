import { expect } from 'vitest';

/** One XML element, whole: each tag is closed in its turn, and nothing stands bare that has to be escaped. */
export function expectWellFormed(xml: string): void {
  const token =
    /<(?<end>\/?)(?<name>[\w:]+)(?:\s+[\w:-]+="[^"<]*")*\s*(?<empty>\/?)>|[^<>&]+|&(?:amp|lt|gt|quot|apos|#\d+);|<!\[CDATA\[[^\]]*\]\]>/y;
  const open: string[] = [];
  let roots = 0;
  while (token.lastIndex < xml.length) {
    const from = token.lastIndex;
    const groups = token.exec(xml)?.groups;
    expect(groups, xml.slice(from, from + 80)).toBeDefined();
    const { end, name, empty } = groups ?? {};
    if (name === undefined) continue;
    if (end) expect(open.pop()).toBe(name);
    else if (open.length === 0) roots++;
    if (!end && !empty) open.push(name);
  }
  expect([open, roots]).toEqual([[], 1]);
}
