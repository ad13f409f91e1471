"""What a user sees for a decoder block's output and for a language model's output.

transformers returns a tuple from some blocks and a bare tensor from others, and it differs between
versions; `output[0]` would be the hidden state in one and batch row 0 in the other. `BlockOutput` reads
the same in both. `LogitsOutput` is the logits and the Hugging Face output in one object.

Both are tensors that share storage with what the module returned. Every torch function first takes the
plain tensor out of them (`__torch_function__`), so results are plain tensors and gradients flow through
the very tensor that the model uses.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nbsight.errors import EditError, PathError
from nbsight.models.fitting import fitted_to, refuse_kind

__all__ = [
    "BlockOutput",
    "LogitsOutput",
    "accept_block",
    "accept_logits",
    "show_block",
    "show_logits",
]


class _Reading(torch.Tensor):
    """A tensor that stands for the plain tensor `_plain`, and remembers the `_whole` it came in."""

    _plain: torch.Tensor
    _whole: Any = None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*_plain(args), **_plain(kwargs or {}))
        # `out += x` binds `out` to what comes back: it must go on meaning what it meant.
        if args and isinstance(args[0], _Reading) and result is args[0]._plain and _in_place(func):
            return args[0]
        return result

    def __repr__(self, **options: Any) -> str:
        return repr(self._plain)

    def __deepcopy__(self, memo: dict) -> _Reading:
        return _reading(type(self), self._plain.__deepcopy__(memo), None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reading, (type(self), self._plain, None)


def _reading(kind: type[_Reading], plain: torch.Tensor, whole: Any) -> Any:
    if type(plain) is torch.Tensor or type(plain) is torch.nn.Parameter:
        made = plain.as_subclass(kind)
    else:
        # A fake tensor (scan) already has its Python class; a shell without storage stands for it, which is
        # enough because every function is called with `_plain`.
        shell = torch.empty(plain.shape, dtype=plain.dtype, device="meta")
        made = torch.Tensor._make_subclass(kind, shell)
    made.__dict__["_plain"] = plain
    made.__dict__["_whole"] = whole
    return made


def _plain(value: Any) -> Any:
    """Take the plain tensors out of readings, also inside lists, tuples and dicts."""
    if isinstance(value, _Reading):
        return value._plain
    if type(value) in (tuple, list):
        return type(value)(_plain(item) for item in value)
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def _in_place(func: Any) -> bool:
    name: str = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
    return name.endswith("_")


def _is_integer(key: Any) -> bool:
    if isinstance(key, (bool, slice, tuple, list)) or key is None or key is Ellipsis:
        return False
    if isinstance(key, torch.Tensor):
        return key.ndim == 0 and not key.is_floating_point() and key.dtype is not torch.bool
    return hasattr(key, "__index__") and getattr(key, "ndim", 0) == 0


class BlockOutput(_Reading):
    """The output of a decoder block; `[0]` is the whole hidden state, (batch, position, d_model).

    It is the same on every transformers version and architecture:

        block.output[0]           the hidden state, a plain tensor that shares storage
        block.output[:, -1]       slices, masks and index tuples address that tensor
        block.output + x          so does every torch function
        block.output[0][:] = x    in-place edits land in the model
        block.output = x          a tensor, or a tuple whose first entry is one
        block.output.raw          exactly what the module returned
    """

    @property
    def raw(self) -> Any:
        """What the module returned: a tensor, or a tuple with the hidden state first."""
        return self._plain if self._whole is None else self._whole

    def __getitem__(self, key: Any) -> torch.Tensor:
        if type(key) is int and key == 0:  # what nearly everybody writes
            return self._plain
        if not _is_integer(key):
            return self._plain[_plain(key)]
        if operator.index(key) != 0:
            raise PathError(self._explain_integer(operator.index(key)))
        return self._plain

    def __setitem__(self, key: Any, value: Any) -> None:
        if not _is_integer(key):
            self._plain[_plain(key)] = _plain(value)
            return
        if operator.index(key) != 0:
            raise EditError(self._explain_integer(operator.index(key)))
        value = _plain(value)
        if value is self._plain:  # the second half of `block.output[0] += x`, which has already landed
            return
        if isinstance(value, torch.Tensor) and value.ndim:
            value = fitted_to(self._plain, value, "a block's hidden state", rows_may_differ=False)
        self._plain[:] = value

    def __iter__(self) -> Iterator[torch.Tensor]:
        # Unpacking as a tuple and looping over rows both end here, and mean different things.
        raise PathError(
            "a block's output is not iterable, because it could mean a tuple's entries or the rows of the "
            "batch. Write `hidden = block.output[0]` for the hidden state, "
            "`for row in block.output[0]` for the rows of the batch."
        )

    def _explain_integer(self, index: int) -> str:
        text = (
            f"a block's output was indexed with {index}; only 0 is an entry, the hidden state of shape "
            f"{tuple(self._plain.shape)} (batch, position, d_model). For position {index} write "
            f"`block.output[:, {index}]`, for row {index} of the batch `block.output[0][{index}]`"
        )
        if isinstance(self._whole, (tuple, list)) and len(self._whole) > 1:
            text += f", for the other things that this block returned `block.output.raw[{index}]`"
        return text + "."


class LogitsOutput(_Reading):
    """A language model's output: used as a tensor it is the logits, by name the Hugging Face output.

    `out[0, -1]`, `out.shape`, `out.softmax(-1)` are about the logits (batch, position, d_vocab);
    `out.logits`, `out.past_key_values`, `out["logits"]`, `out.keys()` about the Hugging Face output, which
    is `out.hf`.
    """

    #: Whether the run was told to keep no cache, since nothing around it speaks of one.
    _is_light = False

    @property
    def hf(self) -> Any:
        """The Hugging Face output itself."""
        return self._plain if self._whole is None else self._whole

    @property
    def logits(self) -> torch.Tensor:
        """The logits as a plain tensor, (batch, position, d_vocab)."""
        return self._plain

    @logits.setter
    def logits(self, value: torch.Tensor) -> None:
        # In place, because `hf` may hold views of a larger batch.
        self._plain[:] = fitted_to(self._plain, _plain(value), "the logits", rows_may_differ=False)

    def __getattr__(self, name: str) -> Any:
        whole = self.__dict__.get("_whole")
        if isinstance(whole, Mapping) and name in whole:
            return whole[name]
        if name == "past_key_values" and self._is_light:
            raise PathError(
                "this run kept no cache of keys and values: nothing in the code around the trace speaks of "
                "one. Write `model.trace(prompt, use_cache=True)`."
            )
        if whole is not None and not name.startswith("_") and hasattr(type(whole), name):
            return getattr(whole, name)  # an unset field is None, as on the Hugging Face output
        raise PathError(
            f"a language model's output has no {name!r}: a tensor has none, and the Hugging Face output has "
            f"{', '.join(self.keys())}."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(self.__dict__.get("_whole"), Mapping) and name in self._whole and name != "logits":
            raise EditError(
                f"{name!r} of a language model's output cannot be assigned on its own. Change it in place, "
                "or assign the whole output: `model.output = ...`."
            )
        super().__setattr__(name, value)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                return self.hf[key]
            except (KeyError, IndexError, TypeError):
                raise PathError(f"the output has no {key!r}; it has {', '.join(self.keys())}.") from None
        return self._plain[_plain(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str) and key == "logits":
            self.logits = value
        elif isinstance(key, str):
            setattr(self, key, value)
        else:
            self._plain[_plain(key)] = _plain(value)

    def __contains__(self, item: Any) -> bool:
        if isinstance(item, str):
            return item in self.keys()
        return item in self._plain

    def keys(self) -> list[str]:
        """The names of what the Hugging Face output holds."""
        return list(self._whole.keys()) if isinstance(self._whole, Mapping) else ["logits"]

    def values(self) -> list[Any]:
        """What the Hugging Face output holds."""
        return [self[name] for name in self.keys()] if self._whole is not None else [self._plain]

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of name and value."""
        return list(zip(self.keys(), self.values(), strict=True))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that name, or `default`."""
        return self[name] if name in self.keys() else default

    def to_tuple(self) -> tuple:
        """What the Hugging Face output holds, as a tuple."""
        whole = self.hf
        return whole.to_tuple() if hasattr(whole, "to_tuple") else tuple(self.values())


# So that `torch.load` with its default, `weights_only=True`, reads back what `torch.save` wrote.
torch.serialization.add_safe_globals([_reading, BlockOutput, LogitsOutput])


# --- blocks -------------------------------------------------------------------------------------


def show_block(value: Any) -> Any:
    """What the user sees for `value`, which a decoder block returned."""
    if type(value) is torch.Tensor:  # as a rule, and read a hundred times in a generation
        made: Any = value.as_subclass(BlockOutput)
        made._plain = value
        return made
    place = _hidden_place(value)
    if place is _NOWHERE:
        return value
    if place is None:
        return _reading(BlockOutput, value, None)
    return _reading(BlockOutput, value[place], value)


def accept_block(current: Any, assigned: Any) -> Any:
    """What the model goes on with when the user assigns `assigned` to a block's output.

    Args:
        current: What the block returned.
        assigned: A tensor, a `BlockOutput`, or a tuple or mapping with the hidden state in it; None for
            another entry keeps what the block returned there.

    Returns:
        The structure of `current` with the assigned hidden state in its place. Its dtype and device are made
        those of `current`; its shape must agree, except that one row and several rows may replace each other.

    Raises:
        EditError: the value cannot stand for the hidden state.
    """
    place = _hidden_place(current)
    if place is _NOWHERE:
        return _plain(assigned)
    hidden = current if place is None else current[place]
    rest: Any = None
    if isinstance(assigned, (tuple, list)) and assigned:
        rest, assigned = _plain(assigned), assigned[0]
    elif isinstance(assigned, Mapping):
        other = _hidden_place(assigned)
        if other is not _NOWHERE:
            rest, assigned = assigned, assigned[other]
    assigned = _plain(assigned)
    if not isinstance(assigned, torch.Tensor):
        refuse_kind(assigned, hidden, "a block's output")
    hidden = fitted_to(hidden, assigned, "a block's output", rows_may_differ=True)
    return _rebuilt(current, place, hidden, rest)


_NOWHERE = object()


def _hidden_place(value: Any) -> Any:
    """The key under which `value` holds the hidden state: None if it is that itself."""
    if isinstance(value, torch.Tensor):
        return None
    if isinstance(value, Mapping):
        names = ["last_hidden_state", "hidden_states", *value]
        return next((n for n in names if isinstance(value.get(n), torch.Tensor)), _NOWHERE)
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], torch.Tensor):
        return 0
    return _NOWHERE


def _rebuilt(current: Any, place: Any, hidden: torch.Tensor, rest: Any) -> Any:
    """`current` with `hidden` at `place`, and with what else the user gave in `rest`."""
    if isinstance(current, Mapping):
        changes = dict(rest) if isinstance(rest, Mapping) else {}
        return _replaced(current, changes | {place: hidden})
    others = list(rest[1:]) if isinstance(rest, (tuple, list)) else []
    own = [] if place is None else list(current[1:])
    if any(item is not None for item in others) and len(others) != len(own):
        returns = f"returns {1 + len(own)}" if place is not None else "returns one tensor"
        raise EditError(
            f"a block's output was assigned {1 + len(others)} entries; this block {returns}. Write "
            "`block.output = hidden` to keep the others as they are."
        )
    if place is None:
        return hidden
    # None keeps what the block returned, so that `(hidden, None)` means the same on every release.
    if len(others) == len(own):
        own = [mine if theirs is None else theirs for mine, theirs in zip(own, others, strict=True)]
    entries = [hidden, *own]
    return type(current)(*entries) if hasattr(current, "_fields") else type(current)(entries)


def _replaced(whole: Mapping, changes: dict[str, Any]) -> Any:
    entries = dict(whole.items()) | changes
    if type(whole) is dict:
        return entries
    return type(whole)(**entries)


# --- the model's output --------------------------------------------------------------------------


def show_logits(value: Any, *, is_light: bool = False) -> Any:
    """What the user sees for `value`, which a language model returned.

    Args:
        value: What it returned.
        is_light: Whether it was told to keep no cache of keys and values.
    """
    place = _logits_place(value)
    if place is _NOWHERE:
        return value
    logits, whole = (value, None) if place is None else (value[place], value)
    shown = _reading(LogitsOutput, logits, whole)
    shown.__dict__["_is_light"] = is_light
    return shown


def accept_logits(current: Any, assigned: Any) -> Any:
    """What the run returns when the user assigns `assigned` to the model's output.

    Args:
        current: What the model returned.
        assigned: A tensor of logits, a `LogitsOutput`, a Hugging Face output, or a tuple.

    Raises:
        EditError: the value cannot stand for the logits.
    """
    place = _logits_place(current)
    if isinstance(assigned, LogitsOutput):
        if assigned._whole is current or place is _NOWHERE:
            return assigned.hf
        assigned = assigned.hf if isinstance(current, Mapping) else assigned._plain
    assigned = _plain(assigned)
    if place is _NOWHERE or assigned is current:
        return assigned
    logits = current if place is None else current[place]
    if isinstance(assigned, torch.Tensor):
        fitted = fitted_to(logits, assigned, "the logits", rows_may_differ=True)
        if isinstance(current, Mapping):
            return _replaced(current, {place: fitted})
        if place is None:
            return fitted
        return type(current)([*current[:place], fitted, *current[place + 1 :]])
    if isinstance(assigned, Mapping) and "logits" in assigned and isinstance(current, Mapping):
        fitted = fitted_to(logits, _plain(assigned["logits"]), "the logits", rows_may_differ=True)
        return _replaced(current, dict(assigned.items()) | {"logits": fitted})
    both_sequences = isinstance(assigned, (tuple, list)) and isinstance(current, (tuple, list))
    if both_sequences and len(assigned) == len(current):
        return type(current)(assigned)
    refuse_kind(assigned, logits, "a language model's output")


def _logits_place(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return None
    if isinstance(value, Mapping):
        return "logits" if isinstance(value.get("logits"), torch.Tensor) else _NOWHERE
    if isinstance(value, (tuple, list)):
        # with labels the loss, a number, comes first
        places = (i for i, item in enumerate(value) if isinstance(item, torch.Tensor) and item.ndim > 1)
        return next(places, _NOWHERE)
    return _NOWHERE
