import type { EChartsOption } from 'echarts';
import { colours } from './palette.js';

/** The size of a picture, in pixels. */
export interface PictureSize {
  width: number;
  height: number;
}

const look: EChartsOption = {
  animation: false,
  backgroundColor: colours.paper,
  textStyle: { fontFamily: 'sans-serif', color: colours.ink },
};

/**
 * Draws a chart.
 *
 * @returns an SVG document, which needs nothing but itself.
 */
export async function draw(chart: EChartsOption, size: PictureSize): Promise<string> {
  // It takes a while to load, and most commands draw nothing.
  const { init, use } = await import('echarts/core');
  const [{ BarChart, CustomChart, LineChart }, components, { SVGRenderer }] = await Promise.all([
    import('echarts/charts'),
    import('echarts/components'),
    import('echarts/renderers'),
  ]);
  const { GridComponent, LegendComponent, MarkAreaComponent, MarkLineComponent, TitleComponent } = components;
  use([BarChart, CustomChart, LineChart, GridComponent, LegendComponent, MarkAreaComponent]);
  use([MarkLineComponent, TitleComponent, SVGRenderer]);
  const canvas = init(null, null, { renderer: 'svg', ssr: true, ...size });
  try {
    canvas.setOption({ ...look, ...chart });
    return canvas.renderToSVGString();
  } finally {
    canvas.dispose();
  }
}
