import type { Words } from '../../shared/words';
import type { ModelCard } from './protocol';

export { standing } from '../../shared/jobs';
export { duration, english, type Words } from '../../shared/words';

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
