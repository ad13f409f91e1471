"""The tools around the package: what is built when, one version everywhere, a lockfile for any registry."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str):
    """A script at the top of the repository as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hatch_build = load("hatch_build")


@pytest.fixture
def checkout(tmp_path):
    """A small copy: the sources of js/, and built files that belong to them."""
    js = tmp_path / "js"
    (js / "src").mkdir(parents=True)
    (js / "src" / "a.ts").write_bytes(b"one\ntwo\n")
    (js / "package.json").write_text("{}")
    for built in ("static/BUILD_STAMP", "labextension/package.json"):
        (tmp_path / "nbsight" / built).parent.mkdir(parents=True)
        (tmp_path / "nbsight" / built).write_text(hatch_build.fingerprint(js) + "\n")
    return tmp_path


def test_nothing_is_built_when_nothing_changed(checkout):
    assert not hatch_build.needs_building(checkout)


@pytest.mark.parametrize("name", ["src/a.ts", "src/new.ts", "package.json", "rspack.config.js"])
def test_a_changed_source_is_built(checkout, name):
    (checkout / "js" / name).write_text("changed")
    assert hatch_build.needs_building(checkout)


@pytest.mark.parametrize("name", ["static/BUILD_STAMP", "labextension/package.json"])
def test_a_missing_build_is_built(checkout, name):
    (checkout / "nbsight" / name).unlink()
    assert hatch_build.needs_building(checkout)


def test_windows_line_ends_and_tests_change_nothing(checkout):
    (checkout / "js" / "src" / "a.ts").write_bytes(b"one\r\ntwo\r\n")
    (checkout / "js" / "tests").mkdir()
    (checkout / "js" / "tests" / "a.test.ts").write_text("it")
    assert not hatch_build.needs_building(checkout)


def test_a_source_distribution_without_js_builds_nothing(checkout):
    shutil.rmtree(checkout / "js")
    assert not hatch_build.needs_building(checkout)


def test_every_folder_and_file_that_is_built_from_is_known():
    """Else a change of it would go unnoticed."""
    not_built = {"biome.json", "lib", "node_modules", "tests", "vitest.config.mjs"}
    present = {path.name for path in (ROOT / "js").iterdir() if not path.name.endswith(".tsbuildinfo")}
    assert present - not_built == set(hatch_build.SOURCES)


def test_one_version_everywhere():
    import nbsight

    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    package = json.loads((ROOT / "js" / "package.json").read_text())["version"]
    lock = json.loads((ROOT / "js" / "package-lock.json").read_text())["version"]
    assert {project, package, lock} == {nbsight.__version__}


def test_the_lockfile_names_no_registry():
    text = (ROOT / "js" / "package-lock.json").read_text()
    assert '"integrity"' in text
    assert '"resolved"' not in text
    assert ".tgz" not in text


def test_widgets_do_not_know_jupyterlab():
    """They run in VS Code, Colab and marimo too."""
    for folder in ("widgets", "shared"):
        for file in (ROOT / "js" / "src" / folder).rglob("*.ts"):
            imports = re.findall(r"from '([^']+)'", file.read_text(encoding="utf-8"))
            assert not [
                name for name in imports if name.startswith(("@jupyterlab", "@lumino")) or "/lab/" in name
            ], file


def run_dev(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), *words], capture_output=True, text=True, timeout=60, cwd=ROOT
    )


def test_the_daily_words_are_told_without_installing_anything():
    told = run_dev()
    assert told.returncode == 0
    assert "python3 dev.py lab" in told.stdout
    unknown = run_dev("deploy")
    assert unknown.returncode == 2
    assert "python3 dev.py test" in unknown.stdout


def test_another_torch_can_be_asked_for(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    dev = load("dev")
    assert dev.torch_requirement().startswith("torch==")
    monkeypatch.setenv("NBSIGHT_TORCH", "2.6.0+cpu")
    assert dev.torch_requirement() == "torch==2.6.0+cpu"
    monkeypatch.setenv("NBSIGHT_TORCH", "torch>=2.5")
    assert dev.torch_requirement() == "torch>=2.5"
