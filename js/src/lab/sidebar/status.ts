import { Widget } from '@lumino/widgets';
import type { Links } from './links';
import { isOver } from './protocol';
import type { Words } from './words';

/** The item of the status bar: which jobs run, in all notebooks; a click shows the sidebar. */
export class StatusItem extends Widget {
  private readonly button = document.createElement('button');

  constructor(
    private readonly links: Links,
    private readonly words: Words,
    open: () => void
  ) {
    super();
    this.addClass('jp-nbsight-status');
    this.button.type = 'button';
    this.button.addEventListener('click', open);
    this.node.append(this.button);
    links.changed.connect(() => this.draw());
    this.draw();
  }

  /** Whether there is anything to say. */
  get isActive(): boolean {
    return this.links.active?.isConnected === true || this.running().length > 0;
  }

  private running() {
    return this.links.jobs().flatMap(group => group.jobs.filter(job => !isOver(job)));
  }

  private draw(): void {
    const jobs = this.running();
    const total = jobs.reduce((sum, job) => sum + (job.total ?? 0), 0);
    const done = jobs.reduce((sum, job) => sum + (job.total ? job.done : 0), 0);
    const share = total ? ` ${Math.floor((100 * done) / total)} %` : '';
    const text = jobs.length
      ? this.words._n('nbsight: %1 job', 'nbsight: %1 jobs', jobs.length) + share
      : 'nbsight';
    if (this.button.textContent !== text) {
      this.button.textContent = text;
      this.button.title = this.words.__('Show the nbsight sidebar');
    }
  }
}
