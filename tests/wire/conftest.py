"""What the tests of the codec share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nbsight.core.model import Model, wrap


class Tower(nn.Module):
    """Three layers, the second held in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.rest = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 4)])
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, *self.rest):
            x = torch.tanh(layer(x))
        return self.scale * x


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return wrap(Tower().eval())
