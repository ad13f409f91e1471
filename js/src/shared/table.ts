import { h } from './dom';

const CELLS = 3000; // a table of more stops a page; that rows are left out is said

export type Value = string | number | null;

/** Rows of numbers and text as a table, for screen readers and for copying; `written` says how a value is. */
export function dataTable(
  title: string,
  rows: readonly (readonly Value[])[],
  written: (value: Value, column: number) => Value = value => value
): HTMLElement {
  const [head = [], ...body] = rows;
  const fits = Math.max(1, Math.floor(CELLS / Math.max(1, head.length)));
  const part = body.length > fits ? ` The first ${fits} of ${body.length} rows; CSV has them all.` : '';
  return h(
    'div',
    { class: 'nbsight-table', tabindex: 0 },
    h(
      'table',
      {},
      h('caption', {}, `${title}${part}`),
      h('thead', {}, h('tr', {}, ...head.map(name => h('th', { scope: 'col' }, String(name))))),
      h(
        'tbody',
        {},
        ...body
          .slice(0, fits)
          .map(row => h('tr', {}, ...row.map((value, i) => h('td', {}, String(written(value, i) ?? '')))))
      )
    )
  );
}
