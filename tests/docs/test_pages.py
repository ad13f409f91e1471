"""README, CONTRIBUTING and the core's page say what is so."""

from __future__ import annotations

import importlib
import linecache
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def links() -> list[tuple[str, str]]:
    pages = [
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "nbsight/core/README.md"),
        *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    ]
    return [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)\)", read(page))]


@pytest.mark.parametrize(("page", "link"), links())
def test_a_link_leads_somewhere(page, link):
    assert link.startswith("https://") or ((ROOT / page).parent / link).exists()


def test_the_first_lines_of_the_readme_run(capsys):
    text = read("README.md").partition("## First lines")[2].partition("The block runs")[0]
    code = textwrap.dedent(re.sub(r"^ *%load_ext.*$", "", text, flags=re.MULTILINE))
    code = code.replace("model.tokenizer.decode(", "said = model.tokenizer.decode(")
    linecache.cache["<readme>"] = (len(code), None, code.splitlines(True), "<readme>")
    names: dict = {}
    exec(compile(code, "<readme>", "exec"), names)
    assert names["said"] == " Paris"
    assert "# ' Paris'" in text


def test_every_word_of_dev_py_is_explained():
    words = re.search(r"^WORDS = \{(.*?)\}", read("dev.py"), re.MULTILINE | re.DOTALL)
    for word in re.findall(r'"(\w+)":', words[1]):
        assert f"python3 dev.py {word}" in read("CONTRIBUTING.md")


def test_every_magic_file_is_listed_and_says_where_it_is_tested():
    magic = [
        path
        for path in (ROOT / "nbsight").rglob("*.py")
        if path.read_text(encoding="utf-8").startswith('"""MAGIC')
    ]
    assert magic
    for path in magic:
        name = path.relative_to(ROOT / "nbsight").as_posix()
        assert f"`{name}`" in read("CONTRIBUTING.md"), f"CONTRIBUTING.md does not name {name}"
        assert re.search(r"[Tt]ested in `tests/|`tests/\w+/test_", path.read_text(encoding="utf-8"))


def test_the_layers_are_those_that_the_linter_holds():
    layers = re.search(r"^layers = \[(.*?)\]", read("pyproject.toml"), re.MULTILINE | re.DOTALL)
    text = read("CONTRIBUTING.md").partition("## Layers")[2].partition("import-linter")[0]
    found = [
        re.split(r"\s{2,}", line.strip())[0].split(" · ")
        for line in text.splitlines()
        if line.startswith("    ")
    ]
    said = [{word.strip() for word in row} for row in found]
    held = [set(re.findall(r"\((\w+)\)", line)) for line in re.findall(r'"(.*?)"', layers[1])]
    exists = [{name for name in row if list((ROOT / "nbsight").glob(f"{name}*"))} for row in held]
    order = [name for row in exists for name in sorted(row)]
    assert [name for row in said for name in sorted(row)] == order


@pytest.mark.parametrize(
    ("name", "module"),
    re.findall(
        r"^- .*?\*\*(\w+)\*\*(?:, \*\*\w+\*\*)? \(`(\w+)\.py`\)", read("nbsight/core/README.md"), re.MULTILINE
    ),
    ids=lambda value: value,
)
def test_the_cores_page_names_what_is_there(name, module):
    assert hasattr(importlib.import_module(f"nbsight.core.{module}"), name)


@pytest.mark.parametrize(
    "image", sorted((ROOT / "docs" / "images").glob("*.png")), ids=lambda path: path.name
)
def test_a_picture_is_small(image):
    assert image.stat().st_size < 200_000
