/** The event by which a view offers code; the JupyterLab plugin makes a new cell of it. */
export const INSERT_CODE = 'nbsight:insert-code';

/**
 * Offer code to the page: a new cell below where the plugin is there, else the clipboard.
 * Nothing is run. Returns what was done, for the read-out.
 */
export async function offerCode(element: HTMLElement, code: string): Promise<string> {
  const event = new CustomEvent(INSERT_CODE, {
    bubbles: true,
    composed: true,
    cancelable: true,
    detail: { code }
  });
  if (!element.dispatchEvent(event)) {
    return 'Code inserted in a new cell below.';
  }
  try {
    await navigator.clipboard.writeText(code);
    return 'Code copied to the clipboard.';
  } catch {
    return `The clipboard cannot be used here. The code: ${code}`;
  }
}
