"""One file for each family of architectures; a new file here is found by itself.

A file defines `ARCHITECTURES`, a tuple of `Architecture`. What it claims is not believed: it is checked on
random tokens when a name is first used (`nbsight.models.verifying`).
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from nbsight.models.architectures.base import Architecture
from nbsight.models.limits import text_config

__all__ = ["Architecture", "architecture_of", "architectures"]


@cache
def architectures() -> tuple[Architecture, ...]:
    """All that are known."""
    found: list[Architecture] = []
    for info in pkgutil.iter_modules(__path__):
        if info.name != "base":
            found += importlib.import_module(f"{__name__}.{info.name}").ARCHITECTURES
    return tuple(found)


def architecture_of(config: Any) -> Architecture | None:
    """The architecture that a configuration names, if it is known."""
    kind = getattr(text_config(config), "model_type", None)
    return next((one for one in architectures() if kind in one.model_types), None)
