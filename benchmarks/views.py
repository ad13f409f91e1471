"""How long views take in a browser: first paint, hovering, a large tensor; and what their modules weigh.

    python -m benchmarks.views

needs a built js/, JupyterLab, Playwright and Chromium, as the browser tests do. Prints a table.
"""

from __future__ import annotations

import gzip
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MAKE = """
import torch, nbsight
from nbsight.widgets import *
model = nbsight.LanguageModel("nbsight/demo", dispatch=True)
clean, corrupted = "The Eiffel Tower is in the city of", "The Colosseum is in the city of"
large = torch.randn(1, 512, 24_576)
"""
VIEWS = {
    "lens": "LensWidget(nbsight.logit_lens(model, clean))",
    "norms": "NormsWidget(nbsight.stream_norms(model, clean))",
    "inspector": "InspectorWidget(model, clean)",
    "patching": 'PatchingWidget(model, clean, corrupted, answers=(" Paris", " Rome"))',
    "stepper": "StepperWidget(model, clean)",
    "inspector, 50 MB": "InspectorWidget(large)",
}
ROUNDS = 5
#: Milliseconds between frames while the pointer goes over the map.
HOVER = """async () => {
  const canvas = document.querySelector('.nbsight-heat canvas'), box = canvas.getBoundingClientRect();
  const sheet = document.querySelector('.nbsight-heat-sheet'), times = [];
  let last = performance.now();
  for (let i = 0; i < 300; i++) {
    const at = {clientX: box.left + (i * 37) % box.width, clientY: box.top + (i * 11) % box.height};
    sheet.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, ...at}));
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""


def first_paints(page: Any, server: Any) -> dict[str, float]:
    """Seconds from running the cell to a view that can be read, the median of some rounds."""
    from tests.e2e.lab import Notebook

    server.write("views.ipynb", MAKE, *VIEWS.values())
    notebook = Notebook(page, server, "views.ipynb")
    notebook.run(0)
    found: dict[str, list[float]] = {name: [] for name in VIEWS}
    for _ in range(ROUNDS):
        for index, name in enumerate(VIEWS):
            cell = page.locator(".jp-Notebook .jp-Cell").nth(index + 1)
            cell.locator(".cm-content").click()
            notebook.command("notebook:clear-cell-output")
            began = time.perf_counter()
            page.keyboard.press("Control+Enter")
            cell.locator(".nbsight [role=grid]").first.wait_for(timeout=60_000)
            found[name].append(time.perf_counter() - began)
            notebook.wait_idle()
    return {name: statistics.median(times) for name, times in found.items()}


def hovering(page: Any, folder: Path) -> list[float]:
    """Milliseconds between frames over a map of 64 layers and 512 tokens, each cell one number."""
    import numpy as np

    from nbsight.results.norms import Norms
    from nbsight.widgets import NormsWidget

    layers, tokens = range(64), [f" {i}" for i in range(512)]
    sizes = np.random.default_rng(0).random((1, 64, 512), dtype=np.float32)
    norms = Norms(
        prompt="",
        components=["resid_post"],
        layers=layers,
        tokens=tokens,
        norm=sizes,
        turn=sizes[0],
        other_layers=layers,
        alike=np.eye(64, dtype=np.float32),
        channels=[0],
        channel_size=sizes[0, :, :1],
    )
    file = folder / "hover.html"
    NormsWidget(norms).to_html(file)
    page.goto(file.as_uri())
    page.wait_for_selector(".nbsight-heat canvas")
    return list(page.evaluate(HOVER))


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.lab import FLAGS, LabServer, find_chromium

    folder = Path(tempfile.mkdtemp())
    server = LabServer(folder, folder / "lab.log")
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1320, "height": 900})
            for name, seconds in first_paints(page, server).items():
                print(f"first paint, {name:18} {seconds:6.2f} s")
            times = hovering(page, folder)
            middle, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
            print(f"hovering, 64 × 512: a frame in {middle:.1f} ms, of twenty the slowest in {slow:.1f} ms")
            browser.close()
    finally:
        server.stop()
    for module in sorted((ROOT / "nbsight" / "static").glob("*.js")):
        print(f"gzipped, {module.stem:22} {len(gzip.compress(module.read_bytes(), 9)) / 1000:6.1f} kB")


if __name__ == "__main__":
    main()
