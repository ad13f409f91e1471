import type { Ask, Stage } from './ask';
import { insertCode } from './code';
import { h } from './dom';
import { KernelError } from './rpc';
import { csv, download, rasterise } from './save';
import { STYLE } from './style';
import type { Value } from './table';
import { isDark, onThemeChange } from './theme';

const NARROW = 640;

/** What a view gives its frame. */
export interface Framed {
  /** short name for files and classes: "patching" */
  name: string;
  title: string;
  /** what `c` and `</>` offer: the cell that makes what is on show */
  code(): string;
  /** the numbers on show: names of columns, then rows */
  rows(): Value[][];
  /** the numbers as a table on the page */
  table(): HTMLElement;
  /** the picture on white, as SVG */
  picture(): string;
  /** draw again in other colours, or for another width */
  recolour(dark: boolean): void;
  fit(width: number, narrow: boolean): void;
  /** a key that the frame does not know; true when it was used */
  key?(event: KeyboardEvent): boolean;
}

/**
 * What is around every view: title, provenance, menu, code, table, busy and error, keys and theme.
 * It knows no kernel; `ask` is for the page that Python writes.
 */
export class Frame {
  readonly node: HTMLElement;
  readonly head: HTMLElement;
  readonly controls = h('div', { class: 'nbsight-controls' });
  readonly body = h('div', { class: 'nbsight-body' });
  readonly readout = h('div', { class: 'nbsight-readout' });
  dark = false;
  private readonly about = h('span', { class: 'nbsight-about' });
  private readonly chip = h('span', { class: 'nbsight-chip', tabindex: 0, hidden: true });
  private readonly live = h('div', { class: 'nbsight-live', 'aria-live': 'polite' });
  private readonly notices = h('div', {});
  private readonly busy = h('span', { class: 'nbsight-busy', role: 'status', hidden: true });
  private readonly menu = h('div', { class: 'nbsight-menu', role: 'menu', hidden: true });
  private readonly more = h(
    'button',
    { type: 'button', title: 'Save or copy', 'aria-haspopup': 'menu', 'aria-expanded': 'false' },
    'Save'
  );
  private readonly asTable = h(
    'button',
    { type: 'button', 'aria-pressed': 'false', title: 'The numbers as a table (key t)' },
    'Table'
  );
  private table: HTMLElement | null = null;
  private before: HTMLElement | null = null;
  private provenance: Record<string, unknown> = {};
  private modelStale = '';
  private cellStale = false;
  private width = 0;
  private readonly ends: (() => void)[] = [];

  constructor(
    parent: HTMLElement,
    private readonly view: Framed,
    private readonly ask?: Ask
  ) {
    const code = h(
      'button',
      { type: 'button', title: 'A new cell that makes this (key c)', 'aria-label': 'Insert code' },
      '</>'
    );
    code.addEventListener('click', () => this.offerCode());
    this.asTable.addEventListener('click', () => this.toggleTable());
    this.more.addEventListener('click', () => this.openMenu(this.menu.hidden));
    this.head = h(
      'div',
      { class: 'nbsight-head' },
      h('span', { class: 'nbsight-title' }, view.title),
      this.about,
      this.chip,
      this.busy,
      h('span', { class: 'nbsight-actions' }, this.asTable, this.more, code, this.menu)
    );
    this.node = h(
      'div',
      { class: `nbsight nbsight-${view.name}` },
      h('style', {}, STYLE),
      this.head,
      this.controls,
      this.notices,
      this.body,
      this.live
    );
    parent.append(this.node);
    this.node.addEventListener('keydown', event => this.onKey(event));
    this.ends.push(
      onThemeChange(() => this.recolour()),
      this.watchSize(),
      this.watchCell(),
      this.closeMenuOutside()
    );
  }

  /** To be called once: put the view's own style and parts in. */
  lay(style: string, controls: readonly Node[], body: readonly Node[]): void {
    this.node.prepend(h('style', {}, style)); // before the common one, which goes over it
    this.controls.append(...controls);
    this.body.append(...body);
  }

  /** To be called once when the view is ready to draw. */
  start(): void {
    this.recolour();
    if (this.node.clientWidth) {
      this.fit(this.node.clientWidth);
    }
  }

  describe(about: string, provenance: Record<string, unknown>): void {
    this.about.textContent = about;
    this.provenance = provenance;
    this.drawChip();
  }

  /** Why what is shown may be out of date; empty when nothing is known against it. */
  stale(reason: string): void {
    this.modelStale = reason;
    this.drawChip();
  }

  announce(text: string): void {
    this.live.textContent = text;
  }

  say(...content: (Node | string)[]): void {
    this.readout.replaceChildren(...content);
  }

  /** Show how a question stands; an error stays until the next question. */
  stage(stage: Stage, error?: Error, retry?: () => void): void {
    this.node.dataset.stage = stage;
    this.busy.hidden = stage !== 'asking' && stage !== 'queued';
    this.busy.textContent = stage === 'queued' ? 'queued: the kernel is busy or gone' : 'running';
    if (stage === 'failed' && error) {
      this.notices.replaceChildren(failure(error, retry));
      this.announce(`It failed: ${error.message}`);
    } else if (stage !== 'queued') {
      this.notices.replaceChildren();
    }
  }

  /** Draw again what depends on the data. */
  refresh(): void {
    if (this.table) {
      this.toggleTable();
      this.toggleTable();
    }
  }

  destroy(): void {
    for (const end of this.ends) {
      end();
    }
    this.node.remove();
  }

  /** The code in a new cell below; where no notebook takes it, here to be read and copied. */
  offerCode(): void {
    const code = this.view.code();
    if (insertCode(this.node, code)) {
      const done = 'Code inserted in a new cell below; it is not run.';
      this.say(done);
      this.announce(done);
      return;
    }
    const copy = h('button', { type: 'button' }, 'Copy');
    const close = h('button', { type: 'button' }, 'Close');
    const panel = h(
      'div',
      { class: 'nbsight-code', role: 'region', 'aria-label': 'Code' },
      h('pre', { tabindex: 0 }, code),
      h('div', {}, copy, close)
    );
    copy.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(code);
        copy.textContent = 'Copied';
      } catch {
        getSelection()?.selectAllChildren(panel.firstElementChild!);
        copy.textContent = 'Press Ctrl+C';
      }
    });
    close.addEventListener('click', () => panel.remove());
    this.notices.replaceChildren(panel);
    copy.focus();
    this.announce('The code is shown above, with a button that copies it.');
  }

  /** The focus goes with what is on show, so that the keys go on working. */
  private toggleTable(): void {
    const focused = (this.node.getRootNode() as Document | ShadowRoot).activeElement as HTMLElement | null;
    const held = this.table ?? this.body;
    const wasInside = focused !== null && held.contains(focused);
    this.table?.remove();
    this.table = this.table ? null : this.view.table();
    if (this.table) {
      this.body.before(this.table);
    }
    this.body.hidden = this.table !== null;
    this.asTable.setAttribute('aria-pressed', String(this.table !== null));
    if (wasInside && this.table) {
      this.before = focused;
      this.table.focus();
    } else if (wasInside) {
      this.before?.focus();
    }
  }

  private openMenu(open: boolean): void {
    this.menu.hidden = !open;
    this.more.setAttribute('aria-expanded', String(open));
    if (open) {
      this.menu.replaceChildren(
        this.item('Picture', 'PNG', async () => this.save('png', await rasterise(this.view.picture()))),
        this.item('Vectors', 'SVG', () =>
          this.save('svg', new Blob([this.view.picture()], { type: 'image/svg+xml' }))
        ),
        this.item('Numbers', 'CSV', () =>
          this.save('csv', new Blob([csv(this.view.rows())], { type: 'text/csv' }))
        ),
        ...(this.ask ? [this.item('Live page', 'HTML', () => this.savePage(this.ask!))] : []),
        this.item('How it was made', 'text', () => navigator.clipboard.writeText(this.provenanceText()))
      );
      (this.menu.firstElementChild as HTMLElement).focus();
    }
  }

  private item(name: string, kind: string, act: () => unknown): HTMLElement {
    const button = h('button', { type: 'button', role: 'menuitem' }, name, h('small', {}, kind));
    button.addEventListener('click', async () => {
      this.openMenu(false);
      this.more.focus();
      try {
        await act();
        this.announce(`${name}: done.`);
      } catch (error) {
        this.stage('failed', error as Error);
      }
    });
    return button;
  }

  private save(ending: string, content: Blob): void {
    download(`${this.view.name}.${ending}`, content);
  }

  private async savePage(ask: Ask): Promise<void> {
    const { buffers } = await ask('html', {}, { signal: new AbortController().signal });
    this.save('html', new Blob([buffers[0] as unknown as BlobPart], { type: 'text/html' }));
  }

  private provenanceText(): string {
    return Object.entries(this.provenance)
      .map(([name, value]) => `${name}: ${typeof value === 'object' ? JSON.stringify(value) : value}`)
      .join('\n');
  }

  private drawChip(): void {
    const reason = this.modelStale || (this.cellStale ? 'the cell was edited since it ran' : '');
    const named = ['revision', 'dtype', 'attn_implementation']
      .map(name => this.provenance[name])
      .filter(value => value && value !== 'None')
      .map(value => String(value).slice(0, 12));
    this.chip.hidden = !named.length && !reason;
    this.chip.textContent = reason ? `outdated: ${reason}` : named.join(' · ');
    this.chip.title = this.provenanceText();
    this.chip.toggleAttribute('data-stale', reason !== '');
  }

  private onKey(event: KeyboardEvent): void {
    if (event.defaultPrevented || isTyping(event.target)) {
      if (isTyping(event.target) && !event.ctrlKey && !event.metaKey) {
        event.stopPropagation();
      }
      return;
    }
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!this.menu.hidden && this.onMenuKey(event)) {
      return;
    }
    if (this.view.key?.(event)) {
      // used by the view
    } else if (plain && event.key === 'c') {
      this.offerCode();
    } else if (plain && event.key === 't') {
      this.toggleTable();
    } else {
      // Keys pressed on the widget are not for the notebook: "d d" would delete the cell.
      if (plain && event.key.length === 1) {
        event.stopPropagation();
      }
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private onMenuKey(event: KeyboardEvent): boolean {
    const items = [...this.menu.children] as HTMLElement[];
    const at = items.indexOf(document.activeElement as HTMLElement);
    if (event.key === 'Escape') {
      this.openMenu(false);
      this.more.focus();
    } else if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      items[(at + (event.key === 'ArrowDown' ? 1 : items.length - 1)) % items.length]!.focus();
    } else {
      return false;
    }
    event.preventDefault();
    event.stopPropagation();
    return true;
  }

  private closeMenuOutside(): () => void {
    const close = (event: Event) => {
      if (!this.menu.hidden && !event.composedPath().includes(this.menu.parentElement!)) {
        this.openMenu(false);
      }
    };
    document.addEventListener('pointerdown', close, true);
    return () => document.removeEventListener('pointerdown', close, true);
  }

  private recolour(): void {
    this.dark = isDark(this.node);
    this.node.dataset.theme = this.dark ? 'dark' : 'light';
    this.view.recolour(this.dark);
  }

  private watchSize(): () => void {
    const observer = new ResizeObserver(entries => {
      const width = Math.floor(entries[0]!.contentRect.width);
      if (width && width !== this.width) {
        this.fit(width);
      }
    });
    observer.observe(this.node);
    return () => observer.disconnect();
  }

  private fit(width: number): void {
    this.width = width;
    const narrow = width < NARROW;
    this.node.toggleAttribute('data-narrow', narrow);
    this.view.fit(width, narrow);
  }

  /** JupyterLab marks a cell whose text is not what was run. */
  private watchCell(): () => void {
    const observer = new MutationObserver(() => look());
    const look = () => {
      const cell = this.node.closest('.jp-CodeCell');
      if (cell && !observing) {
        observing = true;
        observer.observe(cell, { attributes: true, attributeFilter: ['class'] });
      }
      const edited = cell?.classList.contains('jp-mod-dirty') ?? false;
      if (edited !== this.cellStale) {
        this.cellStale = edited;
        this.drawChip();
      }
    };
    let observing = false;
    const later = requestAnimationFrame(look); // by then the node is in its cell
    return () => {
      cancelAnimationFrame(later);
      observer.disconnect();
    };
  }
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches('input:not([type=range]), textarea, select');
}

/** An error in its place, with a way to try again and what Python said folded. */
export function failure(error: Error, retry?: () => void): HTMLElement {
  const again = h('button', { type: 'button' }, 'Try again');
  again.addEventListener('click', () => retry?.());
  const kind = error instanceof KernelError ? error.type : 'The page failed';
  const trace = error instanceof KernelError && error.traceback;
  return h(
    'div',
    { class: 'nbsight-error', role: 'alert' },
    h('strong', {}, kind),
    h('span', {}, error.message),
    trace ? h('details', {}, h('summary', {}, 'Where in Python'), h('pre', {}, trace)) : null,
    retry ? again : null
  );
}
