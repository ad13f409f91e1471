"""A sweep's numbers are those of one run at a time, whatever it does to be quick."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch

from nbsight.analysis import strategy
from nbsight.analysis.growing import Point, plain_run, run_points
from nbsight.analysis.strategy import Ways, begin_together, ways_of
from nbsight.analysis.sweep import Sweep
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


@pytest.fixture(scope="module")
def llama():
    return LanguageModel(make(next(a for a in AVAILABLE if a.name == "llama")))


@pytest.mark.parametrize("architecture", AVAILABLE, ids=str)
def test_every_run_equals_a_plain_hook(architecture):
    module = make(architecture)
    model = LanguageModel(module)
    points = all_points(2)
    sweep = Sweep(model, IDS, points, halve, measure)
    sweep.run()
    want = [float(by_hook(module, architecture.blocks, point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(sweep.base, float(module(IDS).logits[0, -1, TOKEN]), rtol=1e-5)


def test_most_architectures_let_rows_join():
    ways = {a.name: ways_of(LanguageModel(make(a))) for a in AVAILABLE}
    assert all(ways[name].grow for name in ("gpt2", "gpt_neox", "llama", "mistral", "gemma", "phi3", "olmo"))
    assert all(ways[name].prefix for name in ("gpt_neox", "llama", "mistral", "phi3", "olmo"))


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
    sweep.run()
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_the_positions_that_are_read(gpt2):
    plain, _ = plain_run(gpt2, IDS, (2, -1))
    logits = run_points(gpt2, plain, [Point(0, "resid_post", (6,))], halve, (2, -1), grow=True)
    with torch.no_grad():
        want = gpt2._model(IDS).logits[0]
    assert plain.logits.shape == logits.shape == (1, 2, want.shape[-1])
    assert torch.allclose(plain.logits[0], want[[2, -1]], atol=1e-5)
    assert torch.allclose(logits[0, 0], want[2], atol=1e-5)  # before the changed position
    assert not torch.allclose(logits[0, 1], want[-1], atol=1e-3)


def test_what_only_runs_need_is_let_go_of(gpt2):
    donor = torch.ones(48)
    held = weakref.ref(donor)

    def change(layer, site, where, current, donor=donor):
        return current + donor

    sweep = Sweep(gpt2, IDS, all_points(2), change, measure, batch=10)
    del change, donor
    for _ in sweep:
        assert held() is not None or sweep.is_complete
    assert held() is None
    values = sweep.values.copy()
    sweep.run()  # nothing is left, and nothing is run again
    assert np.array_equal(sweep.values, values)


def test_it_can_be_stopped_and_goes_on(gpt2):
    points, calls = all_points(2), []

    def stops(logits):
        calls.append(len(logits))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(logits)

    sweep = Sweep(gpt2, IDS, points, halve, stops, batch=5)
    with pytest.raises(KeyboardInterrupt):
        sweep.run()
    assert int(sweep.done.sum()) == 10
    assert np.isnan(sweep.values[~sweep.done]).all()
    assert not sweep.is_complete
    sweep.run()
    assert sweep.is_complete
    assert sum(calls[:2] + calls[3:]) == len(points) + 1  # nothing ran twice but what was stopped
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
    sweep.run()
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
        sweep.run()
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
        sweep.run()


def test_a_batch_of_no_rows_is_refused(gpt2):
    with pytest.raises(InputError, match="batch=0 is no number of runs"):
        Sweep(gpt2, IDS, [], halve, measure, batch=0)


def test_a_forward_that_cannot_grow_is_found_out(gpt2, monkeypatch):
    def refuse(*args, grow, start=0, **options):
        if grow or start:
            raise RuntimeError("rows do not fit")
        return run_points(*args, grow=False, **options)

    monkeypatch.setattr(strategy, "run_points", refuse)
    monkeypatch.setattr(strategy, "_known", {})
    assert ways_of(gpt2) == Ways(grow=False, prefix=False)


def test_a_forward_that_gives_other_numbers_may_not_be_used(gpt2, monkeypatch):
    def wrong(*args, grow, start=0, **options):
        logits = run_points(*args, grow=grow, start=start, **options)
        return logits + 1e-2 * logits.abs().max() if start else logits

    monkeypatch.setattr(strategy, "run_points", wrong)
    monkeypatch.setattr(strategy, "_known", {})
    assert not ways_of(gpt2).prefix


# -- the prefix --------------------------------------------------------------------------------------


LONG = torch.randint(0, 101, (1, 24), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("architecture", AVAILABLE, ids=str)
def test_a_prefix_changes_nothing(architecture, monkeypatch):
    module = make(architecture)
    model = LanguageModel(module)
    if not ways_of(model).prefix:
        pytest.skip(f"{architecture.name} of this transformers takes no prefix")
    # As if a pass cost nothing: a group for every position.
    monkeypatch.setattr(strategy, "_fixed_positions", lambda block: 0.0)
    sites = ("resid_pre", "resid_post")
    points = [Point(layer, site, (place,)) for layer in (0, 1) for site in sites for place in (0, 9, 17, 23)]
    points += [Point(0, "resid_post", (11, 14))]
    sweep = Sweep(model, LONG, points, halve, measure)
    counts = list(sweep)
    assert sweep.prefix
    assert len(counts) == 5  # one for each first position
    want = [float(by_hook(module, architecture.blocks, point, LONG)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grow", [True, False])
@pytest.mark.parametrize("site", ["z", "attn_out", "resid_mid", "mlp_out"])
def test_a_prefix_changes_nothing_inside_blocks(llama, monkeypatch, site, grow):
    monkeypatch.setattr(strategy, "_fixed_positions", lambda block: 0.0)
    points = [
        Point(layer, site, (place,), (head,) if site == "z" else None)
        for layer in (0, 1)
        for place in (4, 20)
        for head in ((0, 3) if site == "z" else (0,))
    ]

    def change(layer, site, where, current):
        return current * (layer - 3) * (where[0][:, None] + 1)

    plain = Sweep(llama, LONG, points, change, measure, grow=False, prefix=False)
    quick = Sweep(llama, LONG, points, change, measure, grow=grow, prefix=True)
    for sweep in (plain, quick):
        sweep.run()
    assert (plain.prefix, quick.prefix) == (False, True)
    np.testing.assert_allclose(quick.values, plain.values, rtol=1e-4, atol=1e-5)
    first = [value for value, point in zip(plain.values, points, strict=True) if point.layer == 0]
    # Every place was changed, and differently; what the last layer writes is read at the last position only.
    assert len({round(float(value), 6) for value in (*first, plain.base)}) == len(first) + 1


def test_positions_that_are_read_are_computed(llama, monkeypatch):
    monkeypatch.setattr(strategy, "_fixed_positions", lambda block: 0.0)
    points = [Point(0, "resid_post", (place,)) for place in (3, 20)]

    def both(logits):
        return logits[:, :, TOKEN]

    sweep = Sweep(llama, LONG, points, halve, both, read=(10, -1), prefix=True)
    sweep.run()
    plain = Sweep(llama, LONG, points, halve, both, read=(10, -1), grow=False, prefix=False)
    plain.run()
    np.testing.assert_allclose(sweep.values, plain.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sweep.values[1, 0], sweep.base[0], atol=1e-5)  # read before it is changed


def test_a_prompt_longer_than_a_sliding_window_takes_no_prefix():
    architecture = next(a for a in AVAILABLE if a.name == "mistral")
    module = make(architecture)
    module.config.sliding_window = 16
    model = LanguageModel(module)
    points = [Point(0, "resid_post", (place,)) for place in (3, 20)]
    sweep = Sweep(model, LONG, points, halve, measure)
    sweep.run()
    assert not sweep.prefix
    want = [float(by_hook(module, architecture.blocks, point, LONG)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_a_hook_of_the_users_takes_no_prefix(gpt2, monkeypatch):
    monkeypatch.setattr(strategy, "_fixed_positions", lambda block: 0.0)

    def hook(module, args, output):
        output = output.clone()
        output[:, 2] = 0
        return output

    points = [Point(0, "resid_post", (place,)) for place in (3, 20)]
    handle = gpt2._model.transformer.h[1].mlp.register_forward_hook(hook)
    try:
        sweep = Sweep(gpt2, LONG, points, halve, measure)
        sweep.run()
        want = [float(by_hook(gpt2._model, "transformer.h", point, LONG)[TOKEN]) for point in points]
    finally:
        handle.remove()
    assert not sweep.prefix
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_a_kept_edit_acts_in_every_run_as_in_a_trace(gpt2):
    with gpt2.edit() as edited:
        gpt2.transformer.h[0].mlp.output[0, 4] = 1.0  # this row, this position
        gpt2.lm_head.output[:, 20, TOKEN] += 2.0  # not the position that is read
        gpt2.lm_head.output[:, -1, TOKEN] += 3.0

    def zero(module, args, output):
        output = output.clone()
        output[:, 4] = 1.0
        return output

    points = [Point(layer, "resid_post", (place,)) for layer in (0, 1) for place in (5, 23)]
    sweep = Sweep(edited, LONG, points, halve, measure)
    sweep.run()
    handle = gpt2._model.transformer.h[0].mlp.register_forward_hook(zero)
    try:
        want = [3 + float(by_hook(gpt2._model, "transformer.h", point, LONG)[TOKEN]) for point in points]
    finally:
        handle.remove()
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)
    plain = Sweep(gpt2, LONG, points, halve, measure)  # the model itself is as it was
    plain.run()
    assert np.abs(plain.values - sweep.values).min() > 1


def cost(groups, points, layers, length, fixed):
    total = 0
    for group in groups:
        start = min(min(points[index].positions) for index in group)
        total += layers * fixed + sum((layers - points[i].joins) * (length - start) for i in group)
    return total


@pytest.mark.parametrize("fixed", [0.0, 3.0, 10.0, 60.0, 1e6])
def test_points_are_divided_in_the_cheapest_way(gpt2, monkeypatch, fixed):
    monkeypatch.setattr(strategy, "_fixed_positions", lambda block: fixed)
    generator = np.random.default_rng(int(fixed))
    places = [0, 2, 5, 11, 17, 23]
    points = [
        Point(int(generator.integers(2)), "resid_pre", (int(place),))
        for place in generator.choice(places, 30)
    ]
    groups = begin_together(gpt2, 24, points, 23, grow=True)
    assert sorted(index for group in groups for index in group) == list(range(30))
    used = sorted({point.positions[0] for point in points})
    every = []
    for cuts in itertools.product([False, True], repeat=len(used) - 1):  # all divisions there are
        group_of = dict(zip(used, itertools.accumulate((0, *cuts)), strict=True))
        parts = {}
        for index, point in enumerate(points):
            parts.setdefault(group_of[point.positions[0]], []).append(index)
        every.append(cost(parts.values(), points, 2, 24, fixed))
    assert cost(groups, points, 2, 24, fixed) == pytest.approx(min(every))


# -- memory ------------------------------------------------------------------------------------------


def test_memory_that_runs_out_in_the_middle_keeps_what_is_done(gpt2):
    points, seen = all_points(2), []

    def full(module, args, output):
        if len(output) > 3 and len(seen) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = gpt2._model.transformer.h[1].mlp.register_forward_hook(full)
    try:
        sweep = Sweep(gpt2, IDS, points, halve, measure, batch=6)
        for done in sweep:
            seen.append(done)
    finally:
        handle.remove()
    assert seen[:3] == [6, 12, 15]  # six rows while they fit, then three
    assert sweep.rows == 3
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)


def test_a_run_that_does_not_fit_by_itself_is_an_error_and_what_is_done_stays(gpt2):
    points, seen = all_points(2), []

    def full(module, args, output):
        if seen:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = gpt2._model.transformer.h[1].mlp.register_forward_hook(full)
    sweep = Sweep(gpt2, IDS, points, halve, measure, batch=6)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            for done in sweep:
                seen.append(done)
    finally:
        handle.remove()
    assert int(sweep.done.sum()) == 6
    sweep.run()  # memory is free again
    assert sweep.is_complete
    want = [float(by_hook(gpt2._model, "transformer.h", point)[TOKEN]) for point in points]
    np.testing.assert_allclose(sweep.values, want, rtol=1e-4, atol=1e-5)
