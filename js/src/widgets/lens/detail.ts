import { percent } from '../../shared/bars';
import { h } from '../../shared/dom';
import { failure } from '../../shared/frame';
import { probability, visible } from '../../shared/tokens';
import type { LensData } from './data';
import type { AskCell, Pin, Place, Ranking } from './types';

const TOP_K = 10;
const SIDES = ['The token of the contrast that is looked at', 'The one that is taken off'];
const PATIENCE = 1000; // milliseconds before saying that the kernel is busy

/** The ranking of the chosen cell: what was kept at once, then what the model answers. */
export class Detail {
  readonly node = h('aside', {
    class: 'nbsight-beside nbsight-lens-detail',
    'aria-label': 'Likeliest next tokens'
  });
  private asking = new AbortController();

  constructor(
    private data: LensData,
    private askCell: AskCell | undefined,
    private readonly announce: (text: string) => void,
    private readonly pin: (pin: Pin) => void,
    private readonly oppose: (side: 0 | 1, pin: Pin) => void,
    private readonly inspect?: (layer: number, position: number) => void
  ) {
    this.show(null);
  }

  replace(data: LensData, askCell: AskCell | undefined): void {
    this.data = data;
    this.askCell = askCell;
    this.show(null);
  }

  /** Take more of the same lens; what is shown stays. */
  keep(data: LensData): void {
    this.data = data;
  }

  /** Show a cell; a question still open for another one is taken back. */
  show(place: Place | null): void {
    this.asking.abort();
    this.node.dataset.state = 'idle';
    if (!place) {
      const hint = 'Click a cell, or move with the arrow keys and press Enter.';
      this.node.replaceChildren(h('h3', {}, 'Likeliest next tokens'), h('p', {}, hint));
      return;
    }
    const kept = this.data.kept(place);
    if (!this.askCell) {
      this.draw(place, kept, `The ${kept.tokens.length} kept with the result.`);
      return;
    }
    void this.ask(place, kept, this.askCell);
  }

  stop(): void {
    this.asking.abort();
  }

  private async ask(place: Place, kept: Ranking, askCell: AskCell): Promise<void> {
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.node.dataset.state = 'asking';
    this.draw(place, kept, `Asking the model for ${TOP_K}…`);
    const timer = setTimeout(() => {
      this.draw(place, kept, 'The kernel is busy or gone; the rest comes when it answers.');
    }, PATIENCE);
    try {
      const ranking = await askCell(place, TOP_K, signal);
      if (signal.aborted) {
        return;
      }
      this.node.dataset.state = 'answered';
      this.draw(place, ranking, `Top ${ranking.tokens.length}, computed by the model just now.`);
      const best = `${visible(ranking.tokens[0]!)} ${probability(ranking.probs[0]!)}`;
      this.announce(
        `Layer ${place[0]}, position ${place[1]}: ${ranking.tokens.length} tokens, first ${best}`
      );
    } catch (error) {
      if (!signal.aborted) {
        this.node.dataset.state = 'failed';
        this.draw(place, kept, `The ${kept.tokens.length} kept with the result.`, error as Error);
        this.announce(`The model could not answer: ${(error as Error).message}`);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  private draw(place: Place, ranking: Ranking, note: string, error?: Error): void {
    const [layer, position] = place;
    const label = this.data.header.layers[layer];
    this.node.replaceChildren(
      h('h3', {}, `Layer ${label} · position ${position}`),
      h('p', {}, 'after ', h('code', {}, visible(this.data.header.tokens[position]!)), ', likeliest next'),
      h('ol', { class: 'nbsight-bars' }, ...ranking.tokens.map((_, rank) => this.bar(ranking, rank)))
    );
    if (this.inspect) {
      const open = h('button', { type: 'button', class: 'nbsight-lens-inspect' }, 'Open the activation');
      open.addEventListener('click', () => this.inspect!(layer, position));
      this.node.append(open);
    }
    if (error) {
      this.node.append(failure(error, () => this.show(place)));
    }
    this.node.append(h('p', { class: 'nbsight-lens-note' }, note));
  }

  private bar(ranking: Ranking, rank: number): HTMLElement {
    const [token, id] = [ranking.tokens[rank]!, ranking.ids[rank]!];
    const prob = ranking.probs[rank]!;
    const width = `width: ${percent(prob)}`;
    const title = `${visible(token)} (id ${id}), probability ${prob}`;
    const name = h(
      'button',
      { type: 'button', title: `${title}. Follow it through the layers` },
      visible(token)
    );
    name.addEventListener('click', () => this.pin({ id, token }));
    const side = (at: 0 | 1) => {
      const node = h(
        'button',
        { type: 'button', class: 'nbsight-lens-side', title: `${SIDES[at]}: ${visible(token)}` },
        'ab'[at]!
      );
      node.addEventListener('click', () => this.oppose(at, { id, token }));
      return node;
    };
    return h(
      'li',
      { title },
      name,
      h('span', { class: 'nbsight-bar nbsight-lens-bar', 'aria-hidden': 'true' }, h('i', { style: width })),
      side(0),
      side(1),
      h('span', {}, probability(prob))
    );
  }
}
