"""Run notebooks on a real kernel, and take out of them what would change at every run.

    python tests/tutorials/running.py

runs all of them, each on a kernel of its own, and writes them back with their outputs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
LIVE_WIDGET = "application/vnd.jupyter.widget-view+json"
RECEIPT = r"[\d,]+ forwards? · .*"  # what is shown under a cell that traced and saved
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

# Names are forgotten, and so is the extension: as on a new kernel, only that torch is imported already.
FORGET = "%unload_ext nbsight\nimport matplotlib.pyplot as plt; plt.close('all')\n%reset -f"


@contextmanager
def kernel() -> Iterator[KernelManager]:
    """A kernel that finds this checkout, whether or not it is installed."""
    environment = dict(os.environ)
    paths = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # How far a bar gets depends on the machine.
    environment["TQDM_DISABLE"] = "1"
    # What a terminal's pytest sets for itself is not what a notebook has.
    environment.pop("MPLBACKEND", None)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment, cwd=str(NOTEBOOKS))
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)


def execute(notebook: NotebookNode, manager: KernelManager) -> NotebookNode:
    """Run all cells on a running kernel and return the notebook, with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = NotebookClient(notebook, km=manager, timeout=180, record_timing=False)
    client.execute(cleanup_kc=False)
    return notebook


def forget(manager: KernelManager) -> None:
    """Make a used kernel as good as new."""
    cell = nbformat.v4.new_code_cell(FORGET)
    execute(nbformat.v4.new_notebook(cells=[cell]), manager)


def read(name: str) -> NotebookNode:
    """A notebook of the repository."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy in which nothing has been run."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copy


def text_of(cell: NotebookNode) -> str:
    """What a cell printed and showed, as text; no warnings (`warnings_of`) and no receipt (`receipt_of`)."""
    parts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            parts.append(output.text if output.name == "stdout" else "")
        elif "data" in output and not _is_receipt(output):
            parts.append(output.data.get("text/plain", ""))
    return "".join(parts)


def receipt_of(cell: NotebookNode) -> str:
    """What nbsight said under a cell that traced and saved; empty if it said nothing."""
    return "".join(output.data["text/plain"] for output in cell.get("outputs", []) if _is_receipt(output))


def _is_receipt(output: NotebookNode) -> bool:
    text = output.get("data", {}).get("text/plain", "")
    return output.output_type == "display_data" and re.fullmatch(RECEIPT, text) is not None


def warnings_of(cell: NotebookNode) -> str:
    """What a cell wrote to its error stream."""
    outputs = cell.get("outputs", [])
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def solutions(notebook: NotebookNode) -> list[str]:
    """The code of the solutions, which stand in folded parts of the text."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    folded = re.findall(r"<details>.*?</details>", text, re.DOTALL)
    return [code for part in folded for code in re.findall(r"```python\n(.*?)```", part, re.DOTALL)]


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Leave what a reader of the file sees and nothing of the machine that ran it."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        )
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number + 1
            # A live widget is gone with its kernel; its still copies stay.
            output.get("data", {}).pop(LIVE_WIDGET, None)
    return notebook


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with what was printed in one piece; a kernel sends it in pieces as time allows."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == "stream" and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def main() -> None:
    """Run and rewrite every notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with kernel() as manager:
            notebook = execute(without_outputs(nbformat.read(path, as_version=4)), manager)
        nbformat.write(tidy(notebook), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
