import { type Swatch, signed, swatch } from '../../shared/palette';
import { number, visible } from '../../shared/tokens';
import { isDifference, type LensData, pairOf } from './data';
import type { Place, State, Statistic } from './types';

const MEANING: Record<Statistic, string> = {
  top: 'probability of the top token',
  entropy: 'entropy in nats; deep: sure',
  kl: 'KL from the last layer in nats; deep: already there',
  probability: 'probability of',
  rank: 'rank of, 0 is the top; deep: high up',
  logit_difference: 'logit difference',
  probability_difference: 'probability difference'
};

/** What the colours of a lens say: of which number, from where to where. */
export class Shades {
  private readonly most: number;

  constructor(
    private readonly data: LensData,
    private readonly state: State
  ) {
    this.most = data.most(state);
  }

  get isSigned(): boolean {
    return isDifference(this.state.statistic);
  }

  value(place: Place): number {
    return this.data.statistic(this.state.statistic, place, this.state);
  }

  depth(place: Place): number {
    return this.data.depth(this.state.statistic, this.value(place), this.most);
  }

  swatch(place: Place, dark: boolean): Swatch {
    return this.isSigned ? signed(this.depth(place), dark) : swatch(this.depth(place), dark);
  }

  meaning(): string {
    const { statistic, pins } = this.state;
    const last = pins[pins.length - 1];
    const pair = pairOf(this.state);
    if (pair && this.isSigned) {
      const [first, second] = pair.map(pin => visible(pin.token));
      return `${MEANING[statistic]}: ${first} − ${second}`;
    }
    const named = last && (statistic === 'probability' || statistic === 'rank');
    return named ? MEANING[statistic].replace('of', `of ${visible(last.token)}`) : MEANING[statistic];
  }

  /** What the ends of the colours stand for. */
  ends(): [low: string, high: string] {
    const { statistic } = this.state;
    if (this.isSigned) {
      const end = number(this.most, 2);
      return [`−${end}`, end];
    }
    const isShare = statistic === 'top' || statistic === 'probability';
    return isShare ? ['0', '1'] : [number(this.most, 2), '0'];
  }
}
