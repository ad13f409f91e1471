export const STYLE = `
.nbsight-stepper-edit { border: solid var(--nb-line); border-width: 1px 0; margin: 4px 0 12px; padding: 8px 0 10px; }
.nbsight-beside .nbsight-stepper-edit p { margin: 0 0 5px; }
.nbsight-stepper-chips { display: flex; flex-wrap: wrap; gap: 3px; margin-bottom: 8px; max-height: 92px; overflow: auto; }
.nbsight .nbsight-stepper-chips button { font-family: var(--nb-mono); padding: 0 6px; white-space: pre; }
.nbsight .nbsight-stepper-chips button[aria-pressed='true'] { background: color-mix(in srgb, var(--nb-ring) 18%, transparent); border-color: var(--nb-ring); }
.nbsight-stepper-edit > div { align-items: center; display: flex; gap: 8px; }
.nbsight-stepper-edit label { align-items: center; color: var(--nb-muted); display: inline-flex; font-size: 12px; gap: 6px; }
.nbsight-stepper-edit input { background: none; border: 1px solid var(--nb-line); border-radius: 4px; color: var(--nb-ink); font: inherit; font-size: 12px; padding: 2px 6px; width: 72px; }
.nbsight .nbsight-stepper-done { font-size: 12px; margin: 4px 0 14px; max-height: 120px; overflow: auto; padding-left: 20px; }
.nbsight-stepper-done li { margin: 0; overflow-wrap: anywhere; }
.nbsight-stepper-done .nbsight-stepper-none { color: var(--nb-muted); list-style: none; margin-left: -20px; }
`;
