import { median, quantileSorted } from 'd3-array';
import { fill } from '../../shared/code';
import { clamp } from '../../shared/dom';
import { decode } from '../../shared/payload';
import type { NormsHeader, Place, State } from './types';

const OUTLIERS = 0.02; // the share of values at each end that may leave the scale

/** Norms as the view reads them: no wire, no buffers. */
export class NormsData {
  readonly nLayers: number;
  readonly nPositions: number;
  private readonly norm: ArrayLike<number>;
  private readonly cosine: ArrayLike<number>;
  private readonly sizes: ArrayLike<number>;

  constructor(
    readonly header: NormsHeader,
    buffer: DataView
  ) {
    const arrays = decode(header, buffer);
    [, this.nLayers, this.nPositions] = arrays.norm!.shape as [number, number, number];
    this.norm = arrays.norm!.values;
    this.cosine = arrays.cosine!.values;
    this.sizes = arrays.channel_size!.values;
  }

  /** The parts that can be drawn: of a ratio the writes, of the cosine the stream alone. */
  components({ what }: State): string[] {
    const { components, ratios } = this.header;
    return what === 'norm' ? components : what === 'ratio' ? Object.keys(ratios) : ['resid_post'];
  }

  /** The part on the map: the chosen one where it can be drawn. */
  component(state: State): string {
    const offered = this.components(state);
    return offered.includes(state.component) ? state.component : offered[0]!;
  }

  value(state: State, component: string, [layer, position]: Place): number {
    const at = layer * this.nPositions + position;
    if (state.what === 'cosine') {
      return this.cosine[at]!;
    }
    const size = (name: string) =>
      this.norm[this.header.components.indexOf(name) * this.nLayers * this.nPositions + at]!;
    return state.what === 'norm' ? size(component) : size(component) / size(this.header.ratios[component]!);
  }

  /** Positions on show. */
  positions({ first }: State): number[] {
    const start = first || this.nPositions < 2 ? 0 : 1;
    return Array.from({ length: this.nPositions - start }, (_, i) => i + start);
  }

  course(state: State, component: string, position: number): number[] {
    return Array.from({ length: this.nLayers }, (_, layer) =>
      this.value(state, component, [layer, position])
    );
  }

  medians(state: State, component: string): number[] {
    const positions = this.positions(state);
    return Array.from(
      { length: this.nLayers },
      (_, layer) => median(positions, position => this.value(state, component, [layer, position])) ?? NaN
    );
  }

  /** Where the colours begin and end; outliers may lie beyond. */
  limits(state: State): [number, number] {
    const component = this.component(state);
    const found: number[] = [];
    for (const position of this.positions(state)) {
      found.push(
        ...this.course(state, component, position).filter(v => Number.isFinite(v) && (!state.log || v > 0))
      );
    }
    found.sort((a, b) => a - b);
    if (!found.length) {
      return [0, 1];
    }
    const [low, high] = state.robust
      ? [quantileSorted(found, OUTLIERS)!, quantileSorted(found, 1 - OUTLIERS)!]
      : [found[0]!, found[found.length - 1]!];
    // A size is read from 0 on, unless the scale is one of powers; a cosine is not a size.
    return [state.log || state.what === 'cosine' ? low : 0, high > low ? high : low + 1e-6];
  }

  /** A value as a colour in [0, 1]. */
  depth(state: State, value: number, [low, high]: [number, number]): number {
    return state.log && state.what !== 'cosine'
      ? Math.log(Math.max(value, 1e-12) / low) / Math.log(high / low)
      : (value - low) / (high - low);
  }

  /** The largest channels, each with how far it stands out at its largest. */
  channels(): { channel: number; size: number; layer: number }[] {
    const count = this.header.channels.length;
    return this.header.channels.map((channel, i) => {
      let [size, layer] = [-Infinity, 0];
      for (let each = 0; each < this.nLayers; each++) {
        const here = this.sizes[each * count + i]!;
        [size, layer] = here > size ? [here, each] : [size, layer];
      }
      return { channel, size, layer };
    });
  }

  clamp([layer, position]: Place): Place {
    return [clamp(layer, 0, this.nLayers - 1), clamp(position, 0, this.nPositions - 1)];
  }

  code(place: Place | null, state: State): string {
    if (!place) {
      return `${this.header.code}\nnorms`;
    }
    const values = { component: state.component, layer: place[0], position: place[1] };
    return `${this.header.code}\n${fill(this.header.code_at[state.what], values)}`;
  }
}
