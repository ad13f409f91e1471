import type { HeatmapSpec } from '../../shared/heatmap';
import { heatmapSvg } from '../../shared/heatmapsvg';
import type { Value } from '../../shared/table';
import { number, visible } from '../../shared/tokens';
import { ends, isByHead, METRICS, type PatchingData } from './data';
import type { State } from './types';

/** Every number of the map, last layer first, under names of columns. */
export function rowsOf(data: PatchingData, state: State): Value[][] {
  const { base } = ends(state.direction);
  const byHead = isByHead(state);
  const known = (one: number) => (Number.isFinite(one) ? one : null);
  const table: Value[][] = [['site', 'layer', byHead ? 'head' : 'position', 'token', 'value', 'share']];
  for (let layer = data.nLayers - 1; layer >= 0; layer--) {
    for (let column = 0; column < data.columns(state); column++) {
      table.push([
        state.site,
        data.header.layers[layer]!,
        column,
        byHead ? '' : (data.token(base, column) ?? ''),
        known(data.value(state, [layer, column])),
        known(data.share(state, [layer, column]))
      ]);
    }
  }
  return table;
}

/** The map on white. */
export function pictureOf(data: PatchingData, state: State, spec: HeatmapSpec): string {
  const limit = number(data.limit(state), 2);
  const columns = isByHead(state)
    ? Array.from({ length: data.header.heads }, (_, head) => String(head))
    : data.header[ends(state.direction).base].tokens.map(visible);
  const meaning = `share of the ${METRICS[state.metric] ?? state.metric} recovered`;
  return heatmapSvg(spec, columns, {
    title: `Patching ${state.site} (${state.direction}) · ${data.header.model}`,
    scale: { low: `−${limit}`, high: limit, meaning, signed: true }
  });
}
