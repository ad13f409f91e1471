import { clamp } from './dom';

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

/** The other arm of a signed scale, for values below 0 (display/heatmaps.py has the light one). */
export const NEGATIVE_LIGHT = [
  '#f5f8fa',
  '#fbe7d3',
  '#f6cfa6',
  '#edaf70',
  '#dd8b3f',
  '#c06a1f',
  '#995012',
  '#70390c',
  '#472407'
] as const;

export const NEGATIVE_DARK = [
  '#18232d',
  '#3d2a1c',
  '#5c381a',
  '#834a18',
  '#ad6220',
  '#cf823d',
  '#e3a76d',
  '#f0cca6',
  '#fbefe0'
] as const;

/** Okabe and Ito's colours, which colour-blind readers tell apart (display/lines.py). */
export const SERIES_LIGHT = [
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#b0518c',
  '#b97f00',
  '#3d8fc4',
  '#000000'
] as const;
export const SERIES_DARK = [
  '#56b4e9',
  '#f0803c',
  '#2fc59b',
  '#e39cc4',
  '#e69f00',
  '#9ad3f5',
  '#ffffff'
] as const;
/** Each with its own dashes, for print and for those who see no colours. */
export const DASHES = ['', '6 3', '7 2 1.5 2', '1.5 2.5', '10 3', '4 2 1 2 1 2', '2 2'] as const;

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

const tables = new Map<string, Swatch[]>();

function tableOf(name: string, stops: readonly string[]): Swatch[] {
  let table = tables.get(name);
  if (!table) {
    table = Array.from({ length: 256 }, (_, i) => {
      const rgb = between(stops, i / 255);
      // where black and white have the same contrast
      return { fill: `rgb(${rgb.join(', ')})`, ink: luminance(rgb) > 0.1791 ? '#000' : '#fff' };
    });
    tables.set(name, table);
  }
  return table;
}

function step(value: number): number {
  return Number.isFinite(value) ? Math.round(clamp(value, 0, 1) * 255) : 0;
}

/** Colour of a value in [0, 1] and the ink that can be read on it (contrast at least 4.5). */
export function swatch(value: number, dark: boolean): Swatch {
  return tableOf(dark ? 'dark' : 'light', dark ? DARK : LIGHT)[step(value)]!;
}

/** Colour of a value in [-1, 1]: one hue above 0, another below, none at 0. */
export function signed(value: number, dark: boolean): Swatch {
  return value < 0
    ? tableOf(dark ? 'negative dark' : 'negative', dark ? NEGATIVE_DARK : NEGATIVE_LIGHT)[step(-value)]!
    : swatch(value, dark);
}

/** The ramp as a CSS gradient, for legends. */
export function gradient(dark: boolean, isSigned = false): string {
  const above: readonly string[] = dark ? DARK : LIGHT;
  const below = isSigned ? [...(dark ? NEGATIVE_DARK : NEGATIVE_LIGHT)].reverse().slice(0, -1) : [];
  return `linear-gradient(to right, ${[...below, ...above].join(', ')})`;
}

export function series(index: number, dark: boolean): { colour: string; dashes: string } {
  const colours = dark ? SERIES_DARK : SERIES_LIGHT;
  return { colour: colours[index % colours.length]!, dashes: DASHES[index % DASHES.length]! };
}

/** Ink and paper for pictures that leave the page. */
export interface Inks {
  page: string;
  ink: string;
  muted: string;
  line: string;
  ring: string;
}

export function inks(dark: boolean): Inks {
  return dark
    ? { page: '#111418', ink: '#e6eaee', muted: '#a3adb8', line: '#333d47', ring: '#ff9d4d' }
    : { page: '#ffffff', ink: '#1d2733', muted: '#5b6775', line: '#d5dce3', ring: '#c2410c' };
}
