import { h } from '../../shared/dom';
import { keyed, say } from '../../shared/keyed';
import type { Actions } from './actions';
import { bar, iconButton, onClicks, setBar } from './parts';
import {
  type EditRow,
  type Holder,
  isOver,
  type JobRow,
  type Memory,
  type ModelCard,
  type RunRow,
  type SavedRow
} from './protocol';
import { Tree } from './tree';
import { bytes, count, facts, sizes, standing, type Words } from './words';

/** A row of two lines and the buttons that stand at its end. */
function row(attributes: Record<string, string | number | null>, ...children: HTMLElement[]): HTMLElement {
  return h('div', { class: 'jp-nbsight-row', role: 'listitem', ...attributes }, ...children);
}

function lines(...children: HTMLElement[]): HTMLElement {
  return h('div', { class: 'jp-nbsight-lines' }, ...children);
}

function buttons(...children: HTMLElement[]): HTMLElement {
  return h('span', { class: 'jp-nbsight-buttons' }, ...children);
}

/** A name that can be inserted; what it is, `named` says. */
function nameButton(): HTMLButtonElement {
  return h('button', { type: 'button', class: 'jp-nbsight-name jp-nbsight-link' });
}

/** Say what a row is called, and keep it for `insertName`. */
function named(element: HTMLElement, name: string | null, words: Words): void {
  element.dataset.name = name ?? '';
  say(part(element, 'name'), name ?? words.__('(no name)'));
}

function insertName(element: HTMLElement, actions: Actions): void {
  if (element.dataset.name) {
    actions.insert(element.dataset.name);
  }
}

/** Change something in the kernel; that it failed is said by who asks it. */
function act(actions: Actions, request: string, data: Record<string, unknown>): void {
  void actions.act(request, data).catch(() => null);
}

const part = (element: Element, name: string) => element.querySelector<HTMLElement>(`.jp-nbsight-${name}`)!;

/** Cards of models, each with its tree. */
export function drawModels(body: HTMLElement, cards: ModelCard[], actions: Actions, words: Words): void {
  keyed(
    body,
    cards,
    card => `${card.id}/${card.expression}`,
    card => {
      const title = h(
        'div',
        { class: 'jp-nbsight-cardtitle' },
        h('span', { class: 'jp-nbsight-name' }, card.expression ?? words.__('(no name)')),
        h('span', { class: 'jp-nbsight-label' }, card.label)
      );
      onClicks(
        title,
        () => card.expression && actions.insert(card.expression),
        () => actions.openModule(card, '')
      );
      const check = h('button', { type: 'button', class: 'jp-nbsight-chip jp-nbsight-verify' });
      check.addEventListener('click', () => act(actions, 'verify', { model: card.id }));
      return h(
        'div',
        { class: 'jp-nbsight-card', role: 'listitem', 'aria-label': card.expression ?? card.label },
        title,
        h('div', { class: 'jp-nbsight-sizes' }),
        h('div', { class: 'jp-nbsight-facts' }),
        h(
          'div',
          { class: 'jp-nbsight-chips' },
          check,
          h('span', { class: 'jp-nbsight-chip jp-nbsight-edited' })
        ),
        new Tree(card, actions, words).node
      );
    },
    (element, card) => {
      say(part(element, 'sizes'), sizes(card, words) || card.class);
      part(element, 'cardtitle').title =
        `${card.class} · ${words.__('click to insert, double click to open')}`;
      say(
        part(element, 'facts'),
        facts(
          words.__('%1 parameters', count(card.parameters)),
          bytes(card.bytes),
          card.dtype,
          card.loaded ? card.devices.join(', ') : words.__('not loaded yet')
        )
      );
      const check = part(element, 'verify') as HTMLButtonElement;
      const known = card.verified;
      check.hidden = card.kind === 'Model';
      check.dataset.state = known === null ? 'unknown' : known.ok ? 'ok' : 'bad';
      say(
        check,
        known === null
          ? words.__('Check names')
          : known.ok
            ? words.__('✓ names verified')
            : words.__('! some names refused')
      );
      check.title =
        known?.text ?? words.__('Check the standard names (resid_post, attn_out, …) on random tokens');
      const edited = part(element, 'edited');
      edited.hidden = card.edits === 0;
      say(edited, words._n('%1 kept edit', '%1 kept edits', card.edits));
    }
  );
}

/** Saved values: a click inserts the name, a double click opens the value. */
export function drawSaved(body: HTMLElement, rows: SavedRow[], actions: Actions, words: Words): void {
  keyed(
    body,
    rows,
    one => one.id,
    one => {
      const text = lines(
        nameButton(),
        h('div', { class: 'jp-nbsight-detail' }),
        h('div', { class: 'jp-nbsight-where' })
      );
      const free = iconButton(actions, 'free', words.__('Free'), () =>
        act(actions, 'free', { value: one.id })
      );
      free.classList.add('jp-nbsight-freeone');
      const open = iconButton(actions, 'open', words.__('Open'), () => actions.openValue(one));
      const element = row({}, text, buttons(open, free));
      onClicks(
        text,
        () => insertName(element, actions),
        () => actions.openValue(one)
      );
      return element;
    },
    (element, one) => {
      named(element, one.name, words);
      (part(element, 'name') as HTMLButtonElement).disabled = one.name === null;
      say(part(element, 'detail'), `(${one.shape.join(', ')}) ${one.dtype} · ${bytes(one.bytes)}`);
      say(part(element, 'where'), [one.path, one.where].filter(Boolean).join(' · '));
      element.title = one.text;
      const free = part(element, 'freeone') as HTMLButtonElement;
      free.disabled = !one.freeable;
      free.title = one.freeable
        ? words.__('Delete %1 and free its memory', one.name)
        : words.__('Part of something larger, or not named: see Memory');
    }
  );
}

/** Kept edits with a switch each. */
export function drawEdits(body: HTMLElement, rows: EditRow[], actions: Actions, words: Words): void {
  keyed(
    body,
    rows,
    one => one.id,
    one => {
      const box = h('button', { type: 'button', role: 'switch', class: 'jp-nbsight-switch' });
      box.addEventListener('click', () => {
        const enabled = box.getAttribute('aria-checked') !== 'true';
        box.setAttribute('aria-checked', String(enabled));
        actions.act('toggle-edit', { edit: one.id, enabled }).catch(() => {
          box.setAttribute('aria-checked', String(!enabled));
        });
      });
      return row(
        {},
        box,
        lines(h('code', { class: 'jp-nbsight-code' }), h('div', { class: 'jp-nbsight-where' })),
        buttons(
          iconButton(actions, 'remove', words.__('Remove this edit'), () =>
            act(actions, 'remove-edit', { edit: one.id })
          )
        )
      );
    },
    (element, one) => {
      const box = part(element, 'switch');
      box.setAttribute('aria-checked', String(one.enabled));
      box.setAttribute('aria-label', words.__('Edit of %1 at %2', one.models.join(', '), one.where));
      element.toggleAttribute('data-off', !one.enabled);
      say(part(element, 'code'), one.text);
      element.title = one.text;
      say(part(element, 'where'), [...one.models.filter(Boolean), one.where].join(' · '));
    }
  );
}

/** Forwards that are held open. */
export function drawRuns(body: HTMLElement, rows: RunRow[], actions: Actions, words: Words): void {
  keyed(
    body,
    rows,
    one => one.id,
    one => {
      const name = nameButton();
      const element = row(
        {},
        lines(
          name,
          bar(words.__('Blocks that the run has passed')),
          h('div', { class: 'jp-nbsight-detail' }),
          h('div', { class: 'jp-nbsight-where' })
        ),
        buttons(
          iconButton(actions, 'stop', words.__('Give this run up'), () =>
            act(actions, 'close-run', { run: one.id })
          )
        )
      );
      name.addEventListener('click', () => insertName(element, actions));
      return element;
    },
    (element, one) => {
      named(element, one.name, words);
      setBar(part(element, 'bar') as HTMLProgressElement, one.total ? one.done / one.total : 0);
      say(
        part(element, 'detail'),
        [one.place || words.__('before its first module'), one.progress].join(' · ')
      );
      say(part(element, 'where'), `${one.model} · ${one.given}`);
    }
  );
}

export interface KernelJobs {
  kernel: string;
  notebook: string;
  isActive: boolean;
  jobs: JobRow[];
}

/** Jobs of this notebook, then those of others that are under way. */
export function drawJobs(body: HTMLElement, groups: KernelJobs[], actions: Actions, words: Words): void {
  const rows = groups.flatMap(group =>
    [...group.jobs].reverse().map(job => ({ job, group, key: `${group.kernel}/${job.id}` }))
  );
  keyed(
    body,
    rows,
    one => one.key,
    ({ job, group }) => {
      const log = h('pre', { class: 'jp-nbsight-log', hidden: true, tabindex: 0 });
      const showLog = iconButton(actions, 'log', words.__('Log'), () => {
        log.hidden = !log.hidden;
        showLog.setAttribute('aria-expanded', String(!log.hidden));
        if (!log.hidden) {
          actions.log(group.kernel, job).then(
            said => say(log, said.join('\n') || words.__('It said nothing.')),
            error => say(log, (error as Error).message)
          );
        }
      });
      showLog.classList.add('jp-nbsight-showlog');
      const fetch = iconButton(actions, 'fetch', words.__('Insert the code that fetches the result'), () =>
        actions.insertCell(job.code)
      );
      fetch.classList.add('jp-nbsight-fetch');
      const cancel = iconButton(actions, 'stop', words.__('Stop %1', job.title), () => {
        (cancel as HTMLButtonElement).disabled = true;
        void actions.cancel(group.kernel, job).catch(() => {
          (cancel as HTMLButtonElement).disabled = false;
        });
      });
      cancel.classList.add('jp-nbsight-cancel');
      return row(
        { 'data-job': job.id },
        lines(
          h(
            'div',
            { class: 'jp-nbsight-jobtitle' },
            h('span', { class: 'jp-nbsight-name' }, job.title),
            h('span', { class: 'jp-nbsight-label' }, job.model)
          ),
          bar(job.title),
          h('div', { class: 'jp-nbsight-detail', 'aria-live': 'polite' }),
          h('div', { class: 'jp-nbsight-where' }, group.isActive ? '' : group.notebook),
          log
        ),
        buttons(fetch, showLog, cancel)
      );
    },
    (element, { job, group }) => {
      element.dataset.state = job.state;
      const share = job.total ? job.done / job.total : isOver(job) ? 1 : null;
      setBar(part(element, 'bar') as HTMLProgressElement, share);
      say(part(element, 'detail'), standing(job, words));
      part(element, 'cancel').hidden = isOver(job);
      part(element, 'fetch').hidden = !job.code || !(job.state === 'done' || job.state === 'lost');
      part(element, 'showlog').hidden = job.lines === 0 || job.state === 'lost';
      say(part(element, 'where'), group.isActive ? '' : group.notebook);
    }
  );
}

/** What is used, and who holds it. */
export function drawMemory(body: HTMLElement, memory: Memory, actions: Actions, words: Words): void {
  const totals = [
    ...(memory.process === null
      ? []
      : [{ name: words.__('Process'), text: bytes(memory.process), share: null as number | null }]),
    ...memory.devices.map(device => ({
      name: device.name,
      text: words.__('%1 of %2', bytes(device.used), bytes(device.total)),
      share: device.used / device.total
    }))
  ];
  const largest = Math.max(1, ...memory.holders.map(holder => holder.bytes));
  const rows = [
    ...totals.map(total => ({ key: `total/${total.name}`, total, holder: null as Holder | null })),
    ...memory.holders.map(holder => ({ key: `${holder.kind}/${holder.label}`, total: null, holder }))
  ];
  keyed(
    body,
    rows,
    one => one.key,
    ({ holder }) => {
      if (!holder) {
        return row(
          { class: 'jp-nbsight-row jp-nbsight-total' },
          h('span', { class: 'jp-nbsight-name' }),
          h('span', { class: 'jp-nbsight-detail' })
        );
      }
      const free = iconButton(actions, 'free', words.__('Free %1', holder.label), () =>
        act(actions, 'free', { kind: holder.kind, name: holder.name })
      );
      free.hidden = holder.kind === 'model';
      return row(
        { class: 'jp-nbsight-row jp-nbsight-holder' },
        h('span', { class: 'jp-nbsight-amount', 'aria-hidden': 'true' }),
        h('span', { class: 'jp-nbsight-name' }),
        h('span', { class: 'jp-nbsight-detail' }),
        buttons(free)
      );
    },
    (element, { total, holder }) => {
      say(part(element, 'name'), holder?.label ?? total?.name ?? '');
      say(part(element, 'detail'), holder ? bytes(holder.bytes) : (total?.text ?? ''));
      if (holder) {
        part(element, 'amount').style.width = `${Math.max(1, (100 * holder.bytes) / largest)}%`;
        element.title = words._n('%1 array', '%1 arrays', holder.count);
      }
    }
  );
}
