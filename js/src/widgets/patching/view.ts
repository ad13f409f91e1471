import { LastAsked } from '../../shared/ask';
import { Link } from '../../shared/bus';
import { h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import type { Cell } from '../../shared/heatmap';
import { Legend } from '../../shared/legend';
import type { Host, View } from '../../shared/mount';
import { Prompts } from '../../shared/prompts';
import { BESIDE } from '../../shared/style';
import { dataTable, type Value } from '../../shared/table';
import { number, visible } from '../../shared/tokens';
import { Answer } from './answer';
import { Choices } from './choices';
import { Compare } from './compare';
import { pictureOf, rowsOf } from './copies';
import { ends, isByHead, METRICS, PatchingData } from './data';
import { Plane } from './plane';
import { Stack } from './stack';
import { STYLE } from './style';
import { Sweep } from './sweep';
import type { Patch, Patched, PatchingHeader, Place, State } from './types';

/** Two prompts, what each place carries, and single patches; plain data, no kernel. */
export class PatchingView implements View<PatchingHeader, State, Place>, Framed {
  readonly name = 'patching';
  readonly title = 'Activation patching';
  private readonly frame: Frame;
  private readonly plane: Plane;
  private readonly answer = new Answer();
  private readonly stack: Stack;
  private readonly compare: Compare;
  private readonly sweep: Sweep;
  private readonly prompts: Prompts;
  private readonly link: Link;
  private readonly patching: LastAsked | null;
  private readonly choosing: LastAsked | null;
  private readonly choices: Choices;
  private readonly legend = new Legend(true);
  private readonly notes = h('div', {});
  private data: PatchingData;
  private selection: Place | null = null;
  private patched: Patched | null = null;

  constructor(
    parent: HTMLElement,
    header: PatchingHeader,
    buffer: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.data = new PatchingData(header, buffer);
    this.patched = header.shown ?? null;
    this.plane = new Plane(this.data, state, false, {
      point: (cell, keyboard) => this.point(cell, keyboard),
      patch: (cell, add) => this.put(this.patchAt(cell), add),
      carry: (source, layer, target, add) =>
        this.put({ layer: layer ?? this.plane.map.active[0], site: this.state.site, source, target }, add)
    });
    this.stack = new Stack(this.data.prompts, state.patches, patches => this.run(patches));
    this.compare = new Compare({
      freeze: () => this.freeze(),
      swap: () => this.swap(),
      release: () => this.release()
    });
    this.choices = new Choices(
      host.ask !== undefined,
      change => this.set(change),
      pair => void this.choosing?.put('pair', { pair })
    );
    this.frame = new Frame(parent, this, host.ask);
    this.patching = host.ask
      ? new LastAsked(host.ask, (stage, error) =>
          this.frame.stage(stage, error, () => this.run(this.stack.patches))
        )
      : null;
    this.choosing = host.ask
      ? new LastAsked(host.ask, (stage, error) => this.frame.stage(stage, error))
      : null;
    this.sweep = new Sweep(host.ask, {
      part: (part, bytes) => this.learn(part, bytes),
      failed: (error, retry) => this.frame.stage('failed', error, retry)
    });
    this.prompts = new Prompts(host.ask, ['clean', 'corrupted'], this.frame);
    this.link = new Link(this.about(), linked =>
      this.plane.map.link(
        linked?.layer == null ? [] : [linked.layer],
        isByHead(this.state) ? (linked?.head == null ? [] : [linked.head]) : (linked?.positions ?? [])
      )
    );
    this.lay();
    this.show();
    this.frame.start();
    if ((state.patches.length || state.frozen) && !this.patched && this.patching) {
      void this.ask(state.patches);
    }
  }

  // --- the world -------------------------------------------------------------------------------

  update(header: PatchingHeader, buffer: DataView): void {
    const before = this.data.prompts;
    this.data = new PatchingData(header, buffer);
    if (this.data.prompts !== before) {
      this.stack.of(this.data.prompts);
      this.patching?.stop();
      this.patched = null;
      this.frame.node.toggleAttribute('data-ghost', false);
    }
    this.show();
  }

  select(place: Place | null): void {
    this.selection = place;
    this.plane.map.select(place);
  }

  configure(state: State): void {
    const patches = JSON.stringify(state.patches);
    const isOther = patches !== JSON.stringify(this.state.patches);
    const isFrozenOther = JSON.stringify(state.frozen) !== JSON.stringify(this.state.frozen);
    const measures =
      state.metric !== this.state.metric || state.direction !== this.state.direction || isFrozenOther;
    this.state = state;
    if (isOther && patches !== JSON.stringify(this.stack.patches)) {
      this.stack.put(state.patches);
      return;
    }
    this.show();
    if (measures && (state.patches.length || isFrozenOther)) {
      void this.ask(state.patches);
    }
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    this.patching?.stop();
    this.choosing?.stop();
    this.sweep.leave();
    this.prompts.leave();
    this.link.close();
    this.frame.destroy();
  }

  // --- patches -----------------------------------------------------------------------------------

  private put(patch: Patch, add: boolean): void {
    this.selection = [patch.layer, patch.head ?? patch.target ?? 0];
    this.plane.map.select(this.selection);
    this.host.select(this.selection);
    this.stack.put(add ? [...this.stack.patches.filter(each => !samePlace(each, patch)), patch] : [patch]);
  }

  /** What a click on a cell of the map patches. */
  private patchAt([layer, column]: Cell): Patch {
    const { site, position } = this.state;
    return isByHead(this.state)
      ? { layer, site: 'z', source: position, target: position, head: column }
      : { layer, site, source: column, target: column };
  }

  // --- two runs ------------------------------------------------------------------------------------

  private freeze(): void {
    const { direction } = this.state;
    this.set({ frozen: { patches: [...this.stack.patches], direction } });
    void this.ask(this.stack.patches);
  }

  private release(): void {
    this.set({ frozen: null });
    void this.ask(this.stack.patches);
  }

  private swap(): void {
    const { frozen, direction } = this.state;
    if (frozen) {
      const now = { patches: [...this.stack.patches], direction };
      this.set({ frozen: now, direction: frozen.direction });
      this.stack.put(frozen.patches);
    }
  }

  private run(patches: readonly Patch[]): void {
    this.set({ patches: [...patches] });
    void this.ask(patches);
  }

  private async ask(patches: readonly Patch[]): Promise<void> {
    const { frozen = null } = this.state;
    if (!patches.length && !frozen) {
      this.patching?.stop();
      this.patched = null;
      this.drawAnswer();
      return;
    }
    if (!this.patching) {
      this.frame.say('No kernel is attached, so nothing can be run. The code (key c) does it.');
      return;
    }
    const { direction, metric } = this.state;
    const reply = await this.patching.put<Patched>('patch', { patches, direction, metric, frozen });
    if (reply) {
      this.patched = reply.result;
      this.drawAnswer();
      const share = this.patched.share;
      this.frame.announce(
        `${METRICS[metric] ?? metric} ${number(this.patched.value ?? NaN)}${share === null ? '' : `, ${Math.round(100 * share)} percent of the way`}. ${this.patched.badges.join(' ')}`
      );
    }
  }

  private learn(part: Parameters<PatchingData['learn']>[0], bytes: DataView): void {
    this.data.learn(part, bytes);
    this.plane.show(this.data, this.state);
    this.drawLegend();
  }

  private set(change: Partial<State>): void {
    const before = this.state;
    this.state = { ...this.state, ...change };
    this.host.set(change);
    if (change.direction && change.direction !== before.direction) {
      this.stack.put([]);
    }
    this.show();
    if (change.metric && (this.state.patches.length || this.state.frozen)) {
      void this.ask(this.state.patches);
    }
  }

  // --- drawing -------------------------------------------------------------------------------------

  private lay(): void {
    const asking = this.host.ask ? [this.prompts.button, this.sweep.node] : [];
    const plane = [this.notes, this.plane.map.node, this.legend.node, this.frame.readout];
    this.frame.lay(
      STYLE,
      [...this.choices.nodes, ...asking],
      [
        h('div', { class: 'nbsight-plane' }, ...plane),
        h('aside', { class: 'nbsight-beside' }, this.answer.node, this.stack.node, this.compare.node)
      ]
    );
    this.frame.controls.after(this.prompts.node);
  }

  private show(): void {
    const { header } = this.data;
    const { base, donor } = ends(this.state.direction);
    this.link.replace(this.about()); // the direction says whose tokens the columns are
    this.frame.describe(`${header.model} · run ${base}, copy from ${donor}`, header.provenance);
    this.choices.show(header, this.state);
    this.sweep.show(this.data, this.state);
    this.prompts.show({ clean: header.clean.prompt, corrupted: header.corrupted.prompt });
    this.plane.show(this.data, this.state);
    this.plane.map.select(this.selection);
    this.stack.show(this.data, this.state.direction);
    this.drawNotes();
    this.drawLegend();
    this.drawAnswer();
    this.frame.refresh();
  }

  private drawNotes(): void {
    const notes = [...(this.data.known(this.state)?.notes ?? [])];
    const { clean, corrupted } = this.data.header;
    if (!this.data.aligned) {
      notes.push(
        `The prompts have ${clean.tokens.length} and ${corrupted.tokens.length} tokens, so there is no sweep. ` +
          'Carry single tokens, or choose words with as many tokens.'
      );
    }
    this.notes.replaceChildren(...notes.map(note => h('div', { class: 'nbsight-badge' }, note)));
  }

  private drawLegend(): void {
    const limit = number(this.data.limit(this.state), 2);
    const known = this.data.known(this.state);
    const text = known
      ? `share of the way to the donor’s prediction${known.complete ? '' : '; stripes: not run yet'}`
      : 'not swept yet: click a cell for a single run, or run the sweep';
    this.legend.show(known ? [`−${limit}`, limit] : null, text, this.frame.dark);
  }

  private drawAnswer(): void {
    const [clean = null, corrupted = null] = this.data.header.ends[this.state.metric] ?? [];
    const name = this.data.header.names[this.state.metric] ?? this.state.metric;
    const { patches, frozen = null } = this.state;
    const isOfState = this.patched?.metric === this.state.metric && (patches.length > 0 || frozen !== null);
    const patched = isOfState ? this.patched : null;
    this.answer.show(patched, this.data.header.tops, { name, clean, corrupted });
    this.compare.show(this.data, frozen, patched, patches.length > 0 && this.patching !== null);
  }

  private point(cell: Cell | null, keyboard: boolean): void {
    if (!cell) {
      this.link.say({});
      this.frame.say();
      return;
    }
    const byHead = isByHead(this.state);
    this.link.say(byHead ? { layer: cell[0], head: cell[1] } : { layer: cell[0], position: cell[1] });
    const said = this.plane.say(cell);
    const value = this.data.value(this.state, cell);
    const name = METRICS[this.state.metric] ?? this.state.metric;
    const early =
      !byHead && this.data.isBefore(cell[1])
        ? ' The prompts are the same up to here: no patch can change anything.'
        : '';
    this.frame.say(said, Number.isFinite(value) ? ` (${name} ${number(value)}).` : '.', early);
    if (keyboard) {
      this.frame.announce(said);
    }
  }

  private about(): { model: string; tokens: string[] } {
    return {
      model: this.data.header.model,
      tokens: this.data.header[ends(this.state.direction).base].tokens
    };
  }

  // --- for the frame -------------------------------------------------------------------------------

  code(): string {
    const isRun = this.state.patches.length > 0 || Boolean(this.state.frozen);
    return this.patched && isRun ? this.patched.code : this.data.code(this.state);
  }

  rows(): Value[][] {
    return rowsOf(this.data, this.state);
  }

  table(): HTMLElement {
    return dataTable('What each patch gives, last layer first.', this.rows(), (value, i) =>
      i === 3 ? visible(String(value)) : i > 3 && value !== null ? number(value as number) : value
    );
  }

  picture(): string {
    return pictureOf(this.data, this.state, this.plane.spec());
  }

  recolour(dark: boolean): void {
    this.plane.map.recolour(dark);
    this.drawLegend();
  }

  fit(width: number, narrow: boolean): void {
    this.plane.map.resize(narrow ? width : width - BESIDE);
    this.plane.drawOver();
  }

  key(event: KeyboardEvent): boolean {
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key.toLowerCase() === 'z' && !event.shiftKey) {
      this.stack.undo();
    } else if (isCommand && (event.key.toLowerCase() === 'y' || event.key.toLowerCase() === 'z')) {
      this.stack.redo();
    } else if (!isCommand && !event.altKey && event.key === 'f' && (this.state.frozen || this.patched)) {
      this.state.frozen ? this.release() : this.freeze();
    } else if (event.key === 'Escape' && this.stack.patches.length) {
      this.stack.put([]);
    } else {
      return false;
    }
    return true;
  }
}

function samePlace(a: Patch, b: Patch): boolean {
  return a.layer === b.layer && a.site === b.site && a.target === b.target && a.head === b.head;
}
