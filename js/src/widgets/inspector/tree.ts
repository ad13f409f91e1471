import { h } from '../../shared/dom';
import { bytes } from '../../shared/tokens';
import type { Entry } from './types';

const SHOWN = 200; // entries in the page at once; typing narrows them

/** What can be opened, with a box to search by: parts of a path, or a class. */
export class Tree {
  readonly node: HTMLElement;
  private readonly search = h('input', {
    type: 'search',
    placeholder: 'Search',
    'aria-label': 'Search by path or class'
  });
  private readonly list = h('ul', { role: 'listbox', 'aria-label': 'What can be opened', tabindex: 0 });
  private readonly more = h('p', {});
  private entries: readonly Entry[] = [];
  private path = '';
  private active = 0;
  private found: readonly Entry[] = [];

  constructor(private readonly open: (path: string) => void) {
    this.node = h('nav', { class: 'nbsight-inspector-tree' }, this.search, this.list, this.more);
    this.search.addEventListener('input', () => this.draw(true));
    this.search.addEventListener('keydown', event => {
      if (event.key === 'ArrowDown' || event.key === 'Enter') {
        this.list.focus();
        event.preventDefault();
        event.stopPropagation();
      }
    });
    this.list.addEventListener('keydown', event => this.onKey(event));
    this.list.addEventListener('click', event => {
      const item = (event.target as Element).closest<HTMLElement>('[data-at]');
      if (item) {
        this.active = Number(item.dataset.at);
        this.open(this.found[this.active]!.path);
      }
    });
  }

  show(entries: readonly Entry[], path: string): void {
    this.entries = entries;
    this.path = path;
    this.node.hidden = entries.length < 2;
    this.draw(false);
  }

  private draw(isNew: boolean): void {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = this.entries.filter(({ path, kind }) => {
      const text = `${path} ${kind}`.toLowerCase();
      return words.every(word => text.includes(word));
    });
    this.found = matching.slice(0, SHOWN);
    const here = this.found.findIndex(entry => entry.path === this.path);
    this.active = isNew || here < 0 ? 0 : here;
    this.list.replaceChildren(
      ...this.found.map((entry, i) => {
        const parts = entry.path.split('.');
        const depth = words.length ? 0 : Math.min(parts.length - 1, 6);
        const name = words.length ? entry.path : (parts[parts.length - 1] ?? entry.path);
        return h(
          'li',
          {
            role: 'option',
            'data-at': i,
            'aria-selected': String(entry.path === this.path),
            title: `${entry.path}: ${entry.kind}, ${bytes(entry.bytes)}${entry.saved ? ', at hand' : ''}`,
            style: `padding-left: ${6 + depth * 11}px`
          },
          h('span', { 'data-saved': entry.saved }, name),
          h('small', {}, entry.kind)
        );
      })
    );
    const left = matching.length - this.found.length;
    this.more.textContent = left ? `and ${left} more: type to narrow` : '';
    this.mark();
  }

  private mark(): void {
    [...this.list.children].forEach((item, i) => {
      item.toggleAttribute('data-active', i === this.active);
    });
    const item = this.list.children[this.active] as HTMLElement | undefined;
    if (item && this.list.clientHeight) {
      const [top, bottom] = [item.offsetTop, item.offsetTop + item.offsetHeight];
      if (top < this.list.scrollTop) {
        this.list.scrollTop = top;
      } else if (bottom > this.list.scrollTop + this.list.clientHeight) {
        this.list.scrollTop = bottom - this.list.clientHeight;
      }
    }
  }

  private onKey(event: KeyboardEvent): void {
    const last = this.found.length - 1;
    const moves: Record<string, number> = {
      ArrowDown: Math.min(last, this.active + 1),
      ArrowUp: Math.max(0, this.active - 1),
      Home: 0,
      End: last
    };
    if (event.key in moves) {
      this.active = moves[event.key]!;
      this.mark();
    } else if ((event.key === 'Enter' || event.key === ' ') && this.found[this.active]) {
      this.open(this.found[this.active]!.path);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
