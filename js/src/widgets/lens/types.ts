import type { Header } from '../../shared/payload';

/** A layer and a position, both counted from 0. */
export type Place = [layer: number, position: number];

export interface LensHeader extends Header {
  view: 'lens';
  model: string;
  prompt: string;
  tokens: string[];
  layers: (string | number)[];
  /** every predicted token once; the array `words` points into it */
  vocabulary: string[];
  provenance: Record<string, unknown>;
  /** a cell that makes the same lens again */
  code: string;
  /** whether Python can answer for more than what was kept */
  live: boolean;
}

/** Exactly the synced traits of nbsight.widgets.lens.LensWidget. */
export interface Traits {
  header: LensHeader;
  data: DataView;
  selection: Place | null;
}

/** The likeliest next tokens of one cell. */
export interface Ranking {
  tokens: string[];
  ids: ArrayLike<number>;
  probs: ArrayLike<number>;
}

/** What the view needs of the world around it. */
export interface Host {
  /** the user chose a cell, or none */
  select(place: Place | null): void;
  /** ask the model for a longer ranking; absent where no kernel is attached */
  detail?(place: Place, topK: number, signal: AbortSignal): Promise<Ranking>;
}
