import { h } from './dom';
import { gradient } from './palette';

/** The colours of a map from one end of the scale to the other, and what they mean. */
export class Legend {
  readonly node = h('div', { class: 'nbsight-legend' });
  private readonly scale: HTMLElement;

  constructor(
    private isSigned: boolean,
    ...marks: HTMLElement[]
  ) {
    this.scale = h('span', { class: 'nbsight-scale', 'aria-hidden': 'true' }, ...marks);
  }

  /** Colours on both sides of 0, or on one. */
  sign(isSigned: boolean): void {
    this.isSigned = isSigned;
  }

  /** No ends: there are no colours to explain. */
  show(ends: readonly [low: string, high: string] | null, meaning: string, dark: boolean): void {
    this.recolour(dark);
    this.node.replaceChildren(...(ends ? [ends[0], this.scale, ends[1]] : []), h('span', {}, meaning));
  }

  recolour(dark: boolean): void {
    this.scale.style.background = gradient(dark, this.isSigned);
  }
}
