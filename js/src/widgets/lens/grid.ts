import { clamp, h, uniqueId } from '../../shared/dom';
import { moved } from '../../shared/moves';
import type { Swatch } from '../../shared/palette';
import { probability, visible } from '../../shared/tokens';
import type { LensData } from './data';
import type { Place } from './types';

const LABEL = 44;
const NARROWEST = 70; // eight characters: "·capital"
const WIDEST = 104;
const MARGIN = 4; // columns kept beyond each edge of what is seen

export interface GridEvents {
  /** the pointer or the keyboard is on a cell (null: it left) */
  point(place: Place | null, keyboard: boolean): void;
  choose(place: Place): void;
}

/**
 * Layers by positions, the last layer on top. Only the columns that can be seen are in the page, so
 * that a prompt of a thousand tokens scrolls like one of ten.
 */
export class Grid {
  readonly node: HTMLElement;
  active: Place = [0, 0];
  /** the layers that have a row, lowest first */
  private layers: number[] = [];
  private readonly sheet = h('div', { class: 'nbsight-lens-sheet', role: 'presentation' });
  private readonly id = uniqueId('nbsight-lens');
  private rows: HTMLElement[] = [];
  private foot!: HTMLElement;
  private column = NARROWEST;
  private room = 0;
  private window: [number, number] = [0, 0];
  private selected: Place | null = null;
  private marked: Place | null = null;

  constructor(
    private data: LensData,
    private dark: boolean,
    private readonly colour: (place: Place, dark: boolean) => Swatch,
    private readonly events: GridEvents
  ) {
    this.node = h('div', { class: 'nbsight-lens-grid', role: 'grid', tabindex: 0 }, this.sheet);
    this.node.addEventListener('scroll', () => this.draw(false), { passive: true });
    this.node.addEventListener('keydown', event => this.onKey(event));
    this.node.addEventListener('focus', () => this.events.point(this.active, true));
    this.sheet.addEventListener('click', event => {
      const place = this.placeOf(event.target);
      if (place) {
        this.active = place;
        this.events.choose(place);
      }
    });
    this.sheet.addEventListener('pointerover', event => this.events.point(this.placeOf(event.target), false));
    this.sheet.addEventListener('pointerleave', () => this.events.point(null, false));
    this.show(data);
  }

  /** Take other data; the reading position moves to the prediction at the end of the prompt. */
  show(data: LensData): void {
    this.data = data;
    this.selected = null;
    this.marked = null;
    this.active = [data.nLayers - 1, data.nPositions - 1];
    this.layers = data.rows(1, null);
    this.node.setAttribute('aria-colcount', String(data.nPositions + 1));
    this.node.setAttribute(
      'aria-label',
      `Logit lens, ${data.nLayers} layers by ${data.nPositions} positions. Arrow keys move, Enter shows the likeliest tokens.`
    );
    this.build();
  }

  /** Show these layers only. */
  stride(layers: number[]): void {
    if (layers.join() !== this.layers.join()) {
      this.layers = layers;
      this.active = [layers[this.rowOf(this.active[0])]!, this.active[1]];
      this.build();
    }
  }

  private build(): void {
    const count = this.layers.length;
    this.node.setAttribute('aria-rowcount', String(count + 1));
    this.rows = Array.from({ length: count }, (_, row) =>
      h('div', { class: 'nbsight-lens-row', role: 'row', 'aria-rowindex': row + 1 })
    );
    this.foot = h('div', {
      class: 'nbsight-lens-row nbsight-lens-foot',
      role: 'row',
      'aria-rowindex': count + 1
    });
    this.sheet.replaceChildren(...this.rows, this.foot);
    this.resize(this.room);
  }

  /** Take more of the same lens; nothing moves. */
  keep(data: LensData): void {
    this.data = data;
    this.draw(true);
  }

  /** Fit the columns into the room there is. */
  resize(room: number): void {
    this.room = room;
    const fitting = Math.floor((room - LABEL) / this.data.nPositions);
    this.column = clamp(fitting, NARROWEST, WIDEST);
    this.sheet.style.width = `${LABEL + this.column * this.data.nPositions}px`;
    this.draw(true);
    if (this.selected) {
      this.reveal();
    }
  }

  recolour(dark: boolean): void {
    this.dark = dark;
    this.draw(true);
  }

  /** Marks for what is pointed at in other views. */
  link(layers: readonly number[], positions: readonly number[]): void {
    for (const label of this.sheet.querySelectorAll<HTMLElement>('[data-layer-label]')) {
      label.toggleAttribute('data-on', layers.includes(Number(label.dataset.layerLabel)));
    }
    for (const label of this.sheet.querySelectorAll<HTMLElement>('[data-position-label]')) {
      label.toggleAttribute('data-on', positions.includes(Number(label.dataset.positionLabel)));
    }
  }

  select(place: Place | null): void {
    this.selected = place;
    if (place) {
      this.active = place;
      this.reveal();
    }
    this.mark(this.marked);
  }

  /** Put the marks of hovering: its row and column labels, and every cell with the same top token. */
  mark(place: Place | null): void {
    this.marked = place;
    const shown = place ?? this.selected;
    const word = shown ? this.data.word(shown) : -1;
    for (const cell of this.sheet.querySelectorAll<HTMLElement>('.nbsight-lens-cell')) {
      const here = this.placeOf(cell)!;
      cell.toggleAttribute('data-same', this.data.word(here) === word);
      cell.toggleAttribute('data-active', same(here, this.active));
      cell.setAttribute('aria-selected', String(same(here, this.selected)));
    }
    this.link(shown ? [shown[0]] : [], shown ? [shown[1]] : []);
    this.node.setAttribute('aria-activedescendant', this.cellId(this.active));
  }

  /** The row of a layer, or of the next above it that has one. */
  private rowOf(layer: number): number {
    const row = this.layers.findIndex(each => each >= layer);
    return row < 0 ? this.layers.length - 1 : row;
  }

  private cellId([layer, position]: Place): string {
    return `${this.id}-${layer}-${position}`;
  }

  private placeOf(target: EventTarget | null): Place | null {
    const cell = (target as Element | null)?.closest?.<HTMLElement>('.nbsight-lens-cell');
    return cell ? [Number(cell.dataset.layer), Number(cell.dataset.position)] : null;
  }

  private draw(everything: boolean): void {
    const seen = this.node.clientWidth || this.room;
    const first = clamp(Math.floor(this.node.scrollLeft / this.column) - MARGIN, 0, this.data.nPositions);
    const last = clamp(first + Math.ceil(seen / this.column) + 2 * MARGIN, 0, this.data.nPositions);
    if (!everything && first === this.window[0] && last === this.window[1]) {
      return;
    }
    this.window = [first, last];
    const gap = () =>
      h('div', { role: 'presentation', style: `flex: none; width: ${first * this.column}px` });
    this.rows.forEach((row, index) => {
      const layer = this.layers[this.layers.length - 1 - index]!;
      const cells: HTMLElement[] = [this.rowLabel(layer), gap()];
      for (let position = first; position < last; position++) {
        cells.push(this.cell([layer, position]));
      }
      row.replaceChildren(...cells);
    });
    const tokens: HTMLElement[] = [
      h('div', { class: 'nbsight-lens-rowhead', role: 'presentation' }, 'input'),
      gap()
    ];
    for (let position = first; position < last; position++) {
      tokens.push(this.tokenLabel(position));
    }
    this.foot.replaceChildren(...tokens);
    this.mark(this.marked);
  }

  private rowLabel(layer: number): HTMLElement {
    const label = String(this.data.header.layers[layer]);
    return h('div', { class: 'nbsight-lens-rowhead', role: 'rowheader', 'data-layer-label': layer }, label);
  }

  private tokenLabel(position: number): HTMLElement {
    const token = this.data.header.tokens[position]!;
    const attributes = {
      class: 'nbsight-lens-token',
      role: 'columnheader',
      style: `width: ${this.column}px`,
      'aria-colindex': position + 2,
      'data-position-label': position,
      title: visible(token)
    };
    return h('div', attributes, visible(token), h('small', {}, String(position)));
  }

  private cell(place: Place): HTMLElement {
    const { fill, ink } = this.colour(place, this.dark);
    const attributes = {
      id: this.cellId(place),
      class: 'nbsight-lens-cell',
      role: 'gridcell',
      style: `background-color: ${fill}; color: ${ink}; width: ${this.column}px`,
      'aria-colindex': place[1] + 2,
      'aria-label': `${visible(this.data.token(place))}, ${probability(this.data.prob(place))}`,
      'data-layer': place[0],
      'data-position': place[1]
    };
    return h('div', attributes, visible(this.data.token(place)));
  }

  private onKey(event: KeyboardEvent): void {
    const [rows, columns] = [this.layers.length, this.data.nPositions];
    const next = moved(event, [this.rowOf(this.active[0]), this.active[1]], { rows, columns });
    if (next) {
      const row = clamp(next[0], 0, rows - 1);
      this.active = this.data.clamp([this.layers[row]!, next[1]]);
      this.reveal();
      this.events.point(this.active, true);
    } else if (event.key === 'Enter' || event.key === ' ') {
      this.events.choose(this.active);
    } else {
      return;
    }
    // or JupyterLab moves its own cursor from cell to cell
    event.preventDefault();
    event.stopPropagation();
  }

  /** Scroll the active cell into the part between the row labels and the token labels. */
  private reveal(): void {
    const [layer, position] = this.active;
    const left = position * this.column;
    const width = this.node.clientWidth - LABEL;
    if (left < this.node.scrollLeft) {
      this.node.scrollLeft = left;
    } else if (width > 0 && left + this.column > this.node.scrollLeft + width) {
      this.node.scrollLeft = left + this.column - width;
    }
    const row = this.rows[this.layers.length - 1 - this.rowOf(layer)]!;
    const height = this.node.clientHeight - this.foot.offsetHeight;
    if (row.offsetTop < this.node.scrollTop) {
      this.node.scrollTop = row.offsetTop;
    } else if (row.offsetTop + row.offsetHeight > this.node.scrollTop + height) {
      this.node.scrollTop = row.offsetTop + row.offsetHeight - height;
    }
    this.draw(false);
    this.mark(this.marked);
  }
}

export function same(a: Place | null, b: Place | null): boolean {
  return a !== null && b !== null && a[0] === b[0] && a[1] === b[1];
}
