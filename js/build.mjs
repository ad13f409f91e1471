// One self-contained ES module per widget: src/widgets/<name>/index.ts -> nbsight/static/<name>.js.
// The pages that show widgets (JupyterLab, VS Code, Colab, marimo) get the text of these files.
import { readdirSync, rmSync } from 'node:fs';
import * as esbuild from 'esbuild';

const watch = process.argv.includes('--watch');
const names = readdirSync('src/widgets', { withFileTypes: true }).filter(entry => entry.isDirectory());
const outdir = '../nbsight/static';
rmSync(outdir, { recursive: true, force: true });

const options = {
  entryPoints: Object.fromEntries(names.map(({ name }) => [name, `src/widgets/${name}/index.ts`])),
  outdir,
  bundle: true,
  format: 'esm',
  target: 'es2020',
  minify: !watch,
  sourcemap: watch ? 'inline' : false,
  legalComments: 'none',
  charset: 'utf8',
  logLevel: 'info'
};
if (watch) {
  await (await esbuild.context(options)).watch();
} else {
  await esbuild.build(options);
}
