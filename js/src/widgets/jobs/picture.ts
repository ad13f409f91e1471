import { type JobRow, share, standing } from '../../shared/jobs';
import { label, sheet, shorten, tag } from '../../shared/svg';
import { english } from '../../shared/words';

const WIDTH = 640;
const ROW = 42;
const COLOURS: Record<string, string> = { failed: '#b3261e', stopped: '#8b95a1', queued: '#8b95a1' };

/** Jobs as bars, on white. */
export function jobsSvg(jobs: readonly JobRow[]): string {
  if (!jobs.length) {
    return sheet(WIDTH, ROW, label('There are no jobs.', 12, 26, { fill: '#1d2733' }), '#ffffff');
  }
  const rows = jobs.map((job, row) => {
    const top = row * ROW + 10;
    const width = WIDTH - 24;
    const model = job.model ? ` · ${job.model}` : '';
    return [
      label(shorten(`${job.title}${model}`, 44), 12, top + 12, { fill: '#1d2733', 'font-weight': 600 }),
      label(shorten(standing(job, english, true).split('\n')[0]!, 60), WIDTH - 12, top + 12, {
        fill: '#5b6775',
        'text-anchor': 'end'
      }),
      tag('rect', { x: 12, y: top + 19, width, height: 5, rx: 2.5, fill: '#e4e9ed' }),
      tag('rect', {
        x: 12,
        y: top + 19,
        width: width * (share(job) ?? 1),
        height: 5,
        rx: 2.5,
        fill: COLOURS[job.state] ?? '#328fa8'
      })
    ].join('');
  });
  return sheet(WIDTH, jobs.length * ROW + 14, rows.join(''), '#ffffff');
}
