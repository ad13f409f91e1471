import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Actions } from '../src/lab/sidebar/actions';
import { type Message, Mirror, type ModuleList, PROTOCOL, type State } from '../src/lab/sidebar/protocol';
import type { KernelJobs } from '../src/lab/sidebar/sections';
import { type Shown, SidebarView } from '../src/lab/sidebar/view';
import { bytes, count, duration, english, standing } from '../src/lab/sidebar/words';
import { keyed } from '../src/shared/keyed';
import fixture from './fixtures/sidebar.json';

const first = fixture.state as unknown as Extract<Message, { op: 'state' }>;
const told = fixture.jobs as unknown as Extract<Message, { op: 'job' }>[];
const changed = fixture.changed as unknown as Extract<Message, { op: 'changed' }>;
const modules = fixture.children.result as ModuleList;
const found = fixture.find.result as ModuleList;

describe('what the kernel tells', () => {
  let mirror: Mirror;
  beforeEach(() => {
    mirror = new Mirror();
    mirror.take(structuredClone(first));
  });

  it('is the state that Python sent', () => {
    expect(first.protocol).toBe(PROTOCOL);
    expect(mirror.state!.models[0]!.expression).toBe('model');
    expect(mirror.state!.saved.map(row => row.name)).toEqual(["kept['<b>']", 'hidden']);
  });
  it('is changed by sections and by jobs', () => {
    const messages = [...told, changed].sort((one, other) => one.seq - other.seq);
    for (const message of messages) {
      expect(mirror.take(message)).toBe(true);
    }
    expect(mirror.state!.edits[0]!.enabled).toBe(false);
    expect(mirror.state!.jobs).toHaveLength(1);
    expect(mirror.state!.jobs[0]!.state).toBe('done');
  });
  it('notices that a message is missing, and takes an older one in without complaint', () => {
    expect(mirror.take({ ...changed, seq: first.seq + 2 })).toBe(false);
    expect(mirror.take({ ...changed, seq: first.seq + 1 })).toBe(true);
  });
  it('asks for the whole when a change comes before it', () => {
    expect(new Mirror().take(changed)).toBe(false);
  });
  it('keeps nothing of a kernel that speaks another version', () => {
    mirror.take({ ...first, protocol: PROTOCOL + 1 });
    expect([mirror.state, mirror.other]).toEqual([null, PROTOCOL + 1]);
    expect(mirror.take({ ...changed, seq: first.seq + 1 })).toBe(true);
  });
  it('is forgotten when the extension is unloaded', () => {
    mirror.take({ op: 'bye', seq: 9 });
    expect(mirror.state).toBeNull();
  });
});

describe('words', () => {
  it('says sizes as Python does', () => {
    expect([0, 999, 37_800, 200_000, 2_899_456, 4.2e8, 8e10].map(bytes)).toEqual([
      '0 B',
      '999 B',
      '37.8 kB',
      '0.2 MB',
      '2.9 MB',
      '420 MB',
      '80.0 GB'
    ]);
    expect([810, 724_864, 7e10].map(count)).toEqual(['810', '724.9 k', '70.0 B']);
  });
  it('says times as people do', () => {
    expect([0.04, 9.99, 75, 150, 7_500].map(duration)).toEqual([
      '0.0 s',
      '10 s',
      '75 s',
      '2 min 30 s',
      '2 h 05 min'
    ]);
  });
  it('says how far a job is and when it will end', () => {
    const job = told[1]!.job;
    expect(standing({ ...job, seconds: 3, left: 6 }, english)).toBe('24 of 72 · 6.0 s left');
    expect(standing({ ...job, note: 'stopping' }, english)).toBe('24 of 72 · stopping');
    expect(standing({ ...job, state: 'failed', error: 'ValueError: no' }, english)).toContain(
      'ValueError: no'
    );
    expect(standing({ ...job, total: null, seconds: 0 }, english)).toBe('24');
    expect(standing({ ...job, state: 'lost' }, english)).toContain('24 of 72');
  });
});

describe('lists', () => {
  it('keep the elements that stay, in the order of the items', () => {
    const parent = document.createElement('div');
    const show = (items: string[]) =>
      keyed(
        parent,
        items,
        item => item,
        () => document.createElement('p'),
        (element, item) => {
          element.textContent = item;
        }
      );
    show(['a', 'b', 'c']);
    const [a, b] = Array.from(parent.children);
    show(['c', 'b', 'd', 'a']);
    expect(parent.textContent).toBe('cbda');
    expect(parent.children[1]).toBe(b);
    expect(parent.children[3]).toBe(a);
    show([]);
    expect(parent.childElementCount).toBe(0);
  });
});

describe('the sidebar', () => {
  let node: HTMLElement;
  let actions: Actions;
  let view: SidebarView;
  const remember = vi.fn();
  const load = vi.fn(() => Promise.resolve());

  const show = (state: State | null, more: Partial<Shown> = {}) =>
    view.update({
      notebook: 'a.ipynb',
      status: state ? 'connected' : 'unloaded',
      note: '',
      isBusy: false,
      state,
      jobs: [],
      ...more
    });
  const jobsOf = (message: Extract<Message, { op: 'job' }>, more: Partial<KernelJobs> = {}): KernelJobs[] => [
    { kernel: 'k', notebook: 'a.ipynb', isActive: true, jobs: [message.job], ...more }
  ];
  const settled = () => vi.waitFor(() => expect(node.querySelector('[role=treeitem]')).not.toBeNull());
  const all = (selector: string) => Array.from(node.querySelectorAll<HTMLElement>(selector));
  const one = (selector: string) => node.querySelector<HTMLElement>(selector)!;

  beforeEach(() => {
    document.body.replaceChildren();
    node = document.createElement('div');
    document.body.append(node);
    actions = {
      children: vi.fn(async () => modules),
      find: vi.fn(async () => found),
      insert: vi.fn(),
      insertCell: vi.fn(),
      openModule: vi.fn(),
      openValue: vi.fn(),
      act: vi.fn(async () => ''),
      cancel: vi.fn(async () => undefined),
      log: vi.fn(async () => ['<b>half way</b>']),
      icon: name => document.createElement(`i-${name}`)
    };
    view = new SidebarView(node, actions, english, { open: { memory: false }, remember, load });
  });

  it('offers to load nbsight where it is not, and shows nothing else', () => {
    show(null, { note: 'not loaded' });
    expect(one('.jp-nbsight-load').hidden).toBe(false);
    expect(all('[data-section]').every(section => section.hidden)).toBe(true);
    one('.jp-nbsight-load').click();
    expect(load).toHaveBeenCalled();
  });

  it('shows a model with its sizes, and its modules', async () => {
    show(first.state);
    await settled();
    const card = one('.jp-nbsight-card').textContent!.replace(/\u00a0/g, ' ');
    expect(card).toContain('12 layers · 4 heads · width 64');
    expect(card).toContain('724.9 k parameters · 2.9 MB · float32 · cpu');
    const rows = all('[role=treeitem]');
    expect(rows.map(row => row.dataset.path)).toEqual(modules.rows.map(row => row.path));
    expect(rows[0]!.querySelector('.jp-nbsight-shape')!.textContent).toBe('(batch, position, d_model 64)');
    expect(one("[data-path='transformer.h.0.attn'] > div").title).toContain(
      'what the attention of block 0 adds'
    );
  });

  it('writes names as text, whatever is in them', () => {
    show(first.state);
    expect(node.querySelector('b')).toBeNull();
    expect(one("[data-section='saved']").textContent).toContain("kept['<b>']");
  });

  it('inserts at a click, and opens at a double click without inserting', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      show(first.state);
      await vi.advanceTimersByTimeAsync(10);
      const line = one("[data-path='transformer.h.0.attn'] > div");
      line.dispatchEvent(new MouseEvent('click', { detail: 1, bubbles: true }));
      await vi.advanceTimersByTimeAsync(400);
      expect(actions.insert).toHaveBeenCalledExactlyOnceWith('model.transformer.h[0].attn');
      line.dispatchEvent(new MouseEvent('click', { detail: 1, bubbles: true }));
      line.dispatchEvent(new MouseEvent('click', { detail: 2, bubbles: true }));
      line.dispatchEvent(new MouseEvent('dblclick', { bubbles: true }));
      await vi.advanceTimersByTimeAsync(400);
      expect(actions.insert).toHaveBeenCalledTimes(1);
      expect(actions.openModule).toHaveBeenCalledExactlyOnceWith(
        first.state.models[0],
        'transformer.h.0.attn'
      );
    } finally {
      vi.useRealTimers();
    }
  });

  it('is walked with the keys; one item is in the order of tabs', async () => {
    show(first.state);
    await settled();
    const rows = all('[role=treeitem]');
    expect(rows.filter(row => row.tabIndex === 0)).toHaveLength(1);
    rows[0]!.focus();
    const press = (key: string, more: KeyboardEventInit = {}) =>
      document.activeElement!.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, ...more }));
    press('ArrowDown');
    expect(document.activeElement).toBe(rows[1]);
    press('Enter');
    expect(actions.insert).toHaveBeenCalledWith('model.transformer.h[0].attn');
    press('Enter', { shiftKey: true });
    expect(actions.openModule).toHaveBeenCalled();
    press('ArrowRight');
    await vi.waitFor(() => expect(actions.children).toHaveBeenCalledTimes(2));
    expect(rows[1]!.getAttribute('aria-expanded')).toBe('true');
    press('ArrowLeft');
    expect(rows[1]!.getAttribute('aria-expanded')).toBe('false');
    press('Home');
    expect(document.activeElement).toBe(rows[0]);
    press('ArrowUp');
    expect(document.activeElement).toBe(one('input[type=search]'));
    expect(all('[role=treeitem][tabindex="0"]')).toHaveLength(1);
  });

  it('filters, and an older answer does not cover a newer one', async () => {
    show(first.state);
    await settled();
    const box = one('input[type=search]') as HTMLInputElement;
    let late: (list: ModuleList) => void = () => undefined;
    actions.find = vi.fn(() => new Promise<ModuleList>(resolve => (late = resolve)));
    box.value = 'attn';
    box.dispatchEvent(new Event('input'));
    await vi.waitFor(() => expect(actions.find).toHaveBeenCalled());
    actions.find = vi.fn(async () => found);
    box.value = 'c_fc';
    box.dispatchEvent(new Event('input'));
    await vi.waitFor(() => expect(all('[role=treeitem]')).toHaveLength(1));
    late(modules);
    await Promise.resolve();
    expect(all('[role=treeitem]').map(row => row.dataset.path)).toEqual(['transformer.h.7.mlp.c_fc']);
  });

  it('says it when no module is found, and when the kernel refuses', async () => {
    actions.find = vi.fn(async () => ({ rows: [], pending: false, found: 0 }));
    show(first.state);
    await settled();
    const box = one('input[type=search]') as HTMLInputElement;
    box.value = '<img>';
    box.dispatchEvent(new Event('input'));
    await vi.waitFor(() =>
      expect(one('.jp-nbsight-modules').textContent).toContain('No module is called “<img>”.')
    );
    actions.find = vi.fn(async () => Promise.reject(new Error('this model is gone')));
    box.dispatchEvent(new Event('input'));
    await vi.waitFor(() => expect(one('.jp-nbsight-modules').textContent).toContain('this model is gone'));
  });

  it('draws a list of a thousand modules in parts', async () => {
    const rows = Array.from({ length: 1000 }, (_, i) => ({
      ...modules.rows[0]!,
      path: `h.${i}`,
      name: `${i}`
    }));
    actions.children = vi.fn(async () => ({ rows, pending: false }));
    show(first.state);
    await settled();
    expect(all('[role=treeitem]')).toHaveLength(200);
    one('.jp-nbsight-more').click();
    expect(all('[role=treeitem]')).toHaveLength(400);
    expect(all('[role=treeitem]')[399]!.dataset.path).toBe('h.399');
  });

  it('keeps rows and the tree when something else changes', async () => {
    show(first.state);
    await settled();
    const tree = one('[role=tree]');
    const row = all("[data-section='saved'] .jp-nbsight-row")[1];
    show({ ...first.state, saved: first.state.saved.slice(1), edits: [] });
    expect(one('[role=tree]')).toBe(tree);
    expect(all("[data-section='saved'] .jp-nbsight-row")).toEqual([row]);
    expect(actions.children).toHaveBeenCalledTimes(1);
  });

  it('frees what can be freed and says why not where it cannot', () => {
    const [free, held] = first.state.saved;
    show({ ...first.state, saved: [free!, { ...held!, freeable: false }] });
    const buttons = all("[data-section='saved'] .jp-nbsight-freeone") as HTMLButtonElement[];
    buttons[0]!.click();
    expect(actions.act).toHaveBeenCalledWith('free', { value: free!.id });
    expect(buttons[1]!.disabled).toBe(true);
    expect(buttons[1]!.title).toContain('see Memory');
  });

  it('switches an edit, and switches back when the kernel refuses', async () => {
    actions.act = vi.fn(async () => Promise.reject(new Error('gone')));
    show(first.state);
    const box = one('[role=switch]');
    expect(box.getAttribute('aria-checked')).toBe('true');
    box.click();
    expect(actions.act).toHaveBeenCalledWith('toggle-edit', {
      edit: first.state.edits[0]!.id,
      enabled: false
    });
    expect(box.getAttribute('aria-checked')).toBe('false');
    await vi.waitFor(() => expect(box.getAttribute('aria-checked')).toBe('true'));
  });

  it('shows how far a job is, stops it, and shows its log as text', async () => {
    show(first.state, { jobs: jobsOf({ ...told[1]!, job: { ...told[1]!.job, lines: 1 } }) });
    const row = one('[data-job]');
    expect(row.querySelector('progress')!.value).toBeCloseTo(1 / 3);
    row.querySelector<HTMLElement>('.jp-nbsight-showlog')!.click();
    await vi.waitFor(() => expect(row.querySelector('pre')!.textContent).toBe('<b>half way</b>'));
    row.querySelector<HTMLElement>('.jp-nbsight-cancel')!.click();
    expect(actions.cancel).toHaveBeenCalledWith('k', expect.objectContaining({ id: told[1]!.job.id }));
    show(first.state, { jobs: jobsOf(told[2]!) });
    expect(one('[data-job]')).toBe(row);
    expect(row.querySelector<HTMLElement>('.jp-nbsight-cancel')!.hidden).toBe(true);
    expect(row.dataset.state).toBe('done');
  });

  it('says where a remote job is, and offers the code that fetches its result', () => {
    const job = {
      ...told[1]!.job,
      kind: 'remote',
      total: null,
      done: 0,
      note: 'waits, place 3',
      code: 'x = 1'
    };
    show(first.state, { jobs: jobsOf({ ...told[1]!, job }) });
    expect(one('[data-job] .jp-nbsight-detail').textContent).toBe('waits, place 3');
    expect(one('.jp-nbsight-fetch').hidden).toBe(true);
    show(first.state, { jobs: jobsOf({ ...told[1]!, job: { ...job, state: 'lost', note: '' } }) });
    expect(one('[data-job] .jp-nbsight-detail').textContent).toBe('goes on without its kernel');
    one('.jp-nbsight-fetch').click();
    expect(actions.insertCell).toHaveBeenCalledWith('x = 1');
  });

  it('shows what runs in another notebook, also when this one has no nbsight', () => {
    show(null, { jobs: jobsOf(told[1]!, { isActive: false, notebook: 'b.ipynb' }) });
    expect(one("[data-section='jobs']").hidden).toBe(false);
    expect(one('[data-job]').textContent).toContain('b.ipynb');
  });

  it('remembers which sections are open', () => {
    show(first.state);
    const heading = (name: string) => one(`[data-section='${name}'] .jp-nbsight-heading`);
    expect(heading('memory').getAttribute('aria-expanded')).toBe('false');
    heading('saved').click();
    expect(remember).toHaveBeenCalledWith('saved', false);
    expect(one("[data-section='saved'] .jp-nbsight-body").hidden).toBe(true);
    heading('saved').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
    expect(heading('saved').getAttribute('aria-expanded')).toBe('true');
  });

  it('gives every button a name', async () => {
    show(first.state, { jobs: jobsOf(told[1]!) });
    await settled();
    for (const button of all('button')) {
      expect(button.getAttribute('aria-label') ?? button.textContent).toMatch(/\w/);
    }
  });

  it('says what was done, and an error until the next word', () => {
    vi.useFakeTimers();
    view.say('Deleted `hidden`');
    vi.advanceTimersByTime(20_000);
    expect(one('[role=status]').textContent).toBe('');
    view.say('gone', true);
    vi.advanceTimersByTime(20_000);
    expect(one('[role=status]').textContent).toBe('gone');
    vi.useRealTimers();
  });
});
