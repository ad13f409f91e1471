import type { Value } from './table';

/** Hand a file to the reader. */
export function download(name: string, content: Blob): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The numbers of a table as comma-separated values; a formula of a spreadsheet becomes text. */
export function csv(rows: readonly (readonly Value[])[]): string {
  const cell = (value: Value) => {
    if (typeof value === 'number' || value === null) {
      return value === null ? '' : String(value);
    }
    const inert = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
  };
  return `${rows.map(row => row.map(cell).join(',')).join('\n')}\n`;
}

/** An SVG as a PNG of twice its size. */
export async function rasterise(svg: string): Promise<Blob> {
  const size = /<svg[^>]* width="([\d.]+)" height="([\d.]+)"/.exec(svg);
  const [width, height] = [Number(size?.[1] ?? 800), Number(size?.[2] ?? 600)];
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  canvas.getContext('2d')!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob(
      blob => (blob ? resolve(blob) : reject(new Error('This browser made no picture.'))),
      'image/png'
    )
  );
}
