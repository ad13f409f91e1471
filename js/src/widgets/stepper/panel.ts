import { Bars } from '../../shared/bars';
import { h } from '../../shared/dom';
import { visible } from '../../shared/tokens';
import { type StepperData, toggled } from './data';
import type { State } from './types';

/** Beside the map: where the run stands, a change to make there, what was done, and what the model says. */
export class Panel {
  readonly node = h('aside', { class: 'nbsight-beside' });
  private readonly where = h('h3', {});
  private readonly about = h('p', {});
  private readonly chips = h('div', {
    class: 'nbsight-stepper-chips',
    role: 'group',
    'aria-label': 'Positions to change'
  });
  private readonly factor = h('input', { type: 'number', step: 'any', 'aria-label': 'Factor' });
  private readonly apply = h('button', { type: 'button' }, 'Apply');
  private readonly done = h('ol', { class: 'nbsight-stepper-done' });
  private readonly answer = h('h3', {});
  private readonly bars = new Bars('this run', ['plain']);

  constructor(
    private readonly events: {
      set(state: Partial<State>): void;
      edit(): void;
    }
  ) {
    this.factor.addEventListener('change', () => {
      const factor = Number(this.factor.value);
      if (Number.isFinite(factor) && this.factor.value !== '') {
        this.events.set({ factor });
      }
    });
    this.apply.addEventListener('click', () => this.events.edit());
    this.node.append(
      this.where,
      this.about,
      h(
        'section',
        { class: 'nbsight-stepper-edit', 'aria-label': 'Change the value here' },
        h('p', {}, 'Change the value here: multiply'),
        this.chips,
        h('div', {}, h('label', {}, 'by', this.factor), this.apply)
      ),
      h('h3', {}, 'Done so far'),
      this.done,
      this.answer,
      this.bars.node
    );
  }

  show(data: StepperData, state: State, isLive: boolean): void {
    const { at, ended, actions, tokens, tops } = data.header;
    this.where.textContent = ended ? 'The run has ended' : at.path || 'Not begun';
    this.about.textContent = ended
      ? 'Go back, or start anew.'
      : at.path
        ? `${data.progress}${at.text ? ` · ${at.text}` : ''}`
        : 'Step (s), or click a block to run to it.';
    this.chips.replaceChildren(
      ...tokens.map((token, position) => {
        const isOn = state.positions.includes(position);
        const chip = h(
          'button',
          { type: 'button', 'aria-pressed': String(isOn), title: `position ${position}` },
          visible(token)
        );
        chip.addEventListener('click', () =>
          this.events.set({ positions: toggled(state.positions, position) })
        );
        return chip;
      })
    );
    if (this.factor !== this.factor.ownerDocument.activeElement) {
      this.factor.value = String(state.factor);
    }
    this.apply.disabled = !isLive || ended || !at.path || !state.positions.length;
    this.done.replaceChildren(...actions.map(action => h('li', {}, action)));
    if (!actions.length) {
      this.done.replaceChildren(h('li', { class: 'nbsight-stepper-none' }, 'nothing'));
    }
    this.answer.textContent = ended ? 'What this run says next' : 'What the plain run says next';
    this.bars.show(tops);
  }
}
