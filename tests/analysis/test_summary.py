"""A summary is what numpy says of the whole tensor, whatever its parts, its dtype and its odd numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis import summary
from nbsight.analysis.summary import blocks_of, plane_of, summarise


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (4, 3, 11), (2, 3, 4, 5)])
@pytest.mark.parametrize("part", [3, 1 << 22])
def test_statistics_are_numpys(monkeypatch, dtype, shape, part):
    monkeypatch.setattr(summary, "PART", part)
    value = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 100).to(dtype)
    known, plain = summarise(value), value.double().numpy()
    assert known.count == plain.size
    assert (known.nan, known.inf, known.zero) == (0, 0, int((plain == 0).sum()))
    for name, expected in [
        ("mean", plain.mean()),
        ("std", plain.std()),
        ("low", plain.min()),
        ("high", plain.max()),
        ("norm", np.sqrt((plain**2).sum())),
    ]:
        assert getattr(known, name) == pytest.approx(expected, rel=1e-6, abs=1e-6), name
    assert known.counts.sum() == plain.size


def test_numbers_that_are_not_finite_are_counted_and_left_out():
    value = torch.tensor([[1.0, float("nan"), 0.0], [float("inf"), -3.0, float("-inf")]])
    known = summarise(value)
    assert (known.count, known.nan, known.inf, known.zero) == (6, 1, 2, 1)
    assert (known.low, known.high) == (-3, 1)
    assert known.mean == pytest.approx(-2 / 3)
    assert known.counts.sum() == 3


def test_nothing_finite_is_said_as_such():
    known = summarise(torch.full((2, 2), float("nan")))
    assert known.nan == 4
    assert np.isnan([known.mean, known.std, known.low]).all()
    assert known.counts.sum() == 0


@pytest.mark.parametrize("part", [5, 1 << 22])
def test_channels_that_stand_out_are_found(monkeypatch, part):
    monkeypatch.setattr(summary, "PART", part)
    value = torch.ones(3, 4, 9)
    value[..., 6] = 50
    value[..., 2] = -7
    known = summarise(value.transpose(0, 1))
    assert known.channels[:2] == (6, 2)
    assert known.channel_sizes[:2] == pytest.approx((50, 7))


@pytest.mark.parametrize(("height", "width"), [(100, 100), (4, 3), (1, 1), (3, 100)])
@pytest.mark.parametrize("window", [(0, 10, 0, 13), (2, 9, 5, 12)])
def test_blocks_hold_the_number_farthest_from_0_and_the_mean(height, width, window):
    plane = torch.randn(10, 13, generator=torch.Generator().manual_seed(2)) - 0.5
    plane[4, 6] = float("nan")
    blocks = blocks_of(plane, window, height, width)
    top, bottom, left, right = window
    assert blocks.peak.shape[0] <= height
    assert blocks.peak.shape[1] <= width
    for row in range(blocks.peak.shape[0]):
        for column in range(blocks.peak.shape[1]):
            y, x = top + row * blocks.size[0], left + column * blocks.size[1]
            part = (
                plane[y : min(y + blocks.size[0], bottom), x : min(x + blocks.size[1], right)].numpy().ravel()
            )
            if np.isfinite(part).all():
                assert blocks.peak[row, column] == part[np.abs(part).argmax()]
            else:
                assert np.isnan(blocks.peak[row, column])
            if np.isfinite(part).any():
                assert blocks.mean[row, column] == pytest.approx(part[np.isfinite(part)].mean(), abs=1e-6)


def test_a_plane_is_two_axes_with_the_others_held():
    value = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(plane_of(value, 1, 3, (1, 0, 2, 0)), value[1, :, 2, :])
    assert torch.equal(plane_of(value, 3, 1, (1, 0, 2, 0)), value[1, :, 2, :].T)
