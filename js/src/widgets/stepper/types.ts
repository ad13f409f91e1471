import type { Tops } from '../../shared/bars';
import type { Header } from '../../shared/payload';

/** A block and a position, both counted from 0. */
export type Place = [block: number, position: number];

export interface StepperHeader extends Header {
  view: 'stepper';
  model: string;
  tokens: string[];
  blocks: string[];
  /** where the run stands: before its first step block -1, after its end the number of blocks */
  at: { path: string; block: number; text: string; progress: string };
  ended: boolean;
  /** of each block and position what the run would say if it stopped there; "" where it was not seen */
  words: string[][];
  /** what was done, in words */
  actions: string[];
  tops: Tops;
  code: string;
  provenance: Record<string, unknown>;
}

export interface State {
  /** which positions the next change is for */
  positions: number[];
  factor: number;
}
