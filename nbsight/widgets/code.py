"""The cells that views offer: what a model is called in them, and places put into them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["fill", "literal", "name_of"]


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template in which each `$name` of a value stands for it (js/src/shared/code.ts does the same).

    Args:
        template: Code; text of users in it was made by `literal`, so that it holds no `$`.
        values: Numbers and names, such as a place's layer and position.
    """
    return re.sub(r"\$(\w+)", lambda found: str(values.get(found[1], found[0])), template)


def literal(value: Any) -> str:
    """A value as Python writes it, safe to stand in a template."""
    return repr(value).replace("$", "\\x24")


def name_of(value: Any, default: str) -> str:
    """The name that a value has in the notebook; the default where there is none.

    Args:
        value: A model, for example.
        default: What it is called if no variable holds it.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    names = () if shell is None else list(shell.user_ns.items())
    found = [name for name, held in names if held is value and name.isidentifier() and name[0] != "_"]
    return default if default in found or not found else found[0]
