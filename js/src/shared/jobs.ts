import { duration, type Words } from './words';

/** `lost`: the kernel that had it is gone. */
export type JobState = 'queued' | 'running' | 'done' | 'stopped' | 'failed' | 'lost';

/** A job as Python tells it (nbsight/core/job_rows.py). */
export interface JobRow {
  id: string;
  title: string;
  kind: string;
  model: string;
  state: JobState;
  done: number;
  total: number | null;
  /** where it stands in a queue, 1 for the next */
  place: number | null;
  /** steps a second */
  rate: number | null;
  /** seconds */
  left: number | null;
  note: string;
  error: string;
  began: number;
  seconds: number;
  detached: boolean;
  /** it was told to stop, and has not yet */
  stopping: boolean;
  lines: number;
  /** the last lines of its log */
  tail: string[];
  /** a cell that fetches what came of it; empty where that is at hand */
  code: string;
  /** what came of it, by its class; empty where nobody has it */
  result: string;
}

export function isOver(job: JobRow): boolean {
  return job.state !== 'queued' && job.state !== 'running';
}

/** How much is done, between 0 and 1; null where nobody knows. */
export function share(job: JobRow): number | null {
  if (job.total) {
    return Math.min(1, Math.max(0, job.done / job.total));
  }
  return job.state === 'done' ? 1 : job.state === 'running' ? null : 0;
}

/** `24 of 72`, or nothing where nothing is counted. */
export function counted(job: JobRow, words: Words): string {
  if (job.total !== null) {
    return words.__('%1 of %2', job.done, job.total);
  }
  return job.done ? String(job.done) : '';
}

/** Steps a second, or a minute where they are slow. */
export function rate(job: JobRow, words: Words): string {
  if (!job.rate) {
    return '';
  }
  const short = (value: number) => String(Number(value.toPrecision(value >= 100 ? 3 : 2)));
  return job.rate >= 1 ? words.__('%1/s', short(job.rate)) : words.__('%1/min', short(60 * job.rate));
}

/** How a job stands, on one line: `24 of 72 · 3 s left` (nbsight/widgets/jobs_text.py says the same). */
export function standing(job: JobRow, words: Words, withRate = false): string {
  const count = counted(job, words);
  switch (job.state) {
    case 'failed':
      return words.__('failed · %1', job.error);
    case 'lost':
      return job.kind === 'remote'
        ? words.__('goes on without its kernel')
        : joined(words.__('ended with its kernel'), count);
    case 'done':
      return joined(words.__('done'), count, duration(job.seconds));
    case 'stopped':
      return joined(words.__('stopped'), count, duration(job.seconds));
    case 'queued':
      return joined(
        job.note || words.__('queued'),
        job.place == null ? '' : words.__('place %1', job.place),
        job.left == null ? '' : words.__('about %1', duration(job.left))
      );
  }
  const left =
    job.left == null || job.stopping || job.note === 'stopping' || (job.total !== null && job.seconds <= 1)
      ? ''
      : words.__('%1 left', duration(job.left));
  return joined(count, job.note, withRate ? rate(job, words) : '', left) || words.__('running');
}

function joined(...parts: string[]): string {
  return parts.filter(Boolean).join(' · ');
}
