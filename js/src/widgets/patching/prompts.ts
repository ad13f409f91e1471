import { type Ask, LastAsked } from '../../shared/ask';
import { h } from '../../shared/dom';
import type { PatchingHeader, Run } from './types';

const REST = 600; // milliseconds without a key before the prompts are run

/** Both prompts to be edited: they are run when the typing rests, and the old picture pales meanwhile. */
export class Prompts {
  readonly button = h('button', { type: 'button', 'aria-expanded': 'false' }, 'Edit prompts');
  readonly node = h('div', { class: 'nbsight-patching-prompts', hidden: true });
  private readonly inputs: Record<Run, HTMLInputElement>;
  private readonly asked: LastAsked | null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    ask: Ask | undefined,
    private readonly events: {
      ghost(on: boolean): void;
      failed(error: Error | null, retry?: () => void): void;
    }
  ) {
    this.asked = ask
      ? new LastAsked(ask, (stage, error) => {
          this.events.ghost(stage === 'asking' || stage === 'queued');
          this.events.failed(stage === 'failed' ? (error ?? null) : null, () => void this.run());
        })
      : null;
    const input = (run: Run) => {
      const node = h('input', { type: 'text', spellcheck: 'false', 'aria-label': `${run} prompt` });
      node.addEventListener('input', () => this.wait());
      return node;
    };
    this.inputs = { clean: input('clean'), corrupted: input('corrupted') };
    this.node.append(
      h('label', {}, h('span', {}, 'clean'), this.inputs.clean),
      h('label', {}, h('span', {}, 'corrupted'), this.inputs.corrupted)
    );
    this.button.addEventListener('click', () => {
      this.node.hidden = !this.node.hidden;
      this.button.setAttribute('aria-expanded', String(!this.node.hidden));
      if (!this.node.hidden) {
        this.inputs.clean.focus();
      }
    });
  }

  show(header: PatchingHeader): void {
    for (const run of ['clean', 'corrupted'] as const) {
      // not under the fingers of who is typing
      if (this.inputs[run].getRootNode() instanceof Document && document.activeElement === this.inputs[run]) {
        continue;
      }
      this.inputs[run].value = header[run].prompt;
    }
  }

  leave(): void {
    clearTimeout(this.timer);
    this.asked?.stop();
  }

  private wait(): void {
    clearTimeout(this.timer);
    this.events.ghost(true);
    this.timer = setTimeout(() => void this.run(), REST);
  }

  private async run(): Promise<void> {
    const { clean, corrupted } = this.inputs;
    await this.asked?.put('prompts', { clean: clean.value, corrupted: corrupted.value });
  }
}
