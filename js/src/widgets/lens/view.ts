import { offerCode } from '../../shared/code';
import { h } from '../../shared/dom';
import { gradient } from '../../shared/palette';
import { isDark, onThemeChange } from '../../shared/theme';
import { probability, visible } from '../../shared/tokens';
import type { LensData } from './data';
import { Detail } from './detail';
import { Grid, same } from './grid';
import { STYLE } from './style';
import { lensTable } from './table';
import type { Host, Place } from './types';

const BESIDE = 264 + 26; // the ranking and the space before it, as in style.ts
const NARROW = 640;

/** The logit lens: a grid to read, a ranking to look closer. It draws plain data and knows no kernel. */
export class LensView {
  readonly node: HTMLElement;
  private readonly grid: Grid;
  private readonly detail: Detail;
  private readonly about = h('span', { class: 'nbsight-lens-about' });
  private readonly scale = h(
    'span',
    { class: 'nbsight-lens-scale', 'aria-hidden': 'true' },
    h('i', { hidden: true })
  );
  private readonly readout = h('div', { class: 'nbsight-lens-readout' });
  private readonly live = h('div', { class: 'nbsight-lens-live', 'aria-live': 'polite' });
  private readonly asTable = h('button', { type: 'button', 'aria-pressed': 'false' }, 'Table');
  private readonly plane: HTMLElement;
  private readonly pictured: HTMLElement;
  private table: HTMLElement | null = null;
  private selection: Place | null = null;
  private readonly ends: (() => void)[] = [];

  constructor(
    parent: HTMLElement,
    private data: LensData,
    private readonly host: Host
  ) {
    this.grid = new Grid(data, false, {
      point: (place, keyboard) => this.point(place, keyboard),
      choose: place => this.choose(place)
    });
    this.detail = new Detail(data, host, text => this.announce(text));
    this.pictured = h(
      'div',
      {},
      h(
        'div',
        { class: 'nbsight-lens-axis' },
        h('span', {}, 'layer'),
        h('span', {}, 'top next token, as each layer would predict it')
      ),
      this.grid.node,
      h(
        'div',
        { class: 'nbsight-lens-legend' },
        '0',
        this.scale,
        '1',
        h('span', {}, 'probability of the top token')
      ),
      this.readout
    );
    this.plane = h('div', { class: 'nbsight-lens-plane' }, this.pictured);
    this.node = h(
      'div',
      { class: 'nbsight-lens' },
      h('style', {}, STYLE),
      this.head(),
      h('div', { class: 'nbsight-lens-body' }, this.plane, this.detail.node),
      this.live
    );
    parent.append(this.node);
    this.node.addEventListener('keydown', event => this.onKey(event));
    this.describe();
    this.recolour();
    this.ends.push(
      onThemeChange(() => this.recolour()),
      this.watchSize()
    );
  }

  /** Show other data in the same place. */
  update(data: LensData): void {
    this.data = data;
    this.selection = null;
    this.grid.show(data);
    this.grid.select(null);
    this.detail.replace(data);
    this.describe();
    this.fit(this.node.clientWidth);
    this.toggleTable(this.table !== null);
  }

  /** Show a selection that came from elsewhere, for example from Python. */
  select(place: Place | null): void {
    const inside = place && this.data.clamp(place);
    if (same(inside, this.selection) || (!inside && !this.selection)) {
      return;
    }
    this.selection = inside;
    this.grid.select(inside);
    this.detail.show(inside);
    this.point(null, false);
  }

  destroy(): void {
    this.detail.stop();
    for (const end of this.ends) {
      end();
    }
    this.node.remove();
  }

  private head(): HTMLElement {
    const code = h(
      'button',
      { type: 'button', title: 'A new cell that makes this lens (key c)' },
      'Insert code'
    );
    code.addEventListener('click', () => void this.offerCode());
    this.asTable.addEventListener('click', () => this.toggleTable(this.table === null));
    return h(
      'div',
      { class: 'nbsight-lens-head' },
      h('span', { class: 'nbsight-lens-title' }, 'Logit lens'),
      this.about,
      h('span', { class: 'nbsight-lens-actions' }, this.asTable, code)
    );
  }

  private describe(): void {
    const { header, nLayers, nPositions } = this.data;
    const size = `${nLayers} layers × ${nPositions} ${nPositions === 1 ? 'token' : 'tokens'}`;
    this.about.textContent = header.model ? `${header.model} · ${size}` : size;
    this.about.title = Object.entries(header.provenance)
      .map(([name, value]) => `${name}: ${typeof value === 'object' ? JSON.stringify(value) : value}`)
      .join('\n');
  }

  private choose(place: Place | null): void {
    this.select(place);
    this.host.select(place);
  }

  private point(place: Place | null, keyboard: boolean): void {
    this.grid.mark(place);
    const shown = place ?? this.selection;
    const tick = this.scale.firstElementChild as HTMLElement;
    tick.hidden = !shown;
    if (!shown) {
      this.readout.replaceChildren();
      return;
    }
    const prob = this.data.prob(shown);
    tick.style.left = `calc(${(100 * prob).toFixed(1)}% - 1px)`;
    const [layer, position] = shown;
    const where = `Layer ${this.data.header.layers[layer]}, position ${position}: after `;
    const [read, next] = [visible(this.data.header.tokens[position]!), visible(this.data.token(shown))];
    this.readout.replaceChildren(
      where,
      h('code', {}, read),
      ' comes ',
      h('code', {}, next),
      ` ${probability(prob)}`
    );
    if (keyboard) {
      this.announce(`${where}${read} comes ${next}, ${probability(prob)}`);
    }
  }

  private announce(text: string): void {
    this.live.textContent = text;
  }

  private onKey(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    if (event.key === 'c') {
      void this.offerCode();
    } else if (event.key === 'Escape' && this.selection) {
      this.choose(null);
    } else {
      // Keys pressed on the widget are not for the notebook: "d d" would delete the cell.
      if (event.key.length === 1) {
        event.stopPropagation();
      }
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private async offerCode(): Promise<void> {
    const done = await offerCode(this.node, this.data.code(this.selection));
    this.readout.replaceChildren(done);
    this.announce(done);
  }

  private toggleTable(on: boolean): void {
    this.table?.remove();
    this.table = on ? lensTable(this.data, this.grid.active[1]) : null;
    if (this.table) {
      this.plane.append(this.table);
    }
    this.pictured.hidden = on;
    this.asTable.setAttribute('aria-pressed', String(on));
  }

  private recolour(): void {
    const dark = isDark(this.node);
    this.node.dataset.theme = dark ? 'dark' : 'light';
    this.scale.style.background = gradient(dark);
    this.grid.recolour(dark);
  }

  private watchSize(): () => void {
    let last = 0;
    const observer = new ResizeObserver(entries => {
      const width = Math.floor(entries[0]!.contentRect.width);
      if (width && width !== last) {
        last = width;
        this.fit(width);
      }
    });
    observer.observe(this.node);
    return () => observer.disconnect();
  }

  private fit(width: number): void {
    const narrow = width < NARROW;
    this.node.toggleAttribute('data-narrow', narrow);
    this.grid.resize(narrow ? width : width - BESIDE);
  }
}
