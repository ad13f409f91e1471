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
  /** the widget that the kernel made for this tab, to be closed with it */
  view?: string;
}

const tabs = new Map<string, MainAreaWidget>();

/** Show a module or a value in a tab beside the notebook, drawn as the notebook itself would draw it. */
export async function openBeside(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  opened: Opened,
  closed: () => void,
  value?: string
): Promise<void> {
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
  const end = () => widget.dispose();
  panel.disposed.connect(end);
  widget.disposed.connect(() => {
    panel.disposed.disconnect(end);
    if (value !== undefined && tabs.get(value) === widget) {
      tabs.delete(value);
    }
    closed();
  });
  if (value !== undefined) {
    closeTab(value); // one tab for a value is enough
    tabs.set(value, widget);
  }
  app.shell.add(widget, 'main', { mode: 'split-right', ref: panel.id });
  await renderer.renderModel(model);
}

/** Close the tab of a value, which would keep it in memory. */
export function closeTab(value: string): void {
  tabs.get(value)?.dispose();
}
