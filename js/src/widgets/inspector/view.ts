import { LastAsked } from '../../shared/ask';
import { Link } from '../../shared/bus';
import { fill } from '../../shared/code';
import { button } from '../../shared/controls';
import { clamp, h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { type Cell, Heatmap, type HeatmapSpec } from '../../shared/heatmap';
import { heatmapSvg } from '../../shared/heatmapsvg';
import { Legend } from '../../shared/legend';
import type { Host, View } from '../../shared/mount';
import { signed } from '../../shared/palette';
import { decode } from '../../shared/payload';
import { dataTable, type Value } from '../../shared/table';
import { number, visible } from '../../shared/tokens';
import { Axes } from './axes';
import { firstTile, fitted, isFirst, limitOf, OUTLIERS, rangeOf, type Tile, tileOf, zoomed } from './data';
import { facts } from './facts';
import { STYLE } from './style';
import { Tree } from './tree';
import type { InspectorHeader, Place, State, TileReply, Window } from './types';

const [HEIGHT, WIDTH] = [96, 192]; // blocks of one picture at most, as in nbsight/widgets/inspector.py
const FACTS = 232 + 26;
const TREE = 190 + 26;

/** Any tensor: a map of two of its axes in blocks, which are asked for as they are looked at. */
export class InspectorView implements View<InspectorHeader, State, Place>, Framed {
  readonly name = 'inspector';
  readonly title = 'Activations';
  private readonly frame: Frame;
  private readonly map: Heatmap;
  private readonly tree: Tree;
  private readonly axes: Axes;
  private readonly link: Link;
  private readonly tiles: LastAsked | null;
  private readonly opening: LastAsked | null;
  private readonly beside = h('aside', { class: 'nbsight-beside' });
  private readonly legend = new Legend(true);
  private readonly zoom: Record<'in' | 'out' | 'all', HTMLButtonElement>;
  private tile: Tile;
  private selection: Place | null = null;
  private room = 480;

  constructor(
    parent: HTMLElement,
    private header: InspectorHeader,
    private buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>,
    close?: () => void
  ) {
    this.tile = firstTile(header, buffer);
    this.state = fitted(header, state);
    this.map = new Heatmap(this.spec(), false, {
      point: (cell, keyboard) => this.point(cell, keyboard),
      choose: cell => this.choose(cell)
    });
    this.map.node.addEventListener('dblclick', () => this.look(true));
    this.tree = new Tree(path => this.open(path));
    this.axes = new Axes(change => this.set(change));
    this.zoom = {
      in: button('+', 'Closer, about the chosen place (key +)', () => this.look(true)),
      out: button('−', 'Farther (key −)', () => this.look(false)),
      all: button('All', 'All: the whole plane (key 0)', () => this.fetch(this.whole()))
    };
    for (const node of Object.values(this.zoom)) {
      node.setAttribute('aria-label', node.title);
    }
    this.frame = new Frame(parent, this, host.ask);
    this.tiles = host.ask
      ? new LastAsked(host.ask, (stage, error) =>
          this.frame.stage(stage, error, () => this.fetch(this.tile.window))
        )
      : null;
    this.opening = host.ask
      ? new LastAsked(host.ask, (stage, error) => this.frame.stage(stage, error, () => undefined))
      : null;
    this.link = new Link({ model: header.model, tokens: header.tokens }, linked =>
      this.mark(linked?.positions ?? [])
    );
    const plane = [this.map.node, this.legend.node, this.frame.readout];
    this.frame.lay(
      STYLE,
      [
        this.axes.node,
        h('span', { class: 'nbsight-switch' }, this.zoom.in, this.zoom.out, this.zoom.all),
        ...(close ? [button('Close', 'Close this activation', close)] : [])
      ],
      [this.tree.node, h('div', { class: 'nbsight-plane' }, ...plane), this.beside]
    );
    this.show();
    this.frame.start();
    if (!isFirst(header, this.state)) {
      this.fetch(this.whole());
    }
  }

  update(header: InspectorHeader, buffer: DataView, state = this.state): void {
    this.header = header;
    this.buffer = buffer;
    this.tile = firstTile(header, buffer);
    this.state = fitted(header, state);
    this.selection = null;
    this.link.replace({ model: header.model, tokens: header.tokens });
    this.show();
  }

  select(place: Place | null): void {
    this.selection = place && place.length === this.header.shape.length ? [...place] : null;
    this.drawSelection();
  }

  configure(state: State): void {
    const next = fitted(this.header, state);
    const isOther = JSON.stringify(next) !== JSON.stringify(this.state);
    this.state = next;
    if (isOther) {
      this.axes.show(this.header, next);
      this.fetch(this.whole());
    }
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    this.tiles?.stop();
    this.opening?.stop();
    this.link.close();
    this.frame.destroy();
  }

  // --- asking --------------------------------------------------------------------------------------

  private open(path: string): void {
    if (!this.opening) {
      this.frame.say('No kernel is attached, so nothing else can be opened.');
      return;
    }
    void this.opening.put('open', { path });
  }

  private plane(): [number, number] {
    return [this.header.shape[this.state.rows]!, this.header.shape[this.state.columns]!];
  }

  private whole(): Window {
    const [down, across] = this.plane();
    return [0, down, 0, across];
  }

  private fetch(window: Window): void {
    const { rows, columns, at } = this.state;
    const isWhole = JSON.stringify(window) === JSON.stringify(this.whole());
    if (isWhole && isFirst(this.header, this.state)) {
      this.tiles?.stop();
      this.take(firstTile(this.header, this.buffer));
    } else if (!this.tiles) {
      this.frame.say('No kernel is attached, so only this plane can be shown.');
    } else {
      const params = { rows, columns, at, window, height: HEIGHT, width: WIDTH };
      void this.tiles.put<TileReply>('tile', params).then(reply => {
        if (reply) {
          this.take(tileOf(reply.result, reply.buffers));
        }
      });
    }
  }

  private take(tile: Tile): void {
    this.tile = tile;
    this.drawMap();
    this.frame.refresh();
  }

  private look(isIn: boolean): void {
    const window = zoomed(this.tile, ...this.map.active, isIn, this.plane());
    if (JSON.stringify(window) !== JSON.stringify(this.tile.window)) {
      this.fetch(window);
    }
  }

  private set(change: Partial<State>): void {
    const turned = 'rows' in change || 'columns' in change;
    this.state = { ...this.state, ...change };
    this.host.set(change);
    this.axes.show(this.header, this.state);
    this.fetch(turned ? this.whole() : this.tile.window);
  }

  // --- drawing -------------------------------------------------------------------------------------

  private show(): void {
    const { header } = this;
    const named = header.axes.map((name, i) => `${name} ${header.shape[i]}`).join(' × ');
    this.frame.describe(`${header.path} · ${named}`, header.provenance);
    this.frame.body.toggleAttribute('data-many', header.entries.length > 1);
    this.tree.show(header.entries, header.path);
    this.axes.show(header, this.state);
    this.drawBeside();
    this.drawMap();
    this.frame.refresh();
  }

  private drawBeside(): void {
    const counts = decode(this.header, this.buffer).histogram!.values;
    this.beside.replaceChildren(...facts(this.header, counts, this.frame.dark));
  }

  private drawMap(): void {
    this.map.show(this.spec());
    this.map.resize(this.room);
    this.drawSelection();
    const { limit, isCut } = limitOf(this.tile);
    const [rows, columns] = this.tile.size;
    const [top, bottom, left, right] = this.tile.window;
    const [down, across] = this.plane();
    const part =
      bottom - top < down || right - left < across
        ? ` · rows ${top}–${bottom - 1}, columns ${left}–${right - 1}`
        : '';
    const each =
      rows * columns === 1
        ? 'each cell is one number'
        : `each cell: of ${rows} × ${columns} numbers the one farthest from 0`;
    const cut = isCut ? ` · the largest ${100 * OUTLIERS} % beyond the scale` : '';
    const end = number(limit, 2);
    this.legend.show([`−${end}`, end], `${each}${part}${cut}`, this.frame.dark);
    this.zoom.in.disabled = rows * columns === 1 && bottom - top <= 8 && right - left <= 8;
    this.zoom.out.disabled = this.zoom.all.disabled = part === '';
  }

  private drawSelection(): void {
    this.map.select(this.selection && this.toCell(this.selection));
  }

  private toCell(place: Place): Cell | null {
    const [top, bottom, left, right] = this.tile.window;
    const { rows, columns, at } = this.state;
    const [y, x] = [place[rows]!, place[columns]!];
    const isHere = place.every((index, axis) => axis === rows || axis === columns || index === at[axis]);
    return isHere && y >= top && y < bottom && x >= left && x < right
      ? [Math.floor((y - top) / this.tile.size[0]), Math.floor((x - left) / this.tile.size[1])]
      : null;
  }

  /** The name of a row or column: its token, or its number. */
  private named(axis: number, index: number): string {
    const token = this.header.axes[axis] === 'position' ? this.header.tokens[index] : undefined;
    return token === undefined ? String(index) : visible(token);
  }

  private spec(): HeatmapSpec {
    const { tile, state } = this;
    const { limit } = limitOf(tile);
    const value = (row: number, column: number) => tile.peak[row * tile.columns + column]!;
    const isOne = tile.size[0] * tile.size[1] === 1;
    const hasTokens =
      this.header.axes[state.rows] === 'position' && this.header.tokens.length > 0 && tile.size[0] === 1;
    const high = clamp(Math.floor(460 / tile.rows), 5, 22);
    const wide = clamp(Math.floor((this.room - 80) / tile.columns), 2, 46);
    const every = Math.max(1, Math.ceil(40 / wide));
    const name = this.header.axes[state.columns]!;
    return {
      name: `${this.header.path}, ${this.header.axes[state.rows]} by ${name}. Arrow keys move, Enter chooses, plus and minus go closer and farther.`,
      rows: Array.from({ length: tile.rows }, (_, row) => this.named(state.rows, rangeOf(tile, row, 0)[0])),
      columns: tile.columns,
      corners: ['', name.length > 11 ? '' : name],
      label: hasTokens ? 84 : 64,
      isDown: true,
      swatch: (row, column, dark) => {
        const one = value(row, column);
        return Number.isFinite(one) ? signed(one / limit, dark) : { fill: '#c2185b', ink: '#fff' };
      },
      text: (row, column) => (isOne ? number(value(row, column), 2) : ''),
      describe: (row, column) => this.say(row, column),
      hatched: (row, column) => !Number.isFinite(value(row, column)),
      foot: {
        height: 22,
        make: column =>
          column % every === 0
            ? h(
                'div',
                { class: 'nbsight-inspector-tick' },
                this.named(state.columns, rangeOf(tile, 0, column)[2])
              )
            : h('i', {})
      },
      column: [2, isOne ? 46 : 24],
      row: high
    };
  }

  private say(row: number, column: number): string {
    const [top, bottom, left, right] = rangeOf(this.tile, row, column);
    const { rows, columns } = this.state;
    const along = (axis: number, first: number, last: number) =>
      `${this.header.axes[axis]} ${first === last ? first : `${first}–${last}`}${
        this.header.axes[axis] === 'position' && first === last && this.header.tokens[first] !== undefined
          ? ` ${visible(this.header.tokens[first]!)}`
          : ''
      }`;
    const at = row * this.tile.columns + column;
    const peak = this.tile.peak[at]!;
    const isOne = top === bottom && left === right;
    const said = !Number.isFinite(peak)
      ? 'holds numbers that are NaN or infinite'
      : isOne
        ? number(peak, 5)
        : `farthest from 0 ${number(peak, 4)}, mean ${number(this.tile.mean[at]!, 4)}`;
    return `${along(rows, top, bottom)}, ${along(columns, left, right)}: ${said}`;
  }

  private mark(positions: readonly number[]): void {
    const { rows, columns } = this.state;
    const [top, bottom, left, right] = this.tile.window;
    const inside = (axis: number, first: number, last: number, size: number) =>
      this.header.axes[axis] === 'position'
        ? positions.filter(p => p >= first && p < last).map(p => Math.floor((p - first) / size))
        : [];
    this.map.link(
      inside(rows, top, bottom, this.tile.size[0]),
      inside(columns, left, right, this.tile.size[1])
    );
  }

  private point(cell: Cell | null, keyboard: boolean): void {
    if (!cell) {
      this.link.say({});
      this.frame.say();
      return;
    }
    const [top, , left] = rangeOf(this.tile, ...cell);
    const { rows, columns } = this.state;
    const position =
      this.header.axes[rows] === 'position'
        ? top
        : this.header.axes[columns] === 'position'
          ? left
          : undefined;
    this.link.say(position === undefined ? {} : { position });
    const said = this.say(...cell);
    this.frame.say(said);
    if (keyboard) {
      this.frame.announce(said);
    }
  }

  private choose(cell: Cell): void {
    const [top, , left] = rangeOf(this.tile, ...cell);
    const place = this.header.shape.map((_, axis) => this.state.at[axis] ?? 0);
    place[this.state.rows] = top;
    place[this.state.columns] = left;
    this.selection = place;
    this.drawSelection();
    this.host.select(place);
    this.frame.say(this.say(...cell));
  }

  // --- for the frame ---------------------------------------------------------------------------------

  code(): string {
    const { code, code_at } = this.header;
    return this.selection
      ? `${code}\n${fill(code_at, Object.fromEntries(this.selection.map((index, axis) => [String(axis), index])))}`
      : `${code}\nvalue`;
  }

  rows(): Value[][] {
    const { rows, columns } = this.state;
    const isOne = this.tile.size[0] * this.tile.size[1] === 1;
    const head = isOne
      ? [this.header.axes[rows]!, this.header.axes[columns]!, 'value']
      : [`${this.header.axes[rows]} from`, `${this.header.axes[columns]} from`, 'farthest from 0', 'mean'];
    const table: Value[][] = [head];
    for (let row = 0; row < this.tile.rows; row++) {
      for (let column = 0; column < this.tile.columns; column++) {
        const [top, , left] = rangeOf(this.tile, row, column);
        const at = row * this.tile.columns + column;
        const [peak, mean] = [this.tile.peak[at]!, this.tile.mean[at]!];
        const known = (one: number) => (Number.isFinite(one) ? one : null);
        table.push(isOne ? [top, left, known(peak)] : [top, left, known(peak), known(mean)]);
      }
    }
    return table;
  }

  table(): HTMLElement {
    return dataTable(`${this.header.path}: the part on show.`, this.rows(), (value, i) =>
      i > 1 && value !== null ? number(value as number, 4) : value
    );
  }

  picture(): string {
    const limit = number(limitOf(this.tile).limit, 2);
    const names = Array.from({ length: this.tile.columns }, (_, column) =>
      this.named(this.state.columns, rangeOf(this.tile, 0, column)[2])
    );
    return heatmapSvg(this.spec(), names, {
      title: `${this.header.path} · ${this.header.shape.join(' × ')} ${this.header.dtype}`,
      scale: { low: `−${limit}`, high: limit, meaning: 'value', signed: true }
    });
  }

  recolour(dark: boolean): void {
    this.map.recolour(dark);
    this.drawBeside();
    this.drawMap();
  }

  fit(width: number, narrow: boolean): void {
    const tree = this.header.entries.length > 1 ? TREE : 0;
    this.room = narrow ? width : width - FACTS - tree;
    this.drawMap();
  }

  key(event: KeyboardEvent): boolean {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return false;
    }
    if (event.key === '+' || event.key === '=') {
      this.look(true);
    } else if (event.key === '-') {
      this.look(false);
    } else if (event.key === '0') {
      this.fetch(this.whole());
    } else if (event.key === 'Escape' && this.selection) {
      this.select(null);
      this.host.select(null);
    } else {
      return false;
    }
    return true;
  }
}
