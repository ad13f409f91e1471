import type { Swatch } from './palette';

/** Row and column, both counted from 0. */
export type Cell = [row: number, column: number];

export interface HeatmapSpec {
  /** what it is, for those who do not see it */
  name: string;
  rows: readonly string[];
  columns: number;
  /** whether row 0 is at the top, as in text; else at the bottom, as layers are */
  isDown?: boolean;
  /** what stands at the left of the labels above and below */
  corners?: [head: string, foot: string];
  swatch(row: number, column: number, dark: boolean): Swatch;
  /** written into the cell where there is room */
  text?(row: number, column: number): string;
  /** what a cell says when it is read out */
  describe(row: number, column: number): string;
  /** strokes across a cell: nothing is known, or nothing can be */
  hatched?(row: number, column: number): boolean;
  /** labels above and below the columns */
  head?: { height: number; make(column: number): HTMLElement };
  foot?: { height: number; make(column: number): HTMLElement };
  column: [least: number, most: number];
  row?: number;
  /** width of the labels at the left */
  label?: number;
}

/** The row of a line, or the line of a row, counted from the top. */
export function flipped(spec: Pick<HeatmapSpec, 'isDown' | 'rows'>, index: number): number {
  return spec.isDown ? index : spec.rows.length - 1 - index;
}

/** What is painted of a heatmap, and how large. */
export interface Painted {
  first: number;
  last: number;
  above: number;
  below: number;
  width: number;
  height: number;
  left: number;
  top: number;
  dark: boolean;
  font: string;
}

/** Paint the cells of a window of a heatmap; the canvas is as large as the window. */
export function paint(canvas: HTMLCanvasElement, spec: HeatmapSpec, part: Painted): void {
  const ratio = Math.min(3, globalThis.devicePixelRatio || 1);
  const [wide, high] = [(part.last - part.first) * part.width, (part.below - part.above) * part.height];
  canvas.width = Math.max(1, Math.round(wide * ratio));
  canvas.height = Math.max(1, Math.round(high * ratio));
  canvas.style.cssText = `left: ${part.left}px; top: ${part.top}px; width: ${wide}px; height: ${high}px`;
  const pen = canvas.getContext('2d');
  if (!pen) {
    return; // a page that draws nothing: labels, marks and the table remain
  }
  pen.scale(ratio, ratio);
  const least = Math.min(part.width, part.height);
  const gap = least >= 10 ? 1.5 : least >= 6 ? 0.5 : 0;
  pen.font = `11px ${part.font || 'sans-serif'}`;
  pen.textAlign = 'center';
  pen.textBaseline = 'middle';
  for (let line = part.above; line < part.below; line++) {
    const row = flipped(spec, line);
    for (let column = part.first; column < part.last; column++) {
      const { fill, ink } = spec.swatch(row, column, part.dark);
      const [x, y] = [(column - part.first) * part.width, (line - part.above) * part.height];
      const [w, h] = [part.width - gap, part.height - gap];
      pen.fillStyle = fill;
      pen.fillRect(x, y, w, h);
      if (spec.hatched?.(row, column)) {
        hatch(pen, x, y, w, h, part.dark);
      }
      const text = part.width >= 34 && part.height >= 15 ? spec.text?.(row, column) : undefined;
      if (text) {
        pen.fillStyle = ink;
        pen.fillText(text, x + w / 2, y + h / 2 + 0.5, w - 4);
      }
    }
  }
}

function hatch(
  pen: CanvasRenderingContext2D,
  x: number,
  y: number,
  w: number,
  h: number,
  dark: boolean
): void {
  pen.strokeStyle = dark ? 'rgb(255 255 255 / 22%)' : 'rgb(29 39 51 / 20%)';
  pen.lineWidth = 1;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w, h);
  pen.clip();
  pen.beginPath();
  for (let at = x - h; at < x + w; at += 6) {
    pen.moveTo(at, y + h);
    pen.lineTo(at + h, y);
  }
  pen.stroke();
  pen.restore();
}
