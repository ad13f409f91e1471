import { h } from '../../shared/dom';
import { type Inks, inks } from '../../shared/palette';
import { drawn, label, sheet, tag } from '../../shared/svg';
import { bytes, number } from '../../shared/tokens';
import type { InspectorHeader } from './types';

const NAMES: Record<string, string> = {
  low: 'smallest',
  high: 'largest',
  norm: 'L2 norm',
  zero: 'exactly 0'
};

/** What is said of the whole tensor: sizes, statistics, histogram, channels that stand out. */
export function facts(header: InspectorHeader, counts: ArrayLike<number>, dark: boolean): HTMLElement[] {
  const { statistics, channels } = header;
  const bad = ['NaN', 'infinite'].filter(name => (statistics[name] ?? 0) > 0);
  const share = (name: string) => {
    const value = statistics[name] ?? 0;
    return value
      ? `${value.toLocaleString('en')} (${number((100 * value) / (statistics.count || 1), 2)} %)`
      : '0';
  };
  const rows = Object.entries(statistics)
    .filter(([name]) => name !== 'count')
    .map(([name, value]) => {
      const isCount = ['NaN', 'infinite', 'zero'].includes(name);
      const said = isCount ? share(name) : value === null ? '–' : number(value, 4);
      return [
        h('dt', { 'data-bad': bad.includes(name) }, NAMES[name] ?? name),
        h('dd', { 'data-bad': bad.includes(name) }, said)
      ];
    });
  const isOutlier = (channels[0]?.size ?? 0) > 10;
  return [
    h('h3', {}, 'All numbers'),
    h('p', {}, `${header.shape.join(' × ')} · ${header.dtype} · ${header.device} · ${bytes(header.bytes)}`),
    ...bad.map(name =>
      h('div', { class: 'nbsight-badge', role: 'note' }, `${share(name)} of the numbers are ${name}.`)
    ),
    h('dl', { class: 'nbsight-inspector-facts' }, ...rows.flat()),
    h('div', { class: 'nbsight-inspector-histogram' }, drawn(histogramSvg(header, counts, inks(dark), dark))),
    ...(channels.length
      ? [
          h('h3', {}, isOutlier ? 'Outlier channels' : 'Largest channels'),
          h('p', {}, 'root mean square, in times the median channel'),
          h(
            'ul',
            { class: 'nbsight-inspector-channels' },
            ...channels
              .slice(0, 6)
              .map(({ channel, size }) =>
                h('li', {}, h('code', {}, String(channel)), h('span', {}, `${number(size, 2)} ×`))
              )
          )
        ]
      : [])
  ];
}

function histogramSvg(
  header: InspectorHeader,
  counts: ArrayLike<number>,
  colours: Inks,
  dark: boolean
): string {
  const [width, height, left] = [212, 64, 0];
  const most = Math.max(...Array.from(counts), 1);
  // Of a tensor with outliers all but one bin would be flat: the height is that of a logarithm.
  const tall = (count: number) =>
    count ? Math.max(1.5, (Math.log1p(count) / Math.log1p(most)) * height) : 0;
  const step = (width - left) / counts.length;
  const bars = Array.from(counts).map((count, i) =>
    tag('rect', {
      x: left + i * step,
      y: height - tall(count),
      width: Math.max(0.5, step - 0.6),
      height: tall(count),
      fill: dark ? '#4fa1a7' : '#328fa8'
    })
  );
  const [low, high] = header.edges;
  const zero = low < 0 && high > 0 ? left + ((0 - low) / (high - low)) * (width - left) : null;
  return sheet(
    width,
    height + 30,
    bars.join('') +
      tag('line', { x1: left, x2: width, y1: height + 0.5, y2: height + 0.5, stroke: colours.line }) +
      (zero === null
        ? ''
        : tag('line', { x1: zero, x2: zero, y1: height, y2: height + 4, stroke: colours.muted })) +
      label(number(low, 2), left, height + 14, { fill: colours.muted, 'font-size': 10 }) +
      (zero !== null && zero > 36 && zero < width - 36
        ? label('0', zero, height + 14, { fill: colours.muted, 'font-size': 10, 'text-anchor': 'middle' })
        : '') +
      label(number(high, 2), width, height + 14, {
        fill: colours.muted,
        'font-size': 10,
        'text-anchor': 'end'
      }) +
      label('how many, log height', width / 2, height + 27, {
        fill: colours.muted,
        'font-size': 10,
        'text-anchor': 'middle'
      })
  );
}
