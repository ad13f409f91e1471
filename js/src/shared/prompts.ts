import { type Ask, LastAsked } from './ask';
import { h } from './dom';
import type { Frame } from './frame';

const REST = 600; // milliseconds without a key before the prompts are run

/** Prompts to be edited: they are run when the typing rests, and the old picture pales meanwhile. */
export class Prompts {
  readonly button = h('button', { type: 'button', 'aria-expanded': 'false' });
  readonly node = h('div', { class: 'nbsight-prompts', hidden: true });
  private readonly inputs: ReadonlyMap<string, HTMLInputElement>;
  private readonly asked: LastAsked | null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    ask: Ask | undefined,
    names: readonly string[],
    private readonly frame: Frame
  ) {
    this.asked = ask
      ? new LastAsked(ask, (stage, error) => {
          this.ghost(stage === 'asking' || stage === 'queued');
          const shown = stage === 'failed' && error ? stage : 'idle';
          this.frame.stage(shown, error, () => void this.run());
        })
      : null;
    this.button.textContent = names.length > 1 ? 'Edit prompts' : 'Edit prompt';
    this.inputs = new Map(
      names.map(name => {
        const label = name === 'prompt' ? name : `${name} prompt`;
        const node = h('input', { type: 'text', spellcheck: 'false', 'aria-label': label });
        node.addEventListener('input', () => this.wait());
        return [name, node];
      })
    );
    for (const [name, input] of this.inputs) {
      this.node.append(h('label', {}, h('span', {}, name), input));
    }
    this.button.addEventListener('click', () => {
      this.node.hidden = !this.node.hidden;
      this.button.setAttribute('aria-expanded', String(!this.node.hidden));
      if (!this.node.hidden) {
        this.inputs.values().next().value?.focus();
      }
    });
  }

  show(prompts: Record<string, string>): void {
    for (const [name, input] of this.inputs) {
      // not under the fingers of who is typing
      if ((input.getRootNode() as Document | ShadowRoot).activeElement !== input) {
        input.value = prompts[name] ?? '';
      }
    }
  }

  leave(): void {
    clearTimeout(this.timer);
    this.asked?.stop();
  }

  private wait(): void {
    clearTimeout(this.timer);
    this.ghost(true);
    this.timer = setTimeout(() => void this.run(), REST);
  }

  private ghost(on: boolean): void {
    this.frame.node.toggleAttribute('data-ghost', on);
  }

  private async run(): Promise<void> {
    const entries = [...this.inputs].map(([name, input]) => [name, input.value] as const);
    await this.asked?.put('prompts', Object.fromEntries(entries));
  }
}
