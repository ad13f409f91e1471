import { decode } from '../../shared/payload';
import type { Place, StepperHeader } from './types';

/** The positions with one more, or without it; in order. */
export function toggled(positions: readonly number[], position: number): number[] {
  const others = positions.filter(each => each !== position);
  return others.length < positions.length ? others : [...others, position].sort((a, b) => a - b);
}

/** What was seen of a run so far: no wire, no buffers. */
export class StepperData {
  readonly nBlocks: number;
  readonly nPositions: number;
  private readonly norms: ArrayLike<number>;
  private readonly probs: ArrayLike<number>;

  constructor(
    readonly header: StepperHeader,
    buffer: DataView
  ) {
    const arrays = decode(header, buffer);
    this.nBlocks = header.blocks.length;
    this.nPositions = header.tokens.length;
    this.norms = arrays.norms!.values;
    this.probs = arrays.probs!.values;
  }

  /** The block at which the run stands, or in which it is. */
  get block(): number {
    return this.header.at.block;
  }

  /** How far the run has come, without the bar that a terminal shows. */
  get progress(): string {
    return this.header.at.progress.replace(/^\[[#.]*\]\s*/, '');
  }

  seen([block]: Place): boolean {
    return Number.isFinite(this.norms[block * this.nPositions]!);
  }

  norm([block, position]: Place): number {
    return this.norms[block * this.nPositions + position]!;
  }

  prob([block, position]: Place): number {
    return this.probs[block * this.nPositions + position]!;
  }

  word([block, position]: Place): string {
    return this.header.words[block]![position]!;
  }
}
