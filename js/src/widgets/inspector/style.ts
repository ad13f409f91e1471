export const STYLE = `
.nbsight-inspector .nbsight-body { grid-template-columns: minmax(0, 1fr) 232px; }
.nbsight-inspector .nbsight-body[data-many] { grid-template-columns: 190px minmax(0, 1fr) 232px; }
.nbsight-inspector[data-narrow] .nbsight-body[data-many], .nbsight-inspector[data-narrow] .nbsight-body { grid-template-columns: minmax(0, 1fr); }
.nbsight-inspector-tree { display: grid; gap: 6px; min-width: 0; }
.nbsight-inspector-tree input { width: 100%; }
.nbsight-inspector-tree ul { list-style: none; margin: 0; max-height: 420px; outline: none; overflow: auto; padding: 0; position: relative; scrollbar-width: thin; }
.nbsight-inspector[data-narrow] .nbsight-inspector-tree ul { max-height: 130px; }
.nbsight-inspector-tree li { border-radius: 3px; cursor: pointer; display: flex; font-size: 12px; gap: 8px; justify-content: space-between; line-height: 21px; margin: 0; padding-right: 6px; }
.nbsight-inspector-tree li:hover { background: var(--nb-hover); }
.nbsight-inspector-tree li[aria-selected='true'] { background: var(--nb-hover); box-shadow: inset 2px 0 0 var(--nb-bar); font-weight: 600; }
.nbsight-inspector-tree ul:focus-visible li[data-active] { outline: 2px solid var(--nb-ring); outline-offset: -2px; }
.nbsight-inspector-tree li > span { font-family: var(--nb-mono); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbsight-inspector-tree li > span[data-saved]::after { color: var(--nb-bar); content: ' •'; }
.nbsight-inspector-tree small { color: var(--nb-muted); flex: 0 999 auto; font-weight: 400; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbsight-inspector-tree p { color: var(--nb-muted); font-size: 11px; margin: 0; }
.nbsight-inspector-axes { align-items: center; display: inline-flex; flex-wrap: wrap; gap: 6px 14px; }
.nbsight-inspector-axes input[type='range'] { accent-color: var(--nb-bar); width: 120px; }
.nbsight-inspector-axes code { color: var(--nb-ink); min-width: 56px; }
.nbsight-inspector-tick { color: var(--nb-muted); font-size: 10.5px; font-variant-numeric: tabular-nums; overflow: visible; padding-top: 4px; white-space: nowrap; }
.nbsight-inspector .nbsight-inspector-facts { display: grid; font-size: 12px; font-variant-numeric: tabular-nums; gap: 1px 12px; grid-template-columns: max-content 1fr; margin: 0 0 10px; }
.nbsight-inspector-facts dt { color: var(--nb-muted); float: none; font-weight: 400; white-space: nowrap; width: auto; }
.nbsight-inspector-facts dd { margin: 0; text-align: right; }
.nbsight-inspector-facts [data-bad] { color: var(--nb-error); font-weight: 600; }
.nbsight-inspector-histogram { margin: 0 0 12px; }
.nbsight-inspector-channels { display: grid; font-size: 12px; font-variant-numeric: tabular-nums; gap: 0 14px; grid-template-columns: 1fr 1fr; list-style: none; margin: 0; padding: 0; }
.nbsight-inspector-channels li { display: flex; justify-content: space-between; margin: 0; }
.nbsight-inspector[data-stage='asking'] .nbsight-heat canvas, .nbsight-inspector[data-stage='queued'] .nbsight-heat canvas { opacity: 0.55; }
`;
