"""`model.steer`: a direction that is added to the residual stream, at some layers and positions.

A steering is a kept edit (core/edits.py) whose block stands in this file. So it acts wherever edits act: in
traces, generations and invokes, in runs that are held open, and where blocks run elsewhere; for that it says
only what a program of `nbsight serve` may say.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.capture import Block, BodySkipped, skip_body
from nbsight.core.captured import need_block
from nbsight.core.edits import Edit
from nbsight.display.numbers import plural
from nbsight.errors import InputError

if TYPE_CHECKING:
    from nbsight.models.language_model import LanguageModel

__all__ = ["PLACES", "Steering"]

PLACES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Where a direction may be added: what has the width of the residual stream."""

WORDS: dict[str, tuple[list[Any], bool]] = {
    "all": ([slice(None)], True),
    "prompt": ([slice(None)], False),
    "generated": ([], True),
    "last": ([-1], True),
}
"""Positions by name: those of the prompt, and whether the generated ones too."""


class _Text:
    """Takes the block below out of its function."""

    block: Block

    def edit(self) -> _Text:
        return self

    def __enter__(self) -> Any:
        frame = sys._getframe(1)
        self.block = need_block(frame, "model.steer()")
        self._undo = skip_body(frame)
        return self, self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        self._undo()
        return kind is BodySkipped


@cache
def _block() -> Block:
    """The block of every steering; what it reads from around it are the steering's values."""
    text = _Text()
    _written(text, [], 0.0, [], False)
    return text.block


def _written(text: Any, places: Any, strength: float, wanted: Any, later: bool) -> None:
    with text.edit() as (tracer, edited):
        seen = first = 0
        for _ in tracer.iter[:]:
            mask = edited.inputs[1].get("attention_mask")
            picked = None
            for place, vector in places:
                value = edited[place]
                if picked is None:
                    rows, width = value.shape[0], value.shape[1]
                    # A pass either reads what is new, or all of it again.
                    total = width if width > seen else seen + width
                    real = torch.ones(rows, total, dtype=torch.bool, device=value.device)
                    if mask is not None and mask.ndim == 2 and tuple(mask.shape) == (rows, total):
                        real = mask.bool().to(value.device)
                    order = real.long().cumsum(1) - 1
                    if not seen:
                        first, lengths = total, real.sum(1)
                        table = torch.zeros(rows, total, dtype=torch.bool)
                        for row, length in enumerate(lengths.tolist()):
                            for at in wanted:
                                table[row, :length][at] = True
                        table = table.to(value.device)
                    own = order[:, total - width :]
                    picked = table.gather(1, own.clamp(0, first - 1)) & (own < first)
                    if later:
                        picked = picked | (own >= lengths[:, None])
                    picked = (picked & real[:, total - width :])[..., None]
                if strength and ((wanted and width == total) or (later and total > first)):
                    moved = value + (strength * vector).to(value.device, value.dtype)
                    edited[place] = torch.where(picked, moved, value)
            seen = total


class Steering(Edit):
    """A direction that is added to the residual stream; made by `model.steer(...)`.

        with model.steer(vector, layer=6, strength=4):
            result = model.generate("I think that", 20)

    Outside a `with` statement it acts from `inplace=True` or `keep()` on, until `remove()`; then it stands in
    `model.edits`, and `enabled` switches it off and on.

    Args:
        model: The model that it is for.
        vector: The direction, (d_model,), or one for each layer, (layer, d_model).
        layer: A layer, or several; negative ones count from the end.
        strength: How many times the vector is added.
        positions: "all"; "prompt"; "generated"; "last" (the last of the prompt and all that follow); or
            positions of the prompt, counted from its own first token: a number, a slice or a list of these.
        name: One of `PLACES`.
    """

    def __init__(
        self,
        model: LanguageModel,
        vector: Any,
        layer: int | Sequence[int],
        strength: float = 1.0,
        positions: Any = "all",
        name: str = "resid_post",
    ) -> None:
        self.model = model
        self.name = name
        self.layers = _layers(model, name, layer)
        self.vector = _vector(model, vector, len(self.layers))
        self.positions = positions
        wanted, later = _positions(positions)
        each = self.vector if self.vector.ndim == 2 else [self.vector] * len(self.layers)
        hooks = [f"blocks.{number}.hook_{name}" for number in self.layers]
        places = sorted(zip(self.layers, hooks, each, strict=True), key=lambda one: one[0])
        values = {
            "places": [(hook, own) for _, hook, own in places],
            "wanted": wanted,
            "later": later,
            "strength": 0.0,
        }
        super().__init__(_block(), values, globals())
        self.strength = strength

    @property
    def strength(self) -> float:
        """How many times the vector is added; assign another, and it counts from the next run on."""
        return self.values["strength"]

    @strength.setter
    def strength(self, strength: float) -> None:
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or strength != strength:
            raise InputError(
                f"`strength` is a number, how many times the vector is added; it was {strength!r}."
            )
        dtype = _dtype(self.model)
        largest = float(self.vector.detach().abs().max()) * abs(strength)
        if not largest <= torch.finfo(dtype).max:
            most = torch.finfo(dtype).max
            wider = ", or load the model with `dtype=torch.float32`" if dtype is not torch.float32 else ""
            raise InputError(
                f"the model computes in {_short(dtype)}, which holds numbers up to {most:.3g}; {strength:g} "
                f"times this vector has one of {largest:.3g}. Give a smaller strength{wider}."
            )
        self.values["strength"] = float(strength)

    # -- on and off ----------------------------------------------------------------------------

    def keep(self) -> Steering:
        """Let it act in every run of its model from now on, until `remove()`."""
        if self.owner is not None:
            raise InputError(
                "this steering acts already. `steering.remove()` ends it; another `model.steer(...)` "
                "adds one more."
            )
        self.owner = self.model
        self.model._edits.append(self)
        return self

    def __enter__(self) -> Steering:
        return self.keep()

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def explain(self, error: BaseException, names: dict[str, Any]) -> BaseException:
        """A position that a prompt does not have."""
        at, length = names.get("at"), names.get("length")
        if not isinstance(error, IndexError) or not isinstance(at, int) or length is None:
            return error
        return InputError(
            f"position {at} is to be steered, and the prompt in row {names.get('row')} has {length} tokens, "
            f"0 to {length - 1}. Positions count from the prompt's own first token; -1 is its last one."
        )

    # -- on show -------------------------------------------------------------------------------

    @property
    def source(self) -> str:
        """What it does, in one line."""
        which = "layer" if len(self.layers) == 1 else "layers"
        norm = float(self.vector.detach().norm(dim=-1).mean())
        where = (
            f"{self.positions} positions"
            if isinstance(self.positions, str)
            else f"positions {self.positions}"
        )
        return (
            f"{self.name} of {which} {', '.join(map(str, self.layers))} + {self.strength:g} × a vector of "
            f"norm {norm:.3g}, {where}"
        )

    def __repr__(self) -> str:
        state = "on" if self.enabled else "off"
        if self.owner is None:
            state = "not acting: write `with` before it, or `inplace=True` in it"
        return f"Steering({self.source}; {state})"


# --- what is asked for ----------------------------------------------------------------------------


def _layers(model: LanguageModel, name: str, layer: Any) -> tuple[int, ...]:
    if name not in PLACES:
        raise InputError(
            f"a direction is added to {', '.join(PLACES)}, which have the width of the residual stream; not "
            f"to {name!r}. For other places keep a block of your own: `with model.edit() as edited:`."
        )
    given = [layer] if isinstance(layer, int) else list(layer)
    if not given or any(isinstance(one, bool) or not isinstance(one, int) for one in given):
        raise InputError(f"`layer` is the number of a layer, or a list of several; it was {layer!r}.")
    layers = tuple(model.std._index(one) for one in given)
    for one in layers:
        model.std.place(name, one, is_checked=False)
    if len(set(layers)) < len(layers):
        raise InputError(f"a layer is named twice: {layer!r}. Give each once, with a larger strength.")
    return layers


def _vector(model: LanguageModel, vector: Any, layers: int) -> torch.Tensor:
    direction = vector if isinstance(vector, torch.Tensor) else torch.as_tensor(vector)
    if direction.is_complex() or direction.dtype is torch.bool:
        raise InputError(f"a direction is real numbers; the vector is of dtype {_short(direction.dtype)}.")
    if not direction.is_floating_point():
        direction = direction.float()
    width = model.std.layout.size("d_model")
    if direction.ndim == 2 and len(direction) == 1:
        direction = direction[0]
    shape = tuple(direction.shape)
    if shape != (width,) and shape != (layers, width):
        more = f", or ({layers}, {width}), one for each layer" if layers > 1 else ""
        raise InputError(
            f"the residual stream of this model has d_model {width}, so the vector has shape ({width},)"
            f"{more}; this one has {shape}. A vector of another model, or one position too many? Write "
            "`hidden[0, -1]`."
        )
    if not bool(torch.isfinite(direction.detach()).all()):
        count = int((~torch.isfinite(direction.detach())).sum())
        raise InputError(f"{plural(count, 'number')} of the vector are NaN or infinite.")
    return direction


def _positions(positions: Any) -> tuple[list[Any], bool]:
    """Positions of the prompt, and whether the generated ones are meant too."""
    if isinstance(positions, str):
        if positions not in WORDS:
            raise InputError(
                f"`positions` by name are {', '.join(WORDS)}; not {positions!r}. For the tokens of a text "
                "write `positions=model.tokens(prompt).positions(text)`."
            )
        return WORDS[positions]
    listed = list(positions) if isinstance(positions, (list, tuple, range)) else [positions]
    for one in listed:
        if isinstance(one, bool) or not isinstance(one, (int, slice)):
            raise InputError(
                f"`positions` is {', '.join(map(repr, WORDS))}, a number, a slice or a list of these; it was "
                f"{positions!r}."
            )
    if not listed:
        raise InputError("`positions` is an empty list, so nothing would be added anywhere.")
    return listed, False


def _dtype(model: LanguageModel) -> torch.dtype:
    """What the stream is computed in."""
    parameters = model._module.parameters()
    return next((one.dtype for one in parameters if one.is_floating_point()), torch.float32)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
