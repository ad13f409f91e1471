import { afterEach, describe, expect, it, vi } from 'vitest';
import { fromBase64 } from '../src/shared/payload';
import { firstTile, fitted, limitOf, rangeOf, type Tile, zoomed } from '../src/widgets/inspector/data';
import { Tree } from '../src/widgets/inspector/tree';
import type { InspectorHeader, Place, State } from '../src/widgets/inspector/types';
import { InspectorView } from '../src/widgets/inspector/view';
import { floats, Kernel } from './fake';
import shared from './fixtures/inspector.json';

// the payload that nbsight/widgets/inspector.py makes of the tensor in tests/widgets/shared_inspector.py
const fixture = shared as unknown as { header: InspectorHeader; data: string };
const STATE: State = { path: 'resid <b>', rows: 1, columns: 2, at: [0, 0, 0] };

function open(kernel: Kernel | null = new Kernel(), state: Partial<State> = {}) {
  const parent = document.body.appendChild(document.createElement('div'));
  const selected: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const view = new InspectorView(
    parent,
    fixture.header,
    fromBase64(fixture.data),
    { ...STATE, ...state },
    {
      select: place => void selected.push(place),
      set: change => void states.push(change),
      ...(kernel ? { ask: kernel.ask } : {})
    }
  );
  const one = <T extends HTMLElement>(selector: string) => parent.querySelector<T>(selector)!;
  const press = (key: string, target: Element = one('[role=grid]')) =>
    target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  return { parent, view, kernel: kernel!, selected, states, one, press };
}

afterEach(() => {
  document.body.replaceChildren();
});

const tile = (rows: number, columns: number, size: [number, number] = [1, 1]): Tile => ({
  window: [0, rows * size[0], 0, columns * size[1]],
  size,
  rows,
  columns,
  peak: Float32Array.from({ length: rows * columns }, (_, i) => i),
  mean: new Float32Array(rows * columns)
});

describe('the data', () => {
  it('is what Python packed', () => {
    const first = firstTile(fixture.header, fromBase64(fixture.data));
    expect([first.rows, first.columns, first.size]).toEqual([3, 4, [1, 1]]);
    expect(Array.from(first.peak).slice(0, 5)).toEqual([-11, -10, -9, -8, -1]);
    expect(first.peak[11]).toBeNaN();
  });
  it('has colours that outliers do not set', () => {
    const values = tile(10, 100);
    (values.peak as Float32Array)[5] = 1e6;
    const { limit, isCut } = limitOf(values);
    expect(limit).toBeLessThan(1000);
    expect(isCut).toBe(true);
    expect(limitOf({ ...tile(1, 2), peak: [NaN, 0] }).limit).toBe(1);
  });
  it('goes closer and farther and never leaves the plane', () => {
    const whole = tile(96, 192, [6, 128]);
    expect(rangeOf(whole, 1, 1)).toEqual([6, 11, 128, 255]);
    const near = zoomed(whole, 0, 0, true, [576, 24_576]);
    expect(near).toEqual([0, 144, 0, 6144]);
    expect(zoomed(whole, 95, 191, true, [576, 24_576])).toEqual([432, 576, 18_432, 24_576]);
    expect(zoomed({ ...whole, window: near, size: [2, 32] }, 5, 5, false, [576, 24_576])).toEqual([
      0, 576, 0, 24_576
    ]);
    expect(zoomed(tile(3, 4), 1, 1, true, [3, 4])).toEqual([0, 3, 0, 4]);
  });
  it('replaces a state that does not fit the tensor', () => {
    expect(fitted(fixture.header, { ...STATE, at: [0] })).toEqual(STATE);
    expect(fitted(fixture.header, { ...STATE, rows: 2 })).toEqual(STATE);
    expect(fitted(fixture.header, { ...STATE, rows: 0 }).rows).toBe(0);
  });
});

describe('the view', () => {
  it('reads like text: row 0 on top, tokens as text, axes by name', () => {
    const { parent, one } = open();
    const rows = [...parent.querySelectorAll('.nbsight-heat-rows > div')].map(row => row.textContent);
    expect(rows).toEqual(['The', '·<b>', '·is']);
    expect(parent.querySelector('.nbsight-heat b, .nbsight-head b, li b')).toBeNull();
    expect(one('.nbsight-about').textContent).toBe('resid <b> · run 2 × position 3 × channel 4');
  });
  it('says each number, and which are none', () => {
    const { press, one } = open();
    press('ArrowDown');
    press('ArrowRight');
    expect(one('.nbsight-readout').textContent).toBe('position 1 ·<b>, channel 1: 0');
    press('ArrowDown');
    press('End');
    expect(one('.nbsight-readout').textContent).toContain('NaN or infinite');
  });
  it('says what is wrong with the numbers', () => {
    const { one } = open();
    expect(one('.nbsight-badge').textContent).toBe('1 (4.2 %) of the numbers are NaN.');
    expect(one('dd[data-bad]').textContent).toBe('1 (4.2 %)');
    expect(one('.nbsight-inspector-histogram rect')).not.toBeNull();
  });
  it('chooses a number, whose code reads it', () => {
    const { press, selected, view } = open();
    press('ArrowDown');
    press('Enter');
    expect(selected).toEqual([[0, 1, 0]]);
    expect(view.code()).toBe("value = activations['resid <b>']\nvalue[0, 1, 0]");
  });
  it('asks for another plane when a slider moves, and the last one counts', async () => {
    const { one, kernel, states, view } = open();
    const slider = one<HTMLInputElement>('input[type=range]');
    expect(slider.getAttribute('aria-label')).toBe('run');
    slider.value = '1';
    slider.dispatchEvent(new Event('input'));
    expect(states).toEqual([{ at: [1, 0, 0] }]);
    expect(kernel.last).toMatchObject({
      command: 'tile',
      params: { rows: 1, columns: 2, at: [1, 0, 0], window: [0, 3, 0, 4] }
    });
    const numbers = floats(...Array.from({ length: 12 }, (_, i) => 89 + i));
    await kernel.last.answer({ window: [0, 3, 0, 4], size: [1, 1], shape: [3, 4] }, [numbers, numbers]);
    await vi.waitFor(() => expect(view.rows()[1]).toEqual([0, 0, 89]));
    slider.value = '0';
    slider.dispatchEvent(new Event('input'));
    expect(view.rows()[1]).toEqual([0, 0, -11]); // it came with the header
    expect(kernel.asked).toHaveLength(1);
  });
  it('turns the axes', () => {
    const { parent, kernel, states } = open();
    const down = parent.querySelector('select')!;
    down.value = '2';
    down.dispatchEvent(new Event('change'));
    expect(states).toEqual([{ rows: 2, columns: 1 }]);
    expect(kernel.last.params).toMatchObject({ rows: 2, columns: 1, window: [0, 4, 0, 3] });
  });
  it('opens another tensor and says when that fails', async () => {
    const { parent, kernel, one } = open();
    parent.querySelectorAll<HTMLElement>('[role=option]')[1]!.click();
    expect(kernel.last).toMatchObject({ command: 'open', params: { path: 'other' } });
    await kernel.last.fail(new Error('the model is gone'));
    await vi.waitFor(() => expect(one('[role=alert]').textContent).toContain('the model is gone'));
  });
  it('without a kernel still shows the plane that was kept', () => {
    const { parent, one } = open(null);
    parent.querySelectorAll<HTMLElement>('[role=option]')[1]!.click();
    expect(one('.nbsight-readout').textContent).toContain('No kernel is attached');
  });
  it('states what is on show in the table and the picture', () => {
    const { view, press, parent } = open();
    press('t');
    expect(parent.querySelectorAll('tbody tr')).toHaveLength(12);
    expect(view.picture()).toContain('resid &lt;b&gt; · 2 × 3 × 4 float32');
  });
});

describe('the tree', () => {
  const many = Array.from({ length: 1000 }, (_, i) => ({
    path: `h.${i}.mlp`,
    kind: i % 2 ? 'MLP' : 'Attention',
    bytes: i,
    saved: i === 3
  }));
  const show = () => {
    const opened: string[] = [];
    const tree = new Tree(path => opened.push(path));
    document.body.append(tree.node);
    tree.show(many, 'h.3.mlp');
    const type = (text: string) => {
      const box = tree.node.querySelector('input')!;
      box.value = text;
      box.dispatchEvent(new Event('input'));
    };
    return { tree, opened, type };
  };
  it('keeps a thousand modules out of the page and finds them by path and class', () => {
    const { tree, type } = show();
    expect(tree.node.querySelectorAll('li')).toHaveLength(200);
    expect(tree.node.querySelector('p')!.textContent).toBe('and 800 more: type to narrow');
    type('mlp h.99');
    expect([...tree.node.querySelectorAll('li > span')].map(node => node.textContent)).toContain('h.993.mlp');
    type('nothing like it');
    expect(tree.node.querySelectorAll('li')).toHaveLength(0);
  });
  it('is walked with the keys', () => {
    const { tree, opened } = show();
    const list = tree.node.querySelector('ul')!;
    for (const key of ['ArrowDown', 'Enter', 'Home', 'Enter']) {
      list.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
    }
    expect(opened).toEqual(['h.4.mlp', 'h.0.mlp']);
  });
  it('says which is open and which is at hand', () => {
    const { tree } = show();
    const open = tree.node.querySelector('[aria-selected=true]')!;
    expect(open.getAttribute('title')).toBe('h.3.mlp: MLP, 3 bytes, at hand');
  });
});
