import { LastAsked } from '../../shared/ask';
import { Link } from '../../shared/bus';
import { button } from '../../shared/controls';
import { h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { type Cell, Heatmap, type HeatmapSpec, tokenLabel } from '../../shared/heatmap';
import { heatmapSvg } from '../../shared/heatmapsvg';
import { Legend } from '../../shared/legend';
import type { Host, View } from '../../shared/mount';
import { swatch } from '../../shared/palette';
import { BESIDE } from '../../shared/style';
import { Overlay, tag } from '../../shared/svg';
import { dataTable, type Value } from '../../shared/table';
import { number, probability, visible } from '../../shared/tokens';
import { StepperData, toggled } from './data';
import { Panel } from './panel';
import { STYLE } from './style';
import type { Place, State, StepperHeader } from './types';

/** A forward that waits: a lens that grows as the run goes on, and a value to change. Plain data, no kernel. */
export class StepperView implements View<StepperHeader, State, Place>, Framed {
  readonly name = 'stepper';
  readonly title = 'Held run';
  private readonly frame: Frame;
  private readonly map: Heatmap;
  private readonly panel: Panel;
  private readonly link: Link;
  private readonly asked: LastAsked | null;
  private readonly over = new Overlay('nbsight-stepper-here');
  private readonly legend = new Legend(false);
  private readonly buttons: Record<'step' | 'into' | 'finish' | 'back' | 'anew', HTMLButtonElement>;
  private data: StepperData;
  private selection: Place | null = null;
  private isRunning = false;

  constructor(
    parent: HTMLElement,
    header: StepperHeader,
    buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.data = new StepperData(header, buffer);
    this.map = new Heatmap(this.spec(), false, {
      point: (cell, keyboard) => this.point(cell, keyboard),
      choose: cell => this.choose(cell)
    });
    this.map.overlay(this.over.node);
    this.panel = new Panel({ set: change => this.set(change), edit: () => this.edit() });
    this.buttons = {
      step: button('Step', 'To the end of the next block (key s)', () => this.ask('step')),
      into: button('Into', 'To the end of the next module, however small (key i)', () =>
        this.ask('step', { into: true })
      ),
      finish: button('Finish', 'To the end (key f)', () => this.ask('finish')),
      back: button('Back', 'Run anew to before the last thing (key b)', () => this.ask('back')),
      anew: button('Start anew', 'Nothing done (key r)', () => this.ask('back', { all: true }))
    };
    this.buttons.step.classList.add('nbsight-do');
    this.frame = new Frame(parent, this, host.ask);
    this.asked = host.ask
      ? new LastAsked(host.ask, (stage, error) => {
          this.isRunning = stage === 'asking' || stage === 'queued';
          this.frame.stage(stage, error);
          this.enable();
        })
      : null;
    this.link = new Link({ model: header.model, tokens: header.tokens }, linked =>
      this.map.link(linked?.layer == null ? [] : [linked.layer], linked?.positions ?? [])
    );
    const plane = [this.map.node, this.legend.node, this.frame.readout];
    this.frame.lay(
      STYLE,
      [h('span', { class: 'nbsight-group' }, ...Object.values(this.buttons))],
      [h('div', { class: 'nbsight-plane' }, ...plane), this.panel.node]
    );
    this.show();
    this.frame.start();
  }

  update(header: StepperHeader, buffer: DataView): void {
    this.data = new StepperData(header, buffer);
    this.link.replace({ model: header.model, tokens: header.tokens });
    this.show();
    this.frame.announce(
      header.ended ? 'The run has ended.' : `The run stands at ${header.at.path}. ${this.data.progress}`
    );
  }

  select(place: Place | null): void {
    this.selection = place;
    this.map.select(place);
  }

  configure(state: State): void {
    this.state = state;
    this.panel.show(this.data, state, this.host.ask !== undefined);
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    this.asked?.stop();
    this.link.close();
    this.frame.destroy();
  }

  // --- moving the run ------------------------------------------------------------------------------

  private ask(command: string, params: object = {}): void {
    if (!this.asked) {
      this.frame.say('No kernel holds this run. The code (key c) takes one to the same place.');
    } else if (!this.isRunning) {
      // One thing at a time: a run that has moved cannot be taken back.
      void this.asked.put(command, params);
    }
  }

  private edit(): void {
    this.ask('edit', { positions: this.state.positions, factor: this.state.factor });
  }

  private choose([block, position]: Cell): void {
    this.selection = [block, position];
    this.map.select(this.selection);
    this.host.select(this.selection);
    if (block > this.data.block && !this.data.header.ended) {
      this.ask('until', { block });
    } else if (block === this.data.block) {
      this.set({ positions: toggled(this.state.positions, position) });
    }
  }

  private set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    this.host.set(change);
    this.panel.show(this.data, this.state, this.host.ask !== undefined);
    this.drawHere();
  }

  // --- drawing ---------------------------------------------------------------------------------------

  private show(): void {
    const { header } = this.data;
    this.frame.describe(`${header.model} · ${this.data.progress || 'not begun'}`, header.provenance);
    this.map.show(this.spec());
    this.map.select(this.selection);
    this.panel.show(this.data, this.state, this.host.ask !== undefined);
    const meaning = 'probability of what the run would say if it stopped there; stripes: passed unseen';
    this.legend.show(['0', '1'], meaning, this.frame.dark);
    this.drawHere();
    this.enable();
    this.frame.refresh();
  }

  private enable(): void {
    const { ended, actions } = this.data.header;
    const stop = this.isRunning || !this.host.ask;
    this.buttons.step.disabled = this.buttons.into.disabled = this.buttons.finish.disabled = stop || ended;
    this.buttons.back.disabled = this.buttons.anew.disabled = stop || !actions.length;
  }

  /** Where the run stands, and the positions that a change would be for. */
  private drawHere(): void {
    const { block, nBlocks, nPositions } = this.data;
    if (block < 0 || block >= nBlocks) {
      this.over.clear();
      return;
    }
    const box = this.map.box([block, 0], [block, nPositions - 1]);
    const [x, y, high] = [box.x - 1, box.y + box.height / 2, 4.5];
    const frame = tag('rect', {
      ...box,
      width: box.width - 1,
      height: box.height - 1,
      fill: 'none',
      stroke: 'var(--nb-ring)',
      'stroke-width': 2,
      rx: 2
    });
    const arrow = tag('path', {
      d: `M${x - 6},${y - high}L${x},${y}L${x - 6},${y + high}Z`,
      fill: 'var(--nb-ring)'
    });
    const dots = this.state.positions
      .filter(position => position < nPositions && !this.data.header.ended)
      .map(position => {
        const cell = this.map.box([block, position], [block, position]);
        return tag('circle', {
          cx: cell.x + 8,
          cy: y,
          r: 3.5,
          fill: 'var(--nb-ring)',
          stroke: 'var(--nb-ring-gap)'
        });
      });
    this.over.draw(frame + arrow + dots.join(''));
  }

  private spec(): HeatmapSpec {
    const { data } = this;
    const faint = (dark: boolean) => (dark ? 'rgb(127 140 155 / 12%)' : 'rgb(91 103 117 / 7%)');
    return {
      name:
        `Held run, ${data.nBlocks} blocks by ${data.nPositions} positions. ` +
        'Enter on a later block runs to it; on the block where the run stands it chooses a position to change.',
      rows: data.header.blocks.map((_, block) => String(block)),
      columns: data.nPositions,
      corners: ['', 'input'],
      swatch: (block, position, dark) =>
        data.seen([block, position])
          ? swatch(data.prob([block, position]), dark)
          : { fill: faint(dark), ink: dark ? '#fff' : '#000' },
      text: (block, position) => (data.seen([block, position]) ? visible(data.word([block, position])) : ''),
      describe: (block, position) => this.say([block, position]),
      hatched: (block, position) => block < data.block && !data.seen([block, position]),
      foot: {
        height: 42,
        make: position => tokenLabel(data.header.tokens[position]!, position)
      },
      column: [64, 104]
    };
  }

  private say(place: Place): string {
    const [block, position] = place;
    const where = `Block ${block}, position ${position} ${visible(this.data.header.tokens[position]!)}`;
    if (this.data.seen(place)) {
      const said = this.data.word(place)
        ? `would say ${visible(this.data.word(place))} ${probability(this.data.prob(place))}, `
        : '';
      return `${where}: ${said}norm ${number(this.data.norm(place))}`;
    }
    return `${where}: ${block < this.data.block ? 'passed without a look' : 'not yet; Enter runs to this block'}`;
  }

  private point(cell: Cell | null, keyboard: boolean): void {
    if (!cell) {
      this.link.say({});
      this.frame.say();
      return;
    }
    this.link.say({ layer: cell[0], position: cell[1] });
    const said = this.say(cell);
    this.frame.say(said);
    if (keyboard) {
      this.frame.announce(said);
    }
  }

  // --- for the frame -----------------------------------------------------------------------------------

  code(): string {
    return this.data.header.code;
  }

  rows(): Value[][] {
    const rows: Value[][] = [['block', 'position', 'token', 'prediction', 'probability', 'norm']];
    for (let block = 0; block < this.data.nBlocks; block++) {
      this.data.header.tokens.forEach((token, position) => {
        const place: Place = [block, position];
        if (this.data.seen(place)) {
          rows.push([
            block,
            position,
            token,
            this.data.word(place),
            this.data.prob(place),
            this.data.norm(place)
          ]);
        }
      });
    }
    return rows;
  }

  table(): HTMLElement {
    return dataTable('What was seen where the run stopped.', this.rows(), (value, i) =>
      i === 2 || i === 3 ? visible(String(value)) : i > 3 ? number(value as number) : value
    );
  }

  picture(): string {
    return heatmapSvg(this.spec(), this.data.header.tokens.map(visible), {
      title: `Held run · ${this.data.header.model} · ${this.data.progress}`,
      scale: { low: '0', high: '1', meaning: 'probability of the top token', signed: false }
    });
  }

  recolour(dark: boolean): void {
    this.map.recolour(dark);
    this.legend.recolour(dark);
  }

  fit(width: number, narrow: boolean): void {
    this.map.resize(narrow ? width : width - BESIDE);
    this.drawHere();
  }

  key(event: KeyboardEvent): boolean {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return false;
    }
    const button = { s: 'step', i: 'into', f: 'finish', b: 'back', r: 'anew' }[event.key] as
      | keyof StepperView['buttons']
      | undefined;
    if (!button) {
      return false;
    }
    this.buttons[button].click();
    return true;
  }
}
