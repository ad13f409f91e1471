"""How a sweep is run: what the model's forward allows, tried once, and what pays at its size."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nbsight.analysis.growing import SITES, Point, plain_run, run_points
from nbsight.analysis.parts import has_part
from nbsight.analysis.unembedding import TOLERANCE, last_blocks
from nbsight.errors import UnknownArchitectureError
from nbsight.models.language_model import LanguageModel
from nbsight.models.limits import text_config

__all__ = ["Ways", "begin_together", "may_use_prefix", "ways_of"]

#: Operations in a second, and the seconds that a block costs before it computes anything: what is needed of
#: them is only which of two ways is the shorter one.
_RATE = {"cpu": 8e10}
_GPU_RATE = 2e13
_PER_BLOCK = 3e-4
#: Reading a block's weights takes as long as computing about this many positions.
_WEIGHTS = 30


@dataclass(frozen=True)
class Ways:
    """What a model's forward allows.

    Args:
        grow: Rows may join in the middle. Not where the forward hands every block something that has a row
            for each prompt.
        prefix: Positions may be left out that have keys and values. Not where a layer keeps another kind of
            memory, or reads what comes later.
    """

    grow: bool
    prefix: bool


_known: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Ways]] = weakref.WeakKeyDictionary()


def ways_of(model: LanguageModel) -> Ways:
    """What this model's forward allows, found by trying it once on random tokens."""
    module = model._model
    kind = getattr(model.config, "_attn_implementation", None)
    known = _known.get(module)
    if known is None or known[0] != kind:
        known = _known[module] = (kind, _try_ways(model))
    return known[1]


def _has_mlp_out(model: LanguageModel) -> bool:
    try:
        return has_part(model.std, "mlp_out", 0)
    except UnknownArchitectureError:
        return False


def _try_ways(model: LanguageModel) -> Ways:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model._limits.vocabulary or 2, (1, 6), generator=generator)
    count, start = len(last_blocks(model)), 3
    layers = sorted({0, count // 2, count - 1})
    # Two in each place, because the first row of a batch need not join: it is there.
    points = [
        Point(layer, site, (start + i,)) for layer in layers for site in (SITES[0], SITES[-1]) for i in (0, 1)
    ]
    # One inside, too: where rows and positions are one dimension (OPT) joining rows cannot be told apart.
    points += [Point(count - 1, "mlp_out", (start,))] if _has_mlp_out(model) else []
    points.sort(key=lambda point: point.joins)

    def half(layer: int, site: str, where: Any, current: torch.Tensor) -> torch.Tensor:
        return current / 2

    plain, _ = plain_run(model, ids, (-1,))
    whole = run_points(model, plain, points, half, (-1,), grow=False)

    def works(prefix: bool, grow: bool) -> bool:
        try:
            begun = plain_run(model, ids, (-1,), prefix=True)[0] if prefix else plain
            found = run_points(model, begun, points, half, (-1,), grow=grow, start=start if prefix else 0)
        except Exception:  # whatever a forward does when it is run so: then it must not
            return False
        apart = float((found - whole).float().abs().max() / whole.float().abs().max())
        return apart <= TOLERANCE.get(whole.dtype, 1e-4)

    grow = works(False, True)
    return Ways(grow, works(True, grow))


def may_use_prefix(model: LanguageModel, length: int) -> bool:
    """Whether a prefix of a prompt that long may be left out.

    Not where positions do not see all before them, nor where a hook of the user's may speak of positions.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model._model.modules()):
        return False
    text = text_config(model.config)
    reach = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return all(not size or length <= size for size in reach)


def begin_together(
    model: LanguageModel, length: int, points: Sequence[Point], last: int, *, grow: bool
) -> list[list[int]]:
    """Which points are run together, each group from its own first position on.

    Every group costs a pass over all weights; every position that is left out saves computing it for each
    row. The cheapest division is found exactly.

    Args:
        model: The model.
        length: Of the prompt.
        points: All of them.
        last: A position that every group must compute: the first that is read.
        grow: Whether rows join where they begin to differ.

    Returns:
        Indices of points, group by group, the group with the earliest positions first.
    """
    blocks = last_blocks(model)
    firsts = [min(*point.positions, last) for point in points]
    starts = sorted(set(firsts))
    # How many layers the rows that begin at a position go through, all of them together.
    work = dict.fromkeys(starts, 0)
    for first, point in zip(firsts, points, strict=True):
        work[first] += len(blocks) - (point.joins if grow else 0)
    once = len(blocks) * _fixed_positions(blocks[0]._module)
    # For the first n starts: the cost, and where the last group begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(starts) + 1):
        options = []
        rows = 0
        for begin in range(end - 1, -1, -1):
            rows += work[starts[begin]]
            options.append((best[begin][0] + once + rows * (length - starts[begin]), begin))
        best.append(min(options))
    bounds = [len(starts)]
    while bounds[-1]:
        bounds.append(best[bounds[-1]][1])
    bounds.reverse()
    group_of = {
        start: number
        for number, (begin, end) in enumerate(itertools.pairwise(bounds))
        for start in starts[begin:end]
    }
    groups: list[list[int]] = [[] for _ in range(len(bounds) - 1)]
    for index, first in enumerate(firsts):
        groups[group_of[first]].append(index)
    return groups


def _fixed_positions(block: nn.Module) -> float:
    """What a block costs once in each pass, in positions of one row."""
    parameters = list(block.parameters())
    device = parameters[0].device.type if parameters else "cpu"
    rate = _RATE.get(device, _GPU_RATE) * (torch.get_num_threads() if device == "cpu" else 1)
    operations = 2 * max(sum(parameter.numel() for parameter in parameters), 1)
    return _WEIGHTS + _PER_BLOCK * rate / operations
