"""On every architecture the operations of all forwards are reached, and reaching them changes no number."""

from __future__ import annotations

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.core.source_resolve import resolve
from nbsight.errors import SourceNotAvailable
from tests.models.architectures import AVAILABLE, make

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [5, 17, 3, 20, 21, 22, 23]])


@pytest.fixture(params=AVAILABLE, ids=str)
def module(request):
    return make(request.param)


def outputs_of(module):
    """What each submodule and the model return at their first call, by plain hooks."""
    found = {}

    def keep(sub, _, output):
        found.setdefault(sub, output)

    handles = [sub.register_forward_hook(keep) for sub in module.modules()]
    with torch.no_grad():
        module(IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def equal(left, right):
    """Whether two outputs hold the same bits."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left is right is None


def called_envoys(model, called):
    return [envoy for _, envoy in model.named_modules() if envoy._module in called]


def test_every_forward_rewritten_at_once_gives_the_same_bits(module):
    want = outputs_of(module)
    before = [dict(sub.__dict__) for sub in module.modules()]
    model = wrap(module)
    got = {}
    with model.trace(IDS, use_cache=False) as tracer:
        for envoy in called_envoys(model, want):
            for operation in envoy.source:
                if operation._submodule in want:
                    watch = lambda site: got.setdefault(site.module._submodule, site.value)
                    tracer.run.watch((operation, "output"), watch)
        output = model.output
    assert equal(output, want[module])
    assert [dict(sub.__dict__) for sub in module.modules()] == before
    # An operation that calls a submodule gives what the submodule's hook saw.
    assert len(got) > len(want) / 2
    for sub, value in got.items():
        assert equal(value, want[sub]), model._path_of(sub)


def test_the_functions_that_a_forward_calls_are_reached_with_the_same_bits(module):
    want = outputs_of(module)
    model = wrap(module)
    reached = 0
    with model.trace(IDS, use_cache=False) as tracer:
        nested, refused = [], []
        for envoy in called_envoys(model, want):
            for operation in envoy.source:
                named = operation._named
                if named.callee is None or not resolve(named.callee, operation._view._peeled):
                    continue
                try:
                    nested.append(operation.source)
                except SourceNotAvailable as error:
                    refused.append(str(error))
        output = model.output
        for source in nested:
            reached += sum(tracer.run.was_called(operation) for operation in source)
    assert equal(output, want[module])
    assert reached
    assert all("rite `" in text for text in refused), "each says what to write instead"
