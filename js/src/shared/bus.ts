import { uniqueId } from './dom';

/** The page-wide event by which views tell each other what is pointed at; needs no kernel. */
export const POINT = 'nbsight:point';

/** What the pointer or the keyboard is on. */
export interface Pointed {
  /** which view says it, so that it does not answer itself */
  source: string;
  model: string;
  tokens: readonly string[];
  layer?: number;
  position?: number;
  head?: number;
}

/** Where a view should put its mark for something that is pointed at elsewhere. */
export interface Linked {
  layer: number | null;
  positions: number[];
  head: number | null;
}

/**
 * One view's end of the bus. Layers and heads are linked between views of one model; a position between
 * views of one prompt; between prompts every token of the same text.
 */
export class Link {
  private readonly id = uniqueId('view');
  private readonly hear = (event: Event) => {
    const said = (event as CustomEvent<Pointed | null>).detail;
    if (said && said.source !== this.id) {
      this.onPoint(this.meet(said));
    }
  };

  constructor(
    private about: { model: string; tokens: readonly string[] },
    private readonly onPoint: (linked: Linked | null) => void
  ) {
    window.addEventListener(POINT, this.hear);
  }

  replace(about: { model: string; tokens: readonly string[] }): void {
    this.about = about;
  }

  /** Tell the page; nothing given means that the pointer has left. */
  say(place: { layer?: number; position?: number; head?: number }): void {
    const detail: Pointed = { source: this.id, ...this.about, ...place };
    window.dispatchEvent(new CustomEvent(POINT, { detail }));
  }

  close(): void {
    this.say({});
    window.removeEventListener(POINT, this.hear);
  }

  private meet(said: Pointed): Linked | null {
    const isSame = said.model === this.about.model;
    const layer = isSame ? (said.layer ?? null) : null;
    const head = isSame ? (said.head ?? null) : null;
    const positions = said.position === undefined ? [] : this.placesOf(said, said.position);
    return layer === null && head === null && !positions.length ? null : { layer, positions, head };
  }

  private placesOf(said: Pointed, position: number): number[] {
    const mine = this.about.tokens;
    if (mine.length === said.tokens.length && mine.every((token, i) => token === said.tokens[i])) {
      return [position];
    }
    const text = said.tokens[position];
    return mine.flatMap((token, i) => (token === text ? [i] : []));
  }
}
