import { readFile } from 'node:fs/promises';
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

/** A page of HTML that is also well-formed XML, needs nothing but itself and is not large. */
export async function readPage(path: string): Promise<string> {
  const page = await readFile(path, 'utf8');
  expect(page).toMatch(/^<!doctype html>\n/);
  expectWellFormed(page.replace(/^<!doctype html>\s*/, ''));
  expect(page).not.toMatch(/<script|<link|\bsrc=|\bhref=|url\((?!#)|@import/);
  expect(page.length).toBeLessThan(2 ** 20);
  return page;
}
