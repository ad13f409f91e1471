"""A JupyterLab on loopback and a hand on its mouse: what the browser tests are written with."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CELL = ".jp-Notebook .jp-Cell"
PATIENCE = 20_000  # milliseconds: what takes one second on a laptop takes ten on a shared runner
#: Nothing is on its way any more: no theme that is put on, no change of colour or place.
STILL = """() => !document.querySelector('#jupyterlab-splash') && document.getAnimations().every(
  one => one.playState !== 'running' || one.effect?.getTiming().iterations === Infinity)"""


def expect(what: Any) -> Any:
    """Playwright's assertions about a part of a page: they wait until what they say is so.

    A view answers when the kernel, the comm and the browser have had their turn. What a test reads
    at once, it reads on some days too early; so everything a page shows is asserted with this.
    """
    from playwright.sync_api import expect as assertions  # here: without Playwright tests are skipped

    assertions.set_options(timeout=PATIENCE)
    return assertions(what)


def settle(page: Any) -> None:
    """Wait until nothing moves in a page, as before a picture is taken."""
    page.wait_for_function(STILL)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def find_chromium() -> str | None:
    return os.environ.get("NBSIGHT_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LabServer:
    """JupyterLab with a home of its own, serving a temporary folder."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = log
        home = folder / ".home"
        settings = home / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        # no question about news in front of the page
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
        # what js/ was built into, whether or not it is installed as well
        extensions = home / "labextensions"
        extensions.mkdir()
        (extensions / "nbsight").symlink_to(ROOT / "nbsight" / "labextension")
        environment = {
            **os.environ,
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": str(ROOT),
        }
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root"),
            f"--ServerApp.root_dir={folder}",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.url.rpartition(':')[2]}",
            f"--IdentityProvider.token={self.token}",
            f"--LabApp.extra_labextensions_path={extensions}",
            # Notebook 7, where it is installed, is served by the same server
            f"--JupyterNotebookApp.extra_labextensions_path={extensions}",
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=2).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start; it said:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def write(self, name: str, *cells: str) -> None:
        """A notebook of code cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, self.folder / name)

    def read(self, name: str) -> Any:
        return nbformat.read(self.folder / name, as_version=4)


class Notebook:
    """One notebook in one page, in the words of its user."""

    def __init__(self, page: Any, server: LabServer, name: str) -> None:
        self.page, self.server, self.name = page, server, name
        self.open()

    def open(self, kernel: bool = True) -> None:
        self.page.goto(f"{self.server.url}/lab/tree/{self.name}?token={self.server.token}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
        if kernel:
            self.wait_idle()

    def command(self, name: str, **options: Any) -> Any:
        return self.page.evaluate(
            "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => null)",
            [name, options],
        )

    def wait_idle(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=60_000,
        )

    def wait_busy(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'busy'"
        )

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run a cell; by default until it has a number again and the kernel rests."""
        model = "window.jupyterapp.shell.currentWidget.content.widgets[index].model"
        self.page.evaluate(f"index => {{ {model}.sharedModel.execution_count = null; }}", index)
        self.page.locator(CELL).nth(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        if wait:
            self.page.wait_for_function(
                f"index => {model}.executionCount !== null", arg=index, timeout=60_000
            )
            self.wait_idle()

    def output(self, index: int) -> Any:
        return self.page.locator(CELL).nth(index).locator(".jp-OutputArea-output")

    def said(self, index: int) -> str:
        """What a cell printed and returned as text: its outputs, which are there before they are drawn."""
        outputs = self.page.evaluate(
            "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.outputs?.toJSON() ?? []",
            index,
        )
        failed = ["\n".join(out["traceback"]) for out in outputs if out["output_type"] == "error"]
        assert not failed, failed[0][-2000:]
        texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
        return "\n".join("".join(text) for text in texts).strip()

    def source(self, index: int) -> str:
        """What is written in a cell."""
        return str(
            self.page.evaluate(
                "i => window.jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.getSource()",
                index,
            )
        )

    def type(self, index: int, text: str) -> None:
        """Put text into a cell and leave the cursor at its end."""
        self.page.locator(CELL).nth(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def python(self, index: int, code: str) -> str:
        """Run code in a cell and return what it printed."""
        self.type(index, code)
        self.run(index)
        return self.said(index)

    def until(self, index: int, code: str, printed: str) -> None:
        """Run code in a cell until it prints this: what a page tells the kernel may come after the cell."""
        end = time.monotonic() + PATIENCE / 1000
        while (found := self.python(index, code)) != printed:
            assert time.monotonic() < end, f"{code!r} printed {found!r}, not {printed!r}"

    def theme(self, name: str) -> None:
        self.command("apputils:change-theme", theme=name)
        dark = "false" if "Dark" in name else "true"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{dark}']", state="attached")
        other = "light" if "Dark" in name else "dark"
        expect(self.page.locator(f".nbsight[data-theme='{other}']")).to_have_count(0)
        settle(self.page)

    def save(self) -> None:
        self.command("docmanager:save")

    def shut_kernel_down(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
