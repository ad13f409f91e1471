import { h } from '../../shared/dom';
import { type Line, Lines, type LinesSpec } from '../../shared/lines';
import { series } from '../../shared/palette';
import { visible } from '../../shared/tokens';
import { isDifference, type LensData, pairOf } from './data';
import type { Pin, State } from './types';

/** Followed tokens, and the difference of two, through the layers at one position. */
export class Courses {
  readonly pins = h('div', { class: 'nbsight-lens-pins', role: 'group', 'aria-label': 'Followed tokens' });
  readonly lines: Lines;

  constructor(
    events: { point(layer: number | null): void; choose(layer: number): void },
    private readonly unpin: (pin: Pin) => void
  ) {
    this.lines = new Lines(
      { title: '', x: [], xTitle: '', yTitle: '', isLog: false, lines: [] },
      {
        point: (_, layer) => events.point(layer),
        choose: (_, layer) => events.choose(layer)
      }
    );
  }

  show(data: LensData, state: State, column: number, dark: boolean): void {
    const pair = isDifference(state.statistic) ? pairOf(state) : null;
    this.lines.node.hidden = !state.pins.length && !pair;
    this.lines.show(specOf(data, state, column, dark));
    this.pins.hidden = !state.pins.length;
    this.pins.replaceChildren(...state.pins.map((pin, i) => this.chip(pin, i, dark)));
  }

  private chip(pin: Pin, i: number, dark: boolean): HTMLElement {
    const { colour, dashes } = series(i, dark);
    const style = `border-top: 2px ${dashes ? 'dashed' : 'solid'} ${colour}`;
    const label = `No longer follow ${visible(pin.token)}`;
    const chip = h(
      'button',
      { type: 'button', title: label, 'aria-label': label },
      h('i', { style }),
      `${visible(pin.token)} ×`
    );
    chip.addEventListener('click', () => this.unpin(pin));
    return chip;
  }
}

function specOf(data: LensData, state: State, column: number, dark: boolean): LinesSpec {
  const pair = isDifference(state.statistic) ? pairOf(state) : null;
  const after = visible(data.header.tokens[column] ?? '');
  const base = {
    title: `Followed tokens after ${after} (position ${column})`,
    x: data.header.layers.map(String),
    xTitle: `layer, at position ${column} after ${after}`
  };
  const lineOf = (tokens: readonly Pin[], values: number[], i: number): Line => ({
    name: tokens.map(pin => visible(pin.token)).join(' − '),
    values,
    ...series(i, dark),
    strength: 'strong',
    isToken: true
  });
  if (pair) {
    const yTitle = state.statistic.replace('_', ' ');
    return { ...base, yTitle, isLog: false, lines: [lineOf(pair, data.shown(state, column), 0)] };
  }
  const isRank = state.statistic === 'rank';
  const lines = state.pins.map((pin, i) => {
    const course = data.course(isRank ? 'rank' : 'probability', pin, column);
    return lineOf([pin], isRank ? course.map(rank => rank + 1) : course, i);
  });
  return isRank
    ? { ...base, yTitle: 'rank + 1', isLog: true, lines }
    : { ...base, yTitle: 'probability', isLog: false, limits: [0, 1], lines };
}
