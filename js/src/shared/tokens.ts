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
