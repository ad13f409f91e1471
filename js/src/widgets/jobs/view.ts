import { clamp, h } from '../../shared/dom';
import { Frame, type Framed } from '../../shared/frame';
import { isOver, type JobRow, standing } from '../../shared/jobs';
import { keyed } from '../../shared/keyed';
import type { Host, View } from '../../shared/mount';
import { dataTable, type Value } from '../../shared/table';
import { number } from '../../shared/tokens';
import { duration, english } from '../../shared/words';
import { jobsSvg } from './picture';
import { hasResult, makeRow, updateRow } from './row';
import { STYLE } from './style';
import type { JobsHeader, Place, State } from './types';

const TICK = 5000;
const AGAIN = 700;

/** Work under way: bars, what was said, errors in place. Plain data, no kernel. */
export class JobsView implements View<JobsHeader, State, Place>, Framed {
  readonly name = 'jobs';
  readonly title = 'Jobs';
  private readonly frame: Frame;
  private readonly list = h('div', { role: 'list', 'aria-label': 'Jobs' });
  private readonly none = h('div', { class: 'nbsight-jobs-none' }, 'Nothing runs, and nothing has run.');
  private readonly older = h('div', { class: 'nbsight-jobs-none' });
  private readonly logs = new Map<string, { of: string; lines: string[] }>();
  private readonly codes = new Map<string, string>();
  private readonly asking = new AbortController();
  private readonly clock: number;
  private selection: string | null = null;
  private heard = Date.now();
  private before = new Map<string, string>();

  constructor(
    parent: HTMLElement,
    private header: JobsHeader,
    _: DataView,
    private state: State,
    private readonly host: Host<State, Place>
  ) {
    this.frame = new Frame(parent, this, host.ask);
    this.frame.lay(STYLE, [], [this.none, this.list, this.older, this.frame.readout]);
    this.list.addEventListener('keydown', event => this.onKey(event));
    this.show();
    this.frame.start();
    // only what the page itself knows: for how long nothing was heard
    this.clock = window.setInterval(() => this.draw(), TICK);
  }

  update(header: JobsHeader): void {
    this.header = header;
    this.heard = Date.now();
    this.frame.say();
    this.show();
  }

  select(place: Place | null): void {
    this.selection = place?.[0] ?? null;
    this.draw();
  }

  configure(state: State): void {
    this.state = state;
    this.draw();
  }

  stale(reason: string): void {
    this.frame.stale(reason);
  }

  destroy(): void {
    window.clearInterval(this.clock);
    this.asking.abort();
    this.frame.destroy();
  }

  // --- what a user does ------------------------------------------------------------------------

  private async ask<T>(command: string, job: string): Promise<T | null> {
    try {
      const { signal } = this.asking;
      return (await this.host.ask!<T>(command, { job }, { signal })).result;
    } catch (error) {
      if (!this.asking.signal.aborted) {
        this.frame.stage('failed', error as Error);
      }
      return null;
    }
  }

  /**
   * Ask until the kernel has heard it: in the first moments of a page JupyterLab may send a question to the loop that
   * is busy with the very cell that is to be stopped, and a later one to another.
   */
  private stop(job: string): void {
    this.frame.stage('idle');
    const isOpen = () => this.header.jobs.some(each => each.id === job && !isOver(each) && !each.stopping);
    const again = window.setInterval(() => (isOpen() ? ask() : window.clearInterval(again)), AGAIN);
    const ask = () => void this.ask('cancel', job).then(() => window.clearInterval(again));
    this.asking.signal.addEventListener('abort', () => window.clearInterval(again));
    ask();
  }

  private toggleLog(job: string): void {
    const others = this.state.logs.filter(each => each !== job);
    const logs = others.length < this.state.logs.length ? others : [...others, job];
    this.state = { ...this.state, logs };
    this.host.set({ logs });
    this.draw();
  }

  /** The cell that has a job's result: the kernel knows what it is called there. */
  private async offerResult(job: string): Promise<void> {
    this.choose(job);
    if (this.host.ask) {
      const found = await this.ask<{ code: string }>('code', job);
      if (!found) {
        return;
      }
      this.codes.set(job, found.code);
    }
    this.frame.offerCode();
  }

  private choose(job: string): void {
    if (job !== this.selection) {
      this.selection = job;
      this.host.select([job]);
      this.draw();
    }
  }

  private onKey(event: KeyboardEvent): void {
    const rows = [...this.list.children] as HTMLElement[];
    const at = rows.findIndex(row => row.contains(event.target as Node));
    const job = this.header.jobs[at];
    if (!job || event.target !== rows[at] || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined) {
      rows[clamp(to, 0, rows.length - 1)]!.focus();
    } else if (event.key === 'x' && !isOver(job)) {
      this.stop(job.id);
    } else if (event.key === 'l' && job.lines) {
      this.toggleLog(job.id);
    } else if (event.key === 'Enter' && hasResult(job)) {
      void this.offerResult(job.id);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  // --- drawing ---------------------------------------------------------------------------------

  private show(): void {
    const { jobs, older, single, provenance } = this.header;
    this.frame.node.toggleAttribute('data-single', single);
    const running = jobs.filter(job => !isOver(job)).length;
    this.frame.describe(running ? `${running} under way` : '', provenance);
    this.none.hidden = jobs.length > 0;
    this.older.hidden = older === 0;
    this.older.textContent = `${older} older ${older === 1 ? 'job is' : 'jobs are'} not shown.`;
    this.draw();
    this.sayEnds();
    this.frame.refresh();
  }

  private draw(): void {
    const isLive = this.host.ask !== undefined;
    keyed(
      this.list,
      this.header.jobs,
      job => job.id,
      job =>
        makeRow(job, {
          stop: id => this.stop(id),
          log: id => this.toggleLog(id),
          result: id => void this.offerResult(id),
          choose: id => this.choose(id)
        }),
      (node, job) =>
        updateRow(node, job, {
          isLive,
          isChosen: job.id === this.selection,
          log: this.state.logs.includes(job.id) ? this.logOf(job) : null,
          silence: (Date.now() - this.heard) / 1000
        })
    );
    const rows = [...this.list.children] as HTMLElement[];
    const chosen = rows.find(row => row.dataset.job === this.selection) ?? rows[0];
    for (const row of rows) {
      row.tabIndex = row === chosen ? 0 : -1;
    }
  }

  /** The log as far as it is here; what is missing is asked for. */
  private logOf(job: JobRow): string[] {
    const of = `${job.lines}|${job.tail.join('\n')}`;
    const known = this.logs.get(job.id);
    if (this.host.ask && known?.of !== of) {
      const lines = known?.lines ?? job.tail;
      this.logs.set(job.id, { of, lines });
      void this.ask<{ lines: string[] }>('log', job.id).then(said => {
        if (said) {
          this.logs.set(job.id, { of: this.logs.get(job.id)?.of ?? of, lines: said.lines });
          this.draw();
        }
      });
      return lines;
    }
    return known?.lines ?? job.tail;
  }

  /** Tell those who do not see it when a job has ended. */
  private sayEnds(): void {
    const now = new Map(this.header.jobs.map(job => [job.id, job.state]));
    for (const job of this.header.jobs) {
      const before = this.before.get(job.id);
      if (isOver(job) && before && before !== job.state) {
        this.frame.announce(`${job.title}: ${standing(job, english)}`);
      }
    }
    this.before = now;
  }

  // --- for the frame ---------------------------------------------------------------------------

  code(): string {
    const id = this.selection ?? (this.header.single ? this.header.jobs[0]?.id : undefined);
    const job = this.header.jobs.find(each => each.id === id);
    if (!job) {
      return this.header.code;
    }
    const found = `from nbsight.core.jobs import find\n\nresult = find('${job.id}').result\nresult`;
    return job.code || this.codes.get(job.id) || found;
  }

  rows(): Value[][] {
    const known = (value: number | null) => (value === null ? null : Number(value.toFixed(3)));
    return [
      ['job', 'what', 'model', 'state', 'done', 'total', 'rate', 'left', 'seconds', 'note', 'error'],
      ...this.header.jobs.map(job => [
        job.id,
        job.title,
        job.model,
        job.state,
        job.done,
        job.total,
        known(job.rate),
        known(job.left),
        known(job.seconds),
        job.note,
        job.error
      ])
    ];
  }

  table(): HTMLElement {
    const seconds = (value: Value) => (typeof value === 'number' ? duration(value) : value);
    return dataTable('Jobs, newest first.', this.rows(), (value, i) =>
      i === 6 && typeof value === 'number' ? number(value) : i === 7 || i === 8 ? seconds(value) : value
    );
  }

  picture(): string {
    return jobsSvg(this.header.jobs);
  }

  recolour(): void {
    // all colours are the style sheet's
  }

  fit(): void {
    // lines break by themselves
  }
}
