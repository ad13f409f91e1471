"""Other names for modules, and other envoys for some of them: what `rename=` and `envoys=` mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nbsight.core.envoy import Envoy
from nbsight.errors import PathError

__all__ = ["AliasedEnvoy", "chosen_envoy", "read_aliases"]

Aliases = dict[str, list[str]]


class AliasedEnvoy(Envoy):
    """An envoy whose children answer to the model's aliases as well."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name not in self._module._modules:
            for original in self._root._aliases.get(name, ()):
                if "." in original:
                    if self._parent is None:
                        return self._at(original)
                elif self._module._modules.get(original) is not None:
                    return self._child(original)
        return super().__getattr__(name)


def read_aliases(rename: Mapping[str, str | Sequence[str]] | None, module: nn.Module) -> Aliases:
    """Turn `rename` round: for each alias what it stands for.

    Args:
        rename: From a module's name to its alias or aliases. `{"attn": "attention"}` holds wherever
            a module has a child `attn`; `{"transformer.h": "layers"}` makes `model.layers`.
        module: The model.

    Raises:
        PathError: there is no such module.
    """
    aliases: Aliases = {}
    paths = [path for path, _ in module.named_modules()] if rename else []
    names = {path.rpartition(".")[2] for path in paths} | set(paths)
    for original, given in (rename or {}).items():
        original = original.strip(".")
        if original not in names:
            raise PathError(
                f"`rename` gives another name to `{original}`, and the model has no such module. Its modules "
                f"begin with {', '.join(name for name, _ in module.named_children())}."
            )
        for alias in [given] if isinstance(given, str) else given:
            aliases.setdefault(alias, []).append(original)
    return aliases


def chosen_envoy(envoys: Any, path: str, module: nn.Module) -> type[Envoy] | None:
    """The class that `envoys` names for a module, if any.

    Args:
        envoys: One class for all, or a mapping from a module class, or from the end of a path, to a class.
        path: The module's path.
        module: The module.
    """
    if envoys is None or isinstance(envoys, type):
        return envoys
    for key, kind in envoys.items():
        is_meant = isinstance(module, key) if isinstance(key, type) else f".{path}".endswith(f".{key}")
        if is_meant:
            return kind
    return None
