import { button } from '../../shared/controls';
import { h } from '../../shared/dom';
import { counted, isOver, type JobRow, share, standing } from '../../shared/jobs';
import { say } from '../../shared/keyed';
import { duration, english } from '../../shared/words';

export interface RowEvents {
  stop(job: string): void;
  log(job: string): void;
  result(job: string): void;
  choose(job: string): void;
}

/** What is around a job when it is drawn. */
export interface Around {
  isLive: boolean;
  isChosen: boolean;
  /** all of its log if it is open, else null */
  log: string[] | null;
  /** seconds since the kernel said anything */
  silence: number;
}

const QUIET = 15;

export function makeRow(job: JobRow, events: RowEvents): HTMLElement {
  const act = (text: string, title: string, name: string, then: (job: string) => void) => {
    const node = button(text, title, () => then(job.id));
    node.dataset.part = name;
    return node;
  };
  const node = h(
    'div',
    { class: 'nbsight-job', role: 'listitem', tabindex: -1, 'data-job': job.id },
    h(
      'div',
      { class: 'nbsight-job-head' },
      h('i', { class: 'nbsight-job-dot', 'aria-hidden': 'true' }),
      h('strong', {}, job.title),
      h('span', { class: 'nbsight-about' }, job.model),
      h('span', { class: 'nbsight-job-said', 'data-part': 'said' }),
      h(
        'span',
        { class: 'nbsight-job-acts' },
        act('Result', 'A cell with what came of it (Enter)', 'result', events.result),
        act('Log', 'What it has said (key l)', 'log', events.log),
        act('Stop', 'Stop it after the step that it is at (key x)', 'stop', events.stop)
      )
    ),
    h(
      'div',
      { class: 'nbsight-job-bar', role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 1 },
      h('i', {})
    ),
    h('div', { class: 'nbsight-job-error', 'data-part': 'error' }),
    h('pre', {
      class: 'nbsight-job-log',
      'data-part': 'lines',
      tabindex: 0,
      'aria-label': `Log of ${job.title}`
    })
  );
  node.addEventListener('click', () => events.choose(job.id));
  node.addEventListener('focus', () => events.choose(job.id));
  return node;
}

export function updateRow(node: HTMLElement, job: JobRow, around: Around): void {
  const part = (name: string) => node.querySelector<HTMLButtonElement>(`[data-part=${name}]`)!;
  node.dataset.state = job.state;
  node.toggleAttribute('data-chosen', around.isChosen);
  node.setAttribute('aria-label', `${job.title}: ${said(job, around)}`);
  say(part('said'), said(job, around));
  say(part('error'), job.state === 'failed' ? job.error : '');
  part('error').hidden = job.state !== 'failed' || !job.error;
  drawBar(node.querySelector('[role=progressbar]')!, job);
  part('stop').hidden = isOver(job) || !around.isLive;
  part('stop').disabled = job.stopping;
  part('log').hidden = job.lines === 0;
  part('log').setAttribute('aria-pressed', String(around.log !== null));
  part('result').hidden = !hasResult(job);
  drawLog(part('lines'), job, around);
}

/** Whether there is a cell that gives what came of a job. */
export function hasResult(job: JobRow): boolean {
  return (job.state === 'done' || job.state === 'stopped') && (job.code !== '' || job.result !== '');
}

function said(job: JobRow, { isLive, silence }: Around): string {
  if (job.state === 'failed') {
    return ['failed', counted(job, english), duration(job.seconds)].filter(Boolean).join(' · ');
  }
  if (!isLive && !isOver(job)) {
    return `${standing({ ...job, left: null }, english)}, when this was saved`;
  }
  const words = standing(job, english, true);
  const isQuiet = job.state === 'running' && silence > QUIET;
  return isQuiet ? `${words} · no news for ${duration(silence)}` : words;
}

function drawBar(bar: HTMLElement, job: JobRow): void {
  const part = share(job);
  bar.toggleAttribute('data-unknown', part === null);
  bar.setAttribute('aria-label', job.title);
  if (part === null) {
    bar.removeAttribute('aria-valuenow');
  } else {
    bar.setAttribute('aria-valuenow', part.toFixed(3));
  }
  (bar.firstElementChild as HTMLElement).style.width = `${100 * (part ?? 1)}%`;
}

/** While it runs the last lines stand there by themselves; all of them where the log is open. */
function drawLog(pre: HTMLElement, job: JobRow, { log, isLive }: Around): void {
  const tail = isLive && !isOver(job) ? job.tail : [];
  const lines = log ?? tail;
  const isAtEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
  pre.hidden = lines.length === 0;
  pre.toggleAttribute('data-open', log !== null);
  say(pre, lines.join('\n'));
  if (isAtEnd) {
    pre.scrollTop = pre.scrollHeight;
  }
}
