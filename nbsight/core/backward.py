"""MAGIC: `with loss.backward():`.

What: `loss.backward(...)` in a `with` statement gives a block (`backward_block.py`) in which
`.grad` of every tensor that the loss depends on is its gradient, in any order. Assigning to it or
changing it in place changes the backward pass: whatever lies further up and is read later sees the
change. In a statement of its own `loss.backward()` is torch's, and fills `.grad` of what the trace
has handed out.

Why: gradients of activations are asked for one by one, by people who should not have to call
`retain_grad()` first, and who do not want the gradients of all the weights.

How: whether a `with` statement called is seen from the caller's next instruction. For that,
`torch.Tensor.backward` is replaced for as long as any trace that records gradients is open; code
that runs in no such trace, on other threads too, gets torch's own at once.

What breaks it: a `backward` that is not the last call before the block (a helper that returns its
result); there `nbsight.backward(loss)` does the same, as it does outside of traces. A package that
replaces `torch.Tensor.backward` while a trace is open keeps its replacement, with ours inside.

Tested in `tests/core/test_backward.py`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch
from greenlet import getcurrent

from nbsight.core.backward_block import Backward, handed_by, no_graph
from nbsight.core.backward_modes import guard, plain, shares_graph
from nbsight.core.capture import enters_a_block
from nbsight.core.context import running
from nbsight.core.gradients import Handed
from nbsight.core.greenlets import Carrier

__all__ = ["Backward", "backward", "unwatch", "watch"]

_lock = threading.RLock()
_open = 0
_torchs: Any = torch.Tensor.backward
#: Whether somebody wrapped ours while it was there, and so still has it inside.
_is_ours_inside = False


def watch(handed: Handed) -> None:
    """A trace that records gradients begins."""
    global _open, _torchs
    with _lock:
        _open += 1
        handed.is_watched = True
        if _open == 1 and not _is_ours_inside and torch.Tensor.backward is not _backward:
            _torchs = torch.Tensor.backward
            torch.Tensor.backward = _backward


def unwatch(handed: Handed) -> None:
    """It ends; with the last one torch's own `backward` comes back."""
    global _open, _is_ours_inside
    with _lock:
        if not handed.is_watched:  # interrupted before it had begun
            return
        handed.is_watched = False
        _open -= 1
        if _open == 0:
            _is_ours_inside = torch.Tensor.backward is not _backward
            if not _is_ours_inside:
                torch.Tensor.backward = _torchs


def _backward(
    self: torch.Tensor,
    gradient: torch.Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> Any:
    """torch's `Tensor.backward`, or a block in which `.grad` can be read and written."""
    tracer = _recording()
    if tracer is None:
        return _torchs(self, gradient, retain_graph, create_graph, inputs)
    frame = sys._getframe(1)
    line = (frame.f_code, frame.f_lasti)
    if enters_a_block(frame):
        return Backward(self, gradient, retain_graph, create_graph, inputs, tracer, line)
    loss = plain(self)
    if not loss.requires_grad:
        raise no_graph(tracer, line)
    handed: Handed = tracer.handed
    handed.retain()
    if shares_graph() and not (create_graph if retain_graph is None else retain_graph):
        # The other invokes have yet to run through the graph of this batch.
        handed.spent.append(loss)
        retain_graph = True
    _torchs(loss, gradient, retain_graph, create_graph, inputs)
    guard(handed, line)


def backward(
    loss: torch.Tensor,
    gradient: torch.Tensor | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> Backward:
    """A block in which `.grad` of every tensor is its gradient; inside traces and outside.

    Args:
        loss: What is differentiated; one number, unless `gradient` is given.
        gradient: The weights of a loss of several numbers, in its shape.
        retain_graph: Whether another backward pass is to come.
        create_graph: Whether the gradients are part of a graph themselves.
        inputs: The leaves whose `.grad` is filled at the end of the block.

    Raises:
        GraphError: no graph was recorded for `loss`.
    """
    frame = sys._getframe(1)
    line = (frame.f_code, frame.f_lasti)
    tracer = _recording()
    return Backward(loss, gradient, retain_graph, create_graph, inputs, tracer, line)


def _recording() -> Any:
    """The innermost running trace that records gradients; None in the model's own code."""
    current = getcurrent()
    if type(current) is Carrier and current.model_run is not None:
        return None
    return next((tracer for tracer in running() if handed_by(tracer) is not None), None)
