import { fill } from '../../shared/code';
import { decode, floats } from '../../shared/payload';
import type { Direction, PatchingHeader, Place, Run, State, SweepPart } from './types';

interface Known {
  values: ArrayLike<number>;
  base: number | null;
  donor: number | null;
  complete: boolean;
  notes: string[];
}

export const METRICS: Record<string, string> = {
  logit_difference: 'logit difference',
  probability: 'probability',
  kl: 'KL from clean',
  custom: 'your metric'
};

/** The site z with a head in each column. */
export const BY_HEAD = 'z_by_head';

type Shown = Pick<State, 'site' | 'direction' | 'metric' | 'position'>;

/** The name of one sweep (nbsight/widgets/patching_places.py has the same). */
export function keyOf({ site, direction, metric, position }: Shown): string {
  const where = site === BY_HEAD ? `${site}@${position ?? 'all'}` : site;
  return `${where}|${direction}|${metric}`;
}

export function isByHead(state: Pick<State, 'site'>): boolean {
  return state.site === BY_HEAD;
}

/** Which run is patched and which gives. */
export function ends(direction: Direction): { base: Run; donor: Run } {
  return direction === 'denoise'
    ? { base: 'corrupted', donor: 'clean' }
    : { base: 'clean', donor: 'corrupted' };
}

/** What is known of every place: no wire, no page. */
export class PatchingData {
  readonly nLayers: number;
  readonly nColumns: number;
  readonly aligned: boolean;
  /** tells one pair of prompts from another */
  readonly prompts: string;
  private readonly tables = new Map<string, Known>();

  constructor(
    readonly header: PatchingHeader,
    buffer: DataView
  ) {
    const arrays = decode(header, buffer);
    this.prompts = JSON.stringify([header.clean, header.corrupted]);
    this.nLayers = header.layers.length;
    const lengths = [header.clean.tokens.length, header.corrupted.tokens.length] as const;
    this.nColumns = Math.max(...lengths);
    this.aligned = lengths[0] === lengths[1];
    for (const { key, array, ...known } of header.tables) {
      this.tables.set(key, { ...known, values: arrays[array]!.values });
    }
  }

  /** Keep what a running sweep has told. */
  learn(part: SweepPart, bytes: DataView): void {
    const { base, donor } = part;
    this.tables.set(part.key, {
      values: floats(bytes),
      base,
      donor,
      complete: part.done === part.runs,
      notes: []
    });
  }

  known(state: State): Known | undefined {
    return this.tables.get(keyOf(state));
  }

  /** The metric of the run that is patched and of the donor. */
  ends(state: State): [base: number | null, donor: number | null] {
    const [clean = null, corrupted = null] = this.header.ends[state.metric] ?? [];
    return state.direction === 'denoise' ? [corrupted, clean] : [clean, corrupted];
  }

  value(state: State, [layer, position]: Place): number {
    const width = isByHead(state) ? this.header.heads : this.header.clean.tokens.length;
    return this.known(state)?.values[layer * width + position] ?? NaN;
  }

  /** How much of the way to the donor's prediction a patch there goes; NaN where it is not known. */
  share(state: State, place: Place): number {
    const [base, donor] = this.ends(state);
    if (base === null || donor === null || Math.abs(donor - base) < 1e-12) {
      return NaN;
    }
    return (this.value(state, place) - base) / (donor - base);
  }

  /** Where the colours end. */
  limit(state: State): number {
    let most = 0.1;
    for (let layer = 0; layer < this.nLayers; layer++) {
      for (let position = 0; position < this.columns(state); position++) {
        const share = Math.abs(this.share(state, [layer, position]));
        most = share > most ? share : most;
      }
    }
    return most;
  }

  /** How many columns the map has: positions, or heads. */
  columns(state: State): number {
    return isByHead(state) ? this.header.heads : this.nColumns;
  }

  runs(state: State): number {
    return this.nLayers * this.columns(state);
  }

  token(run: Run, position: number): string | null {
    return this.header[run].tokens[position] ?? null;
  }

  differs(position: number): boolean {
    return this.token('clean', position) !== this.token('corrupted', position);
  }

  /** Whether the prompts are the same up to here, so that a patch can change nothing. */
  isBefore(position: number): boolean {
    for (let each = 0; each <= position; each++) {
      if (this.differs(each)) {
        return false;
      }
    }
    return true;
  }

  code(state: State): string {
    const metric = this.header.code_metric[state.metric] ?? 'None';
    const where = state.position === null ? 'slice(None)' : state.position;
    const places = isByHead(state) ? `heads=True,\n    positions=[${where}]` : 'heads=False';
    const site = isByHead(state) ? 'z' : state.site;
    const values = { site, places, direction: state.direction, metric };
    return `${this.header.code}\n${fill(this.header.code_at, values)}`;
  }
}
