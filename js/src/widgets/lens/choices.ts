import { Choice } from '../../shared/controls';
import { SITES } from '../../shared/sites';
import { visible } from '../../shared/tokens';
import { type LensData, pairOf } from './data';
import type { State, Statistic } from './types';

const STRIDES = [1, 2, 3, 4, 6, 8, 12, 16];
/** What must be known of a part that is read like the stream. */
export const ALONE = 'Read alone, through the final norm: where it points, not how much it weighs';
const NO_KERNEL = 'No kernel is attached: this is what was kept.';

/** The lists above the grid: which lens, which part of the model, what the colour says, which layers. */
export class Choices {
  private readonly lens: Choice<string>;
  private readonly component: Choice<string>;
  private readonly statistic: Choice<Statistic>;
  private readonly stride: Choice<string>;

  constructor(
    private readonly isLive: boolean,
    change: (state: Partial<State>) => void
  ) {
    this.lens = new Choice('Lens', [], lens => change({ lens }));
    this.component = new Choice('Read', [], component => change({ component }));
    this.statistic = new Choice<Statistic>('Colour', [], statistic => change({ statistic }));
    this.stride = new Choice('Layers', [], stride => change({ stride: Number(stride) }));
  }

  get nodes(): HTMLElement[] {
    return [this.lens, this.component, this.statistic, this.stride].map(choice => choice.node);
  }

  show(data: LensData, state: State): void {
    const { lenses, components, component } = data.header;
    this.lens.offer(lenses.map(name => [name, name] as const));
    this.lens.show(state.lens);
    this.lens.node.hidden = lenses.length < 2;
    this.component.offer(components.map(name => [name, partOf(name)] as const));
    this.component.show(state.component || component);
    this.component.node.hidden = components.length < 2;
    for (const choice of [this.lens, this.component]) {
      choice.enable(this.isLive, NO_KERNEL);
    }
    const strides = STRIDES.filter(stride => stride === 1 || stride < data.nLayers - 1);
    this.stride.offer(strides.map(stride => [String(stride), rowsOf(stride)] as const));
    this.stride.show(String(state.stride));
    this.stride.node.hidden = strides.length < 2;
    this.statistic.offer(statistics(state));
    this.statistic.show(state.statistic);
  }
}

function statistics(state: State): [Statistic, string][] {
  const last = state.pins[state.pins.length - 1];
  const pair = pairOf(state)?.map(pin => visible(pin.token));
  const found: [Statistic, string][] = [
    ['top', 'probability of the top token'],
    ['entropy', 'entropy'],
    ['kl', 'KL from the last layer']
  ];
  if (last) {
    const token = visible(last.token);
    found.push(['probability', `probability of ${token}`], ['rank', `rank of ${token}`]);
  }
  if (pair) {
    const named = pair.join(' − ');
    found.push(
      ['logit_difference', `logit of ${named}`],
      ['probability_difference', `probability of ${named}`]
    );
  }
  return found;
}

function partOf(name: string): string {
  const head = /^head_(\d+)$/.exec(name);
  return head ? `head ${head[1]} alone` : (SITES[name] ?? (name === 'stream' ? 'the stream' : name));
}

function rowsOf(stride: number): string {
  return stride === 1 ? 'all' : `every ${stride}${{ 2: 'nd', 3: 'rd' }[stride] ?? 'th'} and the last`;
}
