"""Values that would not fit into memory are told of before they are kept."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from nbsight.core import room, saving
from nbsight.core.model import wrap
from nbsight.core.room import free_bytes
from nbsight.errors import MemoryNotice, NotEnoughMemoryError
from tests.core.small import Chain, build, hooked, rows, same

X = rows(2)
WIDTH = 256
EACH = 4 * 8 * WIDTH  # bytes of one layer's value


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(12))

    def forward(self, x):
        for layer in self.h:
            x = layer(x)
        return x


@pytest.fixture
def wide():
    torch.manual_seed(0)
    return wrap(Wide().eval()), torch.randn(8, WIDTH)


@pytest.fixture
def small_is_large(monkeypatch):
    """Look at every value, and let as much be free as a test says."""
    monkeypatch.setattr(room, "LARGE", 1)
    monkeypatch.setattr(saving, "MANY", 1)
    free = {"bytes": 1 << 40, "asked": 0}

    def told(device):
        free["asked"] += 1
        return free["bytes"]

    monkeypatch.setattr(room, "free_bytes", told)
    return free


def test_free_memory_is_what_the_system_says():
    known = free_bytes(torch.device("cpu"))
    with open("/proc/meminfo") as file:
        total = int(next(line for line in file if line.startswith("MemTotal")).split()[1]) * 1024
    assert 0 < known <= total


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("800000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 1_000_000


def test_a_cache_that_does_not_fit_ends_before_it_is_full(wide, small_is_large):
    model, x = wide
    small_is_large["bytes"] = 12 * EACH
    with model.trace(x) as tracer:
        cache = tracer.cache(modules=list(model.h))
    assert len(cache) == 12
    small_is_large["bytes"] = 5 * EACH
    with pytest.raises(NotEnoughMemoryError) as caught:
        with model.trace(x) as tracer:
            cache = tracer.cache(modules=list(model.h))
    text = str(caught.value)
    assert "12 × 8.2 kB more on cpu" in text
    assert "41.0 kB are free" in text
    for way in ("modules=[...]", "[:, -1].save()", "dtype=torch.bfloat16", "fewer prompts"):
        assert way in text
    assert not cache["h.0"]._entry().outputs
    assert isinstance(caught.value, MemoryError)


def test_a_cache_of_a_small_model_asks_nobody(monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda device: pytest.fail("somebody looked"))
    net = build(Chain)
    want = hooked(net, (X,))
    model = wrap(net)
    with model.trace(X) as tracer:
        cache = tracer.cache()
        final = model.output.save()
    assert same([final, cache.h[1].output], [want[""][0], want["h.1.output"][0]])


def saved_of(model, x, count):
    kept = []
    with model.trace(x):
        for layer in model.h[:count]:
            kept.append(layer.output.save())
    return kept


def test_two_layers_that_are_saved_say_when_all_would_not_fit(wide, small_is_large):
    model, x = wide
    small_is_large["bytes"] = 5 * EACH
    kept = []
    said = r"12 × 8\.2 kB if every layer.*\(8, 256\).*41\.0 kB are free"
    with pytest.warns(MemoryNotice, match=said) as seen:
        kept = saved_of(model, x, 4)
    assert len(kept) == 4
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.trace(x):
            model.h[0].output.save()
            model.h[4].output.save()  # so that one more is to be expected
        small_is_large["bytes"] = 10 * EACH
        with model.trace(x):
            for layer in model.h:
                layer.output.save()


def test_a_value_after_which_not_one_more_fits_is_refused(wide, small_is_large):
    model, x = wide
    small_is_large["bytes"] = EACH - 1
    with pytest.raises(NotEnoughMemoryError, match=r"12 × 8\.2 kB .* not one more fits"):
        with model.trace(x):
            for layer in model.h:
                layer.output.save()
    with model.trace(x):
        last = model.h[11].output.save()  # nothing is to come
    assert last.shape == (8, WIDTH)


def test_a_scan_keeps_no_numbers_and_looks_at_no_memory(wide, small_is_large):
    model, x = wide
    small_is_large["bytes"] = 0
    with model.scan(x) as tracer:
        shape = model.h[3].output.save().shape
    assert shape == (8, WIDTH)
    assert not small_is_large["asked"]
