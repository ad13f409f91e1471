"""What comes back from a block: the names it bound, and what it changed of what was sent.

Saved tensors come back, with what holds them; plain data comes back as it is. A tensor that was
not saved, and anything that does not travel, is replaced by a `NotHere` that says so when used.
A captured list, dict, set, array or tensor that the block changed is changed here in the same way.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nbsight.core.envoy import Envoy
from nbsight.core.saving import find_saved
from nbsight.errors import RemoteError
from nbsight.models.outputs import BlockOutput, LogitsOutput
from nbsight.wire import messages
from nbsight.wire.decode import Decoder
from nbsight.wire.encode import Encoder, Unsendable
from nbsight.wire.far import FarBlobs
from nbsight.wire.missing import NotHere
from nbsight.wire.tensors import TensorReader

__all__ = ["Watch", "decode_names", "decode_result", "encode_result"]


class Watch:
    """Remembers captured objects as they are before the block runs.

    Args:
        objects: The captured objects by number.
        names: The namespace of the block, for messages.
    """

    def __init__(self, objects: dict[int, Any], names: dict[str, Any]) -> None:
        self.objects = objects
        by_id = {id(value): name for name, value in names.items()}
        self.names = {
            number: by_id.get(id(value), "something that the block took along")
            for number, value in objects.items()
        }
        self._states = {number: _state(value) for number, value in objects.items()}

    def changed(self) -> dict[int, Any]:
        """The objects that are no longer as they were."""
        return {
            number: value
            for number, value in self.objects.items()
            if not _equal(self._states[number], _state(value))
        }


def _state(value: Any) -> Any:
    if isinstance(value, (list, collections.deque)):
        return list(value)
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (set, bytearray)):
        return [bytes(value)] if isinstance(value, bytearray) else list(value)
    if isinstance(value, np.ndarray):
        return [hashlib.blake2b(np.ascontiguousarray(value).tobytes()).digest()]
    if isinstance(value, torch.Tensor):
        plain = _plain(value)
        grad = plain.grad if plain.is_leaf else None
        return [plain._version, grad, None if grad is None else grad._version]
    return None


def _equal(before: Any, after: Any) -> bool:
    if before is None:
        return True
    same = (
        a is b or (type(a) in (int, bytes) and type(a) is type(b) and a == b)
        for a, b in zip(before, after, strict=False)
    )
    return len(before) == len(after) and all(same)


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value._plain if isinstance(value, (BlockOutput, LogitsOutput)) else value


class _ResultEncoder(Encoder):
    """Encodes what may go back: saved tensors, captured objects by number, plain data."""

    def __init__(self, root: Envoy, objects: dict[int, Any], saved: Iterable[Any]) -> None:
        super().__init__(root, functions_travel=False)
        self._numbers_of = {id(value): number for number, value in objects.items()}
        self._saved = {id(tensor) for value in saved for tensor in _tensors_in(value, set())}

    def known(self, value: Any) -> Any:
        number = self._numbers_of.get(id(value))
        return None if number is None else {"$known": number}

    def refuse(self, value: Any, place: str, why: str) -> Any:
        kind = type(value).__name__
        if isinstance(value, NotHere):
            return {"$missing": [value._what, value._why]}
        if isinstance(value, torch.Tensor):
            return {"$missing": [place, f"{why}."]}
        return {
            "$missing": [place, f"a {kind} stays where its block ran. Take what you need of it in the block."]
        }

    def allow(self, tensor: torch.Tensor, place: str) -> str | None:
        for part in (tensor, _plain(tensor)):
            if find_saved(part) is not None or id(part) in self._saved:
                return None
        return (
            "it was not saved, and of the tensors that a block makes only saved ones come back. Write "
            f"`{place} = ....save()` in the block"
        )


def _tensors_in(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item, seen)
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        for item in value:
            yield from _tensors_in(item, seen)


def encode_result(
    root: Envoy, bound: dict[str, Any], watch: Watch, saved: Iterable[Any]
) -> tuple[bytes, bytes]:
    """Header and blob of a result.

    Args:
        root: The model here.
        bound: The names that the block bound.
        watch: The captured objects.
        saved: What was saved besides tensors: containers, with all that is in them now.
    """
    encoder = _ResultEncoder(root, watch.objects, saved)
    names = {name: _attempt(encoder, value, name) for name, value in bound.items()}
    changes = {
        str(number): _attempt(encoder, _content(encoder, value), watch.names[number])
        for number, value in watch.changed().items()
    }
    tensors, blob = encoder.tensors.finish()
    header = messages.ResultHeader(messages.PROTOCOL, names, tensors, changes)
    return messages.pack(header), blob


def _attempt(encoder: Encoder, value: Any, place: str) -> Any:
    try:
        return encoder.attempt(value, place)
    except Unsendable as problem:
        return {"$missing": [place, f"{problem.place} does not travel: {problem.why}."]}


def _content(encoder: _ResultEncoder, value: Any) -> Any:
    """A plain object with what a changed one holds now."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, set):
        return set(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Tensor):
        plain = _plain(value)
        parts = [
            plain.detach().clone(),
            plain.grad.clone() if plain.is_leaf and plain.grad is not None else None,
        ]
        encoder._saved |= {id(part) for part in parts}
        return parts
    return list(value)


def decode_result(header: bytes, blob: bytes | FarBlobs, root: Envoy, sent: dict[int, Any]) -> dict[str, Any]:
    """The names to bind; captured objects are changed as the block changed them.

    Args:
        header: The message.
        blob: Its tensors, or what fetches them.
        root: The model here.
        sent: The objects that went with the job, by number.

    Raises:
        RemoteError: the message is not well formed.
    """
    result = messages.unpack(header, messages.ResultHeader)
    decoder = Decoder(
        root,
        TensorReader(result.tensors, blob, _local_device),
        functions_travel=False,
        known=sent,
        codes=[result.names, result.changes],
    )
    names = {name: decoder.decode(code) for name, code in result.names.items()}
    changes = {number: decoder.decode(code) for number, code in result.changes.items()}
    for number, content in changes.items():
        if not number.isdecimal() or int(number) not in sent:
            raise RemoteError(f"the result changes object {number!r}, which was not sent.")
        _apply(sent[int(number)], content)
    return names


def decode_names(header: bytes, blob: bytes | FarBlobs) -> dict[str, Any]:
    """The names that a block bound, where neither its model nor what it took along is at hand.

    What means nothing without them is replaced by something that says so when it is used.

    Raises:
        RemoteError: the message is not well formed.
    """
    result = messages.unpack(header, messages.ResultHeader)
    tensors = TensorReader(result.tensors, blob, _local_device)
    decoder = Decoder(None, tensors, functions_travel=False, codes=[result.names, result.changes])
    names: dict[str, Any] = {}
    for name, code in result.names.items():
        try:
            names[name] = decoder.decode(code)
        except RemoteError:
            names[name] = NotHere(name, "it means something only in the process that sent the block.")
    return names


def _local_device(name: str) -> torch.device:
    """The device of that name, or the CPU where there is none."""
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch built without it, or no such card
        return torch.device("cpu")
    return device


def _apply(value: Any, content: Any) -> None:
    if isinstance(content, NotHere):
        content._fail()
    if isinstance(value, torch.Tensor):
        new, grad = content
        plain = _plain(value)
        with torch.no_grad():
            if new.shape == plain.shape:
                plain.copy_(new)
            else:
                plain.data = new
        if grad is not None:
            plain.grad = grad
    elif isinstance(value, np.ndarray):
        value[...] = content
    elif isinstance(value, (list, bytearray)):
        value[:] = content
    else:
        value.clear()
        value.extend(content) if isinstance(value, collections.deque) else value.update(content)
