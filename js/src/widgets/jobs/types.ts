import type { JobRow } from '../../shared/jobs';
import type { Header } from '../../shared/payload';

/** The id of a job. */
export type Place = [job: string];

export interface JobsHeader extends Header {
  view: 'jobs';
  /** newest first */
  jobs: JobRow[];
  /** how many more there are */
  older: number;
  /** one job under the cell that waits for it */
  single: boolean;
  /** seconds since 1970 when this was so */
  at: number;
  code: string;
  provenance: Record<string, unknown>;
}

export interface State {
  /** ids of jobs whose log is open */
  logs: string[];
}
