import { button } from '../../shared/controls';
import { h } from '../../shared/dom';
import { number, probability, visible } from '../../shared/tokens';
import type { PatchingData } from './data';
import { patchText } from './stack';
import type { Frozen, Patched } from './types';

const SHOWN = 6;

/** One run kept to compare the next ones with: both numbers and their difference, token by token. */
export class Compare {
  readonly node = h('section', { class: 'nbsight-patching-compare', 'aria-label': 'Compare two runs' });
  private readonly freeze: HTMLButtonElement;
  private readonly swap: HTMLButtonElement;
  private readonly release: HTMLButtonElement;
  private readonly list = h('ul', {});
  private readonly table = h('table', {});

  constructor(events: { freeze(): void; swap(): void; release(): void }) {
    this.freeze = button('Freeze', 'Keep this run to compare others with (key f)', () => events.freeze());
    this.swap = button('Swap', 'The frozen run becomes the one on show', () => events.swap());
    this.release = button('Let go', 'No longer compare (key f)', () => events.release());
    this.node.append(this.list, this.table, h('div', {}, this.freeze, this.swap, this.release));
  }

  show(data: PatchingData, frozen: Frozen | null, patched: Patched | null, canFreeze: boolean): void {
    this.freeze.hidden = this.freeze.disabled = frozen !== null || !canFreeze;
    this.swap.hidden = this.release.hidden = this.list.hidden = frozen === null;
    this.table.hidden = !patched?.frozen;
    this.list.replaceChildren(
      h('li', {}, `Frozen, ${frozen?.direction ?? ''}:`),
      ...(frozen?.patches ?? []).map(patch => h('li', {}, patchText(patch, data, frozen!.direction)))
    );
    if (patched?.frozen) {
      this.draw(patched, patched.frozen);
    }
  }

  private draw(patched: Patched, frozen: NonNullable<Patched['frozen']>): void {
    const row = (name: string, before: number | null, now: number | null, say: (value: number) => string) => {
      const cell = (value: number | null, sign = '') =>
        h('td', {}, value === null ? '–' : `${sign}${say(value)}`);
      const change = before === null || now === null ? null : now - before;
      return h(
        'tr',
        {},
        h('th', { scope: 'row', title: name }, name),
        cell(before),
        cell(now),
        cell(change === null ? null : Math.abs(change), change === null ? '' : change < 0 ? '−' : '+')
      );
    };
    const before = patched.probs.frozen ?? [];
    const now = patched.probs.patched ?? [];
    const change = (i: number) => Math.abs((now[i] ?? 0) - (before[i] ?? 0));
    const order = patched.ids
      .map((_, i) => i)
      .sort((a, b) => change(b) - change(a))
      .slice(0, SHOWN);
    this.table.replaceChildren(
      h(
        'thead',
        {},
        h('tr', {}, ...['', 'frozen', 'now', 'change'].map(name => h('th', { scope: 'col' }, name)))
      ),
      h(
        'tbody',
        {},
        row('metric', frozen.value, patched.value, value => number(value)),
        ...order.map(i => row(visible(patched.tokens[i]!), before[i] ?? null, now[i] ?? null, probability))
      )
    );
  }
}
