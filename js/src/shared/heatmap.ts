import { clamp, h, uniqueId } from './dom';
import { moved } from './moves';
import { type Cell, flipped, type HeatmapSpec, paint } from './paint';
import { visible } from './tokens';

export type { Cell, HeatmapSpec } from './paint';

export interface HeatmapEvents {
  point(cell: Cell | null, keyboard: boolean): void;
  choose(cell: Cell, event: { shiftKey: boolean }): void;
}

const LABEL = 44; // as --nb-label in style.ts
const LINE = 13; // height of a label
const MARGIN = 6; // rows and columns kept beyond each edge of what is seen

/**
 * A heatmap on a canvas. Only what can be seen is drawn, so ten thousand columns scroll like ten; hovering
 * moves a frame and draws nothing.
 */
export class Heatmap {
  readonly node: HTMLElement;
  active: Cell = [0, 0];
  private readonly canvas = h('canvas', { 'aria-hidden': 'true' });
  private readonly sheet: HTMLElement;
  private readonly rowLabels = h('div', { class: 'nbsight-heat-rows', 'aria-hidden': 'true' });
  private readonly head = h('div', { class: 'nbsight-heat-strip', 'data-at': 'head' });
  private readonly foot = h('div', { class: 'nbsight-heat-strip', 'data-at': 'foot' });
  private readonly hover = mark('hover');
  private readonly chosen = mark('selected');
  private readonly here: HTMLElement;
  private linked: HTMLElement[] = [];
  private selected: Cell | null = null;
  private width = 0;
  private height = 0;
  private room = 600;
  private window = [0, 0, 0, 0];
  private scheduled = 0;
  /** What labels were when they were made; marks that others have put on them since do not count. */
  private readonly made = new WeakMap<HTMLElement, string>();

  constructor(
    private spec: HeatmapSpec,
    private dark: boolean,
    private readonly events: HeatmapEvents
  ) {
    const id = uniqueId('nbsight-heat');
    this.here = h('div', { class: 'nbsight-heat-mark', 'data-kind': 'active', id, role: 'gridcell' });
    const row = h('div', { role: 'row' }, this.here);
    this.sheet = h(
      'div',
      { class: 'nbsight-heat-sheet', role: 'presentation' },
      this.canvas,
      this.head,
      this.rowLabels,
      this.hover,
      this.chosen,
      row,
      this.foot
    );
    this.node = h(
      'div',
      { class: 'nbsight-heat', role: 'grid', tabindex: 0, 'aria-activedescendant': id },
      this.sheet
    );
    this.node.addEventListener('scroll', () => this.schedule(), { passive: true });
    this.node.addEventListener('keydown', event => this.onKey(event));
    this.node.addEventListener('focus', () => this.events.point(this.active, true));
    this.node.addEventListener('blur', () => this.events.point(null, false));
    this.sheet.addEventListener('pointermove', event => this.onPointer(this.cellAt(event)));
    this.sheet.addEventListener('pointerleave', () => this.onPointer(null));
    this.sheet.addEventListener('click', event => {
      const cell = this.cellAt(event);
      if (cell) {
        this.active = cell;
        this.placeActive();
        this.events.choose(cell, event);
      }
    });
    this.show(spec);
  }

  show(spec: HeatmapSpec): void {
    this.spec = spec;
    this.node.setAttribute('aria-label', spec.name);
    this.node.setAttribute('aria-rowcount', String(spec.rows.length));
    this.node.setAttribute('aria-colcount', String(spec.columns));
    this.active = this.inside(this.active);
    this.selected = this.selected && this.inside(this.selected);
    this.resize(this.room);
  }

  resize(room: number): void {
    this.room = room;
    const { columns, rows, column } = this.spec;
    this.width = clamp(Math.floor((room - this.label) / Math.max(1, columns)), ...column);
    this.height = this.spec.row ?? (rows.length > 48 ? 11 : rows.length > 24 ? 16 : 24);
    const { headHeight: top, footHeight: bottom } = this;
    this.sheet.style.width = `${this.label + this.width * columns}px`;
    this.sheet.style.minWidth = '0';
    this.sheet.style.height = `${top + bottom + this.height * rows.length}px`;
    this.head.style.height = `${top}px`;
    this.head.style.width = '100%';
    this.rowLabels.style.height = `${this.height * rows.length}px`;
    this.foot.style.cssText += `; clear: both; height: ${bottom}px; width: 100%;`;
    this.node.style.maxWidth = `${room}px`;
    this.node.style.setProperty('--nb-label', `${this.label}px`);
    this.draw(true);
    this.placeActive();
  }

  recolour(dark: boolean): void {
    this.dark = dark;
    this.draw(true);
  }

  select(cell: Cell | null): void {
    this.selected = cell && this.inside(cell);
    if (this.selected) {
      this.active = this.selected;
      this.reveal();
    }
    this.placeActive();
  }

  /** Marks for what is pointed at in other views. */
  link(rows: readonly number[], columns: readonly number[]): void {
    for (const each of this.linked) {
      each.remove();
    }
    const wide = `${this.width * this.spec.columns}px`;
    const high = `${this.height * this.spec.rows.length}px`;
    this.linked = [
      ...rows
        .filter(row => row >= 0 && row < this.spec.rows.length)
        .map(row => {
          const node = mark('row');
          node.style.cssText = `left: ${this.label}px; top: ${this.top(row)}px; width: ${wide}; height: ${this.height}px`;
          return node;
        }),
      ...columns
        .filter(column => column >= 0 && column < this.spec.columns)
        .map(column => {
          const node = mark('column');
          node.style.cssText = `left: ${this.left(column)}px; top: ${this.headHeight}px; width: ${this.width}px; height: ${high}`;
          return node;
        })
    ];
    this.sheet.append(...this.linked);
    this.light(rows, columns);
  }

  /** What is under a point of the page: a cell, or a label above or below a column. */
  hit(event: { clientX: number; clientY: number }): { row: number | 'head' | 'foot'; column: number } | null {
    const [box, seen] = [this.sheet.getBoundingClientRect(), this.node.getBoundingClientRect()];
    const column = Math.floor((event.clientX - box.left - this.label) / this.width);
    if (column < 0 || column >= this.spec.columns || event.clientX > seen.right) {
      return null;
    }
    const { headHeight: top, footHeight: bottom } = this;
    if (event.clientY < seen.top - 12 || event.clientY > seen.bottom + 12) {
      return null;
    }
    if (event.clientY < seen.top + top) {
      return { row: 'head', column };
    }
    if (event.clientY > Math.min(seen.bottom, box.bottom) - bottom) {
      return { row: 'foot', column };
    }
    const row = flipped(this.spec, Math.floor((event.clientY - box.top - top) / this.height));
    return { row: clamp(row, 0, this.spec.rows.length - 1), column };
  }

  /** A place in a cell or in a column's label, left of what is written there, in the sheet's own pixels. */
  anchor(row: number | 'head' | 'foot', column: number): [x: number, y: number] {
    const x = this.left(column) + Math.min(9, this.width / 4);
    const { headHeight: top, footHeight: bottom } = this;
    if (row === 'head') {
      return [x, this.node.scrollTop + top - 4];
    }
    const high = top + this.height * this.spec.rows.length;
    const end = Math.min(high, this.node.scrollTop + (this.node.clientHeight || high) - bottom);
    return row === 'foot' ? [x, end + 4] : [x, this.top(row) + this.height / 2];
  }

  /** The box of the cells from one to another, in the sheet's own pixels. */
  box(from: Cell, to: Cell): { x: number; y: number; width: number; height: number } {
    const [x, y] = [this.left(Math.min(from[1], to[1])), Math.min(this.top(from[0]), this.top(to[0]))];
    const width = this.width * (Math.abs(from[1] - to[1]) + 1);
    return { x, y, width, height: this.height * (Math.abs(from[0] - to[0]) + 1) };
  }

  /** Put a drawing over the cells; it scrolls with them. */
  overlay(node: Element): void {
    this.sheet.append(node);
  }

  private light(rows: readonly number[], columns: readonly number[]): void {
    for (const node of this.rowLabels.children as HTMLCollectionOf<HTMLElement>) {
      node.toggleAttribute('data-on', rows.includes(Number(node.dataset.row)));
    }
    for (const strip of [this.head, this.foot]) {
      for (const node of strip.querySelectorAll<HTMLElement>('[data-column]')) {
        node.toggleAttribute('data-on', columns.includes(Number(node.dataset.column)));
      }
    }
  }

  private onPointer(cell: Cell | null): void {
    this.place(this.hover, cell);
    const shown = cell ?? this.selected;
    this.light(shown ? [shown[0]] : [], shown ? [shown[1]] : []);
    this.events.point(cell, false);
  }

  private cellAt(event: MouseEvent): Cell | null {
    const box = this.sheet.getBoundingClientRect();
    if ((event.target as Element).closest('.nbsight-heat-strip, .nbsight-heat-rows')) {
      return null;
    }
    const column = Math.floor((event.clientX - box.left - this.label) / this.width);
    const fromTop = Math.floor((event.clientY - box.top - this.headHeight) / this.height);
    const row = flipped(this.spec, fromTop);
    const isInside = row >= 0 && column >= 0 && row < this.spec.rows.length && column < this.spec.columns;
    return isInside ? [row, column] : null;
  }

  private get label(): number {
    return this.spec.label ?? LABEL;
  }

  /** Height of the labels above the columns. */
  private get headHeight(): number {
    return this.spec.head?.height ?? 0;
  }

  private get footHeight(): number {
    return this.spec.foot?.height ?? 0;
  }

  private left(column: number): number {
    return this.label + column * this.width;
  }

  private top(row: number): number {
    return this.headHeight + flipped(this.spec, row) * this.height;
  }

  private inside([row, column]: Cell): Cell {
    return [clamp(row, 0, this.spec.rows.length - 1), clamp(column, 0, this.spec.columns - 1)];
  }

  private place(node: HTMLElement, cell: Cell | null): void {
    node.hidden = cell === null;
    if (cell) {
      node.style.cssText =
        `left: ${this.left(cell[1])}px; top: ${this.top(cell[0])}px; ` +
        `width: ${this.width}px; height: ${this.height}px`;
    }
  }

  private placeActive(): void {
    this.place(this.chosen, this.selected);
    this.place(this.here, this.active);
    const [row, column] = this.active;
    this.here.setAttribute(
      'aria-label',
      this.spec.rows.length && this.spec.columns ? this.spec.describe(row, column) : ''
    );
    this.here.setAttribute('aria-colindex', String(column + 1));
    this.here.setAttribute(
      'aria-selected',
      String(this.selected?.[0] === row && this.selected[1] === column)
    );
    this.here.parentElement!.setAttribute('aria-rowindex', String(flipped(this.spec, row) + 1));
    const shown = this.selected;
    this.light(shown ? [shown[0]] : [], shown ? [shown[1]] : []);
  }

  private schedule(): void {
    this.scheduled ||= requestAnimationFrame(() => {
      this.scheduled = 0;
      this.draw(false);
    });
  }

  private draw(everything: boolean): void {
    const { rows, columns } = this.spec;
    const [seenWide, seenHigh] = [this.node.clientWidth || this.room, this.node.clientHeight || 552];
    const first = clamp(Math.floor(this.node.scrollLeft / this.width) - MARGIN, 0, columns);
    const last = clamp(first + Math.ceil(seenWide / this.width) + 2 * MARGIN, 0, columns);
    const above = clamp(Math.floor(this.node.scrollTop / this.height) - MARGIN, 0, rows.length);
    const below = clamp(above + Math.ceil(seenHigh / this.height) + 2 * MARGIN, 0, rows.length);
    const window = [first, last, above, below];
    if (!everything && window.every((edge, i) => edge === this.window[i])) {
      return;
    }
    this.window = window;
    this.drawCells(first, last, above, below);
    this.drawLabels(first, last, above, below);
  }

  private drawCells(first: number, last: number, above: number, below: number): void {
    paint(this.canvas, this.spec, {
      first,
      last,
      above,
      below,
      width: this.width,
      height: this.height,
      left: this.left(first),
      top: this.headHeight + above * this.height,
      dark: this.dark,
      font: getComputedStyle(this.node).fontFamily
    });
  }

  private drawLabels(first: number, last: number, above: number, below: number): void {
    const every = Math.max(1, Math.ceil(LINE / this.height));
    const labels: HTMLElement[] = [];
    for (let line = above; line < below; line++) {
      const row = flipped(this.spec, line);
      const last = this.spec.rows.length - 1;
      if (row % every === 0 ? last - row >= every || row === last : row === last) {
        const high = Math.max(this.height - 1, LINE);
        const style = `top: ${line * this.height + (this.height - 1 - high) / 2}px; height: ${high}px`;
        labels.push(h('div', { 'data-row': row, style }, this.spec.rows[row]!));
      }
    }
    this.rowLabels.replaceChildren(...labels);
    for (const [node, strip] of [
      [this.head, this.spec.head],
      [this.foot, this.spec.foot]
    ] as const) {
      if (!strip) {
        node.replaceChildren();
        node.setAttribute('role', 'presentation');
        continue;
      }
      // Kept where they say the same: a label that holds the focus must not be replaced under it.
      const kept = new Map(
        [...node.querySelectorAll<HTMLElement>('[data-column]')].map(each => [each.dataset.column, each])
      );
      const wanted: HTMLElement[] = [];
      for (let column = first; column < last; column++) {
        const made = strip.make(column);
        const old = kept.get(String(column));
        const label = old && this.made.get(old) === made.outerHTML ? old : made;
        if (label === made) {
          this.made.set(made, made.outerHTML);
        }
        label.dataset.column = String(column);
        label.style.left = `${this.left(column)}px`;
        label.style.width = `${this.width - 1}px`;
        wanted.push(label.matches('button') ? headerOf(label) : label);
      }
      node.setAttribute(
        'role',
        wanted.some(each => each.getAttribute('role') === 'columnheader') ? 'row' : 'presentation'
      );
      const corner = this.spec.corners?.[node === this.head ? 0 : 1] ?? '';
      const there = [...node.children];
      if (there.length === wanted.length + 1 && wanted.every((label, i) => label === there[i + 1])) {
        there[0]!.textContent = corner; // putting the same in again would take the focus off one of them
      } else {
        node.replaceChildren(h('div', { class: 'nbsight-heat-corner' }, corner), ...wanted);
      }
    }
  }

  private onKey(event: KeyboardEvent): void {
    if (event.target !== this.node) {
      return; // a label's own key
    }
    const { rows, columns, isDown } = this.spec;
    const next = moved(event, this.active, { rows: rows.length, columns, isDown });
    if (next) {
      this.active = this.inside(next);
      this.reveal();
      this.placeActive();
      this.light([this.active[0]], [this.active[1]]);
      this.events.point(this.active, true);
    } else if (event.key === 'Enter' || event.key === ' ') {
      this.events.choose(this.active, event);
      this.placeActive();
    } else {
      return;
    }
    // or JupyterLab moves its own cursor from cell to cell
    event.preventDefault();
    event.stopPropagation();
  }

  private reveal(): void {
    const [row, column] = this.active;
    const { headHeight: top, footHeight: bottom } = this;
    const [left, y] = [column * this.width, this.top(row) - top];
    const wide = this.node.clientWidth - this.label;
    const high = this.node.clientHeight - top - bottom;
    if (left < this.node.scrollLeft) {
      this.node.scrollLeft = left;
    } else if (wide > 0 && left + this.width > this.node.scrollLeft + wide) {
      this.node.scrollLeft = left + this.width - wide;
    }
    if (y < this.node.scrollTop) {
      this.node.scrollTop = y;
    } else if (high > 0 && y + this.height > this.node.scrollTop + high) {
      this.node.scrollTop = y + this.height - high;
    }
    this.draw(false);
  }
}

/** A token and its position, as the label of a column. */
export function tokenLabel(token: string, position: number): HTMLElement {
  const text = visible(token);
  return h('div', { class: 'nbsight-heat-token', title: text }, text, h('small', {}, String(position)));
}

function mark(kind: string): HTMLElement {
  return h('div', {
    class: 'nbsight-heat-mark',
    'data-kind': kind,
    'aria-hidden': kind === 'active' ? null : 'true',
    hidden: true
  });
}

/** What may be pressed stands in a grid within a header of its column. */
function headerOf(label: HTMLElement): HTMLElement {
  const held = label.parentElement;
  if (held?.getAttribute('role') === 'columnheader') {
    return held;
  }
  return h('span', { role: 'columnheader' }, label);
}
