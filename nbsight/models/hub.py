"""Where a model's files are: a folder, the shipped model, the hub or its cache.

Left alone, transformers asks an unreachable hub for the same file six times, for 23 seconds. One quick
question first tells which case it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, try_to_load_from_cache

from nbsight.errors import ModelLoadError
from nbsight.models import demo

__all__ = ["Source", "find_source"]

WAIT = 5.0
"""Seconds to wait for the hub's first answer."""


@dataclass(frozen=True)
class Source:
    """Where to load from.

    Args:
        path: What `from_pretrained` takes: a folder or a hub id.
        is_local: Whether it is a folder.
        cached_only: Whether only the cache can be used, because the hub cannot.
    """

    path: str
    is_local: bool
    cached_only: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        return {"local_files_only": True} if self.cached_only else {}


def find_source(
    name: str, *, revision: str | None = None, cache_dir: Any = None, file: str | None = "config.json"
) -> Source:
    """Find out where a model's files are to be had.

    Args:
        name: "nbsight/demo", a folder, or a hub id.
        revision: A branch, tag or commit of a hub id.
        cache_dir: Where the cache is, if not in its usual place.
        file: A file that must be there; None for a folder of any kind and a repository that has
            a tokenizer.

    Raises:
        ModelLoadError: nowhere; the message says what was tried.
    """
    if name == demo.NAME:
        return Source(str(demo.folder()), is_local=True)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if file is not None and not (folder / file).is_file():
            raise ModelLoadError(
                f"the folder {name!r} has no {file}, so it is not a saved model. Give the folder that "
                "`model.save_pretrained(folder)` wrote."
            )
        return Source(str(folder), is_local=True)
    if folder.is_absolute() or name.startswith(("~", "./", "../", ".\\")) or name.count("/") > 1:
        raise ModelLoadError(f"there is no folder {name!r} (looked from {os.getcwd()}).")
    return _find_on_hub(name, revision, cache_dir, file or "tokenizer_config.json")


def _find_on_hub(name: str, revision: str | None, cache_dir: Any, file: str) -> Source:
    try:
        cached = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
    except ValueError as error:  # not a possible hub id
        raise ModelLoadError(
            f"{name!r} is neither a folder nor a possible model name on the hub ({error})."
        ) from None
    is_cached = isinstance(cached, str)
    if constants.HF_HUB_OFFLINE:
        problem: str | None = "HF_HUB_OFFLINE is set, so it was not asked"
    else:
        problem = _why_unreachable(name)
    if problem is None:
        return Source(name, is_local=False)
    if is_cached:
        return Source(name, is_local=False, cached_only=True)
    at = f" at revision {revision!r}" if revision else ""
    raise ModelLoadError(
        f"the model {name!r}{at} cannot be loaded. Tried: a folder of that name (there is none), the cache "
        f"in {cache_dir or constants.HF_HUB_CACHE} (it is not there), and the Hugging Face hub at "
        f"{constants.ENDPOINT}, which cannot be reached: {problem}.\n"
        f'Without a network write `LanguageModel("{demo.NAME}")` for the small model that ships with '
        "nbsight, or give a folder that holds the model: `LanguageModel(folder)`."
    )


def _why_unreachable(name: str) -> str | None:
    """Ask the hub once; None if it answers anything at all."""
    try:
        get_session().head(f"{constants.ENDPOINT}/{name}/resolve/main/config.json", timeout=WAIT)
    except Exception as error:  # the HTTP library, and so its errors, depends on the release
        return _innermost(error)
    return None


def _innermost(error: BaseException) -> str:
    text = str(error.args[0] if error.args else error) or type(error).__name__
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        text = str(error) or text
    return text if len(text) <= 200 else text[:199] + "…"
