"""What `LanguageModel` gains here: `model.std`, the short forms of its names, strings as indices, tokens."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from nbsight.errors import PathError, UnknownArchitectureError
from nbsight.models.dialects import ROOT_VECTORS, SIZE_NAMES, VALUE_NAMES
from nbsight.models.layout import MODEL_NAMES, SIZES
from nbsight.models.standard import MODULE_NAMES, WEIGHTS, Standard
from nbsight.models.tokenised import tokens_of
from nbsight.results.tokens import TokenBatch, Tokens

__all__ = ["NamedParts"]

_SHORT = frozenset(
    {"layers", *MODEL_NAMES, *MODULE_NAMES, *SIZES, *SIZE_NAMES, *VALUE_NAMES, *ROOT_VECTORS, *WEIGHTS}
)


class NamedParts:
    """What a model gains by the standard names; mixed into `LanguageModel`."""

    _module: Any

    @property
    def std(self) -> Standard:
        """The standard names, whatever the model itself calls its parts."""
        found = self.__dict__.get("_std")
        if found is None or found._root is not self:  # a light copy has its own
            found = self.__dict__["_std"] = Standard(self)
        return found

    def __getattr__(self, name: str) -> Any:
        if name in _SHORT and not self._owns(name):
            try:
                return self.std.layers if name == "layers" else self.std._get(name, sys._getframe(1))
            except UnknownArchitectureError as error:
                if name in SIZES:
                    return super().__getattr__(name)  # type: ignore[misc]
                raise _Absent(str(error)) from None
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SHORT and not self._owns(name) and not isinstance(value, nn.Module):
            self.std._set(name, value, sys._getframe(1))
        else:
            super().__setattr__(name, value)

    def _owns(self, name: str) -> bool:
        """Whether the model itself, or the user, has given that name to something."""
        return hasattr(self._module, name) or name in self._aliases

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key not in self._module._modules:
            return self.std._by_string(key, sys._getframe(1))
        return super().__getitem__(key)  # type: ignore[misc]

    def __setitem__(self, key: str, value: Any) -> None:
        self.std._set_by_string(key, value, sys._getframe(1))

    # -- tokens --------------------------------------------------------------------------------

    def tokens(self, prompt: Any, **options: Any) -> Tokens | TokenBatch:
        """The tokens that a trace of `prompt` runs on, with their texts and places.

        Args:
            prompt: Whatever `trace` takes.
            options: Options of the tokenizer, such as `add_special_tokens=False`.

        Returns:
            `Tokens` for one prompt; for a list of texts a `TokenBatch`, one `Tokens` for each.
        """
        return tokens_of(self, prompt, options)

    def single_token(self, text: str) -> int:
        """The id of a text that is one token, such as " Paris"; the short name of `to_single_token`.

        Raises:
            InputError: it is several; the message shows them.
        """
        return self.to_single_token(text)


class _Absent(PathError, UnknownArchitectureError):
    """A standard name of a model that has none: also an AttributeError, so that `hasattr` works."""
