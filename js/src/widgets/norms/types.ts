import type { Header } from '../../shared/payload';

/** A layer and a position, both counted from 0. */
export type Place = [layer: number, position: number];

/** The size of a part; a write beside the stream it goes into; how much a block turns the stream. */
export type What = 'norm' | 'ratio' | 'cosine';

export interface NormsHeader extends Header {
  view: 'norms';
  model: string;
  prompt: string;
  tokens: string[];
  layers: number[];
  components: string[];
  /** of each write the stream that it is added to */
  ratios: Record<string, string>;
  /** the channels with the largest values, largest first */
  channels: number[];
  notes: string[];
  provenance: Record<string, unknown>;
  code: string;
  code_at: Record<What, string>;
}

export interface State {
  what: What;
  component: string;
  log: boolean;
  first: boolean;
  robust: boolean;
}
