import { Choice } from '../../shared/controls';
import { h } from '../../shared/dom';
import { visible } from '../../shared/tokens';
import type { InspectorHeader, State } from './types';

/** Which axes go down and across, and sliders for all others. */
export class Axes {
  readonly node = h('span', { class: 'nbsight-inspector-axes' });
  private readonly down: Choice<string>;
  private readonly across: Choice<string>;
  private readonly sliders = h('span', { class: 'nbsight-inspector-axes' });
  private header!: InspectorHeader;
  private state!: State;

  constructor(private readonly change: (state: Partial<State>) => void) {
    this.down = new Choice<string>('Down', [], axis => this.swap('rows', Number(axis)));
    this.across = new Choice<string>('Across', [], axis => this.swap('columns', Number(axis)));
    this.node.append(this.down.node, this.across.node, this.sliders);
  }

  show(header: InspectorHeader, state: State): void {
    const isSame =
      this.header === header && this.state.rows === state.rows && this.state.columns === state.columns;
    this.header = header;
    this.state = state;
    const named = header.axes.map((name, axis) => [String(axis), `${name} (${header.shape[axis]})`] as const);
    this.down.offer(named);
    this.across.offer(named);
    this.down.show(String(state.rows));
    this.across.show(String(state.columns));
    if (!isSame) {
      this.sliders.replaceChildren(
        ...named
          .map((_, axis) => axis)
          .filter(axis => this.isHeld(axis))
          .map(axis => this.slider(axis))
      );
    }
  }

  private isHeld(axis: number): boolean {
    return axis !== this.state.rows && axis !== this.state.columns && this.header.shape[axis]! > 1;
  }

  private swap(which: 'rows' | 'columns', axis: number): void {
    const other = which === 'rows' ? 'columns' : 'rows';
    this.change(
      this.state[other] === axis ? { [which]: axis, [other]: this.state[which] } : { [which]: axis }
    );
  }

  private slider(axis: number): HTMLElement {
    const name = this.header.axes[axis]!;
    const range = h('input', {
      type: 'range',
      min: 0,
      max: this.header.shape[axis]! - 1,
      'aria-label': name
    });
    range.value = String(this.state.at[axis]);
    const said = h('code', {}, this.text(axis));
    range.addEventListener('input', () => {
      const at = this.state.at.map((index, each) => (each === axis ? Number(range.value) : index));
      this.state = { ...this.state, at };
      said.textContent = this.text(axis);
      this.change({ at });
    });
    return h('label', {}, name, range, said);
  }

  private text(axis: number): string {
    const index = this.state.at[axis]!;
    const token = this.header.axes[axis] === 'position' ? this.header.tokens[index] : undefined;
    return token === undefined ? String(index) : `${index} ${visible(token)}`;
  }
}
