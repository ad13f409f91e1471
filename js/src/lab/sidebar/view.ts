import { h } from '../../shared/dom';
import { say } from '../../shared/keyed';
import type { Actions } from './actions';
import { isOver, type State } from './protocol';
import { Section } from './section';
import {
  drawEdits,
  drawJobs,
  drawMemory,
  drawModels,
  drawRuns,
  drawSaved,
  type KernelJobs
} from './sections';
import { bytes, type Words } from './words';

const STAYS = 12_000; // milliseconds for which is said what was done
const NOTHING: State = {
  models: [],
  saved: [],
  edits: [],
  runs: [],
  jobs: [],
  memory: { process: null, devices: [], holders: [] }
};

/** What the panel shows of the notebook that is in front. */
export interface Shown {
  /** The notebook's name; empty when there is none. */
  notebook: string;
  status: 'no-notebook' | 'no-kernel' | 'unloaded' | 'other-version' | 'connected';
  /** Said under the notebook's name: why there is nothing, or that the kernel is busy. */
  note: string;
  isBusy: boolean;
  state: State | null;
  jobs: KernelJobs[];
}

export interface ViewOptions {
  /** Which sections were open when the page was left. */
  open: Record<string, boolean>;
  remember(name: string, open: boolean): void;
  load(): Promise<void>;
}

/** The sidebar's contents; given everything anew whenever anything changes. */
export class SidebarView {
  private readonly head: HTMLElement;
  private readonly notebook: HTMLElement;
  private readonly note: HTMLElement;
  private readonly load: HTMLButtonElement;
  private readonly live: HTMLElement;
  private readonly sections: Record<string, Section> = {};
  private readonly list: HTMLElement;
  private quiet = 0;

  constructor(
    private readonly node: HTMLElement,
    private readonly actions: Actions,
    private readonly words: Words,
    options: ViewOptions
  ) {
    this.notebook = h('span', { class: 'jp-nbsight-notebook' });
    this.note = h('p', { class: 'jp-nbsight-note' });
    this.load = h('button', { type: 'button', class: 'jp-nbsight-load jp-mod-styled jp-mod-accept' });
    this.load.textContent = words.__('Load nbsight in this kernel');
    this.load.addEventListener('click', () => {
      this.load.disabled = true;
      void options.load().finally(() => {
        this.load.disabled = false;
      });
    });
    this.live = h('p', { class: 'jp-nbsight-said', role: 'status' });
    this.head = h(
      'header',
      { class: 'jp-nbsight-head', role: 'group' },
      h('span', { class: 'jp-nbsight-dot', 'aria-hidden': 'true' }),
      this.notebook
    );
    this.list = h('div', { class: 'jp-nbsight-sections' });
    for (const [name, title, empty] of [
      ['models', words.__('Models'), words.__('No model yet: model = nbsight.LanguageModel("gpt2")')],
      ['saved', words.__('Saved'), words.__('Nothing saved: .save() in a trace keeps a value.')],
      ['edits', words.__('Edits'), words.__('No edits are kept: with model.edit(): …')],
      ['runs', words.__('Runs'), words.__('No forward is held open: run = model.start(prompt)')],
      ['jobs', words.__('Jobs'), words.__('No sweeps and no remote jobs.')],
      ['memory', words.__('Memory'), words.__('Nothing large is held.')]
    ] as const) {
      const section = new Section(name, title, empty, actions, options.remember, options.open[name] ?? true);
      this.sections[name] = section;
      this.list.append(section.node);
    }
    this.node.append(this.head, this.note, this.load, this.live, this.list);
  }

  update(shown: Shown): void {
    const { words, actions } = this;
    this.node.dataset.status = shown.status;
    this.head.toggleAttribute('data-busy', shown.isBusy);
    say(this.notebook, shown.notebook || words.__('No notebook'));
    this.notebook.title = shown.notebook;
    say(this.note, shown.note);
    this.note.hidden = !shown.note;
    this.load.hidden = shown.status !== 'unloaded';
    const { state } = shown;
    for (const [name, section] of Object.entries(this.sections)) {
      section.node.hidden = !state && !(name === 'jobs' && shown.jobs.some(group => group.jobs.length));
    }
    const jobs = shown.jobs.flatMap(group => group.jobs);
    const running = jobs.filter(job => !isOver(job)).length;
    drawJobs(this.sections.jobs!.body, shown.jobs, actions, words);
    this.sections.jobs!.setCount(
      jobs.length,
      running ? words.__('%1 running', running) : String(jobs.length || '')
    );
    this.fill(state ?? NOTHING);
  }

  private fill(state: State): void {
    const { words, actions } = this;
    drawModels(this.sections.models!.body, state.models, actions, words);
    this.sections.models!.setCount(state.models.length);
    drawSaved(this.sections.saved!.body, state.saved, actions, words);
    const held = state.saved.reduce((sum, row) => sum + row.bytes, 0);
    this.sections.saved!.setCount(
      state.saved.length,
      state.saved.length ? `${state.saved.length} · ${bytes(held)}` : ''
    );
    drawEdits(this.sections.edits!.body, state.edits, actions, words);
    const on = state.edits.filter(row => row.enabled).length;
    this.sections.edits!.setCount(
      state.edits.length,
      state.edits.length ? words.__('%1 of %2 on', on, state.edits.length) : ''
    );
    drawRuns(this.sections.runs!.body, state.runs, actions, words);
    this.sections.runs!.setCount(state.runs.length);
    drawMemory(this.sections.memory!.body, state.memory, actions, words);
    this.sections.memory!.setCount(
      state.memory.holders.length || (state.memory.process === null ? 0 : 1),
      state.memory.process === null ? '' : bytes(state.memory.process)
    );
  }

  /** Say what was done or what went wrong, in the panel and to a screen reader. */
  say(text: string, isError = false): void {
    window.clearTimeout(this.quiet);
    this.live.toggleAttribute('data-error', isError);
    say(this.live, text);
    if (text && !isError) {
      this.quiet = window.setTimeout(() => say(this.live, ''), STAYS);
    }
  }
}
