import { flipped, type HeatmapSpec } from './paint';
import { gradient, inks } from './palette';
import { escaped, label, MONO, sheet, shorten, tag } from './svg';

const CELLS = 20_000; // a file of more opens slowly; that columns are left out is said in it

export interface Caption {
  title: string;
  /** ends of the scale and what it means */
  scale?: { low: string; high: string; meaning: string; signed: boolean };
}

/** A heatmap as a file, on white: what a paper needs. */
export function heatmapSvg(
  spec: HeatmapSpec,
  columnLabels: readonly string[],
  { title, scale }: Caption
): string {
  const { ink, muted, page } = inks(false);
  const columns = Math.min(spec.columns, Math.max(1, Math.floor(CELLS / Math.max(1, spec.rows.length))));
  const wide = columns > 80 ? 12 : columns > 24 ? 28 : 56;
  const high = spec.rows.length > 48 ? 9 : 20;
  const [left, top] = [46, 34];
  const slanted = wide < 56;
  const bottom = top + high * spec.rows.length;
  const parts = [label(title, 12, 20, { fill: ink, 'font-size': 13, 'font-weight': 600 })];
  spec.rows.forEach((name, row) => {
    const y = top + flipped(spec, row) * high;
    if (high > 12 || row % 4 === 0) {
      parts.push(label(name, left - 8, y + high / 2 + 4, { fill: muted, 'text-anchor': 'end' }));
    }
    for (let column = 0; column < columns; column++) {
      const { fill, ink: on } = spec.swatch(row, column, false);
      const x = left + column * wide;
      parts.push(tag('rect', { x, y, width: wide - 1, height: high - 1, fill }));
      const text = wide >= 34 && high >= 15 ? spec.text?.(row, column) : '';
      if (text) {
        const attributes = { fill: on, 'text-anchor': 'middle', 'font-size': 10 };
        parts.push(label(shorten(text, 9), x + wide / 2 - 0.5, y + high / 2 + 3.5, attributes));
      }
    }
  });
  columnLabels.slice(0, columns).forEach((name, column) => {
    const x = left + (column + 0.5) * wide;
    const attributes = { fill: ink, 'font-family': MONO, 'font-size': 10 };
    parts.push(
      slanted
        ? label(shorten(name, 12), 0, 0, {
            ...attributes,
            'text-anchor': 'end',
            transform: `translate(${x} ${bottom + 12}) rotate(-50)`
          })
        : label(shorten(name, 8), x, bottom + 15, { ...attributes, 'text-anchor': 'middle' })
    );
  });
  let foot = bottom + (slanted ? 84 : 30);
  if (scale) {
    const stops = /\((?:to right, )?(.*)\)$/.exec(gradient(false, scale.signed))![1]!.split(', ');
    const stop = (colour: string, i: number) =>
      tag('stop', { offset: `${(100 * i) / (stops.length - 1)}%`, 'stop-color': colour });
    parts.push(
      tag('defs', {}, tag('linearGradient', { id: 'scale' }, stops.map(stop).join(''))),
      label(scale.low, left, foot + 9, { fill: muted }),
      tag('rect', { x: left + 44, y: foot, width: 132, height: 10, rx: 2, fill: 'url(#scale)' }),
      label(`${scale.high}   ${scale.meaning}`, left + 184, foot + 9, { fill: muted })
    );
    foot += 20;
  }
  if (columns < spec.columns) {
    parts.push(label(`The first ${columns} of ${spec.columns} columns.`, left, foot + 10, { fill: muted }));
    foot += 16;
  }
  return sheet(
    Math.max(left + columns * wide + 16, 460),
    foot + 8,
    `<title>${escaped(title)}</title>${parts.join('')}`,
    page
  );
}
