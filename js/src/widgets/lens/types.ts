import type { Header } from '../../shared/payload';

/** A layer and a position, both counted from 0. */
export type Place = [layer: number, position: number];

/**
 * What the colour says. Probability and rank are of the token that was pinned last, differences of the two
 * tokens of the contrast.
 */
export type Statistic =
  | 'top'
  | 'entropy'
  | 'kl'
  | 'probability'
  | 'rank'
  | 'logit_difference'
  | 'probability_difference';

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
  /** which of several lenses this is, and all that there are */
  lens: string;
  lenses: string[];
  /** what is read: the stream, or what a part adds to it; and what else can be */
  component: string;
  components: string[];
  /** whether another prompt can be read */
  editable: boolean;
  /** whether longer rankings can be asked for */
  asks: boolean;
  provenance: Record<string, unknown>;
  /** the largest distance of the last row from the model's own output; null where it was not looked at */
  check: number | null;
  /** a cell that makes the same lens again; `$track` and the like stand for what the view asks for beside */
  code: string;
}

export interface State {
  statistic: Statistic;
  pins: Pin[];
  /** the token that is looked at and the one that is taken off; null where it is not chosen yet */
  contrast: (Pin | null)[];
  component: string;
  lens: string;
  /** every how many layers a row is shown */
  stride: number;
}

/** The likeliest next tokens of one cell. */
export interface Ranking {
  tokens: string[];
  ids: ArrayLike<number>;
  probs: ArrayLike<number>;
}

/** Ask the model for a longer ranking. */
export type AskCell = (place: Place, topK: number, signal: AbortSignal) => Promise<Ranking>;
