/** The grid of tokens; what all views share is in shared/style.ts. */
export const STYLE = `
.nbsight-lens-axis { color: var(--nb-muted); display: flex; font-size: 11px; line-height: 16px; }
.nbsight-lens-axis > :first-child { flex: none; padding-right: 9px; text-align: right; width: var(--nb-label); }

.nbsight-lens { --nb-row: 26px; }
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
.nbsight .nbsight-lens-detail li > button { border-color: transparent; padding: 0 4px; }
.nbsight-beside .nbsight-lens-note { font-size: 11px; margin: 0; }
.nbsight-lens .nbsight-table td span { color: var(--nb-muted); padding-left: 6px; }
.nbsight-lens-pins { display: flex; flex-wrap: wrap; gap: 5px; margin: 8px 0 0 var(--nb-label); }
.nbsight-lens-pins button { font-family: var(--nb-mono); }
.nbsight-lens-pins i { display: inline-block; height: 0; margin-right: 6px; vertical-align: 4px; width: 16px; }
.nbsight-lens-contrast { align-items: center; color: var(--nb-muted); display: flex; flex-wrap: wrap; font-size: 12px; gap: 6px; margin: 0 0 10px; }
.nbsight-lens-contrast input { font-family: var(--nb-mono) !important; width: 118px; }
.nbsight button.nbsight-lens-side { display: none; font-family: var(--nb-mono); font-size: 11px; line-height: 14px; min-width: 24px; padding: 0; }
.nbsight-lens-detail[data-contrast] li { grid-template-columns: minmax(48px, 84px) minmax(24px, 1fr) 24px 24px 42px; gap: 3px; }
.nbsight .nbsight-lens-detail[data-contrast] button.nbsight-lens-side { display: block; }
.nbsight button.nbsight-lens-inspect { margin: 2px 0 8px; }
.nbsight-lens-check { color: var(--nb-muted); font-size: 12px; }
@media (forced-colors: active) { .nbsight-lens-cell { forced-color-adjust: none; } }
`;
