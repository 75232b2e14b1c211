import { timelineFigure, type TimedResult } from '#src/plot/backup-page';
import { html, type Html } from '#src/plot/html';
import { facts, figure, page, table } from '#src/plot/page';
import { formatBytes, formatDuration } from '#src/runtime/sizes';
import { drawPlot } from './plot-chart.js';
import { drawRatios } from './ratio-chart.js';
import { formatCell, type Report, type Table } from './report.js';

export interface Machine {
  processor: string;
  processors: number;
  memoryBytes: number;
  system: string;
  node: string;
}

export interface NamedReport extends Report {
  name: string;
  summary: string;
}

/** One page with everything that was measured, and a picture of what pictures show better. */
export async function benchPage(
  machine: Machine,
  smoke: boolean,
  backups: readonly TimedResult[],
  reports: readonly NamedReport[],
): Promise<string> {
  const { processors, processor, memoryBytes, system, node } = machine;
  const about = facts([
    ['processors', `${processors} x ${processor}`],
    ['memory', formatBytes(memoryBytes)],
    ['system', system],
    ['Node', node],
    ...(smoke
      ? [['inputs', 'tiny ones, to see that everything runs: the numbers mean nothing'] as const]
      : []),
  ]);
  const sections: Html[] = [];
  for (const report of reports) sections.push(await section(report));
  return page(
    'cofferdam, measured',
    html`${about}
      <h2>What a backup does to its clients</h2>
      ${await Promise.all(backups.map(timeline))} ${sections}`,
  );
}

function timeline(result: TimedResult): Promise<Html> {
  const { strategy, devices, cut } = result;
  const sizeBytes = devices.reduce((sum, device) => sum + device.sizeBytes, 0);
  const stall = formatDuration(cut.group.stallMs);
  return timelineFigure(
    result,
    `${strategy}: ${devices.length} servers, ${formatBytes(sizeBytes)}, each with a client that writes; the last cut took ${stall}`,
  );
}

async function section({ name, summary, tables, plots = [], notes }: NamedReport): Promise<Html> {
  const parts: Html[] = [];
  for (const measured of tables) parts.push(await tableWithBars(measured));
  for (const plot of plots) parts.push(figure(await drawPlot(plot), plot.title));
  return html`<section>
    <h2>${name}</h2>
    <p>${summary}</p>
    ${parts} ${notes.map((note) => html`<p class="note">${note}</p>`)}
  </section>`;
}

async function tableWithBars(measured: Table): Promise<Html> {
  const { title, columns, rows } = measured;
  const bars = await drawRatios(measured);
  const numbers = table(
    columns.map(({ name, unit }) => ({ name, isNumber: unit !== 'text' })),
    rows.map((row) => columns.map(({ unit }, i) => formatCell(row[i] ?? null, unit))),
  );
  return html`<h3>${title}</h3>
    ${numbers}
    ${bars === undefined ? [] : [figure(bars, 'Ratios: the median of the rounds, and the line is all of them')]}`;
}
