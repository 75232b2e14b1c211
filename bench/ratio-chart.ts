import type { CustomSeriesOption, CustomSeriesRenderItem, EChartsOption } from 'echarts';
import { draw } from '#src/plot/draw';
import { colours, distinct } from '#src/plot/palette';
import type { Ratio } from './ratio.js';
import { formatCell, type Cell, type Table } from './report.js';

/** All lengths in pixels. */
const WIDTH = 960;
const LEFT = 250;
const TOP = 44;
const BOTTOM = 36;
const BAR_HEIGHT = 16;
const ROW_GAP = 12;

interface Bars {
  labels: string[];
  columns: { name: string; ratios: (Ratio | undefined)[] }[];
}

/**
 * Draws the ratios of a table as bars that begin at 1, with a line from the least to the greatest of the rounds.
 *
 * @returns an SVG document, or undefined if the table has no ratios.
 */
export async function drawRatios(table: Table): Promise<string | undefined> {
  const bars = barsOf(table);
  const all = bars.columns.flatMap(({ ratios }) => ratios).filter((ratio) => ratio !== undefined);
  if (all.length === 0) return undefined;
  const rowHeight = bars.columns.length * BAR_HEIGHT + ROW_GAP;
  const height = TOP + bars.labels.length * rowHeight + BOTTOM;
  return await draw(describe(bars, all, rowHeight), { width: WIDTH, height });
}

function barsOf({ columns, rows }: Table): Bars {
  // What comes before is what was measured.
  const measured = columns.findIndex(
    ({ unit, name }) => ['ms', 'bytes/s', 'ratio'].includes(unit) || name.endsWith('/s'),
  );
  const labels = rows.map((row) =>
    columns
      .slice(0, measured)
      .map(({ unit, name }, i) => (unit === 'text' ? '' : `${name} `) + formatCell(row[i] ?? null, unit))
      .join(', '),
  );
  return {
    labels,
    columns: columns.flatMap(({ name, unit }, i) => {
      const ratios = rows.map((row) => ratioOf(row[i] ?? null));
      return unit === 'ratio' && ratios.some((ratio) => ratio !== undefined) ? [{ name, ratios }] : [];
    }),
  };
}

function ratioOf(cell: Cell): Ratio | undefined {
  if (typeof cell === 'number') return ratioOf({ median: cell, min: cell, max: cell });
  // A time of nothing at all has no place on a logarithmic axis.
  return cell !== null && typeof cell === 'object' && cell.min > 0 && Number.isFinite(cell.max)
    ? cell
    : undefined;
}

function describe({ labels, columns }: Bars, all: readonly Ratio[], rowHeight: number): EChartsOption {
  const least = Math.min(0.9, ...all.map(({ min }) => min));
  const greatest = Math.max(1.1, ...all.map(({ max }) => max));
  const logBase = greatest / least > 200 ? 10 : 2;
  const power = (value: number, round: (exponent: number) => number): number =>
    logBase ** round(Math.log(value) / Math.log(logBase));
  return {
    grid: { left: LEFT, right: 70, top: TOP, height: labels.length * rowHeight },
    legend: {
      left: LEFT,
      top: 10,
      itemGap: 28,
      itemWidth: 16,
      itemHeight: 10,
      icon: 'rect',
      selectedMode: false,
      textStyle: { color: colours.ink },
    },
    xAxis: {
      type: 'log',
      logBase,
      min: power(least, Math.floor),
      max: power(greatest, Math.ceil),
      axisLabel: { color: colours.quiet, formatter: (value: number) => String(Number(value.toPrecision(3))) },
      splitLine: { lineStyle: { color: colours.line } },
    },
    yAxis: {
      type: 'category',
      inverse: true,
      data: labels,
      axisLabel: { color: colours.ink, interval: 0, width: LEFT - 16, overflow: 'truncate' },
      axisLine: { lineStyle: { color: colours.line } },
      axisTick: { show: false },
    },
    series: columns.map((column, index) => barSeries(column, index, columns.length)),
  };
}

function barSeries({ name, ratios }: Bars['columns'][0], index: number, count: number): CustomSeriesOption {
  const color = distinct[index % distinct.length] ?? '';
  const renderItem: CustomSeriesRenderItem = ({ dataIndex }, api) => {
    const ratio = ratios[dataIndex];
    if (!ratio) return undefined;
    const at = (value: number): [number, number] => api.coord([value, dataIndex]) as [number, number];
    const middle = at(1)[1] + (index - (count - 1) / 2) * BAR_HEIGHT;
    const [from, to, least, greatest] = [1, ratio.median, ratio.min, ratio.max].map((value) => at(value)[0]);
    if (from === undefined || to === undefined || least === undefined || greatest === undefined)
      return undefined;
    const line = { stroke: colours.ink, lineWidth: 1 };
    return {
      type: 'group',
      children: [
        {
          type: 'rect',
          shape: {
            x: Math.min(from, to),
            y: middle - 6,
            width: Math.max(1, Math.abs(to - from)),
            height: 12,
          },
          style: { fill: color },
        },
        { type: 'line', shape: { x1: least, y1: middle, x2: greatest, y2: middle }, style: line },
        { type: 'line', shape: { x1: least, y1: middle - 3, x2: least, y2: middle + 3 }, style: line },
        { type: 'line', shape: { x1: greatest, y1: middle - 3, x2: greatest, y2: middle + 3 }, style: line },
        {
          type: 'text',
          x: Math.max(from, to, greatest) + 5,
          y: middle - 5,
          style: { text: ratio.median.toFixed(2), fill: colours.quiet, fontSize: 11 },
        },
      ],
    };
  };
  const data = ratios.map((ratio, row) => [ratio?.median ?? 1, row]);
  return { type: 'custom', name, color, silent: true, renderItem, encode: { x: 0, y: 1 }, data };
}
