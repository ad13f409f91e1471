import { quantile } from 'd3-array';
import { clamp } from '../../shared/dom';
import { decode, floats } from '../../shared/payload';
import type { InspectorHeader, State, TileReply, Window } from './types';

export const OUTLIERS = 0.02; // the share of blocks that may leave the colour scale
const ZOOM = 4;
const LEAST = 4; // rows or columns of a window at least

/** A window of a plane in blocks. */
export interface Tile {
  window: Window;
  size: [rows: number, columns: number];
  rows: number;
  columns: number;
  peak: ArrayLike<number>;
  mean: ArrayLike<number>;
}

/** What Python sent of the first plane, whole. */
export function firstTile(header: InspectorHeader, buffer: DataView): Tile {
  const { peak, mean } = decode(header, buffer);
  const [rows, columns] = peak!.shape as [number, number];
  const [down, across] = header.shape.slice(-2) as [number, number];
  return {
    window: [0, down, 0, across],
    size: header.size,
    rows,
    columns,
    peak: peak!.values,
    mean: mean!.values
  };
}

export function tileOf({ window, size, shape }: TileReply, buffers: DataView[]): Tile {
  return {
    window,
    size,
    rows: shape[0],
    columns: shape[1],
    peak: floats(buffers[0]!),
    mean: floats(buffers[1]!)
  };
}

/** How a state differs from the plane that came with the header. */
export function isFirst(header: InspectorHeader, { rows, columns, at }: State): boolean {
  const count = header.shape.length;
  return (
    rows === count - 2 && columns === count - 1 && at.every((index, axis) => axis >= count - 2 || index === 0)
  );
}

/** The state that fits a tensor, whatever was there before. */
export function fitted(header: InspectorHeader, state: State): State {
  const count = header.shape.length;
  const isGood =
    state.at.length === count && state.rows < count && state.columns < count && state.rows !== state.columns;
  return isGood && state.path === header.path
    ? state
    : { path: header.path, rows: count - 2, columns: count - 1, at: header.shape.map(() => 0) };
}

/** Where the colours end: the largest of the blocks but the most extreme. */
export function limitOf(tile: Tile): { limit: number; isCut: boolean } {
  const sizes = Array.from(tile.peak).filter(Number.isFinite).map(Math.abs);
  const limit = quantile(sizes, 1 - OUTLIERS) ?? 0;
  const most = sizes.reduce((a, b) => Math.max(a, b), 0);
  return { limit: limit || most || 1, isCut: most > limit * 1.001 && limit > 0 };
}

/** The rows and columns of a block, as first and last. */
export function rangeOf(tile: Tile, row: number, column: number): Window {
  const [top, bottom, left, right] = tile.window;
  const y = top + row * tile.size[0];
  const x = left + column * tile.size[1];
  return [y, Math.min(bottom, y + tile.size[0]) - 1, x, Math.min(right, x + tile.size[1]) - 1];
}

/** A window a quarter as wide and high about a block, or four times; inside the plane. */
export function zoomed(
  tile: Tile,
  row: number,
  column: number,
  isIn: boolean,
  plane: [number, number]
): Window {
  const [first, last, left, right] = rangeOf(tile, row, column);
  const along = (middle: number, length: number, size: number): [number, number] => {
    const next = clamp(Math.round(isIn ? length / ZOOM : length * ZOOM), Math.min(LEAST, size), size);
    const start = clamp(Math.round(middle - next / 2), 0, size - next);
    return [start, start + next];
  };
  const [top, bottom, a, b] = tile.window;
  return [
    ...along((first + last) / 2, bottom - top, plane[0]),
    ...along((left + right) / 2, b - a, plane[1])
  ] as Window;
}
