import type { EChartsOption, LineSeriesOption, XAXisComponentOption, YAXisComponentOption } from 'echarts';
import type { Strategy } from '../../backup/image/record.js';
import { draw } from '../../plot/draw.js';
import type { Forecast } from './plan.js';

const PANEL = { widthPx: 340, heightPx: 300, leftPx: 80, topPx: 70, gapPx: 40, bottomPx: 60 };

/** From what most clients see to what the unluckiest sees: the darker, the rarer. */
const LINES = [
  { name: 'p50', quantile: 'p50', color: '#9ecae1' },
  { name: 'p90', quantile: 'p90', color: '#6baed6' },
  { name: 'p99', quantile: 'p99', color: '#3182bd' },
  { name: 'p99.9', quantile: 'p999', color: '#08519c' },
  { name: 'max', quantile: 'max', color: '#d94801' },
] as const;

/**
 * Draws how long parked writes wait against the number of servers, both logarithmic: a panel for each strategy, all with
 * the same axes, and in each a line for each percentile.
 *
 * @returns an SVG document.
 */
export async function drawStalls(forecasts: readonly Forecast[]): Promise<string> {
  const strategies = [...new Set(forecasts.map(({ strategy }) => strategy))];
  const panels = strategies.map((strategy) => ({
    strategy,
    forecasts: forecasts.filter((forecast) => forecast.strategy === strategy),
  }));
  return draw(describe(panels), {
    width: PANEL.leftPx + panels.length * (PANEL.widthPx + PANEL.gapPx),
    height: PANEL.topPx + PANEL.heightPx + PANEL.bottomPx,
  });
}

interface Panel {
  strategy: Strategy;
  forecasts: readonly Forecast[];
}

function describe(panels: readonly Panel[]): EChartsOption {
  const all = panels.flatMap(({ forecasts }) => forecasts);
  const left = (index: number): number => PANEL.leftPx + index * (PANEL.widthPx + PANEL.gapPx);
  return {
    legend: { data: LINES.map(({ name }) => name), top: 8, left: PANEL.leftPx, selectedMode: false },
    title: panels.map(({ strategy }, index) => ({
      text: strategy,
      left: left(index),
      top: PANEL.topPx - 30,
      textStyle: { fontSize: 14 },
    })),
    grid: panels.map((_, index) => ({
      left: left(index),
      top: PANEL.topPx,
      width: PANEL.widthPx,
      height: PANEL.heightPx,
    })),
    xAxis: panels.map((_, index) => serversAxis(index, all)),
    yAxis: panels.map((_, index) => waitAxis(index, all)),
    series: panels.flatMap((panel, index) => linesOf(panel, index)),
  };
}

function linesOf({ forecasts }: Panel, index: number): LineSeriesOption[] {
  return LINES.map(({ name, quantile, color }) => ({
    type: 'line',
    silent: true,
    name,
    color,
    symbol: 'circle',
    symbolSize: 6,
    xAxisIndex: index,
    yAxisIndex: index,
    data: forecasts.flatMap(({ servers, stallMs }) => (stallMs ? [[servers, stallMs[quantile]]] : [])),
  }));
}

function serversAxis(gridIndex: number, forecasts: readonly Forecast[]): XAXisComponentOption {
  return {
    type: 'log',
    gridIndex,
    name: 'servers',
    nameLocation: 'middle',
    nameGap: 30,
    ...decades(forecasts.map(({ servers }) => servers)),
    axisLabel: { formatter: (servers: number) => servers.toLocaleString('en') },
  };
}

function waitAxis(gridIndex: number, forecasts: readonly Forecast[]): YAXisComponentOption {
  return {
    type: 'log',
    gridIndex,
    ...(gridIndex === 0 ? { name: 'a parked write waits', nameLocation: 'middle', nameGap: 60 } : {}),
    ...decades(forecasts.flatMap(({ stallMs }) => (stallMs ? [stallMs.p50, stallMs.max] : []))),
    axisLabel: { show: gridIndex === 0, formatter: timeInShort },
  };
}

/** The bounds of an axis: whole decades around the values, each with a tick. */
function decades(values: readonly number[]): { min: number; max: number; splitNumber: number } {
  if (values.length === 0) return { min: 1, max: 10, splitNumber: 1 };
  const first = Math.floor(Math.log10(Math.min(...values)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...values))));
  return { min: 10 ** first, max: 10 ** last, splitNumber: last - first };
}

/** In the largest unit of which there are some. */
function timeInShort(ms: number): string {
  const units: readonly (readonly [unitMs: number, name: string])[] = [
    [86_400_000, 'days'],
    [3_600_000, 'h'],
    [60_000, 'min'],
    [1000, 's'],
    [1, 'ms'],
    [0.001, 'us'],
  ];
  const [unitMs, name] = units.find(([each]) => ms >= each) ?? [0.001, 'us'];
  return `${Number((ms / unitMs).toPrecision(2))} ${name}`;
}
