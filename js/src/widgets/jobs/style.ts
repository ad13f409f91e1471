export const STYLE = `
.nbsight-jobs .nbsight-body { display: block; }
.nbsight-jobs[data-single] > .nbsight-head, .nbsight-jobs[data-single] > .nbsight-controls { display: none; }
.nbsight-jobs[data-single] { max-width: 760px; padding: 2px; }
.nbsight-job { border-radius: 5px; padding: 7px 8px 8px; }
.nbsight-job + .nbsight-job { border-top: 1px solid var(--nb-line); border-top-left-radius: 0; border-top-right-radius: 0; }
.nbsight-jobs:not([data-single]) .nbsight-job[data-chosen] { background: color-mix(in srgb, var(--nb-bar) 9%, transparent); }
.nbsight-job:focus-visible { outline: 2px solid var(--nb-ring); outline-offset: -2px; }
.nbsight-job-head { align-items: baseline; display: flex; flex-wrap: wrap; gap: 2px 8px; min-height: 22px; }
.nbsight-job-head strong { font-weight: 600; overflow-wrap: anywhere; }
.nbsight-job-dot { align-self: center; border: 2px solid var(--nb-muted); border-radius: 50%; flex: none; height: 10px; margin-top: -2px; width: 10px; }
.nbsight-job[data-state='running'] .nbsight-job-dot { animation: nbsight-turn 0.9s linear infinite; border-color: var(--nb-line); border-top-color: var(--nb-bar); }
.nbsight-job[data-state='done'] .nbsight-job-dot { background: var(--nb-bar); border-color: var(--nb-bar); }
.nbsight-job[data-state='stopped'] .nbsight-job-dot { border-radius: 1px; background: var(--nb-muted); }
.nbsight-job[data-state='failed'] .nbsight-job-dot { background: var(--nb-error); border-color: var(--nb-error); border-radius: 1px; transform: rotate(45deg); }
.nbsight-job-said { color: var(--nb-muted); font-size: 12px; font-variant-numeric: tabular-nums; margin-left: auto; }
.nbsight-job[data-state='failed'] .nbsight-job-said { color: var(--nb-error); }
.nbsight-job-acts { display: inline-flex; gap: 5px; }
.nbsight .nbsight-job-acts button { line-height: 16px; padding: 0 8px; }
.nbsight-job-bar { background: var(--nb-hover); border-radius: 3px; height: 6px; margin-top: 5px; overflow: hidden; }
.nbsight-job-bar > i { background: var(--nb-bar); border-radius: 3px; display: block; height: 100%; transition: width 160ms linear; }
.nbsight-job[data-state='done'] .nbsight-job-bar { display: none; }
.nbsight-job:is([data-state='stopped'], [data-state='queued']) .nbsight-job-bar > i { background: var(--nb-muted); }
.nbsight-job[data-state='failed'] .nbsight-job-bar > i { background: var(--nb-error); }
.nbsight-job-bar[data-unknown] > i {
  animation: nbsight-slide 1.1s linear infinite; background: repeating-linear-gradient(115deg, var(--nb-bar) 0 9px, color-mix(in srgb, var(--nb-bar) 45%, transparent) 9px 18px);
  background-size: 200% 100%;
}
@keyframes nbsight-slide { from { background-position-x: 0; } to { background-position-x: -39.7px; } }
.nbsight-job-error { border-left: 3px solid var(--nb-error); color: var(--nb-ink); font-size: 12px; margin-top: 7px; overflow-wrap: anywhere; padding-left: 8px; white-space: pre-wrap; }
.nbsight .nbsight-job-log { background: none; color: var(--nb-muted); font-family: var(--nb-mono); font-size: 11.5px; line-height: 1.45; margin: 6px 0 0; overflow: auto; padding: 0 0 0 17px; white-space: pre-wrap; }
.nbsight .nbsight-job-log[data-open] { border: 1px solid var(--nb-line); border-radius: 4px; color: var(--nb-ink); max-height: 190px; padding: 6px 9px; }
.nbsight-jobs-none { color: var(--nb-muted); padding: 8px; }
.nbsight-jobs .nbsight-readout { margin-left: 8px; min-height: 0; }
@media (prefers-reduced-motion: reduce) { .nbsight-job-bar[data-unknown] > i { opacity: 0.6; } }
`;
