/** What the kernel tells of itself (nbsight/notebook/session.py has the list of messages). */

import type { JobRow } from '../../shared/jobs';

export { isOver, type JobRow, type JobState } from '../../shared/jobs';

export const TARGET = 'nbsight.session';
export const PROTOCOL = 1;

export interface ModelCard {
  id: string;
  expression: string | null;
  label: string;
  class: string;
  kind: string;
  parameters: number;
  bytes: number;
  dtype: string;
  devices: string[];
  loaded: boolean;
  sizes: Record<string, number>;
  verified: { ok: boolean; text: string } | null;
  edits: number;
  copyOf: string | null;
}

export interface SavedRow {
  id: string;
  name: string | null;
  freeable: boolean;
  shape: number[];
  dtype: string;
  device: string;
  bytes: number;
  path: string | null;
  where: string;
  cell: number | null;
  line: number | null;
  text: string;
}

export interface EditRow {
  id: string;
  models: (string | null)[];
  enabled: boolean;
  text: string;
  where: string;
}

export interface RunRow {
  id: string;
  name: string | null;
  model: string;
  given: string;
  place: string;
  progress: string;
  done: number;
  total: number;
}

export interface Holder {
  kind: 'model' | 'name' | 'output';
  label: string;
  name: string;
  bytes: number;
  count: number;
}

export interface Memory {
  process: number | null;
  devices: { name: string; used: number; taken: number; total: number }[];
  holders: Holder[];
}

export interface State {
  models: ModelCard[];
  saved: SavedRow[];
  edits: EditRow[];
  runs: RunRow[];
  jobs: JobRow[];
  memory: Memory;
}

export interface ModuleRow {
  path: string;
  name: string;
  class: string;
  children: number;
  parameters: number;
  bytes: number;
  expression: string;
  shape: string;
  meaning: string;
}

export interface ModuleList {
  rows: ModuleRow[];
  pending: boolean;
  found?: number;
}

export type Message =
  | { op: 'state'; protocol: number; version: string; seq: number; state: State }
  | { op: 'changed'; seq: number; sections: Partial<State> }
  | { op: 'job'; seq: number; job: JobRow }
  | { op: 'reply'; id: string; ok: boolean; result?: unknown; error?: string; type?: string }
  | { op: 'bye'; seq: number };

/** A kernel's state as far as this page knows it. */
export class Mirror {
  state: State | null = null;
  version = '';
  /** The kernel's protocol, if it is not ours. */
  other: number | null = null;
  private seq = 0;

  /** Take a message in. False: one is missing, and the whole state has to be asked for. */
  take(message: Message): boolean {
    switch (message.op) {
      case 'state':
        this.version = message.version;
        this.seq = message.seq;
        this.other = message.protocol === PROTOCOL ? null : message.protocol;
        this.state = this.other === null ? message.state : null;
        return true;
      case 'changed':
        if (this.state) {
          this.state = { ...this.state, ...message.sections };
        }
        return this.follows(message.seq);
      case 'job':
        if (this.state) {
          this.state = { ...this.state, jobs: withJob(this.state.jobs, message.job) };
        }
        return this.follows(message.seq);
      case 'bye':
        this.clear();
        return true;
      default:
        return true;
    }
  }

  /** The kernel is gone, and with it everything but the memory of its jobs. */
  clear(): void {
    this.state = null;
    this.seq = 0;
    this.other = null;
  }

  private follows(seq: number): boolean {
    const next = this.seq + 1;
    this.seq = Math.max(this.seq, seq);
    return seq <= next && (this.state !== null || this.other !== null);
  }
}

function withJob(jobs: JobRow[], job: JobRow): JobRow[] {
  const index = jobs.findIndex(known => known.id === job.id);
  return index < 0 ? [...jobs, job] : jobs.map(known => (known.id === job.id ? job : known));
}
