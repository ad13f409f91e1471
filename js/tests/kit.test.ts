import { afterEach, describe, expect, it, vi } from 'vitest';
import { LastAsked, type Stage } from '../src/shared/ask';
import { Link, type Linked } from '../src/shared/bus';
import { History, Switch } from '../src/shared/controls';
import { Heatmap } from '../src/shared/heatmap';
import { heatmapSvg } from '../src/shared/heatmapsvg';
import { Lines, linesSvg } from '../src/shared/lines';
import { inks, luminance, parse, SERIES_DARK, SERIES_LIGHT, signed } from '../src/shared/palette';
import { csv } from '../src/shared/save';
import { drawn, label, sheet } from '../src/shared/svg';
import { dataTable } from '../src/shared/table';
import { bytes, number } from '../src/shared/tokens';
import { Kernel } from './fake';

afterEach(() => {
  vi.useRealTimers();
  document.body.replaceChildren();
});

describe('a question', () => {
  it('counts only if it is the last', async () => {
    const kernel = new Kernel();
    const stages: Stage[] = [];
    const asked = new LastAsked(kernel.ask, stage => stages.push(stage));
    const [first, second] = [asked.put('f', { n: 1 }), asked.put('f', { n: 2 })];
    expect(kernel.asked.map(one => one.signal.aborted)).toEqual([true, false]);
    void kernel.asked[1]!.answer({ n: 2 });
    expect(await first).toBeNull();
    expect((await second)!.result).toEqual({ n: 2 });
    expect(stages).toEqual(['asking', 'asking', 'done']);
  });
  it('is queued when the kernel is busy, and heard again when it tells something', async () => {
    vi.useFakeTimers();
    const kernel = new Kernel();
    const stages: Stage[] = [];
    const parts: unknown[] = [];
    const asked = new LastAsked(kernel.ask, stage => stages.push(stage));
    void asked.put('f', {}, part => parts.push(part.result));
    vi.advanceTimersByTime(1001);
    kernel.last.progress({ done: 1 });
    expect(stages).toEqual(['asking', 'queued', 'asking']);
    expect(parts).toEqual([{ done: 1 }]);
    asked.stop();
    kernel.asked[0]!.progress({ done: 2 });
    expect(parts).toEqual([{ done: 1 }]);
    expect(stages.at(-1)).toBe('idle');
  });
  it('fails in its place', async () => {
    const kernel = new Kernel();
    const seen: [Stage, string?][] = [];
    const asked = new LastAsked(kernel.ask, (stage, error) => seen.push([stage, error?.message]));
    const put = asked.put('f', {});
    void kernel.last.fail(new Error('no'));
    expect(await put).toBeNull();
    expect(seen.at(-1)).toEqual(['failed', 'no']);
  });
});

describe('what is pointed at', () => {
  const views = (...abouts: [string, string[]][]) => {
    const heard: (Linked | null)[][] = abouts.map(() => []);
    const links = abouts.map(
      ([model, tokens], i) => new Link({ model, tokens }, linked => heard[i]!.push(linked))
    );
    return { links, heard };
  };
  it('is known to every view of the page, but not told back', () => {
    const { links, heard } = views(['m', ['a', 'b']], ['m', ['a', 'b']]);
    links[0]!.say({ layer: 3, position: 1 });
    expect(heard).toEqual([[], [{ layer: 3, positions: [1], head: null }]]);
    links[0]!.say({});
    expect(heard[1]!.at(-1)).toBeNull();
    links[1]!.close();
    links[0]!.say({ layer: 1 });
    expect(heard[1]).toHaveLength(2);
    links[0]!.close();
  });
  it('links layers within a model and tokens by their text between prompts', () => {
    const { links, heard } = views(['m', ['a', 'b']], ['other', ['b', 'c', 'b']]);
    links[0]!.say({ layer: 3, position: 1 });
    expect(heard[1]).toEqual([{ layer: null, positions: [0, 2], head: null }]);
    for (const link of links) {
      link.close();
    }
  });
});

describe('undo', () => {
  it('goes back and forth, and forgets the future after a new step', () => {
    const history = new History(0);
    history.put(1);
    history.put(2);
    expect([history.undo(), history.undo(), history.undo(), history.redo()]).toEqual([1, 0, 0, 1]);
    history.put(5);
    expect(history.canRedo).toBe(false);
    expect(history.undo()).toBe(1);
  });
});

describe('a switch', () => {
  it('moves with the arrow keys and says what is on', () => {
    const chosen: string[] = [];
    const one = new Switch(
      'Way',
      [
        ['a', 'A'],
        ['b', 'B']
      ] as const,
      value => {
        chosen.push(value);
        one.show(value);
      }
    );
    document.body.append(one.node);
    one.show('a');
    const [a, b] = [...one.node.querySelectorAll('button')];
    expect([a!.getAttribute('aria-checked'), b!.tabIndex]).toEqual(['true', -1]);
    a!.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
    expect(chosen).toEqual(['b']);
    expect(document.activeElement).toBe(b);
  });
});

describe('a heatmap', () => {
  const spec = (rows: number, columns: number) => ({
    name: 'Numbers',
    rows: Array.from({ length: rows }, (_, i) => String(i)),
    columns,
    swatch: () => ({ fill: '#fff', ink: '#000' }),
    text: (row: number, column: number) => `${row}<${column}`,
    describe: (row: number, column: number) => `row ${row} column ${column}`,
    foot: {
      height: 20,
      make: (column: number) => Object.assign(document.createElement('span'), { textContent: `t${column}` })
    },
    column: [40, 90] as [number, number]
  });
  const open = (rows: number, columns: number) => {
    const [points, chosen]: [unknown[], unknown[]] = [[], []];
    const map = new Heatmap(spec(rows, columns), false, {
      point: (cell, keyboard) => points.push([cell, keyboard]),
      choose: cell => chosen.push(cell)
    });
    document.body.append(map.node);
    map.resize(600);
    const press = (key: string) =>
      map.node.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
    return { map, points, chosen, press };
  };
  it('walks with the keys and says where it is', () => {
    const { map, press, chosen, points } = open(3, 4);
    for (const key of ['ArrowUp', 'ArrowUp', 'ArrowUp', 'ArrowRight']) {
      press(key);
    }
    const here = map.node.querySelector('[role=gridcell]')!;
    expect(here.getAttribute('aria-label')).toBe('row 2 column 1');
    expect(here.parentElement!.getAttribute('aria-rowindex')).toBe('1'); // the last row is on top
    expect(map.node.getAttribute('aria-activedescendant')).toBe(here.id);
    expect(points.at(-1)).toEqual([[2, 1], true]);
    press('Enter');
    expect(chosen).toEqual([[2, 1]]);
  });
  it('keeps only what can be seen of ten thousand columns', () => {
    const { map } = open(96, 10_000);
    expect(map.node.querySelectorAll('[data-column]').length).toBeLessThan(60);
    expect(map.node.querySelectorAll('canvas')).toHaveLength(1);
    map.select([95, 9_999]);
    expect(map.node.querySelector('[role=gridcell]')!.getAttribute('aria-label')).toBe('row 95 column 9999');
  });
  it('marks what is pointed at elsewhere', () => {
    const { map } = open(3, 4);
    map.link([1], [0, 3, 99]);
    const kinds = [...map.node.querySelectorAll<HTMLElement>('[data-kind=row], [data-kind=column]')];
    expect(kinds).toHaveLength(3);
    expect(map.node.querySelector('[data-column="3"]')!.hasAttribute('data-on')).toBe(true);
    map.link([], []);
    expect(map.node.querySelectorAll('[data-kind=row], [data-kind=column]')).toHaveLength(0);
  });
  it('is a file that nothing in a token breaks out of', () => {
    const hostile = '<script>alert(1)</script>\u0000"&';
    const svg = heatmapSvg(spec(2, 2), [hostile, 'ok'], { title: hostile });
    const read = new DOMParser().parseFromString(svg, 'image/svg+xml');
    expect(read.querySelector('parsererror')).toBeNull();
    expect(read.querySelector('script')).toBeNull();
    expect(svg).not.toContain('\u0000');
  });
  it('says in a file that columns are left out', () => {
    expect(heatmapSvg(spec(100, 1000), [], { title: 't' })).toContain('The first 200 of 1000 columns.');
  });
});

describe('lines', () => {
  const line = (values: number[], strength: 'pale' | 'strong' = 'strong') => ({
    name: '<b>',
    values,
    colour: '#000',
    strength
  });
  const base = { title: 't', x: ['0', '1', '2'], xTitle: 'layer', yTitle: 'norm', isLog: false };
  const paths = (svg: string) => [...svg.matchAll(/ d="([^"]*)"/g)].map(found => found[1]!);
  it('run through their values, with holes where nothing is known', () => {
    const [path] = paths(
      linesSvg({ ...base, lines: [line([0, NaN, 4])] }, { width: 300, height: 200 }, inks(false))
    );
    expect(path!.match(/M/g)).toHaveLength(2);
    expect(path).not.toContain('NaN');
  });
  it('take no logarithm of 0', () => {
    const svg = linesSvg(
      { ...base, isLog: true, lines: [line([0, 1, 100])] },
      { width: 300, height: 200 },
      inks(false)
    );
    expect(svg).not.toContain('NaN');
    expect(svg).not.toContain('Infinity');
  });
  it('are marked at a place and not drawn again for it', () => {
    const lines = new Lines(
      { ...base, lines: [line([1, 2, 3])] },
      { point: () => undefined, choose: () => undefined }
    );
    lines.resize(400);
    const svg = lines.node.firstElementChild!;
    lines.mark(2);
    expect(svg.querySelectorAll('[data-mark]')).toHaveLength(1);
    const at = Number(svg.querySelector('[data-mark]')!.getAttribute('x1'));
    lines.mark(0);
    expect(Number(svg.querySelector('[data-mark]')!.getAttribute('x1'))).toBeLessThan(at);
    expect(lines.node.firstElementChild).toBe(svg);
    lines.mark(null);
    expect(svg.querySelector('[data-mark]')).toBeNull();
  });
  it('name themselves as text', () => {
    const svg = linesSvg({ ...base, lines: [line([1, 2, 3])] }, { width: 300, height: 200 }, inks(true));
    expect(drawn(svg).querySelector('b')).toBeNull();
    expect(drawn(svg).textContent).toContain('<b>');
  });
});

describe('colours', () => {
  it('tell a value from its negative and from nothing', () => {
    for (const dark of [false, true]) {
      const [low, zero, high] = [-1, 0, 1].map(value => signed(value, dark).fill);
      expect(new Set([low, zero, high]).size).toBe(3);
    }
  });
  it('of lines can be seen on their page', () => {
    const contrast = (a: string, b: string) => {
      const [x, y] = [luminance(parse(a)), luminance(parse(b))];
      return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    };
    for (const colour of SERIES_LIGHT) {
      expect(contrast(colour, '#ffffff'), colour).toBeGreaterThan(3);
    }
    for (const colour of SERIES_DARK) {
      expect(contrast(colour, '#111418'), colour).toBeGreaterThan(3);
    }
  });
});

describe('text', () => {
  it('of numbers is short and honest', () => {
    expect([0, 0.5, -12.345, 1234.5, 1e-7, -0.0001, NaN, Infinity].map(value => number(value))).toEqual([
      '0',
      '0.50',
      '−12.3',
      '1235',
      '1.0e-7',
      '−1.0e-4',
      'NaN',
      '∞'
    ]);
  });
  it('of sizes is in people’s units', () => {
    expect([12, 3_200, 50_000_000, 2e9].map(bytes)).toEqual(['12 bytes', '3.2 kB', '50 MB', '2.0 GB']);
  });
  it('of tables quotes, and makes no formula', () => {
    expect(
      csv([
        ['a', 'b'],
        ['=1+1', 'x,"y"'],
        [-1, null]
      ])
    ).toBe('a,b\n\'=1+1,"x,""y"""\n-1,\n');
  });
  it('stays text in drawings and tables', () => {
    expect(drawn(sheet(10, 10, label('<i>x</i>', 0, 0))).textContent).toBe('<i>x</i>');
    const table = dataTable('t', [['a'], ['<i>x</i>']]);
    expect(table.querySelector('i')).toBeNull();
  });
  it('of a long table says that it is cut', () => {
    const rows = [['a'], ...Array.from({ length: 5000 }, (_, i) => [i])];
    expect(dataTable('t', rows).querySelector('caption')!.textContent).toContain(
      'The first 3000 of 5000 rows'
    );
  });
});
