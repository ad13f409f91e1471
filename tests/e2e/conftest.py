"""One JupyterLab and one Chromium for all browser tests; a fresh page for each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import FLAGS, ROOT, LabServer, find_chromium

# Said by JupyterLab itself, also where nbsight is not installed.
NOT_OURS = (
    "Error displaying widget",
    "widget model not found",
    "favicon",
    "ResizeObserver loop",
    # Notebook 7's own, which has no file browser beside its notebooks
    "(reading 'schema')",
    "Command 'filebrowser:open-path' not registered",
)


def missing() -> str | None:
    """Why the browser tests cannot run, in a sentence."""
    if find_chromium() is None:
        return "no Chromium: install it or set NBSIGHT_CHROMIUM (`python3 dev.py test` says how)"
    try:
        import jupyterlab  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[e2e]'"
    if not (ROOT / "nbsight" / "static" / "BUILD_STAMP").exists():
        return "js/ is not built: pip install -e ."
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = missing()
    if reason and os.environ.get("NBSIGHT_REQUIRE_E2E") == "1":
        raise pytest.UsageError(f"NBSIGHT_REQUIRE_E2E=1, and the browser tests cannot run: {reason}")
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            # A browser on a busy machine may be late once; a failure is what stays one. `-ra` lists reruns.
            item.add_marker(pytest.mark.flaky(reruns=2))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=find_chromium(), headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Iterator[LabServer]:
    server = LabServer(tmp_path_factory.mktemp("lab"), artifacts / "jupyterlab.log")
    yield server
    server.stop()


@contextlib.contextmanager
def quiet_page(browser: Any) -> Iterator[Any]:
    """A page in which an error of any script is a failure."""
    context = browser.new_context(viewport={"width": 1320, "height": 900}, device_scale_factor=1.5)
    page = context.new_page()
    if slower := os.environ.get("NBSIGHT_E2E_SLOWER"):
        # What a test reads too early, it reads wrong in a page that takes longer for everything.
        context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": float(slower)})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    ours = [error for error in errors if not any(known in error for known in NOT_OURS)]
    assert not ours, f"errors in the page: {ours}"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with quiet_page(browser) as page:
        yield page


@pytest.fixture(scope="module")
def module_page(browser: Any) -> Iterator[Any]:
    with quiet_page(browser) as page:
        yield page
