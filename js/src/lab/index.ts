import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { insertCodeBelow } from './insert';
import { addOutputs } from './output';
import { sidebar } from './sidebar';

const outputs: JupyterFrontEndPlugin<void> = {
  id: 'nbsight:outputs',
  description: 'Draws the saved copy of a view when the kernel that made it is gone.',
  autoStart: true,
  optional: [INotebookTracker],
  activate: (_app: JupyterFrontEnd, notebooks: INotebookTracker | null) => {
    if (notebooks) {
      addOutputs(notebooks);
    }
  }
};

const code: JupyterFrontEndPlugin<void> = {
  id: 'nbsight:insert-code',
  description: 'Puts code that a view offers into a new cell below it.',
  autoStart: true,
  optional: [INotebookTracker],
  activate: (_app: JupyterFrontEnd, notebooks: INotebookTracker | null) => {
    if (notebooks) {
      insertCodeBelow(notebooks);
    }
  }
};

export default [outputs, code, sidebar];
