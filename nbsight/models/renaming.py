"""Other names for modules, and other envoys for some of them: what `rename=` and `envoys=` mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from nbsight.core.envoy import Envoy
from nbsight.errors import InputError, PathError

__all__ = ["AliasedEnvoy", "Rename", "chosen_envoy", "read_aliases"]

Rename = Mapping[Any, "str | Sequence[str]"]


class AliasedEnvoy(Envoy):
    """An envoy whose children answer to the model's aliases as well."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name not in self._module._modules:
            path = self._root._aliases.get(f"{self._path}.{name}" if self._path else name)
            if path is not None:
                return self._root._at(path)
        return super().__getattr__(name)


def read_aliases(rename: Rename | None, module: nn.Module) -> dict[str, str]:
    """Work out where each alias stands and what it means.

    Args:
        rename: From modules to an alias or several. A name, `{"attn": "attention"}`, holds wherever a module
            has a child `attn`; a path, `{"transformer.h": "layers"}`, makes `model.layers`; a path with `*`,
            `{"transformer.h.*.attn": "attention"}`, and a class, `{nn.LayerNorm: "norm"}`, hold beside each
            module that they mean. The alias `"attn.out"` is `out`, but only in modules called `attn`.
        module: The model.

    Returns:
        From the alias's path to the module's.

    Raises:
        PathError: there is no such module.
        InputError: an alias hides something, or would mean two modules.
    """
    aliases: dict[str, str] = {}
    paths = [path for path, _ in module.named_modules() if path] if rename else []
    for original, given in (rename or {}).items():
        meant = list(_meant(original, paths, module))
        if not meant:
            raise PathError(
                f"`rename` gives another name to {_shown(original)}, and the model has no such module. Its "
                f"modules begin with {', '.join(name for name, _ in module.named_children())}."
            )
        for alias in [given] if isinstance(given, str) else given:
            home, _, last = alias.rpartition(".")
            placed = [
                (parent, path) for parent, path in meant if not home or _is_called(parent, home, aliases)
            ]
            if not placed:
                raise PathError(
                    f"`rename` puts {alias!r} into modules called `{home}`, and {_shown(original)} is "
                    "not in one."
                )
            for parent, path in placed:
                _add(aliases, parent, last, path, module)
    return aliases


def _meant(original: Any, paths: list[str], module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of the module that gets the alias and the module that it means."""
    if isinstance(original, type):
        found: dict[str, list[str]] = {}
        for path in paths:
            if isinstance(module.get_submodule(path), original):
                found.setdefault(path.rpartition(".")[0], []).append(path)
        # Several of one class beside each other cannot share a name.
        yield from ((parent, of[0]) for parent, of in found.items() if len(of) == 1)
        return
    original = original.strip(".")
    parts = original.split(".")
    for path in paths:
        if len(parts) == 1:
            if path.rpartition(".")[2] == original:
                yield path.rpartition(".")[0], path
        elif _matches(path.split("."), parts):
            yield ("" if "*" not in parts else path.rpartition(".")[0]), path


def _matches(parts: list[str], pattern: list[str]) -> bool:
    return len(parts) == len(pattern) and all(
        theirs in ("*", own) for own, theirs in zip(parts, pattern, strict=True)
    )


def _is_called(path: str, name: str, aliases: dict[str, str]) -> bool:
    """Whether a module's path ends in a name, or an alias of that name means it."""
    if f".{path}".endswith(f".{name}"):
        return True
    return any(path == real and f".{alias}".endswith(f".{name}") for alias, real in aliases.items())


def _add(aliases: dict[str, str], parent: str, alias: str, path: str, module: nn.Module) -> None:
    place = f"{parent}.{alias}" if parent else alias
    owner = module.get_submodule(parent)
    if alias in owner._modules or hasattr(Envoy, alias) or hasattr(owner, alias):
        raise InputError(
            f"`rename` cannot call `{path}` `{place}`: that name means something already. Choose another."
        )
    if aliases.setdefault(place, path) != path:
        raise InputError(f"`rename` gives the name `{place}` to both `{aliases[place]}` and `{path}`.")


def _shown(original: Any) -> str:
    return original.__name__ if isinstance(original, type) else f"`{original}`"


def chosen_envoy(envoys: Any, path: str, module: nn.Module) -> type[Envoy] | None:
    """The class that `envoys` names for a module, if any.

    Args:
        envoys: One class for all, or a mapping from a module class, or from the end of a path (`*` for any
            one name), to a class.
        path: The module's path.
        module: The module.
    """
    if envoys is None or isinstance(envoys, type):
        return envoys and _with_aliases(envoys)
    parts = path.split(".")
    for key, kind in envoys.items():
        if isinstance(key, type):
            is_meant = isinstance(module, key)
        else:
            pattern = key.strip(".").split(".")
            is_meant = _matches(parts[-len(pattern) :], pattern)
        if is_meant:
            return _with_aliases(kind)
    return None


@cache
def _with_aliases(kind: type[Envoy]) -> type[Envoy]:
    """The user's class, its children reachable by their aliases."""
    if issubclass(kind, AliasedEnvoy):
        return kind
    return type(kind.__name__, (kind, AliasedEnvoy), {"__module__": kind.__module__, "__doc__": kind.__doc__})
