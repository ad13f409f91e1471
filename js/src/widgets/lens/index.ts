import type { AnyModel } from '@anywidget/types';
import { h } from '../../shared/dom';
import { Rpc } from '../../shared/rpc';
import { LensData } from './data';
import type { Host, Place, Ranking, Traits } from './types';
import { LensView } from './view';

/** Wire only: traits and messages on one side, the view on the other. */
export function render({ model, el }: { model: AnyModel<Traits>; el: HTMLElement }): () => void {
  const rpc = new Rpc(model);
  const read = () => new LensData(model.get('header'), model.get('data'));
  const host: Host = {
    select(place) {
      model.set('selection', place);
      model.save_changes();
    }
  };
  if (model.get('header').live) {
    host.detail = (place, topK, signal) => askCell(rpc, place, topK, signal);
  }
  let view: LensView;
  try {
    view = new LensView(el, read(), host);
  } catch (error) {
    el.append(h('p', { role: 'alert' }, `This lens cannot be shown. ${(error as Error).message}`));
    return () => rpc.close();
  }
  const onData = () => view.update(read());
  const onSelection = () => view.select(model.get('selection'));
  model.on('change:header', onData);
  model.on('change:selection', onSelection);
  onSelection();
  return () => {
    model.off('change:header', onData);
    model.off('change:selection', onSelection);
    rpc.close();
    view.destroy();
  };
}

async function askCell(
  rpc: Rpc,
  [layer, position]: Place,
  topK: number,
  signal: AbortSignal
): Promise<Ranking> {
  interface Cell {
    tokens: string[];
    ids: number[];
  }
  const { result, buffers } = await rpc.request<Cell>('cell', { layer, position, top_k: topK }, signal);
  const bytes = buffers[0]!;
  const probs = result.tokens.map((_, rank) => bytes.getFloat32(4 * rank, true));
  return { tokens: result.tokens, ids: result.ids, probs };
}

export default { render };
