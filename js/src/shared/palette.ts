/**
 * The colours of every picture, the same as in nbsight/display/palette.py (a test compares them).
 * Small values recede into the page: pale to deep on a light one, deep to pale on a dark one.
 */
export const LIGHT = [
  '#f5f8fa',
  '#e0eef2',
  '#bfdfe6',
  '#92cad4',
  '#5dafbf',
  '#328fa8',
  '#1d6e90',
  '#174d74',
  '#122e52'
] as const;

export const DARK = [
  '#18232d',
  '#18364a',
  '#184d64',
  '#1c687f',
  '#2a8495',
  '#4fa1a7',
  '#82bfba',
  '#b9dcd0',
  '#eef8ea'
] as const;

export type Rgb = [number, number, number];

export interface Swatch {
  fill: string;
  ink: string;
}

export function parse(hex: string): Rgb {
  return [1, 3, 5].map(i => Number.parseInt(hex.slice(i, i + 2), 16)) as Rgb;
}

/** Relative luminance as WCAG 2 defines it. */
export function luminance(rgb: Rgb): number {
  const [r, g, b] = rgb.map(v =>
    v <= 10.31475 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4
  ) as Rgb;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function between(stops: readonly string[], value: number): Rgb {
  const place = value * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  const [a, b] = [parse(stops[low]!), parse(stops[low + 1]!)];
  return [0, 1, 2].map(i => Math.round(a[i]! + (b[i]! - a[i]!) * (place - low))) as Rgb;
}

const tables = new Map<boolean, Swatch[]>();

/** Colour of a value in [0, 1] and the ink that can be read on it (contrast at least 4.5). */
export function swatch(value: number, dark: boolean): Swatch {
  let table = tables.get(dark);
  if (!table) {
    table = Array.from({ length: 256 }, (_, i) => {
      const rgb = between(dark ? DARK : LIGHT, i / 255);
      // where black and white have the same contrast
      return { fill: `rgb(${rgb.join(', ')})`, ink: luminance(rgb) > 0.1791 ? '#000' : '#fff' };
    });
    tables.set(dark, table);
  }
  const step = Number.isFinite(value) ? Math.round(Math.min(1, Math.max(0, value)) * 255) : 0;
  return table[step]!;
}

/** The ramp as a CSS gradient, for legends. */
export function gradient(dark: boolean): string {
  return `linear-gradient(to right, ${(dark ? DARK : LIGHT).join(', ')})`;
}
