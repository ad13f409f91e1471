/**
 * Bring a list of elements up to date and keep those that stay: focus, scroll and open logs survive.
 *
 * Every child of `parent` that is made here carries its key in `data-key`.
 */
export function keyed<T>(
  parent: HTMLElement,
  items: readonly T[],
  key: (item: T) => string,
  make: (item: T) => HTMLElement,
  update: (element: HTMLElement, item: T) => void
): void {
  const known = new Map<string, HTMLElement>();
  for (const child of Array.from(parent.children) as HTMLElement[]) {
    if (child.dataset.key !== undefined) {
      known.set(child.dataset.key, child);
    }
  }
  let before: Element | null = null;
  for (const item of items) {
    const name = key(item);
    let element = known.get(name);
    known.delete(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    update(element, item);
    const place: Element | null = before ? before.nextElementSibling : parent.firstElementChild;
    if (place !== element) {
      parent.insertBefore(element, place);
    }
    before = element;
  }
  for (const gone of known.values()) {
    gone.remove();
  }
}

/** Set an element's text if it is another, so that nothing is drawn or read out again. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}
