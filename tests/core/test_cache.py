"""`tracer.cache(...)` against plain hooks."""

from __future__ import annotations

import pickle

import pytest
import torch

from nbsight.core.model import wrap
from nbsight.errors import InputError, PathError
from tests.core.small import Chain, build, hooked, rows, same

X = rows()


def test_everything_that_is_called_is_kept_and_equals_a_hook():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X) as tracer:
        cache = tracer.cache()
    want = hooked(net, (X,))
    for path in (name for name, _ in net.named_modules()):
        key = f"{path}.output".lstrip(".")
        if key in want:
            assert same(cache[f"model.{path}".rstrip(".")].output, want[key if path else ""][0])


def test_the_three_spellings_are_the_same_entry():
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        cache = tracer.cache()
    assert cache.h[1].output is cache["model.h.1"].output
    assert cache.model.h[1].output is cache["h.1"].output
    assert "model.h.1" in cache
    assert "model.nothing" not in cache


def test_edits_made_before_show_in_the_cache():
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        cache = tracer.cache(modules=[model.h[1], "model.h.2"])
        model.h[1].output[:] = 0
    assert cache.keys() == ["model.h.1", "model.h.2"]
    assert same(cache.h[1].output, torch.zeros_like(cache.h[1].output))
    want = hooked(model._module, (X,), edit={"h.1": lambda value: value.mul_(0)})
    assert same(cache.h[2].output, want["h.2.output"][0])


def test_inputs_and_dtypes_are_kept_on_request():
    net = build(Chain)
    model = wrap(net)
    with model.trace(X) as tracer:
        cache = tracer.cache(modules=[model.h[2]], include_inputs=True, dtype=torch.float64)
    assert cache.h[2].input.dtype == torch.float64
    assert same(cache.h[2].input.float(), hooked(net, (X,))["h.1.output"][0])
    assert cache.h[2].inputs[1] == {}


def test_a_cache_of_outputs_alone_says_that_it_has_no_inputs():
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        cache = tracer.cache(modules=[model.h[2]])
    with pytest.raises(PathError, match="include_inputs=True"):
        _ = cache.h[2].input
    with pytest.raises(PathError, match=r"model\.h\.2"):
        _ = cache.h[0]


def test_each_invoke_keeps_its_own_rows():
    net = build(Chain)
    model = wrap(net)
    one, two = rows(1, seed=1), rows(2, seed=2)
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = tracer.cache(modules=[model.h[0]])
        with tracer.invoke(two):
            second = tracer.cache(modules=[model.h[0]])
    assert torch.allclose(first.h[0].output, hooked(net, (one,))["h.0.output"][0], atol=1e-6)
    assert torch.allclose(second.h[0].output, hooked(net, (two,))["h.0.output"][0], atol=1e-6)


def test_a_cache_after_the_first_read_is_refused():
    model = wrap(build(Chain))
    with pytest.raises(InputError, match="top of the block"), model.trace(X) as tracer:
        _ = model.h[0].output
        tracer.cache()


def test_a_cache_pickles_without_its_model():
    model = wrap(build(Chain))
    with model.trace(X) as tracer:
        cache = tracer.cache()
    again = pickle.loads(pickle.dumps(cache))
    assert same(again.h[1].output, cache.h[1].output)


@pytest.mark.parametrize("key", ["model.model.h.1", "model.h.1"])
def test_a_model_within_a_model_is_found_with_and_without_its_name(key):
    inner = build(Chain, 2)
    net = torch.nn.Module()
    net.model, net.forward = inner, inner.forward
    want = hooked(net, (X,))["model.h.1.output"][0]
    model = wrap(net)
    with model.trace(X) as tracer:
        every, one = tracer.cache(), tracer.cache(modules=[key])
    assert key in every
    for cache in (every, one):
        assert same(cache[key].output, want)
        assert same(cache.model.model.h[1].output, want)
        assert same(cache.model.h[1].output, want)
    assert "model.h.7" not in every
    with pytest.raises(PathError, match=r"model\.h\.7"):
        every["model.h.7"]
