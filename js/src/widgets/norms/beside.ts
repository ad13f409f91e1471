import { percent } from '../../shared/bars';
import { h } from '../../shared/dom';
import { series } from '../../shared/palette';
import { SITES } from '../../shared/sites';
import { number, visible } from '../../shared/tokens';
import type { NormsData } from './data';
import type { Place, State } from './types';

const CHANNELS = 5;

/** What is said beside the pictures: the parts at one place, what to know, and channels that stand out. */
export class Beside {
  readonly node = h('aside', { class: 'nbsight-beside' });

  constructor(private readonly choose: (component: string) => void) {}

  show(data: NormsData, state: State, place: Place | null, dark: boolean): void {
    const [layer, position] = place ?? [data.nLayers - 1, data.nPositions - 1];
    const token = visible(data.header.tokens[position]!);
    const shown = data.components(state);
    const values = shown.map(name => data.value(state, name, [layer, position]));
    const most = Math.max(...values.filter(Number.isFinite), 1e-12);
    const rows = shown.map((name, i) => {
      const { colour, dashes } = series(data.header.components.indexOf(name), dark);
      const button = h(
        'button',
        {
          type: 'button',
          'aria-pressed': data.component(state) === name,
          title: `${SITES[name] ?? name}: put it on the map`
        },
        h('i', { style: `border-top: 3px ${dashes ? 'dashed' : 'solid'} ${colour}`, 'aria-hidden': 'true' }),
        name
      );
      button.addEventListener('click', () => this.choose(name));
      const width = `width: ${percent(values[i]! / most)}; background: ${colour}`;
      return h(
        'li',
        {},
        button,
        h('span', { class: 'nbsight-bar', 'aria-hidden': 'true' }, h('i', { style: width })),
        h('span', {}, number(values[i]!))
      );
    });
    const channels = data.channels().slice(0, CHANNELS);
    this.node.replaceChildren(
      h('h3', {}, `Layer ${data.header.layers[layer]} · position ${position}`),
      h('p', {}, 'at ', h('code', {}, token)),
      h('ul', { class: 'nbsight-bars nbsight-norms-parts' }, ...rows),
      ...data.header.notes.map(note => h('div', { class: 'nbsight-badge' }, sentence(note))),
      h('h3', {}, 'Largest channels'),
      h('p', {}, 'times the median channel, at their largest'),
      h(
        'ul',
        { class: 'nbsight-norms-channels' },
        ...channels.map(({ channel, size, layer: at }) =>
          h(
            'li',
            {},
            h('code', {}, String(channel)),
            h('span', {}, `${number(size, 2)} ×`),
            h('span', {}, `layer ${data.header.layers[at]}`)
          )
        )
      )
    );
  }
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
