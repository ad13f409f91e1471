import { h } from '../../shared/dom';
import { type Cell, Heatmap, type HeatmapSpec } from '../../shared/heatmap';
import { signed } from '../../shared/palette';
import { Overlay, tag } from '../../shared/svg';
import { number, visible } from '../../shared/tokens';
import { ends, isByHead, type PatchingData } from './data';
import type { Patch, Run, State } from './types';

const LABEL = 72;
const ROOM = 16; // pixels that a pointer may move and still be a click

export interface PlaneEvents {
  point(cell: Cell | null, keyboard: boolean): void;
  /** a place is to be patched from the same position of the other run */
  patch(cell: Cell, add: boolean): void;
  /** a token was carried to a place of the other prompt; null: to the active layer */
  carry(source: number, layer: number | null, target: number, add: boolean): void;
}

/** The two prompts with the heatmap between them; a token can be carried from one to the other. */
export class Plane {
  readonly map: Heatmap;
  private held: { source: number; x: number; y: number; moved: boolean } | null = null;
  private readonly over = new Overlay('nbsight-patching-over');
  private arrow = '';

  constructor(
    private data: PatchingData,
    private state: State,
    dark: boolean,
    private readonly events: PlaneEvents
  ) {
    this.map = new Heatmap(this.spec(), dark, {
      point: (cell, keyboard) => this.events.point(cell, keyboard),
      choose: (cell, event) => this.events.patch(cell, event.shiftKey)
    });
    this.map.overlay(this.over.node);
    this.map.node.addEventListener('pointerdown', event => this.grab(event));
    this.map.node.addEventListener('keydown', event => this.onChipKey(event), true);
  }

  show(data: PatchingData, state: State): void {
    this.data = data;
    this.state = state;
    this.map.show(this.spec());
    this.drawOver();
  }

  spec(): HeatmapSpec {
    const { data, state } = this;
    const limit = data.limit(state);
    const isKnown = data.known(state) !== undefined;
    const byHead = isByHead(state);
    const chip = (run: Run) => (column: number) => this.chip(run, column);
    const headName = (column: number) =>
      h('span', { class: 'nbsight-patching-head', title: `head ${column}` }, String(column));
    return {
      name:
        `Patches of ${byHead ? 'each head of z' : state.site}, ${data.nLayers} layers by ` +
        `${data.columns(state)} ${byHead ? 'heads' : 'positions'}. ` +
        'Arrow keys move, Enter patches, Shift and Enter adds a patch.',
      rows: data.header.layers.map(String),
      columns: data.columns(state),
      corners: byHead ? ['head', ''] : ['clean', 'corrupted'],
      label: LABEL,
      swatch: (row, column, dark) => {
        const share = data.share(state, [row, column]);
        return Number.isFinite(share)
          ? signed(share / limit, dark)
          : { fill: dark ? 'rgb(127 140 155 / 14%)' : 'rgb(91 103 117 / 9%)', ink: dark ? '#fff' : '#000' };
      },
      text: (row, column) => {
        const share = data.share(state, [row, column]);
        return Number.isFinite(share) && Math.abs(share) >= 0.005 ? short(share) : '';
      },
      describe: (row, column) => this.say([row, column]),
      hatched: (row, column) =>
        (!byHead && this.isOutside(column)) ||
        (isKnown && !Number.isFinite(data.share(state, [row, column]))),
      ...(byHead
        ? { head: { height: 22, make: headName } }
        : { head: { height: 34, make: chip('clean') }, foot: { height: 34, make: chip('corrupted') } }),
      column: [46, 92]
    };
  }

  /** A place in words. */
  say([layer, position]: Cell): string {
    const share = this.data.share(this.state, [layer, position]);
    const found = Number.isFinite(share) ? `${number(100 * share, 2)} % recovered` : 'not run yet';
    if (isByHead(this.state)) {
      return `Layer ${this.data.header.layers[layer]}, head ${position}: ${found}`;
    }
    const { base } = ends(this.state.direction);
    const token = visible(this.data.token(base, position) ?? '');
    return `Layer ${this.data.header.layers[layer]}, position ${position} ${token}: ${found}`;
  }

  private isOutside(column: number): boolean {
    const { base, donor } = ends(this.state.direction);
    return this.data.token(base, column) === null || this.data.token(donor, column) === null;
  }

  private chip(run: Run, column: number): HTMLElement {
    const token = this.data.token(run, column);
    const gives = ends(this.state.direction).donor === run;
    if (token === null) {
      return h('span', {});
    }
    const differs = this.data.differs(column);
    const does = gives ? 'Enter picks it up to carry it to the other prompt' : 'the place of a patch';
    return h(
      'button',
      {
        type: 'button',
        class: 'nbsight-patching-chip',
        'data-run': run,
        'data-gives': gives,
        'data-differs': differs,
        tabindex: column === 0 ? 0 : -1,
        style: 'margin-top: 4px',
        title: `${visible(token)} · position ${column} of the ${run} prompt`,
        'aria-label': `${visible(token)}, position ${column} of the ${run} prompt${differs ? ', differs' : ''}; ${does}`
      },
      h('span', {}, visible(token))
    );
  }

  // --- carrying with the pointer ------------------------------------------------------------

  private grab(event: PointerEvent): void {
    const chip = (event.target as Element).closest<HTMLElement>('.nbsight-patching-chip[data-gives]');
    if (!chip || event.button !== 0) {
      return;
    }
    this.held = { source: Number(chip.dataset.column), x: event.clientX, y: event.clientY, moved: false };
    chip.toggleAttribute('data-held', true);
    const move = (at: PointerEvent) => this.drag(at);
    const drop = (at: PointerEvent) => {
      window.removeEventListener('pointermove', move);
      window.removeEventListener('pointerup', drop);
      window.removeEventListener('pointercancel', cancel);
      chip.toggleAttribute('data-held', false);
      this.drop(at);
    };
    const cancel = (at: PointerEvent) => {
      this.held = null;
      drop(at);
    };
    window.addEventListener('pointermove', move);
    window.addEventListener('pointerup', drop);
    window.addEventListener('pointercancel', cancel);
    event.preventDefault();
    chip.focus();
  }

  private drag(event: PointerEvent): void {
    const held = this.held;
    if (!held) {
      return;
    }
    held.moved ||= Math.hypot(event.clientX - held.x, event.clientY - held.y) > ROOM;
    const hit = held.moved ? this.map.hit(event) : null;
    this.arrow = hit ? this.path(held.source, hit.row, hit.column, true) : '';
    this.drawOver();
    this.map.link(hit && typeof hit.row === 'number' ? [hit.row] : [], hit ? [hit.column] : []);
  }

  private drop(event: PointerEvent): void {
    const held = this.held;
    this.held = null;
    this.arrow = '';
    this.map.link([], []);
    this.drawOver();
    const hit = held?.moved ? this.map.hit(event) : null;
    const { base } = ends(this.state.direction);
    if (!held || !hit || hit.row === this.giving() || this.data.token(base, hit.column) === null) {
      return;
    }
    const layer = typeof hit.row === 'number' ? hit.row : null;
    this.events.carry(held.source, layer, hit.column, event.shiftKey);
  }

  private giving(): 'head' | 'foot' {
    return this.state.direction === 'denoise' ? 'head' : 'foot';
  }

  // --- carrying with keys ---------------------------------------------------------------------

  private picked: number | null = null;

  private onChipKey(event: KeyboardEvent): void {
    const chip = (event.target as Element).closest<HTMLElement>('.nbsight-patching-chip');
    if (!chip || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const { base, donor } = ends(this.state.direction);
    const column = Number(chip.dataset.column);
    const run = chip.dataset.run as Run;
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
      this.focusChip(run, column + (event.key === 'ArrowRight' ? 1 : -1));
    } else if (event.key === 'Escape' && this.picked !== null) {
      const from = this.picked;
      this.pick(null);
      this.focusChip(donor, from);
    } else if (event.key === 'Enter' || event.key === ' ') {
      if (run === donor) {
        this.pick(column);
        this.focusChip(base, column);
      } else if (this.picked !== null) {
        const source = this.picked;
        this.pick(null);
        this.events.carry(source, null, column, event.shiftKey);
        this.map.node.focus();
      } else {
        return;
      }
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private pick(source: number | null): void {
    this.picked = source;
    const { donor } = ends(this.state.direction);
    for (const chip of this.map.node.querySelectorAll<HTMLElement>('.nbsight-patching-chip')) {
      chip.toggleAttribute('data-held', chip.dataset.run === donor && Number(chip.dataset.column) === source);
    }
  }

  private focusChip(run: Run, column: number): void {
    const chip = this.map.node.querySelector<HTMLElement>(
      `.nbsight-patching-chip[data-run="${run}"][data-column="${column}"]`
    );
    chip?.focus();
    if (this.picked !== null && chip) {
      const row = run === 'clean' ? 'head' : 'foot';
      this.arrow = this.path(this.picked, row, column, true);
    } else {
      this.arrow = '';
    }
    this.drawOver();
  }

  // --- what lies over the cells ---------------------------------------------------------------

  private path(source: number, row: number | 'head' | 'foot', column: number, isHeld: boolean): string {
    const [x0, y0] = this.map.anchor(this.giving(), source);
    const [x1, y1] = this.map.anchor(row, column);
    const bend = (y1 - y0) * 0.4;
    const d = `M${x0},${y0}C${x0},${y0 + bend} ${x1},${y1 - bend} ${x1},${y1}`;
    const stroke = 'var(--nb-ring)';
    const dash = isHeld ? '5 4' : undefined;
    return (
      tag('path', {
        d,
        fill: 'none',
        stroke: 'var(--nb-ring-gap)',
        'stroke-width': 4,
        'stroke-opacity': 0.7
      }) +
      tag('path', { d, fill: 'none', stroke, 'stroke-width': 2, 'stroke-dasharray': dash }) +
      tag('circle', {
        cx: x1,
        cy: y1,
        r: isHeld ? 5 : 4,
        fill: stroke,
        stroke: 'var(--nb-ring-gap)',
        'stroke-width': 1.5
      })
    );
  }

  drawOver(): void {
    if (isByHead(this.state)) {
      this.over.draw(this.state.patches.map(patch => this.ring(patch)).join(''));
      return;
    }
    const patches = this.state.patches.filter(isPlaced).filter(patch => patch.target < this.data.nColumns);
    const cone = this.state.cone ? patches.map(patch => this.cone(patch)).join('') : '';
    const paths = patches.map(patch => this.path(patch.source, patch.layer, patch.target, false)).join('');
    this.over.draw(cone + paths + this.arrow);
  }

  /** A patched head, where it is one of this map's. */
  private ring({ layer, head, target }: Patch): string {
    if (head === undefined || target !== this.state.position) {
      return '';
    }
    const { x, y, width } = this.map.box([layer, head], [layer, head]);
    const at = { cx: x + width - 7, cy: y + 7, r: 3.5 };
    return tag('circle', { ...at, fill: 'var(--nb-ring)', stroke: 'var(--nb-ring-gap)' });
  }

  /** What a patch can reach: later layers at its own and later positions. */
  private cone({ layer, target }: Placed): string {
    if (layer + 1 >= this.data.nLayers) {
      return '';
    }
    const box = this.map.box([layer + 1, target], [this.data.nLayers - 1, this.data.nColumns - 1]);
    return tag('rect', {
      ...box,
      fill: 'none',
      stroke: 'var(--nb-ring)',
      'stroke-dasharray': '2 4',
      'stroke-opacity': 0.75
    });
  }
}

type Placed = Patch & { source: number; target: number };

function isPlaced(patch: Patch): patch is Placed {
  return patch.source !== null && patch.target !== null;
}

function short(share: number): string {
  const text = Math.abs(share) < 9.95 ? share.toFixed(2) : share.toFixed(0);
  return text.replace('-', '−').replace(/^(−?)0\./, '$1.');
}
