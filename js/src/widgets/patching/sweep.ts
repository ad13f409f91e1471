import { type Ask, LastAsked } from '../../shared/ask';
import { h } from '../../shared/dom';
import { keyOf, type PatchingData } from './data';
import type { State, SweepPart } from './types';

/** The button that sweeps over every place: what it will cost, how far it is, stop and go on. */
export class Sweep {
  readonly node = h('span', { class: 'nbsight-group' });
  private readonly bar = h('progress', {
    class: 'nbsight-patching-progress',
    max: 1,
    value: 0,
    hidden: true
  });
  private readonly button = h('button', { type: 'button', class: 'nbsight-do' });
  private readonly said = h('span', { 'aria-live': 'polite' });
  private readonly asked: LastAsked | null;
  private readonly parts = new Map<string, SweepPart>();
  private running: string | null = null;
  private data!: PatchingData;
  private state!: State;

  constructor(
    ask: Ask | undefined,
    private readonly events: {
      part(part: SweepPart, bytes: DataView): void;
      failed(error: Error, retry: () => void): void;
    }
  ) {
    this.asked = ask
      ? new LastAsked(ask, (stage, error) => {
          if (stage === 'queued' && this.running) {
            this.said.textContent = 'queued: the kernel is busy or gone';
          }
          if (stage === 'failed' && error) {
            this.running = null;
            this.events.failed(error, () => void this.start());
            this.draw();
          }
        })
      : null;
    this.button.addEventListener('click', () => (this.running ? this.stop() : void this.start()));
    this.node.append(this.button, this.bar, this.said);
  }

  show(data: PatchingData, state: State): void {
    this.data = data;
    this.state = state;
    this.draw();
  }

  leave(): void {
    this.asked?.stop();
  }

  private async start(): Promise<void> {
    const { site, direction, metric, position = null } = this.state;
    this.running = keyOf(this.state);
    this.draw();
    const heard = ({ result, buffers }: { result: SweepPart; buffers: DataView[] }) => {
      this.parts.set(result.key, result);
      this.events.part(result, buffers[0]!);
      this.draw();
    };
    const reply = await this.asked!.put<SweepPart>('sweep', { site, direction, metric, position }, heard);
    if (reply) {
      heard(reply);
      this.running = null;
      this.draw();
    }
  }

  private stop(): void {
    this.running = null;
    this.asked?.stop();
    this.draw();
  }

  private draw(): void {
    const key = keyOf(this.state);
    const known = this.data.known(this.state);
    const part = this.parts.get(key);
    const runs = this.data.runs(this.state);
    const isRunning = this.running !== null;
    this.button.hidden = !isRunning && (known?.complete ?? false);
    this.button.disabled = !this.data.aligned;
    const left = runs - (part && !known?.complete ? part.done : 0);
    this.button.textContent = isRunning
      ? 'Stop'
      : left < runs
        ? `Go on · ${left} runs left`
        : `Sweep · ${runs} runs`;
    this.bar.hidden = !isRunning;
    const now = isRunning ? this.parts.get(this.running!) : undefined;
    this.bar.value = now ? now.done / now.runs : 0;
    const seconds = left * this.data.header.seconds * 0.7;
    this.said.textContent = isRunning
      ? now
        ? `${now.done} of ${now.runs}`
        : ''
      : this.button.hidden
        ? ''
        : `about ${seconds < 1 ? 'a second' : seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`}`;
  }
}
