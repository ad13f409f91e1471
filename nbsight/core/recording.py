"""A run that keeps what was there before each edit: `model.trace(prompt, receipts=True)`.

A change in place leaves nothing to compare with, so this run copies a value when the model arrives
with it. It also counts, whenever the block has the word, the changes of what was read earlier: what
is written there now, the model has gone on from. The counts are taken again each time the model
comes back, because models change tensors in place themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from nbsight.core.batching import tensors_in
from nbsight.core.measuring import copy_of, memory_of
from nbsight.core.quiet import quietly
from nbsight.core.run import Run
from nbsight.core.sites import Line, Site

if TYPE_CHECKING:
    from nbsight.core.participant import Participant

__all__ = ["check_left", "record"]


class _Left:
    """A tensor that was shown at a place which the model has left."""

    __slots__ = ("line", "path", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, path: str, line: Line | None) -> None:
        self.tensor = weakref.ref(tensor)
        self.version = tensor._version
        self.path = path
        self.line = line


class _Recorded(Run):
    """What is added to a run whose edits are all measured."""

    _here: Site | None = None
    _last: Site | None = None
    _copy: Any = None
    _left: Sequence[_Left] = ()

    @property
    def site(self) -> Site | None:
        """Where the model stands; setting it is the model's coming and going."""
        return self._here

    @site.setter
    def site(self, site: Site | None) -> None:
        here = self._here
        if here is not None:
            self.check_left()
            if self.serve is None:  # invokes share tensors, and their waiting is watched elsewhere
                path = f"{self.name(here.module)}.{here.kind}"
                self._left = [*self._left, *(_Left(each, path, here.line) for each in _counting(here))]
        self._here = site
        if site is not None:
            self._last = site
            with quietly():
                self._copy = copy_of(site.value)
            self._count_again()

    def copied(self, participant: Participant, site: Site) -> Any:
        """The rows of a participant as they were when it was asked last, or when the model came."""
        if site is not self._last:
            return None
        copy = self._copy
        with quietly():
            self._copy = copy_of(site.value)
        return copy if participant.rows is None else participant.rows.narrow(copy)

    def note_edit(self, site: Site, before: str, after: str) -> None:
        """Remember an edit; a value that replaced another is what changes in place start from."""
        super().note_edit(site, before, after)
        if site is self._last and not site.is_touched:
            with quietly():
                self._copy = copy_of(site.value)

    def check_left(self) -> None:
        """Note the values that the block has changed though the model had gone on from them."""
        if not self._left or self.owner is None:
            return
        # What stands here may be the same memory; then the model does see the change.
        here = set() if self._here is None else {memory_of(each) for each in _counting(self._here)}
        for left in self._left:
            tensor = left.tensor()
            if tensor is not None and tensor._version != left.version:
                left.version = tensor._version
                if memory_of(tensor) not in here:
                    self.owner.note_late(left.path, left.line)

    def _count_again(self) -> None:
        for left in self._left:
            tensor = left.tensor()
            if tensor is not None:
                left.version = tensor._version

    def _release(self) -> None:
        super()._release()
        self._count_again()
        if self.ended:
            self._copy = self._last = None


_kinds: dict[type[Run], type[Run]] = {}


def record(run: Run) -> None:
    """Let a run, of whatever kind, keep what was there before each edit."""
    kind = type(run)
    if kind not in _kinds:
        _kinds[kind] = type(f"Recorded{kind.__name__}", (_Recorded, kind), {})
    run.__class__ = _kinds[kind]


def check_left(run: Run) -> None:
    """Note the values that the block has changed though the model had gone on from them."""
    if isinstance(run, _Recorded):
        run.check_left()


def _counting(site: Site) -> list[torch.Tensor]:
    """The tensors of a value that count their changes."""
    return [tensor for tensor in tensors_in(site.value) if not tensor.is_inference()]
