import { type INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { INSERT_CODE } from '../shared/code';

/** Make a cell of the code that a view offers, below the view's own. Nothing is run. */
export function insertCodeBelow(notebooks: INotebookTracker): void {
  document.addEventListener(INSERT_CODE, (event: Event) => {
    const source = event.composedPath()[0] as Node;
    const code: unknown = (event as CustomEvent).detail?.code;
    const notebook = notebooks.find(panel => panel.node.contains(source))?.content;
    if (!notebook || typeof code !== 'string' || notebook.model?.readOnly) {
      return; // nobody took it: the view uses the clipboard
    }
    const index = notebook.widgets.findIndex(cell => cell.node.contains(source));
    if (index >= 0) {
      notebook.activeCellIndex = index;
    }
    NotebookActions.insertBelow(notebook);
    notebook.activeCell?.model.sharedModel.setSource(code);
    event.preventDefault();
  });
}
