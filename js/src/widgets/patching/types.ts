import type { Tops } from '../../shared/bars';
import type { Header } from '../../shared/payload';

export type Direction = 'denoise' | 'noise';
export type Run = 'clean' | 'corrupted';

/** A layer and a position, both counted from 0. */
export type Place = [layer: number, position: number];

/** One place of the patched run and where in the donor's run its content comes from. */
export interface Patch {
  layer: number;
  site: string;
  /** null: all positions */
  source: number | null;
  target: number | null;
  /** at z, which head; all where it is missing */
  head?: number;
}

/** Another run to compare with: what is patched there, and which way. */
export interface Frozen {
  patches: Patch[];
  direction: Direction;
}

/** What one patched run gave. */
export interface Patched extends Tops {
  patches: Patch[];
  direction: Direction;
  metric: string;
  value: number | null;
  base: number | null;
  donor: number | null;
  /** of the way from the run that was patched to the donor's */
  share: number | null;
  badges: string[];
  code: string;
  /** the frozen run, measured in the same way */
  frozen?: Frozen & { value: number | null; share: number | null; badges: string[] };
}

export interface Table {
  key: string;
  array: string;
  complete: boolean;
  base: number | null;
  donor: number | null;
  notes: string[];
}

export interface PatchingHeader extends Header {
  view: 'patching';
  model: string;
  clean: { prompt: string; tokens: string[] };
  corrupted: { prompt: string; tokens: string[] };
  layers: number[];
  heads: number;
  /** the clean prompts of all pairs, and which is on show */
  pairs: string[];
  pair: number;
  sites: string[];
  metrics: string[];
  /** metrics as their results call them */
  names: Record<string, string>;
  /** of each metric the clean and the corrupted run's number */
  ends: Record<string, [number | null, number | null]>;
  /** how long one plain run took */
  seconds: number;
  tops: Tops | null;
  tables: Table[];
  code: string;
  code_at: string;
  code_metric: Record<string, string>;
  provenance: Record<string, unknown>;
  /** in copies: the run that was on show */
  shown?: Patched | null;
}

export interface State {
  site: string;
  direction: Direction;
  metric: string;
  /** by head: at which position; null for all at once */
  position: number | null;
  patches: Patch[];
  frozen: Frozen | null;
  cone: boolean;
  pair: number;
}

/** What a sweep tells while it runs and when it ends. */
export interface SweepPart {
  key: string;
  done: number;
  runs: number;
  base: number | null;
  donor: number | null;
}
