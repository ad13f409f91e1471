import { h } from './dom';

export function button(text: string, title: string, act: () => void): HTMLButtonElement {
  const node = h('button', { type: 'button', title }, text);
  node.addEventListener('click', act);
  return node;
}

/** One of a few, as buttons side by side. */
export class Switch<T extends string> {
  readonly node: HTMLElement;
  private readonly buttons: Map<T, HTMLButtonElement>;

  constructor(
    name: string,
    choices: readonly (readonly [T, string, string?])[],
    private readonly choose: (value: T) => void
  ) {
    this.buttons = new Map(
      choices.map(([value, text, title]) => {
        const button = h('button', { type: 'button', role: 'radio', 'aria-checked': 'false', title }, text);
        button.addEventListener('click', () => this.choose(value));
        return [value, button];
      })
    );
    const group = h(
      'span',
      { class: 'nbsight-switch', role: 'radiogroup', 'aria-label': name },
      ...this.buttons.values()
    );
    group.addEventListener('keydown', event => this.onKey(event));
    this.node = h('span', { class: 'nbsight-group' }, h('span', {}, name), group);
  }

  show(value: T): void {
    for (const [each, button] of this.buttons) {
      button.setAttribute('aria-checked', String(each === value));
      button.tabIndex = each === value || !this.buttons.has(value) ? 0 : -1;
    }
  }

  private onKey(event: KeyboardEvent): void {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) {
      return;
    }
    const entries = [...this.buttons];
    const at = entries.findIndex(([, button]) => button === event.target);
    const [value, button] = entries[(at + step + entries.length) % entries.length]!;
    button.focus();
    this.choose(value);
    event.preventDefault();
    event.stopPropagation();
  }
}

/** One of many, as a list that opens. */
export class Choice<T extends string> {
  readonly node: HTMLElement;
  private readonly select = h('select', {});

  constructor(name: string, choices: readonly (readonly [T, string])[], choose: (value: T) => void) {
    this.offer(choices);
    this.select.addEventListener('change', () => choose(this.select.value as T));
    this.node = h('label', {}, name, this.select);
  }

  offer(choices: readonly (readonly [T, string])[]): void {
    this.select.replaceChildren(...choices.map(([value, text]) => h('option', { value }, text)));
  }

  show(value: T): void {
    this.select.value = value;
  }

  /** Where nothing can be chosen the list says why. */
  enable(can: boolean, why: string): void {
    this.select.disabled = !can;
    this.select.title = can ? '' : why;
  }
}

/** On or off. */
export class Toggle {
  readonly node: HTMLButtonElement;

  constructor(text: string, title: string, choose: (on: boolean) => void) {
    this.node = h('button', { type: 'button', 'aria-pressed': 'false', title }, text);
    this.node.addEventListener('click', () => choose(this.node.getAttribute('aria-pressed') !== 'true'));
  }

  show(on: boolean): void {
    this.node.setAttribute('aria-pressed', String(on));
  }
}

/** Undo and redo over values that are never changed in place. */
export class History<T> {
  private past: T[] = [];
  private future: T[] = [];

  constructor(private now: T) {}

  get current(): T {
    return this.now;
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  put(value: T): void {
    this.past = [...this.past.slice(-99), this.now];
    this.future = [];
    this.now = value;
  }

  undo(): T {
    if (this.canUndo) {
      this.future.push(this.now);
      this.now = this.past.pop()!;
    }
    return this.now;
  }

  redo(): T {
    if (this.canRedo) {
      this.past.push(this.now);
      this.now = this.future.pop()!;
    }
    return this.now;
  }
}
