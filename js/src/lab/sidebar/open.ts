import type { JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { MimeModel } from '@jupyterlab/rendermime';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Panel } from '@lumino/widgets';
import { icon } from './icon';

/** What the kernel answers to `open`. */
export interface Opened {
  title: string;
  data: ReadonlyPartialJSONObject;
  metadata: ReadonlyPartialJSONObject;
}

/** Show a module or a value in a tab beside the notebook, drawn as the notebook itself would draw it. */
export async function openBeside(app: JupyterFrontEnd, panel: NotebookPanel, opened: Opened): Promise<void> {
  const { rendermime } = panel.content;
  // The kernel's own answer to a gesture of this page, not a document from elsewhere.
  const model = new MimeModel({ data: opened.data, metadata: opened.metadata, trusted: true });
  const mime = rendermime.preferredMimeType(model.data, 'any');
  if (!mime) {
    throw new Error(`Nothing here can show ${Object.keys(opened.data).join(', ')}.`);
  }
  const content = new Panel();
  content.addClass('jp-nbsight-opened');
  const renderer = rendermime.createRenderer(mime);
  content.addWidget(renderer);
  const widget = new MainAreaWidget({ content });
  widget.title.label = opened.title;
  widget.title.icon = icon;
  widget.title.caption = `${opened.title} · ${panel.title.label}`;
  widget.title.closable = true;
  panel.disposed.connect(() => widget.dispose());
  app.shell.add(widget, 'main', { mode: 'split-right', ref: panel.id });
  await renderer.renderModel(model);
}
