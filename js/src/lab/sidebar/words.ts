import type { JobRow, ModelCard } from './protocol';

/** The part of JupyterLab's translations that the views use; tests give their own. */
export interface Words {
  __(text: string, ...values: unknown[]): string;
  _n(one: string, many: string, count: number, ...values: unknown[]): string;
}

/** Text with its placeholders filled, in English. */
export const english: Words = {
  __: (text, ...values) => filled(text, values),
  _n: (one, many, count, ...values) => filled(count === 1 ? one : many, [count, ...values])
};

function filled(text: string, values: unknown[]): string {
  return text.replace(/%(\d)/g, (whole, digit) => String(values[Number(digit) - 1] ?? whole));
}

/** Bytes with a decimal unit, as Python says them: `0.2 MB`. */
export function bytes(count: number): string {
  if (count < 1000) {
    return `${Math.trunc(count)} B`;
  }
  let size = count;
  let unit = 'kB';
  for (unit of ['kB', 'MB', 'GB', 'TB']) {
    size /= 1000;
    if (size < (unit === 'kB' ? 100 : 1000)) {
      break;
    }
  }
  return `${size < 100 ? size.toFixed(1) : Math.round(size)} ${unit}`;
}

export function count(number: number): string {
  for (const [size, unit] of [
    [1e12, 'T'],
    [1e9, 'B'],
    [1e6, 'M'],
    [1e3, 'k']
  ] as const) {
    if (number >= size) {
      return `${(number / size).toFixed(1)} ${unit}`;
    }
  }
  return String(number);
}

export function duration(seconds: number): string {
  if (seconds < 9.95) {
    return `${seconds.toFixed(1)} s`;
  }
  if (seconds < 90) {
    return `${Math.round(seconds)} s`;
  }
  const minutes = Math.floor(seconds / 60);
  if (minutes < 90) {
    return `${minutes} min ${String(Math.round(seconds % 60)).padStart(2, '0')} s`;
  }
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** Facts on one line, which breaks between two of them and not within one. */
export function facts(...parts: (string | null | undefined)[]): string {
  return parts
    .filter(Boolean)
    .map(part => part!.replace(/ /g, '\u00a0'))
    .join(' · ');
}

/** `12 layers · 4 heads · width 64`, as far as the configuration says. */
export function sizes(card: ModelCard, words: Words): string {
  const { n_layers, n_heads, d_model } = card.sizes;
  const parts = [];
  if (n_layers !== undefined) {
    parts.push(words._n('%1 layer', '%1 layers', n_layers));
  }
  if (n_heads !== undefined) {
    parts.push(words._n('%1 head', '%1 heads', n_heads));
  }
  if (d_model !== undefined) {
    parts.push(words.__('width %1', d_model));
  }
  return facts(...parts);
}

/** How far a job is: `24 of 72 · 3 s left`. */
export function progress(job: JobRow, words: Words): string {
  if (job.total === null && !job.done && job.note && (job.state === 'queued' || job.state === 'running')) {
    return job.note;
  }
  const counted = job.total === null ? String(job.done) : words.__('%1 of %2', job.done, job.total);
  switch (job.state) {
    case 'queued':
      return words.__('queued');
    case 'done':
      if (job.total === null && !job.done) {
        return words.__('done · %1', duration(job.seconds));
      }
      return words.__('done · %1 · %2', counted, duration(job.seconds));
    case 'stopped':
      if (job.total === null && !job.done) {
        return words.__('stopped · %1', duration(job.seconds));
      }
      return words.__('stopped · %1 · %2', counted, duration(job.seconds));
    case 'failed':
      return words.__('failed · %1', job.error);
    case 'lost':
      if (job.kind === 'remote') {
        return words.__('goes on without its kernel');
      }
      return words.__('ended with its kernel · %1', counted);
  }
  if (job.note) {
    return `${counted} · ${job.note}`;
  }
  if (job.total && job.done > 0 && job.seconds > 1) {
    const left = (job.seconds / job.done) * (job.total - job.done);
    return words.__('%1 · %2 left', counted, duration(left));
  }
  return counted;
}
