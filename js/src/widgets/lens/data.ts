import { decode } from '../../shared/payload';
import type { LensHeader, Place, Ranking } from './types';

/** The lens as the view reads it: no wire, no buffers. */
export class LensData {
  readonly nLayers: number;
  readonly nPositions: number;
  readonly topK: number;
  private readonly probs: ArrayLike<number>;
  private readonly words: ArrayLike<number>;
  private readonly ids: ArrayLike<number>;

  constructor(
    readonly header: LensHeader,
    buffer: DataView
  ) {
    const arrays = decode(header, buffer);
    const shape = arrays.probs!.shape;
    [this.nLayers, this.nPositions, this.topK] = shape as [number, number, number];
    this.probs = arrays.probs!.values;
    this.words = arrays.words!.values;
    this.ids = arrays.ids!.values;
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
    const inside = (value: number, size: number) => Math.min(size - 1, Math.max(0, value));
    return [inside(layer, this.nLayers), inside(position, this.nPositions)];
  }

  /** The reproducing code, with a chosen cell read out of it. */
  code(place: Place | null): string {
    return place
      ? `${this.header.code}\nlens.at(layer=${place[0]}, position=${place[1]})`
      : `${this.header.code}\nlens`;
  }
}
