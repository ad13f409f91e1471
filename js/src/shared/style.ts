/** What all views share. Colours come from the front end where it has them, else from the theme that theme.ts found. */
/** Width of what stands beside a picture, with the gap before it. */
export const BESIDE = 264 + 26;

export const STYLE = `
.nbsight {
  --nb-page: var(--jp-layout-color0, var(--vscode-editor-background, #ffffff));
  --nb-ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1d2733));
  --nb-muted: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #5b6775));
  --nb-line: var(--jp-border-color2, var(--vscode-widget-border, #d5dce3));
  --nb-hover: var(--jp-layout-color2, var(--vscode-list-hoverBackground, #eef2f5));
  --nb-mono: var(--jp-code-font-family, var(--vscode-editor-font-family, ui-monospace, monospace));
  --nb-ring: #c2410c;
  --nb-ring-gap: #ffffff;
  --nb-bar: #328fa8;
  --nb-second: #b45f1a;
  --nb-error: #b3261e;
  --nb-note: #8a5300;
  --nb-label: 44px;
  box-sizing: border-box;
  color: var(--nb-ink);
  font-family: var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif));
  font-size: 13px;
  line-height: 1.4;
  max-width: 100%;
  padding: 4px 2px 6px;
  position: relative;
}
.nbsight[data-theme='dark'] {
  --nb-page: var(--jp-layout-color0, var(--vscode-editor-background, #111418));
  --nb-ink: var(--jp-ui-font-color1, var(--vscode-foreground, #e6eaee));
  --nb-muted: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #a3adb8));
  --nb-line: var(--jp-border-color2, var(--vscode-widget-border, #333d47));
  --nb-hover: var(--jp-layout-color2, var(--vscode-list-hoverBackground, #232b33));
  --nb-ring: #ff9d4d;
  --nb-ring-gap: #0d1117;
  --nb-bar: #4fa1a7;
  --nb-second: #e0944f;
  --nb-error: #ff8a80;
  --nb-note: #f2c26b;
}
.nbsight *, .nbsight *::before, .nbsight *::after { box-sizing: border-box; }
.nbsight [hidden] { display: none !important; }
.nbsight code { background: none; font-family: var(--nb-mono); font-size: 12px; padding: 0; white-space: pre; }

.nbsight-head { align-items: baseline; display: flex; flex-wrap: wrap; gap: 4px 10px; margin-bottom: 8px; }
.nbsight-title { font-size: 14px; font-weight: 600; }
.nbsight-about { color: var(--nb-muted); }
.nbsight-chip {
  border: 1px solid var(--nb-line); border-radius: 9px; color: var(--nb-muted); font-size: 11px; line-height: 16px; padding: 0 8px;
}
.nbsight-chip::before {
  background: var(--nb-bar); border-radius: 50%; content: ''; display: inline-block; height: 6px; margin-right: 6px;
  vertical-align: 1px; width: 6px;
}
.nbsight-chip[data-stale] { background: var(--nb-hover); border-style: dashed; }
.nbsight-chip[data-stale]::before { background: none; border: 1px solid var(--nb-muted); }
.nbsight-actions { display: flex; gap: 6px; margin-left: auto; position: relative; }
.nbsight button, .nbsight select, .nbsight input[type='text'], .nbsight input[type='search'] {
  background: none; border: 1px solid var(--nb-line); border-radius: 4px; color: var(--nb-ink); font: inherit; font-size: 12px;
  line-height: 18px; padding: 1px 9px;
}
.nbsight button, .nbsight select { cursor: pointer; min-height: 24px; }
.nbsight select { background: var(--nb-page); padding: 2px 4px; }
.nbsight button:hover:not(:disabled) { background: var(--nb-hover); }
.nbsight button:disabled { cursor: default; opacity: 0.45; }
.nbsight button[aria-pressed='true'], .nbsight button[aria-checked='true'] { background: var(--nb-hover); border-color: var(--nb-muted); font-weight: 600; }
.nbsight button.nbsight-do { background: var(--nb-bar); border-color: var(--nb-bar); color: #fff; }
.nbsight[data-theme='light'] button.nbsight-do { background: #1d6e90; border-color: #1d6e90; }
.nbsight[data-theme='dark'] button.nbsight-do { color: #0d1117; }
.nbsight button.nbsight-do:hover:not(:disabled) { filter: brightness(1.08); }
.nbsight :is(button, select, input, [tabindex]):focus-visible { outline: 2px solid var(--nb-ring); outline-offset: 1px; }
.nbsight-menu {
  background: var(--nb-page); border: 1px solid var(--nb-line); border-radius: 5px; box-shadow: 0 4px 14px rgb(0 0 0 / 18%);
  display: grid; min-width: 168px; padding: 4px; position: absolute; right: 0; top: 28px; z-index: 30;
}
.nbsight-menu button { border-color: transparent; text-align: left; }
.nbsight-menu small { color: var(--nb-muted); float: right; padding-left: 18px; }

.nbsight-controls { align-items: center; display: flex; flex-wrap: wrap; gap: 6px 14px; margin: 0 0 10px; }
.nbsight-group { align-items: center; display: inline-flex; gap: 6px; }
.nbsight-group > span, .nbsight-controls label { color: var(--nb-muted); font-size: 12px; }
.nbsight-controls label { align-items: center; display: inline-flex; gap: 6px; }
.nbsight-switch { display: inline-flex; }
.nbsight-switch button { border-radius: 0; margin-left: -1px; }
.nbsight-switch button:first-child { border-radius: 4px 0 0 4px; margin-left: 0; }
.nbsight-switch button:last-child { border-radius: 0 4px 4px 0; }
.nbsight-prompts { display: grid; gap: 5px 8px; grid-template-columns: max-content minmax(0, 640px); margin: 0 0 10px; }
.nbsight-prompts label { color: var(--nb-muted); display: contents; font-size: 12px; }
.nbsight[data-ghost] .nbsight-body { opacity: 0.42; }
.nbsight-busy { color: var(--nb-muted); font-size: 12px; }
.nbsight-busy::before {
  animation: nbsight-turn 0.9s linear infinite; border: 2px solid var(--nb-line); border-radius: 50%; border-top-color: var(--nb-bar);
  content: ''; display: inline-block; height: 10px; margin-right: 6px; vertical-align: -1px; width: 10px;
}
@keyframes nbsight-turn { to { transform: rotate(1turn); } }

.nbsight-body { align-items: start; display: grid; gap: 14px 26px; grid-template-columns: minmax(0, max-content) 264px; }
.nbsight[data-narrow] .nbsight-body { grid-template-columns: minmax(0, 1fr); }
.nbsight-plane { min-width: 0; }
.nbsight-below { border-top: 1px solid var(--nb-line); margin: 14px 0 0; padding: 12px 0 0; }
.nbsight-beside { border-left: 1px solid var(--nb-line); min-height: 150px; padding: 0 0 2px 18px; }
.nbsight[data-narrow] .nbsight-beside { border-left: 0; border-top: 1px solid var(--nb-line); min-height: 0; padding: 10px 0 0; }
.nbsight-beside h3 { color: var(--nb-ink); font-size: 13px; font-weight: 600; line-height: 18px; margin: 0 0 1px; }
.nbsight-beside p { color: var(--nb-muted); font-size: 12px; margin: 0 0 8px; }
.nbsight-legend { align-items: center; color: var(--nb-muted); display: flex; flex-wrap: wrap; font-size: 11px; gap: 4px 7px; margin: 8px 0 0 var(--nb-label); }
.nbsight-scale { border-radius: 2px; flex: none; height: 8px; position: relative; width: 132px; }
.nbsight-scale::after { border: 1px solid var(--nb-line); border-radius: 2px; content: ''; inset: 0; position: absolute; }
.nbsight-scale > i { background: var(--nb-ink); bottom: -3px; box-shadow: 0 0 0 1px var(--nb-page); position: absolute; top: -3px; width: 2px; z-index: 1; }
.nbsight-readout { margin: 6px 0 0 var(--nb-label); min-height: 19px; overflow-wrap: anywhere; }

.nbsight-error { border-left: 3px solid var(--nb-error); margin: 0 0 10px; max-width: 760px; padding: 1px 0 1px 9px; }
.nbsight-error strong { color: var(--nb-error); display: block; font-weight: 600; }
.nbsight-error pre { font-size: 11px; margin: 4px 0; max-height: 130px; overflow: auto; white-space: pre-wrap; }
.nbsight-error span { display: block; margin-bottom: 5px; overflow-wrap: anywhere; white-space: pre-wrap; }
.nbsight-badge { border-left: 3px solid var(--nb-note); color: var(--nb-ink); font-size: 12px; margin: 0 0 6px; padding: 0 0 0 9px; }
.nbsight-code { border: 1px solid var(--nb-line); border-radius: 5px; margin: 0 0 10px; max-width: 760px; padding: 8px 10px; }
.nbsight-code pre { color: var(--nb-ink); font-family: var(--nb-mono); font-size: 12px; margin: 0 0 8px; max-height: 260px; overflow: auto; white-space: pre; }
.nbsight-code > div { display: flex; gap: 6px; }
.nbsight-table { max-height: 552px; max-width: 100%; overflow: auto; }
.nbsight-table table { border-collapse: collapse; font-size: 12px; margin: 0; }
.nbsight-table caption { color: var(--nb-muted); font-size: 12px; padding: 0 0 6px; text-align: left; }
.nbsight-table th, .nbsight-table td { border-bottom: 1px solid var(--nb-line); font-variant-numeric: tabular-nums; padding: 3px 12px 3px 0; text-align: left; white-space: nowrap; }
.nbsight-table thead th { background: var(--nb-page); position: sticky; top: 0; }
.nbsight-live { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; white-space: nowrap; width: 1px; }

.nbsight-heat { max-height: 552px; outline: none; overflow: auto; position: relative; scrollbar-width: thin; }
.nbsight .nbsight-heat:focus-visible, .nbsight .nbsight-lens-grid:focus-visible { outline: none; }
.nbsight-heat-sheet { min-width: 100%; position: relative; }
.nbsight-heat canvas { display: block; position: absolute; }
.nbsight-heat-rows { background: var(--nb-page); float: left; left: 0; position: sticky; width: var(--nb-label); z-index: 3; }
.nbsight-heat-rows > div {
  align-items: center; color: var(--nb-muted); display: flex; font-size: 11px; font-variant-numeric: tabular-nums; justify-content: flex-end;
  overflow: hidden; padding-right: 9px; position: absolute; width: 100%; white-space: nowrap;
}
.nbsight-heat-rows > [data-on], .nbsight-heat-strip [data-on] { color: var(--nb-ring) !important; font-weight: 600; }
.nbsight-heat-strip { background: var(--nb-page); left: 0; position: sticky; z-index: 4; }
.nbsight-heat-strip[data-at='head'] { top: 0; }
.nbsight-heat-strip[data-at='foot'] { bottom: 0; }
.nbsight-heat-strip > *, .nbsight-heat-strip > [role='columnheader'] > * { position: absolute; top: 0; }
.nbsight-heat-strip > [role='columnheader'] { display: contents; }
.nbsight-heat-corner { align-items: center; background: var(--nb-page); color: var(--nb-muted); display: flex; font-size: 11px; height: 100%; justify-content: flex-end; left: 0; padding-right: 9px; position: sticky !important; width: var(--nb-label); z-index: 5; }
.nbsight-heat-token {
  color: var(--nb-ink); font-family: var(--nb-mono); font-size: 12px; line-height: 18px; overflow: hidden; padding: 0 3px; text-align: center;
  text-overflow: ellipsis; white-space: pre;
}
.nbsight-heat-token small { color: var(--nb-muted); display: block; font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 10px; line-height: 13px; }
.nbsight-heat-mark { pointer-events: none; position: absolute; z-index: 2; }
.nbsight-heat-mark[data-kind='hover'] { box-shadow: inset 0 0 0 1px var(--nb-ink); }
.nbsight-heat-mark[data-kind='active'] { box-shadow: inset 0 0 0 1px var(--nb-ring-gap), inset 0 0 0 2px var(--nb-ring); opacity: 0; }
.nbsight-heat:focus-visible .nbsight-heat-mark[data-kind='active'] { opacity: 1; }
.nbsight-heat-mark[data-kind='selected'] { box-shadow: inset 0 0 0 2px var(--nb-ring), inset 0 0 0 3px var(--nb-ring-gap); }
.nbsight-heat-mark[data-kind='row'], .nbsight-heat-mark[data-kind='column'] { outline: 1px dashed var(--nb-ring); outline-offset: -1px; }
.nbsight svg.nbsight-over { inset: 0; overflow: visible; pointer-events: none; position: absolute; z-index: 6; }

.nbsight-bars { list-style: none; margin: 0 0 8px; padding: 0; }
.nbsight-bars li { align-items: center; display: grid; gap: 8px; grid-template-columns: minmax(48px, 92px) minmax(40px, 1fr) 46px; height: 24px; margin: 0; }
.nbsight-bars li > :first-child { font-family: var(--nb-mono); font-size: 12px; overflow: hidden; text-align: right; text-overflow: ellipsis; white-space: pre; }
.nbsight-bars li > :last-child { font-size: 12px; font-variant-numeric: tabular-nums; text-align: right; }
.nbsight-bar { background: var(--nb-hover); border-radius: 2px; display: block; height: 11px; position: relative; }
.nbsight-bar > i { background: var(--nb-bar); border-radius: 2px; display: block; height: 100%; min-width: 1px; transition: width 220ms ease-out; }
.nbsight-bar:has(> b) > i { background: var(--nb-muted); }
.nbsight-bar b { background: var(--nb-bar); box-shadow: 0 0 0 1px var(--nb-page); height: 15px; position: absolute; top: -2px; transform: translateX(-50%); width: 2px; }
.nbsight-bar b[data-mark='2'] { background: var(--nb-second); }
.nbsight-beside .nbsight-key { display: flex; font-size: 11px; gap: 12px; }
.nbsight-key i { background: var(--nb-bar); display: inline-block; height: 10px; margin-right: 5px; vertical-align: -1px; width: 3px; }
.nbsight-key i[data-mark='0'] { background: var(--nb-muted); border-radius: 2px; width: 14px; }
.nbsight-key i[data-mark='2'] { background: var(--nb-second); }
.nbsight-lines { display: block; max-width: 100%; position: relative; touch-action: none; }
.nbsight-lines svg { display: block; max-width: 100%; }
@media (prefers-reduced-motion: reduce) {
  .nbsight *, .nbsight *::before { animation: none !important; transition: none !important; }
}
@media (forced-colors: active) { .nbsight canvas, .nbsight-scale, .nbsight-bar > i { forced-color-adjust: none; } }
`;
