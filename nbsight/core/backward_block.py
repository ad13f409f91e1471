"""The block of `with loss.backward():`, in which `.grad` is read and written in any order.

The first `.grad` computes the gradients of everything that the trace has handed out, by one
`torch.autograd.grad` on the calling thread. A change registers a hook on its tensor, and the next
read computes again. `.grad` is seen by a torch function mode, which belongs to this thread and
ends with the block. `backward.py` says how such a block comes about.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from operator import attrgetter, is_not
from typing import Any

import torch
from torch.overrides import _push_mode

from nbsight.core.backward_modes import GradMode, plain, remove, shares_graph, torchs_own
from nbsight.core.context import running
from nbsight.core.gradients import Handed, Place, leaves_of, name_of, release
from nbsight.core.sites import Line, describe, show_line
from nbsight.errors import EditError, GraphError

__all__ = ["Backward", "handed_by", "no_graph"]


# Asked of every module or weight, so no Python code of ours may run for each.
_training, _parameters = attrgetter("training"), attrgetter("_parameters")
_hooks, _early_hooks = attrgetter("_backward_hooks"), attrgetter("_backward_pre_hooks")
_needs_gradient = attrgetter("requires_grad")
_is_there = partial(is_not, None)


class _Given:
    """A gradient that the block has seen."""

    __slots__ = ("gradient", "handle", "is_current", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, gradient: torch.Tensor) -> None:
        self.tensor = tensor
        self.gradient = gradient
        self.version = gradient._version
        self.is_current = True
        #: The hook that puts a changed gradient into later passes.
        self.handle: Any = None


class Backward:
    """What `loss.backward(...)` gives in a `with` statement.

    Args:
        loss: What is differentiated.
        tracer: The trace around it; None outside of traces.
        line: The line that asked.
    """

    def __init__(
        self,
        loss: torch.Tensor,
        gradient: torch.Tensor | None,
        retain_graph: bool | None,
        create_graph: bool,
        inputs: Any,
        tracer: Any,
        line: Line,
    ) -> None:
        loss = plain(loss)
        if not loss.requires_grad:
            raise no_graph(tracer, line)
        if gradient is None and loss.numel() != 1:
            raise GraphError(
                f"`backward` of {describe(loss)} needs to know how its numbers are weighed.\n"
                f"  {show_line(line)}\nMake one number of them first (`loss.sum()`), or give the "
                "weights: `loss.backward(gradient=...)`."
            )
        self._loss = loss
        self._weights = gradient
        self._create_graph = create_graph
        self._retain_graph = create_graph if retain_graph is None else retain_graph
        self._inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        self._tracer = tracer
        self._line = line
        self._mode: GradMode | None = None
        self._targets: dict[int, torch.Tensor] = {}
        self._computed: dict[int, torch.Tensor | None] = {}
        self._given: dict[int, _Given] = {}
        self._retained: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._has_read_parameter = False

    def __enter__(self) -> Backward:
        for tensor, _ in self._places().values():
            if tensor.requires_grad:
                self._aim_at(tensor)
        self._mode = GradMode(self)
        _push_mode(self._mode)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        remove(self._mode)
        try:
            if error is None:
                self._notice_changes()
                self._pass_on()
                with torchs_own():
                    self._leave_gradients()
        finally:
            for given in self._given.values():
                if given.handle is not None:
                    given.handle.remove()
            self._targets, self._computed, self._given, self._retained = {}, {}, {}, []
            self._loss = self._weights = self._inputs = self._tracer = self._mode = None

    def __repr__(self) -> str:
        if self._mode is None:
            return "a backward pass that runs as a block: `with loss.backward():`"
        return f"backward pass of {describe(self._loss)}, {len(self._given)} gradients read so far"

    # -- `.grad` in the block ------------------------------------------------------------------

    def read(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The gradient of a tensor: the same object each time, unless a change made it another."""
        self._notice_changes()
        given = self._given.get(id(tensor))
        if given is not None and given.is_current:
            return given.gradient
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        if tensor.requires_grad:
            found = self._gradient(tensor)
        elif is_parameter:
            found = None
        else:
            raise GraphError(self._without_graph(tensor))
        if found is None:
            if is_parameter:  # torch's rule for weights: optimizers rely on None
                with torchs_own():
                    return tensor.grad
            raise GraphError(self._independent(tensor))
        if given is None:
            # One tensor may stand for several gradients (of x and y in x + y), and what the user
            # does to it must change one.
            self._given[id(tensor)] = given = _Given(tensor, found.clone())
        elif not torch.equal(found, given.gradient):
            given.gradient = found.clone()
            given.version = given.gradient._version
        given.is_current = True
        return given.gradient

    def write(self, tensor: torch.Tensor, value: Any) -> None:
        """Let the backward pass go on with `value` above this tensor."""
        if isinstance(tensor, torch.nn.Parameter) and value is None:
            with torchs_own():
                tensor.grad = None  # `zero_grad()`
            return
        current = self.read(tensor)
        if value is current and current is not None:  # `h.grad *= 2`, which has already landed
            return
        value = plain(value)
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
            raise EditError(
                f"the gradient of a tensor is a tensor of its shape, {tuple(tensor.shape)}; it was "
                f"set to {describe(value)}. To stop it, write `x.grad = torch.zeros_like(x)`."
            )
        if current is None:  # a weight that the loss does not depend on
            with torchs_own():
                tensor.grad = value
            return
        given = self._given[id(tensor)]
        given.gradient = value.to(tensor.device, tensor.dtype)
        self._change(given)

    def _notice_changes(self) -> None:
        """What was changed in place counts as written."""
        for given in list(self._given.values()):
            if given.gradient._version != given.version:
                if not given.is_current:
                    raise GraphError(
                        f"the gradient of {self._name(given.tensor)} was read, then one further "
                        "down was changed, and then the first was changed in place: that gradient "
                        "is out of date by now. Read `.grad` again before changing it."
                    )
                self._change(given)

    def _change(self, given: _Given) -> None:
        given.version = given.gradient._version
        given.is_current = True
        if given.handle is None:
            keeps_graph = self._create_graph

            def replace(_: torch.Tensor) -> torch.Tensor:
                return given.gradient if keeps_graph else given.gradient.detach()

            given.handle = given.tensor.register_hook(replace)
        self._computed.clear()
        for other in self._given.values():
            if other.handle is None:
                other.is_current = False

    # -- computing -----------------------------------------------------------------------------

    def _aim_at(self, tensor: torch.Tensor) -> None:
        self._targets[id(tensor)] = tensor
        if tensor.retains_grad:
            with torchs_own():
                self._retained.append((tensor, tensor.grad))

    def _gradient(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if id(tensor) in self._computed:
            return self._computed[id(tensor)]
        new = [tensor]
        if isinstance(tensor, torch.nn.Parameter):
            if self._has_read_parameter and self._tracer is not None:
                # Who reads a second weight reads them all.
                weights = self._tracer.root._module.parameters()
                new += [p for p in weights if p.requires_grad and p is not tensor]
            self._has_read_parameter = True
        for item in new:
            if id(item) not in self._targets:
                self._aim_at(item)
        wanted = [t for key, t in self._targets.items() if key not in self._computed]
        gradients = torch.autograd.grad(
            self._loss,
            wanted,
            self._weights,
            retain_graph=True,
            create_graph=self._create_graph,
            allow_unused=True,
        )
        self._computed.update(zip(map(id, wanted), gradients, strict=True))
        return self._computed[id(tensor)]

    # -- after the block -----------------------------------------------------------------------

    def _pass_on(self) -> None:
        """Fill `.grad` of the leaves that are being trained, and free the graph."""
        leaves, may_release = self._leaves()
        shared = shares_graph()
        keep = self._retain_graph or shared
        if leaves is None or leaves:
            torch.autograd.backward(self._loss, self._weights, keep, self._create_graph, inputs=leaves)
            freed = leaves is None and not keep
        else:
            freed = False
        if self._retain_graph:
            return
        handed = handed_by(self._tracer)
        if shared and handed is not None:
            handed.spent.append(self._loss)
            return
        if not freed and may_release:
            release(self._loss)
        if handed is not None:
            handed.released = True

    def _leaves(self) -> tuple[list[torch.Tensor] | None, bool]:
        """The leaves to fill (None: all), and whether no hook would see the graph being freed."""
        if self._inputs is not None:
            return list(self._inputs), False
        if self._tracer is None:
            return None, False
        modules = self._tracer.root._all
        quiet = not (
            any(tensor._backward_hooks for tensor in self._targets.values())
            or any(map(_hooks, modules))
            or any(map(_early_hooks, modules))
        )
        weights = list(filter(_is_there, chain.from_iterable(map(dict.values, map(_parameters, modules)))))
        # With frozen weights beside it, one that is not frozen is being trained.
        if any(map(_training, modules)) or not all(map(_needs_gradient, weights)):
            return None, quiet
        own = set(map(id, weights))
        return [leaf for leaf in leaves_of(self._loss) if id(leaf) not in own], quiet

    def _leave_gradients(self) -> None:
        """What the block saw as a tensor's `.grad` is so afterwards."""
        for tensor, before in self._retained:
            if not tensor.is_leaf:  # each pass has added to it
                tensor.grad = self._computed.get(id(tensor), before)
        if self._create_graph:
            return  # a tensor and a gradient that depends on it would keep each other for ever
        for given in self._given.values():
            is_seen = not given.tensor.is_leaf or given.handle is not None
            if is_seen and given.is_current:
                given.tensor.grad = given.gradient.detach()

    # -- messages ------------------------------------------------------------------------------

    def _places(self) -> dict[int, tuple[torch.Tensor, Place]]:
        places: dict[int, tuple[torch.Tensor, Place]] = {}
        for tracer in running():
            handed = handed_by(tracer)
            if handed is not None:
                places.update(handed.places())
        return places

    def _name(self, tensor: torch.Tensor) -> str:
        place = self._places().get(id(tensor))
        return f"`{name_of(place[1])}`" if place else f"this tensor, {describe(tensor)},"

    def _read_at(self, tensor: torch.Tensor) -> str:
        place = self._places().get(id(tensor))
        return f"\n  {show_line(place[1][2])}" if place else ""

    def _independent(self, tensor: torch.Tensor) -> str:
        return (
            f"the loss does not depend on {self._name(tensor)} so it has no gradient there."
            f"{self._read_at(tensor)}\nThe backward pass starts here:\n  {show_line(self._line)}\n"
            "Read the tensor that the model goes on with, before the loss is computed from it: a "
            "copy, or a value that a later edit replaced, is not on the way."
        )

    def _without_graph(self, tensor: torch.Tensor) -> str:
        return (
            f"{self._name(tensor)} is not part of a graph, so it has no gradient."
            f"{self._read_at(tensor)}\nThe backward pass starts here:\n  {show_line(self._line)}\n"
            "A trace whose code does not speak of gradients needs `grad=True`; where all weights "
            "are frozen, or the value is your own, write `x.requires_grad_()` first."
        )


def handed_by(tracer: Any) -> Handed | None:
    return getattr(tracer, "handed", None)


def no_graph(tracer: Any, line: Line) -> GraphError:
    """The error for a loss that no graph was recorded for."""
    said = f"there is no graph to run backward through.\n  {show_line(line)}\n"
    inner = next((t for t in running() if getattr(t, "root", None) is not None), None)
    handed = handed_by(tracer)
    if inner is not None and not inner.grad:
        why = "This trace records none: write `model.trace(..., grad=True)`."
    elif inner is not None and inner.method != "forward":
        why = (
            f"`{inner.method}` runs under `torch.no_grad()`. Generate first, then give the tokens "
            "to `with model.trace(tokens):` and take the gradients there."
        )
    elif handed is not None and not handed.enabled:
        why = "The trace stands inside `torch.no_grad()` or `torch.inference_mode()`; take it out."
    elif handed is not None and not _any_records(handed):
        why = (
            "No value of this trace needs a gradient, because all weights of the model are frozen. "
            "Write `x.requires_grad_()` on the value that the gradient is for, right after reading "
            "it."
        )
    else:
        why = (
            "This value does not depend on anything that records a graph: it was detached, "
            "computed under `torch.no_grad()`, or comes from a trace without `grad=True`."
        )
    return GraphError(said + why)


def _any_records(handed: Handed) -> bool:
    return any(tensor.requires_grad for tensor, _ in handed.places().values())
