"""What differs between the transformers releases that are supported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import __version__
from transformers.utils import logging

__all__ = ["LOADS_AS_SAVED", "dtype_in", "quiet_progress", "with_dtype"]

# 4.56 renamed `torch_dtype` to `dtype`; each name is a warning or an error on the other side of that release.
_DTYPE = "dtype" if tuple(map(int, __version__.split(".")[:2])) >= (4, 56) else "torch_dtype"

LOADS_AS_SAVED = int(__version__.split(".")[0]) >= 5
"""Whether weights keep the dtype of their files where none is asked for; before 5 they became float32."""


def with_dtype(kwargs: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """`kwargs` with the dtype under this release's name; None leaves the choice to transformers."""
    return kwargs if dtype is None else {**kwargs, _DTYPE: dtype}


def dtype_in(config: Any) -> Any:
    """The dtype that a configuration names; None where it names none."""
    return getattr(config, _DTYPE, None)


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
