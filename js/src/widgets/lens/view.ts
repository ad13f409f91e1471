import { LastAsked } from '../../shared/ask';
import { Link } from '../../shared/bus';
import { h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { Legend } from '../../shared/legend';
import type { Host, View } from '../../shared/mount';
import { floats } from '../../shared/payload';
import { Prompts } from '../../shared/prompts';
import { BESIDE } from '../../shared/style';
import type { Value } from '../../shared/table';
import { number, probability, visible } from '../../shared/tokens';
import { Below } from '../inspector/below';
import { ALONE, Choices } from './choices';
import { Contrast } from './contrast';
import { pictureOf, rowsOf } from './copies';
import { Courses } from './courses';
import { isDifference, LensData, pairOf, wanted } from './data';
import { Detail } from './detail';
import { Grid, same } from './grid';
import { Shades } from './shades';
import { STYLE } from './style';
import { lensTable } from './table';
import type { AskCell, LensHeader, Pin, Place, State } from './types';

/** The logit lens: a grid to read, a ranking to look closer, tokens to follow. Plain data, no kernel. */
export class LensView implements View<LensHeader, State, Place>, Framed {
  readonly name = 'lens';
  readonly title = 'Logit lens';
  private readonly frame: Frame;
  private readonly grid: Grid;
  private readonly detail: Detail;
  private readonly courses: Courses;
  private readonly link: Link;
  private readonly following: LastAsked | null;
  private readonly choices: Choices;
  private readonly prompts: Prompts;
  private readonly contrast: Contrast;
  private readonly below: Below | null;
  private readonly check = h('span', { class: 'nbsight-lens-check' });
  private readonly tick = h('i', { hidden: true });
  private readonly legend = new Legend(false, this.tick);
  private readonly plane: HTMLElement;
  private data: LensData;
  private selection: Place | null = null;
  private shades: Shades;

  constructor(
    parent: HTMLElement,
    header: LensHeader,
    buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.data = new LensData(header, buffer);
    this.shades = new Shades(this.data, state);
    this.grid = new Grid(this.data, false, (place, dark) => this.shades.swatch(place, dark), {
      point: (place, keyboard) => this.point(place, keyboard),
      choose: place => this.choose(place)
    });
    this.detail = new Detail(
      this.data,
      this.askCell(),
      text => this.frame.announce(text),
      pin => this.pin(pin),
      (side, pin) => this.contrast.pick(side, pin),
      host.ask ? (layer, position) => void this.below?.open({ layer, position }) : undefined
    );
    this.courses = new Courses(
      {
        point: layer => this.link.say(layer === null ? {} : { layer, position: this.column() }),
        choose: layer => this.choose([layer, this.column()])
      },
      pin => this.pin(pin)
    );
    this.choices = new Choices(host.ask !== undefined, change => this.set(change));
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
    this.plane.append(this.frame.readout, this.courses.pins, this.courses.lines.node);
    this.following = host.ask
      ? new LastAsked(host.ask, (stage, error) => {
          this.frame.stage(stage, error, () => void this.follow());
          if (stage === 'failed') {
            this.retreat();
          }
        })
      : null;
    this.below = host.ask ? new Below(host.ask, this.frame) : null;
    this.contrast = new Contrast(
      host.ask,
      this.frame,
      contrast => this.oppose(contrast),
      isOpen => this.detail.node.toggleAttribute('data-contrast', isOpen)
    );
    this.prompts = new Prompts(host.ask, ['prompt'], this.frame);
    this.link = new Link({ model: header.model, tokens: header.tokens }, linked => {
      this.grid.link(linked?.layer == null ? [] : [linked.layer], linked?.positions ?? []);
      this.courses.lines.mark(linked?.layer ?? null);
    });
    this.frame.lay(
      STYLE,
      [...this.choices.nodes, this.contrast.button, this.prompts.button, this.check],
      [this.plane, this.detail.node]
    );
    this.frame.controls.after(this.prompts.node, this.contrast.node);
    if (this.below) {
      this.frame.body.after(this.below.node);
    }
    this.describe();
    this.frame.start();
    void this.follow();
  }

  // --- the world ---------------------------------------------------------------------------------

  /** Show other data in the same place; where only more is known of the same lens, nothing moves. */
  update(header: LensHeader, buffer: DataView): void {
    const before = this.data.header;
    const isOfSame = header.prompt === before.prompt && header.model === before.model;
    const isSame = isOfSame && header.component === before.component && header.lens === before.lens;
    const place = this.selection;
    this.data = new LensData(header, buffer);
    this.shades = new Shades(this.data, this.state);
    this.link.replace({ model: header.model, tokens: header.tokens });
    if (isSame) {
      this.grid.keep(this.data);
      this.detail.keep(this.data);
    } else {
      this.selection = null;
      this.grid.show(this.data);
      this.grid.select(null);
      this.detail.replace(this.data, this.askCell());
    }
    this.describe();
    this.frame.refresh();
    if (!isSame && isOfSame) {
      this.select(place);
    } else if (!isOfSame) {
      this.below?.close();
      void this.follow(); // the tokens that are followed stay
    }
  }

  /** Show a selection that came from elsewhere, for example from Python. */
  select(place: Place | null): void {
    const inside = place && this.data.clamp(place);
    if (same(inside, this.selection) || (!inside && !this.selection)) {
      return;
    }
    this.selection = inside;
    this.grid.stride(this.layers());
    this.grid.select(inside);
    this.detail.show(inside);
    this.drawCourses();
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
    this.contrast.leave();
    this.below?.close();
    this.link.close();
    this.frame.destroy();
  }

  // --- asking --------------------------------------------------------------------------------------

  private askCell(): AskCell | undefined {
    const ask = this.host.ask;
    if (!ask || !this.data.header.asks) {
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
    const { header } = this.data;
    const { statistic, lens, component } = this.state;
    const pins = wanted(this.state);
    const isOther = (component || header.component) !== header.component || lens !== header.lens;
    const statistics = (statistic === 'entropy' || statistic === 'kl') && !this.data.hasStatistics;
    if (!isOther && !statistics && pins.every(pin => this.data.follows(pin))) {
      return;
    }
    if (!this.following) {
      this.frame.say('No kernel is attached, so this cannot be computed now.');
      return;
    }
    const track = pins.map(pin => pin.id);
    await this.following.put('more', { lens, component, track, statistics });
  }

  /** Where another part or lens could not be read, the choice says again what is on show. */
  private retreat(): void {
    const { component, lens } = this.data.header;
    if (this.state.component !== component || this.state.lens !== lens) {
      this.state = { ...this.state, component, lens };
      this.host.set({ component, lens });
      this.describe();
    }
  }

  /** Set two tokens against each other; once both are there the colour says their difference. */
  private oppose(contrast: State['contrast']): void {
    const next = { ...this.state, contrast };
    const { statistic } = this.state;
    if (pairOf(next) && !isDifference(statistic)) {
      this.set({ contrast, statistic: 'logit_difference' });
    } else if (!pairOf(next) && isDifference(statistic)) {
      this.set({ contrast, statistic: 'top' });
    } else {
      this.set({ contrast });
    }
  }

  private pin(pin: Pin): void {
    const pins = this.state.pins.filter(each => each.id !== pin.id);
    this.set({ pins: pins.length < this.state.pins.length ? pins : [...pins, pin] });
  }

  private set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    if (
      !this.state.pins.length &&
      (this.state.statistic === 'probability' || this.state.statistic === 'rank')
    ) {
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

  private column(): number {
    return this.selection?.[1] ?? this.data.nPositions - 1;
  }

  private describe(): void {
    const { header, nLayers, nPositions } = this.data;
    const size = `${nLayers} layers × ${nPositions} ${nPositions === 1 ? 'token' : 'tokens'}`;
    this.frame.describe(header.model ? `${header.model} · ${size}` : size, header.provenance);
    this.choices.show(this.data, this.state);
    this.prompts.button.hidden = !this.host.ask || !header.editable;
    this.grid.stride(this.layers());
    this.contrast.show(this.state.contrast, this.data.tokens());
    this.prompts.show({ prompt: header.prompt });
    this.check.textContent =
      header.check === null
        ? header.component === 'stream'
          ? ''
          : ALONE
        : header.check < 1e-3
          ? `✓ last row is the model’s output (to ${number(header.check, 2)})`
          : `✗ last row differs from the model’s output by ${number(header.check, 2)}`;
    this.shades = new Shades(this.data, this.state);
    this.grid.recolour(this.frame.dark);
    this.legend.sign(isDifference(this.state.statistic));
    this.legend.show(this.shades.ends(), this.shades.meaning(), this.frame.dark);
    this.drawCourses();
  }

  private drawCourses(): void {
    this.courses.show(this.data, this.state, this.column(), this.frame.dark);
  }

  private point(place: Place | null, keyboard: boolean): void {
    this.grid.mark(place);
    this.link.say(place ? { layer: place[0], position: place[1] } : {});
    const shown = place ?? this.selection;
    this.tick.hidden = !shown || !Number.isFinite(this.shades.value(shown));
    if (!shown) {
      this.frame.say();
      return;
    }
    const depth = this.shades.depth(shown);
    const along = isDifference(this.state.statistic) ? (depth + 1) / 2 : depth;
    this.tick.style.left = `calc(${(100 * along).toFixed(1)}% - 1px)`;
    const [layer, position] = shown;
    const where = `Layer ${this.data.header.layers[layer]}, position ${position}: after `;
    const [read, next] = [visible(this.data.header.tokens[position]!), visible(this.data.token(shown))];
    const value = probability(this.data.prob(shown));
    const { statistic } = this.state;
    const more =
      statistic === 'top'
        ? ''
        : `; ${this.shades.meaning().split(';')[0]} ${number(this.shades.value(shown))}`;
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
    return rowsOf(this.data);
  }

  private layers(): number[] {
    return this.data.rows(this.state.stride, this.selection);
  }

  table(): HTMLElement {
    return lensTable(this.data, this.grid.active[1], undefined, this.layers());
  }

  picture(): string {
    return pictureOf(this.data, this.shades, this.layers());
  }

  recolour(dark: boolean): void {
    this.courses.lines.recolour(dark);
    this.describe();
  }

  fit(width: number, narrow: boolean): void {
    const room = narrow ? width : width - BESIDE;
    this.grid.resize(room);
    this.courses.lines.resize(room);
  }

  key(event: KeyboardEvent): boolean {
    if (event.key === 'Escape' && this.selection) {
      this.choose(null);
      return true;
    }
    return false;
  }
}
