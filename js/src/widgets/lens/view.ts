import { LastAsked } from '../../shared/ask';
import { Link } from '../../shared/bus';
import { Choice } from '../../shared/controls';
import { h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { heatmapSvg } from '../../shared/heatmapsvg';
import { Legend } from '../../shared/legend';
import { Lines } from '../../shared/lines';
import type { Host, View } from '../../shared/mount';
import { series, swatch } from '../../shared/palette';
import { floats } from '../../shared/payload';
import { Prompts } from '../../shared/prompts';
import { BESIDE } from '../../shared/style';
import type { Value } from '../../shared/table';
import { number, probability, visible } from '../../shared/tokens';
import { LensData } from './data';
import { Detail } from './detail';
import { Grid, same } from './grid';
import { STYLE } from './style';
import { lensTable } from './table';
import type { AskCell, LensHeader, Pin, Place, State, Statistic } from './types';

const MEANING: Record<Statistic, string> = {
  top: 'probability of the top token',
  entropy: 'entropy in nats; deep: sure',
  kl: 'KL from the last layer in nats; deep: already there',
  probability: 'probability of',
  rank: 'rank of, 0 is the top; deep: high up'
};

/** The logit lens: a grid to read, a ranking to look closer, tokens to follow. Plain data, no kernel. */
export class LensView implements View<LensHeader, State, Place>, Framed {
  readonly name = 'lens';
  readonly title = 'Logit lens';
  private readonly frame: Frame;
  private readonly grid: Grid;
  private readonly detail: Detail;
  private readonly lines: Lines;
  private readonly link: Link;
  private readonly following: LastAsked | null;
  private readonly statistic: Choice<Statistic>;
  private readonly prompts: Prompts;
  private readonly check = h('span', { class: 'nbsight-lens-check' });
  private readonly tick = h('i', { hidden: true });
  private readonly legend = new Legend(false, this.tick);
  private readonly pins = h('div', { class: 'nbsight-lens-pins', 'aria-label': 'Followed tokens' });
  private readonly plane: HTMLElement;
  private data: LensData;
  private selection: Place | null = null;
  private most = 1;

  constructor(
    parent: HTMLElement,
    header: LensHeader,
    buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.data = new LensData(header, buffer);
    this.grid = new Grid(this.data, false, place => this.depth(place), {
      point: (place, keyboard) => this.point(place, keyboard),
      choose: place => this.choose(place)
    });
    this.detail = new Detail(
      this.data,
      this.askCell(),
      text => this.frame.announce(text),
      (id, token) => this.pin({ id, token })
    );
    this.lines = new Lines(this.linesSpec(), {
      point: (_, layer) => this.link.say(layer === null ? {} : { layer, position: this.column() }),
      choose: (_, layer) => this.choose([layer, this.column()])
    });
    this.statistic = new Choice<Statistic>('Colour', [], statistic => this.set({ statistic }));
    this.plane = h(
      'div',
      { class: 'nbsight-plane' },
      h(
        'div',
        { class: 'nbsight-lens-axis' },
        h('span', {}, 'layer'),
        h('span', {}, 'top next token, as each layer would predict it')
      ),
      this.grid.node,
      this.legend.node
    );
    this.frame = new Frame(parent, this, host.ask);
    this.plane.append(this.frame.readout, this.pins, this.lines.node);
    this.following = host.ask
      ? new LastAsked(host.ask, (stage, error) => this.frame.stage(stage, error, () => void this.follow()))
      : null;
    this.prompts = new Prompts(host.ask, ['prompt'], this.frame);
    this.link = new Link({ model: header.model, tokens: header.tokens }, linked => {
      this.grid.link(linked?.layer == null ? [] : [linked.layer], linked?.positions ?? []);
      this.lines.mark(linked?.layer ?? null);
    });
    this.frame.lay(
      STYLE,
      [this.statistic.node, ...(host.ask ? [this.prompts.button] : []), this.check],
      [this.plane, this.detail.node]
    );
    this.frame.controls.after(this.prompts.node);
    this.describe();
    this.frame.start();
    void this.follow();
  }

  // --- the world ---------------------------------------------------------------------------------

  /** Show other data in the same place; where only more is known of the same lens, nothing moves. */
  update(header: LensHeader, buffer: DataView): void {
    const isSame = header.prompt === this.data.header.prompt && header.model === this.data.header.model;
    this.data = new LensData(header, buffer);
    this.link.replace({ model: header.model, tokens: header.tokens });
    if (isSame) {
      this.grid.keep(this.data);
      this.detail.keep(this.data);
    } else {
      this.selection = null;
      this.grid.show(this.data);
      this.grid.select(null);
      this.detail.replace(this.data);
    }
    this.describe();
    this.frame.refresh();
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
    this.drawPins();
    this.point(null, false);
  }

  configure(state: State): void {
    this.state = state;
    this.describe();
    void this.follow();
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    this.detail.stop();
    this.following?.stop();
    this.prompts.leave();
    this.link.close();
    this.frame.destroy();
  }

  // --- asking --------------------------------------------------------------------------------------

  private askCell(): AskCell | undefined {
    const ask = this.host.ask;
    if (!ask) {
      return undefined;
    }
    interface Cell {
      tokens: string[];
      ids: number[];
    }
    return async ([layer, position], topK, signal) => {
      const { result, buffers } = await ask<Cell>('cell', { layer, position, top_k: topK }, { signal });
      return { tokens: result.tokens, ids: result.ids, probs: floats(buffers[0]!) };
    };
  }

  /** Ask for what is to be shown and not known yet; it comes with the header. */
  private async follow(): Promise<void> {
    const { pins, statistic } = this.state;
    const statistics = (statistic === 'entropy' || statistic === 'kl') && !this.data.hasStatistics;
    if (!statistics && pins.every(pin => this.data.follows(pin))) {
      return;
    }
    if (!this.following) {
      this.frame.say('No kernel is attached, so this cannot be computed now.');
      return;
    }
    await this.following.put('more', { track: pins.map(pin => pin.id), statistics });
  }

  private pin(pin: Pin): void {
    const pins = this.state.pins.filter(each => each.id !== pin.id);
    this.set({ pins: pins.length < this.state.pins.length ? pins : [...pins, pin] });
  }

  private set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    if (!this.last() && (this.state.statistic === 'probability' || this.state.statistic === 'rank')) {
      this.state.statistic = 'top';
    }
    this.host.set(this.state);
    this.describe();
    void this.follow();
  }

  private choose(place: Place | null): void {
    this.select(place);
    this.host.select(place);
  }

  // --- drawing ---------------------------------------------------------------------------------------

  private last(): Pin | undefined {
    return this.state.pins[this.state.pins.length - 1];
  }

  private column(): number {
    return this.selection?.[1] ?? this.data.nPositions - 1;
  }

  private value(place: Place): number {
    return this.data.statistic(this.state.statistic, place, this.last());
  }

  private depth(place: Place): number {
    return this.data.depth(this.state.statistic, this.value(place), this.most);
  }

  private meaning(): string {
    const { statistic } = this.state;
    const last = this.last();
    const named = last && (statistic === 'probability' || statistic === 'rank');
    return named ? MEANING[statistic].replace('of', `of ${visible(last.token)}`) : MEANING[statistic];
  }

  private describe(): void {
    const { header, nLayers, nPositions } = this.data;
    const size = `${nLayers} layers × ${nPositions} ${nPositions === 1 ? 'token' : 'tokens'}`;
    this.frame.describe(header.model ? `${header.model} · ${size}` : size, header.provenance);
    const last = this.last();
    this.statistic.offer([
      ['top', 'probability of the top token'],
      ['entropy', 'entropy'],
      ['kl', 'KL from the last layer'],
      ...(last
        ? ([
            ['probability', `probability of ${visible(last.token)}`],
            ['rank', `rank of ${visible(last.token)}`]
          ] as const)
        : [])
    ]);
    this.statistic.show(this.state.statistic);
    this.prompts.show({ prompt: header.prompt });
    this.check.textContent =
      header.check === null
        ? ''
        : header.check < 1e-3
          ? `✓ last row is the model’s output (to ${number(header.check, 2)})`
          : `✗ last row differs from the model’s output by ${number(header.check, 2)}`;
    this.most = this.data.most(this.state.statistic, last);
    this.grid.recolour(this.frame.dark);
    this.legend.show(this.ends(), this.meaning(), this.frame.dark);
    this.drawPins();
  }

  /** What the ends of the colours stand for. */
  private ends(): [low: string, high: string] {
    const { statistic } = this.state;
    const isShare = statistic === 'top' || statistic === 'probability';
    return isShare ? ['0', '1'] : [number(this.most, 2), '0'];
  }

  private linesSpec() {
    const name = this.state.statistic === 'rank' ? 'rank' : 'probability';
    const column = this.column();
    const dark = this.frame?.dark ?? false;
    return {
      title: `Followed tokens after ${visible(this.data.header.tokens[column] ?? '')} (position ${column})`,
      x: this.data.header.layers.map(String),
      xTitle: `layer, at position ${column} after ${visible(this.data.header.tokens[column] ?? '')}`,
      yTitle: name === 'rank' ? 'rank + 1' : 'probability',
      isLog: name === 'rank',
      ...(name === 'probability' ? { limits: [0, 1] as [number, number] } : {}),
      lines: this.state.pins.map((pin, i) => {
        const { colour, dashes } = series(i, dark);
        const course = this.data.course(name, pin, column);
        return {
          name: visible(pin.token),
          values: name === 'rank' ? course.map(rank => rank + 1) : course,
          colour,
          dashes,
          strength: 'strong' as const,
          isToken: true
        };
      })
    };
  }

  private drawPins(): void {
    this.lines.node.hidden = !this.state.pins.length;
    this.lines.show(this.linesSpec());
    this.pins.hidden = !this.state.pins.length;
    this.pins.replaceChildren(
      ...this.state.pins.map((pin, i) => {
        const { colour, dashes } = series(i, this.frame.dark);
        const style = `border-top: 2px ${dashes ? 'dashed' : 'solid'} ${colour}`;
        const button = h(
          'button',
          {
            type: 'button',
            title: 'No longer follow',
            'aria-label': `No longer follow ${visible(pin.token)}`
          },
          h('i', { style }),
          `${visible(pin.token)} ×`
        );
        button.addEventListener('click', () => this.pin(pin));
        return button;
      })
    );
  }

  private point(place: Place | null, keyboard: boolean): void {
    this.grid.mark(place);
    this.link.say(place ? { layer: place[0], position: place[1] } : {});
    const shown = place ?? this.selection;
    this.tick.hidden = !shown || !Number.isFinite(this.value(shown));
    if (!shown) {
      this.frame.say();
      return;
    }
    this.tick.style.left = `calc(${(100 * this.depth(shown)).toFixed(1)}% - 1px)`;
    const [layer, position] = shown;
    const where = `Layer ${this.data.header.layers[layer]}, position ${position}: after `;
    const [read, next] = [visible(this.data.header.tokens[position]!), visible(this.data.token(shown))];
    const value = probability(this.data.prob(shown));
    const { statistic } = this.state;
    const more = statistic === 'top' ? '' : `; ${this.meaning().split(';')[0]} ${number(this.value(shown))}`;
    this.frame.say(where, h('code', {}, read), ' comes ', h('code', {}, next), ` ${value}${more}`);
    if (keyboard) {
      this.frame.announce(`${where}${read} comes ${next}, ${value}${more}`);
    }
  }

  // --- for the frame ---------------------------------------------------------------------------------

  code(): string {
    return this.data.code(this.selection, this.state);
  }

  rows(): Value[][] {
    const rows: Value[][] = [['layer', 'position', 'token', 'rank', 'id', 'prediction', 'probability']];
    for (let layer = this.data.nLayers - 1; layer >= 0; layer--) {
      for (let position = 0; position < this.data.nPositions; position++) {
        const kept = this.data.kept([layer, position]);
        kept.tokens.forEach((token, rank) => {
          const label = this.data.header.layers[layer]!;
          rows.push([
            label,
            position,
            this.data.header.tokens[position]!,
            rank,
            kept.ids[rank]!,
            token,
            kept.probs[rank]!
          ]);
        });
      }
    }
    return rows;
  }

  table(): HTMLElement {
    return lensTable(this.data, this.grid.active[1]);
  }

  picture(): string {
    const [low, high] = this.ends();
    const tokens = this.data.header.tokens.map(visible);
    return heatmapSvg(
      {
        name: '',
        rows: this.data.header.layers.map(String),
        columns: this.data.nPositions,
        swatch: (layer, position, dark) => swatch(this.depth([layer, position]), dark),
        text: (layer, position) => visible(this.data.token([layer, position])),
        describe: () => '',
        column: [70, 104]
      },
      tokens,
      {
        title: `Logit lens${this.data.header.model ? ` · ${this.data.header.model}` : ''}`,
        scale: {
          low,
          high,
          meaning: this.meaning(),
          signed: false
        }
      }
    );
  }

  recolour(dark: boolean): void {
    this.lines.recolour(dark);
    this.describe();
  }

  fit(width: number, narrow: boolean): void {
    const room = narrow ? width : width - BESIDE;
    this.grid.resize(room);
    this.lines.resize(room);
  }

  key(event: KeyboardEvent): boolean {
    if (event.key === 'Escape' && this.selection) {
      this.choose(null);
      return true;
    }
    return false;
  }
}
