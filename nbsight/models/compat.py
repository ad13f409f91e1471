"""What differs between the transformers releases that are supported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import __version__
from transformers.utils import logging

__all__ = ["quiet_progress", "with_dtype"]

# 4.56 renamed `torch_dtype` to `dtype`; each name is a warning or an error on the other side of that release.
_DTYPE = "dtype" if tuple(map(int, __version__.split(".")[:2])) >= (4, 56) else "torch_dtype"


def with_dtype(kwargs: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """`kwargs` with the dtype under this release's name; None leaves the choice to transformers."""
    return kwargs if dtype is None else {**kwargs, _DTYPE: dtype}


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Show no progress bars inside; for what is done before one could be read."""
    was_on = logging.is_progress_bar_enabled()
    if was_on:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
