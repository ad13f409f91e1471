"""What a large tensor looks like in few numbers: statistics, a histogram, its largest channels, blocks.

Everything goes over the tensor in parts, so that a summary needs no second copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Blocks", "Summary", "blocks_of", "plane_of", "summarise"]

PART = 1 << 22  # numbers looked at together
BINS = 48
CHANNELS = 8


@dataclass(frozen=True)
class Summary:
    """A tensor in few numbers.

    Args:
        count: How many numbers there are.
        nan: How many are not a number.
        inf: How many are infinite; all that follows is of the finite ones.
        zero: How many are exactly 0.
        mean: Their mean.
        std: Their standard deviation (of the whole, not of a sample).
        low: The smallest.
        high: The largest.
        norm: The L2 norm.
        counts: Numbers in each bin, (bin,).
        edges: Ends of the bins, (bin + 1,).
        channels: Places along the last axis with the largest root mean square, largest first.
        channel_sizes: Their root mean square, in times that of the median place.
    """

    count: int
    nan: int
    inf: int
    zero: int
    mean: float
    std: float
    low: float
    high: float
    norm: float
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    channels: tuple[int, ...]
    channel_sizes: tuple[float, ...]


@dataclass(frozen=True)
class Blocks:
    """A window of a plane in blocks of equal size (the last in a row or column may be smaller).

    Args:
        peak: Of each block the number that is farthest from 0, with its sign, float32, (row, column);
            NaN where a block holds one that is not finite.
        mean: Of each block the mean of its finite numbers, float32, (row, column).
        size: Rows and columns of the plane in one block.
    """

    peak: NDArray[np.float32]
    mean: NDArray[np.float32]
    size: tuple[int, int]


def summarise(value: torch.Tensor) -> Summary:
    """Statistics of all numbers of a tensor.

    Args:
        value: Of any shape and real dtype.
    """
    count = nan = inf = zero = finite = 0
    mean = spread = 0.0  # of what was seen so far; parts are joined as Chan et al. (1979) do
    low, high = np.inf, -np.inf
    for part in _parts(value):
        fine = _finite(part)
        count += part.numel()
        zero += int(part.numel() - torch.count_nonzero(part))
        if fine.numel() < part.numel():
            nan += int(torch.isnan(part).sum())
            inf += int(torch.isinf(part).sum())
        if not fine.numel():
            continue
        average, square = _moments(fine)
        joined, away = finite + fine.numel(), average - mean
        spread += square + away**2 * finite * fine.numel() / joined
        mean += away * fine.numel() / joined
        finite = joined
        ends = torch.aminmax(fine)
        low, high = min(low, float(ends.min)), max(high, float(ends.max))
    edges = (
        np.linspace(low, high if high > low else low + 1, BINS + 1) if finite else np.linspace(0, 1, BINS + 1)
    )
    counts = np.zeros(BINS, np.int64)
    for part in _parts(value) if finite else ():
        found = torch.histc(_finite(part), BINS, float(edges[0]), float(edges[-1]))
        counts += found.cpu().numpy().astype(np.int64)
    channels, sizes = _channels(value)
    return Summary(
        count=count,
        nan=nan,
        inf=inf,
        zero=zero,
        mean=mean if finite else np.nan,
        std=float(np.sqrt(spread / finite)) if finite else np.nan,
        low=float(low) if finite else np.nan,
        high=float(high) if finite else np.nan,
        norm=float(np.sqrt(spread + finite * mean**2)),
        counts=counts,
        edges=edges,
        channels=channels,
        channel_sizes=sizes,
    )


def plane_of(value: torch.Tensor, rows: int, columns: int, at: tuple[int, ...]) -> torch.Tensor:
    """Two axes of a tensor, the others held at an index; a view, (row, column).

    Args:
        value: Of at least two axes.
        rows: The axis that goes down.
        columns: The axis that goes across.
        at: An index for each axis; those of the two are not looked at.
    """
    index = tuple(slice(None) if axis in (rows, columns) else at[axis] for axis in range(value.ndim))
    plane = value[index]
    return plane if rows < columns else plane.transpose(0, 1)


def blocks_of(plane: torch.Tensor, window: tuple[int, int, int, int], height: int, width: int) -> Blocks:
    """A window of a plane in at most so many blocks.

    Args:
        plane: (row, column).
        window: First row, the one after the last, first column, the one after the last.
        height: Blocks from top to bottom at most.
        width: Blocks from left to right at most.
    """
    top, bottom, left, right = window
    size = max(1, -(-(bottom - top) // height)), max(1, -(-(right - left) // width))
    wide = -(-(right - left) // size[1])
    widths = torch.full((wide,), size[1])
    widths[-1] = (right - left) - size[1] * (wide - 1)
    peaks, means = [], []
    for first in range(top, bottom, size[0]):
        rows = plane[first : min(first + size[0], bottom), left:right].detach().float()
        # Zeros at the end are never farthest from 0, and add nothing to a sum.
        cells = torch.nn.functional.pad(rows, (0, wide * size[1] - rows.shape[1])).unflatten(
            1, (wide, size[1])
        )
        high, low = cells.amax((0, 2)), cells.amin((0, 2))
        peak = torch.where(-low > high, low, high)
        total, count = cells.sum((0, 2)), (widths * len(rows)).to(cells.device)
        if not bool(torch.isfinite(total).all()):
            finite = torch.isfinite(cells)
            peak = peak.masked_fill(~torch.isfinite(peak), torch.nan)
            total, count = cells.masked_fill(~finite, 0).sum((0, 2)), count - (~finite).sum((0, 2))
        peaks.append(peak.cpu())
        means.append((total / count).cpu())
    return Blocks(torch.stack(peaks).numpy(), torch.stack(means).numpy(), size)


def _parts(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """The numbers in parts, each of at most `PART`, flat."""
    value = value.detach()
    if value.numel() <= PART or value.ndim == 0:
        yield value.reshape(-1).float() if value.dtype != torch.float64 else value.reshape(-1)
        return
    inner = max(1, value.numel() // value.shape[0])
    step = max(1, PART // inner)
    if inner > PART:
        for part in value:
            yield from _parts(part)
        return
    for part in value.split(step):
        yield from _parts(part)


def _moments(part: torch.Tensor) -> tuple[float, float]:
    """The mean, and the sum of squared distances from it; summed in float64, without a copy in float64."""
    average = float(part.sum(dtype=torch.float64)) / part.numel()
    if part.dtype == torch.float64:
        return average, float((part - average).square().sum())
    near = float(torch.tensor(average, dtype=part.dtype))  # what can be taken off without rounding `average`
    around = float((part - near).square().sum(dtype=torch.float64))
    return average, max(around - (average - near) ** 2 * part.numel(), 0.0)


def _is_finite(part: torch.Tensor) -> bool:
    """Whether all numbers are finite; mostly one sum says so, which no float32 makes overflow in float64."""
    return bool(part.sum(dtype=torch.float64).isfinite()) or bool(torch.isfinite(part).all())


def _finite(part: torch.Tensor) -> torch.Tensor:
    return part if _is_finite(part) else part[torch.isfinite(part)]


def _channels(value: torch.Tensor) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if value.ndim < 2 or value.shape[-1] < 2 or value.numel() == value.shape[-1]:
        return (), ()
    squares: Any = torch.zeros(value.shape[-1], dtype=torch.float64, device=value.device)
    rows = (
        value.detach().reshape(-1, value.shape[-1])
        if value.is_contiguous()
        else value.detach().flatten(0, -2)
    )
    for part in rows.split(max(1, PART // value.shape[-1])):
        fine = part if _is_finite(part) else part.nan_to_num(0, 0, 0)
        squares += fine.double().square().sum(0)
    size = (squares / len(rows)).sqrt()
    relative = size / size.median().clamp_min(1e-30)
    best = relative.topk(min(CHANNELS, len(relative)))
    return tuple(best.indices.tolist()), tuple(best.values.tolist())
