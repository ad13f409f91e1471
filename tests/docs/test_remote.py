"""The examples of docs/remote.md run against a server, and its options are those of the command."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import pytest

from nbsight.remote import addresses
from nbsight.server.cli import main
from tests.server.running import KEYS, server

PAGE = Path(__file__).parent.parent.parent / "docs" / "remote.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(addresses, "_clients", {})
    monkeypatch.setattr(addresses, "_chosen", [])
    names: dict = {"__name__": "__main__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    with server(tmp_path) as running:
        monkeypatch.setenv("NBSIGHT_HOST", running.url)
        monkeypatch.setenv("NBSIGHT_API_KEY", KEYS["ada"])
        for number, block in enumerate(blocks):
            filename = f"<remote {number}>"
            linecache.cache[filename] = (len(block), None, block.splitlines(True), filename)
            exec(compile(block, filename, "exec", dont_inherit=True), names)
    out = capsys.readouterr().out
    assert "computed on the server: (1, 5, 64)" in out
    assert "nbsight/demo: ready" in out
    assert "`lock` (_thread.lock) cannot travel" in out


def test_the_options_on_the_page_are_those_of_the_command():
    known = {
        option for command in main.commands.values() for param in command.params for option in param.opts
    }
    known |= {option for param in main.commands["serve"].params for option in param.secondary_opts}
    for option in set(re.findall(r"--[a-z][a-z-]*", TEXT)):
        assert option in known, option


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_link_leads_somewhere(link):
    assert link.startswith("https://") or (PAGE.parent / link).exists()
