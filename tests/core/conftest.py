"""What every test of the core gets: clean state after it, and hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# NBSIGHT_EXAMPLES=2000 for the long run; the default is what continuous integration can pay for.
settings.register_profile(
    "core",
    max_examples=int(os.environ.get("NBSIGHT_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("core")


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """No test, and so no trace in it, may leave one of torch's switches changed."""
    torch.set_num_threads(1)

    def now() -> tuple[object, ...]:
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
        )

    before = now()
    yield
    assert now() == before, "a test left one of torch's switches changed"
