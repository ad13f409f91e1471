import type { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import type { Actions } from './actions';
import type { Links } from './links';
import { PROTOCOL } from './protocol';
import { type Shown, SidebarView, type ViewOptions } from './view';
import type { Words } from './words';

/** The left panel: shows the links' state whenever it changes and can be seen. */
export class SidebarPanel extends Widget {
  private readonly view: SidebarView;

  constructor(
    private readonly links: Links,
    actions: Actions,
    private readonly words: Words,
    options: ViewOptions
  ) {
    super();
    this.id = 'nbsight-sidebar';
    this.addClass('jp-nbsight-sidebar');
    this.node.tabIndex = -1;
    this.view = new SidebarView(this.node, actions, words, options);
    links.changed.connect(() => this.update());
    this.update();
  }

  say(text: string, isError = false): void {
    this.view.say(text, isError);
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    const first = this.node.querySelector<HTMLElement>('.jp-nbsight-load:not([hidden]), [tabindex="0"]');
    (first ?? this.node).focus();
  }

  protected override onBeforeShow(): void {
    this.update();
  }

  protected override onUpdateRequest(): void {
    if (this.isVisible || !this.isAttached) {
      this.view.update(shown(this.links, this.words));
    }
  }
}

/** What there is to say of the notebook in front. */
export function shown(links: Links, words: Words): Shown {
  const { active, panel } = links;
  const common = {
    jobs: links.jobs(),
    notebook: panel?.title.label ?? '',
    isBusy: false,
    state: null,
    note: ''
  };
  if (!panel) {
    return { ...common, status: 'no-notebook', note: words.__('Open a notebook to see its models here.') };
  }
  if (!active) {
    return { ...common, status: 'no-kernel', note: words.__('This notebook has no kernel.') };
  }
  const { mirror, kernel } = active;
  const isBusy = kernel.status === 'busy';
  if (mirror.other !== null) {
    const older = mirror.other < PROTOCOL;
    const note = words.__(
      'The kernel has nbsight %1 (protocol %2), this page protocol %3. %4',
      mirror.version,
      mirror.other,
      PROTOCOL,
      older
        ? words.__('Run `pip install -U nbsight` for the kernel and restart it.')
        : words.__('Run `pip install -U nbsight` where JupyterLab runs and reload this page.')
    );
    return { ...common, isBusy, status: 'other-version', note };
  }
  if (!active.isConnected || !mirror.state) {
    return {
      ...common,
      isBusy,
      status: 'unloaded',
      note: isBusy
        ? words.__('The kernel is running a cell.')
        : words.__('nbsight is not loaded in this kernel. Loading it is what %load_ext nbsight does.')
    };
  }
  const note = active.waitingLong ? words.__('Queued: the kernel is running a cell.') : '';
  return { ...common, isBusy, status: 'connected', note, state: mirror.state };
}
