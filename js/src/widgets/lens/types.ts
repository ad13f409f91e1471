import type { Header } from '../../shared/payload';

/** A layer and a position, both counted from 0. */
export type Place = [layer: number, position: number];

/** What the colour says. The last two are of the token that was pinned last. */
export type Statistic = 'top' | 'entropy' | 'kl' | 'probability' | 'rank';

/** A token that is followed through the layers. */
export interface Pin {
  id: number;
  token: string;
}

export interface LensHeader extends Header {
  view: 'lens';
  model: string;
  prompt: string;
  tokens: string[];
  layers: (string | number)[];
  /** every predicted token once; the array `words` points into it */
  vocabulary: string[];
  /** tokens whose course is among the arrays */
  followed: Pin[];
  provenance: Record<string, unknown>;
  /** the largest distance of the last row from the model's own output; null where it was not looked at */
  check: number | null;
  /** a cell that makes the same lens again; `$more` stands for what the view asks for beside */
  code: string;
}

export interface State {
  statistic: Statistic;
  pins: Pin[];
}

/** The likeliest next tokens of one cell. */
export interface Ranking {
  tokens: string[];
  ids: ArrayLike<number>;
  probs: ArrayLike<number>;
}

/** Ask the model for a longer ranking. */
export type AskCell = (place: Place, topK: number, signal: AbortSignal) => Promise<Ranking>;
