import type { Cell } from './paint';

/** Where a key leads on a grid, which may be outside of it; null for keys that lead nowhere. */
export function moved(
  { key, ctrlKey, metaKey, altKey }: KeyboardEvent,
  [row, column]: Cell,
  { rows, columns, isDown = false }: { rows: number; columns: number; isDown?: boolean }
): Cell | null {
  if (metaKey || altKey) {
    return null;
  }
  const [top, bottom] = isDown ? [0, rows - 1] : [rows - 1, 0];
  const up = isDown ? -1 : 1;
  const moves: Record<string, Cell> = {
    ArrowUp: [row + up, column],
    ArrowDown: [row - up, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: [ctrlKey ? top : row, 0],
    End: [ctrlKey ? bottom : row, columns - 1],
    PageUp: [top, column],
    PageDown: [bottom, column]
  };
  return moves[key] ?? null;
}
