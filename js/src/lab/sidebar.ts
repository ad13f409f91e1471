import {
  ILabShell,
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker, type NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import type { Actions } from './sidebar/actions';
import { icon, iconElement } from './sidebar/icon';
import { insertCell, insertExpression } from './sidebar/insert';
import type { KernelLink } from './sidebar/link';
import { Links } from './sidebar/links';
import { closeTab, type Opened, openBeside } from './sidebar/open';
import { SidebarPanel } from './sidebar/panel';
import type { JobRow, ModuleList } from './sidebar/protocol';
import { StatusItem } from './sidebar/status';
import { duration } from './sidebar/words';

const ID = 'nbsight:sidebar';
const OPEN_SECTIONS = 'nbsight:sections'; // in the browser's storage
const PATIENCE = 2000; // milliseconds in which a kernel that can cancel a job says so

const COMMANDS = {
  show: 'nbsight:show',
  load: 'nbsight:load',
  refresh: 'nbsight:refresh',
  insertCode: 'nbsight:insert-code',
  openName: 'nbsight:open-name',
  close: 'nbsight:hide'
} as const;

/** The sidebar, its commands, and everything that leads to it. */
export const sidebar: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'A sidebar with the models, values, edits, runs and jobs of the kernel in front.',
  autoStart: true,
  requires: [INotebookTracker],
  // without any of these the rest works: Notebook 7 has no launcher, and a bare page no settings
  optional: [
    ICommandPalette,
    ILabShell,
    ILauncher,
    ILayoutRestorer,
    ISettingRegistry,
    IStatusBar,
    ITranslator
  ],
  activate
};

function activate(
  app: JupyterFrontEnd,
  notebooks: INotebookTracker,
  palette: ICommandPalette | null,
  labShell: ILabShell | null,
  launcher: ILauncher | null,
  restorer: ILayoutRestorer | null,
  settings: ISettingRegistry | null,
  statusBar: IStatusBar | null,
  translator: ITranslator | null
): void {
  const words = (translator ?? nullTranslator).load('nbsight');
  const links = new Links(notebooks);
  const preferences = { notifications: 'detached' };
  const panel: SidebarPanel = new SidebarPanel(links, actionsOf(app, links, words, said), words, {
    open: remembered(),
    remember: (name, open) =>
      localStorage.setItem(OPEN_SECTIONS, JSON.stringify({ ...remembered(), [name]: open })),
    load: () => loadInto(links.active)
  });
  panel.title.icon = icon;
  panel.title.caption = words.__('nbsight: models, values and jobs of this notebook');
  app.shell.add(panel, 'left', { rank: 450, type: 'nbsight' });
  restorer?.add(panel, panel.id);

  function said(text: string, isError = false): void {
    panel.say(text, isError);
  }

  async function loadInto(link: KernelLink | null): Promise<void> {
    try {
      await link?.load();
      said('');
    } catch (error) {
      said(words.__('nbsight could not be loaded. %1', (error as Error).message), true);
    }
  }

  const show = () => app.shell.activateById(panel.id);
  addCommands(app, links, words, show, () => loadInto(links.active), said, labShell);
  for (const command of [COMMANDS.show, COMMANDS.load, COMMANDS.refresh, COMMANDS.openName]) {
    palette?.addItem({ command, category: 'nbsight' });
  }
  launcher?.add({ command: COMMANDS.show, category: words.__('Other'), rank: 40 });
  if (statusBar) {
    const item = new StatusItem(links, words, show);
    statusBar.registerStatusItem('nbsight:jobs', {
      item,
      align: 'left',
      rank: 60,
      isActive: () => item.isActive,
      activeStateChanged: links.changed as never
    });
  }
  links.changed.connect(() => app.commands.notifyCommandChanged());
  links.jobEnded.connect((_, { job, panel: notebook }) => {
    const wanted =
      preferences.notifications === 'all' || (preferences.notifications === 'detached' && job.detached);
    if (wanted) {
      notify(job, notebook.title.label, words, show);
    }
  });
  settings?.load(ID).then(
    loaded => {
      const apply = () => {
        links.autoLoad = loaded.get('autoLoad').composite as boolean;
        preferences.notifications = loaded.get('notifications').composite as string;
        panel.toggleClass('jp-mod-noshapes', loaded.get('showShapes').composite === false);
      };
      loaded.changed.connect(apply);
      apply();
    },
    error => console.warn('nbsight: no settings', error)
  );
}

function addCommands(
  app: JupyterFrontEnd,
  links: Links,
  words: TranslationBundle,
  show: () => void,
  load: () => Promise<void>,
  say: (text: string, isError?: boolean) => void,
  labShell: ILabShell | null
): void {
  const { commands } = app;
  commands.addCommand(COMMANDS.show, {
    label: words.__('Show the nbsight Sidebar'),
    caption: words.__('Models, saved values, edits, runs and jobs of the notebook in front'),
    icon,
    execute: show
  });
  commands.addCommand(COMMANDS.close, {
    label: words.__('Hide the nbsight Sidebar'),
    isEnabled: () => labShell !== null,
    execute: () => labShell?.collapseLeft()
  });
  commands.addCommand(COMMANDS.load, {
    label: words.__('Load nbsight in the Kernel of This Notebook'),
    isEnabled: () => links.active !== null && !links.active.isConnected,
    execute: load
  });
  commands.addCommand(COMMANDS.refresh, {
    label: words.__('Refresh the nbsight Sidebar'),
    isEnabled: () => links.active !== null,
    execute: async () => {
      if (links.active?.isConnected) {
        links.active.refresh();
      } else {
        await links.active?.look();
      }
    }
  });
  commands.addCommand(COMMANDS.insertCode, {
    label: words.__('Insert Code in a New Cell Below'),
    caption: words.__('For views of nbsight; the cell is not run'),
    execute: args => insertCell(links.notebooks, args)
  });
  commands.addCommand(COMMANDS.openName, {
    label: words.__('Open in nbsight'),
    caption: words.__('Open what the cursor is on, a model, module or value, beside the notebook'),
    icon,
    isEnabled: () => links.active?.isConnected === true,
    isVisible: () => links.active !== null,
    execute: async () => {
      const { active, panel } = links;
      const expression = expressionAtCursor(panel?.content.activeCell?.editor ?? null);
      if (!active || !panel || !expression) {
        return;
      }
      try {
        await openInTab(app, panel, active, await active.request<Opened>('open', { expression }));
      } catch (error) {
        show();
        say((error as Error).message, true);
      }
    }
  });
}

function actionsOf(
  app: JupyterFrontEnd,
  links: Links,
  words: TranslationBundle,
  say: (text: string, isError?: boolean) => void
): Actions {
  /** Ask the active kernel; say what it said, and show what went wrong. */
  const ask = async <T>(op: string, data: object, link = links.active): Promise<T> => {
    if (!link) {
      throw new Error(words.__('This notebook has no kernel.'));
    }
    try {
      const result = await link.request<T>(op, data);
      say(typeof result === 'string' ? result : '');
      return result;
    } catch (error) {
      say((error as Error).message, true);
      throw error;
    }
  };
  /** The same without a word. Between two notebooks there is no kernel for a moment. */
  const look = async (op: string, data: object): Promise<ModuleList> => {
    const link = links.active;
    if (!link) {
      throw new Error(words.__('This notebook has no kernel.'));
    }
    return link.request<ModuleList>(op, data);
  };
  const open = async (data: object, value?: string): Promise<void> => {
    const { panel, active } = links;
    try {
      const opened = await ask<Opened>('open', data);
      if (panel && active) {
        await openInTab(app, panel, active, opened, value && `${active.kernel.id} ${value}`);
      }
    } catch (error) {
      say((error as Error).message, true);
    }
  };
  return {
    children: (model, path) => look('children', { model: model.id, path }),
    find: (model, text) => look('find', { model: model.id, text }),
    insert: expression => {
      if (!insertExpression(links.panel, expression)) {
        say(words.__('There is no cell to insert %1 in.', expression), true);
      }
    },
    insertCell: code => {
      if (!insertCell(links.notebooks, { code })) {
        say(words.__('There is no notebook to insert a cell in.'), true);
      }
    },
    openModule: (model, path) => void open({ model: model.id, path }),
    openValue: row => void open({ value: row.id }, row.id),
    act: (op, data) => {
      if (op === 'free' && links.active && typeof data.value === 'string') {
        closeTab(`${links.active.kernel.id} ${data.value}`);
      }
      return ask(op, data);
    },
    cancel: async (kernel, job) => {
      const link = links.link(kernel);
      const asked = ask('cancel-job', { job: job.id }, link);
      const late = new Promise<'late'>(resolve => window.setTimeout(() => resolve('late'), PATIENCE));
      if ((await Promise.race([asked, late])) === 'late' && link && !job.detached) {
        // A kernel that answers only between cells: the sweep stops as by the stop button.
        await link.kernel.interrupt();
      }
      await asked;
    },
    log: async (kernel, job) => {
      const link = links.link(kernel);
      return (await ask<{ lines: string[] }>('job-log', { job: job.id }, link)).lines;
    },
    icon: iconElement
  };
}

/** Show in a tab what the kernel has opened; it is told when the tab is closed. */
function openInTab(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  link: KernelLink,
  opened: Opened,
  value?: string
): Promise<void> {
  const closed = () => {
    if (opened.view && link.isConnected) {
      void link.request('close-view', { view: opened.view }).catch(() => undefined); // the kernel went first
    }
  };
  return openBeside(app, panel, opened, closed, value);
}

function notify(job: JobRow, notebook: string, words: TranslationBundle, show: () => void): void {
  const title = `${job.title} (${notebook})`;
  const actions = [{ label: words.__('Show'), callback: show }];
  switch (job.state) {
    case 'done':
      Notification.success(words.__('%1 is done, after %2.', title, duration(job.seconds)), { actions });
      break;
    case 'failed':
      Notification.error(words.__('%1 failed: %2', title, job.error), { actions });
      break;
    case 'lost':
      if (job.kind !== 'remote') {
        Notification.warning(words.__('%1 ended with its kernel.', title), { actions });
      }
      break;
    default:
      Notification.info(words.__('%1 was stopped.', title), { actions });
  }
}

/** The dotted expression at the cursor, or what is selected. */
function expressionAtCursor(editor: import('@jupyterlab/codeeditor').CodeEditor.IEditor | null): string {
  if (!editor) {
    return '';
  }
  const { start, end } = editor.getSelection();
  const from = editor.getOffsetAt(start);
  const to = editor.getOffsetAt(end);
  const text = editor.model.sharedModel.getSource();
  if (from !== to) {
    return text.slice(Math.min(from, to), Math.max(from, to)).trim();
  }
  const before = /[\w.[\]'"-]*$/.exec(text.slice(0, from))?.[0] ?? '';
  const after = /^[\w[\]'"]*/.exec(text.slice(from))?.[0] ?? '';
  return before + after;
}

function remembered(): Record<string, boolean> {
  try {
    return JSON.parse(localStorage.getItem(OPEN_SECTIONS) ?? '{}') as Record<string, boolean>;
  } catch {
    return {};
  }
}
