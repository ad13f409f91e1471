import { h } from '../../shared/dom';
import { number, probability, visible } from '../../shared/tokens';
import type { Patched, Tops } from './types';

const SHOWN = 8;
const LEAST = 0.003; // marks at 0 would lie on each other and say nothing

/** What the model says next: the metric between its two ends, and bars that move. */
export class Answer {
  readonly node = h('section', { 'aria-label': 'What the model says next' });
  private readonly title = h('h3', {}, 'What the model says next');
  private readonly gauge = h('div', { class: 'nbsight-patching-gauge' });
  private readonly badges = h('div', {});
  private readonly list = h('ol', { class: 'nbsight-bars' });
  private readonly rows = new Map<number, HTMLElement>();

  constructor() {
    const key = (name: string, text: string) =>
      h('span', {}, h('i', { 'data-mark': name, 'aria-hidden': 'true' }), text);
    this.node.append(
      this.title,
      this.gauge,
      this.badges,
      this.list,
      h(
        'p',
        { class: 'nbsight-patching-key' },
        key('patched', 'patched'),
        key('clean', 'clean'),
        key('corrupted', 'corrupted')
      )
    );
  }

  show(
    patched: Patched | null,
    tops: Tops | null,
    metric: { name: string; clean: number | null; corrupted: number | null }
  ): void {
    this.drawGauge(patched, metric);
    this.badges.replaceChildren(
      ...(patched?.badges ?? []).map(text => h('div', { class: 'nbsight-badge' }, text))
    );
    this.drawBars(patched ?? tops, patched !== null);
  }

  private drawGauge(
    patched: Patched | null,
    { name, clean, corrupted }: { name: string; clean: number | null; corrupted: number | null }
  ): void {
    const at = (value: number | null) => {
      if (value === null || clean === null || corrupted === null || clean === corrupted) {
        return null;
      }
      return Math.min(1.12, Math.max(-0.12, (value - corrupted) / (clean - corrupted)));
    };
    const place = at(patched?.value ?? null);
    const left = (share: number) => `left: ${(100 * (share + 0.12)) / 1.24}%`;
    const share = patched?.share;
    this.gauge.replaceChildren(
      h('p', {}, name),
      h(
        'div',
        {
          class: 'nbsight-patching-track',
          role: 'img',
          'aria-label': `corrupted ${say(corrupted)}, clean ${say(clean)}${patched ? `, patched ${say(patched.value)}` : ''}`
        },
        h('i', { 'data-mark': 'corrupted', style: left(0) }),
        h('i', { 'data-mark': 'clean', style: left(1) }),
        place === null ? null : h('i', { 'data-mark': 'patched', style: left(place) })
      ),
      h(
        'div',
        { class: 'nbsight-patching-ends' },
        h('span', {}, `corrupted ${say(corrupted)}`),
        h('span', {}, `clean ${say(clean)}`)
      ),
      h(
        'p',
        { class: 'nbsight-patching-share' },
        ...(patched
          ? [
              h('strong', {}, say(patched.value)),
              share === null || share === undefined
                ? ' patched'
                : ` patched: ${Math.round(100 * share)} % of the way`
            ]
          : ['Click a cell, or drag a token to a place of the other prompt.'])
      )
    );
  }

  private drawBars(tops: Tops | null, hasPatched: boolean): void {
    if (!tops) {
      this.list.replaceChildren();
      return;
    }
    const names = Object.keys(tops.probs);
    const most = (i: number) => Math.max(...names.map(name => tops.probs[name]![i] ?? 0));
    const order = tops.ids
      .map((_, i) => i)
      .sort((a, b) => most(b) - most(a))
      .slice(0, SHOWN);
    const rows = order.map(i => {
      const id = tops.ids[i]!;
      const row = this.rows.get(id) ?? newRow();
      this.rows.set(id, row);
      const of = (name: string) => tops.probs[name]?.[i] ?? null;
      const bar = hasPatched ? of('patched') : null;
      const [token, track, value] = row.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
      token.textContent = visible(tops.tokens[i]!);
      const [patched, clean, corrupted] = track.children as unknown as HTMLElement[];
      patched!.style.width = percent(bar);
      patched!.hidden = bar === null;
      for (const [mark, name] of [
        [clean!, 'clean'],
        [corrupted!, 'corrupted']
      ] as const) {
        mark.style.left = percent(of(name));
        mark.hidden = (of(name) ?? 0) < LEAST;
      }
      value.textContent = bar === null ? '' : probability(bar);
      const said = names.map(name => `${name} ${probability(of(name) ?? NaN)}`).join(', ');
      row.title = `${visible(tops.tokens[i]!)} (id ${id}): ${said}`;
      row.setAttribute('aria-label', row.title);
      return row;
    });
    this.list.replaceChildren(...rows);
  }
}

function newRow(): HTMLElement {
  return h(
    'li',
    {},
    h('span', {}),
    h(
      'span',
      { class: 'nbsight-bar', 'aria-hidden': 'true' },
      h('i', {}),
      h('b', { 'data-mark': 'clean' }),
      h('b', { 'data-mark': 'corrupted' })
    ),
    h('span', {})
  );
}

function percent(value: number | null): string {
  return `${(100 * Math.min(1, Math.max(0, value ?? 0))).toFixed(2)}%`;
}

function say(value: number | null): string {
  return value === null ? '–' : number(value);
}
