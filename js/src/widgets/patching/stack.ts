import { button, History } from '../../shared/controls';
import { h } from '../../shared/dom';
import { visible } from '../../shared/tokens';
import type { PatchingData } from './data';
import { ends } from './data';
import type { Direction, Patch } from './types';

/**
 * The patches of the run on show, with undo and redo; a patch can be taken out of the middle. Each pair of prompts has a
 * history of its own: a patch of other prompts would put another token somewhere, or one that is not there.
 */
export class Stack {
  readonly node = h('section', { class: 'nbsight-patching-stack', 'aria-label': 'Patches of this run' });
  private history: History<readonly Patch[]>;
  private readonly histories = new Map<string, History<readonly Patch[]>>();
  private readonly list = h('ul', {});
  private readonly buttons: Record<'undo' | 'redo' | 'clear', HTMLButtonElement>;

  constructor(
    prompts: string,
    first: readonly Patch[],
    private readonly onChange: (patches: readonly Patch[]) => void
  ) {
    this.history = new History(first);
    this.histories.set(prompts, this.history);
    this.buttons = {
      undo: button('Undo', 'Ctrl+Z', () => this.undo()),
      redo: button('Redo', 'Ctrl+Y', () => this.redo()),
      clear: button('Clear', 'Escape', () => this.put([]))
    };
    this.node.append(h('h3', {}, 'Patches'), this.list, h('div', {}, ...Object.values(this.buttons)));
  }

  get patches(): readonly Patch[] {
    return this.history.current;
  }

  put(patches: readonly Patch[]): void {
    if (JSON.stringify(patches) !== JSON.stringify(this.patches)) {
      this.history.put(patches);
    }
    this.onChange(this.patches);
  }

  /** Other prompts are on show, with no patch: undo brings back what was patched in them before. */
  of(prompts: string): void {
    this.history = this.histories.get(prompts) ?? new History<readonly Patch[]>([]);
    this.histories.set(prompts, this.history);
    if (this.patches.length) {
      this.history.put([]);
    }
  }

  undo(): void {
    if (this.history.canUndo) {
      this.onChange(this.history.undo());
    }
  }

  redo(): void {
    if (this.history.canRedo) {
      this.onChange(this.history.redo());
    }
  }

  show(data: PatchingData, direction: Direction): void {
    this.list.replaceChildren(
      ...this.patches.map((patch, i) => {
        const remove = h(
          'button',
          { type: 'button', 'aria-label': `Remove patch ${i + 1}`, title: 'Remove' },
          '×'
        );
        remove.addEventListener('click', () => this.put(this.patches.filter((_, each) => each !== i)));
        const text = patchText(patch, data, direction);
        return h('li', {}, text, remove);
      })
    );
    if (!this.patches.length) {
      this.list.replaceChildren(h('li', {}, 'None. Shift-click adds one more to those there are.'));
    }
    this.buttons.undo.disabled = !this.history.canUndo;
    this.buttons.redo.disabled = !this.history.canRedo;
    this.buttons.clear.disabled = !this.patches.length;
  }
}

/** One patch in words: where, from which token to which. */
export function patchText(patch: Patch, data: PatchingData, direction: Direction): HTMLElement {
  const { base, donor } = ends(direction);
  const head = patch.head === undefined ? '' : ` head ${patch.head}`;
  const text = h('span', {}, `L${patch.layer} ${patch.site}${head} `);
  if (patch.source === null || patch.target === null) {
    text.append('at all positions');
  } else {
    const from = visible(data.token(donor, patch.source) ?? '?');
    const to = visible(data.token(base, patch.target) ?? '?');
    const where = patch.source === patch.target ? `at ${patch.target}` : `${patch.source} to ${patch.target}`;
    text.append(h('code', {}, from), ' → ', h('code', {}, to), ` ${where}`);
  }
  text.title = text.textContent ?? '';
  return text;
}
