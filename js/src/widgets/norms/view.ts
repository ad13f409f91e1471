import { Link } from '../../shared/bus';
import { Switch, Toggle } from '../../shared/controls';
import { h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { type Cell, Heatmap, type HeatmapSpec, tokenLabel } from '../../shared/heatmap';
import { heatmapSvg } from '../../shared/heatmapsvg';
import { Legend } from '../../shared/legend';
import { type Line, Lines, type LinesSpec } from '../../shared/lines';
import type { Host, View } from '../../shared/mount';
import { inks, series, swatch } from '../../shared/palette';
import { SITES } from '../../shared/sites';
import { BESIDE } from '../../shared/style';
import { dataTable, type Value } from '../../shared/table';
import { number, visible } from '../../shared/tokens';
import { Below } from '../inspector/below';
import { Beside } from './beside';
import { NormsData } from './data';
import { STYLE } from './style';
import type { NormsHeader, Place, State, What } from './types';

const PALE = 60; // tokens whose lines are drawn; more are a grey cloud

const TITLES: Record<What, string> = {
  norm: 'L2 norm',
  ratio: 'write ÷ stream',
  cosine: 'cosine of the stream before and after'
};

/** How large the stream is and what is written into it. Plain data, no kernel. */
export class NormsView implements View<NormsHeader, State, Place>, Framed {
  readonly name = 'norms';
  readonly title = 'Stream norms';
  private readonly frame: Frame;
  private readonly map: Heatmap;
  private readonly lines: Lines;
  private readonly beside: Beside;
  private readonly link: Link;
  private readonly what: Switch<What>;
  private readonly toggles: Record<'log' | 'first' | 'robust', Toggle>;
  private readonly legend = new Legend(false);
  private readonly below: Below | null;
  private readonly caption = h('h4', { class: 'nbsight-norms-caption' });
  private data: NormsData;
  private selection: Place | null = null;
  private hovered: number | null = null;

  constructor(
    parent: HTMLElement,
    header: NormsHeader,
    buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.data = new NormsData(header, buffer);
    this.map = new Heatmap(this.mapSpec(), false, {
      point: (cell, keyboard) => this.point(cell, keyboard),
      choose: cell => this.choose(cell)
    });
    this.lines = new Lines(this.linesSpec(), {
      point: (line, layer) => this.pointLine(line, layer),
      choose: (line, layer) => this.chooseLine(line, layer)
    });
    this.beside = new Beside(component => this.set({ component }));
    this.what = new Switch<What>(
      'Show',
      [
        ['norm', 'norm', 'How large each part is'],
        ['ratio', 'ratio', 'How large a write is beside the stream it is added to'],
        ['cosine', 'cosine', 'How little a block turns the stream; 1: not at all']
      ],
      what => this.set({ what })
    );
    this.toggles = {
      log: new Toggle('Log', 'A scale of powers', log => this.set({ log })),
      first: new Toggle(
        'First token',
        'Many models park attention on the first token and make it huge',
        first => this.set({ first })
      ),
      robust: new Toggle('Robust', 'Let the most extreme 2 % at each end leave the colour scale', robust =>
        this.set({ robust })
      )
    };
    this.frame = new Frame(parent, this, host.ask);
    this.below = host.ask ? new Below(host.ask, this.frame) : null;
    this.link = new Link(this.about(), linked => {
      this.map.link(
        linked?.layer == null ? [] : [linked.layer],
        linked?.positions.map(p => p - this.offset()) ?? []
      );
      this.lines.mark(linked?.layer ?? null);
    });
    const plane = [this.lines.node, this.caption, this.map.node, this.legend.node, this.frame.readout];
    this.frame.lay(
      STYLE,
      [this.what.node, ...Object.values(this.toggles).map(toggle => toggle.node)],
      [h('div', { class: 'nbsight-plane' }, ...plane), this.beside.node]
    );
    if (this.below) {
      this.frame.body.after(this.below.node);
    }
    this.show();
    this.frame.start();
  }

  update(header: NormsHeader, buffer: DataView): void {
    this.data = new NormsData(header, buffer);
    this.selection = null;
    this.below?.close();
    this.link.replace(this.about());
    this.show();
  }

  select(place: Place | null): void {
    this.selection = place && this.data.clamp(place);
    this.map.select(this.selection && this.toCell(this.selection));
    this.beside.show(this.data, this.state, this.selection, this.frame.dark);
    this.lines.show(this.linesSpec());
  }

  configure(state: State): void {
    this.state = state;
    this.show();
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    this.below?.close();
    this.link.close();
    this.frame.destroy();
  }

  // --- drawing -----------------------------------------------------------------------------------

  private about(): { model: string; tokens: string[] } {
    return { model: this.data.header.model, tokens: this.data.header.tokens };
  }

  private set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    this.host.set(change);
    this.show();
  }

  private show(): void {
    const { header, nLayers, nPositions } = this.data;
    this.frame.describe(
      `${header.model} · ${nLayers} layers × ${nPositions} ${nPositions === 1 ? 'token' : 'tokens'}`,
      header.provenance
    );
    this.what.show(this.state.what);
    for (const name of ['log', 'first', 'robust'] as const) {
      this.toggles[name].show(this.state[name]);
    }
    this.toggles.log.node.disabled = this.state.what === 'cosine';
    const component = this.data.component(this.state);
    this.caption.replaceChildren(
      h('strong', {}, component),
      ` ${SITES[component] ?? ''}, ${TITLES[this.state.what]} at every token`
    );
    this.map.show(this.mapSpec());
    this.map.select(this.selection && this.toCell(this.selection));
    this.lines.show(this.linesSpec());
    this.drawLegend();
    this.beside.show(this.data, this.state, this.selection, this.frame.dark);
    this.frame.refresh();
  }

  /** How many positions at the start are not on show. */
  private offset(): number {
    return this.data.positions(this.state)[0] ?? 0;
  }

  /** The positions whose lines are drawn. */
  private drawn(): number[] {
    const positions = this.data.positions(this.state);
    const step = Math.max(1, Math.ceil(positions.length / PALE));
    return positions.filter((_, i) => i % step === 0);
  }

  private toCell([layer, position]: Place): Cell {
    return [layer, position - this.offset()];
  }

  private mapSpec(): HeatmapSpec {
    const { data, state } = this;
    const limits = data.limits(state);
    const component = data.component(state);
    const positions = data.positions(state);
    const value = (row: number, column: number) => data.value(state, component, [row, positions[column]!]);
    return {
      name:
        `${TITLES[state.what]} of ${component}, ${data.nLayers} layers by ${positions.length} positions. ` +
        'Arrow keys move, Enter chooses.',
      rows: data.header.layers.map(String),
      columns: positions.length,
      corners: ['', ''],
      swatch: (row, column, dark) => {
        const one = value(row, column);
        return Number.isFinite(one)
          ? swatch(data.depth(state, one, limits), dark)
          : { fill: '#d33', ink: '#fff' };
      },
      text: (row, column) => number(value(row, column), 2),
      describe: (row, column) => this.say([row, positions[column]!]),
      hatched: (row, column) => !Number.isFinite(value(row, column)),
      foot: {
        height: 40,
        make: column => tokenLabel(data.header.tokens[positions[column]!]!, positions[column]!)
      },
      column: [52, 84],
      row: data.nLayers > 24 ? 14 : 20
    };
  }

  private linesSpec(): LinesSpec {
    const { data, state } = this;
    const dark = this.frame?.dark ?? false;
    const component = data.component(state);
    const colour = (name: string) => series(data.header.components.indexOf(name), dark);
    const pale = this.drawn().map<Line>(position => ({
      name: visible(data.header.tokens[position]!),
      values: data.course(state, component, position),
      colour: colour(component).colour,
      strength: 'pale'
    }));
    const strong = data.components(state).map<Line>(name => ({
      name: state.what === 'cosine' ? 'median' : name,
      values: data.medians(state, name),
      ...colour(name),
      strength: 'strong'
    }));
    const chosen = this.hovered ?? this.selection?.[1] ?? null;
    const one: Line[] =
      chosen === null
        ? []
        : [
            {
              name: visible(data.header.tokens[chosen]!),
              values: data.course(state, component, chosen),
              colour: inks(dark).ring,
              strength: 'strong',
              isToken: true
            }
          ];
    return {
      title: `${TITLES[state.what]} by layer · ${data.header.model}`,
      x: data.header.layers.map(String),
      xTitle: 'layer',
      yTitle: TITLES[state.what] === TITLES.cosine ? 'cosine' : TITLES[state.what],
      isLog: state.log && state.what !== 'cosine',
      lines: [...pale, ...strong, ...one]
    };
  }

  private drawLegend(): void {
    const [low, high] = this.data.limits(this.state);
    const note = this.state.robust ? ', outliers beyond' : '';
    const log = this.state.log && this.state.what !== 'cosine' ? ', scale of powers' : '';
    const meaning = `${TITLES[this.state.what]}${log}${note} · lines: medians, pale: each token`;
    this.legend.show([number(low, 2), number(high, 2)], meaning, this.frame.dark);
  }

  private say([layer, position]: Place): string {
    const component = this.data.component(this.state);
    const value = number(this.data.value(this.state, component, [layer, position]));
    const token = visible(this.data.header.tokens[position]!);
    return `Layer ${this.data.header.layers[layer]}, position ${position} ${token}: ${TITLES[this.state.what]} of ${component} ${value}`;
  }

  private point(cell: Cell | null, keyboard: boolean): void {
    if (!cell) {
      this.link.say({});
      this.frame.say();
      this.lines.mark(null);
      return;
    }
    const place: Place = [cell[0], cell[1] + this.offset()];
    this.link.say({ layer: place[0], position: place[1] });
    this.lines.mark(place[0]);
    const said = this.say(place);
    this.frame.say(said);
    if (keyboard) {
      this.frame.announce(said);
    }
  }

  private pointLine(line: number | null, layer: number | null): void {
    const position = this.positionOf(line);
    if (position !== this.hovered) {
      this.hovered = position;
      this.lines.show(this.linesSpec());
    }
    if (layer === null) {
      this.link.say({});
      this.frame.say();
    } else {
      this.link.say(position === null ? { layer } : { layer, position });
      if (position !== null) {
        this.frame.say(this.say([layer, position]));
      }
    }
  }

  private chooseLine(line: number, layer: number): void {
    const position = this.positionOf(line);
    if (position === null) {
      const component = this.data.components(this.state)[line - this.drawn().length];
      if (component) {
        this.set({ component });
      }
    } else {
      this.choose([layer, position - this.offset()]);
    }
  }

  /** Which token a line is of; none for the medians. */
  private positionOf(line: number | null): number | null {
    return line === null ? null : (this.drawn()[line] ?? null);
  }

  private choose([layer, column]: Cell): void {
    this.select([layer, column + this.offset()]);
    this.host.select(this.selection);
    const position = column + this.offset();
    void this.below?.open({ layer, position, component: this.data.component(this.state) });
  }

  // --- for the frame -------------------------------------------------------------------------------

  code(): string {
    return this.data.code(this.selection, { ...this.state, component: this.data.component(this.state) });
  }

  rows(): Value[][] {
    const { components, layers, tokens } = this.data.header;
    const rows: Value[][] = [['layer', 'position', 'token', ...components, 'cosine']];
    const [norm, cosine] = [
      { ...this.state, what: 'norm' as const },
      { ...this.state, what: 'cosine' as const }
    ];
    for (let layer = this.data.nLayers - 1; layer >= 0; layer--) {
      tokens.forEach((token, position) => {
        const values = components.map(name => this.data.value(norm, name, [layer, position]));
        rows.push([
          layers[layer]!,
          position,
          token,
          ...values,
          this.data.value(cosine, '', [layer, position])
        ]);
      });
    }
    return rows;
  }

  table(): HTMLElement {
    const title = 'L2 norms and the cosine between the stream before and after, last layer first.';
    return dataTable(title, this.rows(), (value, i) =>
      i === 2 ? visible(String(value)) : i > 2 ? number(value as number) : value
    );
  }

  picture(): string {
    const [low, high] = this.data.limits(this.state);
    const tokens = this.data
      .positions(this.state)
      .map(position => visible(this.data.header.tokens[position]!));
    const component = this.data.component(this.state);
    return heatmapSvg(this.mapSpec(), tokens, {
      title: `${TITLES[this.state.what]} of ${component} · ${this.data.header.model}`,
      scale: { low: number(low, 2), high: number(high, 2), meaning: TITLES[this.state.what], signed: false }
    });
  }

  recolour(dark: boolean): void {
    this.map.recolour(dark);
    this.lines.recolour(dark);
    this.lines.show(this.linesSpec());
    this.drawLegend();
    this.beside.show(this.data, this.state, this.selection, dark);
  }

  fit(width: number, narrow: boolean): void {
    const room = narrow ? width : width - BESIDE;
    this.map.resize(room);
    this.lines.resize(room);
  }

  key(event: KeyboardEvent): boolean {
    if (event.key === 'Escape' && this.selection) {
      this.select(null);
      this.host.select(null);
      this.below?.close();
      return true;
    }
    return false;
  }
}
