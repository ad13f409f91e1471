import { afterEach, describe, expect, it, vi } from 'vitest';
import { fromBase64 } from '../src/shared/payload';
import { KernelError } from '../src/shared/rpc';
import { StepperData } from '../src/widgets/stepper/data';
import type { Place, State, StepperHeader } from '../src/widgets/stepper/types';
import { StepperView } from '../src/widgets/stepper/view';
import { Kernel } from './fake';
import shared from './fixtures/stepper.json';

// the payload that nbsight/widgets/stepper.py makes of the run in tests/widgets/shared_stepper.py
const fixture = shared as unknown as { header: StepperHeader; data: string };

function open(
  kernel: Kernel | null = new Kernel(),
  header: Partial<StepperHeader> = {},
  state: Partial<State> = {}
) {
  const parent = document.body.appendChild(document.createElement('div'));
  const selected: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const view = new StepperView(
    parent,
    { ...fixture.header, ...header },
    fromBase64(fixture.data),
    { positions: [], factor: 0.5, ...state },
    {
      select: place => void selected.push(place),
      set: change => void states.push(change),
      ...(kernel ? { ask: kernel.ask } : {})
    }
  );
  const grid = () => parent.querySelector('[role=grid]')!;
  const press = (key: string) =>
    grid().dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  const button = (text: string) => [...parent.querySelectorAll('button')].find(b => b.textContent === text)!;
  return { parent, view, kernel: kernel!, selected, states, press, button };
}

afterEach(() => {
  document.body.replaceChildren();
});

describe('the data', () => {
  it('is what Python packed: two blocks were seen, the rest not', () => {
    const data = new StepperData(fixture.header, fromBase64(fixture.data));
    expect([0, 1, 2, 3, 4].map(block => data.seen([block, 0]))).toEqual([false, true, false, true, false]);
    expect(data.block).toBe(3);
    expect(data.progress).toBe('block 4 of 12');
    expect(data.word([3, 0])).not.toBe('');
  });
});

describe('the view', () => {
  it('moves the run with keys', () => {
    const { press, kernel } = open();
    press('s');
    expect(kernel.last).toMatchObject({ command: 'step', params: {} });
    press('i'); // one thing at a time
    expect(kernel.asked).toHaveLength(1);
  });
  it('says how it goes and lets the next thing be asked when it is over', async () => {
    const { button, kernel } = open();
    button('Into').click();
    expect(button('Step').disabled).toBe(true);
    await kernel.last.answer({});
    await vi.waitFor(() => expect(button('Step').disabled).toBe(false));
    button('Back').click();
    expect(kernel.last).toMatchObject({ command: 'back', params: {} });
  });
  it('runs to a later block, and chooses positions on the one where it stands', () => {
    const { press, kernel, selected, states } = open();
    for (const key of ['PageDown', 'Home', 'ArrowUp', 'ArrowUp', 'ArrowUp', 'ArrowRight', 'Enter']) {
      press(key);
    }
    expect(states).toEqual([{ positions: [1] }]);
    expect(kernel.asked).toHaveLength(0);
    press('ArrowUp');
    press('Enter');
    expect(kernel.last).toMatchObject({ command: 'until', params: { block: 4 } });
    expect(selected).toEqual([
      [3, 1],
      [4, 1]
    ]);
  });
  it('changes the value at the chosen positions', () => {
    const { button, kernel, parent } = open();
    expect(button('Apply').disabled).toBe(true);
    button('·capital').click();
    const factor = parent.querySelector<HTMLInputElement>('input[type=number]')!;
    factor.value = '-2';
    factor.dispatchEvent(new Event('change'));
    button('Apply').click();
    expect(kernel.last).toMatchObject({ command: 'edit', params: { positions: [1], factor: -2 } });
  });
  it('says what was done and where it stands', () => {
    const { parent } = open();
    expect([...parent.querySelectorAll('.nbsight-stepper-done li')].map(item => item.textContent)).toEqual([
      'run to transformer.h.1.output',
      'multiply position 1 by 0.5',
      'run to transformer.h.3.output'
    ]);
    expect(parent.querySelector('.nbsight-beside h3')!.textContent).toBe('transformer.h.3.output');
    expect(parent.querySelector('.nbsight-stepper-here rect')).not.toBeNull();
  });
  it('shows an error and stays where it was', async () => {
    const { press, kernel, parent } = open();
    press('f');
    await kernel.last.fail(new KernelError('ModelRunError', 'the <b>model</b> failed', 'File'));
    await vi.waitFor(() =>
      expect(parent.querySelector('[role=alert] span')!.textContent).toBe('the <b>model</b> failed')
    );
    expect(parent.querySelector('.nbsight-beside h3')!.textContent).toBe('transformer.h.3.output');
  });
  it('compares with the plain run at the end', () => {
    const tops = {
      ...fixture.header.tops,
      probs: { ...fixture.header.tops.probs, 'this run': fixture.header.tops.ids.map(() => 0.1) }
    };
    const { parent, button } = open(new Kernel(), {
      ended: true,
      tops,
      at: { ...fixture.header.at, block: 12 }
    });
    expect(button('Step').disabled).toBe(true);
    expect(parent.querySelector('.nbsight-bars li')!.textContent).toBe('·Paris0.100');
    expect(parent.textContent).toContain('What this run says next');
  });
  it('without a kernel can be read and gives its code', () => {
    const { press, parent, view } = open(null);
    press('s');
    expect(view.code()).toContain("run.until('transformer.h.3.output')");
    press('c');
    expect(parent.querySelector('.nbsight-code pre')!.textContent).toContain(
      'run.here.value[0][:, [1]] *= 0.5'
    );
    expect(view.rows()).toHaveLength(1 + 2 * 5);
  });
});
