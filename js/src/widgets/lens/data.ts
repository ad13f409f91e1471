import { fill } from '../../shared/code';
import { clamp } from '../../shared/dom';
import { decode, type NdArray } from '../../shared/payload';
import type { LensHeader, Pin, Place, Ranking, State, Statistic } from './types';

/** The lens as the view reads it: no wire, no buffers. */
export class LensData {
  readonly nLayers: number;
  readonly nPositions: number;
  readonly topK: number;
  private readonly probs: ArrayLike<number>;
  private readonly words: ArrayLike<number>;
  private readonly ids: ArrayLike<number>;
  private readonly arrays: Record<string, NdArray>;

  constructor(
    readonly header: LensHeader,
    buffer: DataView
  ) {
    this.arrays = decode(header, buffer);
    const shape = this.arrays.probs!.shape;
    [this.nLayers, this.nPositions, this.topK] = shape as [number, number, number];
    this.probs = this.arrays.probs!.values;
    this.words = this.arrays.words!.values;
    this.ids = this.arrays.ids!.values;
  }

  private start([layer, position]: Place): number {
    return (layer * this.nPositions + position) * this.topK;
  }

  token(place: Place): string {
    return this.header.vocabulary[this.word(place)]!;
  }

  /** Which entry of the vocabulary is on top here. */
  word(place: Place): number {
    return this.words[this.start(place)]!;
  }

  prob(place: Place): number {
    return this.probs[this.start(place)]!;
  }

  /** Whether entropy and divergence are known. */
  get hasStatistics(): boolean {
    return 'entropy' in this.arrays;
  }

  /** Whether a token's course through the layers is known. */
  follows(pin: Pin): boolean {
    return this.header.followed.some(each => each.id === pin.id);
  }

  /** A statistic of one cell; NaN where it is not known. */
  statistic(name: Statistic, place: Place, pin: Pin | undefined): number {
    if (name === 'top') {
      return this.prob(place);
    }
    const at = place[0] * this.nPositions + place[1];
    if (name === 'entropy' || name === 'kl') {
      return this.arrays[name]?.values[at] ?? NaN;
    }
    const which = this.header.followed.findIndex(each => each.id === pin?.id);
    const values = this.arrays[name === 'rank' ? 'ranks' : 'courses']?.values;
    return which < 0 || !values ? NaN : values[at * this.header.followed.length + which]!;
  }

  /** A statistic as a colour in [0, 1]: deep where the layer is sure of what it says. */
  depth(name: Statistic, value: number, most: number): number {
    if (name === 'rank') {
      return 1 - Math.log10(1 + value) / Math.log10(1 + Math.max(most, 10));
    }
    return name === 'top' || name === 'probability' ? value : 1 - value / Math.max(most, 1e-9);
  }

  /** The largest value of a statistic. */
  most(name: Statistic, pin: Pin | undefined): number {
    let most = 0;
    for (let layer = 0; layer < this.nLayers; layer++) {
      for (let position = 0; position < this.nPositions; position++) {
        const value = this.statistic(name, [layer, position], pin);
        most = value > most ? value : most;
      }
    }
    return most;
  }

  /** A token's course through the layers at one position. */
  course(name: 'probability' | 'rank', pin: Pin, position: number): number[] {
    return Array.from({ length: this.nLayers }, (_, layer) => this.statistic(name, [layer, position], pin));
  }

  /** The ranking that was kept with the result. */
  kept(place: Place): Ranking {
    const start = this.start(place);
    const ranks = Array.from({ length: this.topK }, (_, rank) => start + rank);
    return {
      tokens: ranks.map(i => this.header.vocabulary[this.words[i]!]!),
      ids: ranks.map(i => this.ids[i]!),
      probs: ranks.map(i => this.probs[i]!)
    };
  }

  /** The same place moved inside the grid. */
  clamp([layer, position]: Place): Place {
    return [clamp(layer, 0, this.nLayers - 1), clamp(position, 0, this.nPositions - 1)];
  }

  /** The reproducing code, with a chosen cell read out of it. */
  code(place: Place | null, { statistic, pins }: State): string {
    const track = pins.length ? `, track=[${pins.map(pin => pin.id).join(', ')}]` : '';
    const more = statistic === 'entropy' || statistic === 'kl' ? ', statistics=True' : '';
    const code = fill(this.header.code, { more: track + more });
    return place ? `${code}\nlens.at(layer=${place[0]}, position=${place[1]})` : `${code}\nlens`;
  }
}
