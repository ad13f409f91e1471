/** The event by which a view offers code; the JupyterLab plugin makes a new cell of it. */
export const INSERT_CODE = 'nbsight:insert-code';

/** A template in which each `$name` of a value stands for it (nbsight/widgets/code.py does the same). */
export function fill(template: string, values: Record<string, string | number>): string {
  return template.replace(/\$(\w+)/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Offer code to the page: a new cell below where the plugin is there. Nothing is run. */
export function insertCode(element: HTMLElement, code: string): boolean {
  const event = new CustomEvent(INSERT_CODE, {
    bubbles: true,
    composed: true,
    cancelable: true,
    detail: { code }
  });
  return !element.dispatchEvent(event);
}
