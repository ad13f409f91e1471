import type { AnyModel } from '@anywidget/types';
import type { Ask } from './ask';
import { h } from './dom';
import type { Header } from './payload';
import { Rpc } from './rpc';

/** The synced traits of nbsight.widgets.base.Widget; no widget has others. */
export interface Traits<H extends Header, S, P> {
  header: H;
  data: DataView;
  selection: P | null;
  state: S;
  stale: string;
}

/** What a view needs of the world around it. */
export interface Host<S, P> {
  /** the user chose a place, or none */
  select(place: P | null): void;
  /** the user set the view in another way */
  set(state: Partial<S>): void;
  /** ask Python; absent where no kernel is attached */
  ask?: Ask;
}

/** What draws: it gets plain data and knows no wire. */
export interface View<H extends Header, S, P> {
  update(header: H, data: DataView): void;
  select(place: P | null): void;
  configure(state: S): void;
  stale(reason: string): void;
  destroy(): void;
}

export type Make<H extends Header, S, P> = (
  parent: HTMLElement,
  header: H,
  data: DataView,
  state: S,
  host: Host<S, P>
) => View<H, S, P>;

/** The wire of any widget: traits and messages on one side, the view on the other. */
export function mount<H extends Header, S, P>(make: Make<H, S, P>) {
  return ({ model, el }: { model: AnyModel<Traits<H, S, P>>; el: HTMLElement }): (() => void) => {
    const rpc = new Rpc(model);
    const host: Host<S, P> = {
      select(place) {
        model.set('selection', place);
        model.save_changes();
      },
      set(state) {
        model.set('state', { ...model.get('state'), ...state });
        model.save_changes();
      }
    };
    if (model.get('header').live) {
      host.ask = (command, params, asked) => rpc.request(command, params, asked);
    }
    let view: View<H, S, P>;
    try {
      view = make(el, model.get('header'), model.get('data'), model.get('state'), host);
    } catch (error) {
      el.append(h('p', { role: 'alert' }, `This view cannot be shown. ${(error as Error).message}`));
      return () => rpc.close();
    }
    const listeners = {
      'change:header': () => view.update(model.get('header'), model.get('data')),
      'change:selection': () => view.select(model.get('selection')),
      'change:state': () => view.configure(model.get('state')),
      'change:stale': () => view.stale(model.get('stale'))
    } as const;
    const names = Object.keys(listeners) as (keyof typeof listeners)[];
    for (const name of names) {
      model.on(name, listeners[name]);
    }
    view.select(model.get('selection'));
    view.stale(model.get('stale') ?? '');
    return () => {
      for (const name of names) {
        model.off(name, listeners[name]);
      }
      rpc.close();
      view.destroy();
    };
  };
}
