"""`stack_steps` against `torch.cat`, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.core.stacking import stack_steps
from nbsight.errors import InputError
from nbsight.models.outputs import show_block
from tests.core.small import Counter, build, hooked, rows


def parts(*lengths, width=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, length, width, generator=generator) for length in lengths]


@pytest.mark.parametrize("lengths", [(5, 1, 1, 1), (1, 1), (7,), (3, 3, 2, 1)])
def test_steps_are_put_one_after_the_other_along_the_positions(lengths):
    values = parts(*lengths)
    stacked = stack_steps(iter(values))
    assert torch.equal(stacked, torch.cat(values, 1))
    assert stacked.shape == (2, sum(lengths), 4)


def test_what_a_block_shows_is_stacked_to_a_plain_tensor():
    values = parts(3, 1)
    stacked = stack_steps([show_block(values[0]), show_block((values[1], None))])
    assert type(stacked) is torch.Tensor
    assert torch.equal(stacked, torch.cat(values, 1))


def test_gradients_flow_to_every_step():
    values = [value.requires_grad_() for value in parts(3, 1)]
    (stack_steps(values) * 2).sum().backward()
    assert all(torch.equal(value.grad, torch.full_like(value, 2)) for value in values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "nothing to stack"),
        ([torch.ones(1, 2, 3), None], "value 1 is NoneType"),
        ([(torch.ones(1, 2, 3), None)], r"value\[0\] for value in values"),
        ([torch.ones(1, 3), torch.ones(1, 3)], r"torch.stack\(values, 1\)"),
        ([torch.ones(1, 2, 3), torch.ones(1, 1, 4)], r"value 1 is float32 \(1, 1, 4\) and value 0 is"),
        ([torch.ones(2, 2, 3), torch.ones(1, 1, 3)], "only their positions, dimension 1, may differ"),
        ([torch.ones(1, 2, 5, 5), torch.ones(1, 2, 1, 6)], "patterns grow"),
        ([torch.ones(1, 5, 3), torch.ones(1, 6, 3)], r"use_cache=False.*`values\[-1\]`"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        stack_steps(values)


def test_a_cache_stacks_what_it_kept_of_each_step():
    net = build(Counter)
    x = rows(2)
    with wrap(net).generate(x, steps=3) as tracer:
        cache = tracer.cache(include_inputs=True)
    want = hooked(net, (x,), {"steps": 3}, method="generate")
    assert torch.equal(cache.a.stack(), torch.cat(want["a.output"], 1))
    assert torch.equal(
        cache["model.b"].stack("input"), torch.cat([given[0][0] for given in want["b.inputs"]], 1)
    )
    with pytest.raises(InputError, match='"output" or "input"'):
        cache.a.stack("inputs")


def test_a_cache_of_one_pass_stacks_to_that():
    net = build(Counter)
    with wrap(net).trace(rows()) as tracer:
        cache = tracer.cache()
    assert torch.equal(cache.a.stack(), cache.a.output)
