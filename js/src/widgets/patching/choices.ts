import { Choice, Switch, Toggle } from '../../shared/controls';
import { SITES } from '../../shared/sites';
import { shorten } from '../../shared/svg';
import { visible } from '../../shared/tokens';
import { ends, isByHead, METRICS } from './data';
import type { Direction, PatchingHeader, State } from './types';

const DIRECTIONS: [Direction, string, string][] = [
  [
    'denoise',
    'denoise',
    'Run the corrupted prompt, patch from the clean one: what is enough to bring the answer back'
  ],
  ['noise', 'noise', 'Run the clean prompt, patch from the corrupted one: what the answer needs']
];

/** The switches over the map: which pair, site and position, which way, and what is measured. */
export class Choices {
  private readonly pair: Choice<string>;
  private readonly site: Choice<string>;
  private readonly position: Choice<string>;
  private readonly direction: Switch<Direction>;
  private readonly metric: Choice<string>;
  private readonly cone: Toggle;

  constructor(
    private readonly isLive: boolean,
    set: (change: Partial<State>) => void,
    choosePair: (pair: number) => void
  ) {
    this.pair = new Choice('Pair', [], pair => choosePair(Number(pair)));
    this.site = new Choice('Site', [], site => set({ site }));
    this.position = new Choice('At', [], at => set({ position: at === '' ? null : Number(at) }));
    this.direction = new Switch<Direction>('Direction', DIRECTIONS, direction =>
      set({ direction, patches: [] })
    );
    this.metric = new Choice('Metric', [], metric => set({ metric }));
    this.cone = new Toggle('Cone', 'Outline what a patch can reach', cone => set({ cone }));
  }

  get nodes(): HTMLElement[] {
    const { pair, site, position, direction, metric, cone } = this;
    return [pair, site, position, direction, metric, cone].map(control => control.node);
  }

  show(header: PatchingHeader, state: State): void {
    this.site.offer(header.sites.map(site => [site, `${site} · ${SITES[site] ?? ''}`]));
    this.metric.offer(header.metrics.map(metric => [metric, METRICS[metric] ?? metric]));
    this.site.show(state.site);
    this.metric.show(state.metric);
    this.direction.show(state.direction);
    this.cone.show(state.cone);
    const { tokens } = header[ends(state.direction).base];
    this.position.node.hidden = !isByHead(state);
    this.position.offer([
      ['', 'all positions'],
      ...tokens.map((token, i) => [String(i), `${i} ${visible(token)}`] as const)
    ]);
    this.position.show(state.position == null ? '' : String(state.position));
    const pairs = header.pairs ?? [];
    this.pair.node.hidden = pairs.length < 2 || !this.isLive;
    this.pair.offer(
      pairs.map((text, i) => [String(i), `${i + 1} of ${pairs.length} · ${shorten(text, 34)}`])
    );
    this.pair.show(String(header.pair ?? 0));
  }
}
