import { Bars, type Tops } from '../../shared/bars';
import { clamp, h } from '../../shared/dom';
import { number } from '../../shared/tokens';
import type { Patched } from './types';

/** What the model says next: the metric between its two ends, and bars that move. */
export class Answer {
  readonly node = h('section', { 'aria-label': 'What the model says next' });
  private readonly title = h('h3', {}, 'What the model says next');
  private readonly gauge = h('div', { class: 'nbsight-patching-gauge' });
  private readonly badges = h('div', {});
  private readonly bars = new Bars('patched', ['clean', 'corrupted', 'frozen']);

  constructor() {
    this.node.append(this.title, this.gauge, this.badges, this.bars.node);
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
    this.bars.show(patched ?? tops);
  }

  private drawGauge(
    patched: Patched | null,
    { name, clean, corrupted }: { name: string; clean: number | null; corrupted: number | null }
  ): void {
    const at = (value: number | null) => {
      if (value === null || clean === null || corrupted === null || clean === corrupted) {
        return null;
      }
      return clamp((value - corrupted) / (clean - corrupted), -0.12, 1.12);
    };
    const place = at(patched?.value ?? null);
    const ghost = at(patched?.frozen?.value ?? null);
    const left = (share: number) => `left: ${(100 * (share + 0.12)) / 1.24}%`;
    const share = patched?.share;
    this.gauge.replaceChildren(
      h('p', {}, name),
      h(
        'div',
        {
          class: 'nbsight-patching-track',
          role: 'img',
          'aria-label': `corrupted ${say(corrupted)}, clean ${say(clean)}${patched ? `, patched ${say(patched.value)}` : ''}${patched?.frozen ? `, frozen ${say(patched.frozen.value)}` : ''}`
        },
        h('i', { 'data-mark': 'corrupted', style: left(0) }),
        h('i', { 'data-mark': 'clean', style: left(1) }),
        ghost === null ? null : h('i', { 'data-mark': 'frozen', style: left(ghost) }),
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
}

function say(value: number | null): string {
  return value === null ? '–' : number(value);
}
