/** SVG as text, for pictures on the page and for files: the same function draws both. */

const ENTITIES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;'
};

/** Text as it may stand in SVG; the characters that XML 1.0 forbids are left out. */
export function escaped(text: string): string {
  const allowed = Array.from(text).filter(char => {
    const code = char.codePointAt(0)!;
    const control = code < 32 && char !== '\n' && char !== '\t' && char !== '\r';
    return !control && code !== 0xfffe && code !== 0xffff && !(code >= 0xd800 && code < 0xe000);
  });
  return allowed.join('').replace(/[&<>"']/g, c => ENTITIES[c]!);
}

export function tag(
  name: string,
  attributes: Record<string, string | number | undefined>,
  inner = ''
): string {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined && value !== '')
    .map(([key, value]) => ` ${key}="${typeof value === 'number' ? round(value) : escaped(value!)}"`)
    .join('');
  return inner ? `<${name}${written}>${inner}</${name}>` : `<${name}${written}/>`;
}

export function label(
  text: string,
  x: number,
  y: number,
  attributes: Record<string, string | number | undefined> = {}
): string {
  return tag('text', { x, y, ...attributes }, escaped(text) || ' ');
}

const SANS = 'system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif';
export const MONO = 'ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace';

/** A whole file. */
export function sheet(width: number, height: number, inner: string, page?: string): string {
  const back = page ? tag('rect', { width, height, fill: page }) : '';
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${round(width)}" height="${round(height)}" ` +
    `viewBox="0 0 ${round(width)} ${round(height)}" font-family="${SANS}" font-size="11">${back}${inner}</svg>`
  );
}

/** The text as an element; what a prompt holds is text in it and nothing else. */
export function drawn(svg: string): SVGElement {
  const root = new DOMParser().parseFromString(svg, 'image/svg+xml').documentElement;
  return document.importNode(root, true) as unknown as SVGElement;
}

/** A drawing that lies over something, in its pixels, and may leave its box. */
export class Overlay {
  readonly node = document.createElementNS('http://www.w3.org/2000/svg', 'svg');

  constructor(name: string) {
    this.node.classList.add('nbsight-over', name);
    this.node.setAttribute('aria-hidden', 'true');
  }

  draw(inner: string): void {
    const picture = drawn(sheet(1, 1, inner));
    picture.setAttribute('overflow', 'visible');
    this.node.replaceChildren(picture);
  }

  clear(): void {
    this.node.replaceChildren();
  }
}

export function shorten(text: string, length: number): string {
  const characters = Array.from(text);
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join('')}…`;
}

function round(value: number): string {
  return String(Math.round(value * 100) / 100);
}
