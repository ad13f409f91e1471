"""The lenses that one view can show: those it was given, and those of components, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbsight.analysis.component_lens import lens_of_component
from nbsight.errors import InputError
from nbsight.models.limits import text_config
from nbsight.results.component_lens import ComponentLens
from nbsight.results.lens import Lens, LensCell

__all__ = ["STREAM", "Detail", "Key", "Readings"]

STREAM = "stream"
"""What a lens reads that is not one of a component."""

PARTS = ("attn_out", "mlp_out", "resid_mid", "embed", "pos_embed")

Detail = Callable[[int, int, int], LensCell]

Key = tuple[str, str]
"""Which lens, by the name it was given; and of which component."""


class Readings:
    """Lenses of one prompt, by name and component.

    Args:
        source: One lens, or several by name: of other translators, for example.
        detail: How to get a longer ranking, where there is one lens; by default its own.

    Raises:
        InputError: there is none, what is given is no lens, or they are of different prompts.
    """

    def __init__(self, source: Any, detail: Detail | None = None) -> None:
        self.is_many = isinstance(source, Mapping)
        self.source = source
        given = dict(source) if isinstance(source, Mapping) else {"": source}
        if not given:
            raise InputError("there is no lens to show: the dictionary is empty.")
        self._given: dict[str, Lens | ComponentLens] = {}
        for name, one in given.items():
            if not isinstance(one, (Lens, ComponentLens)):
                raise InputError(
                    f"a lens view shows what `logit_lens` and `component_lens` return; this is a "
                    f"{type(one).__name__}."
                )
            first = next(iter(self._given.values()), one)
            if list(one.tokens) != list(first.tokens):
                raise InputError(
                    f"lenses in one view are of one prompt; {name!r} is of {one.prompt!r} and the first of "
                    f"{first.prompt!r}. Make a view for each."
                )
            self._given[str(name)] = one
        self._detail = None if self.is_many else detail
        self._read: dict[Key, Lens] = {}

    @property
    def names(self) -> list[str]:
        """The names of the lenses that were given."""
        return list(self._given)

    def given(self, name: str) -> Lens | ComponentLens:
        """What was given by a name.

        Raises:
            LookupError: nothing was.
        """
        if name not in self._given:
            raise LookupError(
                f"there is no lens {name!r} here; there are {', '.join(map(repr, self.names))}."
            )
        return self._given[name]

    @property
    def first(self) -> Key:
        """What is shown first: the stream, where it was read."""
        name, one = next(iter(self._given.items()))
        if isinstance(one, Lens):
            return name, STREAM
        return name, "resid_post" if "resid_post" in one.components else one.components[0]

    def components(self, name: str) -> list[str]:
        """The components that can be read; whether a model has them is found out when they are."""
        one = self._given[name]
        if isinstance(one, ComponentLens):
            return list(one.components)
        model = self.model(name)
        if model is None:
            return [STREAM]
        heads = getattr(text_config(model.config), "num_attention_heads", None) or 0
        return [STREAM, *PARTS, *(f"head_{head}" for head in range(heads))]

    def model(self, name: str) -> Any:
        """The model that a given lens can ask; None for none."""
        one = self._given[name]
        detail = self._detail or getattr(one, "detail", None)
        return getattr(detail, "model", None)

    def detail(self, key: Key) -> Any:
        """How to ask for more of a lens; None where nobody can be asked."""
        if key[1] == STREAM and self._detail is not None:
            return self._detail
        return self.get(key).detail

    def get(self, key: Key) -> Lens:
        """A lens; that of a component is read once, which runs the model.

        Raises:
            LookupError: there is no such lens, or nobody to read the component.
        """
        name, component = key
        one = self.given(name)
        if isinstance(one, Lens) and component == STREAM:
            return one
        if key not in self._read:
            self._read[key] = self._of(name, one, component)
        return self._read[key]

    def _of(self, name: str, one: Lens | ComponentLens, component: str) -> Lens:
        if isinstance(one, ComponentLens):
            return one.of(component)
        model = self.model(name)
        if model is None:
            raise LookupError("This lens has no model to ask; it was made or loaded without one.")
        # the ids that were read, which the text need not give again
        ids = getattr(self._detail or one.detail, "ids", one.prompt)
        return lens_of_component(model, ids, component, top_k=one.top_k)

    def followed(self, key: Key) -> list[tuple[int, int]]:
        """The tokens that a lens was made with: their place in it, and their id where it can be told."""
        lens, found = self.get(key), []
        model = self.model(key[0])
        for at, text in enumerate(lens.tracked):
            token = _id_of(lens, model, text)
            if token is not None:
                found.append((at, token))
        return found


def _id_of(lens: Lens, model: Any, text: str) -> int | None:
    if model is not None:
        try:
            return int(model.to_single_token(text))
        except InputError:  # half a character, as some tokens are, is no token when it is read again
            return None
    places: Sequence[Any] = (lens.top_tokens == text).nonzero()
    return int(lens.top_ids[places][0]) if len(places[0]) else None
