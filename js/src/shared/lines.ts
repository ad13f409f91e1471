import { extent } from 'd3-array';
import { scaleLinear, scaleLog } from 'd3-scale';
import { clamp, h } from './dom';
import { type Inks, inks } from './palette';
import { drawn, escaped, label, MONO, sheet, shorten, tag } from './svg';
import { number } from './tokens';

export interface Line {
  name: string;
  values: ArrayLike<number>;
  colour: string;
  dashes?: string;
  /** how it stands out: pale lines are the many, strong ones are named at their end */
  strength: 'pale' | 'strong';
  /** written in the letters of tokens */
  isToken?: boolean;
}

export interface LinesSpec {
  title: string;
  x: readonly string[];
  xTitle: string;
  yTitle: string;
  lines: readonly Line[];
  isLog: boolean;
  /** where the y axis ends; by default where the values do */
  limits?: [number, number];
}

interface Size {
  width: number;
  height: number;
}

const EDGES = { left: 54, right: 118, top: 12, bottom: 38 };

/** Lines over layers; hovering finds the nearest. */
export class Lines {
  readonly node = h('div', { class: 'nbsight-lines' });
  private size: Size = { width: 560, height: 250 };
  private dark = false;
  private marked: number | null = null;

  constructor(
    private spec: LinesSpec,
    private readonly events: {
      point(line: number | null, place: number | null): void;
      choose(line: number, place: number): void;
    }
  ) {
    this.node.addEventListener('pointermove', event => {
      const found = this.nearest(event);
      this.events.point(found?.[0] ?? null, found?.[1] ?? null);
    });
    this.node.addEventListener('pointerleave', () => this.events.point(null, null));
    this.node.addEventListener('click', event => {
      const found = this.nearest(event);
      if (found) {
        this.events.choose(...found);
      }
    });
  }

  show(spec: LinesSpec): void {
    this.spec = spec;
    this.draw();
  }

  resize(width: number): void {
    this.size = { ...this.size, width: clamp(width, 300, 760) };
    this.draw();
  }

  recolour(dark: boolean): void {
    this.dark = dark;
    this.draw();
  }

  /** Mark a place on the x axis, as of a layer that is pointed at elsewhere. */
  mark(place: number | null): void {
    if (place !== this.marked) {
      this.marked = place;
      this.placeMark();
    }
  }

  /** The mark alone: what it moves over may be a hundred lines. */
  private placeMark(): void {
    const svg = this.node.firstElementChild;
    svg?.querySelector('[data-mark]')?.remove();
    if (!svg || this.marked === null || this.marked >= this.spec.x.length) {
      return;
    }
    const mark = document.createElementNS('http://www.w3.org/2000/svg', 'line');
    const at = String(along(this.spec, this.size)(this.marked));
    const attributes = {
      x1: at,
      x2: at,
      y1: EDGES.top,
      y2: this.size.height - EDGES.bottom,
      stroke: inks(this.dark).ring,
      'stroke-dasharray': '3 3',
      'data-mark': ''
    };
    for (const [name, value] of Object.entries(attributes)) {
      mark.setAttribute(name, String(value));
    }
    svg.append(mark);
  }

  private draw(): void {
    this.node.replaceChildren(drawn(linesSvg(this.spec, this.size, inks(this.dark))));
    this.placeMark();
  }

  private nearest(event: MouseEvent): [number, number] | null {
    const box = this.node.firstElementChild?.getBoundingClientRect();
    if (!box?.width) {
      return null;
    }
    const by = box.width / this.size.width;
    const [x, y] = [(event.clientX - box.left) / by, (event.clientY - box.top) / by];
    const at = axes(this.spec, this.size);
    const place = Math.round(at.x.invert(x));
    if (place < 0 || place >= this.spec.x.length) {
      return null;
    }
    const away = this.spec.lines.map(line => Math.abs(at.y(line.values[place]!) - y));
    const line = away.reduce((best, d, i) => (d < (away[best] ?? Infinity) ? i : best), -1);
    return line >= 0 && away[line]! < 24 ? [line, place] : null;
  }
}

function axes({ lines, x, isLog, limits }: LinesSpec, { width, height }: Size) {
  const known = lines.flatMap(line =>
    Array.from(line.values).filter(v => Number.isFinite(v) && (!isLog || v > 0))
  );
  const [low = 0, high = 1] = limits ?? (extent(known) as [number | undefined, number | undefined]);
  const range = [height - EDGES.bottom, EDGES.top];
  const y = isLog
    ? scaleLog([Math.max(low, 1e-9), high > low ? high : low * 10], range)
    : scaleLinear([Math.min(0, low), high > low ? high : low + 1], range).nice(5);
  return {
    x: along({ x }, { width }),
    y: y.clamp(true)
  };
}

function along({ x }: Pick<LinesSpec, 'x'>, { width }: Pick<Size, 'width'>) {
  return scaleLinear([0, Math.max(1, x.length - 1)], [EDGES.left, width - EDGES.right]);
}

/** The picture of lines, for the page and for files. */
export function linesSvg(spec: LinesSpec, size: Size, colours: Inks): string {
  const { x, y } = axes(spec, size);
  const parts: string[] = [`<title>${escaped(spec.title)}</title>`];
  const [x0, x1] = [EDGES.left, size.width - EDGES.right];
  const ticks = spec.isLog ? thinned(y.ticks(5)) : y.ticks(5);
  const named = spec.isLog ? (tick: number) => number(tick, 2) : y.tickFormat(5);
  for (const tick of ticks) {
    const at = y(tick);
    parts.push(tag('line', { x1: x0, x2: x1, y1: at, y2: at, stroke: colours.line, 'stroke-width': 1 }));
    parts.push(
      label(named(tick), x0 - 8, at + 3.5, { fill: colours.muted, 'text-anchor': 'end', 'font-size': 10.5 })
    );
  }
  const every = Math.max(1, Math.ceil(spec.x.length / ((x1 - x0) / 26)));
  spec.x.forEach((name, i) => {
    if (i % every === 0) {
      parts.push(
        label(name, x(i), size.height - EDGES.bottom + 16, {
          fill: colours.muted,
          'text-anchor': 'middle',
          'font-size': 10.5
        })
      );
    }
  });
  parts.push(
    label(spec.xTitle, (x0 + x1) / 2, size.height - 6, { fill: colours.muted, 'text-anchor': 'middle' })
  );
  const turn = `translate(12 ${(EDGES.top + size.height - EDGES.bottom) / 2}) rotate(-90)`;
  parts.push(label(spec.yTitle, 0, 0, { fill: colours.muted, 'text-anchor': 'middle', transform: turn }));
  const ordered = [...spec.lines].sort(
    (a, b) => Number(a.strength === 'strong') - Number(b.strength === 'strong')
  );
  const ends: { at: number; line: Line }[] = [];
  for (const line of ordered) {
    const strong = line.strength === 'strong';
    parts.push(
      tag('path', {
        d: pathOf(line.values, x, y, spec.isLog),
        fill: 'none',
        stroke: line.colour,
        'stroke-width': strong ? 2 : 1,
        'stroke-opacity': strong ? 1 : 0.5,
        'stroke-dasharray': strong ? line.dashes : undefined,
        'stroke-linejoin': 'round'
      })
    );
    if (strong) {
      const last = line.values[line.values.length - 1]!;
      ends.push({
        at: Number.isFinite(last) ? y(spec.isLog ? Math.max(last, 1e-9) : last) : EDGES.top,
        line
      });
    }
  }
  // Names at the ends of lines, moved apart where they would lie on each other.
  ends.sort((a, b) => a.at - b.at);
  let above = -Infinity;
  const places = ends.map(({ at }) => {
    above = Math.max(at, above + 13);
    return above;
  });
  const over = Math.max(0, above - (size.height - EDGES.bottom + 4));
  ends.forEach(({ line }, i) => {
    const font = line.isToken ? { 'font-family': MONO } : {};
    parts.push(
      label(shorten(line.name, 16), x1 + 8, places[i]! - over + 3.5, {
        fill: line.colour,
        'font-weight': 600,
        ...font
      })
    );
  });
  return sheet(size.width, size.height, parts.join(''), undefined);
}

function pathOf(
  values: ArrayLike<number>,
  x: (v: number) => number,
  y: (v: number) => number,
  isLog: boolean
): string {
  let pen = 'M';
  let path = '';
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value) || (isLog && value <= 0)) {
      pen = 'M'; // a hole stays a hole
      continue;
    }
    path += `${pen}${x(i).toFixed(1)},${y(value).toFixed(1)}`;
    pen = 'L';
  }
  return path;
}

function thinned(ticks: number[]): number[] {
  const tens = ticks.filter(tick => Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-6);
  return tens.length >= 2 ? tens : ticks.filter((_, i) => i % Math.ceil(ticks.length / 6) === 0);
}
