export const STYLE = `
.nbsight-patching { --nb-label: 72px; }
.nbsight-patching select { max-width: 196px; text-overflow: ellipsis; }
.nbsight-patching-chip {
  align-items: center; border-radius: 4px; display: flex; flex-direction: column; font-family: var(--nb-mono) !important; height: 26px; justify-content: center;
  overflow: hidden; padding: 0 2px !important; touch-action: none; white-space: pre;
}
.nbsight .nbsight-patching-chip { border-color: transparent; cursor: default; }
.nbsight .nbsight-patching-chip[data-gives] { border-color: var(--nb-line); cursor: grab; }
.nbsight .nbsight-patching-chip[data-differs] { background: color-mix(in srgb, var(--nb-second) 16%, transparent); border-bottom: 2px solid var(--nb-second); font-weight: 600; }
.nbsight .nbsight-patching-chip[data-held] { outline: 2px solid var(--nb-ring); outline-offset: -2px; }
.nbsight-patching-chip > span { max-width: 100%; overflow: hidden; text-overflow: ellipsis; }
.nbsight-patching-progress { accent-color: var(--nb-bar); height: 8px; width: 110px; }
.nbsight-patching-track { background: var(--nb-hover); border-radius: 4px; height: 8px; margin: 8px 0 3px; position: relative; }
.nbsight-patching-track i { position: absolute; transform: translateX(-50%); transition: left 220ms ease-out; }
.nbsight-patching-track i[data-mark='clean'] { background: var(--nb-bar); height: 14px; top: -3px; width: 3px; }
.nbsight-patching-track i[data-mark='corrupted'] { background: var(--nb-second); height: 14px; top: -3px; width: 3px; }
.nbsight-patching-track i[data-mark='patched'] { background: var(--nb-ink); border: 2px solid var(--nb-page); border-radius: 50%; height: 16px; top: -4px; width: 16px; }
.nbsight-patching-track i[data-mark='frozen'] { border: 2px dashed var(--nb-muted); border-radius: 50%; height: 16px; top: -4px; width: 16px; }
.nbsight-patching .nbsight-bar b[data-mark='3'] { background: none; border: 1px dashed var(--nb-ink); border-width: 0 2px 0 0; box-shadow: none; height: 19px; top: -4px; }
.nbsight-patching .nbsight-key { flex-wrap: wrap; }
.nbsight-patching .nbsight-key i[data-mark='3'] { background: none; border-right: 2px dashed var(--nb-ink); }
.nbsight-patching-head { color: var(--nb-muted); display: block; font-size: 11px; line-height: 20px; text-align: center; width: 100%; }
.nbsight-patching-ends { color: var(--nb-muted); display: flex; font-size: 11px; font-variant-numeric: tabular-nums; justify-content: space-between; }
.nbsight-beside .nbsight-patching-share { color: var(--nb-ink); margin: 4px 0 12px; min-height: 18px; }
.nbsight-beside .nbsight-patching-gauge > p:first-child { margin: 0; overflow-wrap: anywhere; }
.nbsight-patching-stack { border-top: 1px solid var(--nb-line); margin-top: 12px; padding-top: 10px; }
.nbsight-patching-stack ul { list-style: none; margin: 4px 0 8px; padding: 0; }
.nbsight-patching-stack li { align-items: center; display: flex; font-size: 12px; gap: 6px; margin: 0 0 3px; }
.nbsight-patching-stack li > span { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbsight-patching-stack li button { border-color: transparent; padding: 0 6px; }
.nbsight-patching-stack div { display: flex; gap: 6px; }
.nbsight-patching-compare { margin-top: 10px; }
.nbsight-patching-compare table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; margin: 6px 0 8px; width: 100%; }
.nbsight-patching-compare :is(th, td) { background: none; border: 0; padding: 1px 0 1px 6px; text-align: right; white-space: pre; }
.nbsight-patching-compare :is(th, td):first-child { font-family: var(--nb-mono); max-width: 84px; overflow: hidden; padding-left: 0; text-align: left; text-overflow: ellipsis; }
.nbsight-patching-compare tr { background: none !important; }
.nbsight-patching-compare thead th { border-bottom: 1px solid var(--nb-line); color: var(--nb-muted); font-weight: 400; }
.nbsight-patching-compare tbody tr:first-child :is(th, td) { font-family: inherit; font-weight: 600; }
.nbsight-patching-compare td:last-child { font-weight: 600; }
.nbsight-patching-compare ul { color: var(--nb-muted); font-size: 12px; list-style: none; margin: 4px 0; padding: 0; }
.nbsight-patching-compare div { display: flex; gap: 6px; }
`;
