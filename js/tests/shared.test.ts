import { describe, expect, it, vi } from 'vitest';
import { fill, INSERT_CODE, insertCode } from '../src/shared/code';
import { DARK, gradient, LIGHT, luminance, parse, swatch } from '../src/shared/palette';
import { decode, fromBase64, type Header } from '../src/shared/payload';
import { KernelError, Rpc } from '../src/shared/rpc';
import { isDark, onThemeChange } from '../src/shared/theme';
import { probability, visible } from '../src/shared/tokens';

describe('tokens', () => {
  it('shows spaces, line ends and control characters', () => {
    expect(visible(' Paris\n\u0000')).toBe('·Paris⏎\\x00');
    expect(visible('')).toBe('∅');
    expect(visible('é🙂')).toBe('é🙂');
  });
  it('never shows a small probability as zero', () => {
    expect([1, 0.5, 0.0004, 0, Number.NaN].map(probability)).toEqual([
      '1.000',
      '0.500',
      '<0.001',
      '0.000',
      'NaN'
    ]);
  });
});

describe('palette', () => {
  const numbers = (css: string) => css.match(/\d+/g)!.map(Number) as [number, number, number];
  it.each([false, true])('can be read at every value (dark: %s)', dark => {
    for (let i = 0; i <= 255; i++) {
      const { fill, ink } = swatch(i / 255, dark);
      const light = luminance(numbers(fill));
      const contrast = ink === '#000' ? (light + 0.05) / 0.05 : 1.05 / (light + 0.05);
      expect(contrast).toBeGreaterThan(4.5);
    }
  });
  it('begins and ends with its ends, also beyond the range', () => {
    const css = (hex: string) => `rgb(${parse(hex).join(', ')})`;
    expect(swatch(-3, false).fill).toBe(css(LIGHT[0]));
    expect(swatch(3, false).fill).toBe(css(LIGHT[8]));
    expect(swatch(Number.NaN, true).fill).toBe(css(DARK[0]));
    expect(gradient(true)).toContain(DARK[4]);
  });
});

describe('payload', () => {
  const header: Header = {
    protocol: 1,
    live: true,
    view: 'x',
    arrays: {
      a: { dtype: 'float32', shape: [2], offset: 0 },
      b: { dtype: 'uint16', shape: [1, 3], offset: 8 }
    }
  };
  const bytes = new Uint8Array(16 + 1);
  const numbers = new DataView(bytes.buffer);
  numbers.setFloat32(1, 1.5, true);
  numbers.setFloat32(5, -2, true);
  [7, 8, 65535].forEach((value, i) => {
    numbers.setUint16(9 + 2 * i, value, true);
  });

  it('reads arrays from a buffer that starts at an odd byte', () => {
    const { a, b } = decode(header, new DataView(bytes.buffer, 1));
    expect(Array.from(a!.values)).toEqual([1.5, -2]);
    expect(Array.from(b!.values)).toEqual([7, 8, 65535]);
    expect(b!.shape).toEqual([1, 3]);
  });
  it('says what to do about another protocol, a short buffer, a strange type', () => {
    expect(() => decode({ ...header, protocol: 9 }, numbers)).toThrow(
      /protocol 1 and the kernel 9.*restart/s
    );
    expect(() => decode(header, new DataView(new ArrayBuffer(6)))).toThrow('ends after 6 of 8 bytes');
    const strange = { a: { dtype: 'float64' as 'float32', shape: [1], offset: 0 } };
    expect(() => decode({ ...header, arrays: strange }, numbers)).toThrow('cannot read arrays of float64');
  });
  it('reads base64', () => {
    expect(fromBase64(btoa('\u0001\u00ff')).getUint8(1)).toBe(255);
  });
});

describe('rpc', () => {
  type Listener = (content: unknown, buffers: DataView[]) => void;
  function channel() {
    const listeners = new Set<Listener>();
    // biome-ignore lint/suspicious/noExplicitAny: whatever is sent
    const sent: any[] = [];
    return {
      sent,
      listeners,
      send: (content: unknown) => void sent.push(content),
      on: (_: string, listener: Listener) => void listeners.add(listener),
      off: (_: string, listener: Listener) => void listeners.delete(listener),
      reply: (content: unknown, buffers: DataView[] = []) => {
        for (const listener of listeners) {
          listener(content, buffers);
        }
      }
    };
  }
  const never = new AbortController().signal;

  it('gives each reply to the request it answers, in whatever order', async () => {
    const wire = channel();
    const rpc = new Rpc(wire);
    const [a, b] = [
      rpc.request<number>('f', { x: 1 }, { signal: never }),
      rpc.request<number>('f', { x: 2 }, { signal: never })
    ];
    expect(wire.sent.map(m => [m.kind, m.command, m.params.x])).toEqual([
      ['request', 'f', 1],
      ['request', 'f', 2]
    ]);
    wire.reply({ kind: 'reply', id: wire.sent[1].id, ok: true, result: 'second' });
    wire.reply({ kind: 'reply', id: 'of another page', ok: true, result: 'no' });
    wire.reply({ kind: 'reply', id: wire.sent[0].id, ok: true, result: 'first' }, [
      new DataView(new ArrayBuffer(3))
    ]);
    expect((await b).result).toBe('second');
    expect((await a).buffers[0]!.byteLength).toBe(3);
  });
  it('rejects with what Python raised', async () => {
    const wire = channel();
    const asked = new Rpc(wire).request('f', {}, { signal: never });
    const error = { type: 'ValueError', message: 'no', traceback: 'line 1' };
    wire.reply({ kind: 'reply', id: wire.sent[0].id, ok: false, error });
    await expect(asked).rejects.toMatchObject({ type: 'ValueError', message: 'no', traceback: 'line 1' });
    await expect(asked).rejects.toBeInstanceOf(KernelError);
  });
  it('takes an aborted request back and ignores its late reply', async () => {
    const wire = channel();
    const rpc = new Rpc(wire);
    const abort = new AbortController();
    const asked = rpc.request('f', {}, { signal: abort.signal });
    abort.abort();
    await expect(asked).rejects.toMatchObject({ name: 'AbortError' });
    expect(wire.sent[1]).toEqual({ kind: 'cancel', id: wire.sent[0].id });
    wire.reply({ kind: 'reply', id: wire.sent[0].id, ok: true, result: 1 });
    await expect(rpc.request('f', {}, { signal: abort.signal })).rejects.toMatchObject({
      name: 'AbortError'
    });
    expect(wire.sent).toHaveLength(2);
  });
  it('stops listening', () => {
    const wire = channel();
    new Rpc(wire).close();
    expect(wire.listeners.size).toBe(0);
  });
});

describe('theme', () => {
  it('believes JupyterLab, then VS Code, then what it sees', () => {
    const element = document.body.appendChild(document.createElement('div'));
    document.body.dataset.jpThemeLight = 'false';
    expect(isDark(element)).toBe(true);
    delete document.body.dataset.jpThemeLight;
    document.body.className = 'vscode-light';
    expect(isDark(element)).toBe(false);
    document.body.className = 'highlight'; // no word of ours
    element.style.backgroundColor = 'rgb(20, 20, 20)';
    expect(isDark(element)).toBe(true);
    document.body.className = '';
  });
  it('hears of a change until it is told to stop', async () => {
    const heard = vi.fn();
    const stop = onThemeChange(heard);
    document.body.dataset.jpThemeLight = 'true';
    await vi.waitFor(() => expect(heard).toHaveBeenCalledTimes(1));
    stop();
    document.body.dataset.jpThemeLight = 'false';
    await new Promise(resolve => setTimeout(resolve, 10));
    expect(heard).toHaveBeenCalledTimes(1);
    delete document.body.dataset.jpThemeLight;
  });
});

describe('code', () => {
  it('is offered to the page, which says whether it took it', () => {
    const element = document.body.appendChild(document.createElement('div'));
    let offered = '';
    const take = (event: Event) => {
      offered = (event as CustomEvent).detail.code;
      event.preventDefault();
    };
    document.addEventListener(INSERT_CODE, take);
    expect(insertCode(element, 'x = 1')).toBe(true);
    expect(offered).toBe('x = 1');
    document.removeEventListener(INSERT_CODE, take);
    expect(insertCode(element, 'x = 2')).toBe(false);
  });
  it('has places filled in, and nothing else', () => {
    expect(fill('f($layer, $position, $other, "$$layer")', { layer: 3, position: '$layer' })).toBe(
      'f(3, $layer, $other, "$3")'
    );
  });
});
