"""Inputs that are more than text: images, sounds, and whatever tensors a model's forward takes.

Text keeps its own way (`inputs.py`, `joining.py`). What a processor made, or tensors given by name, becomes a
`Features`: passed on as it is when it is alone, joined along the first dimension when there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nbsight.core.batching import Rows
from nbsight.errors import InputError
from nbsight.models.inputs import INPUT_NAMES, Prompt

__all__ = ["FEATURE_NAMES", "Features", "is_image", "join_features", "join_rows"]

FEATURE_NAMES = (
    "pixel_values",
    "pixel_values_videos",
    "input_features",
    "input_values",
    "image_embeds",
    "decoder_input_ids",
    "labels",
)
"""Keyword arguments that can be an input; text has `INPUT_NAMES`."""


@dataclass(frozen=True)
class Features:
    """The input of one invoke that is not text alone.

    Args:
        tensors: What goes into the forward, by name, apart from the text.
        text: The text beside it, as ids; None for a model that takes none.
        options: Keyword arguments that are not tensors.
    """

    tensors: dict[str, torch.Tensor]
    text: Prompt | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of rows."""
        if self.text is not None:
            return self.text.size
        return next((len(tensor) for tensor in self.tensors.values() if tensor.ndim), 1)

    @property
    def width(self) -> int:
        """Positions of the text, 0 without any."""
        return 0 if self.text is None else self.text.width

    @property
    def fields(self) -> Mapping[str, Any]:
        """The text's fields, as a `Prompt` has them."""
        return {} if self.text is None else self.text.fields

    @staticmethod
    def of(given: Mapping[str, Any]) -> Features:
        """Sort what a processor or the user gave into text, other tensors and options.

        Args:
            given: Keyword arguments of the forward.
        """
        tensors = {
            k: torch.as_tensor(v) for k, v in given.items() if isinstance(v, (torch.Tensor, np.ndarray))
        }
        options = {k: v for k, v in given.items() if k not in tensors and v is not None}
        ids = next((tensors[name] for name in INPUT_NAMES if name in tensors), None)
        if ids is None:
            return Features(tensors, None, options)
        # One entry for each token: these are padded together with the ids.
        rows = {k: v for k, v in tensors.items() if v is ids or v.shape[:2] == ids.shape[:2]}
        text = Prompt(rows, (ids.shape[1],) * ids.shape[0], {}, tokenized=True)
        return Features({k: v for k, v in tensors.items() if k not in rows}, text, options)


def is_image(value: Any) -> bool:
    """Whether a value is an image as image processors take it (a PIL image, or an array of pixels)."""
    return type(value).__module__.startswith("PIL.") or (isinstance(value, np.ndarray) and value.ndim >= 2)


def join_features(prepared: Sequence[Features], device: torch.device) -> dict[str, Any]:
    """One call of several inputs, apart from their text.

    Raises:
        InputError: they cannot share one forward.
    """
    names = {name for features in prepared for name in features.tensors}
    joined: dict[str, Any] = {}
    for name in sorted(names):
        values = [features.tensors.get(name) for features in prepared]
        shapes = {None if value is None else tuple(value.shape[1:]) for value in values}
        if len(shapes) != 1 or None in shapes:
            raise InputError(
                f"the invokes of this trace have `{name}` of different shapes, or not all have it, so they "
                "cannot share one forward. Use a trace for each."
            )
        joined[name] = (values[0] if len(values) == 1 else torch.cat(values)).to(device)  # type: ignore[union-attr]
    for features in prepared:
        for name, value in features.options.items():
            if joined.setdefault(name, value) is not value and joined[name] != value:
                raise InputError(f"invokes of one trace give different values for `{name}`.")
    return joined


def join_rows(prepared: Sequence[Features]) -> list[Rows]:
    """Each input's rows of the batch, where there is no text."""
    total = sum(features.size for features in prepared)
    rows: list[Rows] = []
    for features in prepared:
        start = rows[-1].start + rows[-1].size if rows else 0
        rows.append(Rows(start, features.size, total))
    return rows
