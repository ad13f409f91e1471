import { heatmapSvg } from '../../shared/heatmapsvg';
import type { Value } from '../../shared/table';
import { visible } from '../../shared/tokens';
import type { LensData } from './data';
import type { Shades } from './shades';

/** The numbers of a lens: names of columns, then rows, last layer first. */
export function rowsOf(data: LensData): Value[][] {
  const { layers, tokens } = data.header;
  const rows: Value[][] = [['layer', 'position', 'token', 'rank', 'id', 'prediction', 'probability']];
  for (let layer = data.nLayers - 1; layer >= 0; layer--) {
    for (let position = 0; position < data.nPositions; position++) {
      const kept = data.kept([layer, position]);
      kept.tokens.forEach((token, rank) => {
        const of = [layers[layer]!, position, tokens[position]!];
        rows.push([...of, rank, kept.ids[rank]!, token, kept.probs[rank]!]);
      });
    }
  }
  return rows;
}

/** The grid as SVG; `layers` are the rows on show. */
export function pictureOf(data: LensData, shades: Shades, layers: readonly number[]): string {
  const { header } = data;
  const [low, high] = shades.ends();
  return heatmapSvg(
    {
      name: '',
      rows: layers.map(layer => String(header.layers[layer])),
      columns: data.nPositions,
      swatch: (row, position, dark) => shades.swatch([layers[row]!, position], dark),
      text: (row, position) => visible(data.token([layers[row]!, position])),
      describe: () => '',
      column: [70, 104]
    },
    header.tokens.map(visible),
    {
      title: `Logit lens${header.model ? ` · ${header.model}` : ''}`,
      scale: { low, high, meaning: shades.meaning(), signed: shades.isSigned }
    }
  );
}
