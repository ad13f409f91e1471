"""Configuration, tree, weights and tokenizer of a model, by name or from a folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from nbsight.errors import ModelLoadError
from nbsight.models.adapters import put_in
from nbsight.models.compat import LOADS_AS_SAVED, dtype_in, quiet_progress, with_dtype
from nbsight.models.hub import Source, find_source
from nbsight.models.limits import text_config

__all__ = ["Loader", "load_tokenizer"]

SHARED = ("cache_dir", "force_download", "proxies", "subfolder", "token")
"""Options of `from_pretrained` that hold for the configuration and the tokenizer too."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)

SMALL = 1_000_000_000
"""Bytes of weights that are loaded without a progress bar."""


class Loader:
    """Loads one model, piece by piece.

    Args:
        name: "nbsight/demo", a folder, or a hub id.
        config: A configuration to use instead of the model's own.
        revision: A branch, tag or commit of a hub id.
        dtype: The weights' dtype; None leaves it to transformers.
        attn_implementation: "eager", "sdpa", ...; None leaves it to transformers.
        trust_remote_code: Whether code that comes with the model may run.
        options: Everything else that `from_pretrained` takes, such as `device_map`.
        kind: The class of transformers that makes the model; by default the configuration says.
        adapter: A folder or hub id of peft's; it is put in when the weights are loaded.

    Raises:
        ModelLoadError: the model's configuration cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Any = None,
        revision: str | None = None,
        dtype: Any = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        options: dict[str, Any],
        kind: Any = None,
        adapter: str | None = None,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.dtype = _checked_dtype(dtype)
        self.attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        self.options = options
        self.source: Source = find_source(name, revision=revision, cache_dir=options.get("cache_dir"))
        self.common = {k: options[k] for k in SHARED if k in options} | self.source.options
        # Never left open: unasked, transformers would stop and ask the user at the terminal.
        self.common["trust_remote_code"] = trust_remote_code
        if revision is not None:
            self.common["revision"] = revision
        self.given_config = config
        with self._explained("configuration"):
            self.config = config or AutoConfig.from_pretrained(self.source.path, **self.common)
        self.kind = kind or _auto_class(self.config)

    def tree(self, dtype: Any = None) -> nn.Module | None:
        """The model without weights, on the meta device; None if this model cannot be made there.

        Args:
            dtype: Another dtype than the one to load it in.
        """
        kind, config = self.kind, copy.deepcopy(self.config)
        dtype = dtype or self.dtype
        dtype = (
            self.dtype_of_weights(None) if dtype == "auto" else dtype
        )  # only files know, and there are none
        code = {"trust_remote_code": self.common["trust_remote_code"]}
        with self._explained("architecture"):
            # Some look at numbers while they are made, and the meta device has none.
            try:
                with torch.device("meta"):
                    module = kind.from_config(config, **with_dtype({**self.attention, **code}, dtype))
            except (NotImplementedError, RuntimeError):
                return None
        return module.eval()

    def dtype_of_weights(self, in_files: torch.dtype | None) -> torch.dtype:
        """The dtype in which transformers will load the weights.

        Args:
            in_files: The dtype in the checkpoint's files; None if that is not known.
        """
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        if self.dtype is None and not LOADS_AS_SAVED:
            return torch.float32
        said = dtype_in(self.config) or dtype_in(text_config(self.config))
        return said if isinstance(said, torch.dtype) else in_files or torch.float32

    def weights(self) -> nn.Module:
        """The model with its weights, where `device_map` puts it."""
        kwargs = {**self.options, **self.common, **self.attention}
        if self.given_config is not None:
            kwargs["config"] = self.given_config
        small = self.source.is_local and _bytes_in(Path(self.source.path)) < SMALL
        with self._explained("weights"), quiet_progress() if small else nullcontext():
            module = self.kind.from_pretrained(self._where(), **with_dtype(kwargs, self.dtype))
        if self.adapter is not None:
            put_in(module, self.adapter, self.name)
        if self.source.cached_only:
            module.name_or_path = module.config._name_or_path = self.source.path
        return module

    def _where(self) -> str:
        """The name or folder to load the weights from.

        Of a model that is only in the cache it is the cache's folder: where peft is installed, a name makes
        transformers look for an adapter on the hub, with long waits.
        """
        if not self.source.cached_only:
            return self.source.path
        own = {name: self.common[name] for name in ("cache_dir", "revision") if name in self.common}
        return snapshot_download(self.source.path, local_files_only=True, **own)

    def tokenizer(self, name: str | None = None, **kwargs: Any) -> tuple[Any, str | None]:
        """The tokenizer, or None and the reason why there is none.

        Args:
            name: Another model's name or folder, if it is not this one's.
            kwargs: What `AutoTokenizer.from_pretrained` takes.
        """
        if name is not None:
            own = ("revision", "subfolder", "local_files_only")
            return load_tokenizer(name, **{k: v for k, v in self.common.items() if k not in own} | kwargs)
        return _tokenizer_at(self.source, self.common | kwargs)

    @contextmanager
    def _explained(self, piece: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            if isinstance(error, ModelLoadError):
                raise
            hint = ""
            if "trust_remote_code" in str(error):
                hint = (
                    "\nThe model comes with code of its own. If you trust it, write `trust_remote_code=True`."
                )
            raise ModelLoadError(
                f"the {piece} of the model {self.name!r} cannot be loaded: {_first_lines(error)}{hint}"
            ) from error


def load_tokenizer(name: str, **kwargs: Any) -> tuple[Any, str | None]:
    """A tokenizer by its model's name or folder, or None and the reason why there is none.

    Raises:
        ModelLoadError: there is no such folder, and the hub cannot be reached.
    """
    source = find_source(name, revision=kwargs.get("revision"), cache_dir=kwargs.get("cache_dir"), file=None)
    return _tokenizer_at(source, source.options | kwargs)


def _tokenizer_at(source: Source, kwargs: dict[str, Any]) -> tuple[Any, str | None]:
    folder = Path(source.path) / kwargs.get("subfolder", "")
    if source.is_local and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None, f"there are no tokenizer files in {folder}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **kwargs)
    except Exception as error:  # each kind of tokenizer fails in its own way, and ids work without one
        return None, f"it could not be loaded: {_first_lines(error)}"
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, None


def _auto_class(config: Any) -> Any:
    """The class of transformers that makes the model this configuration is of."""
    written = (getattr(config, "architectures", None) or [""])[0]
    remote = getattr(config, "auto_map", None) or {}
    if written.endswith("Model") and "LMHead" not in written and not remote:
        return AutoModel  # saved without a head
    classes = [AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForMaskedLM]
    if written.endswith("ForMaskedLM"):
        classes.insert(0, classes.pop())
    for kind in classes:
        if kind.__name__ in remote or type(config) in kind._model_mapping:
            return kind
    return AutoModel


def _checked_dtype(dtype: Any) -> Any:
    if not isinstance(dtype, str) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ModelLoadError(
            f'there is no dtype {dtype!r}. Write `torch.bfloat16`, "bfloat16", "float16", "float32" or '
            '"auto".'
        )
    return found


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*") if file.suffix in (".safetensors", ".bin"))


def _first_lines(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return "\n".join(text.splitlines()[:6])
