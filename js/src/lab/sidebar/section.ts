import { h, uniqueId } from '../../shared/dom';
import { say } from '../../shared/keyed';
import type { Actions } from './actions';

/** One part of the sidebar: a heading that folds, a count, and a body that its owner fills. */
export class Section {
  readonly node: HTMLElement;
  /** The list that the owner fills. */
  readonly body: HTMLElement;
  private readonly frame: HTMLElement;
  private readonly button: HTMLButtonElement;
  private readonly counter: HTMLElement;
  private readonly empty: HTMLElement;

  constructor(
    readonly name: string,
    title: string,
    empty: string,
    actions: Actions,
    private readonly remember: (name: string, open: boolean) => void,
    open: boolean
  ) {
    const id = uniqueId('nbsight-section');
    this.counter = h('span', { class: 'jp-nbsight-count' });
    const caret = h('span', { class: 'jp-nbsight-caret', 'aria-hidden': 'true' });
    caret.append(actions.icon('caret'));
    this.button = h(
      'button',
      { type: 'button', class: 'jp-nbsight-heading', 'aria-controls': id },
      caret,
      h('span', { class: 'jp-nbsight-title' }, title),
      this.counter
    );
    this.empty = h('p', { class: 'jp-nbsight-empty' }, empty);
    this.body = h('div', { class: 'jp-nbsight-list', role: 'list', 'aria-label': title });
    this.frame = h('div', { id, class: 'jp-nbsight-body' }, this.empty, this.body);
    this.node = h('section', { class: 'jp-nbsight-section', 'data-section': name, 'aria-label': title });
    this.node.append(h('h2', {}, this.button), this.frame);
    this.button.addEventListener('click', () => this.setOpen(!this.isOpen));
    this.button.addEventListener('keydown', event => {
      if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') {
        this.setOpen(event.key === 'ArrowRight');
        event.preventDefault();
      }
    });
    this.setOpen(open, false);
  }

  get isOpen(): boolean {
    return this.button.getAttribute('aria-expanded') === 'true';
  }

  setOpen(open: boolean, remember = true): void {
    this.button.setAttribute('aria-expanded', String(open));
    this.frame.hidden = !open;
    if (remember) {
      this.remember(this.name, open);
    }
  }

  /** How many things are in it, and what the heading says of them. */
  setCount(count: number, text = count ? String(count) : ''): void {
    say(this.counter, text);
    this.empty.hidden = count > 0;
    this.node.toggleAttribute('data-empty', count === 0);
  }
}
