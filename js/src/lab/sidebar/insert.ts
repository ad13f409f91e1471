import { type INotebookTracker, NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';

/** Put an expression where the cursor is, in the code cell that is in front, else in a new one. */
export function insertExpression(panel: NotebookPanel | null, expression: string): boolean {
  const notebook = panel?.content;
  if (!panel || !notebook || notebook.model?.readOnly) {
    return false;
  }
  if (notebook.activeCell?.model.type !== 'code') {
    NotebookActions.insertBelow(notebook);
  }
  const cell = notebook.activeCell;
  const editor = cell?.editor;
  if (!cell || !editor?.replaceSelection) {
    return false;
  }
  editor.replaceSelection(expression);
  panel.activate();
  notebook.mode = 'edit';
  editor.focus();
  return true;
}

/**
 * Make a new code cell below the active one. It is never run, and the notebook's undo takes it away.
 *
 * Args: `code`, and `notebook` (a path) where it is not the notebook in front.
 */
export function insertCell(notebooks: INotebookTracker, args: Record<string, unknown>): boolean {
  const { code, notebook: path } = args;
  const panel =
    typeof path === 'string' ? notebooks.find(one => one.context.path === path) : notebooks.currentWidget;
  if (!panel || typeof code !== 'string' || panel.content.model?.readOnly) {
    return false;
  }
  NotebookActions.insertBelow(panel.content);
  panel.content.activeCell?.model.sharedModel.setSource(code);
  return true;
}
