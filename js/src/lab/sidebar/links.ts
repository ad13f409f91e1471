import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';
import { KernelLink } from './link';
import { isOver, type JobRow } from './protocol';
import type { KernelJobs } from './sections';

/** The kernels of all notebooks that are open in this page, and the one that is in front. */
export class Links {
  /** Whether nbsight is loaded into kernels that have it, without being asked. */
  autoLoad = false;
  private readonly links = new Map<NotebookPanel, KernelLink>();
  private readonly changes = new Signal<this, void>(this);
  private readonly ends = new Signal<this, { job: JobRow; panel: NotebookPanel }>(this);
  private pending = 0;

  constructor(readonly notebooks: INotebookTracker) {
    notebooks.forEach(panel => {
      this.follow(panel);
    });
    notebooks.widgetAdded.connect((_, panel) => this.follow(panel));
    notebooks.currentChanged.connect(() => this.emit());
  }

  /** Something that is shown may be different; at most once a frame. */
  get changed(): ISignal<this, void> {
    return this.changes;
  }

  get jobEnded(): ISignal<this, { job: JobRow; panel: NotebookPanel }> {
    return this.ends;
  }

  get panel(): NotebookPanel | null {
    return this.notebooks.currentWidget;
  }

  get active(): KernelLink | null {
    const { panel } = this;
    return panel ? (this.links.get(panel) ?? null) : null;
  }

  link(kernel: string): KernelLink | undefined {
    return [...this.links.values()].find(link => link.kernel.id === kernel);
  }

  /** The jobs of the notebook in front, and those of others that are under way. */
  jobs(): KernelJobs[] {
    const groups: KernelJobs[] = [];
    const seen = new Set<string>();
    const { active } = this;
    const ordered = [...this.links].sort(([, one]) => (one === active ? -1 : 0));
    for (const [panel, link] of ordered) {
      if (seen.has(link.kernel.id)) {
        continue; // two views of one notebook
      }
      seen.add(link.kernel.id);
      const isActive = link === active;
      const jobs = isActive ? link.jobs : link.jobs.filter(job => !isOver(job));
      groups.push({ kernel: link.kernel.id, notebook: panel.title.label, isActive, jobs });
    }
    return groups;
  }

  private follow(panel: NotebookPanel): void {
    const attach = (kernel: Kernel.IKernelConnection | null) => {
      const known = this.links.get(panel);
      if (known && known.kernel === kernel) {
        return;
      }
      known?.dispose();
      this.links.delete(panel);
      if (kernel) {
        const link = new KernelLink(kernel);
        this.links.set(panel, link);
        link.changed.connect(() => this.emit());
        link.jobEnded.connect((_, job) => this.ends.emit({ job, panel }));
        if (known) {
          link.lost = known.lost;
        }
        if (this.autoLoad) {
          void this.loadQuietly(link);
        }
      }
      this.emit();
    };
    panel.sessionContext.kernelChanged.connect((_, change) => attach(change.newValue));
    panel.disposed.connect(() => {
      this.links.get(panel)?.dispose();
      this.links.delete(panel);
      this.emit();
    });
    attach(panel.sessionContext.session?.kernel ?? null);
  }

  private async loadQuietly(link: KernelLink): Promise<void> {
    try {
      const info = await link.kernel.info;
      if (info.language_info.name === 'python' && !(await link.look())) {
        await link.load();
      }
    } catch (error) {
      console.info('nbsight: not loaded by itself', error);
    }
  }

  private emit(): void {
    if (!this.pending) {
      this.pending = window.requestAnimationFrame(() => {
        this.pending = 0;
        this.changes.emit();
      });
    }
  }
}
