import { clamp, h } from './dom';
import { probability, visible } from './tokens';

const SHOWN = 8;
const LEAST = 0.003; // marks at 0 would lie on each other and say nothing

/** The likeliest tokens of several runs, and what each run makes of them (nbsight/widgets/tops.py). */
export interface Tops {
  ids: number[];
  tokens: string[];
  probs: Record<string, (number | null)[]>;
}

/** Next tokens as bars of one run that move, with marks where other runs have them. */
export class Bars {
  readonly node = h('div', {});
  private readonly list = h('ol', { class: 'nbsight-bars' });
  private readonly keys: HTMLElement[];
  private readonly rows = new Map<number, HTMLElement>();

  constructor(
    private readonly run: string,
    private readonly marks: readonly string[]
  ) {
    const key = (text: string, place: number) =>
      h('span', {}, h('i', { 'data-mark': place, 'aria-hidden': 'true' }), text);
    this.keys = marks.map((name, i) => key(name, i + 1));
    this.node.append(this.list, h('p', { class: 'nbsight-key' }, key(run, 0), ...this.keys));
  }

  show(tops: Tops | null): void {
    if (!tops) {
      this.list.replaceChildren();
      return;
    }
    const names = Object.keys(tops.probs);
    this.keys.forEach((key, i) => {
      key.hidden = !names.includes(this.marks[i]!);
    });
    const most = (i: number) => Math.max(...names.map(name => tops.probs[name]![i] ?? 0));
    const order = tops.ids
      .map((_, i) => i)
      .sort((a, b) => most(b) - most(a))
      .slice(0, SHOWN);
    this.list.replaceChildren(...order.map(i => this.row(tops, i, names)));
  }

  /** Kept by token, so that a bar moves from where it was. */
  private row(tops: Tops, i: number, names: readonly string[]): HTMLElement {
    const id = tops.ids[i]!;
    const row = this.rows.get(id) ?? this.newRow();
    this.rows.set(id, row);
    const of = (name: string) => tops.probs[name]?.[i] ?? null;
    const bar = of(this.run);
    const [token, track, value] = row.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
    token.textContent = visible(tops.tokens[i]!);
    const [own, ...marks] = track.children as unknown as HTMLElement[];
    own!.style.width = percent(bar);
    own!.hidden = bar === null;
    marks.forEach((mark, k) => {
      mark.style.left = percent(of(this.marks[k]!));
      mark.hidden = (of(this.marks[k]!) ?? 0) < LEAST;
    });
    value.textContent = bar === null ? '' : probability(bar);
    const said = names.map(name => `${name} ${probability(of(name) ?? NaN)}`).join(', ');
    row.title = `${visible(tops.tokens[i]!)} (id ${id}): ${said}`;
    row.setAttribute('aria-label', row.title);
    return row;
  }

  private newRow(): HTMLElement {
    const marks = this.marks.map((_, i) => h('b', { 'data-mark': i + 1 }));
    return h(
      'li',
      {},
      h('span', {}),
      h('span', { class: 'nbsight-bar', 'aria-hidden': 'true' }, h('i', {}), ...marks),
      h('span', {})
    );
  }
}

/** A share as the length of a bar. */
export function percent(share: number | null): string {
  return `${(100 * clamp(share ?? 0, 0, 1)).toFixed(2)}%`;
}
