import { fill } from '../../shared/code';
import { clamp } from '../../shared/dom';
import { decode, type NdArray } from '../../shared/payload';
import { visible } from '../../shared/tokens';
import type { LensHeader, Pin, Place, Ranking, State, Statistic } from './types';

export function isDifference(statistic: Statistic): boolean {
  return statistic === 'logit_difference' || statistic === 'probability_difference';
}

/** Both tokens of the contrast, where both are chosen. */
export function pairOf({ contrast: [first, second] }: State): [Pin, Pin] | null {
  return first && second ? [first, second] : null;
}

/** The tokens whose course the view needs, each once. */
export function wanted(state: State): Pin[] {
  const all = [...state.pins, ...(pairOf(state) ?? [])];
  return all.filter((pin, i) => all.findIndex(each => each.id === pin.id) === i);
}

/** A followed token in code: its text, or its place where two have the same. */
function nameOf(pin: Pin, pins: readonly Pin[]): string {
  const isAlone = pins.filter(each => each.token === pin.token).length === 1;
  return isAlone ? JSON.stringify(pin.token) : String(pins.findIndex(each => each.id === pin.id));
}

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
  statistic(name: Statistic, place: Place, { pins, contrast }: State): number {
    if (name === 'top') {
      return this.prob(place);
    }
    if (name === 'entropy' || name === 'kl') {
      return this.arrays[name]?.values[place[0] * this.nPositions + place[1]] ?? NaN;
    }
    if (name === 'logit_difference' || name === 'probability_difference') {
      const array = name === 'logit_difference' ? 'logits' : 'courses';
      const [first, second] = contrast;
      return this.of(array, place, first) - this.of(array, place, second);
    }
    return this.of(name === 'rank' ? 'ranks' : 'courses', place, pins[pins.length - 1]);
  }

  /** A number of a followed token; NaN where it is not known. */
  private of(array: 'ranks' | 'courses' | 'logits', [layer, position]: Place, pin?: Pin | null): number {
    const { followed } = this.header;
    const which = followed.findIndex(each => each.id === pin?.id);
    const at = layer * this.nPositions + position;
    return which < 0 ? NaN : (this.arrays[array]?.values[at * followed.length + which] ?? NaN);
  }

  /** A statistic as a colour in [0, 1], of a difference in [-1, 1]: deep where the layer is sure. */
  depth(name: Statistic, value: number, most: number): number {
    if (isDifference(name)) {
      return value / Math.max(most, 1e-9);
    }
    if (name === 'rank') {
      return 1 - Math.log10(1 + value) / Math.log10(1 + Math.max(most, 10));
    }
    return name === 'top' || name === 'probability' ? value : 1 - value / Math.max(most, 1e-9);
  }

  /** The largest value of a statistic, of a difference either way. */
  most(state: State): number {
    const name = state.statistic;
    let most = 0;
    for (let layer = 0; layer < this.nLayers; layer++) {
      for (let position = 0; position < this.nPositions; position++) {
        const value = Math.abs(this.statistic(name, [layer, position], state));
        most = value > most ? value : most;
      }
    }
    return most;
  }

  /** A token's course through the layers at one position. */
  course(name: 'probability' | 'rank', pin: Pin, position: number): number[] {
    const array = name === 'rank' ? 'ranks' : 'courses';
    return Array.from({ length: this.nLayers }, (_, layer) => this.of(array, [layer, position], pin));
  }

  /** The course of what the colour says. */
  shown(state: State, position: number): number[] {
    return Array.from({ length: this.nLayers }, (_, layer) =>
      this.statistic(state.statistic, [layer, position], state)
    );
  }

  /** The layers that have a row, lowest first: every so many from the first, the last one, and a chosen one. */
  rows(stride: number, chosen: Place | null): number[] {
    const last = this.nLayers - 1;
    return Array.from({ length: this.nLayers }, (_, layer) => layer).filter(
      layer => layer % Math.max(1, stride) === 0 || layer === last || layer === chosen?.[0]
    );
  }

  /** Tokens that were kept, by their text as it is shown, for whoever types one. */
  tokens(): Map<string, Pin> {
    const found = new Map<string, Pin>();
    for (let i = 0; i < this.words.length; i++) {
      const token = this.header.vocabulary[this.words[i]!]!;
      found.set(visible(token), { id: this.ids[i]!, token });
    }
    for (const pin of this.header.followed) {
      found.set(visible(pin.token), pin);
    }
    return found;
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

  /** The reproducing code, with a chosen cell read out of it (nbsight/widgets/lens_payload.py does the same). */
  code(place: Place | null, state: State): string {
    const pins = wanted(state);
    const ids = `[${pins.map(pin => pin.id).join(', ')}]`;
    const isAsked = state.statistic === 'entropy' || state.statistic === 'kl';
    const code = fill(this.header.code, {
      track: pins.length ? `, track=${ids}` : '',
      statistics: isAsked ? ', statistics=True' : '',
      more: pins.length || isAsked ? `.detail.more(${ids}, ${isAsked ? 'True' : 'False'})` : ''
    });
    const pair = pairOf(state);
    if (isDifference(state.statistic) && pair) {
      const names = pair.map(pin => nameOf(pin, pins));
      const what = state.statistic === 'logit_difference' ? '' : ', what="probability"';
      const made = `${code}\ncontrast = lens.contrast(${names.join(', ')}${what})\ncontrast`;
      return place ? `${made}[${place[0]}, ${place[1]}]` : made;
    }
    return place ? `${code}\nlens.at(layer=${place[0]}, position=${place[1]})` : `${code}\nlens`;
  }
}
