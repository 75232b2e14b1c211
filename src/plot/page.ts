import { html, Html } from './html.js';
import { darkColours, palette } from './palette.js';

/** A page that needs nothing but itself: no script, no font, no network. */
export function page(title: string, body: Html): string {
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="generator" content="cofferdam" />
        <meta name="color-scheme" content="light dark" />
        <title>${title}</title>
        <style>
          ${new Html(style)}
        </style>
      </head>
      <body>
        <h1>${title}</h1>
        ${body}
      </body>
    </html> `.text;
}

/** A table; the columns that `isNumber` names are aligned to the right. */
export function table(
  names: readonly { name: string; isNumber: boolean }[],
  rows: readonly (readonly string[])[],
): Html {
  const kind = (index: number): string => (names[index]?.isNumber ? 'number' : 'text');
  return html`<div class="wide">
    <table>
      <thead>
        <tr>
          ${names.map(({ name }, index) => html`<th class="${kind(index)}">${name}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) =>
            html`<tr>
              ${row.map((cell, index) => html`<td class="${kind(index)}">${cell}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** Names and what they stand for. */
export function facts(pairs: readonly (readonly [name: string, value: string])[]): Html {
  return html`<dl>
    ${pairs.map(
      ([name, value]) =>
        html`<dt>${name}</dt>
          <dd>${value}</dd>`,
    )}
  </dl>`;
}

/** @param svg as it was drawn here: it is not escaped. */
export function figure(svg: string, caption: string): Html {
  return html`<figure>
    <figcaption>${caption}</figcaption>
    <div class="wide">${new Html(svg)}</div>
  </figure>`;
}

function variables(mode: 'light' | 'dark'): string {
  return Object.entries(palette)
    .map(([name, colour]) => `--${name}: ${colour[mode]};`)
    .join(' ');
}

const style = `:root { ${variables('light')} }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.5rem; } dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: 0.5rem; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: left; }
th { color: var(--quiet); font-weight: 500; border-bottom: 1px solid var(--line); } td { border-bottom: 1px solid var(--line); } .number { text-align: right; } .note { color: var(--quiet); } h3 { font-size: 1rem; margin-top: 2rem; }
@media (prefers-color-scheme: dark) {
:root { ${variables('dark')} }
${darkColours}
}`;
