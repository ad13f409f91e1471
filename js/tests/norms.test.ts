import { afterEach, describe, expect, it, vi } from 'vitest';
import { Link, type Linked } from '../src/shared/bus';
import { fromBase64 } from '../src/shared/payload';
import { NormsData } from '../src/widgets/norms/data';
import type { NormsHeader, Place, State } from '../src/widgets/norms/types';
import { NormsView } from '../src/widgets/norms/view';
import shared from './fixtures/norms.json';

// the payload that nbsight/widgets/norms.py makes of the norms in tests/widgets/shared_norms.py
const fixture = shared as unknown as { header: NormsHeader; data: string };
const STATE: State = { what: 'norm', component: 'resid_post', log: false, first: true, robust: true };
const norms = () => new NormsData(fixture.header, fromBase64(fixture.data));

function open(state: Partial<State> = {}) {
  const parent = document.body.appendChild(document.createElement('div'));
  const selected: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const view = new NormsView(
    parent,
    fixture.header,
    fromBase64(fixture.data),
    { ...STATE, ...state },
    {
      select: place => void selected.push(place),
      set: change => void states.push(change)
    }
  );
  const press = (key: string) =>
    parent
      .querySelector('[role=grid]')!
      .dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  const button = (text: string) => [...parent.querySelectorAll('button')].find(b => b.textContent === text)!;
  return { parent, view, selected, states, press, button };
}

afterEach(() => {
  document.body.replaceChildren();
});

describe('the data', () => {
  it('is what Python packed', () => {
    expect(norms().value(STATE, 'mlp_out', [2, 3])).toBe(4 * 3 + 3);
    expect(norms().value({ ...STATE, what: 'ratio' }, 'mlp_out', [2, 3])).toBeCloseTo(15 / (3 * 3 + 3));
    expect(norms().value({ ...STATE, what: 'cosine' }, 'resid_post', [1, 2])).toBeCloseTo(0.7);
    expect(norms().channels()).toEqual([
      { channel: 7, size: 30, layer: 1 },
      { channel: 3, size: 9, layer: 2 }
    ]);
  });
  it('leaves the first token out of medians and colours when told to', () => {
    expect(norms().limits({ ...STATE, robust: false })).toEqual([0, 1500]);
    expect(norms().limits({ ...STATE, robust: false, first: false })).toEqual([0, 18]);
    expect(norms().medians({ ...STATE, first: false }, 'resid_post')).toEqual([7, 12, 17]);
  });
  it('holds outliers back from the colours when it is robust', () => {
    expect(norms().limits(STATE)[1]).toBeLessThan(1500);
  });
  it('has a scale of powers', () => {
    const log = { ...STATE, log: true, robust: false };
    const limits = norms().limits(log);
    expect(norms().depth(log, limits[0], limits)).toBeCloseTo(0);
    expect(norms().depth(log, Math.sqrt(limits[0] * limits[1]), limits)).toBeCloseTo(0.5);
  });
  it('offers of a ratio only what is written', () => {
    expect(norms().components({ ...STATE, what: 'ratio' })).toEqual(['attn_out', 'mlp_out']);
    expect(norms().component({ ...STATE, what: 'ratio' })).toBe('attn_out');
  });
  it('writes code in which a prompt stays as it is', () => {
    expect(norms().code([2, 1], { ...STATE, component: 'mlp_out' })).toBe(
      'import nbsight\n\nnorms = nbsight.stream_norms(model, \'The <b> \\x24layer\\n\')\nnorms.of("mlp_out")[2, 1]'
    );
  });
});

describe('the view', () => {
  it('chooses with keys and says the parts of the place', () => {
    const { press, selected, parent } = open();
    for (const key of ['ArrowUp', 'ArrowRight', 'Enter']) {
      press(key);
    }
    expect(selected).toEqual([[1, 1]]);
    expect(parent.querySelector('.nbsight-beside h3')!.textContent).toBe('Layer 1 · position 1');
    const values = [...parent.querySelectorAll('.nbsight-norms-parts li > :last-child')].map(
      v => v.textContent
    );
    expect(values).toEqual(['3.00', '5.00', '7.00', '9.00', '11.0']);
    press('Escape');
    expect(selected.at(-1)).toBeNull();
  });
  it('counts positions from the prompt’s first token though it is not shown', () => {
    const { press, selected } = open({ first: false });
    press('Enter');
    expect(selected).toEqual([[0, 1]]);
  });
  it('switches what is drawn', () => {
    const { button, states, parent } = open();
    button('ratio').click();
    expect(states.at(-1)).toEqual({ what: 'ratio' });
    expect(parent.querySelector('.nbsight-norms-caption')!.textContent).toContain('attn_out');
    expect(parent.querySelectorAll('.nbsight-norms-parts li')).toHaveLength(2);
    button('mlp_out').click();
    expect(states.at(-1)).toEqual({ component: 'mlp_out' });
    button('cosine').click();
    expect(button('Log').disabled).toBe(true);
  });
  it('draws a line for each part and each token, named as text', () => {
    const { parent } = open();
    expect(parent.querySelectorAll('.nbsight-lines path')).toHaveLength(5 + 4);
    expect(parent.querySelector('.nbsight-lines b')).toBeNull();
  });
  it('says what to know before reading', () => {
    const { parent } = open();
    expect(parent.querySelector('.nbsight-badge')!.textContent).toMatch(/^The first position is up to/);
  });
  it('tells other views what is pointed at, and marks what they say', () => {
    const heard = vi.fn<(linked: Linked | null) => void>();
    const other = new Link({ model: 'shared', tokens: fixture.header.tokens }, heard);
    const { press, parent } = open({ first: false });
    press('ArrowUp');
    expect(heard).toHaveBeenLastCalledWith({ layer: 1, positions: [1], head: null });
    other.say({ layer: 2, position: 3 });
    expect(parent.querySelector('[data-column="2"]')!.hasAttribute('data-on')).toBe(true);
    other.close();
  });
  it('has all numbers in the table and the file', () => {
    const { view, press, parent } = open();
    expect(view.rows()).toHaveLength(1 + 12);
    expect(view.rows()[1]!.slice(0, 4)).toEqual([2, 0, 'The', 300]);
    press('t');
    expect(parent.querySelector('table b')).toBeNull();
    expect(parent.querySelectorAll('tbody tr')).toHaveLength(12);
  });
});
