import { clamp, h } from '../../shared/dom';
import type { Actions, IconName } from './actions';

/** A small button with an icon; its label is what a screen reader says and what hovers. */
export function iconButton(actions: Actions, icon: IconName, label: string, act: () => void): HTMLElement {
  const button = h('button', { class: 'jp-nbsight-icon', type: 'button', title: label, 'aria-label': label });
  button.append(actions.icon(icon));
  button.addEventListener('click', event => {
    event.stopPropagation();
    act();
  });
  // a double click on a button is two clicks on it, and opens nothing
  button.addEventListener('dblclick', event => event.stopPropagation());
  return button;
}

/** A thin bar; `null` for work of unknown length. */
export function bar(label: string): HTMLProgressElement {
  return h('progress', { class: 'jp-nbsight-bar', max: 1, 'aria-label': label });
}

export function setBar(element: HTMLProgressElement, share: number | null): void {
  if (share === null) {
    element.removeAttribute('value');
  } else {
    element.value = clamp(share, 0, 1);
  }
}

const PAUSE = 230;

/** One click does one thing, a double click another; a single one waits until it is sure to be one. */
export function onClicks(element: HTMLElement, once: () => void, twice: () => void): void {
  let timer = 0;
  element.addEventListener('click', event => {
    window.clearTimeout(timer);
    if (event.detail <= 1) {
      timer = window.setTimeout(once, PAUSE);
    }
  });
  element.addEventListener('dblclick', () => {
    window.clearTimeout(timer);
    twice();
  });
}
