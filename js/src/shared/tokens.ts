/** The same marks as in nbsight/display/text.py. */
const MARKS: Record<string, string> = {
  ' ': '·',
  '\n': '⏎',
  '\t': '⇥',
  '\r': '␍',
  '\u00a0': '⍽',
  '\u200b': '∅'
};

/** A token with every character on show: a leading space is "·", a line end "⏎". */
export function visible(token: string): string {
  if (token === '') {
    return '∅';
  }
  return Array.from(token, char => {
    const code = char.codePointAt(0)!;
    const control = code < 32 || (code >= 127 && code < 160);
    return MARKS[char] ?? (control ? `\\x${code.toString(16).padStart(2, '0')}` : char);
  }).join('');
}

/** A probability as a reader wants it: three decimals, and "<0.001" rather than a false zero. */
export function probability(value: number): string {
  if (!Number.isFinite(value)) {
    return String(value);
  }
  return value > 0 && value < 0.001 ? '<0.001' : value.toFixed(3);
}

/** A number in about `digits` figures, with a real minus sign and no false zero. */
export function number(value: number, digits = 3): string {
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? 'NaN' : value > 0 ? '∞' : '−∞';
  }
  const size = Math.abs(value);
  if (size === 0) {
    return '0';
  }
  const text =
    size >= 1e5 || size < 1e-3
      ? size.toExponential(Math.max(0, digits - 2)).replace('e+', 'e')
      : size >= 100
        ? size.toFixed(0)
        : size.toFixed(Math.max(0, digits - (size >= 10 ? 2 : 1)));
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** Bytes as people say them. */
export function bytes(count: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return unit ? `${count.toFixed(count < 10 ? 1 : 0)} ${units[unit]}` : `${count} bytes`;
}
