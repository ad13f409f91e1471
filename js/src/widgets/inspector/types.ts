import type { Header } from '../../shared/payload';

/** One index for each axis. */
export type Place = number[];

/** A tensor or a module that can be opened. */
export interface Entry {
  path: string;
  kind: string;
  bytes: number;
  /** whether its values are at hand, so that opening it runs nothing */
  saved: boolean;
}

export interface InspectorHeader extends Header {
  view: 'inspector';
  model: string;
  path: string;
  entries: Entry[];
  shape: number[];
  axes: string[];
  dtype: string;
  device: string;
  bytes: number;
  /** texts along the axis called "position" */
  tokens: string[];
  statistics: Record<string, number | null>;
  /** ends of the histogram */
  edges: [number, number];
  channels: { channel: number; size: number }[];
  /** rows and columns in one block of the first picture */
  size: [number, number];
  code: string;
  code_at: string;
  provenance: Record<string, unknown>;
}

export interface State {
  path: string;
  rows: number;
  columns: number;
  at: number[];
}

/** First row, the one after the last, first column, the one after the last. */
export type Window = [top: number, bottom: number, left: number, right: number];

/** What Python says of a window. */
export interface TileReply {
  window: Window;
  size: [number, number];
  shape: [number, number];
}
