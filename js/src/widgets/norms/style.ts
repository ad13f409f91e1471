export const STYLE = `
.nbsight .nbsight-norms-caption { color: var(--nb-muted); font-size: 12px; font-weight: 400; margin: 10px 0 6px var(--nb-label); }
.nbsight-norms-caption strong { color: var(--nb-ink); }
.nbsight .nbsight-norms-parts li { grid-template-columns: 104px minmax(40px, 1fr) 46px; height: 24px; }
.nbsight .nbsight-norms-parts li > button { border-color: transparent; font-family: var(--jp-ui-font-family, system-ui, sans-serif); padding: 0 4px; text-align: left; }
.nbsight-norms-parts li > button[aria-pressed='true'] { border-color: var(--nb-line); }
.nbsight-norms-parts li > button i { display: inline-block; margin-right: 6px; vertical-align: 3px; width: 14px; }
.nbsight-beside .nbsight-badge { margin: 10px 0 12px; }
.nbsight-norms-channels { list-style: none; margin: 0; padding: 0; }
.nbsight-norms-channels li { display: grid; font-size: 12px; font-variant-numeric: tabular-nums; grid-template-columns: 56px 70px 1fr; margin: 0; }
.nbsight-norms-channels li > :last-child { color: var(--nb-muted); }
`;
