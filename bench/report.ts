import { columns } from '#src/cli/table';
import { formatBytes, formatDuration } from '#src/runtime/sizes';
import type { Ratio } from './ratio.js';

/** What the numbers of a column are. It decides how they are shown to people; JSON has them as they are. */
export type Unit = 'text' | 'count' | 'bytes' | 'bytes/s' | 'ms' | 'ratio';

export interface Column {
  name: string;
  unit: Unit;
}

/** Null: not measured here. */
export type Cell = string | number | Ratio | null;

export interface Table {
  title: string;
  columns: Column[];
  /** One cell per column. */
  rows: Cell[][];
}

/** What a table cannot show: distributions, and how something grows. JSON and the page have it. */
export interface Plot {
  title: string;
  x: Axis;
  y: Axis;
  series: Series[];
}

export interface Axis {
  name: string;
  unit: Unit;
  scale: 'linear' | 'log';
}

/** One line of a plot. */
export interface Series {
  name: string;
  /** In the order of x. */
  points: [x: number, y: number][];
}

/** What a suite found. */
export interface Report {
  tables: Table[];
  plots?: Plot[];
  /** What has to be known to read the tables. */
  notes: string[];
}

/** A report for people. */
export function formatReport(name: string, { tables, notes }: Report): string {
  const parts = tables.map((table) => `${table.title}\n\n${formatTable(table)}\n`);
  return [`== ${name} ==\n`, ...parts, ...notes.map((note) => `${note}\n`)].join('\n');
}

function formatTable(table: Table): string {
  const names = table.columns.map(({ name, unit }) => (unit === 'text' ? name : `>${name}`));
  const rows = table.rows.map((row) => table.columns.map(({ unit }, i) => formatCell(row[i] ?? null, unit)));
  return columns(names, rows);
}

/** A cell for people. */
export function formatCell(cell: Cell, unit: Unit): string {
  if (cell === null) return '-';
  if (typeof cell === 'string') return cell;
  if (typeof cell === 'object') {
    const [median, min, max] = [cell.median, cell.min, cell.max].map((value) => value.toFixed(2));
    return `${median} (${min}..${max})`;
  }
  switch (unit) {
    case 'bytes':
      return formatBytes(cell);
    case 'bytes/s':
      return `${formatBytes(cell)}/s`;
    case 'ms':
      return formatDuration(cell);
    case 'ratio':
      return cell.toFixed(2);
    case 'text':
    case 'count':
      return String(cell);
  }
}
