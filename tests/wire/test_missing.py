"""What stands for a value that did not come back says so at every use, and nothing else."""

from __future__ import annotations

import copy
import operator
import weakref

import numpy as np
import pytest
import torch

from nbsight.errors import RemoteError
from nbsight.wire.missing import NotHere

HERE = torch.ones(2)


@pytest.mark.parametrize(
    "use",
    [
        lambda h: h.shape,
        lambda h: h[0],
        lambda h: h + 1,
        lambda h: 1 + h,
        lambda h: h @ HERE,
        lambda h: HERE * h,
        lambda h: HERE @ h,
        lambda h: -h,
        lambda h: h == h,
        lambda h: h < 1,
        lambda h: bool(h),
        lambda h: float(h),
        lambda h: len(h),
        lambda h: list(h),
        lambda h: h(),
        lambda h: f"{h:.3f}",
        lambda h: 1 in h,
        lambda h: operator.setitem(h, 0, 1),
        lambda h: setattr(h, "x", 1),
        lambda h: torch.softmax(h, -1),
        lambda h: torch.stack([HERE, h]),
        lambda h: torch.cosine_similarity(HERE, h, dim=-1),
        lambda h: np.asarray(h),
        lambda h: np.exp(h),
        lambda h: range(h),
    ],
)
def test_every_use_says_what_to_write(use):
    with pytest.raises(RemoteError, match=r"`acts\[3\]` is not here: it was not saved"):
        use(NotHere("acts[3]", "it was not saved."))


def test_looking_at_it_and_keeping_it_are_no_uses():
    h = NotHere("h", "it was not saved.")
    assert repr(h) == str(h) == f"{h}" == "<h is not here: it was not saved.>"
    assert h in (h,)
    assert {h: 1}[h] == 1
    assert weakref.ref(h)() is h
    assert not hasattr(h, "_repr_html_")
    assert copy.copy(h)._what == "h"
