/** Colours come from the front end where it has them, else from the theme that theme.ts found. */
export const STYLE = `
.nbsight-lens {
  --nb-page: var(--jp-layout-color0, var(--vscode-editor-background, #ffffff));
  --nb-ink: var(--jp-ui-font-color1, var(--vscode-foreground, #1d2733));
  --nb-muted: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #5b6775));
  --nb-line: var(--jp-border-color2, var(--vscode-widget-border, #d5dce3));
  --nb-hover: var(--jp-layout-color2, var(--vscode-list-hoverBackground, #eef2f5));
  --nb-ring: #c2410c;
  --nb-ring-gap: #ffffff;
  --nb-bar: #328fa8;
  --nb-error: #b3261e;
  --nb-label: 44px;
  --nb-row: 26px;
  box-sizing: border-box;
  color: var(--nb-ink);
  font-family: var(--jp-ui-font-family, var(--vscode-font-family, system-ui, sans-serif));
  font-size: 13px;
  line-height: 1.4;
  max-width: 100%;
  padding: 4px 2px 6px;
}
.nbsight-lens[data-theme='dark'] {
  --nb-page: var(--jp-layout-color0, var(--vscode-editor-background, #111418));
  --nb-ink: var(--jp-ui-font-color1, var(--vscode-foreground, #e6eaee));
  --nb-muted: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #a3adb8));
  --nb-line: var(--jp-border-color2, var(--vscode-widget-border, #333d47));
  --nb-hover: var(--jp-layout-color2, var(--vscode-list-hoverBackground, #232b33));
  --nb-ring: #ff9d4d;
  --nb-ring-gap: #0d1117;
  --nb-bar: #4fa1a7;
  --nb-error: #ff8a80;
}
.nbsight-lens *, .nbsight-lens *::before { box-sizing: border-box; }
.nbsight-lens [hidden] { display: none !important; }

.nbsight-lens-head { align-items: baseline; display: flex; flex-wrap: wrap; gap: 2px 10px; margin-bottom: 8px; }
.nbsight-lens-title { font-size: 14px; font-weight: 600; }
.nbsight-lens-about { color: var(--nb-muted); }
.nbsight-lens-actions { display: flex; gap: 6px; margin-left: auto; }
.nbsight-lens button {
  background: none; border: 1px solid var(--nb-line); border-radius: 4px; color: var(--nb-ink); cursor: pointer;
  font: inherit; font-size: 12px; line-height: 18px; padding: 1px 9px;
}
.nbsight-lens button:hover { background: var(--nb-hover); }
.nbsight-lens button[aria-pressed='true'] { background: var(--nb-hover); border-color: var(--nb-muted); }
.nbsight-lens button:focus-visible { outline: 2px solid var(--nb-ring); outline-offset: 1px; }

.nbsight-lens-body { align-items: start; display: grid; gap: 14px 26px; grid-template-columns: minmax(0, max-content) 264px; }
.nbsight-lens[data-narrow] .nbsight-lens-body { grid-template-columns: minmax(0, 1fr); }
.nbsight-lens-plane { min-width: 0; }
.nbsight-lens-axis { color: var(--nb-muted); display: flex; font-size: 11px; line-height: 16px; }
.nbsight-lens-axis > :first-child { flex: none; padding-right: 9px; text-align: right; width: var(--nb-label); }

.nbsight-lens-grid { max-height: 552px; outline: none; overflow: auto; position: relative; scrollbar-width: thin; }
.nbsight-lens-sheet { min-width: 100%; }
.nbsight-lens-row { display: flex; height: var(--nb-row); }
.nbsight-lens-rowhead {
  align-items: center; background: var(--nb-page); color: var(--nb-muted); display: flex; flex: none; font-size: 11px;
  font-variant-numeric: tabular-nums; justify-content: flex-end; left: 0; padding-right: 9px; position: sticky;
  width: var(--nb-label); z-index: 2;
}
.nbsight-lens-cell {
  background-clip: padding-box; border: solid var(--nb-page); border-width: 0 2px 2px 0; cursor: pointer; flex: none;
  font-family: var(--jp-code-font-family, var(--vscode-editor-font-family, ui-monospace, monospace)); font-size: 12px;
  line-height: calc(var(--nb-row) - 2px); overflow: hidden; padding: 0 5px; position: relative; text-align: center;
  text-overflow: ellipsis; white-space: pre;
}
.nbsight-lens-cell[data-same]::before {
  background: currentColor; border-radius: 1px; bottom: 2px; content: ''; height: 2px; left: 50%; opacity: 0.75;
  position: absolute; transform: translateX(-50%); width: 16px;
}
.nbsight-lens-cell:hover { box-shadow: inset 0 0 0 1px var(--nb-ink); }
.nbsight-lens-cell[aria-selected='true'] { box-shadow: inset 0 0 0 2px var(--nb-ring), inset 0 0 0 3px var(--nb-ring-gap); }
.nbsight-lens-grid:focus-visible .nbsight-lens-cell[data-active] {
  box-shadow: inset 0 0 0 2px var(--nb-ring-gap); outline: 2px solid var(--nb-ring); outline-offset: -1px; z-index: 1;
}
.nbsight-lens-foot {
  background: var(--nb-page); bottom: 0; height: 42px; padding-top: 4px; position: sticky; z-index: 3;
}
.nbsight-lens-foot .nbsight-lens-rowhead { align-items: flex-start; padding-top: 2px; z-index: 4; }
.nbsight-lens-token {
  color: var(--nb-ink); flex: none; font-family: var(--jp-code-font-family, ui-monospace, monospace); font-size: 12px;
  line-height: 18px; overflow: hidden; padding: 0 4px; text-align: center; text-overflow: ellipsis; white-space: pre;
}
.nbsight-lens-token small {
  color: var(--nb-muted); display: block; font-family: var(--jp-ui-font-family, system-ui, sans-serif);
  font-size: 10px; line-height: 13px;
}
.nbsight-lens-token[data-on], .nbsight-lens-rowhead[data-on] { color: var(--nb-ring); font-weight: 600; }

.nbsight-lens-legend {
  align-items: center; color: var(--nb-muted); display: flex; font-size: 11px; gap: 7px; margin: 8px 0 0 var(--nb-label);
}
.nbsight-lens-scale { border-radius: 2px; flex: none; height: 8px; position: relative; width: 132px; }
.nbsight-lens-scale::after { border: 1px solid var(--nb-line); border-radius: 2px; content: ''; inset: 0; position: absolute; }
.nbsight-lens-scale > i {
  background: var(--nb-ink); bottom: -3px; box-shadow: 0 0 0 1px var(--nb-page); position: absolute; top: -3px; width: 2px;
  z-index: 1;
}
.nbsight-lens-readout { margin: 6px 0 0 var(--nb-label); min-height: 19px; }
.nbsight-lens code, .nbsight-lens-mono { font-family: var(--jp-code-font-family, ui-monospace, monospace); font-size: 12px; white-space: pre; }
.nbsight-lens .nbsight-lens-readout code { background: none; padding: 0; }

.nbsight-lens-detail { border-left: 1px solid var(--nb-line); min-height: 150px; padding: 0 0 2px 18px; }
.nbsight-lens[data-narrow] .nbsight-lens-detail { border-left: 0; border-top: 1px solid var(--nb-line); min-height: 0; padding: 10px 0 0; }
.nbsight-lens-detail h3 { color: var(--nb-ink); font-size: 13px; font-weight: 600; line-height: 18px; margin: 0 0 1px; }
.nbsight-lens-detail p { color: var(--nb-muted); font-size: 12px; margin: 0 0 8px; }
.nbsight-lens-detail ol { list-style: none; margin: 0 0 8px; padding: 0; }
.nbsight-lens-detail li {
  align-items: center; display: grid; gap: 8px; grid-template-columns: minmax(48px, 92px) minmax(40px, 1fr) 46px;
  height: 21px; margin: 0;
}
.nbsight-lens-detail li > :first-child { overflow: hidden; text-align: right; text-overflow: ellipsis; }
.nbsight-lens-bar { background: var(--nb-hover); border-radius: 2px; display: block; height: 11px; overflow: hidden; }
.nbsight-lens-bar > i { background: var(--nb-bar); border-radius: 2px; display: block; height: 100%; min-width: 1px; transition: width 140ms ease-out; }
.nbsight-lens-detail li > :last-child { font-size: 12px; font-variant-numeric: tabular-nums; text-align: right; }
.nbsight-lens-detail .nbsight-lens-note { font-size: 11px; margin: 0; }
.nbsight-lens-error { border-left: 3px solid var(--nb-error); margin: 0 0 8px; padding: 1px 0 1px 9px; }
.nbsight-lens-error strong { color: var(--nb-error); display: block; font-weight: 600; }
.nbsight-lens-error pre { font-size: 11px; margin: 4px 0; max-height: 130px; overflow: auto; white-space: pre-wrap; }
.nbsight-lens-error span { display: block; margin-bottom: 5px; overflow-wrap: anywhere; white-space: pre-wrap; }

.nbsight-lens-table { max-height: 552px; max-width: 100%; overflow: auto; }
.nbsight-lens-table table { border-collapse: collapse; font-size: 12px; margin: 0; }
.nbsight-lens-table caption { color: var(--nb-muted); font-size: 12px; padding: 0 0 6px; text-align: left; }
.nbsight-lens-table th, .nbsight-lens-table td {
  border-bottom: 1px solid var(--nb-line); padding: 3px 12px 3px 0; text-align: left; white-space: nowrap;
}
.nbsight-lens-table thead th { background: var(--nb-page); position: sticky; top: 0; }
.nbsight-lens-table td span { color: var(--nb-muted); font-variant-numeric: tabular-nums; padding-left: 6px; }
.nbsight-lens-live { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; white-space: nowrap; width: 1px; }
@media (prefers-reduced-motion: reduce) { .nbsight-lens-bar > i { transition: none; } }
@media (forced-colors: active) { .nbsight-lens-cell, .nbsight-lens-scale, .nbsight-lens-bar > i { forced-color-adjust: none; } }
`;
