import { afterEach, describe, expect, it, vi } from 'vitest';
import { isOver, type JobRow, rate, share, standing } from '../src/shared/jobs';
import { fromBase64 } from '../src/shared/payload';
import { KernelError } from '../src/shared/rpc';
import { english } from '../src/shared/words';
import { jobsSvg } from '../src/widgets/jobs/picture';
import type { JobsHeader, Place, State } from '../src/widgets/jobs/types';
import { JobsView } from '../src/widgets/jobs/view';
import { Kernel } from './fake';
import shared from './fixtures/jobs.json';

// the payload that nbsight/widgets/jobs.py makes of the jobs in tests/widgets/shared_jobs.py
const fixture = shared as unknown as { header: JobsHeader; data: string };
const [running, queued, done, stopped, failed] = fixture.header.jobs as [
  JobRow,
  JobRow,
  JobRow,
  JobRow,
  JobRow
];

function open(kernel: Kernel | null = new Kernel(), header: Partial<JobsHeader> = {}, logs: string[] = []) {
  const parent = document.body.appendChild(document.createElement('div'));
  const selected: (Place | null)[] = [];
  const states: Partial<State>[] = [];
  const view = new JobsView(
    parent,
    { ...fixture.header, ...header },
    fromBase64(fixture.data),
    { logs },
    {
      select: place => void selected.push(place),
      set: change => void states.push(change),
      ...(kernel ? { ask: kernel.ask } : {})
    }
  );
  const row = (job: JobRow) => parent.querySelector<HTMLElement>(`[data-job="${job.id}"]`)!;
  const button = (job: JobRow, text: string) =>
    [...row(job).querySelectorAll('button')].find(each => each.textContent === text)!;
  const press = (job: JobRow, key: string) =>
    row(job).dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  return { parent, view, kernel: kernel!, selected, states, row, button, press };
}

const told = (view: JobsView, ...jobs: JobRow[]) => view.update({ ...fixture.header, jobs });

afterEach(() => {
  document.body.replaceChildren();
  vi.useRealTimers();
});

describe('the words', () => {
  it('say how each job stands', () => {
    expect([running, queued, done, stopped, failed].map(job => standing(job, english, true))).toEqual([
      '24 of 72 · 8/s · 6.0 s left',
      'waits for a worker · place 3 · about 40 s',
      'done · 72 of 72 · 3.0 s',
      'stopped · 24 of 72 · 3.0 s',
      'failed · ValueError: the metric gave <b>nan</b> for the run changed at layer 3'
    ]);
  });
  it('say slow work by the minute, and nothing of what is not known', () => {
    expect(rate({ ...running, rate: 0.05 }, english)).toBe('3/min');
    expect(rate({ ...running, rate: 1234.5 }, english)).toBe('1230/s');
    expect(rate({ ...running, rate: null }, english)).toBe('');
    expect(standing({ ...running, total: null, done: 0, rate: null, left: null }, english)).toBe('running');
    expect(standing({ ...running, stopping: true, note: 'stopping' }, english)).toBe('24 of 72 · stopping');
  });
  it('know the share of work whose length is known', () => {
    expect([running, done, { ...running, total: null }].map(share)).toEqual([1 / 3, 1, null]);
    expect([running, queued, done].map(isOver)).toEqual([false, false, true]);
  });
});

describe('the list', () => {
  it('has a bar with a number for every job that is counted', () => {
    const { row } = open();
    const bar = row(running).querySelector('[role=progressbar]')!;
    expect(bar.getAttribute('aria-valuenow')).toBe('0.333');
    expect((bar.firstElementChild as HTMLElement).style.width).toMatch(/^33\.3/);
    expect(row(running).getAttribute('aria-label')).toContain('24 of 72');
  });
  it('shows an error in its place, as text', () => {
    const { row, parent } = open();
    expect(row(failed).querySelector('[data-part=error]')!.textContent).toContain('<b>nan</b>');
    expect(parent.querySelector('b')).toBeNull();
  });
  it('shows the last lines while a job runs, and all of them when they are asked for', async () => {
    const { row, button, kernel, states } = open();
    const lines = row(running).querySelector('pre')!;
    expect(lines.textContent!.split('\n')).toEqual(running.tail);
    expect(lines.querySelector('script')).toBeNull();
    button(running, 'Log').click();
    expect(states).toEqual([{ logs: [running.id] }]);
    expect(kernel.last).toMatchObject({ command: 'log', params: { job: running.id } });
    await kernel.last.answer({ lines: ['loading', ...running.tail] });
    await vi.waitFor(() => expect(lines.textContent).toContain('loading'));
    button(running, 'Log').click();
    expect(lines.textContent!.split('\n')).toEqual(running.tail);
  });
  it('asks for an open log again when there is more of it', async () => {
    const { view, kernel } = open(new Kernel(), {}, [running.id]);
    await kernel.last.answer({ lines: ['one'] });
    expect(kernel.asked).toHaveLength(1);
    told(view, { ...running, done: 30 });
    expect(kernel.asked).toHaveLength(1);
    told(view, { ...running, lines: 5, tail: ['five'] });
    expect(kernel.asked).toHaveLength(2);
  });
  it('keeps the row of a job when it is told anew, with its focus', () => {
    const { view, row, parent } = open();
    const before = row(running);
    before.focus();
    told(view, { ...queued, id: 'job-9' }, { ...running, done: 48 }, done);
    expect(row(running)).toBe(before);
    expect(document.activeElement).toBe(before);
    expect(parent.querySelectorAll('[role=listitem]')).toHaveLength(3);
  });
  it('stops a job by button and by key, and says why it cannot', async () => {
    const { button, press, kernel, parent, view } = open();
    button(running, 'Stop').click();
    expect(kernel.last).toMatchObject({ command: 'cancel', params: { job: running.id } });
    told(view, { ...running, stopping: true, note: 'stopping' }, queued, done);
    expect(button(running, 'Stop').disabled).toBe(true);
    press(queued, 'x');
    expect(kernel.last.params).toEqual({ job: queued.id });
    await kernel.last.fail(new KernelError('LookupError', 'there is no job', ''));
    await vi.waitFor(() => expect(parent.querySelector('[role=alert]')!.textContent).toContain('no job'));
    expect(button(done, 'Stop').hidden).toBe(true);
  });
  it('asks again to stop as long as the kernel has not heard it', async () => {
    vi.useFakeTimers();
    const { button, kernel, view } = open();
    button(running, 'Stop').click();
    vi.advanceTimersByTime(1500);
    expect(kernel.asked.map(each => each.command)).toEqual(['cancel', 'cancel', 'cancel']);
    told(view, { ...running, stopping: true });
    vi.advanceTimersByTime(5000);
    expect(kernel.asked).toHaveLength(3);
    view.destroy();
  });
  it('walks by arrow keys; Enter gives the cell with the result', async () => {
    const { row, press, kernel, selected, parent } = open();
    row(queued).focus();
    press(queued, 'ArrowDown');
    expect(document.activeElement).toBe(row(done));
    expect(selected.at(-1)).toEqual([done.id]);
    press(done, 'Enter');
    expect(kernel.last).toMatchObject({ command: 'code', params: { job: done.id } });
    await kernel.last.answer({ code: 'Out[7]' });
    await vi.waitFor(() => expect(parent.querySelector('.nbsight-code pre')!.textContent).toBe('Out[7]'));
  });
  it('offers no result of what has none', () => {
    const { button } = open();
    expect([running, failed, stopped].map(job => button(job, 'Result').hidden)).toEqual([true, true, true]);
    expect(button(done, 'Result').hidden).toBe(false);
  });
  it('announces the end of a job once', () => {
    const { view, parent } = open();
    told(view, { ...running, state: 'done', done: 72 });
    expect(parent.querySelector('.nbsight-live')!.textContent).toBe('patching: done · 72 of 72 · 3.0 s');
  });
  it('says when nothing was heard of a running job for long', () => {
    vi.useFakeTimers();
    const { row, view } = open();
    vi.advanceTimersByTime(21_000);
    expect(row(running).textContent).toContain('no news for 20 s');
    expect(row(queued).textContent).not.toContain('no news');
    told(view, running);
    expect(row(running).textContent).not.toContain('no news');
    view.destroy();
  });
  it('says how many are left out, and when there is none', () => {
    const { parent, view } = open(new Kernel(), { older: 6 });
    expect(parent.textContent).toContain('6 older jobs are not shown.');
    view.update({ ...fixture.header, jobs: [] });
    expect(parent.textContent).toContain('Nothing runs, and nothing has run.');
  });
});

describe('a bar under a cell', () => {
  it('has no heading, and gives its own result', () => {
    const { view, parent } = open(new Kernel(), { single: true, jobs: [done] });
    expect(parent.querySelector('.nbsight-jobs')!.hasAttribute('data-single')).toBe(true);
    expect(view.code()).toContain(`find('${done.id}').result`);
  });
});

describe('a copy without a kernel', () => {
  it('says of what runs that this was when it was saved, and offers nothing that needs one', () => {
    const { row, button, parent } = open(null);
    expect(row(running).textContent).toContain('24 of 72, when this was saved');
    expect(button(running, 'Stop').hidden).toBe(true);
    button(done, 'Result').click();
    expect(parent.querySelector('.nbsight-code pre')!.textContent).toContain('find(');
  });
});

describe('copies', () => {
  it('are rows of numbers and a picture that holds text as text', () => {
    const { view, parent } = open();
    const rows = view.rows();
    expect(rows[0]).toHaveLength(rows[1]!.length);
    expect(rows[1]!.slice(0, 8)).toEqual(['job-1', 'patching', 'nbsight/demo', 'running', 24, 72, 8, 6]);
    expect(view.table().querySelectorAll('tbody tr')).toHaveLength(5);
    const svg = new DOMParser().parseFromString(jobsSvg(fixture.header.jobs), 'image/svg+xml');
    expect(svg.documentElement.tagName).toBe('svg');
    expect(svg.querySelectorAll('rect').length).toBeGreaterThan(9);
    expect(parent.querySelector('.nbsight-live')).not.toBeNull();
  });
});
