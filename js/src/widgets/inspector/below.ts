import { type Ask, LastAsked } from '../../shared/ask';
import { h } from '../../shared/dom';
import type { Frame } from '../../shared/frame';
import type { Host } from '../../shared/mount';
import type { InspectorHeader, Place, State } from './types';
import { InspectorView } from './view';

interface Inspected {
  header: InspectorHeader;
  state: State;
  selection: Place | null;
}

/** The inspector below another view, on what was chosen there (nbsight/widgets/inspecting.py answers). */
export class Below {
  readonly node = h('section', {
    class: 'nbsight-below',
    'aria-label': 'The chosen activation',
    hidden: true
  });
  private readonly asked: LastAsked;
  private view: InspectorView | null = null;

  constructor(
    private readonly ask: Ask,
    private readonly frame: Frame
  ) {
    this.asked = new LastAsked(ask, (stage, error) => this.frame.stage(stage, error));
  }

  /** Open an activation, in place of the one before. */
  async open(params: object): Promise<void> {
    const reply = await this.asked.put<Inspected>('inspect', params);
    if (reply) {
      this.show(reply.result, reply.buffers[0]!);
      this.frame.announce(`${reply.result.header.path} is open below.`);
    }
  }

  close(): void {
    this.asked.stop();
    this.view?.destroy();
    this.view = null;
    this.node.hidden = true;
  }

  private show({ header, state, selection }: Inspected, data: DataView): void {
    this.node.hidden = false;
    if (this.view) {
      this.view.update(header, data, state);
    } else {
      const host: Host<State, Place> = {
        select: () => undefined,
        set: () => undefined,
        ask: async (command, params, more) => {
          if (command !== 'open') {
            return this.ask(`inspect:${command}`, params, more);
          }
          const reply = await this.ask<Inspected>('inspect', params, { signal: more.signal });
          this.show(reply.result, reply.buffers[0]!);
          return { result: {} as never, buffers: [] };
        }
      };
      this.view = new InspectorView(this.node, header, data, state, host, () => this.close());
    }
    this.view.select(selection);
  }
}
