import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Ask } from '../src/shared/ask';
import type { Traits as AllTraits } from '../src/shared/mount';
import { fromBase64 } from '../src/shared/payload';
import { KernelError } from '../src/shared/rpc';
import { LensData } from '../src/widgets/lens/data';
import { render } from '../src/widgets/lens/index';
import { lensTable } from '../src/widgets/lens/table';
import type { LensHeader, Pin, Place, Ranking, State } from '../src/widgets/lens/types';
import { LensView } from '../src/widgets/lens/view';
import { Kernel } from './fake';
import contrast from './fixtures/contrast.json';
import shared from './fixtures/lens.json';

// the payload that nbsight/widgets/lens.py makes of the lens in tests/widgets/shared_lens.py
const fixture = shared as unknown as { header: LensHeader; data: string };
const WORDS = [' Paris', ' in', ' is', '\n', '<b>&</b>'];
const STATE: State = { statistic: 'top', pins: [], contrast: [], component: 'stream', lens: '', stride: 1 };
type Traits = AllTraits<LensHeader, State, Place>;
type Detail = (place: Place, topK: number, signal: AbortSignal) => Promise<Ranking>;
const lens = (header: Partial<LensHeader> = {}) =>
  new LensData({ ...fixture.header, ...header }, fromBase64(fixture.data));

function ranking(n: number): Ranking {
  const ranks = Array.from({ length: n }, (_, i) => i);
  return { tokens: ranks.map(i => ` t${i}`), ids: ranks, probs: ranks.map(i => 1 / (i + 2)) };
}

/** What Python would say: the ranking of a cell, as bytes. */
function asked(detail: Detail): Ask {
  return async <T>(_: string, params: object, { signal }: { signal: AbortSignal }) => {
    const { layer, position, top_k } = params as { layer: number; position: number; top_k: number };
    const { tokens, ids, probs } = await detail([layer, position], top_k, signal);
    const bytes = new DataView(new ArrayBuffer(4 * tokens.length));
    tokens.forEach((_, i) => {
      bytes.setFloat32(4 * i, probs[i]!, true);
    });
    return { result: { tokens, ids } as T, buffers: [bytes] };
  };
}

/** A view in the page, with a host that records. */
function open({ detail, header }: { detail?: Detail; header?: Partial<LensHeader> } = {}) {
  const parent = document.body.appendChild(document.createElement('div'));
  const chosen: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const host = {
    select: (place: Place | null) => void chosen.push(place),
    set: (state: Partial<State>) => void states.push(state),
    ...(detail ? { ask: asked(detail) } : {})
  };
  const state: State = { ...STATE };
  const view = new LensView(parent, { ...fixture.header, ...header }, fromBase64(fixture.data), state, host);
  const one = (selector: string) => parent.querySelector<HTMLElement>(selector)!;
  const cell = (layer: number, position: number) =>
    one(`.nbsight-lens-cell[data-layer="${layer}"][data-position="${position}"]`);
  const press = (key: string, more = {}) => {
    const event = new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...more });
    one('.nbsight-lens-grid').dispatchEvent(event);
    return event;
  };
  return { parent, view, chosen, states, one, cell, press };
}

const choice = (parent: HTMLElement, name: string) =>
  [...parent.querySelectorAll('label')]
    .find(label => label.firstChild?.textContent === name)!
    .querySelector('select')!;
const choose = (parent: HTMLElement, name: string, value: string) => {
  const select = choice(parent, name);
  select.value = value;
  select.dispatchEvent(new Event('change'));
};

afterEach(() => {
  vi.useRealTimers();
  document.body.replaceChildren();
});

describe('the data', () => {
  it('is what Python packed', () => {
    const data = lens();
    expect([data.nLayers, data.nPositions, data.topK]).toEqual([3, 4, 2]);
    for (let layer = 0; layer < 3; layer++) {
      for (let position = 0; position < 4; position++) {
        const kept = data.kept([layer, position]);
        expect(kept.tokens).toEqual([WORDS[(layer + position) % 5], WORDS[(layer + position + 1) % 5]]);
        expect(kept.probs[0]).toBeCloseTo(0.5 + layer / 10 + position / 100, 6);
        expect(kept.probs[1]).toBeCloseTo(0.01 * (position + 1), 6);
      }
    }
  });
  const plain = STATE;
  it('makes code of itself and of a chosen cell', () => {
    expect(lens().code([2, 1], plain)).toMatch(
      /logit_lens\(model, 'The Eiffel Tower\\n', top_k=2\)\nlens\.at\(layer=2, position=1\)$/
    );
    expect(lens().code(null, plain)).toMatch(/\nlens$/);
  });
});

describe('the grid', () => {
  it('has the last layer on top, and tokens as text and nothing else', () => {
    const { parent, cell } = open();
    const labels = [...parent.querySelectorAll('[role=rowheader]')].map(label => label.textContent);
    expect(labels).toEqual(['2', '1', '0']);
    expect(parent.querySelectorAll('.nbsight-lens-cell')).toHaveLength(12);
    expect(cell(0, 0).textContent).toBe('·Paris');
    expect(cell(2, 2).textContent).toBe('<b>&</b>');
    expect(parent.querySelector('b')).toBeNull();
  });
  it('describes itself to those who do not see it', () => {
    const { one, cell } = open();
    expect(one('[role=grid]').getAttribute('aria-rowcount')).toBe('4');
    expect(one('[role=grid]').getAttribute('aria-label')).toContain('3 layers by 4 positions');
    expect(cell(1, 2).getAttribute('aria-label')).toBe('⏎, 0.620');
    expect(cell(1, 2).getAttribute('aria-colindex')).toBe('4');
  });
  it('walks with the keys and stops at its edges', () => {
    const { one, press } = open();
    const at = () => one('[data-active]').id.split('-').slice(-2).map(Number);
    expect(at()).toEqual([2, 3]); // the prediction at the end of the prompt
    for (const [key, place] of [
      ['ArrowUp', [2, 3]],
      ['ArrowRight', [2, 3]],
      ['ArrowLeft', [2, 2]],
      ['ArrowDown', [1, 2]],
      ['Home', [1, 0]],
      ['End', [1, 3]],
      ['PageDown', [0, 3]],
      ['PageUp', [2, 3]]
    ] as const) {
      const event = press(key);
      expect(at(), key).toEqual(place);
      expect(event.defaultPrevented).toBe(true);
      expect(one('[role=grid]').getAttribute('aria-activedescendant')).toBe(one('[data-active]').id);
    }
    press('Home', { ctrlKey: true });
    expect(at()).toEqual([2, 0]);
    expect(one('[aria-live]').textContent).toBe('Layer 2, position 0: after The comes ·is, 0.700');
  });
  it('keeps its keys from the notebook', () => {
    const { press, parent } = open();
    const heard = vi.fn();
    parent.addEventListener('keydown', heard);
    for (const key of ['ArrowDown', 'Enter', 'd', 'x']) {
      press(key);
    }
    expect(heard).not.toHaveBeenCalled();
    press('s', { ctrlKey: true }); // saving is the notebook's
    expect(heard).toHaveBeenCalledTimes(1);
  });
  it('reads out what the pointer is on and marks the same token elsewhere', () => {
    const { cell, one, parent } = open();
    cell(1, 1).dispatchEvent(new Event('pointerover', { bubbles: true }));
    expect(one('.nbsight-readout').textContent).toBe('Layer 1, position 1: after ·Eiffel comes ·is 0.610');
    const same = [...parent.querySelectorAll('[data-same]')].map(node => node.textContent);
    expect(same).toEqual(['·is', '·is', '·is']);
    expect(one('[data-layer-label="1"]').hasAttribute('data-on')).toBe(true);
    one('.nbsight-lens-sheet').dispatchEvent(new Event('pointerleave'));
    expect(one('.nbsight-readout').textContent).toBe('');
  });
  it('takes other colours with the theme', async () => {
    document.body.dataset.jpThemeLight = 'true';
    const { cell, one } = open();
    const light = cell(0, 0).style.backgroundColor;
    document.body.dataset.jpThemeLight = 'false';
    await vi.waitFor(() => expect(one('.nbsight-lens').dataset.theme).toBe('dark'));
    expect(cell(0, 0).style.backgroundColor).not.toBe(light);
    delete document.body.dataset.jpThemeLight;
  });
});

describe('the ranking', () => {
  const tokens = (parent: HTMLElement) =>
    [...parent.querySelectorAll('.nbsight-lens-detail li > :first-child')].map(node => node.textContent);

  it('shows what was kept at once and then what the model answers', async () => {
    const answers: ((_: Ranking) => void)[] = [];
    const detail = vi.fn(() => new Promise<Ranking>(resolve => void answers.push(resolve)));
    const { cell, parent, chosen, one } = open({ detail });
    cell(1, 0).click();
    expect(chosen).toEqual([[1, 0]]);
    expect(detail).toHaveBeenCalledWith([1, 0], 10, expect.any(AbortSignal));
    expect(tokens(parent)).toEqual(['·in', '·is']);
    answers[0]!(ranking(10));
    await vi.waitFor(() => expect(tokens(parent)).toHaveLength(10));
    expect(one('.nbsight-lens-bar > i').style.width).toMatch(/^50(\.00)?%$/);
    expect(one('[aria-live]').textContent).toContain('10 tokens, first ·t0 0.500');
  });
  it('drops the answer to a question that is no longer asked', async () => {
    const answers: ((_: Ranking) => void)[] = [];
    const signals: AbortSignal[] = [];
    const detail: Detail = (_place, _k, signal) => {
      signals.push(signal);
      return new Promise(resolve => answers.push(resolve));
    };
    const { cell, parent } = open({ detail });
    cell(0, 0).click();
    cell(0, 1).click();
    expect(signals.map(signal => signal.aborted)).toEqual([true, false]);
    answers[1]!(ranking(3));
    answers[0]!(ranking(7));
    await vi.waitFor(() => expect(tokens(parent)).toHaveLength(3));
    await Promise.resolve();
    expect(tokens(parent)).toHaveLength(3);
  });
  it('shows an error of Python in its place and can ask again', async () => {
    const detail = vi
      .fn()
      .mockRejectedValueOnce(new KernelError('ValueError', 'no <i>such</i> thing', 'File "x.py"'))
      .mockResolvedValueOnce(ranking(10));
    const { cell, parent, one } = open({ detail });
    cell(2, 2).click();
    await vi.waitFor(() => expect(one('[role=alert]')).not.toBeNull());
    expect(one('[role=alert] strong').textContent).toBe('ValueError');
    expect(one('[role=alert] span').textContent).toBe('no <i>such</i> thing');
    expect(one('[role=alert] pre').textContent).toBe('File "x.py"');
    one('[role=alert] button').click();
    await vi.waitFor(() => expect(tokens(parent)).toHaveLength(10));
    expect(one('[role=alert]')).toBeNull();
  });
  it('says that the kernel is busy when no answer comes', () => {
    vi.useFakeTimers();
    const { cell, one } = open({ detail: () => new Promise(() => {}) });
    cell(0, 0).click();
    expect(one('.nbsight-lens-note').textContent).toContain('Asking the model');
    vi.advanceTimersByTime(1100);
    expect(one('.nbsight-lens-note').textContent).toContain('busy or gone');
  });
  it('shows what was kept where there is no kernel', () => {
    const { press, parent, one } = open();
    press('Enter');
    expect(tokens(parent)).toEqual(['·Paris', '·in']); // layer 2, position 3: words 5 and 6 of five
    expect(one('.nbsight-lens-note').textContent).toBe('The 2 kept with the result.');
  });
  it('closes with Escape', () => {
    const { press, chosen, parent } = open();
    press('Enter');
    press('Escape');
    expect(chosen).toEqual([[2, 3], null]);
    expect(tokens(parent)).toEqual([]);
  });
});

describe('what is followed', () => {
  it('is asked for once, drawn, and let go', async () => {
    const asked = vi.fn(async () => ranking(3));
    const { cell, states, one, parent, view } = open({ detail: asked });
    cell(0, 0).click();
    await vi.waitFor(() => expect(one('.nbsight-lens-detail').dataset.state).toBe('answered'));
    parent.querySelector<HTMLElement>('.nbsight-lens-detail li button')!.click();
    expect(states.at(-1)).toMatchObject({ statistic: 'top', pins: [{ id: 0, token: ' t0' }] });
    expect(one('.nbsight-lens-pins').textContent).toBe('·t0 ×');
    expect(view.code()).toContain('top_k=2, track=[0])');
    one('.nbsight-lens-pins button').click();
    expect(one('.nbsight-lens-pins').hidden).toBe(true);
  });
  it('cannot be computed without a kernel, which is said', () => {
    const { parent, one } = open();
    const colour = choice(parent, 'Colour');
    colour.value = 'entropy';
    colour.dispatchEvent(new Event('change'));
    expect(one('.nbsight-readout').textContent).toContain('No kernel is attached');
  });
});

describe('two tokens set against each other', () => {
  // logits of " Paris" (id 0) are the layer, those of " in" (id 1) twice the position
  const pair = { header: contrast.header as unknown as LensHeader, data: contrast.data };
  const [paris, inside] = pair.header.followed as [Pin, Pin];
  const start = (state: Partial<State> = {}, kernel?: Kernel, header: Partial<LensHeader> = {}) => {
    const parent = document.body.appendChild(document.createElement('div'));
    const states: Partial<State>[] = [];
    const host = {
      select: () => undefined,
      set: (one: Partial<State>) => void states.push(one),
      ...(kernel ? { ask: kernel.ask } : {})
    };
    const all = { ...STATE, ...state };
    const view = new LensView(parent, { ...pair.header, ...header }, fromBase64(pair.data), all, host);
    const fields = [...parent.querySelectorAll<HTMLInputElement>('.nbsight-lens-contrast input')];
    const type = (side: number, text: string) => {
      fields[side]!.value = text;
      fields[side]!.dispatchEvent(new Event('change'));
    };
    const texts = (selector: string) => [...parent.querySelectorAll(selector)].map(node => node.textContent);
    return { parent, view, states, fields, type, texts };
  };

  it('are the difference of what Python packed', () => {
    const data = new LensData(pair.header, fromBase64(pair.data));
    const state = { ...STATE, contrast: [paris, inside] };
    expect(data.statistic('logit_difference', [2, 3], state)).toBe(2 - 6);
    expect(data.statistic('probability_difference', [2, 3], state)).toBeCloseTo(-0.04, 6);
    expect(data.most({ ...state, statistic: 'logit_difference' })).toBe(6);
    expect(data.depth('logit_difference', -3, 6)).toBe(-0.5);
  });
  it('are typed, with their marks or without, and asked of nobody when their numbers are there', () => {
    const kernel = new Kernel();
    const { states, type, fields, parent } = start({}, kernel);
    type(0, '·Paris');
    expect(states.at(-1)!.contrast).toEqual([paris, null]);
    type(1, 'in');
    expect(states.at(-1)).toMatchObject({ contrast: [paris, inside], statistic: 'logit_difference' });
    expect(fields.map(field => field.value)).toEqual(['·Paris', '·in']);
    expect(kernel.asked).toHaveLength(0);
    expect(parent.querySelector('.nbsight-legend')!.textContent).toBe(
      '−6.06.0logit difference: ·Paris − ·in'
    );
    expect(parent.querySelector('.nbsight-lines')!.textContent).toContain('·Paris − ·in');
  });
  it('are asked for when they are not at hand, and what is no token is said', async () => {
    const kernel = new Kernel();
    const { states, type, parent } = start({}, kernel);
    type(0, '·Rome');
    expect(kernel.last).toMatchObject({ command: 'token', params: { text: ' Rome' } });
    await kernel.last.answer({ id: 77, token: ' Rome' });
    await vi.waitFor(() => expect(states.at(-1)?.contrast).toEqual([{ id: 77, token: ' Rome' }, null]));
    type(1, 'two tokens');
    await kernel.last.fail(new KernelError('InputError', 'it is two', ''));
    await vi.waitFor(() => expect(parent.querySelector('[role=alert]')?.textContent).toContain('it is two'));
    type(1, 'in');
    expect(kernel.last).toMatchObject({ command: 'more', params: { track: [77, 1] } });
  });
  it('are picked from a cell and swapped', () => {
    const { parent, states } = start({}, undefined);
    parent.querySelector<HTMLElement>('[data-layer="0"][data-position="0"]')!.click();
    const sides = [...parent.querySelectorAll<HTMLElement>('.nbsight-lens-side')];
    sides[0]!.click(); // the first token's "a"
    sides[3]!.click(); // the second token's "b"
    expect(states.at(-1)!.contrast).toEqual([paris, inside]);
    parent.querySelector<HTMLElement>('.nbsight-lens-contrast [aria-label="Swap the two"]')!.click();
    expect(states.at(-1)!.contrast).toEqual([inside, paris]);
    parent.querySelector<HTMLElement>('.nbsight-lens-contrast [aria-label="No contrast"]')!.click();
    expect(states.at(-1)).toMatchObject({ contrast: [null, null], statistic: 'top' });
  });
  it('are in the code', () => {
    const { view } = start({ contrast: [paris, inside], statistic: 'logit_difference' });
    expect(view.code()).toMatch(/track=\[0, 1\]\)\ncontrast = lens\.contrast\(" Paris", " in"\)\ncontrast$/);
  });
  it('say without a kernel that only what is there can be chosen', () => {
    const { type, parent } = start();
    type(0, 'elsewhere');
    expect(parent.querySelector('.nbsight-readout')!.textContent).toContain(
      'only tokens that are in the picture'
    );
  });
});

describe('what is read', () => {
  const many = { components: ['stream', 'attn_out', 'head_3'], lenses: ['', 'tuned <b>'] };
  const start = (kernel?: Kernel) => {
    const opened = open({ header: many });
    opened.view.destroy();
    opened.parent.replaceChildren();
    const states: Partial<State>[] = [];
    const host = { select: () => undefined, set: (one: Partial<State>) => void states.push(one) };
    const header = { ...fixture.header, ...many };
    const world = kernel ? { ...host, ask: kernel.ask } : host;
    const view = new LensView(opened.parent, header, fromBase64(fixture.data), { ...STATE }, world);
    return { parent: opened.parent, view, states, header };
  };
  it('is asked for, and shown where the view stood', () => {
    const kernel = new Kernel();
    const { parent, view, header } = start(kernel);
    view.select([1, 2]);
    choose(parent, 'Read', 'head_3');
    expect(kernel.last).toMatchObject({
      command: 'more',
      params: { component: 'head_3', lens: '', track: [] }
    });
    view.update({ ...header, component: 'head_3' }, fromBase64(fixture.data));
    expect(parent.querySelector('[aria-selected=true]')!.id).toMatch(/-1-2$/);
    choose(parent, 'Lens', 'tuned <b>');
    expect(kernel.last.params).toMatchObject({ lens: 'tuned <b>', component: 'head_3' });
    expect(parent.querySelector('b')).toBeNull();
  });
  it('is again what is on show when it cannot be had', async () => {
    const kernel = new Kernel();
    const { parent, states } = start(kernel);
    choose(parent, 'Read', 'attn_out');
    await kernel.last.fail(new KernelError('PathError', 'this model has none', ''));
    expect(parent.querySelector('[role=alert]')!.textContent).toContain('this model has none');
    expect(choice(parent, 'Read').value).toBe('stream');
    expect(states.at(-1)).toEqual({ component: 'stream', lens: '' });
  });
  it('cannot be chosen without a kernel', () => {
    const { parent } = start();
    expect(choice(parent, 'Read').disabled).toBe(true);
    expect(choice(parent, 'Read').title).toContain('No kernel');
  });
});

describe('rows', () => {
  it('are every so many layers, the last always, and one that was chosen', () => {
    const data = lens();
    expect(data.rows(2, null)).toEqual([0, 2]);
    expect(data.rows(5, null)).toEqual([0, 2]);
    expect(data.rows(5, [1, 0])).toEqual([0, 1, 2]);
  });
  it('are walked by those that are shown', () => {
    const { view, parent, press, one } = open();
    view.configure({ ...STATE, stride: 2 });
    const labels = () => [...parent.querySelectorAll('[role=rowheader]')].map(label => label.textContent);
    expect(labels()).toEqual(['2', '0']);
    press('ArrowDown');
    expect(one('[data-active]').id).toMatch(/-0-3$/);
    view.select([1, 1]); // from Python
    expect(labels()).toEqual(['2', '1', '0']);
    expect(one('[aria-selected=true]').id).toMatch(/-1-1$/);
    expect(view.table().querySelectorAll('tbody tr')).toHaveLength(3);
  });
});

describe('the table', () => {
  it('has every number, last layer first', () => {
    const { one, parent } = open();
    const button = [...parent.querySelectorAll('button')].find(b => b.textContent === 'Table')!;
    button.click();
    expect(button.getAttribute('aria-pressed')).toBe('true');
    expect(parent.querySelectorAll('tbody tr')).toHaveLength(3);
    expect(one('tbody tr td').textContent).toBe('·is0.700');
    expect(one('[role=grid]').closest('[hidden]')).not.toBeNull();
    button.click();
    expect(one('table')).toBeNull();
    expect(one('[role=grid]').closest('[hidden]')).toBeNull();
  });
  it('says which part of a very long prompt it shows', () => {
    const table = lensTable(lens(), 2, 6); // three layers: two positions fit
    expect(table.querySelector('caption')!.textContent).toContain('Positions 1 to 2 of 4.');
    expect(table.querySelectorAll('thead th')).toHaveLength(3);
    expect(lensTable(lens(), 3).querySelector('caption')!.textContent).not.toContain('Positions');
  });
});

describe('the wire', () => {
  function model(traits: Partial<Traits> = {}) {
    // biome-ignore lint/suspicious/noExplicitAny: a stand-in for anywidget's model
    const state: any = {
      header: fixture.header,
      data: fromBase64(fixture.data),
      selection: null,
      state: STATE,
      stale: '',
      ...traits
    };
    // biome-ignore lint/suspicious/noExplicitAny: listeners of all kinds
    const listeners = new Map<string, Set<(...args: any[]) => void>>();
    const of = (event: string) => listeners.get(event) ?? listeners.set(event, new Set()).get(event)!;
    return {
      state,
      listeners,
      get: (name: string) => state[name],
      set: vi.fn((name: string, value: unknown) => {
        state[name] = value;
      }),
      save_changes: vi.fn(),
      send: vi.fn(),
      on: (event: string, listener: () => void) => void of(event).add(listener),
      off: (event: string, listener: () => void) => void of(event).delete(listener),
      emit: (event: string, ...args: unknown[]) => {
        for (const listener of of(event)) {
          listener(...args);
        }
      }
    };
  }
  // biome-ignore lint/suspicious/noExplicitAny: a stand-in for anywidget's model
  const start = (fake: any) => {
    const el = document.body.appendChild(document.createElement('div'));
    return { el, stop: render({ model: fake, el }) };
  };

  it('carries a click to Python and its answer back', async () => {
    const fake = model();
    const { el } = start(fake);
    el.querySelector<HTMLElement>('[data-layer="1"][data-position="2"]')!.click();
    expect(fake.state.selection).toEqual([1, 2]);
    expect(fake.save_changes).toHaveBeenCalledTimes(1);
    const [asked] = fake.send.mock.calls[0]! as [{ id: string; command: string; params: object }];
    expect(asked).toMatchObject({
      kind: 'request',
      command: 'cell',
      params: { layer: 1, position: 2, top_k: 10 }
    });
    const probs = new DataView(new ArrayBuffer(8));
    probs.setFloat32(0, 0.75, true);
    probs.setFloat32(4, 0.25, true);
    const result = { tokens: [' a', ' b'], ids: [4, 5] };
    fake.emit('msg:custom', { kind: 'reply', id: asked.id, ok: true, result }, [probs]);
    const first = () => el.querySelector('.nbsight-lens-detail li')!.textContent;
    await vi.waitFor(() => expect(first()).toBe('·aab0.750'));
  });
  it('follows a selection and a result that Python sets', () => {
    const fake = model();
    const { el } = start(fake);
    fake.state.selection = [0, 3];
    fake.emit('change:selection');
    expect(el.querySelector('[aria-selected=true]')!.id).toMatch(/-0-3$/);
    expect(fake.save_changes).not.toHaveBeenCalled(); // no echo
    fake.state.header = { ...fixture.header, check: 0 };
    fake.emit('change:header');
    expect(el.querySelector('.nbsight-lens-check')!.textContent).toContain('✓');
    expect(el.querySelector('[aria-selected=true]')!.id).toMatch(/-0-3$/); // more of the same: nothing moves
    fake.state.header = { ...fixture.header, model: 'another' };
    fake.emit('change:header');
    expect(el.querySelector('.nbsight-about')!.textContent).toBe('another · 3 layers × 4 tokens');
    expect(el.querySelector('[aria-selected=true]')).toBeNull();
  });
  it('asks nothing of a lens that has no model', () => {
    const fake = model({ header: { ...fixture.header, live: false } });
    const { el } = start(fake);
    el.querySelector<HTMLElement>('.nbsight-lens-cell')!.click();
    expect(fake.send).not.toHaveBeenCalled();
  });
  it('says in the page what cannot be shown', () => {
    const { el } = start(model({ header: { ...fixture.header, protocol: 2 } }));
    expect(el.querySelector('[role=alert]')!.textContent).toContain('restart the kernel');
  });
  it('leaves nothing behind', () => {
    const fake = model();
    const { el, stop } = start(fake);
    stop();
    expect([...fake.listeners.values()].every(set => set.size === 0)).toBe(true);
    expect(el.childElementCount).toBe(0);
  });
});
