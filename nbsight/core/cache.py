"""Caches: many modules' values kept in one sweep, without asking for each.

A cache watches modules instead of waiting at them: the model does not stop, it only leaves a copy
behind. Values are taken after all edits, one entry for every call of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.batching import Rows, map_tensors
from nbsight.core.displays import cache_text, entry_text
from nbsight.core.recurrent import narrow_at
from nbsight.core.room import CacheRoom
from nbsight.core.stacking import stack_steps
from nbsight.errors import InputError, PathError

if TYPE_CHECKING:
    from nbsight.core.envoy import Envoy
    from nbsight.core.run import Run
    from nbsight.core.sites import Site

__all__ = ["Cache", "Entry", "fill"]


class Entry:
    """What was kept of one module: one value for each time it was called."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.all_inputs: list[Any] = []

    @property
    def output(self) -> Any:
        """The module's output; a list when it was called several times."""
        return _one_or_all(self.outputs, "outputs", "include_output")

    @property
    def inputs(self) -> Any:
        """The module's arguments, `(args, kwargs)`; a list when it was called several times."""
        return _one_or_all(self.all_inputs, "inputs", "include_inputs")

    @property
    def input(self) -> Any:
        """The module's first argument; a list when it was called several times."""
        first = [args[0] if args else next(iter(named.values()), None) for args, named in self.all_inputs]
        return _one_or_all(first, "inputs", "include_inputs")

    def stack(self, what: str = "output") -> torch.Tensor:
        """The values of all steps of a generation as one tensor, (batch, all positions, ...).

        Args:
            what: "output" or "input".

        Raises:
            InputError: the values do not go together; see `nbsight.stack_steps`.
        """
        if what not in ("output", "input"):
            raise InputError(f'a cache stacks "output" or "input", and was asked for {what!r}.')
        values = getattr(self, what)
        return stack_steps(values if len(self) > 1 else [values])

    def __len__(self) -> int:
        return max(len(self.outputs), len(self.all_inputs))

    def __repr__(self) -> str:
        return f"Entry({entry_text(self)})"


def _one_or_all(values: list[Any], what: str, switch: str) -> Any:
    if not values:
        raise PathError(
            f"this cache kept no {what} here: either the module was not called, or the cache was "
            f"made without `{switch}=True`."
        )
    return values[0] if len(values) == 1 else values


class Cache:
    """The values that `tracer.cache(...)` kept, by module.

    `cache["model.transformer.h.0"].output`, `cache.transformer.h[0].output` and
    `cache.model.transformer.h[0].output` are the same.
    """

    def __init__(self, entries: dict[str, Entry] | None = None, prefix: str = "", names: Any = None) -> None:
        self._entries: dict[str, Entry] = {} if entries is None else entries
        self._prefix = prefix
        self._names: dict[str, str] = {} if names is None else names

    def keys(self) -> list[str]:
        """The paths of the modules that were called, `model.` in front."""
        return [f"model.{path}".rstrip(".") for path in self._entries if self._covers(path)]

    def values(self) -> list[Entry]:
        """The entries, in the order in which the modules were first called."""
        return [entry for path, entry in self._entries.items() if self._covers(path)]

    def items(self) -> list[tuple[str, Entry]]:
        """Pairs of path and entry."""
        return list(zip(self.keys(), self.values(), strict=False))

    def _covers(self, path: str) -> bool:
        return not self._prefix or path == self._prefix or path.startswith(self._prefix + ".")

    def _entry(self) -> Entry:
        entry = self._entries.get(self._prefix)
        if entry is None:
            raise PathError(
                f"`{self._prefix or 'model'}` is not in this cache; it has "
                + (", ".join(self.keys()[:12]) or "nothing")
                + (" …" if len(self.keys()) > 12 else ".")
            )
        return entry

    @property
    def output(self) -> Any:
        """The output of the module that this part of the cache stands for."""
        return self._entry().output

    @property
    def inputs(self) -> Any:
        """Its arguments."""
        return self._entry().inputs

    @property
    def input(self) -> Any:
        """Its first argument."""
        return self._entry().input

    def stack(self, what: str = "output") -> torch.Tensor:
        """The values of all steps of a generation as one tensor, (batch, all positions, ...).

        Args:
            what: "output" or "input".

        Raises:
            InputError: the values do not go together; see `nbsight.stack_steps`.
        """
        return self._entry().stack(what)

    def __getitem__(self, key: str | int) -> Cache:
        for path in self._meanings(str(key)):
            part = Cache(self._entries, path, self._names)
            if not path or any(part._covers(known) for known in self._entries):
                return part
        raise PathError(
            f"`{f'{self._prefix}.{key}'.strip('.')}` is not in this cache; it has "
            + ", ".join(self.keys()[:12])
            + (" …" if len(self.keys()) > 12 else ".")
        )

    def _meanings(self, key: str) -> Iterator[str]:
        """The paths that a key may mean: `model` is the whole, and in some models a part of it."""
        for name in ("" if key == "model" else key.removeprefix("model."), key, f"model.{key}"):
            path = f"{self._prefix}.{name}".strip(".")
            yield self._names.get(path, path)

    def __getattr__(self, name: str) -> Cache:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("output", "input", "inputs"):  # the property failed: let it say why
            return getattr(self._entry(), name)
        return self[name]

    def __contains__(self, key: str) -> bool:
        return any(path in self._entries for path in self._meanings(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        if self._prefix in self._entries:
            return len(self._entries[self._prefix])
        return len(self.keys())

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __dir__(self) -> list[str]:
        depth = len(self._prefix.split(".")) if self._prefix else 0
        paths = [path.split(".") for path in self._entries if self._covers(path)]
        return [*dict.fromkeys(p[depth] for p in paths if len(p) > depth), "output", "input", "inputs"]

    def __repr__(self) -> str:
        return cache_text(self)


def fill(
    run: Run,
    root: Any,
    rows: Rows | None,
    modules: Iterable[Envoy | str] | None,
    *,
    device: Any,
    dtype: torch.dtype | None,
    detach: bool,
    include_output: bool,
    include_inputs: bool,
    non_blocking: bool,
    is_over: Callable[[], bool] | None = None,
) -> Cache:
    """Watch modules of a run that has not begun, and return the cache that will fill.

    Args:
        is_over: Whether the rows have ended, though the others of the batch go on.

    Raises:
        InputError: the model is already running, so that some modules would be missed.
    """
    if run.began:
        raise InputError(
            "`tracer.cache(...)` must come before the first value is read: the model has already "
            "run past some modules. Move it to the top of the block."
        )
    envoys = root.modules() if modules is None else [_envoy(root, module) for module in modules]
    cache = Cache(names=root._other_names())
    room = CacheRoom(len(envoys) * (include_output + include_inputs), device)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        room.took(tensor)
        kept = tensor.detach() if detach else tensor
        moved = kept.to(device=device, dtype=dtype or tensor.dtype, non_blocking=non_blocking)
        # The model may go on to change the tensor in place; a cache shows what was there.
        return kept.clone() if moved is kept else moved

    def watcher(envoy: Envoy) -> Callable[[Site], None]:
        def watch(site: Site) -> None:
            if is_over is not None and is_over():
                return
            value = site.value
            if rows is not None:
                value = narrow_at(site.module, site.kind, rows, value)
            entry = cache._entries.setdefault(envoy._path, Entry())
            kept = map_tensors(value, keep)
            if site.kind == "output":
                entry.outputs.append(envoy._show("output", kept))
            else:
                entry.all_inputs.append(kept)

        return watch

    for envoy in envoys:
        run.open(envoy._gates())
        if include_output:
            run.watch((envoy._module, "output"), watcher(envoy))
        if include_inputs:
            run.watch((envoy._module, "input"), watcher(envoy))
    return cache


def _envoy(root: Any, module: Envoy | str) -> Envoy:
    if not isinstance(module, str):
        return module
    if module == "model":
        return root
    short = module.removeprefix("model.")
    inner = short.partition(".")[0] not in root._module._modules and "model" in root._module._modules
    return root.get(module if inner else short)
