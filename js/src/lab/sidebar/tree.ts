import { h } from '../../shared/dom';
import type { Actions } from './actions';
import { onClicks } from './parts';
import type { ModelCard, ModuleList, ModuleRow } from './protocol';
import { bytes, count, type Words } from './words';

const STEP = 200; // rows of one module that are drawn at once
const AGAIN = 700; // milliseconds until shapes are asked for once more
const PAUSE = 150;

/**
 * A model's modules as a tree: one level at a time from the kernel, walked through with the arrow keys.
 *
 * A click or Enter inserts the module's expression, a double click or Shift+Enter opens it.
 */
export class Tree {
  readonly node: HTMLElement;
  private readonly list: HTMLElement;
  private readonly status: HTMLElement;
  private readonly filter: HTMLInputElement;
  private readonly open = new Set<string>();
  private asked = 0;
  private timer = 0;
  private active = '';

  constructor(
    private readonly model: ModelCard,
    private readonly actions: Actions,
    private readonly words: Words
  ) {
    this.filter = h('input', {
      type: 'search',
      class: 'jp-nbsight-filter',
      placeholder: words.__('Filter modules'),
      'aria-label': words.__('Filter the modules of %1', model.expression ?? model.label),
      spellcheck: 'false'
    });
    this.list = h('ul', {
      role: 'tree',
      class: 'jp-nbsight-tree',
      'aria-label': words.__('Modules of %1', model.expression ?? model.label)
    });
    this.status = h('p', { class: 'jp-nbsight-note', 'aria-live': 'polite' });
    this.node = h('div', { class: 'jp-nbsight-modules' }, this.filter, this.list, this.status);
    this.filter.addEventListener('input', () => {
      window.clearTimeout(this.timer);
      this.timer = window.setTimeout(() => void this.load(), PAUSE);
    });
    this.filter.addEventListener('keydown', event => {
      if (event.key === 'ArrowDown') {
        this.focusOn(this.items()[0]);
        event.preventDefault();
      } else if (event.key === 'Escape' && this.filter.value) {
        this.filter.value = '';
        void this.load();
        event.stopPropagation();
      }
    });
    this.list.addEventListener('keydown', event => this.key(event));
    void this.load();
  }

  /** Ask for what is to be seen now; the last question wins. */
  async load(): Promise<void> {
    const asked = ++this.asked;
    const text = this.filter.value.trim();
    let found: ModuleList;
    try {
      found = await (text ? this.actions.find(this.model, text) : this.actions.children(this.model, ''));
    } catch (error) {
      if (asked === this.asked) {
        this.list.replaceChildren();
        this.status.textContent = (error as Error).message;
      }
      return;
    }
    if (asked !== this.asked) {
      return;
    }
    this.list.replaceChildren();
    this.fill(this.list, found.rows, text ? 'path' : 'name', 1);
    const more = (found.found ?? 0) - found.rows.length;
    this.status.textContent = !text
      ? ''
      : found.rows.length === 0
        ? this.words.__('No module is called “%1”.', text)
        : more > 0
          ? this.words.__('%1 more; type more of the name.', more)
          : '';
    if (found.pending) {
      window.setTimeout(() => void this.again(asked), AGAIN);
    }
  }

  /** The shapes were still being found: put them in where they are now known. */
  private async again(asked: number): Promise<void> {
    const parents = ['', ...this.open];
    for (const path of parents) {
      const found = await this.actions.children(this.model, path).catch(() => null);
      if (asked !== this.asked || !found) {
        return;
      }
      for (const row of found.rows) {
        const item = this.find(row.path);
        if (item && row.shape) {
          this.describe(item, row);
        }
      }
    }
  }

  private fill(
    parent: HTMLElement,
    rows: ModuleRow[],
    label: 'name' | 'path',
    level: number,
    from = 0,
    after: Element | null = null
  ): void {
    const items = rows.slice(from, from + STEP).map(row => this.item(row, label, level));
    if (after) {
      after.replaceWith(...items);
    } else {
      parent.append(...items);
    }
    const left = rows.length - from - STEP;
    if (left > 0) {
      const more = h('button', { type: 'button', class: 'jp-nbsight-more' });
      more.textContent = this.words.__('%1 more …', left);
      const place = h('li', { role: 'none' }, more);
      more.addEventListener('click', () => this.fill(parent, rows, label, level, from + STEP, place));
      items[items.length - 1]!.after(place);
    }
    if (!this.active && items[0]) {
      this.active = items[0].dataset.path!;
    }
    this.rove();
  }

  private item(row: ModuleRow, label: 'name' | 'path', level: number): HTMLElement {
    const caret = h('span', { class: 'jp-nbsight-caret', 'aria-hidden': 'true' });
    const isInner = row.children > 0 && label === 'name';
    if (isInner) {
      caret.append(this.actions.icon('caret'));
    }
    const line = h(
      'div',
      { class: 'jp-nbsight-module', style: `--level: ${level - 1}` },
      caret,
      h('span', { class: 'jp-nbsight-name' }, label === 'path' ? row.path : row.name),
      h('span', { class: 'jp-nbsight-class' }, row.class),
      h('span', { class: 'jp-nbsight-shape' })
    );
    const item = h(
      'li',
      {
        role: 'treeitem',
        'aria-level': level,
        'aria-expanded': isInner ? 'false' : null,
        'aria-label': `${row.name}, ${row.class}`,
        'data-path': row.path,
        'data-expression': row.expression,
        tabindex: -1
      },
      line
    );
    this.describe(item, row);
    caret.addEventListener('click', event => {
      event.stopPropagation();
      void this.toggle(item);
    });
    onClicks(
      line,
      () => this.actions.insert(row.expression),
      () => this.actions.openModule(this.model, row.path)
    );
    item.addEventListener('focus', () => {
      this.active = row.path;
      this.rove();
    });
    if (isInner && this.open.has(row.path)) {
      void this.toggle(item, true);
    }
    return item;
  }

  private describe(item: HTMLElement, row: ModuleRow): void {
    const axes = row.shape.slice(row.shape.indexOf('('));
    const shape = item.querySelector('.jp-nbsight-shape')!;
    shape.textContent = row.shape ? axes : '';
    const lines = [
      `${row.expression}  ${row.class}`,
      row.meaning,
      row.shape ? this.words.__('makes %1', row.shape) : '',
      row.parameters
        ? this.words.__('%1 parameters, %2', count(row.parameters), bytes(row.bytes))
        : this.words.__('no parameters'),
      this.words.__('Click to insert, double click to open')
    ];
    item.querySelector('.jp-nbsight-module')!.setAttribute('title', lines.filter(Boolean).join('\n'));
    item.setAttribute('aria-label', [row.name, row.class, axes].filter(Boolean).join(', '));
  }

  private async toggle(item: HTMLElement, open?: boolean): Promise<void> {
    const path = item.dataset.path!;
    const wanted = open ?? item.getAttribute('aria-expanded') !== 'true';
    if (!item.hasAttribute('aria-expanded')) {
      return;
    }
    item.setAttribute('aria-expanded', String(wanted));
    if (!wanted) {
      this.open.delete(path);
      item.querySelector('ul')?.remove();
      return;
    }
    this.open.add(path);
    const group = h('ul', { role: 'group' });
    item.querySelector('ul')?.remove();
    item.append(group);
    try {
      const found = await this.actions.children(this.model, path);
      if (group.isConnected || this.list.contains(item) || item.contains(group)) {
        this.fill(group, found.rows, 'name', Number(item.getAttribute('aria-level')) + 1);
        if (found.pending) {
          window.setTimeout(() => void this.again(this.asked), AGAIN);
        }
      }
    } catch (error) {
      group.append(h('li', { role: 'none', class: 'jp-nbsight-note' }, (error as Error).message));
    }
  }

  // -- keys -------------------------------------------------------------------------------------

  private items(): HTMLElement[] {
    return Array.from(this.list.querySelectorAll<HTMLElement>('[role=treeitem]'));
  }

  private find(path: string): HTMLElement | undefined {
    return this.items().find(item => item.dataset.path === path);
  }

  private rove(): void {
    const items = this.items();
    if (items.length && !items.some(item => item.dataset.path === this.active)) {
      this.active = items[0]!.dataset.path!;
    }
    for (const item of items) {
      item.tabIndex = item.dataset.path === this.active ? 0 : -1;
    }
  }

  private focusOn(item: HTMLElement | undefined): void {
    item?.focus();
  }

  private key(event: KeyboardEvent): void {
    const item = (event.target as HTMLElement).closest<HTMLElement>('[role=treeitem]');
    if (!item || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    const items = this.items();
    const at = items.indexOf(item);
    const expanded = item.getAttribute('aria-expanded');
    switch (event.key) {
      case 'ArrowDown':
        this.focusOn(items[at + 1]);
        break;
      case 'ArrowUp':
        this.focusOn(at > 0 ? items[at - 1] : this.filter);
        break;
      case 'Home':
        this.focusOn(items[0]);
        break;
      case 'End':
        this.focusOn(items[items.length - 1]);
        break;
      case 'ArrowRight':
        if (expanded === 'false') {
          void this.toggle(item, true);
        } else if (expanded === 'true') {
          this.focusOn(item.querySelector<HTMLElement>('[role=treeitem]') ?? undefined);
        }
        break;
      case 'ArrowLeft':
        if (expanded === 'true') {
          void this.toggle(item, false);
        } else {
          this.focusOn(item.parentElement!.closest<HTMLElement>('[role=treeitem]') ?? undefined);
        }
        break;
      case 'Enter':
      case ' ':
        if (event.shiftKey) {
          this.actions.openModule(this.model, item.dataset.path!);
        } else {
          this.actions.insert(item.dataset.expression!);
        }
        break;
      default:
        return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
