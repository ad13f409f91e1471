import { h } from '../../shared/dom';
import { probability, visible } from '../../shared/tokens';
import type { LensData } from './data';

const CELLS = 3000; // a table of more stops a page; which columns are shown is said

/** The same numbers as a table, for screen readers and for copying. */
export function lensTable(
  data: LensData,
  around: number,
  cells = CELLS,
  layers: readonly number[] = data.rows(1, null)
): HTMLElement {
  const fits = Math.max(1, Math.floor(cells / layers.length));
  const first = Math.max(0, Math.min(around - Math.floor(fits / 2), data.nPositions - fits));
  const positions = Array.from({ length: Math.min(fits, data.nPositions) }, (_, i) => first + i);
  const all = positions.length === data.nPositions;
  const part = all ? '' : ` Positions ${first} to ${first + positions.length - 1} of ${data.nPositions}.`;
  const skipped = layers.length < data.nLayers ? ` ${layers.length} of ${data.nLayers} layers.` : '';
  const head = h('tr', {}, h('th', { scope: 'col' }, 'Layer'));
  for (const position of positions) {
    const token = visible(data.header.tokens[position]!);
    head.append(h('th', { scope: 'col' }, `${position} `, h('code', {}, token)));
  }
  const body = h('tbody');
  for (const layer of [...layers].reverse()) {
    const row = h('tr', {}, h('th', { scope: 'row' }, String(data.header.layers[layer])));
    for (const position of positions) {
      const value = h('span', {}, probability(data.prob([layer, position])));
      row.append(h('td', {}, h('code', {}, visible(data.token([layer, position]))), value));
    }
    body.append(row);
  }
  const caption = h('caption', {}, `Top next token and its probability, last layer first.${skipped}${part}`);
  return h(
    'div',
    { class: 'nbsight-table', tabindex: 0 },
    h('table', {}, caption, h('thead', {}, head), body)
  );
}
