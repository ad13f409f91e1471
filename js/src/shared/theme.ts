import { luminance, type Rgb } from './palette';

/** Whether the page around an element is dark: said by the front end, else seen, else preferred. */
export function isDark(element: Element): boolean {
  const { body, documentElement: html } = document;
  const lab = body.dataset.jpThemeLight;
  if (lab !== undefined) {
    return lab === 'false';
  }
  for (const node of [body, html]) {
    const said = `${node.className} ${node.dataset.theme ?? ''} ${node.getAttribute('theme') ?? ''}`;
    const word = /(^|[\s-])(dark|light)(?=$|[\s-])/.exec(said)?.[2];
    if (word) {
      return word === 'dark';
    }
  }
  for (let node: Element | null = element; node; node = node.parentElement) {
    const parts = getComputedStyle(node)
      .backgroundColor.match(/[\d.]+/g)
      ?.map(Number);
    if (parts && parts.length >= 3 && (parts[3] ?? 1) > 0.5) {
      return luminance(parts.slice(0, 3) as Rgb) < 0.1791;
    }
  }
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

/** Calls back when the page may have changed its theme; returns how to stop. */
export function onThemeChange(callback: () => void): () => void {
  const observer = new MutationObserver(callback);
  const attributeFilter = [
    'class',
    'style',
    'theme',
    'data-theme',
    'data-jp-theme-light',
    'data-jp-theme-name'
  ];
  observer.observe(document.body, { attributes: true, attributeFilter });
  observer.observe(document.documentElement, { attributes: true, attributeFilter });
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  scheme.addEventListener('change', callback);
  return () => {
    observer.disconnect();
    scheme.removeEventListener('change', callback);
  };
}
