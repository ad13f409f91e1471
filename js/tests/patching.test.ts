import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { fromBase64 } from '../src/shared/payload';
import { KernelError } from '../src/shared/rpc';
import { PatchingData } from '../src/widgets/patching/data';
import type { Patched, PatchingHeader, Place, State } from '../src/widgets/patching/types';
import { PatchingView } from '../src/widgets/patching/view';
import { floats, Kernel } from './fake';
import shared from './fixtures/patching.json';

// the payload that nbsight/widgets/patching_payload.py makes in tests/widgets/shared_patching.py
const fixture = shared as unknown as { header: PatchingHeader; data: string };
const STATE: State = {
  site: 'resid_post',
  direction: 'denoise',
  metric: 'logit_difference',
  position: null,
  patches: [],
  frozen: null,
  cone: true,
  pair: 0
};

const patched = (more: Partial<Patched> = {}): Patched => ({
  ids: [5, 9],
  tokens: [' Paris', ' Rome'],
  probs: { clean: [0.9, 0.05], corrupted: [0.1, 0.8], patched: [0.6, 0.3] },
  patches: [],
  direction: 'denoise',
  metric: 'logit_difference',
  value: 1,
  base: -2,
  donor: 2,
  share: 0.75,
  badges: ['a <i>badge</i>'],
  code: 'the code of the run',
  ...more
});

function open({
  kernel = new Kernel(),
  header = {},
  state = {}
}: {
  kernel?: Kernel | null;
  header?: Partial<PatchingHeader>;
  state?: Partial<State>;
} = {}) {
  const parent = document.body.appendChild(document.createElement('div'));
  const selected: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const view = new PatchingView(
    parent,
    { ...fixture.header, ...header },
    fromBase64(fixture.data),
    { ...STATE, ...state },
    {
      select: place => void selected.push(place),
      set: change => void states.push(change),
      ...(kernel ? { ask: kernel.ask } : {})
    }
  );
  const one = <T extends HTMLElement>(selector: string) => parent.querySelector<T>(selector)!;
  const grid = () => one('[role=grid]');
  const press = (key: string, target: Element = grid(), more = {}) =>
    target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...more }));
  const chip = (run: string, position: number) => one(`[data-run=${run}][data-column="${position}"]`);
  const button = (text: string) =>
    [...parent.querySelectorAll('button')].find(b => b.textContent!.includes(text))!;
  return { parent, view, kernel: kernel!, selected, states, one, press, chip, button };
}

afterEach(() => {
  vi.useRealTimers();
  document.body.replaceChildren();
});

describe('the data', () => {
  it('is what Python packed', () => {
    const data = new PatchingData(fixture.header, fromBase64(fixture.data));
    expect(data.share(STATE, [1, 2])).toBeCloseTo(4 / 12, 6);
    expect(data.value(STATE, [0, 1])).toBeCloseTo(-2 + 4 / 12, 6);
    expect(data.share(STATE, [2, 3])).toBeNaN();
    expect(data.share({ ...STATE, site: 'mlp_out' }, [1, 2])).toBeNaN();
    expect(data.limit(STATE)).toBeCloseTo(0.5, 6);
  });
  it('knows where the prompts differ and what comes before', () => {
    const data = new PatchingData(fixture.header, fromBase64(fixture.data));
    expect([0, 1, 2, 3].map(position => data.differs(position))).toEqual([false, true, true, false]);
    expect([0, 1, 3].map(position => data.isBefore(position))).toEqual([true, false, false]);
  });
  it('writes the sweep’s code and leaves the users’ text alone', () => {
    const data = new PatchingData(fixture.header, fromBase64(fixture.data));
    expect(data.code({ ...STATE, site: 'z', direction: 'noise', metric: 'kl' })).toBe(
      "import nbsight\n\nclean = 'a $site'\n\n" +
        'nbsight.activation_patching(model, clean, corrupted, metric=\'kl\', sites=["z"], heads=False, direction="noise")'
    );
  });
});

describe('links', () => {
  const heard = () => {
    const said: string[][] = [];
    const listen = (event: Event) => void said.push((event as CustomEvent).detail.tokens);
    window.addEventListener('nbsight:point', listen);
    onTestFinished(() => window.removeEventListener('nbsight:point', listen));
    return said;
  };
  it('speak of the prompt that is run, also after a change of direction here or in Python', () => {
    const { parent, press, view } = open();
    const said = heard();
    press('ArrowRight');
    const noise = [...parent.querySelectorAll('button')].find(each => each.textContent === 'noise');
    noise!.click();
    press('ArrowRight');
    view.configure({ ...STATE, direction: 'denoise' });
    press('ArrowRight');
    const { clean, corrupted } = fixture.header;
    expect(said).toEqual([corrupted.tokens, clean.tokens, corrupted.tokens]);
  });
});

describe('heads', () => {
  const HEADS = { site: 'z_by_head' };
  it('are columns of a map of their own, with the numbers that Python packed', () => {
    const { one, view } = open({ state: HEADS });
    const data = new PatchingData(fixture.header, fromBase64(fixture.data));
    expect(data.share({ ...STATE, ...HEADS }, [2, 1])).toBeCloseTo(0.6, 6);
    expect(data.runs({ ...STATE, ...HEADS })).toBe(6);
    expect(one('[role=grid]').getAttribute('aria-colcount')).toBe('2');
    expect(one('[role=grid]').getAttribute('aria-label')).toContain('3 layers by 2 heads');
    expect(one('.nbsight-patching-chip')).toBeNull();
    expect(view.rows()[1]!.slice(0, 4)).toEqual(['z_by_head', 2, 1 - 1, '']);
    expect(view.picture()).toContain('z_by_head');
  });
  it('take the place of the tokens, and the tokens theirs again', () => {
    const { parent, view } = open();
    const focused = parent.querySelector<HTMLElement>('[data-run=clean][data-column="1"]')!;
    focused.focus();
    view.configure({ ...STATE, cone: false });
    expect(document.activeElement).toBe(focused); // what says the same stays
    view.configure({ ...STATE, ...HEADS });
    expect([...parent.querySelectorAll('.nbsight-patching-head')].map(each => each.textContent)).toEqual([
      '0',
      '1'
    ]);
    expect(parent.querySelector('.nbsight-patching-chip, [data-at=foot] > *')).toBeNull();
    view.configure(STATE);
    expect(parent.querySelectorAll('.nbsight-patching-chip')).toHaveLength(8);
    expect(parent.querySelector('.nbsight-patching-head')).toBeNull();
  });
  it('are patched at all positions, or at the one that is chosen', () => {
    const { press, kernel, one, states } = open({ state: HEADS });
    press('ArrowRight');
    press('Enter');
    const all = { layer: 0, site: 'z', source: null, target: null, head: 1 };
    expect(kernel.last.params.patches).toEqual([all]);
    expect(one('.nbsight-patching-stack li').textContent).toContain('L0 z head 1 at all positions');
    const at = [...document.querySelectorAll('select')].find(each =>
      each.parentElement!.textContent!.startsWith('At')
    )!;
    expect(at.parentElement!.hidden).toBe(false);
    at.value = '3';
    at.dispatchEvent(new Event('change'));
    expect(states.at(-1)).toEqual({ position: 3 });
    press('Enter', undefined, { shiftKey: true });
    expect(kernel.last.params.patches).toEqual([all, { ...all, source: 3, target: 3 }]);
  });
  it('are swept by themselves, and their code says so', () => {
    const { button, kernel, view } = open({ state: { ...HEADS, position: 2, metric: 'kl' } });
    button('Sweep · 6 runs').click();
    expect(kernel.last).toMatchObject({ command: 'sweep', params: { site: 'z_by_head', position: 2 } });
    expect(view.code()).toContain('sites=["z"], heads=True,\n    positions=[2]');
  });
  it('leave positions alone when another site is on show', () => {
    const { parent } = open();
    const at = [...parent.querySelectorAll('label')].find(each => each.textContent!.startsWith('At'))!;
    expect(at.hidden).toBe(true);
  });
});

describe('a frozen run', () => {
  const mine = { layer: 0, site: 'resid_post', source: 0, target: 0 };
  const frozen = { patches: [mine], direction: 'denoise' as const };
  const both = () =>
    patched({
      probs: { clean: [0.9, 0.05], corrupted: [0.1, 0.8], patched: [0.6, 0.3], frozen: [0.2, 0.7] },
      frozen: { ...frozen, value: -1, share: 0.25, badges: [] }
    });
  it('stays as a ghost while others come, with the difference', async () => {
    const { press, kernel, button, states, one, parent } = open();
    expect(button('Freeze').hidden).toBe(true); // there is nothing to keep yet
    press('Enter');
    await kernel.last.answer(patched());
    await vi.waitFor(() => expect(button('Freeze').hidden).toBe(false));
    button('Freeze').click();
    expect(states.at(-1)).toEqual({ frozen });
    press('ArrowRight');
    press('Enter');
    expect(kernel.last.params.frozen).toEqual(frozen);
    expect(kernel.last.params.patches).toHaveLength(1);
    await kernel.last.answer(both());
    await vi.waitFor(() => expect(one('[data-mark=frozen]')).not.toBeNull());
    expect(one('.nbsight-bars b[data-mark="3"]').style.left).toBe('20.00%');
    const rows = [...parent.querySelectorAll('.nbsight-patching-compare tbody tr')];
    expect(rows.map(row => [...row.children].map(cell => cell.textContent))).toEqual([
      ['metric', '-1.00', '1.00', '+2.00'].map(text => text.replace('-', '−')),
      ['·Paris', '0.200', '0.600', '+0.400'],
      ['·Rome', '0.700', '0.300', '−0.400']
    ]);
  });
  it('can be swapped with the other, and let go', async () => {
    const other = { ...mine, target: 2, source: 2 };
    const { kernel, button, states, press, one } = open({ state: { patches: [other], frozen } });
    await kernel.last.answer(both());
    button('Swap').click();
    expect(kernel.last.params).toMatchObject({
      patches: [mine],
      frozen: { patches: [other], direction: 'denoise' }
    });
    press('f');
    expect(states.at(-1)).toEqual({ frozen: null });
    expect(kernel.last.params.frozen).toBeNull();
    expect(one('.nbsight-patching-compare table').hidden).toBe(true);
  });
  it('is compared with the plain run where nothing is patched', () => {
    const { kernel } = open({ state: { frozen } });
    expect(kernel.last.params).toMatchObject({ patches: [], frozen });
  });
});

describe('pairs of prompts', () => {
  it('bring their own tokens, though there are as many', () => {
    const { view, chip } = open();
    const clean = { prompt: 'A b c d', tokens: ['A', ' b', ' c', ' d'] };
    view.update({ ...fixture.header, clean, pair: 1 }, fromBase64(fixture.data));
    expect(chip('clean', 1).textContent).toBe('·b');
  });
  it('are offered as text, and the kernel shows the chosen one', () => {
    const { parent, kernel } = open();
    const select = [...parent.querySelectorAll('select')].find(each =>
      each.parentElement!.textContent!.startsWith('Pair')
    )!;
    expect(select.options[1]!.textContent).toBe('2 of 2 · <i>another</i>');
    select.value = '1';
    select.dispatchEvent(new Event('change'));
    expect(kernel.last).toMatchObject({ command: 'pair', params: { pair: 1 } });
  });
  it('have a history each: undo never brings the patches of other prompts', () => {
    const { view, press, kernel, button } = open();
    press('Enter');
    press('ArrowRight');
    press('Enter', undefined, { shiftKey: true });
    const both = kernel.last.params.patches;
    const clean = { prompt: 'A b c d', tokens: ['A', ' b', ' c', ' d'] };
    const show = (header: Partial<PatchingHeader>) => {
      view.update({ ...fixture.header, ...header }, fromBase64(fixture.data));
      view.configure({ ...STATE, pair: header.pair! }); // the kernel takes all patches back with it
    };
    const asked = kernel.asked.length;
    show({ clean, pair: 1 });
    expect(button('Undo').disabled).toBe(true);
    press('z', undefined, { ctrlKey: true });
    expect(kernel.asked.length).toBe(asked);
    press('Enter');
    expect(kernel.last.params.patches).toHaveLength(1);
    show({ pair: 0 });
    expect(document.body.textContent).toContain('None. Shift-click');
    press('z', undefined, { ctrlKey: true });
    expect(kernel.last.params.patches).toEqual(both);
  });
  it('are no choice where there is one, or nobody to ask', () => {
    const hidden = () =>
      [...document.querySelectorAll('label')].find(e => e.textContent!.startsWith('Pair'))!.hidden;
    open({ header: { pairs: ['one'] } });
    expect(hidden()).toBe(true);
    document.body.replaceChildren();
    open({ kernel: null });
    expect(hidden()).toBe(true);
  });
});

describe('a patch', () => {
  it('is run by keys, and what comes back is drawn as text', async () => {
    const { press, kernel, selected, states, one, parent } = open();
    for (const key of ['ArrowUp', 'ArrowRight', 'Enter']) {
      press(key);
    }
    const patch = { layer: 1, site: 'resid_post', source: 1, target: 1 };
    expect(kernel.last).toMatchObject({
      command: 'patch',
      params: { patches: [patch], direction: 'denoise', metric: 'logit_difference' }
    });
    expect(selected).toEqual([[1, 1]]);
    expect(states.at(-1)).toEqual({ patches: [patch] });
    await kernel.last.answer(patched());
    await vi.waitFor(() =>
      expect(one('.nbsight-patching-share').textContent).toBe('1.00 patched: 75 % of the way')
    );
    expect(one('.nbsight-badge:not([hidden])').textContent).toBe('a note');
    expect(parent.querySelector('i i, .nbsight-badge i')).toBeNull();
    expect(one('.nbsight-bars li').textContent).toBe('·Paris0.600');
    expect(one('.nbsight-bars .nbsight-bar > i').style.width).toMatch(/^60(\.00)?%$/);
    expect(one('[aria-live]').textContent).toBeDefined();
  });
  it('replaces the one before, or is added to it, and can be undone', () => {
    const { press, kernel, button, parent } = open();
    press('Enter');
    press('ArrowRight');
    press('Enter', undefined, { shiftKey: true });
    expect(kernel.last.params.patches.map((patch: { target: number }) => patch.target)).toEqual([0, 1]);
    press('z', undefined, { ctrlKey: true });
    expect(kernel.last.params.patches).toHaveLength(1);
    press('y', undefined, { ctrlKey: true });
    expect(kernel.last.params.patches).toHaveLength(2);
    parent.querySelector<HTMLElement>('[aria-label="Remove patch 1"]')!.click();
    expect(kernel.last.params.patches.map((patch: { target: number }) => patch.target)).toEqual([1]);
    button('Clear').click();
    expect(parent.querySelector('.nbsight-patching-stack')!.textContent).toContain('None');
  });
  it('is carried with keys from one prompt to the other', () => {
    const { press, chip, kernel } = open();
    const from = chip('clean', 1);
    from.focus();
    press('Enter', from);
    expect(document.activeElement).toBe(chip('corrupted', 1));
    press('ArrowRight', chip('corrupted', 1));
    press('Enter', chip('corrupted', 2));
    expect(kernel.last.params.patches).toEqual([{ layer: 0, site: 'resid_post', source: 1, target: 2 }]);
  });
  it('is put down again with Escape', () => {
    const { press, chip, kernel } = open();
    press('Enter', chip('clean', 1));
    press('Escape', chip('corrupted', 1));
    expect(document.activeElement).toBe(chip('clean', 1));
    press('Enter', chip('corrupted', 1));
    expect(kernel.asked).toHaveLength(0);
  });
  it('of which only the last counts', async () => {
    const { press, kernel, one } = open();
    press('Enter');
    press('ArrowRight');
    press('Enter');
    expect(kernel.asked.map(asked => asked.signal.aborted)).toEqual([true, false]);
    await kernel.last.answer(patched({ share: 0.1 }));
    await vi.waitFor(() => expect(one('.nbsight-patching-share').textContent).toContain('10 %'));
  });
  it('that fails says so in its place and can be tried again', async () => {
    const { press, kernel, one, parent } = open();
    press('Enter');
    await kernel.last.fail(new KernelError('InputError', 'no <i>such</i> layer', 'File'));
    await vi.waitFor(() => expect(one('[role=alert] strong').textContent).toBe('InputError'));
    expect(one('[role=alert] span').textContent).toBe('no <i>such</i> layer');
    one('[role=alert] button').click();
    expect(kernel.asked).toHaveLength(2);
    await kernel.last.answer(patched());
    await vi.waitFor(() => expect(parent.querySelector('[role=alert]')).toBeNull());
  });
  it('without a kernel is not run, and that is said', () => {
    const { press, one } = open({ kernel: null });
    press('Enter');
    expect(one('.nbsight-readout').textContent).toContain('No kernel is attached');
  });
  it('is asked for again when the state came from Python or from a page before', () => {
    const patches = [{ layer: 2, site: 'z', source: 0, target: 0 }];
    const { kernel, view } = open({ state: { patches } });
    expect(kernel.last.params.patches).toEqual(patches);
    view.configure({ ...STATE, patches: [] });
    view.configure({ ...STATE, patches: [{ ...patches[0]!, layer: 1 }] });
    expect(kernel.last.params.patches[0].layer).toBe(1);
  });
});

describe('a sweep', () => {
  const part = (done: number) => ({
    key: 'mlp_out|denoise|logit_difference',
    done,
    runs: 12,
    base: -2,
    donor: 2
  });
  it('tells its cost, draws as it goes, stops and goes on', async () => {
    const { kernel, one, button, view } = open({ state: { site: 'mlp_out' } });
    expect(button('Sweep').textContent).toBe('Sweep · 12 runs');
    expect(one('.nbsight-legend').textContent).toContain('not swept yet');
    button('Sweep').click();
    expect(kernel.last).toMatchObject({ command: 'sweep', params: { site: 'mlp_out' } });
    kernel.last.progress(part(4), [floats(...Array(4).fill(1), ...Array(8).fill(NaN))]);
    expect(one<HTMLProgressElement>('progress').value).toBeCloseTo(4 / 12);
    expect(one('.nbsight-legend').textContent).toContain('stripes: not run yet');
    expect(view.rows()[1]!.slice(4)).toEqual([null, null]);
    expect(view.rows().at(-1)!.slice(4)).toEqual([1, 0.75]);
    const { signal } = kernel.last;
    button('Stop').click();
    expect(signal.aborted).toBe(true);
    expect(button('Go on').textContent).toBe('Go on · 8 runs left');
    button('Go on').click();
    await kernel.last.answer(part(12), [floats(...Array(12).fill(2))]);
    await vi.waitFor(() => expect(button('Sweep').hidden).toBe(true));
    expect(view.rows()[1]!.slice(4)).toEqual([2, 1]);
  });
  it('is not offered for prompts that do not line up', () => {
    const { button, parent, chip } = open({
      header: { clean: { prompt: 'The', tokens: ['The'] }, tables: [] }
    });
    expect(button('Sweep').disabled).toBe(true);
    expect(parent.textContent).toContain('The prompts have 1 and 4 tokens');
    expect(chip('clean', 0).textContent).toBe('The');
    expect(chip('clean', 2)).toBeNull();
  });
});

describe('the frame', () => {
  it('shows tokens as text and marks where they differ', () => {
    const { chip, parent } = open();
    expect(chip('corrupted', 1).textContent).toBe('·<b>');
    expect(chip('corrupted', 1).hasAttribute('data-differs')).toBe(true);
    expect(chip('clean', 0).hasAttribute('data-differs')).toBe(false);
    expect(parent.querySelector('.nbsight-heat b')).toBeNull();
  });
  it('shows the code where no notebook takes it, with a button that copies', async () => {
    const writeText = vi.spyOn(navigator.clipboard, 'writeText').mockResolvedValue();
    const { press, one } = open();
    press('c');
    expect(one('.nbsight-code pre').textContent).toContain('sites=["resid_post"]');
    one('.nbsight-code button').click();
    expect(writeText).toHaveBeenCalledWith(one('.nbsight-code pre').textContent);
  });
  it('offers the code of the run that is on show', async () => {
    const { press, kernel, one, view } = open();
    press('Enter');
    await kernel.last.answer(patched());
    await vi.waitFor(() => expect(view.code()).toBe('the code of the run'));
    press('c');
    expect(one('.nbsight-code pre').textContent).toBe('the code of the run');
  });
  it('has a table with every number', () => {
    const { press, parent } = open();
    parent.querySelector<HTMLElement>('[role=grid]')!.focus();
    press('t');
    expect(document.activeElement).toBe(parent.querySelector('.nbsight-table'));
    expect(parent.querySelectorAll('tbody tr')).toHaveLength(12);
    expect(parent.querySelector('tbody')!.textContent).toContain('·<b>');
    press('t', document.activeElement!);
    expect(parent.querySelector('.nbsight-table')).toBeNull();
    expect(document.activeElement).toBe(parent.querySelector('[role=grid]'));
  });
  it('says what it knows of the numbers, and when they are out of date', () => {
    const { view, one } = open();
    expect(one('.nbsight-chip').textContent).toBe('float32 · sdpa');
    view.stale('the model’s weights have changed since');
    expect(one('.nbsight-chip').textContent).toContain('outdated: the model’s weights');
    expect(one('.nbsight-chip').hasAttribute('data-stale')).toBe(true);
  });
  it('knows when its cell was edited', async () => {
    const cell = document.body.appendChild(document.createElement('div'));
    cell.className = 'jp-CodeCell';
    const { one, parent } = open();
    cell.append(parent);
    await new Promise(resolve => requestAnimationFrame(resolve));
    cell.classList.add('jp-mod-dirty');
    await vi.waitFor(() => expect(one('.nbsight-chip').textContent).toContain('the cell was edited'));
    cell.classList.remove('jp-mod-dirty');
    await vi.waitFor(() => expect(one('.nbsight-chip').textContent).toBe('float32 · sdpa'));
  });
  it('keeps letters from the notebook, but not its shortcuts', () => {
    const { parent, press } = open();
    const heard = vi.fn();
    parent.addEventListener('keydown', heard);
    press('d');
    press('x');
    expect(heard).not.toHaveBeenCalled();
    press('s', undefined, { ctrlKey: true });
    expect(heard).toHaveBeenCalledTimes(1);
  });
  it('makes a picture on white with a scale', () => {
    const svg = open().view.picture();
    expect(svg).toContain('share of the logit difference recovered');
    expect(svg).toContain('·&lt;b&gt;');
    expect(new DOMParser().parseFromString(svg, 'image/svg+xml').querySelector('parsererror')).toBeNull();
  });
  it('leaves nothing behind', () => {
    const { view, parent, kernel, press } = open();
    press('Enter');
    view.destroy();
    expect(kernel.last.signal.aborted).toBe(true);
    expect(parent.childElementCount).toBe(0);
  });
});

describe('editing prompts', () => {
  it('asks when the typing rests and pales the old picture', async () => {
    vi.useFakeTimers();
    const { button, one, kernel, parent } = open();
    button('Edit prompts').click();
    const input = one<HTMLInputElement>('[aria-label="clean prompt"]');
    for (const value of ['T', 'Th', 'The']) {
      input.value = value;
      input.dispatchEvent(new Event('input'));
      vi.advanceTimersByTime(300);
    }
    expect(kernel.asked).toHaveLength(0);
    expect(parent.querySelector('[data-ghost]')).not.toBeNull();
    vi.advanceTimersByTime(400);
    expect(kernel.last).toMatchObject({
      command: 'prompts',
      params: { clean: 'The', corrupted: 'The <b> Arena is' }
    });
    await kernel.last.answer({});
    vi.useRealTimers();
    await vi.waitFor(() => expect(parent.querySelector('[data-ghost]')).toBeNull());
  });
});
