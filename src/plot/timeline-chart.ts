import type {
  CustomSeriesOption,
  CustomSeriesRenderItem,
  CustomSeriesRenderItemAPI,
  CustomSeriesRenderItemReturn,
  EChartsOption,
  GridComponentOption,
  XAXisComponentOption,
  YAXisComponentOption,
} from 'echarts';
import type { BackupTimeline, BarrierSpan, CopySpan } from '../backup/timeline.js';
import { invariant } from '../runtime/errors.js';
import { formatDuration } from '../runtime/sizes.js';
import { draw } from './draw.js';
import { colours } from './palette.js';

/** So many servers have a row. */
const MAX_ROWS = 100;

/** All lengths in pixels. */
const WIDTH = 960;
const LEFT = { least: 80, most: 260, perCharacter: 7.5 };
const RIGHT = 20;
const TOP = 76;
const BOTTOM = 40;
const GAP = 30;

/** A cut over all that takes less than this share of the backup is drawn a second time, larger. */
const SHORT_SHARE = 0.2;

/** What is drawn: the backup whole and, where it would be a hair's breadth there, the cut over all servers. */
interface Panel {
  title: string;
  fromMs: number;
  toMs: number;
  left: number;
  width: number;
}

interface Picture {
  ids: readonly string[];
  /** Where the panels begin, right of the IDs. */
  left: number;
  barriers: readonly BarrierSpan[];
  copies: readonly CopySpan[];
  /** While all barriers were up together. */
  together: { fromMs: number; toMs: number } | undefined;
  panels: readonly Panel[];
  rowHeight: number;
}

/**
 * Draws a backup: a row for each server, with its barriers above and the progress of its copies below.
 *
 * @returns an SVG document.
 */
export async function drawTimeline(timeline: BackupTimeline, elapsedMs: number): Promise<string> {
  const picture = compose(timeline, elapsedMs);
  const height = TOP + picture.ids.length * picture.rowHeight + BOTTOM;
  return draw(describe(picture), { width: WIDTH, height });
}

function compose({ barriers, copies }: BackupTimeline, elapsedMs: number): Picture {
  const ids = serversShown({ barriers });
  const longest = Math.max(...ids.map((id) => id.length));
  const left = Math.min(LEFT.most, Math.max(LEFT.least, 24 + longest * LEFT.perCharacter));
  const cut = cutOverAll(barriers);
  const whole = { title: `the backup, ${formatDuration(elapsedMs)}`, fromMs: 0, toMs: elapsedMs, left };
  const width = WIDTH - left - RIGHT;
  const panels: Panel[] = [{ ...whole, width }];
  if (cut && cut.toMs - cut.fromMs < SHORT_SHARE * elapsedMs) {
    const large = Math.round((width - GAP) * 0.6);
    const marginMs = (cut.toMs - cut.fromMs) / 20;
    panels.splice(0, 1, { ...whole, width: large });
    panels.push({
      title: `${ids.length > 1 ? 'the cut over all' : 'the last cut'}, ${formatDuration(cut.toMs - cut.fromMs)}`,
      fromMs: cut.fromMs - marginMs,
      toMs: cut.toMs + marginMs,
      left: left + large + GAP,
      width: width - GAP - large,
    });
  }
  const shown = new Set(ids);
  return {
    ids,
    left,
    barriers: barriers.filter(({ id }) => shown.has(id)),
    copies: copies.filter(({ id }) => shown.has(id)),
    together: cut?.together,
    panels,
    rowHeight: ids.length <= 12 ? 44 : ids.length <= 40 ? 22 : 12,
  };
}

/** The IDs of the servers that are drawn: where there are very many, those whose barriers were up for longest. */
export function serversShown({ barriers }: Pick<BackupTimeline, 'barriers'>): string[] {
  const holdsMs = new Map<string, number>();
  for (const { id, holdMs } of barriers) holdsMs.set(id, (holdsMs.get(id) ?? 0) + holdMs);
  const ids = [...holdsMs.keys()];
  if (ids.length <= MAX_ROWS) return ids;
  const longest = new Set(
    ids.toSorted((a, b) => (holdsMs.get(b) ?? 0) - (holdsMs.get(a) ?? 0)).slice(0, MAX_ROWS),
  );
  return ids.filter((id) => longest.has(id));
}

/** The last cut, if it was one over all servers: from the first request to the last answer. */
function cutOverAll(
  barriers: readonly BarrierSpan[],
): { fromMs: number; toMs: number; together: Picture['together'] } | undefined {
  const last = barriers.at(-1)?.cut;
  const spans = barriers.filter(({ cut }) => cut === last);
  if (spans.length < new Set(barriers.map(({ id }) => id)).size) return undefined;
  const together = {
    fromMs: Math.max(...spans.map(({ confirmedMs }) => confirmedMs)),
    toMs: Math.min(...spans.map(({ releaseMs }) => releaseMs)),
  };
  invariant(together.fromMs <= together.toMs, 'the barriers of one cut overlap');
  const fromMs = Math.min(...spans.map(({ cutMs }) => cutMs));
  const toMs = Math.max(...spans.map(({ releasedMs }) => releasedMs));
  return { fromMs, toMs, together: spans.length > 1 ? together : undefined };
}

function describe(picture: Picture): EChartsOption {
  const { panels } = picture;
  return {
    title: panels.map(({ title, left }) => ({
      text: title,
      left,
      top: TOP - 30,
      padding: 0,
      textStyle: { fontSize: 13, color: colours.ink },
    })),
    legend: {
      left: picture.left,
      top: 12,
      itemGap: 28,
      padding: 0,
      itemWidth: 16,
      itemHeight: 10,
      icon: 'rect',
      selectedMode: false,
      textStyle: { color: colours.ink },
      data: legendOf(picture),
    },
    grid: panels.map((panel) => gridOf(panel, picture)),
    xAxis: panels.map((panel, index) => timeAxis(panel, index)),
    yAxis: panels.map((_, index) => serverAxis(picture, index)),
    series: panels.flatMap((_, index) => seriesOf(picture, index)),
  };
}

function legendOf({ together, barriers }: Picture): string[] {
  const names = ['draining', 'barrier up', 'writes wait', 'copied'];
  return names
    .filter((name) => name !== 'writes wait' || barriers.some(({ parkedRequests }) => parkedRequests > 0))
    .concat(together ? ['all barriers up'] : []);
}

function gridOf({ left, width }: Panel, { ids, rowHeight }: Picture): GridComponentOption {
  return { left, width, top: TOP, height: ids.length * rowHeight };
}

function timeAxis({ fromMs, toMs }: Panel, gridIndex: number): XAXisComponentOption {
  return {
    type: 'value',
    gridIndex,
    min: 0,
    max: toMs - fromMs,
    splitNumber: gridIndex === 0 ? 6 : 3,
    axisLabel: {
      color: colours.quiet,
      hideOverlap: true,
      showMaxLabel: false,
      formatter: (ms: number) => (ms === 0 ? '0' : formatDuration(ms)),
    },
    axisLine: { show: true, lineStyle: { color: colours.line } },
    axisTick: { show: true, lineStyle: { color: colours.line } },
    splitLine: { show: false },
  };
}

function serverAxis({ ids, left, rowHeight }: Picture, gridIndex: number): YAXisComponentOption {
  return {
    type: 'category',
    gridIndex,
    inverse: true,
    data: [...ids],
    axisLabel: {
      show: gridIndex === 0,
      color: colours.ink,
      interval: 0,
      fontSize: Math.min(12, rowHeight - 2),
      width: left - 14,
      overflow: 'truncate',
    },
    axisLine: { lineStyle: { color: colours.line } },
    axisTick: { show: false },
    splitLine: { show: true, lineStyle: { color: colours.line } },
  };
}

/** A shape in the row of a server. `top` and `bottom` are shares of the row's height. */
interface Mark {
  id: string;
  fromMs: number;
  toMs: number;
  top: number;
  bottom: number;
  /** What is written on it where there is room. */
  label?: string;
  /** A curve under which is filled, instead of a rectangle; heights are shares of the mark's. */
  curve?: readonly (readonly [atMs: number, height: number])[];
}

const BARRIER = { top: 0.12, bottom: 0.5 };
const PARKED = { top: 0.38, bottom: 0.5 };
const COPY = { top: 0.56, bottom: 0.92 };

function seriesOf(picture: Picture, index: number): CustomSeriesOption[] {
  const { ids, barriers, copies, together } = picture;
  const series = (name: string, color: string, marks: readonly Mark[]): CustomSeriesOption =>
    seriesOfMarks({ name, color, marks, picture, index });
  return [
    series(
      'all barriers up',
      colours.together,
      together ? ids.map((id) => ({ id, ...together, top: 0, bottom: 1 })) : [],
    ),
    series(
      'copying',
      colours.copying,
      copies.map(({ id, startMs, endMs }) => ({ id, fromMs: startMs, toMs: endMs, ...COPY })),
    ),
    series('copied', colours.copied, copies.map(progressMark)),
    series(
      'draining',
      colours.draining,
      barriers.map(({ id, cutMs, confirmedMs }) => ({ id, fromMs: cutMs, toMs: confirmedMs, ...BARRIER })),
    ),
    series('barrier up', colours.barrier, barriers.map(barrierMark)),
    series(
      'writes wait',
      colours.parked,
      barriers
        .filter(({ parkedRequests }) => parkedRequests > 0)
        // All that waited did so until the barrier came down.
        .map(({ id, releasedMs, longestParkMs }) => ({
          id,
          fromMs: releasedMs - longestParkMs,
          toMs: releasedMs,
          ...PARKED,
        })),
    ),
  ];
}

function barrierMark({ id, confirmedMs, releasedMs, parkedRequests }: BarrierSpan): Mark {
  const label = parkedRequests > 0 ? `${parkedRequests.toLocaleString('en')} waited` : '';
  return { id, fromMs: confirmedMs, toMs: releasedMs, ...BARRIER, label };
}

function progressMark({ id, startMs, endMs, totalBytes, points }: CopySpan): Mark {
  const curve = points.map(([atMs, doneBytes]) => [atMs, doneBytes / Math.max(1, totalBytes)] as const);
  return { id, fromMs: startMs, toMs: endMs, ...COPY, curve };
}

function seriesOfMarks(what: {
  name: string;
  color: string;
  marks: readonly Mark[];
  picture: Picture;
  index: number;
}): CustomSeriesOption {
  const { name, color, marks, picture, index } = what;
  const { ids, rowHeight, panels } = picture;
  const { fromMs, toMs } = panels[index] ?? { fromMs: 0, toMs: 0 };
  const rows = new Map(ids.map((id, row) => [id, row]));
  const inView = marks.filter((mark) => mark.toMs >= fromMs && mark.fromMs <= toMs);
  const renderItem: CustomSeriesRenderItem = ({ dataIndex }, api) => {
    const mark = inView[dataIndex];
    return mark && shapeOf(mark, { color, rowHeight, fromMs, row: rows.get(mark.id) ?? 0 }, api);
  };
  return {
    type: 'custom',
    name,
    color,
    silent: true,
    clip: true,
    xAxisIndex: index,
    yAxisIndex: index,
    renderItem,
    encode: { x: [0, 1], y: 2 },
    data: inView.map((mark) => [mark.fromMs - fromMs, mark.toMs - fromMs, rows.get(mark.id) ?? 0]),
  };
}

function shapeOf(
  mark: Mark,
  place: { color: string; rowHeight: number; fromMs: number; row: number },
  api: CustomSeriesRenderItemAPI,
): CustomSeriesRenderItemReturn {
  const { color, rowHeight, fromMs, row } = place;
  const [, middle = 0] = api.coord([0, row]);
  const at = (ms: number): number => api.coord([ms - fromMs, row])[0] ?? 0;
  const top = middle + (mark.top - 0.5) * rowHeight;
  const bottom = middle + (mark.bottom - 0.5) * rowHeight;
  if (mark.curve) {
    const line = mark.curve.map(([ms, height]) => [at(ms), bottom - height * (bottom - top)]);
    const points = [[at(mark.fromMs), bottom], ...line, [at(mark.toMs), bottom]];
    return { type: 'polygon', shape: { points }, style: { fill: color } };
  }
  const x = at(mark.fromMs);
  // Nothing that happened is too short to be seen.
  const width = Math.max(1, at(mark.toMs) - x);
  const rectangle: CustomSeriesRenderItemReturn = {
    type: 'rect',
    shape: { x, y: top, width, height: bottom - top },
    style: { fill: color },
  };
  const { label = '' } = mark;
  if (label === '' || rowHeight < 30 || width < label.length * 7) return rectangle;
  const style = { text: label, fill: colours.paper, fontSize: 11 };
  return { ...rectangle, textContent: { type: 'text', style }, textConfig: { position: [5, 1] } };
}
