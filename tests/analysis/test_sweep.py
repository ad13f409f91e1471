"""A sweep's numbers are those of one run at a time, whatever it does to be quick."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbsight.analysis import sweep as sweeps
from nbsight.analysis.sweep import Point, Sweep, can_grow, run_points
from nbsight.errors import InputError
from nbsight.models.language_model import LanguageModel
from tests.models.architectures import AVAILABLE, make

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13]])
TOKEN = 5


def halve(layer, site, where, current):
    return current / 2 + (where[0][:, None] + layer)


def measure(logits):
    return logits[:, 0, TOKEN]


def all_points(layers, sites=("resid_pre", "resid_post")):
    return [
        Point(layer, site, (position,))
        for layer in range(layers)
        for site in sites
        for position in range(IDS.shape[1])
    ]


def by_hook(module, blocks, point, ids=IDS):
    """The logits of the last position when a plain hook changes one place."""
    block = module.get_submodule(blocks)[point.layer]

    def change(hidden):
        hidden = hidden.clone()
        for position in point.positions:
            hidden[:, position] = hidden[:, position] / 2 + (position + point.layer)
        return hidden

    def after(_, __, out):
        return change(out) if isinstance(out, torch.Tensor) else (change(out[0]), *out[1:])

    def before(_, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    if point.site == "resid_post":
        handle = block.register_forward_hook(after)
    else:
        handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with torch.no_grad():
            return module(ids).logits[0, -1]
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def gpt2():
    return LanguageModel(make(next(a for a in AVAILABLE if a.name == "gpt2")))


@pytest.mark.parametrize("architecture", AVAILABLE, ids=str)
def test_every_run_equals_a_plain_hook(architecture):
    module = make(architecture)
    model = LanguageModel(module)
    points = all_points(2)
    sweep = Sweep(model, IDS, points, halve, measure)
    sweep.run(progress=False)
    want = [float(by_hook(module, architecture.blocks, point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(sweep.base, float(module(IDS).logits[0, -1, TOKEN]), rtol=1e-5)


def test_most_architectures_let_rows_join():
    grows = {a.name: can_grow(LanguageModel(make(a))) for a in AVAILABLE}
    assert all(grows[name] for name in ("gpt2", "gpt_neox", "llama", "mistral", "gemma", "phi3", "olmo"))


@pytest.mark.parametrize("grow", [True, False])
@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_the_size_of_a_batch_changes_nothing(gpt2, batch, grow):
    points = all_points(2)
    sweep = Sweep(gpt2, IDS, points, halve, measure, batch=batch, grow=grow)
    counts = list(sweep)
    assert counts[-1] == len(points)
    assert len(counts) == -(-len(points) // batch)
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_a_point_of_several_positions_changes_them_all(gpt2):
    points = [Point(1, "resid_post", (0, 3, 6)), Point(0, "resid_pre", tuple(range(7)))]
    sweep = Sweep(gpt2, IDS, points, halve, measure)
    sweep.run(progress=False)
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_the_positions_that_are_read(gpt2):
    logits = run_points(gpt2, IDS, [Point(0, "resid_post", (1,))], halve, (2, -1), grow=True)
    with torch.no_grad():
        plain = gpt2._model(IDS).logits[0]
    assert logits.shape == (2, 2, plain.shape[-1])
    assert torch.allclose(logits[0], plain[[2, -1]], atol=1e-5)


def test_it_can_be_stopped_and_goes_on(gpt2):
    points, calls = all_points(2), []

    def stops(logits):
        calls.append(len(logits))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(logits)

    sweep = Sweep(gpt2, IDS, points, halve, stops, batch=5)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(progress=False)
    assert int(sweep.done.sum()) == 10
    assert np.isnan(sweep.values[~sweep.done]).all()
    assert not sweep.is_complete
    sweep.run(progress=False)
    assert sweep.is_complete
    assert sum(calls[:2] + calls[3:]) == len(points) + len(calls) - 1  # nothing ran twice
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_when_memory_runs_out_batches_get_smaller(gpt2):
    points, sizes = all_points(2), []

    def hungry(logits):
        sizes.append(len(logits))
        if len(logits) > 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return measure(logits)

    sweep = Sweep(gpt2, IDS, points, halve, hungry)
    sweep.run(progress=False)
    assert sizes[0] == len(points) + 1
    assert max(sizes[-3:]) <= 8
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_an_error_of_another_kind_leaves_what_is_done(gpt2):
    points, calls = all_points(2), []

    def fails(logits):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("something else")
        return measure(logits)

    sweep = Sweep(gpt2, IDS, points, halve, fails, batch=5)
    with pytest.raises(RuntimeError, match="something else"):
        sweep.run(progress=False)
    assert int(sweep.done.sum()) == 5


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            lambda logits: logits[0, 0, 0],
            r"one number for each row, shape \(\d+,\); this one gave shape \(\)",
        ),
        (lambda logits: logits[:-1, 0, 0], r"this one gave shape \(\d+,\)"),
        (lambda logits: logits[:, 0, 0] * torch.nan, r"gave nan for the plain run; its logits are finite"),
    ],
)
def test_a_metric_of_the_wrong_shape_or_without_a_number_is_named(gpt2, metric, said):
    sweep = Sweep(gpt2, IDS, all_points(1), halve, metric)
    with pytest.raises(InputError, match=said):
        sweep.run(progress=False)


def test_a_batch_of_no_rows_is_refused(gpt2):
    with pytest.raises(InputError, match="batch=0 leaves no room"):
        Sweep(gpt2, IDS, [], halve, measure, batch=0)


def test_a_forward_that_cannot_grow_is_found_out(gpt2, monkeypatch):
    def refuse(*args, grow, **options):
        if grow:
            raise RuntimeError("rows do not fit")
        return run_points(*args, grow=False, **options)

    monkeypatch.setattr(sweeps, "run_points", refuse)
    monkeypatch.setattr(sweeps, "_grows", {})
    assert not can_grow(gpt2)
