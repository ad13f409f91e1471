import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { PanelLayout, Widget } from '@lumino/widgets';
import { drawStill, type Still } from './still';

const STILL = 'application/vnd.nbsight.view+json';
const LIVE = 'application/vnd.jupyter.widget-view+json';
const RANK = -20; // before the widget manager's own, which shows an error where a model is gone
const PATIENCE = 600; // milliseconds a live view may take before the copy is shown in its place
const PULSE = 150;

/**
 * One output: the live widget where it can live, else the copy that the notebook has kept.
 *
 * The widget manager tells a renderer nothing: it puts a widget into the node, or a sentence. So the
 * node is watched. Until a widget is in it the copy stands there, and it goes when the widget comes.
 */
class Output extends Widget implements IRenderMime.IRenderer {
  private still: Widget | null = null;
  private timer = 0;

  constructor(private readonly rendermime: IRenderMimeRegistry) {
    super({ node: document.createElement('div') });
    this.layout = new PanelLayout();
    this.addClass('jp-nbsight-output');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const layout = this.layout as PanelLayout;
    window.clearInterval(this.timer);
    for (const child of [...layout.widgets]) {
      child.dispose();
    }
    this.still = null;
    // A notebook from elsewhere may bring widget state with code in it: only a trusted one goes live.
    const managed = model.trusted && model.data[LIVE] ? this.rendermime.getFactory(LIVE) : undefined;
    if (!managed) {
      this.showStill(model);
      return;
    }
    const live = this.rendermime.createRenderer(LIVE);
    layout.addWidget(live);
    const since = Date.now();
    this.timer = window.setInterval(() => {
      if (isAlive(live)) {
        live.show();
        this.still?.dispose();
        this.still = null;
        window.clearInterval(this.timer);
      } else if (this.rendermime.getFactory(LIVE) !== managed) {
        // The manager came to this notebook after us; a renderer made before that stays empty.
        void this.renderModel(model);
      } else if (!this.still && (hasFailed(live) || Date.now() - since > PATIENCE)) {
        live.hide();
        this.showStill(model);
      }
    }, PULSE);
    // Not awaited: it may wait for a kernel that never comes.
    live.renderModel(model).catch(error => console.warn('nbsight: no live view', error));
  }

  override dispose(): void {
    window.clearInterval(this.timer);
    super.dispose();
  }

  private showStill(model: IRenderMime.IMimeModel): void {
    const node = drawStill(
      model.data[STILL] as unknown as Still,
      model.data['image/png'] as string | undefined
    );
    this.still = new Widget({ node });
    (this.layout as PanelLayout).addWidget(this.still);
  }
}

/** The manager has put a widget into the renderer's node. */
function isAlive(live: Widget): boolean {
  return live.node.querySelector('.lm-Widget') !== null;
}

function hasFailed(live: Widget): boolean {
  return live.node.textContent?.startsWith('Error displaying widget') ?? false;
}

export function addOutputs(notebooks: INotebookTracker): void {
  const add = ({ content: { rendermime } }: NotebookPanel) => {
    const createRenderer = () => new Output(rendermime);
    // safe: the views write text only, whatever the notebook contains
    rendermime.addFactory({ safe: true, mimeTypes: [STILL], createRenderer }, RANK);
  };
  notebooks.forEach(add);
  notebooks.widgetAdded.connect((_, panel) => add(panel));
}
