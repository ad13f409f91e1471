"""What `nbsight[serve]` brings along, beside what nbsight needs anyway: each package is one to trust."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 reads pyproject.toml with tomli")

ROOT = Path(__file__).parents[2]

#: Everything that is installed for the server alone.
TREE = {
    "click",
    "starlette",
    "uvicorn",
    "anyio",
    "h11",
    "idna",
    "sniffio",
    "typing-extensions",
    "exceptiongroup",
}

#: Licences under which one may ship a server.
FREE = re.compile(r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL)", re.IGNORECASE)


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _extra() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]["serve"]


def _tree(wanted: list[str]) -> set[str]:
    found: set[str] = set()
    stack = list(wanted)
    while stack:
        requirement = Requirement(stack.pop())
        name = _name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name not in found and applies:
            found.add(name)
            stack += importlib.metadata.requires(name) or []
    return found


def test_the_server_brings_along_what_we_know_of():
    assert {_name(Requirement(text).name) for text in _extra()} == {"click", "starlette", "uvicorn"}
    assert _tree(_extra()) <= TREE


@pytest.mark.parametrize("name", sorted(TREE))
def test_each_has_a_licence_that_lets_one_ship_it(name):
    if name not in _tree(_extra()):
        pytest.skip(f"{name} is not needed on this Python")
    about = importlib.metadata.metadata(name)
    said = " ".join(
        [*(about.get_all("License-Expression") or []), *(about.get_all("License") or [])]
        + [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
    )
    assert FREE.search(said), said


def test_every_package_of_the_server_has_a_lowest_version():
    for text in _extra():
        assert ">=" in str(Requirement(text).specifier), text
