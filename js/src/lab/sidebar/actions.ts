import type { JobRow, ModelCard, ModuleList, SavedRow } from './protocol';

/** What the views ask for; the panel does it. Views know neither the kernel nor JupyterLab. */
export interface Actions {
  children(model: ModelCard, path: string): Promise<ModuleList>;
  find(model: ModelCard, text: string): Promise<ModuleList>;
  insert(expression: string): void;
  /** Make a cell below the active one; it is not run. */
  insertCell(code: string): void;
  openModule(model: ModelCard, path: string): void;
  openValue(row: SavedRow): void;
  /** Something that changes the kernel; a failure is shown by whoever does it. */
  act(request: string, data: Record<string, unknown>): Promise<unknown>;
  cancel(kernel: string, job: JobRow): Promise<void>;
  log(kernel: string, job: JobRow): Promise<string[]>;
  icon(name: IconName): Element;
}

export type IconName = 'caret' | 'open' | 'free' | 'stop' | 'log' | 'remove' | 'fetch';
