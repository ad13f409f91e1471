import { type Ask, LastAsked } from '../../shared/ask';
import { button } from '../../shared/controls';
import { h, uniqueId } from '../../shared/dom';
import type { Frame } from '../../shared/frame';
import { visible } from '../../shared/tokens';
import type { Pin } from './types';

type Pair = (Pin | null)[];

const OFFERED = 400; // tokens that the list under the fields suggests

/** Two tokens to be set against each other: typed, or picked from the likeliest of a cell. */
export class Contrast {
  readonly button = button('Contrast', 'Show how much more one token has than another', () =>
    this.open(this.node.hidden)
  );
  readonly node: HTMLElement;
  private readonly fields: HTMLInputElement[];
  private readonly list = h('datalist', { id: uniqueId('nbsight-lens-tokens') });
  private readonly asked: LastAsked | null;
  private pair: Pair = [null, null];
  private known: ReadonlyMap<string, Pin> = new Map();

  constructor(
    ask: Ask | undefined,
    private readonly frame: Frame,
    private readonly change: (pair: Pair) => void,
    private readonly onOpen: (isOpen: boolean) => void
  ) {
    this.asked = ask ? new LastAsked(ask, (stage, error) => this.frame.stage(stage, error)) : null;
    this.fields = ['token', 'less the token'].map((name, side) => {
      const field = h('input', {
        type: 'text',
        spellcheck: 'false',
        autocomplete: 'off',
        list: this.list.id,
        placeholder: side ? '·Rome' : '·Paris',
        'aria-label': `Contrast: ${name}`,
        title: 'One token. A space is written as a space or as ·'
      });
      field.addEventListener('change', () => void this.typed(side, field.value));
      return field;
    });
    const swap = button('⇄', 'Swap the two', () => this.put([this.pair[1]!, this.pair[0]!]));
    const clear = button('×', 'No contrast', () => this.put([null, null]));
    for (const node of [swap, clear]) {
      node.setAttribute('aria-label', node.title);
    }
    const hint = h('span', {}, 'type them, or click a and b beside a cell’s likeliest tokens');
    this.node = h(
      'div',
      { class: 'nbsight-lens-contrast', role: 'group', 'aria-label': 'Contrast', hidden: true },
      this.fields[0],
      '−',
      this.fields[1],
      swap,
      clear,
      hint,
      this.list
    );
    this.button.setAttribute('aria-expanded', 'false');
  }

  show(pair: Pair, known: ReadonlyMap<string, Pin>): void {
    this.pair = [pair[0] ?? null, pair[1] ?? null];
    this.known = known;
    this.fields.forEach((field, side) => {
      const root = field.getRootNode() as Document | ShadowRoot;
      if (root.activeElement !== field) {
        field.value = this.pair[side] ? visible(this.pair[side]!.token) : '';
      }
    });
    if (this.pair.some(Boolean)) {
      this.open(true, false);
    }
    const options = [...known.keys()].slice(0, OFFERED);
    this.list.replaceChildren(...options.map(value => h('option', { value })));
  }

  /** Take one of the two. */
  pick(side: 0 | 1, pin: Pin): void {
    this.put(side ? [this.pair[0]!, pin] : [pin, this.pair[1]!]);
  }

  leave(): void {
    this.asked?.stop();
  }

  private open(isOpen: boolean, focus = true): void {
    this.node.hidden = !isOpen;
    this.button.setAttribute('aria-expanded', String(isOpen));
    this.onOpen(isOpen);
    if (isOpen && focus) {
      this.fields[0]!.focus();
    }
  }

  private put(pair: Pair): void {
    this.pair = pair;
    this.fields.forEach((field, side) => {
      field.value = pair[side] ? visible(pair[side]!.token) : '';
    });
    this.change(pair);
  }

  private async typed(side: number, text: string): Promise<void> {
    const set = (pin: Pin | null) => this.pick(side as 0 | 1, pin as Pin);
    if (!text) {
      set(null);
      return;
    }
    const pin = this.known.get(text) ?? this.known.get(visible(text)) ?? this.known.get(`·${text}`);
    if (pin) {
      set(pin);
    } else if (!this.asked) {
      this.frame.say('No kernel is attached: only tokens that are in the picture can be chosen.');
    } else {
      const reply = await this.asked.put<Pin>('token', { text: meant(text) });
      if (reply) {
        set(reply.result);
      }
    }
  }
}

/** A text in which marks stand for what cannot be typed into a line. */
function meant(text: string): string {
  return text.replaceAll('·', ' ').replaceAll('⏎', '\n').replaceAll('⇥', '\t');
}
