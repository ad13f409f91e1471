"""Watching for the first NaN or Inf: `with model.trace(prompt, check_finite=True): ...`.

Every module's input and output are looked at, before and after the block's edits there, and the run
goes to its end. The first place where NaN comes up is an error that says where and what had been
changed before it.

What counts: NaN always; +Inf in an output or an edit, where the module was given none. -Inf is what
masks are made of, so it is only remembered, and told if NaN comes of it. Positions that are nothing
but padding do not count.
"""

from __future__ import annotations

import cmath
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbsight.core.batching import Rows, tensors_in
from nbsight.core.quiet import quietly
from nbsight.core.sites import Edit, Line, Site, describe, show_line, show_text
from nbsight.core.source import as_code
from nbsight.core.torch_state import dispatch_depth, function_depth, is_grad_enabled
from nbsight.errors import NotFiniteError

if TYPE_CHECKING:
    from nbsight.core.run import Run
    from nbsight.core.tracer import Tracer

__all__ = ["watch_finite"]

_EDITS = 3
"""Edits that a message names, the last ones."""


def watch_finite(tracer: Tracer, run: Run, rows: list[Rows]) -> None:
    """Let a run that has not begun look for NaN and Inf at every module.

    Args:
        rows: The rows of each invoke.
    """
    modules = [m for m in tracer.root._module.modules() if type(m).forward is not nn.Module.forward]
    watch = _Watch(tracer, run, rows)
    run.open(modules)
    for module in modules:
        run.watch((module, "input"), watch.called, early=True)
        run.watch((module, "input"), watch.given)
        run.watch((module, "output"), watch.made, early=True)
        run.watch((module, "output"), watch.returned)


@dataclass
class _Call:
    """A call that has not returned."""

    module: nn.Module
    given: str
    has_inf: bool
    skipped: Line | None = None
    returns_inf: bool = False


@dataclass(frozen=True)
class _Found:
    """What is not finite in a tensor.

    Args:
        what: "NaN", "+Inf" or "-Inf".
        tensor: The tensor.
        mask: Where it is, of the tensor's shape.
    """

    what: str
    tensor: torch.Tensor
    mask: torch.Tensor


class _Watch:
    def __init__(self, tracer: Tracer, run: Run, rows: list[Rows]) -> None:
        self.tracer = tracer
        self.run = run
        self.rows = rows
        self.calls: list[_Call] = []
        #: What ran to its end since the last edit, the parts of what ended later left out.
        self.since: list[str] = []
        #: How many edits have been seen, and the pass of the last one.
        self.count = len(run.edits)
        self.edited_in: int | None = None
        #: A tensor that is known to be fine, and its count of changes.
        self.fine: tuple[Callable[[], Any], int] = (lambda: None, 0)
        #: What returned -Inf first.
        self.minus: str | None = None

    # -- the four looks at a call ------------------------------------------------------------------

    def called(self, site: Site) -> None:
        """A module is called; nobody has changed its input yet."""
        found = self._look(site.value)
        if "NaN" in found:
            self._given_nan(found["NaN"], site)
        args, kwargs = site.value
        given = describe(args[0] if args else next(iter(kwargs.values()), None))
        self.calls.append(_Call(site.module, given, "+Inf" in found))

    def given(self, site: Site) -> None:
        """The same, after the edits."""
        call = self.calls[-1]
        if site.is_skipped:
            call.skipped = site.line
        edits = self._new_edits()
        if edits:
            call.has_inf = self._check_edits(edits, site, call.has_inf)

    def made(self, site: Site) -> None:
        """A module has returned; nobody has changed what it returned yet."""
        while self.calls[-1].module is not site.module:
            self.calls.pop()  # those failed, and the model caught that
        call, found = self.calls[-1], self._look(site.value)
        call.returns_inf = "+Inf" in found
        bad = found.get("NaN") or (None if call.has_inf else found.get("+Inf"))
        if bad is not None:
            self._made(bad, call, site)
        if "-Inf" in found and self.minus is None:
            self.minus = self.run.name(site.module)

    def returned(self, site: Site) -> None:
        """The same, after the edits."""
        edits, call = self._new_edits(), self.calls.pop()
        if edits:
            self._check_edits(edits, site, call.returns_inf)
            return
        name = self.run.name(site.module)
        while self.since and self.since[-1].startswith(f"{name}."):
            self.since.pop()
        self.since.append(name)
        if not self.calls and self.edited_in != self.run.passes:
            self.since = []  # a step without an edit is over

    # -- looking -----------------------------------------------------------------------------------

    def _new_edits(self) -> Sequence[Edit]:
        edits = self.run.edits[self.count :]
        self.count += len(edits)
        if edits:
            self.since, self.edited_in = [], self.run.passes
        return edits

    def _look(self, value: Any) -> dict[str, _Found]:
        """What is not finite in a value, by kind; the first tensor of each."""
        if is_grad_enabled() or function_depth() or dispatch_depth():
            with quietly():
                return self._looked(value)
        return self._looked(value)

    def _looked(self, value: Any) -> dict[str, _Found]:
        found: dict[str, _Found] = {}
        for tensor in tensors_in(value):
            # As a rule one module's output is the next one's input.
            if tensor is self.fine[0]() and tensor._version == self.fine[1]:
                continue
            if _can_be_checked(tensor) and not _is_fine(tensor):
                # Torch cannot ask eight bits.
                self._sort(tensor, tensor.float() if tensor.dtype.itemsize == 1 else tensor, found)
            elif not tensor.is_inference():
                self.fine = (weakref.ref(tensor), tensor._version)
        return found

    def _sort(self, tensor: torch.Tensor, numbers: torch.Tensor, found: dict[str, _Found]) -> None:
        masks = {"NaN": numbers.isnan()}
        if numbers.is_complex():
            masks["+Inf"] = numbers.isinf()
        else:
            masks.update({"+Inf": numbers.isposinf(), "-Inf": numbers.isneginf()})
        for what, mask in masks.items():
            if what not in found and bool(mask.any()) and self._owners(mask) is not None:
                found[what] = _Found(what, tensor, mask)

    def _owners(self, mask: torch.Tensor) -> list[int] | None:
        """The invokes in whose rows something lies; None when all of it is padding."""
        indices = [rows.index(mask.shape) for rows in self.rows]
        if None in indices:
            return []
        owners = [place for place, index in enumerate(indices) if bool(mask[index].any())]
        return owners or None

    # -- saying ------------------------------------------------------------------------------------

    def _given_nan(self, bad: _Found, site: Site) -> None:
        name = self.run.name(site.module)
        if not self.calls:
            self._fail(f"the model was given NaN: {_count(bad, 'its input')}.", bad, site)
        parent = self.run.name(self.calls[-1].module)
        code = as_code("" if parent == "model" else parent).rstrip(".")
        self._fail(
            f"NaN came up in the own forward of `{parent}`, before it called `{name}`: "
            f"{_count(bad, 'the input of that')}.\n`print({code}.source)` shows the operations there.",
            bad,
            site,
        )

    def _made(self, bad: _Found, call: _Call, site: Site) -> None:
        name = self.run.name(site.module)
        if call.skipped is not None:
            text = f"{bad.what} was put in the place of `{name}`: {_count(bad, 'the value')}."
            self._fail(f"{text}\n  {show_line(call.skipped)}", bad, site)
        where = " in its own forward" if next(site.module.children(), None) is not None else ""
        text = (
            f"`{name}` ({type(site.module).__name__}) made {bad.what}{where}: {_count(bad, 'its output')}.\n"
            f"Its input was finite: {call.given}."
        )
        for own, value in site.module.named_parameters(recurse=False):
            if self._look(value):
                text += f" Its `{own}` is not."
        self._fail(text, bad, site)

    def _check_edits(self, edits: Sequence[Edit], site: Site, had_inf: bool) -> bool:
        """Whether there is +Inf after the edits at a place; an error if they have made it."""
        found = self._look(site.value)
        bad = found.get("NaN") or (None if had_inf else found.get("+Inf"))
        if bad is not None:
            self.count -= len(edits)  # said here, and not once more among those before
            place = f"{self.run.name(site.module)}.{site.kind}"
            lines = "".join(f"\n  {text}" for text in dict.fromkeys(show_line(edit.line) for edit in edits))
            self._fail(f"{bad.what} was written to `{place}`: {_count(bad, 'the value')}.{lines}", bad, site)
        return "+Inf" in found

    def _fail(self, text: str, bad: _Found, site: Site) -> None:
        lines = [text]
        if self.tracer.method == "generate":
            lines.append(f"That was in step {max(self.run.passes - 1, 0)}.")
        lines += self._invokes(bad)
        if self.minus is not None and bad.what == "NaN":
            lines.append(f"`{self.minus}` had returned -Inf before that.")
        edits = self.run.edits[: self.count]
        for edit in edits[-_EDITS:]:
            lines.append(
                f"`{edit.path}.{edit.kind}` had been changed before that:\n  {show_line(edit.line)}\n"
                f"  {edit.before} -> {edit.after}"
            )
        if edits and self.edited_in == self.run.passes and self.since:
            lines.append(f"Between that and `{self.run.name(site.module)}` ran {_some(self.since)}.")
        raise NotFiniteError("\n".join(lines))

    def _invokes(self, bad: _Found) -> list[str]:
        """The first two of the invokes in whose rows it lies."""
        owners = self._owners(bad.mask) if len(self.rows) > 1 else None
        invokers = [invoker for invoker in self.tracer.invokes if invoker.prepared is not None]
        lines = []
        for place in (owners or [])[:2]:
            block = invokers[place].block
            if block is not None:
                own = bad.mask[self.rows[place].index(bad.mask.shape)]
                line = show_text(block.filename, block.line)
                lines.append(f"It is in the rows of this invoke, in its own count {_where(own)}:\n  {line}")
        return lines


def _is_fine(tensor: torch.Tensor) -> bool:
    """Whether there is neither NaN nor Inf in a tensor."""
    # One sum answers for most: only where it overflows must the elements be asked.
    wide = torch.float32 if tensor.dtype.itemsize < 4 else None
    total = tensor.sum(dtype=wide).item()
    return cmath.isfinite(total) or bool((tensor if wide is None else tensor.to(wide)).isfinite().all())


def _can_be_checked(tensor: torch.Tensor) -> bool:
    return (
        (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and tensor.device.type != "meta"
    )


def _count(bad: _Found, what: str) -> str:
    total, count = bad.mask.numel(), int(bad.mask.sum())
    return f"{what}, {describe(bad.tensor)}, has it in {count} of {total} elements, {_where(bad.mask)}"


def _where(mask: torch.Tensor) -> str:
    """Where the first element is, with names for what the axes mean as a rule."""
    first = mask.nonzero()[0].tolist() if mask.ndim else []
    text = f"first at {first}"
    return f"{text} (row {first[0]}, position {first[1]})" if len(first) == 3 else text


def _some(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) > 7:
        quoted[3:-3] = [f"… ({len(quoted) - 6} more) …"]
    return ", ".join(quoted)
