"""`NNsight`: any module, wrapped, with other names for its parts and other envoys for some of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from nbsight.core.envoy import Envoy
from nbsight.core.model import Model
from nbsight.models.renaming import AliasedEnvoy, Rename, chosen_envoy, read_aliases
from nbsight.results.sizes import Placement

__all__ = ["NNsight", "wrap"]


class NNsight(AliasedEnvoy, Model):
    """Any `nn.Module`, wrapped; its values are literally what its modules take and return.

    Args:
        module: The module to look into; it is not changed or copied.
        rename: Other names for modules, such as `{"transformer.h": "layers"}`.
        envoys: A subclass of `Envoy` for all modules, or a mapping from a module class or the end of a path
            to such a class.

    Raises:
        PathError: `rename` names a module that is not there.
        InputError: an alias hides something that is there already.
    """

    def __init__(self, module: nn.Module, *, rename: Rename | None = None, envoys: Any = None) -> None:
        self._aliases: dict[str, str] = {}
        self._chosen_envoys = envoys
        super().__init__(module)
        self._aliases = read_aliases(rename, module)

    @property
    def placement(self) -> Placement:
        """Where each part is: device, dtype, bytes, what is fetched when it runs; `.plot()` draws it."""
        from nbsight.models.sizing import placement_of  # imports transformers, which wrapping does not need

        return placement_of(self)

    def _envoy_class(self, path: str, module: nn.Module) -> type[Envoy]:
        return chosen_envoy(self._chosen_envoys, path, module) or AliasedEnvoy

    def _other_names(self) -> dict[str, str]:
        return self._aliases


def wrap(module: nn.Module, *, rename: Rename | None = None, envoys: Any = None) -> NNsight:
    """Wrap any `nn.Module` so that it can be traced; values are exactly what modules return.

    Args:
        module: Any module; it is not changed or copied.
        rename: Other names for modules, such as `{"transformer.h": "layers"}`.
        envoys: A subclass of `Envoy` for all modules, or a mapping from a module class or the end of a path
            to such a class.

    Returns:
        Its root envoy.
    """
    return NNsight(module, rename=rename, envoys=envoys)
