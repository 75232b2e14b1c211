import type { LineSeriesOption, XAXisComponentOption, YAXisComponentOption } from 'echarts';
import { draw } from '#src/plot/draw';
import { colours, distinct } from '#src/plot/palette';
import { formatCell, type Axis, type Plot } from './report.js';

/** All lengths in pixels. */
const WIDTH = 960;
const HEIGHT = 400;
const LEGEND_WIDTH = 270;

/** @returns an SVG document with a line for each series. */
export function drawPlot({ x, y, series }: Plot): Promise<string> {
  const lines = series.map(({ name, points }, index): LineSeriesOption => ({
    type: 'line',
    name,
    silent: true,
    color: distinct[index % distinct.length] ?? '',
    // Past as many as there are colours, lines are told apart by how they are drawn.
    lineStyle: { width: 2, type: index < distinct.length ? 'solid' : 'dashed' },
    showSymbol: points.length <= 20,
    symbol: 'circle',
    symbolSize: 6,
    sampling: 'lttb',
    data: points.filter(([atX, atY]) => isOn(x, atX) && isOn(y, atY)),
  }));
  return draw(
    {
      grid: { left: 90, right: LEGEND_WIDTH + 20, top: 20, bottom: 60 },
      legend: {
        type: 'plain',
        orient: 'vertical',
        left: WIDTH - LEGEND_WIDTH,
        top: 20,
        selectedMode: false,
        textStyle: { color: colours.ink, fontSize: 11 },
      },
      xAxis: { ...axis(x), nameGap: 32 },
      yAxis: { ...axis(y), nameGap: 68 },
      series: lines,
    },
    { width: WIDTH, height: HEIGHT },
  );
}

function isOn({ scale }: Axis, value: number): boolean {
  return scale === 'linear' || value > 0;
}

function axis({ name, unit, scale }: Axis): XAXisComponentOption & YAXisComponentOption {
  return {
    type: scale === 'log' ? 'log' : 'value',
    name,
    nameLocation: 'middle',
    nameTextStyle: { color: colours.ink },
    axisLabel: {
      color: colours.quiet,
      hideOverlap: true,
      formatter: (value: number) => (value === 0 ? '0' : formatCell(value, unit)),
    },
    axisLine: { show: true, lineStyle: { color: colours.line } },
    splitLine: { lineStyle: { color: colours.line } },
  };
}
